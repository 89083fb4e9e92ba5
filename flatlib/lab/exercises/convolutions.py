"""Exercises on convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flatlib import measure
from flatlib.lab.exercises.exercise import Exercise, each, once


def _cases(seed: int) -> list[tuple]:
    c = torch.tensor([1.0, -1.0, 0.5, 2.0]).double()
    pixels = torch.tensor([1.0, 1.0, 2.0, 0.25]).double()
    return [(c, pixels), (c.abs(), pixels), (c, pixels + 1)]


def _ratio(c: Tensor, x: Tensor) -> float:
    """Measured, at four positions, whose root is 2."""
    net = nn.Sequential(
        nn.Conv2d(1, 1, 1, bias=False), nn.Flatten(), nn.Linear(4, 1, bias=False)
    ).double()
    net[2].weight.data = c[None]
    m = measure(net, x.view(1, 1, 2, 2))
    first = m.layers[0]
    right = 2 * first.weight_norm * first.weight_gradient_energy[0].sqrt()
    return float(m.mls[0] * m.input_norm[0] / right)


def _quotient() -> float:
    disjoint = nn.Sequential(nn.Conv2d(1, 3, 2, stride=2), nn.Flatten(), nn.Linear(12, 1)).double()
    first = measure(disjoint, torch.ones(1, 1, 4, 4)).layers[0]
    return first.operator_norm / first.weight_norm


EXERCISES = (
    Exercise(
        "convolution-1x1",
        stars=2,
        minutes=15,
        hints=(
            "the gradient by w is an inner product of c and x",
            "the gradient by x is w c, so w cancels from the ratio",
        ),
        questions=each(_cases, _ratio),
    ),
    Exercise(
        "convolution-stride",
        stars=1,
        minutes=10,
        hints=(
            "which singular values does a block-diagonal matrix have?",
            "those of its blocks, and every block here is W",
        ),
        questions=once(_quotient),
    ),
)
