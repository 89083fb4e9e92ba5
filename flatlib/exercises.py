"""Self-checking exercises: a cell that tells the reader whether an answer is right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

RELATIVE_TOLERANCE = 1e-4  # a pencil's, and single precision's


@dataclass(frozen=True)
class Verdict:
    """What a self-checking cell says of an answer."""

    passed: bool | None  # None while there is no answer
    message: str  # one line for the reader

    def __repr__(self) -> str:
        return self.message


def check(answer: Any, expected: Any, hint: str, tolerance: float = RELATIVE_TOLERANCE) -> Verdict:
    """Compare a reader's answer with the right one.

    Args:
        answer: a number, a tensor or anything that ``expected`` accepts; None if there is none.
        expected: the right number or tensor, or a function that returns whether an answer is
            right.
        hint: a line that helps after a wrong answer.
        tolerance: how far a number may be off, relative to the right one's largest entry.

    Returns:
        `Verdict`.

    Raises:
        ValueError: an empty hint.

    >>> check(None, 2.0, hint="count the singular values")
    no answer yet
    >>> check(2.0, 2.0, hint="count the singular values")
    right
    >>> check(3.0, 2.0, hint="count the singular values")
    not yet: count the singular values
    """
    if not hint:
        raise ValueError("give a hint: a wrong answer must be told where to look")
    if answer is None:
        return Verdict(None, "no answer yet")
    right = expected(answer) if callable(expected) else _close(answer, expected, tolerance)
    return Verdict(True, "right") if right else Verdict(False, f"not yet: {hint}")


def trying(function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's value, or None if the reader has not written it yet.

    Only `NotImplementedError` counts as not written; any other error is the reader's to see.

    >>> def unwritten(x):
    ...     raise NotImplementedError
    >>> trying(unwritten, 1.0) is None
    True
    """
    try:
        return function(*arguments)
    except NotImplementedError:
        return None


def _close(answer: Any, expected: Any, tolerance: float) -> bool:
    try:
        got = torch.as_tensor(answer, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        return False
    want = torch.as_tensor(expected, dtype=torch.float64)
    if got.numel() == want.numel() == 1:
        got, want = got.reshape(()), want.reshape(())
    if got.shape != want.shape:
        return False
    scale = float(want.abs().max()) if want.numel() else 0.0
    return bool(((got - want).abs() <= tolerance * scale).all())
