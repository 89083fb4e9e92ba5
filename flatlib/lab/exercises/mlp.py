"""Exercises on the MLP's experiments."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from flatlib import bounds, measure, nets
from flatlib.lab.exercises.exercise import COUNTS, FROM_1_TO_9, Exercise, between, each, once, times


def _rate(rate: float, N: int, k: int) -> float:
    """The rate at which k times the paper's loss makes the step of the mean squared error."""
    generator = torch.Generator().manual_seed(0)
    output, y = torch.randn(2, 6, N, dtype=torch.float64, generator=generator)
    output.requires_grad_()
    mse = torch.autograd.grad(F.mse_loss(output, y), output)[0].norm()
    half = k * (output - y).square().sum(dim=1).mean() / 2
    return float(rate * mse / torch.autograd.grad(half, output)[0].norm())


def _rate_says(k: int) -> tuple[str, ...]:
    L = f"{times(k)}L"
    return (
        "with the loss $L$ of" if k == 1 else f"with the loss ${L}$, {k} times the loss of",
        f"the gradient of ${L}$ is ${times(k)}N/2$",
        f"the rate for ${L}$ is $2/{'N' if k == 1 else f'({k}N)'}$",
        f"return 2 / {'N' if k == 1 else f'({k} * N)'} * rate",
    )


PLACES = "no first second third fourth fifth sixth seventh eighth ninth".split()


def _disagree_says(N: int) -> tuple[str, ...]:
    return (
        f"with {COUNTS[N]} outputs",
        f"largest {COUNTS[N - 1]}",
        f"The {PLACES[N]} value",
        f"(2{',2' * (N - 2)},10^{{-3}})",
        f"(1{',1' * (N - 1)})",
        f"[[{'2.0, ' * (N - 1)}1e-3], [{', '.join(['1.0'] * N)}]]",
        f"the {PLACES[N]} value of",
    )


def _disagreeing(N: int) -> list[list[float]]:
    """One of many right answers."""
    return [[2.0] * (N - 1) + [1e-3], [1.0] * N]


def _disagree(lists: Any, N: int) -> bool:
    s = torch.as_tensor(lists, dtype=torch.float64)
    top, full = s[:, : N - 1].prod(dim=1), s.prod(dim=1)
    ordered = bool((s[:, :-1] >= s[:, 1:]).all() and (s >= 0).all())
    return s.shape == (2, N) and ordered and bool(top[0] > top[1] and full[0] < full[1])


def _shares(seed: int, p: int) -> list[tuple[tuple, float]]:
    """Of three drawn networks, a power of D over C and the share that the first weights lack."""
    generator = torch.Generator().manual_seed(seed)
    x, found = torch.randn(5, 4, dtype=torch.float64, generator=generator), []
    for k in range(3):
        m = measure(nets.mlp((4, 6 + 4 * k, 3), seed=seed + k), x)
        chain, by_W = bounds.chain(m), float(m.layers[0].weight_gradient_energy.mean())
        found.append((((chain.D / chain.C) ** p,), (m.sharpness - by_W) / m.sharpness))
    return found


def _shares_say(p: int) -> tuple[str, ...]:
    return (
        "you read $D/C=r$." if p == 1 else f"you read $(D/C)^{p}=r$.",
        f"weights is $1/{_root(p)}$,",
        f"parameters is $1-1/{_root(p)}$.",
        "return 1 - 1 / r**2" if p == 1 else f"return 1 - 1 / r ** (2 / {p})",
    )


def _root(p: int) -> str:
    """The square of the ratio whose power p is r, as TeX."""
    return {1: "r^2", 2: "r"}.get(p, f"r^{{2/{p}}}")


EXERCISES = (
    Exercise(
        "mlp-learning-rate",
        stars=1,
        minutes=5,
        hints=(
            "a step is the rate times the gradient, and must stay as it is",
            "the code's loss is a mean over samples and outputs, the paper's half a sum over "
            "outputs: compare their gradients",
        ),
        asked=each(between((0.05, 0.5), (2, 12)), _rate),
        numbers=FROM_1_TO_9,
        says=_rate_says,
    ),
    Exercise(
        "mlp-two-volumes",
        stars=1,
        minutes=5,
        hints=(
            "which singular value stands in one of the two products only?",
            "make the fourth value of the first list very small",
        ),
        asked=once(_disagreeing),
        accepts=_disagree,
        numbers=((4,), *((N,) for N in (3, 5, 6, 7, 8, 9))),
        says=_disagree_says,
    ),
    Exercise(
        "mlp-share",
        stars=2,
        minutes=10,
        hints=(
            "D and C differ in one factor: write down its square",
            "(D/C)^2 is S over the first layer's part of S",
        ),
        asked=_shares,
        numbers=FROM_1_TO_9,
        says=_shares_say,
    ),
)
