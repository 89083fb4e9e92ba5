"""Exercises on optimizers."""

from __future__ import annotations

import math

import numpy as np

from flatlib.lab.exercises.exercise import Exercise, between, each


def _worst(r: float, g: list[float], rho: float) -> float:
    """The largest over the two ends that the output reaches within the distance."""
    length = float(np.sqrt(np.sum(np.square(g))))
    return max((r + rho * length) ** 2, (r - rho * length) ** 2) / 2


def _factor(w1: float, w2: float, eta: float, rho: float) -> float:
    """By one step, where the imbalance is not 0; where it is, from the limit of steps beside it."""
    if w1 == w2:
        return (_factor(w1 + 1e-4, w2, eta, rho) + _factor(w1 - 1e-4, w2, eta, rho)) / 2
    w = np.array([w1, w2])
    uphill = (w1 * w2 - 1) * w[::-1]
    end = w + rho * uphill / np.linalg.norm(uphill)
    after = w - eta * (end.prod() - 1) * end[::-1]
    return float((after[0] ** 2 - after[1] ** 2) / (w1**2 - w2**2))


def _seeds(alpha: float, m: int) -> int:
    """From the logarithm; at equality one more seed is needed."""
    return math.floor(1 + math.log2(m / alpha)) + 1


def _samples(seed: int) -> list[tuple]:
    """Residuals of either sign and 0."""
    random = np.random.default_rng(seed)
    residuals = (random.uniform(0.1, 1), -random.uniform(0.1, 1), 0.0)
    return [(r, random.normal(size=3).tolist(), random.uniform(0.05, 0.5)) for r in residuals]


def _steps(seed: int) -> list[tuple]:
    """Of either imbalance, and of none, each with a positive residual."""
    random = np.random.default_rng(seed)
    low, high, same = random.uniform((0.5, 2.1, 1.05), (0.7, 2.6, 1.4))
    pairs = ((high, low), (low, high), (same, same))
    return [(*pair, random.uniform(0.02, 0.1), random.uniform(0.05, 0.2)) for pair in pairs]


EXERCISES = (
    Exercise(
        "optim-worst",
        stars=1,
        minutes=10,
        hints=(
            "between which two values does g times epsilon lie, by the Cauchy-Schwarz inequality?",
            "the square is largest where r + g times epsilon is farthest from 0: which of the two "
            "values has the sign of r?",
        ),
        asked=each(_samples, _worst),
    ),
    Exercise(
        "optim-imbalance",
        stars=3,
        minutes=20,
        hints=(
            "write the walk as w plus rho (w_2, w_1) over the root of S, and find the residual "
            "at its end",
            "in the new imbalance both the term in eta and that in eta squared are multiples of "
            "the old imbalance",
        ),
        asked=each(_steps, _factor),
        tolerance=1e-6,
    ),
    Exercise(
        "optim-seeds",
        stars=2,
        minutes=10,
        hints=(
            "how likely is it that all n signs are the same, whichever it is?",
            "all better or all worse has the probability 2 times 2^-n, and this has to be below "
            "alpha / m",
        ),
        asked=each(between((0.01, 0.1), (1, 30)), _seeds),
    ),
)
