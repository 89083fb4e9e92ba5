"""Whether an answer is right, and if not, what kind of mistake it looks like."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor

FEW = 4  # numbers of an answer, few enough to say which of them are wrong
RELATIVE_TOLERANCE = 1e-4  # a pencil's, and single precision's
# What float64 may leave of numbers of unit size that cancel; an answer of 0 has no other scale.
ROUNDING = 64 * torch.finfo(torch.float64).eps


class Failed(Exception):
    """A reader's function raised an error; the message says which and where."""


class Missing(Enum):
    """What stands for an answer that is not there."""

    UNWRITTEN = "no answer yet"
    NOTHING = "your function returned nothing: does it end with `return`?"


@dataclass(frozen=True)
class Verdict:
    """What a self-checking cell says of an answer."""

    passed: bool | None  # None while there is no answer to judge
    message: str  # for the reader

    def __repr__(self) -> str:
        return self.message


def answers(function: Callable[..., Any], cases: list[tuple]) -> list | Missing:
    """The function's values at each case's arguments; what is missing if one is.

    Only `NotImplementedError` counts as not written.

    Raises:
        Failed: the function raises any other error.

    >>> answers(lambda a, b: a + b, [(1, 2), (3, 4)])
    [3, 7]
    >>> answers(lambda: None, [()])
    <Missing.NOTHING: 'your function returned nothing: does it end with `return`?'>
    """
    values = []
    for case in cases:
        try:
            value = function(*case)
        except NotImplementedError:
            return Missing.UNWRITTEN
        except Exception as fault:
            raise Failed(f"your function raises {_told(fault, function)}") from fault
        if value is None:
            return Missing.NOTHING
        values.append(value)
    return values


def _told(fault: Exception, function: Callable) -> str:
    """An error in a line: its kind, what it says, and the last line of the function's own file that
    was reached.
    """
    own = getattr(getattr(function, "__code__", None), "co_filename", None)
    frames = [one for one in traceback.extract_tb(fault.__traceback__) if one.filename == own]
    said = ": ".join(part for part in (type(fault).__name__, " ".join(str(fault).split())) if part)
    if not frames:
        return said
    place = ": ".join(part for part in (f"line {frames[-1].lineno}", frames[-1].line) if part)
    return f"{said} ({place})"


def margin(
    expected: Tensor, tolerance: float = RELATIVE_TOLERANCE, decimals: int | None = None
) -> float:
    """How far each number of an answer may be off.

    Args:
        expected: the right numbers.
        tolerance: relative to the largest of them; 1.4e-14, rounding of numbers of unit size, is
            always allowed.
        decimals: to which the answer is asked for; half a unit of the last one is then allowed
            instead.

    >>> margin(torch.tensor([2.0, 400.0])), f"{margin(torch.tensor([2.0, 400.0]), decimals=2):.4f}"
    (0.04, '0.0050')
    """
    if decimals is not None:
        return 0.5 * 10**-decimals * (1 + 1e-9)  # the ninth digit is for the binary
    return max(tolerance * (float(expected.abs().max()) if expected.numel() else 0.0), ROUNDING)


def close(
    answer: Any,
    expected: Any,
    tolerance: float = RELATIVE_TOLERANCE,
    decimals: int | None = None,
) -> bool:
    """Whether an answer is a number, or numbers, as expected.

    Args:
        answer: a number, a tensor, an array or a list of them.
        expected: the right one.
        tolerance, decimals: as for `margin`.

    >>> close([0.1 + 0.2, 2], [0.3, 2.0]), close(1.01, 1.0), close("two", 2.0)
    (True, False, False)
    """
    got, want = _numbers(answer), _numbers(expected)
    if got is None:
        return False
    if got.numel() == want.numel() == 1:
        got, want = got.reshape(()), want.reshape(())
    if got.shape != want.shape:
        return False
    return bool(((got - want).abs() <= margin(want, tolerance, decimals)).all())


def mistake(
    given: list,
    expected: list,
    tolerance: float = RELATIVE_TOLERANCE,
    accepts: Callable[[Any, Any], bool] | None = None,
    decimals: int | None = None,
) -> str:
    """What kind of mistake the wrong answers to all cases have in common; empty if none is seen.

    Args:
        given: one answer a case.
        expected: the right ones.
        tolerance, decimals: as for `margin`.
        accepts: whether an answer is right, where the expected one is one of many.

    >>> mistake([4.0, 6.0], [2.0, 3.0])
    'every number is 2 times the right one'
    >>> mistake([-2.0], [2.0])
    'right but for the sign'
    >>> mistake([[2.0, 1.0]], [[1.0, 2.0]])
    'right but in the other order'
    >>> mistake([torch.zeros(3)], [torch.zeros(2, 3)])
    'your answer has shape (3,), and the right one has (2, 3)'
    """

    def fits(answer: Any, wanted: Any) -> bool:
        if accepts is None:
            return close(answer, wanted, tolerance, decimals)
        return accepts(answer, wanted)

    got, want = [_numbers(each) for each in given], [_numbers(each) for each in expected]
    for one in got:
        if one is None:
            return "your answer is not a number or a list of numbers"
    for one in got:
        if not one.isfinite().all():
            return f"your answer contains {float(one[~one.isfinite()].flatten()[0])}"
    pairs = list(zip(got, want, strict=True))
    if all(a.ndim == 2 and fits(a.mT, b) for a, b in pairs):
        return "right but transposed"
    for a, b in pairs:
        if a.shape != b.shape and a.numel() * b.numel() != 1:
            return f"your answer has shape {tuple(a.shape)}, and the right one has {tuple(b.shape)}"
    if all(fits(-a, b) for a, b in pairs):
        return "right but for the sign"
    if all(a.ndim and b.ndim and len(a) == 2 and fits(a.flip(0), b) for a, b in pairs):
        return "right but in the other order"
    a, b = (torch.cat([each.flatten() for each in side]) for side in (got, want))
    if len(b.unique()) > 1 and float(b.abs().min()) > 0:
        if all(fits(1 / one, right) for one, right in pairs):
            return "every number is one over the right one"
        factor = float(a[0] / b[0])
        if factor and all(fits(one / factor, right) for one, right in pairs):
            return f"every number is {_plain(factor)} times the right one"
    return _right_and_wrong(pairs, tolerance, decimals) if accepts is None else ""


def _right_and_wrong(
    pairs: list[tuple[Tensor, Tensor]],
    tolerance: float = RELATIVE_TOLERANCE,
    decimals: int | None = None,
) -> str:
    """Which of a few numbers are right in every case and which are wrong; empty if none is right.

    >>> _right_and_wrong([(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([1.0, 2.0, 3.0]))])
    'numbers 1 and 2 are right, number 3 is wrong'
    """
    counts = {right.numel() for _, right in pairs if right.ndim == 1}
    if len(counts) != 1 or any(right.ndim != 1 for _, right in pairs) or max(counts) > FEW:
        return ""
    fits = torch.stack(
        [(given - right).abs() <= margin(right, tolerance, decimals) for given, right in pairs]
    ).all(dim=0)
    if not fits.any():
        return ""
    named = {
        word: [str(place) for place, fit in enumerate(fits.tolist(), 1) if fit is sought]
        for word, sought in (("right", True), ("wrong", False))
    }
    return ", ".join(
        f"numbers {', '.join(places[:-1])} and {places[-1]} are {word}"
        if len(places) > 1
        else f"number {places[0]} is {word}"
        for word, places in named.items()
    )


def _plain(factor: float) -> str:
    """A factor as a reader would write it."""
    for name, value in (("pi", math.pi), ("the root of 2", math.sqrt(2))):
        if math.isclose(abs(factor), value, rel_tol=1e-3):
            return name if factor > 0 else f"-{name}"
    return f"{factor:.4g}"


def _numbers(value: Any) -> Tensor | None:
    """The value as a float64 tensor; None if it is no number and no list of numbers."""
    try:
        if isinstance(value, list | tuple) and value:
            parts = [_numbers(each) for each in value]
            return None if any(part is None for part in parts) else torch.stack(parts)
        return torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        return None
