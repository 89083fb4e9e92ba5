"""Exercises on local dimensionality."""

from __future__ import annotations

import torch
from scipy.optimize import minimize

from flatlib import geometry, measure, toys
from flatlib.lab.exercises.exercise import FROM_1_TO_9, Exercise, between, each, once, power


def _of_three(n: int) -> float:
    values = torch.tensor([[3.0] * n + [0.003]]).double()
    return float(geometry.local_dimensionality(values))


def _of_three_says(n: int) -> tuple[str, ...]:
    return (
        f"${'3, ' * n}0.003$",
        rf"${'9, ' * n}9\cdot10^{{-6}}$, so the ratio is {n} to six digits, and exactly {n} if",
        f"torch.tensor([{'9.0, ' * n}9e-6])",
        f"{', '.join('9' * n)} and 0.000009",
    )


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


def _factor(c: float, p: int) -> float:
    round_net, _ = toys.dimensionality_pair(3, 4)
    axis = torch.eye(1, 4).double()
    after = measure(toys.rescaled(round_net, (c**-p, c**p)), axis).sharpness
    return after / measure(round_net, axis).sharpness


def _factor_says(p: int) -> tuple[str, ...]:
    c, c_2 = power(p), power(2 * p)
    return (
        rf"$V={c}\sqrt g\,I$ and $W=\sqrt g\,I/{c}$",
        rf"$\lVert V\rVert_F^2={c_2}Ng$",
        f"=Ng/{c_2}$",
        f"$({c_2}+c^{{-{2 * p}}})/2$",
        f"return (c**{2 * p} + c**-{2 * p}) / 2",
        f"the first part gets {c_2}, the second 1/{c_2}",
    )


EXERCISES = (
    Exercise(
        "dimensionality-scale",
        stars=1,
        minutes=5,
        hints=(
            "square the singular values first",
            "the squares are 9, 9 and 0.000009: divide the squared sum by the sum of squares",
        ),
        asked=once(_of_three),
        numbers=((2,), *((n,) for n in range(3, 11))),
        says=_of_three_says,
    ),
    Exercise(
        "dimensionality-upper",
        stars=3,
        minutes=20,
        hints=(
            "which other shares make D largest for a given p_1?",
            "equal ones, so 1/D = p_1^2 + (1 - p_1)^2 / (N - 1): solve for the larger root",
        ),
        asked=each(between((1.1, 2.9), (3, 6)), _largest_share),
    ),
    Exercise(
        "dimensionality-family",
        stars=2,
        minutes=10,
        hints=(
            "S = (||V||^2 + N ||W e_1||^2) times the mean of a^2",
            "the first part gets c^2, the second 1/c^2, and the two are equal at c = 1",
        ),
        asked=each(between((0.5, 1.6)), _factor),
        numbers=FROM_1_TO_9,
        says=_factor_says,
    ),
)
