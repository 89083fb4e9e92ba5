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


EXERCISES = (
    Exercise(
        "vit-tokens",
        stars=2,
        minutes=10,
        hints=(
            "the gradient by the tokens has one entry a token, that by the weight is one number",
            "the weight stands on both sides; what is left is what the Cauchy-Schwarz inequality "
            "compares",
        ),
        questions=each(
            lambda seed: [([1.0, 1.0], [1.0, 1.0]), ([1.0, -1.0], [2.0, 1.0]), ([3.0], [0.5])],
            _ratio,
        ),
    ),
    Exercise(
        "vit-quotient",
        stars=1,
        minutes=10,
        hints=(
            "write the output's change in the left singular vectors",
            "both norms are roots of sums of squares, of sigma_k c_k and of c_k",
        ),
        questions=each(
            lambda seed: [([3.0, 1.0], [1.0, 0.0]), ([3.0, 1.0], [1.0, 2.0]), ([2.0], [0.3])],
            _quotient,
        ),
    ),
)
