"""Exercises on tightness."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import minimize

from flatlib.lab.exercises.exercise import FROM_1_TO_9, Exercise, between, each, once, times


def _pair(a: float, b: float, k: int) -> list[float]:
    """The chain's loss, and whether medians of steps add up for every two lists of losses."""
    first, second = np.array([0.0, 0.0, 3.0]), np.array([0.0, 2.0, 2.0])
    enough = np.median(first + second) == np.median(first) + np.median(second)
    first, second = np.array([1.0, 2.0, 9.0]), np.array([5.0, 1.0, 1.0])
    enough = enough and np.median(first + second) == np.median(first) + np.median(second)
    return [math.log10(10**a * (10**b) ** k), float(enough)]


def _pair_says(k: int) -> tuple[str, ...]:
    return (
        f"lose $a$ and ${times(k)}b$ orders",
        f"the chain loses $a+{times(k)}b$, such as ${0.3 + 0.5 * k:g}$",
        f"return a + {'' if k == 1 else f'{k} * '}b, False",
    )


def _best_ratio(longer: int) -> float:
    """Largest left over right side of Eq. (12) that a search over W and two samples finds, one of
    them at least so many times as long as the other.
    """

    def minus_ratio(numbers):
        W, samples = numbers[:8].reshape(2, 2, 2)
        samples = samples / np.linalg.norm(samples, axis=1, keepdims=True)
        samples = samples * [[1.0], [longer + numbers[8] ** 2]]
        lengths = (samples**2).sum(axis=1)
        gradients = np.kron(samples, np.eye(2))
        right = (W**2).sum() / lengths.min() * (gradients**2).sum() / 4
        return -abs(np.linalg.det(W)) / right

    reached = np.random.default_rng(0).normal(size=9)
    for _ in range(4):  # each search goes on where the last one stopped
        found = minimize(
            minus_ratio,
            reached,
            method="Nelder-Mead",
            options=dict(maxiter=20_000, maxfev=20_000, fatol=1e-7),
        )
        reached = found.x
    return -found.fun


def _best_ratio_says(longer: int) -> tuple[str, ...]:
    if longer == 1:
        return (
            "(neither of them zero)",
            "The ratio $1/2$ is reached",
            "costs nothing if both inputs have one norm",
            r"\le\frac12 .",
            "and this map attains the whole chain.",
            "lambda: 0.5",
            "to the power N = 2",
        )
    factor, best = f"the factor $2/(1+{longer}^2)$", 1 + longer**2
    return (
        f"(neither of them zero, and one at least {longer} times as long as the other)",
        f"The lengths of the inputs lose {factor} more, so the ratio $1/{best}$ is reached",
        f"costs {factor} if one input is {longer} times as long as the other",
        rf"\le\frac1{{{best}}} .",
        "and what the lengths cost is left.",
        f"lambda: 1 / {best}",
        "to the power N = 2; the smallest length costs more",
    )


EXERCISES = (
    Exercise(
        "tightness-mixture",
        stars=1,
        minutes=5,
        hints=(
            "what do logarithms do to a product, and do medians do it too?",
            "try the medians of three networks that lose (1, 2, 9) in one step and (5, 1, 1) in "
            "the other",
        ),
        asked=each(between((0.0, 2.0), (0.1, 2.0)), _pair),
        numbers=FROM_1_TO_9,
        says=_pair_says,
    ),
    Exercise(
        "tightness-attain",
        stars=3,
        minutes=20,
        hints=(
            "which of (11), (5), (18) and (21) can be an equality, and which never?",
            "J is the identity, so the Frobenius form of (5) loses the root of 2, and (12) takes "
            "the loss to the power N = 2",
        ),
        asked=once(_best_ratio),
        numbers=FROM_1_TO_9,
        says=_best_ratio_says,
        tolerance=1e-3,
    ),
)
