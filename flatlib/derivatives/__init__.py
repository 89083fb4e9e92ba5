"""One forward pass and N backward passes, for all samples at once, in float64.

::

    net ──► copying ──► float64 ──► recording ──► mixing ──► probing ──► passes ──► (sharpness)
             a deep      how it      what calls     whose      on a few    N backward
             copy        is run      and acts       rows       samples     passes

``copying`` makes a deep float64 copy; the user's network is only read, so other threads may run it.
``at_rest`` lets each pass find the copy as no pass has touched it: what the network keeps from one
pass for the next is put back, and tables that it made of parameters before are emptied. ``hooks``
refuses hooks that change gradients.
``float64`` runs the copy: casts to a lower precision come out in float64, fused attention becomes
the same mathematics with its linear maps called one by one (``attention``).

``recording`` notes each call of a linear or convolutional layer, and each place where another
parameter scales or shifts the rows of the batch: a normalization, a position table, a class token,
or where rows of a table are looked up. What is looked up for indices takes the place of the input.
``mixing`` finds out how the rows at each of these places belong to the samples (``rows``), by one
backward pass that is held against the N passes, or by two. A layer whose rows belong to no sample
counts among the other parameters; one that mixes them is refused.

``probing`` runs the copy on a few samples in other company first. Where the batch gives these
samples another output, the network is random, or lets samples influence each other, and refused.
Where a function of PyTorch's is replaced, one goes once more with PyTorch's own, and has to have
the same output.
From that run, ``memory`` knows what a sample costs.
Each part is run once more in two halves, every other sample in each, and the sample that is padded
most alone, for choices over the batch. A sequence of PyTorch's own layers (``plain``) is known to
do none of this, and nothing is tried out on it.

``passes`` takes the N backward passes. Gradients at what layers read are kept, since the Jacobian
and the MLS of layers are made of them; those at what layers return are handed on, one output's at a
time. No gradient of a weight is formed: `flatlib.sharpness` gets their norms from these. Gradients
of the other parameters are summed at the places where these act. What is left, such as a
parameter that a function is applied to first, takes ``others``: ``torch.func.vmap`` over the
samples, held against plain gradients of one of them, or, where an operation does not allow for it,
one backward pass a sample and output.

``last`` takes second derivatives, along what the last layer returns.

``products`` is for networks whose N backward passes are too dear: products of vectors with the
Jacobian and its transpose, which `flatlib.matrix_free` iterates.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flatlib.checks import check_max_memory

from .float64 import Float64Network, autograd_faults_told, float64_network, in_full
from .last import curvature, dense_last_layer
from .memory import check_fits, part_size
from .others import sample_energies, sample_parameter_gradients
from .passes import (
    Derivatives,
    LayerDerivatives,
    Plan,
    by_parts,
    differentiate,
    plan,
    trainable_names,
)
from .plain import is_plain_sequence
from .probing import checked_forward, checked_output
from .products import (
    JacobianProducts,
    SampleGradients,
    check_custom_functions,
    check_second_derivatives,
    plan_products,
)
from .recording import twice_if_single

__all__ = [
    "Derivatives",
    "Float64Network",
    "JacobianProducts",
    "LayerDerivatives",
    "Plan",
    "SampleGradients",
    "autograd_faults_told",
    "by_parts",
    "check_custom_functions",
    "check_fits",
    "check_second_derivatives",
    "checked_forward",
    "checked_output",
    "curvature",
    "dense_last_layer",
    "differentiate",
    "float64_network",
    "twice_if_single",
    "in_full",
    "input_jacobian",
    "is_plain_sequence",
    "parameter_jacobian",
    "part_size",
    "plan",
    "plan_products",
    "sample_energies",
    "sample_parameter_gradients",
    "trainable_names",
]


def input_jacobian(net: nn.Module, x: Tensor, max_memory: int = 2**28) -> Tensor:
    """Jacobian of the outputs with respect to the inputs, for every sample.

    Args:
        net: a network with at least one linear or convolutional layer, in eval mode.
        x: ``(n, *input_shape)``, or indices as for `flatlib.measure`.
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
    check_max_memory(max_memory)
    with float64_network(net) as network:
        planned = plan(network, x, at_layers=False)

        def jacobian(rows: Tensor, start: int) -> Tensor:
            return differentiate(network, rows, start, planned, max_memory).jacobian

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
