"""Exercises on ten classes."""

from __future__ import annotations

import numpy as np

from flatlib.lab.exercises.exercise import Exercise, each


def _used(a: list[float]) -> float:
    """From a matrix with these eigenvalues in turned directions."""
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(len(a), len(a))))[0]
    energies = turn * a @ turn.T
    ratio = np.trace(energies) ** 2 / np.sum(np.square(energies))
    return float(ratio / len(a))


def _distance(W: list, b: list, x: list, y: int) -> float:
    """The shortest of the steps of least length that make another output as large."""
    normals = np.subtract(W[y], np.delete(W, y, axis=0))
    leads = normals @ x + np.subtract(b[y], np.delete(b, y))
    steps = [
        np.linalg.lstsq(normal[None], [-lead])[0]
        for normal, lead in zip(normals, leads, strict=True)
    ]
    return float(min(map(np.linalg.norm, steps)))


def _energies(seed: int) -> list[tuple]:
    random = np.random.default_rng(seed)
    return [(random.uniform(0.1, 5.0, size=k).tolist(),) for k in (1, 2, 4, 9)]


def _classifiers(seed: int) -> list[tuple]:
    """Each with a point and the class that it is taken for."""
    random = np.random.default_rng(seed)
    cases = []
    for K, M in ((2, 3), (3, 2), (5, 4)):
        W, b, x = random.normal(size=(K, M)), random.normal(size=K), random.normal(size=M)
        cases.append((W.tolist(), b.tolist(), x.tolist(), int(np.argmax(W @ x + b))))
    return cases


EXERCISES = (
    Exercise(
        "ten-room",
        stars=2,
        minutes=10,
        hints=(
            "write the local dimensionality in the eigenvalues, as Eq. (14) does",
            "there are as many a_k as the limit says; divide the sums above and below by that "
            "number",
        ),
        asked=each(_energies, _used),
    ),
    Exercise(
        "ten-distance",
        stars=1,
        minutes=10,
        hints=(
            "where two outputs are equal there is a plane: what is its normal?",
            "the distance to a plane is the lead over the length of the normal; every other class "
            "has a plane of its own",
        ),
        asked=each(_classifiers, _distance),
    ),
)
