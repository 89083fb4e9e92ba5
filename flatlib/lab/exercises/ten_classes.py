"""Exercises on ten classes."""

from __future__ import annotations

import numpy as np

from flatlib.lab.exercises.exercise import COUNTS, Exercise, each


def _used(a: list[float], spare: int) -> float:
    """From a matrix with these eigenvalues in turned directions; with outputs to spare, over the
    number of all outputs.
    """
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(len(a), len(a))))[0]
    energies = turn * a @ turn.T
    ratio = np.trace(energies) ** 2 / np.sum(np.square(energies))
    return float(ratio / (len(a) + 1 + spare if spare else len(a)))


def _used_says(spare: int) -> tuple[str, ...]:
    if spare == 0:
        return (
            "Return the local dimensionality over its limit $K-1$,",
            "and the limit is the number of the $a_k$, so the quotient is the squared mean over "
            "the mean square.",
            "it is at most 1, with equality where all $a_k$ are alike.",
            "return mean**2 / square",
            "there are as many a_k as the limit says; divide the sums above and below by that "
            "number",
        )
    last = "one" if spare == 1 else COUNTS[spare]
    return (
        f"The network has $K+{spare}$ outputs, although no target uses the last {last}.\n"
        f"Return the local dimensionality over the number $K+{spare}$ of outputs,",
        f"and the divisor is the number $K+{spare}$ of outputs, {spare + 1} more than there are "
        "$a_k$.",
        f"the dimensionality is at most $K-1$, so the quotient is at most $(K-1)/(K+{spare})$, "
        "with equality where all $a_k$ are alike.",
        f"return mean**2 / square * len(a) / (len(a) + {spare + 1})",
        f"there are K - 1 of the a_k, so K + {spare} is {spare + 1} more than their number",
    )


def _distance(W: list, b: list, x: list, y: int, ahead: int) -> float:
    """The shortest of the steps of least length that bring another output so far ahead."""
    normals = np.subtract(W[y], np.delete(W, y, axis=0))
    leads = normals @ x + np.subtract(b[y], np.delete(b, y)) + ahead
    steps = [
        np.linalg.lstsq(normal[None], [-lead])[0]
        for normal, lead in zip(normals, leads, strict=True)
    ]
    return float(min(map(np.linalg.norm, steps)))


def _distance_says(ahead: int) -> tuple[str, ...]:
    if ahead == 0:
        return (
            "where another output catches up with $f_y$,",
            "The two outputs are equal on a plane",
            "is the lead over the length",
            "min((f[y] - f[j]) /",
            "where two outputs are equal there is a plane",
            "to a plane is the lead over the length",
        )
    return (
        f"where another output is ahead of $f_y$ by {ahead},",
        f"The other output is ahead by {ahead} on a plane",
        f"is the lead plus {ahead} over the length",
        f"min((f[y] - f[j] + {ahead}) /",
        f"where another output is ahead by {ahead} there is a plane",
        f"to a plane is the lead plus {ahead} over the length",
    )


def _energies(seed: int, spare: int) -> list[tuple]:
    random = np.random.default_rng(seed)
    return [(random.uniform(0.1, 5.0, size=k).tolist(),) for k in (1, 2, 4, 9)]


def _classifiers(seed: int, ahead: int) -> list[tuple]:
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
        numbers=tuple((spare,) for spare in range(9)),
        says=_used_says,
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
        numbers=tuple((ahead,) for ahead in range(9)),
        says=_distance_says,
    ),
)
