"""Exercises on what the layers make of many samples."""

from __future__ import annotations

import numpy as np

from flatlib.lab.exercises.exercise import COUNTS, FROM_1_TO_9, Exercise, between, each, times


def _ratio(covariance: np.ndarray) -> float:
    """The participation ratio of a covariance, from its eigenvalues."""
    values = np.linalg.eigvalsh(covariance)
    return float(values.sum() ** 2 / (values**2).sum())


def _counts(seed: int, classes: int) -> list[tuple]:
    return between((classes + 1, 60))(seed)


def _largest(n: int, classes: int) -> float:
    """Of the corners of a simplex for each class, which have equal distances."""
    of = np.arange(n) % classes
    alike = of[:, None] == of
    corners = np.eye(n) - alike / alike.sum(axis=0)
    return _ratio(corners.T @ corners)


def _largest_says(classes: int) -> tuple[str, ...]:
    own = (
        f"at most $n-{classes}$ directions",
        f"A dimension of {14 - classes} that",
        f"return n - {classes}",
    )
    if classes == 1:
        return (
            *own,
            "you give it $n$ samples, fewer than 100.",
            "that their cloud can have.",
            "The points minus their mean span",
            "once their mean is taken away?",
            "two points span one direction, three points a plane;",
        )
    return (
        *own,
        f"you give it $n$ samples of {COUNTS[classes]} classes, more than {COUNTS[classes]} and "
        "fewer than 100 samples in all.",
        "that their cloud can have once the mean of its class is taken away from each sample.",
        "The points minus the means of their classes span",
        f"once the means of their {COUNTS[classes]} classes are taken away?",
        "two points of a class span one direction, three points a plane, and classes may lie in "
        "directions of their own;",
    )


def _after(s: list[float], often: int) -> float:
    """Of a matrix with these singular values, each so often, between two turned bases."""
    s = s * often
    k = len(s)
    turns = [np.linalg.qr(np.random.default_rng(i).normal(size=(k, k)))[0] for i in (0, 1)]
    W = turns[0] @ np.diag(s) @ turns[1]
    return _ratio(W @ W.T)


def _after_says(often: int) -> tuple[str, ...]:
    each_so_often = "" if often == 1 else f", each of them {often} times"
    return (
        rf"the singular values $s_1,\dots,s_k${each_so_often}.",
        f"whose eigenvalues are $s_j^2${each_so_often}, so",
        rf"is ${times(often)}(\sum_js_j^2)^2",
        f"return {'' if often == 1 else f'{often} * '}sum(squares)",
    )


def _targets(p: list[float], parts: int) -> float:
    """From the covariance itself."""
    shares = np.repeat(np.asarray(p) / parts, parts)
    return _ratio(np.diag(shares) - np.outer(shares, shares))


def _targets_say(parts: int) -> tuple[str, ...]:
    if parts == 1:
        return (
            "of the samples, and the targets are one-hot.",
            r"The covariance is $\operatorname{diag}(p)-pp^\top$.",
            r"With $s_m=\sum_kp_k^m$ its",
            "sum(share**m for share in p)",
            "the mean of the targets is p; write down the mean of y y^T and take p p^T away",
            "of diag(p) - p p^T has three terms, in the sums of p^2 and of p^3",
        )
    return (
        f"of the samples and falls into {COUNTS[parts]} equal parts, and the targets are one-hot, "
        "one for each part of a class.",
        r"The covariance is $\operatorname{diag}(q)-qq^\top$ with the shares $q$ of the parts, "
        f"where $p_k/{parts}$ stands {COUNTS[parts]} times for each $k$.",
        rf"With $s_m=\sum_k{parts}(p_k/{parts})^m$ its",
        f"sum({parts} * (share / {parts}) ** m for share in p)",
        f"the mean of the targets is q, in which each p_k / {parts} stands {COUNTS[parts]} times; "
        "write down the mean of y y^T and take q q^T away",
        "of diag(q) - q q^T has three terms, in the sums of q^2 and of q^3",
    )


def _singular_values(seed: int, often: int) -> list[tuple]:
    random = np.random.default_rng(seed)
    return [(random.uniform(0.1, 5.0, size=k).tolist(),) for k in (2, 3, 5)]


def _shares(seed: int, parts: int) -> list[tuple]:
    random = np.random.default_rng(seed)
    return [(random.dirichlet([2.0] * k).tolist(),) for k in (2, 4, 10)]


EXERCISES = (
    Exercise(
        "layers-samples",
        stars=1,
        minutes=5,
        hints=(
            "how many directions do n points span once their mean is taken away?",
            "two points span one direction, three points a plane; put the same variance in each "
            "direction",
        ),
        asked=each(_counts, _largest),
        numbers=FROM_1_TO_9,
        says=_largest_says,
    ),
    Exercise(
        "layers-linear",
        stars=1,
        minutes=10,
        hints=(
            "a round cloud has a covariance that is a multiple of the unit matrix: what is it "
            "after W?",
            "the eigenvalues of W W^T are the squares of the singular values",
        ),
        asked=each(_singular_values, _after),
        numbers=FROM_1_TO_9,
        says=_after_says,
    ),
    Exercise(
        "layers-shares",
        stars=2,
        minutes=15,
        hints=(
            "the mean of the targets is p; write down the mean of y y^T and take p p^T away",
            "the trace of the square of diag(p) - p p^T has three terms, in the sums of p^2 and "
            "of p^3",
        ),
        asked=each(_shares, _targets),
        numbers=FROM_1_TO_9,
        says=_targets_say,
    ),
)
