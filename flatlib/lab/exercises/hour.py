"""Exercises of the book in one hour."""

from __future__ import annotations

import math

import torch
from scipy.optimize import minimize_scalar

from flatlib import bounds, measure, toys
from flatlib.lab.exercises.exercise import Exercise, each


def _S_A_D(w: float, v: float, x: float) -> list[float]:
    """Sharpness, sensitivity and bound of v max(0, wx), measured."""
    weights = torch.tensor([w, v], dtype=torch.float64).reshape(2, 1, 1)
    m = measure(
        toys.from_weights(list(weights), "relu"), torch.full((1, 1), x, dtype=torch.float64)
    )
    chain = bounds.chain(m)
    return [m.sharpness, chain.A, chain.D]


def _flattest(w: float, v: float) -> float:
    """The factor of least sharpness, by search over measurements."""

    def S(log_c: float) -> float:
        c = math.exp(log_c)
        return _S_A_D(w * c, v / c, 1.0)[0]

    return math.exp(minimize_scalar(S, tol=1e-12).x)


EXERCISES = (
    Exercise(
        "hour-bound",
        stars=1,
        minutes=5,
        hints=(
            "the slope with respect to w is v x, the slope with respect to v is w x",
            "S adds the squares of the two slopes, A is v w, and D is w / x times the root of S",
        ),
        questions=each(lambda seed: [(3.0, 1.0, 2.0), (0.5, 2.0, 1.0), (1.2, 0.7, 0.3)], _S_A_D),
    ),
    Exercise(
        "hour-flattest",
        stars=1,
        minutes=5,
        hints=(
            "S is proportional to v^2 / c^2 + c^2 w^2",
            "a sum of two numbers of given product is least where the two are equal",
        ),
        questions=each(lambda seed: [(3.0, 1.0), (0.5, 2.0), (1.2, 0.7)], _flattest),
    ),
)
