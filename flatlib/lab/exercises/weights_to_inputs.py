"""Exercises on the way from weights to inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from flatlib import derivatives, measure, nets
from flatlib.lab.exercises.exercise import FROM_1_TO_9, Exercise, Scaled, each, times
from flatlib.measurement import Measurement

WIDTHS = (4, 6, 5, 3)


def _inputs(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(5, WIDTHS[0], dtype=torch.float64, generator=generator)


def _radii(seed: int, k: int) -> list[tuple[tuple, Tensor]]:
    """Of two networks f their measurement, and the radius of k f, which is measured too."""
    x, found = _inputs(seed), []
    for one in range(2):
        net = nets.mlp(WIDTHS, "tanh", seed=seed + one)
        found.append(((measure(net, x),), _radius(measure(Scaled(net, k), x))))
    return found


def _radius(m: Measurement) -> Tensor:
    first = m.layers[0]
    return first.weight_norm * first.weight_gradient_energy.sqrt() / m.input_norm


def _radius_says(k: int) -> tuple[str, ...]:
    if k == 1:
        return (
            "for each sample, from the record `m` that `measure` returns.",
            "||grad_W f||_F",
            "`m.layers[0].weight_norm *",
            "return (first.weight_norm",
            "the root of weight_gradient_energy, and input_norm",
        )
    return (
        f"for each sample and for the network ${k}f$, from the record `m` that `measure` returns "
        "for $f$.",
        f"||grad_W ({k} f)||_F",
        f"`{k} * m.layers[0].weight_norm *",
        f"return ({k} * first.weight_norm",
        f"the root of weight_gradient_energy, and input_norm; the gradient of {k} f is {k} times "
        "that of f",
    )


def _jacobians(seed: int, k: int) -> list[tuple]:
    """dW-free part of a network's Jacobian, ``(n, H, N)``, and of which network it is."""
    x, cases = _inputs(seed), []
    for one in range(2):
        net = nets.mlp(WIDTHS, "tanh", seed=seed + one).double()
        cases.append((derivatives.input_jacobian(net[2:], net[1](x)).mT,))
    return cases


def _bias_gradient(J: Tensor, k: int) -> Tensor:
    """The gradient by b, where k b is added where J is taken, by autograd on a linear readout."""
    norms = []
    for one in J:
        bias = torch.zeros(one.shape[0], dtype=torch.float64, requires_grad=True)
        outputs = one.mT @ (k * bias)
        rows = [torch.autograd.grad(out, bias, retain_graph=True)[0] for out in outputs]
        norms.append(torch.linalg.matrix_norm(torch.stack(rows)))
    return torch.stack(norms)


def _bias_says(k: int) -> tuple[str, ...]:
    c = times(k)
    own = "" if k == 1 else f", which enters as $z=Wx+{k}b$"
    return (
        f"Give the first layer a bias $b${own}.",
        f"$z=Wx+{c}b$, so",
        rf"\partial b_j={c}J_{{jk}}$",
        rf"\rVert_F={c}\lVert J\rVert_F$",
        rf"\lVert W\rVert_2\lVert\nabla_bf\rVert_F{'' if k == 1 else f'/{k}'}$, which",
        f"return {'' if k == 1 else f'{k} * '}J.norm",
        f"z = W x + {'' if k == 1 else f'{k} '}b:",
    )


EXERCISES = (
    Exercise(
        "ex-weights-radius",
        stars=1,
        minutes=5,
        hints=(
            "you need three fields of m and of m.layers[0]",
            "weight_norm, the root of weight_gradient_energy, and input_norm",
        ),
        asked=_radii,
        numbers=FROM_1_TO_9,
        says=_radius_says,
    ),
    Exercise(
        "ex-weights-bias",
        stars=2,
        minutes=10,
        hints=(
            "which z_j does b_j reach?",
            "z = W x + b: what is the derivative of z_j by b_j, and what does the chain rule make "
            "of it?",
        ),
        asked=each(_jacobians, _bias_gradient),
        numbers=FROM_1_TO_9,
        says=_bias_says,
    ),
)
