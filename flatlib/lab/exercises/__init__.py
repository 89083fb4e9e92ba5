"""The book's self-checking exercises: a reader writes a function, `mark` says whether it is right.

Cases and right answers stand here, where no name of a notebook reaches them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from flatlib.lab.exercises import (
    convolutions,
    dimensionality,
    errata,
    hour,
    layers,
    mlp,
    optimizers,
    populations,
    reparametrization,
    sensitivity,
    sharpness,
    ten_classes,
    tightness,
    transformers,
    vgg,
    volume,
    weights_to_inputs,
)
from flatlib.lab.exercises.checking import Failed, Missing, Verdict, answers, mistake
from flatlib.lab.exercises.exercise import Exercise

CHAPTERS = (
    hour,
    sharpness,
    weights_to_inputs,
    volume,
    sensitivity,
    dimensionality,
    reparametrization,
    convolutions,
    tightness,
    errata,
    mlp,
    vgg,
    populations,
    optimizers,
    transformers,
    layers,
    ten_classes,
)
EXERCISES: dict[str, Exercise] = {
    exercise.key: exercise for chapter in CHAPTERS for exercise in chapter.EXERCISES
}
__all__ = ["EXERCISES", "Exercise", "Verdict", "mark"]

_wrong: Counter[str] = Counter()  # wrong answers so far, by exercise: the second gets another hint


def mark(key: str, function: Callable[..., Any], seed: int = 0, variant: int = 0) -> Verdict:
    """Say whether a reader's function answers an exercise.

    Args:
        key: the exercise's label in the book.
        function: takes one case's arguments and returns the answer.
        seed: draws the cases of exercises that draw them.
        variant: which numbers the exercise has; 0 are the book's.

    Returns:
        `Verdict`: right; or the kind of mistake and a hint, a second one after the second wrong
        answer; the error that the function raises; or that there is no answer yet.

    Raises:
        ValueError: no exercise has that label.

    >>> mark("ex-mls-factor", lambda norm, N: (norm, norm * N**0.5))
    right
    >>> mark("ex-mls-factor", lambda norm, N: (norm * N, norm))
    not yet; the Jacobian J at the layer's output is the identity
    >>> def unwritten(norm, N):
    ...     raise NotImplementedError
    >>> mark("ex-mls-factor", unwritten)
    no answer yet
    >>> mark("ex-mls-factor", lambda norm, N: norm.root).message.partition(" (")[0]
    "not yet; your function raises AttributeError: 'float' object has no attribute 'root'"
    """
    if key not in EXERCISES:
        raise ValueError(f"no exercise is called {key!r}; there are {', '.join(EXERCISES)}")
    exercise = EXERCISES[key]
    questions = exercise.questions(seed, variant)
    try:
        given = answers(function, [case for case, _ in questions])
    except Failed as fault:
        return Verdict(False, f"not yet; {fault}")
    if isinstance(given, Missing):
        return Verdict(None, given.value)
    expected = [answer for _, answer in questions]

    def fits(answer: Any, wanted: Any) -> bool:
        return exercise.fits(answer, wanted, variant)

    if all(map(fits, given, expected)):
        _wrong.pop(key, None)
        return Verdict(True, "right")
    accepts = None if exercise.accepts is None else fits
    kind = mistake(given, expected, exercise.tolerance, accepts, exercise.decimals)
    hint = exercise.retold(exercise.hints[min(_wrong[key], len(exercise.hints) - 1)], variant)
    _wrong[key] += 1
    return Verdict(False, "; ".join(part for part in ("not yet", kind, hint) if part))
