"""Exercises on reparametrization."""

from __future__ import annotations

import math
from typing import Any

import torch
from scipy.optimize import minimize

from flatlib.lab.exercises.exercise import Exercise, each


def _sharp_enough(pair: Any) -> bool:
    low, high = (float(c) for c in pair)
    reached = [4 / c**2 + 1 + c**2 for c in (low, high)]
    return 0 < low < high and all(math.isclose(S, 100, rel_tol=2e-3) for S in reached)


def _smallest(*parts: float) -> float:
    """The least sharpness over the factors, by search."""

    def S(a) -> float:  # c_1 and c_2 are exp(a / 2)
        powers = torch.tensor([-a[0], -a[1], a[0] + a[1]]).double().exp()
        return float(powers @ torch.tensor(parts).double())

    return float(minimize(S, [0.0, 0.0], tol=1e-9).fun)


EXERCISES = (
    Exercise(
        "reparametrization-target",
        stars=2,
        minutes=10,
        hints=(
            "S(c) times c^2 is a quadratic polynomial in c^2",
            "4 - 99 c^2 + c^4 = 0: return the roots of the two solutions for c^2",
        ),
        accepts=_sharp_enough,
    ),
    Exercise(
        "reparametrization-three",
        stars=2,
        minutes=15,
        hints=(
            "the product of the three parts does not depend on the factors",
            "a sum of three numbers of given product is least when they are equal",
        ),
        questions=each(
            lambda seed: [(1.0, 8.0, 27.0), (2.0, 2.0, 2.0), (1.0, 3.0, 0.5)], _smallest
        ),
    ),
)
