"""Exercises on transformers."""

from __future__ import annotations

import numpy as np

from flatlib.lab.exercises.exercise import Exercise, each


def _ratio(a: list[float], x: list[float]) -> float:
    """From the two gradients at the weight 3."""
    w = 3.0
    by_tokens, by_weight = w * np.array(a), float(np.dot(a, x))
    sides = np.linalg.norm(x) * np.linalg.norm(by_tokens), abs(w * by_weight)
    return float(sides[0] / sides[1])


def _quotient(sigma: list[float], c: list[float]) -> float:
    """By a rotated diagonal matrix."""
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(len(c), len(c))))[0]
    delta = turn @ c
    moved = np.diag(sigma) @ turn.T @ delta
    return float(np.linalg.norm(moved) / np.linalg.norm(delta))


def _lists(seed: int) -> list[tuple]:
    random = np.random.default_rng(seed)
    return [(random.normal(size=k).tolist(), random.normal(size=k).tolist()) for k in (1, 2, 4)]


def _values(seed: int) -> list[tuple]:
    """Singular values, descending, and coefficients."""
    random = np.random.default_rng(seed)
    sizes = [np.sort(random.uniform(0.2, 4.0, size=k))[::-1].tolist() for k in (1, 2, 4)]
    return [(sigma, random.normal(size=len(sigma)).tolist()) for sigma in sizes]


EXERCISES = (
    Exercise(
        "vit-tokens",
        stars=2,
        minutes=10,
        hints=(
            "the gradient with respect to the tokens has one entry a token, and that with respect "
            "to the weight is one number",
            "the weight stands on both sides; what is left is what the Cauchy-Schwarz inequality "
            "compares",
        ),
        asked=each(_lists, _ratio),
    ),
    Exercise(
        "vit-quotient",
        stars=1,
        minutes=10,
        hints=(
            "write the output's change in the left singular vectors",
            "both norms are roots of sums of squares, of sigma_k c_k and of c_k",
        ),
        asked=each(_values, _quotient),
    ),
)
