"""Exercises on networks drawn at random."""

from __future__ import annotations

import numpy as np
from scipy import stats

from flatlib.lab.exercises.exercise import (
    COUNTS,
    FROM_1_TO_9,
    Exercise,
    between,
    each,
    times,
)


def _correlations(seed: int, k: int) -> list[tuple]:
    """Small enough that networks with k settings can have them."""
    r = 0.4 / k**0.5
    return between((-0.4, 0.4), (-r, r), (-r, r))(seed)


def _left(r_xy: float, r_xg: float, r_yg: float, k: int) -> float:
    """From the inverse of all correlations of the two and of k settings."""
    whole = np.eye(2 + k)
    whole[0, 1] = whole[1, 0] = r_xy
    whole[0, 2:] = whole[2:, 0] = r_xg
    whole[1, 2:] = whole[2:, 1] = r_yg
    inverse = np.linalg.inv(whole)
    return float(-inverse[0, 1] / np.sqrt(inverse[0, 0] * inverse[1, 1]))


def _left_says(k: int) -> tuple[str, ...]:
    n = times(k)
    own = (
        f"$r_{{xy}}-{n}r_{{xg}}r_{{yg}}$",
        f"$1-{n}r_{{xg}}^2$ and $1-{n}r_{{yg}}^2$",
        f"free = (1 - {'' if k == 1 else f'{k} * '}r_xg**2) * "
        f"(1 - {'' if k == 1 else f'{k} * '}r_yg**2)",
        f"(r_xy - {'' if k == 1 else f'{k} * '}r_xg * r_yg)",
    )
    if k == 1:
        return (
            *own,
            "with the learning rate at $r_{xg}$, and the gap correlates with the learning rate at "
            "$r_{yg}$.",
            "with the learning rate held fixed",
            "with one column $g$",
            "what does the learning rate say of the covariance of the two?",
            "what the learning rate leaves of each: the roots of 1 minus its squared correlation",
        )
    return (
        *own,
        f"with each of {COUNTS[k]} settings at $r_{{xg}}$, and the gap correlates with each of "
        f"the {COUNTS[k]} at $r_{{yg}}$.\nNo setting correlates with another.",
        f"with the {COUNTS[k]} settings held fixed",
        f"with {COUNTS[k]} columns in $g$ that do not correlate with one another",
        f"what do {COUNTS[k]} uncorrelated settings together say of the covariance of sharpness "
        "and the gap?",
        "what the settings leave of each: the roots of 1 minus the sum of their squared "
        "correlations",
    )


def _ratio(n: int, p: int) -> float:
    """Measured on n numbers."""
    y = np.arange(n) ** 2.0
    unseen = y - [np.delete(y, k).mean() for k in range(n)]
    return float((np.abs(unseen) ** p).sum() / (np.abs(y - y.mean()) ** p).sum())


def _ratio_says(p: int) -> tuple[str, ...]:
    if p == 1:
        return (
            r"$\frac{n}{n-1}$",
            "(n / (n - 1)) ** 1",
            "the sum of the absolute errors",
            r"$\sum_i\lvert y_i-\bar y\rvert$ of the distances",
        )
    own = rf"$\frac{{n^{p}}}{{(n-1)^{p}}}$", f"(n / (n - 1)) ** {p}"
    if p == 2:
        return (
            *own,
            "the sum of the squared errors",
            r"$\sum_i(y_i-\bar y)^2$ of the squared distances",
        )
    return (
        *own,
        f"the sum of the absolute errors to the power ${p}$",
        rf"$\sum_i\lvert y_i-\bar y\rvert^{p}$ of the distances to the same power",
    )


def _holm(p: list[float], k: int) -> list[float]:
    """Each p as the smallest level at which the step-down procedure rejects it, which lets k - 1
    false rejections pass.
    """
    order = stats.rankdata(p, method="ordinal") - 1
    left = [len(p) - max(rank + 1 - k, 0) for rank in order]
    corrected = [min(1.0, among / k * value) for among, value in zip(left, p, strict=True)]
    return [
        max(c for c, before in zip(corrected, order, strict=True) if before <= rank)
        for rank in order
    ]


def _holm_says(k: int) -> tuple[str, ...]:
    if k == 1:
        return (
            "after Holm's correction, in the order",
            "The smallest of $m$ p values is multiplied by $m$, the next by $m-1$ and so on.",
            "(len(p) - step) * p[k]",
            "the p values first, and put",
        )
    return (
        f"after Holm's correction against {COUNTS[k]} or more false rejections, in the order",
        f"Each of the {COUNTS[k]} smallest of $m$ p values is multiplied by $m/{k}$, the next by "
        f"$(m-1)/{k}$ and so on.",
        f"(len(p) - max(step - {k - 1}, 0)) / {k} * p[k]",
        f"the p values first, multiply the {COUNTS[k]} smallest by the same number, and put",
    )


def _many(seed: int, k: int) -> list[tuple]:
    random = np.random.default_rng(seed)
    sizes = (k + 2, k + 4, k + 7)
    return [((random.uniform(0, 0.1, size=m) + 1e-4).tolist(),) for m in sizes]


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
        asked=each(_correlations, _left),
        numbers=FROM_1_TO_9,
        says=_left_says,
    ),
    Exercise(
        "drawn-unseen",
        stars=2,
        minutes=10,
        hints=(
            "write the mean of the others as the mean of all, plus something",
            "every error is one and the same factor times the distance from the mean of all",
        ),
        asked=each(lambda seed, p: between((3, 40))(seed), _ratio),
        numbers=((2,), (1,), *((p,) for p in range(3, 10))),
        says=_ratio_says,
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
        numbers=FROM_1_TO_9,
        says=_holm_says,
    ),
)
