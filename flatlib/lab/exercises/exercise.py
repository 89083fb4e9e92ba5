"""What an exercise is."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from flatlib.lab.exercises.checking import RELATIVE_TOLERANCE, close

Cases = Callable[..., list[tuple]]  # of a seed and the exercise's numbers
Asked = Callable[..., list[tuple[tuple, Any]]]  # the same, each case with the right answer


def each(cases: Cases, right: Callable[..., Any]) -> Asked:
    """Questions from arguments drawn by a seed and a function that finds the right answer to one,
    from its arguments and the exercise's numbers.
    """
    return lambda seed, *numbers: [(case, right(*case, *numbers)) for case in cases(seed, *numbers)]


def once(right: Callable[..., Any]) -> Asked:
    """The one question of a function without arguments."""
    return lambda seed, *numbers: [((), right(*numbers))]


def between(*limits: tuple[float, float]) -> Cases:
    """Three cases of numbers between limits; whole limits draw whole numbers, in each case others.

    >>> cases = between((0.0, 1.0), (2, 4))(seed=0)
    >>> all(0 <= x <= 1 for x, _ in cases), sorted(k for _, k in cases)
    (True, [2, 3, 4])
    """

    def cases(seed: int, *numbers: Any) -> list[tuple]:
        random = Random(str(seed))  # neighbouring numbers begin alike
        columns = [
            random.sample(range(low, high + 1), 3)
            if isinstance(low, int)
            else [random.uniform(low, high) for _ in range(3)]
            for low, high in limits
        ]
        return list(zip(*columns, strict=True))

    return cases


@dataclass(frozen=True)
class Exercise:
    """A self-checking exercise of the book.

    An exercise that can have other numbers than the book's lists them, and says where they stand.
    """

    key: str  # its label in the chapter
    stars: int  # 1 to 3, how hard
    minutes: int
    hints: tuple[str, str]  # for the first wrong answer, and for those after it
    # A seed's arguments, each with the right answer, found in another way than the reader's.
    asked: Asked
    accepts: Callable[..., Any] | None = None  # where many answers are right, and `asked` has one
    tolerance: float = RELATIVE_TOLERANCE
    decimals: int | None = None  # that the statement asks for, in place of the tolerance
    numbers: tuple[tuple, ...] = ((),)  # the book's, then those of other variants
    # What the chapter and the hints say in their place, one text a place.
    says: Callable[..., tuple[str, ...]] = lambda *numbers: ()

    def own(self, variant: int) -> tuple:
        """The numbers of a variant; variant 0 has the book's, and neighbours never share theirs."""
        others = self.numbers[1:]
        return others[(variant - 1) % len(others)] if variant and others else self.numbers[0]

    def questions(self, seed: int, variant: int = 0) -> list[tuple[tuple, Any]]:
        """A seed's arguments, each with the right answer."""
        return self.asked(seed, *self.own(variant))

    def fits(self, answer: Any, expected: Any, variant: int = 0) -> bool:
        """Whether an answer is right; one that `accepts` cannot read is not."""
        if self.accepts is None:
            return close(answer, expected, self.tolerance, self.decimals)
        try:
            return bool(self.accepts(answer, *self.own(variant)))
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
            return False

    def retold(self, text: str, variant: int) -> str:
        """A text of the book with a variant's numbers."""
        places = self.says(*self.numbers[0]), self.says(*self.own(variant))
        instead = dict(zip(*places, strict=True))
        if not instead:
            return text
        longest_first = sorted(instead, key=len, reverse=True)
        return re.sub("|".join(map(re.escape, longest_first)), lambda m: instead[m[0]], text)


class Scaled(nn.Module):
    """c times a network."""

    def __init__(self, net: nn.Module, c: float):
        super().__init__()
        self.net, self.c = net, c

    def forward(self, x: Tensor) -> Tensor:
        return self.c * self.net(x)


FROM_1_TO_9 = tuple((k,) for k in range(1, 10))


def sharpness(f: Callable[[Tensor], Tensor], weights: Sequence[float]) -> float:
    """Eq. (3) of a function from weights to one output a sample, by autograd."""
    at = torch.tensor(weights, dtype=torch.float64)
    slopes = torch.autograd.functional.jacobian(f, at)
    return float(slopes.square().sum(dim=1).mean())


def times(k: int) -> str:
    """A factor as TeX writes it, which is not at all for 1."""
    return "" if k == 1 else str(k)


def power(p: int, base: str = "c") -> str:
    r"""A power as TeX writes it.

    >>> power(1), power(4), power(10)
    ('c', 'c^4', 'c^{10}')
    """
    return base if p == 1 else f"{base}^{grouped(p)}"


def grouped(n: int) -> str:
    """A number that TeX takes for one argument."""
    return str(n) if n < 10 else f"{{{n}}}"


COUNTS = "zero one two three four five six seven eight nine ten eleven twelve".split()
