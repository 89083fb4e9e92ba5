"""One forward pass and N backward passes, for all samples at once, in float64.

The network is differentiated through float64 copies of its parameters and buffers; the
user's own are never written to. Hooks on each linear and convolutional layer record what the
layer reads and the gradients there. Those at what it returns are handed on, one output's at a
time, and not kept. No gradient of a parameter is formed: `flatlib.sharpness` gets their norms
from these.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .float64 import Float64Network, float64_network
from .others import sample_energies, sample_parameter_gradients
from .passes import (
    Derivatives,
    LayerDerivatives,
    by_parts,
    differentiate,
    plan,
    trainable_names,
)
from .probing import checked_output

__all__ = [
    "Derivatives",
    "Float64Network",
    "LayerDerivatives",
    "by_parts",
    "checked_output",
    "differentiate",
    "float64_network",
    "input_jacobian",
    "parameter_jacobian",
    "plan",
    "sample_energies",
    "sample_parameter_gradients",
    "trainable_names",
]


def input_jacobian(net: nn.Module, x: Tensor, max_memory: int = 2**28) -> Tensor:
    """Jacobian of the outputs with respect to the inputs, for every sample.

    Args:
        net: a network with at least one linear or convolutional layer, in eval mode.
        x: ``(n, *input_shape)``.
        max_memory: bytes that one part of the batch may take while it is differentiated.

    Returns:
        ``(n, N, M)`` float64: entry ``[i, k]`` is the gradient of output k at sample i, which
        is the transpose of the paper's :math:`\\nabla_x f`.

    Raises:
        TypeError, ValueError: as `flatlib.measure`.

    Source: Eq. (4).

    >>> import flatlib
    >>> net = flatlib.nets.linear(3, 2).double()
    >>> torch.equal(input_jacobian(net, torch.ones(1, 3))[0], net.linear1.weight)
    True
    """
    with float64_network(net) as network:
        planned = plan(network, x)

        def jacobian(rows: Tensor, start: int) -> Tensor:
            return differentiate(network, rows, start, planned).jacobian

        return torch.cat(by_parts(x, planned, max_memory, jacobian))


def parameter_jacobian(net: nn.Module, x: Tensor) -> Tensor:
    """Jacobian of the outputs with respect to all trainable parameters: slow, for toys.

    Args:
        net: a network with at least one linear or convolutional layer, in eval mode.
        x: ``(n, *input_shape)``.

    Returns:
        ``(n, N, m)`` float64, m entries in the order of ``net.parameters()``, frozen ones left
        out. Takes n N m numbers of memory and n N backward passes.

    Raises:
        TypeError, ValueError: as `flatlib.measure`.

    Source: Eq. (3), whose norm is over these entries.

    >>> import flatlib
    >>> net = flatlib.nets.linear(3, 1)
    >>> parameter_jacobian(net, torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([[[1., 2., 3.]]], dtype=torch.float64)
    """
    with float64_network(net) as network:
        checked_output(network, x)
        names = trainable_names(network)
        samples = sample_parameter_gradients(network, x, names)
        return torch.stack([torch.stack([_flat(row) for row in rows]) for rows in samples])


def _flat(gradients: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients])
