"""The layer that a network calls last, and how a number curves along what this layer returns."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .float64 import Float64Network
from .mixing import pulled_back
from .products import check_second_derivatives
from .recording import Call, Forward, graph_behind
from .rows import belonging, factors, gaussian


def dense_last_layer(network: Float64Network, forward: Forward) -> tuple[Call, Tensor]:
    """The call of the last layer, and its weight ``(C, K)``.

    Raises:
        ValueError: it is no linear layer of one vector a sample, or its weight is used elsewhere.
    """
    name = forward.last
    if name is None:
        raise ValueError("no linear or convolutional layer is called in the forward pass")
    calls, module = forward.calls[name], network.layers[name]
    names = {id(parameter): own for own, parameter in network.parameters.items()}
    own = names.get(id(module._parameters.get("weight")))
    n_uses = graph_behind(forward.output, network.parameters).uses[own] if own else 1
    shape = tuple(calls[0].value.shape)
    fault = None
    one_vector = len(shape) == 2 and calls[0].rows and calls[0].rows.place == "first"
    if network.kinds[name] != "Linear" or not one_vector:
        fault = (
            f"is a {network.kinds[name]} that reads shape {shape}, and must be a dense layer of "
            "one vector a sample"
        )
    elif not n_uses:
        fault = "has no part in the output; take it out of the forward"
    elif len(calls) > 1 or n_uses != 1:
        fault = "must be called once, and its weight used nowhere else"
    if fault:
        raise ValueError(f"the layer that the network calls last, {name!r}, {fault}")
    return calls[0], forward.weights[name]


def curvature(value: Tensor, call: Call) -> Iterator[Tensor]:
    """Second derivatives of ``value`` along what ``call`` returned.

    Yields:
        for each of the C numbers that the layer returns for a sample the rows ``(n, C)`` of this
        number in the matrices of all samples.

    Raises:
        ValueError: one sample's derivatives depend on what the layer returned for another; a
            function after the layer has no second derivative.
    """
    edge, shape = call.output_edge, call.output_shape
    check_second_derivatives(value, edge)
    (slope,) = torch.autograd.grad(value, [edge], create_graph=True, allow_unused=True)

    def along(direction: Tensor) -> Tensor:
        return pulled_back(slope, direction, [edge], [shape])[0]

    if slope is None or not slope.requires_grad:  # value is linear in what the layer returns
        yield from value.new_zeros(shape[1], *shape)
        return
    generator = torch.Generator().manual_seed(0)
    direction = gaussian(shape, slope, generator)
    factor = factors(shape[0], slope)
    pair = (along(each) for each in (direction, factor[:, None] * direction))
    if belonging(*pair, factor, foldable=False) is None:
        raise ValueError(
            "the loss for one sample depends on the output for another; pass a loss that is a sum "
            "or mean over samples"
        )
    for s in range(shape[1]):
        unit = torch.zeros_like(slope)
        unit[:, s] = 1.0
        yield along(unit)
