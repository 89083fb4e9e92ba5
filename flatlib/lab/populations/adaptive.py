"""Elementwise-adaptive sharpness and sensitivity in closed form, all samples at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flatlib.derivatives import (
    by_parts,
    differentiate,
    float64_network,
    part_size,
    plan,
    sample_parameter_gradients,
    trainable_names,
)
from flatlib.patches import output_positions, patches


class _Products:
    """Squared norms of one layer's weight and bias times their gradients, added up by output."""

    def __init__(self, module: nn.Module, inputs: tuple[Tensor, ...], _: int):
        self.module = module
        self.shapes = [x.shape for x in inputs]
        self.patches = torch.cat([patches(module, x) for x in inputs], dim=-1)  # (n, groups, K, P)
        groups, K = self.patches.shape[1:3]
        self.weight = module.weight.detach().reshape(groups, -1, K)
        self.weight_energy = self.bias_energy = self.patches.new_zeros(len(self.patches))

    def add(self, gradients: Sequence[Tensor]) -> None:
        """Take in those of k outputs at what the layer returned, ``(n, k, ...)`` for each call."""
        for output in zip(*(each.unbind(dim=1) for each in gradients), strict=True):
            self._add_one(output)

    def _add_one(self, gradients: Sequence[Tensor]) -> None:
        pairs = zip(gradients, self.shapes, strict=True)
        delta = torch.cat([output_positions(self.module, *pair) for pair in pairs], dim=-1)
        if delta.shape[-1] == 1:  # the gradient is an outer product
            read, written = self.patches[..., 0].square(), delta[..., 0].square()
            energy = torch.einsum("ngk,gck,ngc->n", read, self.weight.square(), written)
        else:
            gradient = delta @ self.patches.mT
            energy = (self.weight * gradient).square().sum(dim=(1, 2, 3))
        self.weight_energy = self.weight_energy + energy
        if self.module.bias is not None:
            bias = self.module.bias.detach().reshape(delta.shape[1:3])
            gradient = delta.sum(dim=-1)
            self.bias_energy = self.bias_energy + (bias * gradient).square().sum(dim=(1, 2))


@dataclass(frozen=True)
class Adaptive:
    """Norms of derivatives, each multiplied by what it is taken along; ``(n,)`` float64."""

    parameters: Tensor  # ||theta * grad_theta f||_F^2, whose mean is the adaptive sharpness
    first_weight: Tensor  # ||W * grad_W f||_F^2 of the first layer
    inputs: Tensor  # ||diag(x) grad_x f||_F^2
    rows: int  # H, of the first layer's weight
    first_is_dense: bool  # the first layer is a dense linear map of the input

    def sides(self) -> tuple[float, float]:
        """Both sides of Eq. N.14 at the sample where it is tightest; NaN without a dense layer."""
        if not self.first_is_dense:
            return math.nan, math.nan
        bound = self.rows * self.first_weight
        worst = int(torch.where(self.inputs > 0, self.inputs / bound, 0.0).argmax())
        return float(self.inputs[worst]), float(bound[worst])


def adaptive(net: nn.Module, x: Tensor) -> Adaptive:
    r"""What :math:`\lVert\theta\odot\nabla_\theta f\rVert_F^2` and Eq. N.14 need.

    .. math:: \lVert W\odot\delta X^\top\rVert_F^2
       = (\delta\odot\delta)^\top(W\odot W)(x\odot x)\quad\text{for one position}

    Linear layers and convolutions are taken all samples at once, as the gradient of their weight
    is made of what they read and of the gradient at what they return. Other parameters take n N
    backward passes. The slow way is `flatlib.sharpness.adaptive_sharpness`.

    Args:
        net: as for `flatlib.measure`, without transposed convolutions.
        x: ``(n, *input_shape)``.

    Raises:
        TypeError, ValueError, MemoryError: as `flatlib.measure`.

    >>> import flatlib
    >>> net = flatlib.nets.linear(1, 1).double()
    >>> found = adaptive(net, torch.tensor([[2.0]]))
    >>> bool(abs(found.parameters - 4 * net.linear1.weight.item() ** 2) < 1e-15)
    True
    """
    with float64_network(net) as network:
        planned = plan(network, x, at_layers=False)
        size = part_size(None, x.device, planned.cost)

        def part(rows: Tensor, start: int) -> Adaptive:
            found = differentiate(network, rows, start, planned, size, _Products)
            total = torch.zeros(len(rows), dtype=torch.float64)
            left = set(trainable_names(network))
            for layer in found.layers:
                own = network.owned[layer.name]
                for counted, kind, energy in (
                    (layer.owns_weight, "weight", layer.collected.weight_energy),
                    (layer.owns_bias, "bias", layer.collected.bias_energy),
                ):
                    if counted:
                        total += energy
                        left.discard(own[kind].name)
            names = tuple(name for name in trainable_names(network) if name in left)
            if names:
                total += _one_by_one(network, rows, names)
            first = found.layers[0]
            read = first.inputs[0]
            moved = found.x.flatten(1)[:, None] * found.jacobian
            return Adaptive(
                parameters=total,
                first_weight=first.collected.weight_energy,
                inputs=moved.square().sum(dim=(1, 2)),
                rows=len(first.weight),
                first_is_dense=first.kind == "Linear"
                and read.shape[1:].numel() == read.shape[-1]
                and torch.equal(read.flatten(1), found.x.flatten(1)),
            )

        parts = by_parts(x, planned, size, part)
    return Adaptive(
        *(
            torch.cat([getattr(each, name) for each in parts])
            for name in ("parameters", "first_weight", "inputs")
        ),
        parts[0].rows,
        all(each.first_is_dense for each in parts),
    )


def _one_by_one(network, x: Tensor, names: tuple[str, ...]) -> Tensor:
    theta = [network.parameters[name].detach() for name in names]
    return torch.stack(
        [
            sum(
                (weight * part).square().sum()
                for gradient in rows
                for weight, part in zip(theta, gradient, strict=True)
            )
            for rows in sample_parameter_gradients(network, x, names)
        ]
    )
