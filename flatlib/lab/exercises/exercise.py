"""What an exercise is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flatlib.lab.exercises.checking import RELATIVE_TOLERANCE

Questions = Callable[[int], list[tuple[tuple, Any]]]


def each(cases: Callable[[int], list[tuple]], right: Callable[..., Any]) -> Questions:
    """Questions from arguments drawn by a seed and a function that finds the right answer."""
    return lambda seed: [(case, right(*case)) for case in cases(seed)]


def once(right: Callable[[], Any]) -> Questions:
    """The one question of a function without arguments."""
    return lambda seed: [((), right())]


@dataclass(frozen=True)
class Exercise:
    """A self-checking exercise of the book."""

    key: str  # its label in the chapter
    stars: int  # 1 to 3, how hard
    minutes: int
    hints: tuple[str, str]  # for the first wrong answer, and for those after it
    # A seed's arguments, each with the right answer, found in another way than the reader's.
    questions: Questions = once(lambda: None)
    accepts: Callable[[Any], bool] | None = None  # instead of answers where many are right
    tolerance: float = RELATIVE_TOLERANCE
