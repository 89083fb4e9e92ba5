"""Exercises on the maximum local sensitivity."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flatlib import bounds, measure, toys
from flatlib.lab.exercises.exercise import Exercise, each


def _gaussian(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def _ends(norm: float, N: int) -> list[float]:
    """A and D of a linear map with that norm, on inputs of length 1."""
    net = toys.with_singular_values([norm] + [norm / 2] * (N - 1), inputs=6, seed=0)
    chain = bounds.chain(measure(net, torch.nn.functional.normalize(_gaussian(1, 5, 6))))
    return [chain.A, chain.D]


def _two_layers(g_1: float, g_2: float):
    """A two-layer ReLU network whose layers have these mean squared gradients, and its inputs."""
    net, x = toys.from_weights([_gaussian(0, 8, 4), _gaussian(1, 3, 8)], "relu"), _gaussian(2, 5, 4)
    parts = [float(layer.weight_gradient_energy.mean()) for layer in measure(net, x).layers]
    with torch.no_grad():  # S_1 scales with W_2^2, S_2 with W_1^2
        net.linear2.weight *= math.sqrt(g_1 / parts[0])
        net.linear1.weight *= math.sqrt(g_2 / parts[1])
    return net, x


def _growth(c: float, g_1: float, g_2: float) -> float:
    net, x = _two_layers(g_1, g_2)
    after = bounds.chain(measure(toys.rescaled(net, [c, 1 / c]), x)).D
    return after / bounds.chain(measure(net, x)).D


EXERCISES = (
    Exercise(
        "ex-mls-factor",
        stars=1,
        minutes=10,
        hints=(
            "the Jacobian J at the layer's output is the identity",
            "so S is N on inputs of length 1, by (4), and D has the root of S",
        ),
        questions=each(lambda seed: [(0.7, 1), (1.3, 2), (2.0, 5)], _ends),
    ),
    Exercise(
        "ex-mls-optimal-c",
        stars=3,
        minutes=15,
        hints=(
            "what happens to the norm of W_1, to g_1 and to g_2?",
            "the norm gets c, g_1 becomes g_1 / c^2 and g_2 becomes g_2 c^2",
        ),
        questions=each(lambda seed: [(0.1, 2.0, 3.0), (0.7, 5.0, 0.4), (3.0, 1.0, 1.0)], _growth),
    ),
)
