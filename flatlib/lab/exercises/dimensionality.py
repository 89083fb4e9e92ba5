"""Exercises on local dimensionality."""

from __future__ import annotations

import torch
from scipy.optimize import minimize

from flatlib import geometry, measure, toys
from flatlib.lab.exercises.exercise import Exercise, each, once


def _of_three() -> float:
    return float(geometry.local_dimensionality(torch.tensor([[3.0, 3.0, 0.003]]).double()))


def _largest_share(D: float, N: int) -> float:
    """The largest share of N at a given D, by search."""
    rules = [
        {"type": "eq", "fun": lambda p: p.sum() - 1},
        {"type": "eq", "fun": lambda p: (p**2).sum() - 1 / D},
    ]
    start = torch.arange(N, 0, -1).double() / sum(range(N + 1))
    bounds = [(0, 1)] * N
    found = minimize(lambda p: -p[0], start.numpy(), bounds=bounds, constraints=rules)
    return float(found.x[0])


def _factor(c: float) -> float:
    round_net, _ = toys.dimensionality_pair(3, 4)
    axis = torch.eye(1, 4).double()
    after = measure(toys.rescaled(round_net, (1 / c, c)), axis).sharpness
    return after / measure(round_net, axis).sharpness


EXERCISES = (
    Exercise(
        "dimensionality-scale",
        stars=1,
        minutes=5,
        hints=(
            "square the singular values first",
            "the squares are 9, 9 and 0.000009: divide the squared sum by the sum of squares",
        ),
        questions=once(_of_three),
    ),
    Exercise(
        "dimensionality-upper",
        stars=3,
        minutes=20,
        hints=(
            "which other shares make D largest for a given p_1?",
            "equal ones, so 1/D = p_1^2 + (1 - p_1)^2 / (N - 1): solve for the larger root",
        ),
        questions=each(lambda seed: [(2.0, 4), (1.5, 3), (3.0, 5)], _largest_share),
    ),
    Exercise(
        "dimensionality-family",
        stars=2,
        minutes=10,
        hints=(
            "S = (||V||^2 + N ||W e_1||^2) times the mean of a^2",
            "the first part gets c^2, the second 1/c^2, and the two are equal at c = 1",
        ),
        questions=each(lambda seed: [(3.0,), (0.5,), (1.2,)], _factor),
    ),
)
