"""Self-checking exercises: a cell that tells the reader whether an answer is right."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch

RELATIVE_TOLERANCE = 1e-4  # a pencil's, and single precision's
# What float64 may leave of numbers of unit size that cancel; an answer of 0 has no other scale.
ROUNDING = 64 * torch.finfo(torch.float64).eps


class Missing(Enum):
    """What stands for the value of a function that ran and returned nothing."""

    NOTHING = "nothing returned"


@dataclass(frozen=True)
class Verdict:
    """What a self-checking cell says of an answer."""

    passed: bool | None  # None while there is no answer to judge
    message: str  # one line for the reader

    def __repr__(self) -> str:
        return self.message


def check(answer: Any, expected: Any, hint: str, tolerance: float = RELATIVE_TOLERANCE) -> Verdict:
    """Compare a reader's answer with the right one.

    Args:
        answer: a number, a tensor, a list of them or anything that ``expected`` accepts; None if
            there is none, ``Missing.NOTHING`` if a function forgot to return it.
        expected: the right number, tensor or list, or a function that returns whether an answer
            is right. An answer of a shape that this function cannot read is wrong.
        hint: a line that helps after a wrong answer.
        tolerance: how far a number may be off, relative to the right answer's largest entry;
            1.4e-14, rounding of numbers of unit size, is always allowed.

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
    >>> check(Missing.NOTHING, 2.0, hint="count the singular values")
    your function returned nothing: does it end with `return`?
    """
    if not hint:
        raise ValueError("give a hint: a wrong answer must be told where to look")
    if answer is None:
        return Verdict(None, "no answer yet")
    if answer is Missing.NOTHING:
        return Verdict(None, "your function returned nothing: does it end with `return`?")
    if callable(expected):
        try:
            right = bool(expected(answer))
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
            right = False
    else:
        right = _close(answer, expected, tolerance)
    return Verdict(True, "right") if right else Verdict(False, f"not yet: {hint}")


def trying(function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's value, or None if the reader has not written it yet.

    Only `NotImplementedError` counts as not written; any other error is the reader's to see.
    A function that runs to its end without a ``return`` gives ``Missing.NOTHING``.

    >>> def unwritten(x):
    ...     raise NotImplementedError
    >>> trying(unwritten, 1.0) is None
    True
    >>> def forgetful(x):
    ...     2 * x
    >>> trying(forgetful, 1.0)
    <Missing.NOTHING: 'nothing returned'>
    """
    try:
        value = function(*arguments)
    except NotImplementedError:
        return None
    return Missing.NOTHING if value is None else value


def trying_each(function: Callable[..., Any], cases: Iterable[tuple]) -> Any:
    """The function's values at several arguments, so that no constant passes for an answer.

    Args:
        function: the reader's.
        cases: one tuple of arguments a call.

    Returns:
        The list of values; None or ``Missing.NOTHING`` if that is what `trying` gives for one.

    >>> trying_each(lambda a, b: a + b, [(1, 2), (3, 4)])
    [3, 7]
    """
    values = []
    for case in cases:
        value = trying(function, *case)
        if value is None or value is Missing.NOTHING:
            return value
        values.append(value)
    return values


def _tensor(value: Any) -> torch.Tensor:
    if isinstance(value, list | tuple) and value:
        return torch.stack([_tensor(each) for each in value])
    return torch.as_tensor(value, dtype=torch.float64)


def _close(answer: Any, expected: Any, tolerance: float) -> bool:
    try:
        got = _tensor(answer)
    except (TypeError, ValueError, RuntimeError):
        return False
    want = _tensor(expected)
    if got.numel() == want.numel() == 1:
        got, want = got.reshape(()), want.reshape(())
    if got.shape != want.shape:
        return False
    scale = float(want.abs().max()) if want.numel() else 0.0
    return bool(((got - want).abs() <= max(tolerance * scale, ROUNDING)).all())
