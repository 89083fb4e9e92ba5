"""Exercises on tightness."""

from __future__ import annotations

import math

import numpy as np

from flatlib.lab.exercises.exercise import FROM_1_TO_9, Exercise, between, each, times


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
)
