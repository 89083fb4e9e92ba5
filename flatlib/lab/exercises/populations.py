"""Exercises on networks drawn at random."""

from __future__ import annotations

import numpy as np
from scipy import stats

from flatlib.lab.exercises.exercise import Exercise, between, each


def _left(r_xy: float, r_xg: float, r_yg: float) -> float:
    """From the inverse of the three correlations."""
    inverse = np.linalg.inv([[1, r_xy, r_xg], [r_xy, 1, r_yg], [r_xg, r_yg, 1]])
    return float(-inverse[0, 1] / np.sqrt(inverse[0, 0] * inverse[1, 1]))


def _ratio(n: int) -> float:
    """Measured on n numbers."""
    y = np.arange(n) ** 2.0
    unseen = y - [np.delete(y, k).mean() for k in range(n)]
    return float(np.square(unseen).sum() / (n * y.var()))


def _holm(p: list[float]) -> list[float]:
    """Each p as the smallest level at which the step-down procedure rejects it."""
    order = stats.rankdata(p, method="ordinal") - 1
    corrected = [min(1.0, (len(p) - rank) * value) for rank, value in zip(order, p, strict=True)]
    return [
        max(c for c, before in zip(corrected, order, strict=True) if before <= rank)
        for rank in order
    ]


def _many(seed: int) -> list[tuple]:
    random = np.random.default_rng(seed)
    return [((random.uniform(0, 0.1, size=m) + 1e-4).tolist(),) for m in (3, 5, 8)]


EXERCISES = (
    Exercise(
        "drawn-partial",
        stars=1,
        minutes=10,
        hints=(
            "with variances of 1, what does the learning rate say of the covariance of the two?",
            "divide by what the learning rate leaves of each: the roots of 1 minus its squared "
            "correlation",
        ),
        asked=each(between((-0.4, 0.4), (-0.4, 0.4), (-0.4, 0.4)), _left),
    ),
    Exercise(
        "drawn-unseen",
        stars=2,
        minutes=10,
        hints=(
            "write the mean of the others as the mean of all, plus something",
            "every error is one and the same factor times the distance from the mean of all",
        ),
        asked=each(between((3, 40)), _ratio),
    ),
    Exercise(
        "drawn-holm",
        stars=2,
        minutes=15,
        hints=(
            "sort the p values first, and put the results back in their places last",
            "a corrected value is at least as large as that of every smaller p, and at most 1",
        ),
        asked=each(_many, _holm),
    ),
)
