"""Exercises on the maximum local sensitivity."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flatlib import bounds, measure, toys
from flatlib.lab.exercises.exercise import (
    FROM_1_TO_9,
    Exercise,
    Scaled,
    between,
    each,
    power,
    times,
)


def _gaussian(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def _ends(norm: float, N: int, k: int) -> list[float]:
    """A and D of k times a linear map with that norm, on inputs of length 1."""
    net = toys.with_singular_values([norm] + [norm / 2] * (N - 1), inputs=6, seed=0)
    chain = bounds.chain(measure(Scaled(net, k), torch.nn.functional.normalize(_gaussian(1, 5, 6))))
    return [chain.A, chain.D]


def _ends_say(k: int) -> tuple[str, ...]:
    c, squared, factor = times(k), times(k**2), "" if k == 1 else f"{k} * "
    return (
        f"map $f(x)={c}Wx$",
        rf"$A={c}\lVert W\rVert_2$, since the Jacobian is ${c}W$",
        f"$S={squared}N$",
        rf"\lVert J\rVert_F^2={squared}N$, so $D={c}\lVert",
        f"return {factor}norm, {factor}norm * math.sqrt(N)",
        f"is {'' if k == 1 else f'{k} times '}the identity",
        f"so S is {'' if k == 1 else f'{k**2} '}N on",
    )


def _two_layers(g_1: float, g_2: float):
    """A two-layer ReLU network whose layers have these mean squared gradients, and its inputs."""
    net, x = toys.from_weights([_gaussian(0, 8, 4), _gaussian(1, 3, 8)], "relu"), _gaussian(2, 5, 4)
    parts = [float(layer.weight_gradient_energy.mean()) for layer in measure(net, x).layers]
    with torch.no_grad():  # S_1 scales with W_2^2, S_2 with W_1^2
        net.linear2.weight *= math.sqrt(g_1 / parts[0])
        net.linear1.weight *= math.sqrt(g_2 / parts[1])
    return net, x


def _growth(c: float, g_1: float, g_2: float, p: int) -> float:
    net, x = _two_layers(g_1, g_2)
    after = bounds.chain(measure(toys.rescaled(net, [c**p, c**-p]), x)).D
    return after / bounds.chain(measure(net, x)).D


def _growth_says(p: int) -> tuple[str, ...]:
    c, c_2, c_4 = power(p), power(2 * p), power(4 * p)
    return (
        rf"$W_1\to {c}W_1$, $W_2\to W_2/{c}$" if p > 1 else r"$W_1\to cW_1$, $W_2\to W_2/c$",
        rf"\to {c_2}\lVert W_1" if p > 1 else r"\to c^2\lVert W_1",
        f"g_1/{c_2}+g_2{c_2}$",
        f"(g_1+{c_4}g_2)",
        f"c**{4 * p} * g_2",
        f"the norm gets {c}, g_1 becomes g_1 / {c_2} and g_2 becomes g_2 {c_2}",
    )


EXERCISES = (
    Exercise(
        "ex-mls-factor",
        stars=1,
        minutes=10,
        hints=(
            "the Jacobian J at the layer's output is the identity",
            "so S is N on inputs of length 1, by (4), and D has the root of S",
        ),
        asked=each(between((0.3, 3.0), (1, 5)), _ends),
        numbers=FROM_1_TO_9,
        says=_ends_say,
    ),
    Exercise(
        "ex-mls-optimal-c",
        stars=2,
        minutes=15,
        hints=(
            "what happens to the norm of W_1, to g_1 and to g_2?",
            "the norm gets c, g_1 becomes g_1 / c^2 and g_2 becomes g_2 c^2",
        ),
        asked=each(between((0.5, 1.6), (0.3, 5.0), (0.3, 5.0)), _growth),
        numbers=FROM_1_TO_9,
        says=_growth_says,
    ),
)
