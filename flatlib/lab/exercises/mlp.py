"""Exercises on the MLP's experiments."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from flatlib import bounds, measure, nets
from flatlib.lab.exercises.exercise import Exercise, each


def _rate(rate: float, N: int) -> float:
    """The rate at which the paper's loss makes the step that the mean squared error makes."""
    generator = torch.Generator().manual_seed(0)
    output, y = torch.randn(2, 6, N, dtype=torch.float64, generator=generator)
    output.requires_grad_()
    mse = torch.autograd.grad(F.mse_loss(output, y), output)[0].norm()
    half = (output - y).square().sum(dim=1).mean() / 2
    return float(rate * mse / torch.autograd.grad(half, output)[0].norm())


def _disagree(lists: Any) -> bool:
    s = torch.as_tensor(lists, dtype=torch.float64)
    top, full = s[:, :3].prod(dim=1), s.prod(dim=1)
    ordered = bool((s[:, :-1] >= s[:, 1:]).all() and (s > 0).all())
    return s.shape == (2, 4) and ordered and bool(top[0] > top[1] and full[0] < full[1])


def _shares(seed: int) -> list[tuple[tuple, float]]:
    """Of three drawn networks, the ratio of D to C and the share that the first weights lack."""
    generator = torch.Generator().manual_seed(seed)
    x, found = torch.randn(5, 4, dtype=torch.float64, generator=generator), []
    for k in range(3):
        m = measure(nets.mlp((4, 6 + 4 * k, 3), seed=seed + k), x)
        chain, by_W = bounds.chain(m), float(m.layers[0].weight_gradient_energy.mean())
        found.append(((chain.D / chain.C,), (m.sharpness - by_W) / m.sharpness))
    return found


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
        questions=each(lambda seed: [(0.2, 10), (0.1, 10), (0.1, 4)], _rate),
    ),
    Exercise(
        "mlp-two-volumes",
        stars=1,
        minutes=5,
        hints=(
            "which singular value stands in one of the two products only?",
            "make the fourth value of the first list very small",
        ),
        accepts=_disagree,
    ),
    Exercise(
        "mlp-share",
        stars=2,
        minutes=10,
        hints=(
            "D and C differ in one factor: write down its square",
            "(D/C)^2 is S over the first layer's part of S",
        ),
        questions=_shares,
    ),
)
