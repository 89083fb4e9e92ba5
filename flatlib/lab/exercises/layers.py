"""Exercises on what the layers make of many samples."""

from __future__ import annotations

import numpy as np

from flatlib.lab.exercises.exercise import Exercise, between, each


def _ratio(covariance: np.ndarray) -> float:
    """The participation ratio of a covariance, from its eigenvalues."""
    values = np.linalg.eigvalsh(covariance)
    return float(values.sum() ** 2 / (values**2).sum())


def _largest(n: int) -> float:
    """Of the corners of a simplex, which have equal distances."""
    corners = np.eye(n) - 1 / n
    return _ratio(corners.T @ corners)


def _after(s: list[float]) -> float:
    """Of a matrix with these singular values between two turned bases."""
    k = len(s)
    turns = [np.linalg.qr(np.random.default_rng(i).normal(size=(k, k)))[0] for i in (0, 1)]
    W = turns[0] @ np.diag(s) @ turns[1]
    return _ratio(W @ W.T)


def _targets(p: list[float]) -> float:
    """From the covariance itself."""
    shares = np.asarray(p)
    return _ratio(np.diag(shares) - np.outer(shares, shares))


def _singular_values(seed: int) -> list[tuple]:
    random = np.random.default_rng(seed)
    return [(random.uniform(0.1, 5.0, size=k).tolist(),) for k in (2, 3, 5)]


def _shares(seed: int) -> list[tuple]:
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
        asked=each(between((2, 60)), _largest),
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
    ),
)
