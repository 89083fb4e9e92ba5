"""Exercises on local dimensionality."""

from __future__ import annotations

import torch
from scipy.optimize import minimize

from flatlib import geometry, measure, toys
from flatlib.lab.exercises.exercise import COUNTS, FROM_1_TO_9, Exercise, between, each, once, power


def _of_three(n: int) -> float:
    values = torch.tensor([[3.0] * n + [0.003]]).double()
    return float(geometry.local_dimensionality(values))


def _of_three_says(n: int) -> tuple[str, ...]:
    return (
        f"${'3, ' * n}0.003$",
        rf"${'9, ' * n}9\cdot10^{{-6}}$, so the ratio is {n} to six digits, and exactly {n} if",
        f"torch.tensor([{'9.0, ' * n}9e-6])",
        f"{', '.join('9' * n)} and 0.000009",
    )


def _upper_cases(seed: int, k: int) -> list[tuple]:
    return between((k + 0.1, k + 1.9), (k + 2, k + 5))(seed)


def _largest_share(D: float, N: int, k: int) -> float:
    """The largest share that k of N have together at a given D, by search."""
    rules = [
        {"type": "eq", "fun": lambda p: p.sum() - 1},
        {"type": "eq", "fun": lambda p: (p**2).sum() - 1 / D},
    ]
    start = torch.arange(N, 0, -1).double() / sum(range(N + 1))
    bounds = [(0, 1)] * N
    found = minimize(
        lambda p: -p[:k].sum(),
        start.numpy(),
        bounds=bounds,
        constraints=rules,
        options={"ftol": 1e-10, "maxiter": 500},
    )
    return float(found.x[:k].sum())


def _upper_says(k: int) -> tuple[str, ...]:
    if k == 1:
        return (
            "For $N$ outputs and a given $D$, how large can $p_1$ be",
            "The bound $D^{-1/2}$ is reached at $D=1$ only.",
            r"For a given $p_1$ the sum $\sum_{k\ge2}p_k^2$ is smallest, and $D$ largest, when the "
            r"rest is spread evenly, so $1/D\ge p_1^2+(1-p_1)^2/(N-1)$.",
            r"p_1=\frac1N\Big(1+\sqrt{(N-1)\Big(\frac ND-1\Big)}\Big)",
            "return (1 + math.sqrt((N - 1) * (N / D - 1))) / N",
            "which other shares make D largest for a given p_1?",
            "equal ones, so 1/D = p_1^2 + (1 - p_1)^2 / (N - 1): solve",
        )
    together = {2: "p_1+p_2", 3: "p_1+p_2+p_3"}.get(k, rf"p_1+\dots+p_{k}")
    return (
        rf"For $N$ outputs and a given $D\ge{k}$, how large can ${together}$ be",
        rf"The bound $\sqrt{{{k}/D}}$ is reached at $D={k}$ only.",
        rf"For a given $q={together}$ the sum of all $p_j^2$ is smallest, and $D$ largest, when "
        rf"$q$ and the rest are each spread evenly, so $1/D\ge q^2/{k}+(1-q)^2/(N-{k})$.",
        rf"q=\frac1N\Big({k}+\sqrt{{{k}(N-{k})\Big(\frac ND-1\Big)}}\Big)",
        f"return ({k} + math.sqrt({k} * (N - {k}) * (N / D - 1))) / N",
        f"which shares make D largest when the first {COUNTS[k]} add up to a given q?",
        f"equal ones among these and among the others, so 1/D = q^2 / {k} + (1 - q)^2 / "
        f"(N - {k}): solve",
    )


def _factor(c: float, p: int) -> float:
    round_net, _ = toys.dimensionality_pair(3, 4)
    axis = torch.eye(1, 4).double()
    after = measure(toys.rescaled(round_net, (c**-p, c**p)), axis).sharpness
    return after / measure(round_net, axis).sharpness


def _factor_says(p: int) -> tuple[str, ...]:
    c, c_2 = power(p), power(2 * p)
    return (
        rf"$V={c}\sqrt g\,I$ and $W=\sqrt g\,I/{c}$",
        rf"$\lVert V\rVert_F^2={c_2}Ng$",
        f"=Ng/{c_2}$",
        f"$({c_2}+c^{{-{2 * p}}})/2$",
        f"return (c**{2 * p} + c**-{2 * p}) / 2",
        f"the first part gets {c_2}, the second 1/{c_2}",
    )


EXERCISES = (
    Exercise(
        "dimensionality-scale",
        stars=1,
        minutes=5,
        hints=(
            "square the singular values first",
            "the squares are 9, 9 and 0.000009: divide the squared sum by the sum of squares",
        ),
        asked=once(_of_three),
        numbers=((2,), *((n,) for n in range(3, 11))),
        says=_of_three_says,
    ),
    Exercise(
        "dimensionality-upper",
        stars=3,
        minutes=20,
        hints=(
            "which other shares make D largest for a given p_1?",
            "equal ones, so 1/D = p_1^2 + (1 - p_1)^2 / (N - 1): solve for the larger root",
        ),
        asked=each(_upper_cases, _largest_share),
        numbers=FROM_1_TO_9[:7],
        says=_upper_says,
    ),
    Exercise(
        "dimensionality-family",
        stars=2,
        minutes=10,
        hints=(
            "S = (||V||^2 + N ||W e_1||^2) times the mean of a^2",
            "the first part gets c^2, the second 1/c^2, and the two are equal at c = 1",
        ),
        asked=each(between((0.5, 1.6)), _factor),
        numbers=FROM_1_TO_9,
        says=_factor_says,
    ),
)
