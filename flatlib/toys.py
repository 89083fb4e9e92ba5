"""Exact constructions: networks whose sharpness and Jacobian are known in closed form.

Each one decides a question of a chapter or a check: two networks of equal sharpness and opposite
dimensionality, one function at two sharpnesses, a convolution whose weight gradient cancels.
All are float64.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flatlib import nets

POSITIVELY_HOMOGENEOUS = (nn.Flatten, nn.Identity, nn.ReLU, nn.LeakyReLU)


def from_weights(matrices: Sequence[Tensor], activation: str = "identity") -> nn.Sequential:
    """Bias-free network with the weights you give.

    Computes ``f(x) = W_L a(... a(W_1 x))``.

    Args:
        matrices: ``W_1, ..., W_L``, each ``(outputs, inputs)``; copied as float64.
        activation: a name that `flatlib.nets.mlp` knows.

    Returns:
        A float64 network with layers ``linear1``, ``linear2``, ...

    Raises:
        TypeError: a matrix that is no tensor.
        ValueError: no matrix, one that is not two-dimensional, or that the one before does not fit.

    >>> net = from_weights([torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.ones(1, 2)])
    >>> net(torch.ones(1, 2).double())
    tensor([[5.]], dtype=torch.float64, grad_fn=<MmBackward0>)
    """
    matrices = list(matrices)
    if not matrices:
        raise ValueError("there is no matrix; pass at least one")
    for matrix in matrices:
        if not isinstance(matrix, Tensor):
            raise TypeError(
                f"each weight must be a torch.Tensor, got {type(matrix).__name__}; use "
                "torch.as_tensor"
            )
    shapes = [tuple(matrix.shape) for matrix in matrices]
    if any(len(shape) != 2 for shape in shapes):
        raise ValueError(f"each weight must be a matrix (outputs, inputs), got shapes {shapes}")
    if any(after[1] != before[0] for before, after in zip(shapes, shapes[1:], strict=False)):
        raise ValueError(f"each matrix must read what the one before writes, got shapes {shapes}")
    widths = (shapes[0][1], *(shape[0] for shape in shapes))
    net = nets.mlp(widths, activation, bias=False).double()
    with torch.no_grad():
        for index, matrix in enumerate(matrices, start=1):
            net.get_submodule(f"linear{index}").weight.copy_(matrix)
    return net


def running_example() -> tuple[nn.Sequential, Tensor, Tensor]:
    r"""The network that the book works by hand: two inputs, two units, two outputs, two samples.

    .. math:: f(x)=W_2\,\mathrm{relu}(W_1x),\quad
       W_1=\begin{pmatrix}2&0\\0&1\end{pmatrix},\quad
       W_2=\begin{pmatrix}1&-1\\1&1\end{pmatrix},\quad
       x_1=\begin{pmatrix}3\\4\end{pmatrix},\quad x_2=\begin{pmatrix}8\\6\end{pmatrix}

    Both units are on at both samples, whose lengths are 5 and 10, so the Jacobian is
    :math:`W_2W_1` there: the columns are orthogonal, and the singular values are
    :math:`2\sqrt2` and :math:`\sqrt2`. The targets are the outputs, so the loss is 0 and S is the
    trace of the Hessian.

    Returns:
        The network in float64, the inputs ``(2, 2)`` and the targets ``(2, 2)``.

    Source: ours.

    >>> import flatlib
    >>> net, x, y = running_example()
    >>> m = flatlib.measure(net, x)
    >>> round(m.sharpness), round(m.singular_values.square().sum(1).mean().item())
    (594, 10)
    """
    W_1 = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    W_2 = torch.tensor([[1.0, -1.0], [1.0, 1.0]])
    net = from_weights([W_1, W_2], activation="relu")
    x = torch.tensor([[3.0, 4.0], [8.0, 6.0]], dtype=torch.float64)
    return net, x, net(x).detach()


def orthonormal_rows(count: int, dimension: int, seed: int = 0) -> Tensor:
    """Matrix with orthonormal rows in a random direction.

    Args:
        count: number of rows, at most ``dimension``.
        dimension: length of each row.
        seed: seed of the direction.

    Returns:
        ``(count, dimension)`` float64.

    Raises:
        ValueError: more rows than dimensions.

    >>> rows = orthonormal_rows(2, 5)
    >>> torch.allclose(rows @ rows.T, torch.eye(2).double())
    True
    """
    if not 1 <= count <= dimension:
        raise ValueError(f"count must lie between 1 and dimension {dimension}, got {count}")
    generator = torch.Generator().manual_seed(seed)
    square = torch.randn(dimension, count, dtype=torch.float64, generator=generator, device="cpu")
    return torch.linalg.qr(square).Q.T.contiguous()


def with_singular_values(values: Sequence[float], inputs: int, seed: int = 0) -> nn.Sequential:
    """One linear layer whose Jacobian has the singular values you give, at every input.

    Its sharpness is N times the mean of ``||x||^2``, whatever the values: Eq. (3).

    Args:
        values: N singular values, finite and not negative.
        inputs: input dimension M, at least N.
        seed: seed of the directions.

    Returns:
        A float64 network from ``(n, M)`` to ``(n, N)``.

    Raises:
        ValueError: no value, a negative or infinite one or NaN, or more values than inputs.

    >>> torch.linalg.svdvals(with_singular_values([3.0, 2.0], inputs=4).linear1.weight.detach())
    tensor([3.0000, 2.0000], dtype=torch.float64)
    """
    diagonal = torch.as_tensor(values, dtype=torch.float64)
    if not bool(((diagonal >= 0) & (diagonal < math.inf)).all()):
        raise ValueError(f"singular values must be finite and not negative, got {list(values)}")
    count = diagonal.numel()
    if diagonal.dim() != 1 or not 1 <= count <= inputs:
        raise ValueError(
            f"values must be a list of 1 to {inputs} singular values, as many as inputs at most, "
            f"got {list(values)}"
        )
    left = orthonormal_rows(count, count, seed)
    right = orthonormal_rows(count, inputs, seed + 1)
    return from_weights([left @ (diagonal[:, None] * right)])


def dimensionality_pair(
    outputs: int, inputs: int, gain: float = 1.0
) -> tuple[nn.Sequential, nn.Sequential]:
    r"""Two interpolating networks: same data, same sharpness, opposite local dimensionality.

    Both are two-layer linear networks ``f(x) = V W x``, and on the first input axis both compute
    ``f(a e_1) = gain * a * e_1``, so they interpolate the same targets there. The round one has
    ``V = W = sqrt(gain) I``: N equal singular values, dimensionality N. The thin one has rank 1,
    ``V = v e_1 e_1^T`` and ``W = w e_1 e_1^T`` with ``v w = gain``: dimensionality 1. On
    that data ``S = (||V||_F^2 + N ||W e_1||^2) mean(a^2)``, which is ``2 N gain mean(a^2)`` for
    the round one and, with ``v^2 = gain t`` and ``w^2 = gain / t``, ``gain (t + N / t) mean(a^2)``
    for the thin one: equal at ``t = N + sqrt(N^2 - N)``.

    Args:
        outputs: N, at least 1.
        inputs: M, at least N.
        gain: positive factor of the map on the data.

    Returns:
        The round network and the thin one, each from ``(n, M)`` to ``(n, N)``.

    Raises:
        ValueError: fewer inputs than outputs, or a gain that is not positive.

    >>> round_net, thin_net = dimensionality_pair(2, 3)
    >>> axis = torch.tensor([[1.0, 0.0, 0.0]]).double()
    >>> torch.allclose(round_net(axis), thin_net(axis))
    True
    """
    if not 1 <= outputs <= inputs:
        raise ValueError(f"outputs must lie between 1 and inputs {inputs}, got {outputs}")
    if not gain > 0:
        raise ValueError(f"gain must be positive, got {gain}")
    eye = torch.eye(outputs, inputs, dtype=torch.float64)
    corner = torch.zeros_like(eye)
    corner[0, 0] = 1
    square = slice(0, outputs)
    t = outputs + math.sqrt(outputs**2 - outputs)
    round_net = from_weights([math.sqrt(gain) * eye, math.sqrt(gain) * eye[:, square]])
    thin_net = from_weights([math.sqrt(gain / t) * corner, math.sqrt(gain * t) * corner[:, square]])
    return round_net, thin_net


def rescaled(net: nn.Sequential, factors: Sequence[float]) -> nn.Sequential:
    """The same function at other parameters: layer l's weights times ``factors[l]``.

    ReLU passes positive factors through, so weights may be multiplied by positive numbers whose
    product is 1. Biases follow: layer l's is multiplied by ``factors[0] * ... * factors[l]``.

    Args:
        net: a sequence of Linear layers and positively homogeneous activations; not changed.
        factors: one positive number per Linear layer, product 1.

    Returns:
        A rescaled copy.

    Raises:
        TypeError: a layer through which factors do not pass.
        ValueError: wrong number of factors, a factor that is not positive, or a product other
            than 1.

    Source: the construction of Dinh et al. (2017), which the paper cites in App. D.3.

    >>> net = from_weights([torch.ones(1, 1), torch.ones(1, 1)], activation="relu")
    >>> [p.item() for p in rescaled(net, (4.0, 0.25)).parameters()]
    [4.0, 0.25]
    """
    linears = [layer for layer in net if isinstance(layer, nn.Linear)]
    for name, layer in net.named_children():
        if not isinstance(layer, (nn.Linear, *POSITIVELY_HOMOGENEOUS)):
            raise TypeError(
                f"layer {name!r} ({type(layer).__name__}) does not pass a factor through; "
                "use ReLU or identity activations"
            )
    if len(factors) != len(linears):
        raise ValueError(f"need one factor per Linear layer ({len(linears)}), got {len(factors)}")
    if not all(factor > 0 for factor in factors):
        raise ValueError(f"factors must be positive, got {list(factors)}")
    if not math.isclose(math.prod(factors), 1.0, rel_tol=1e-12):
        raise ValueError(f"the product of the factors must be 1, got {math.prod(factors)}")
    result = copy.deepcopy(net)
    passed = 1.0
    with torch.no_grad():
        copies = (layer for layer in result if isinstance(layer, nn.Linear))
        for layer, factor in zip(copies, factors, strict=True):
            passed *= factor
            layer.weight.mul_(factor)
            if layer.bias is not None:
                layer.bias.mul_(passed)
    return result


def cancelling_convolution(side: int = 6, seed: int = 0) -> tuple[nn.Sequential, Tensor]:
    r"""A convolution whose weight gradient is exactly zero while its input Jacobian is not.

    ``f(x) = sum_p (-1)^p (W * x)_p`` with a circular 3x3 convolution, at the constant image 1.
    Every tap reads the same constant, so ``grad_W f = sum_p (-1)^p = 0`` tap by tap, and
    ``grad_x f = (sum_t (-1)^t w_t) (-1)^q`` has norm ``side * |sum_t (-1)^t w_t|``. The readout
    is frozen, so ``W`` is the only parameter: B = C = D = 0 < A in Eq. (28).

    Args:
        side: height and width of the image, even and at least 4.
        seed: seed of the nine weights.

    Returns:
        The network, from ``(n, 1, side, side)`` to ``(n, 1)``, and the constant image
        ``(1, 1, side, side)``.

    Raises:
        ValueError: an odd side (the signs would not alternate around the edge) or one below 4.

    >>> net, image = cancelling_convolution(side=4)
    >>> net(image).backward()
    >>> net.convolution.weight.grad.abs().max().item()
    0.0
    """
    if side % 2 or side < 4:
        raise ValueError(f"side must be even and at least 4, got {side}")
    convolution = nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular", bias=False).double()
    readout = nn.Linear(side * side, 1, bias=False).double()
    generator = torch.Generator().manual_seed(seed)
    taps = torch.randn(1, 1, 3, 3, dtype=torch.float64, generator=generator, device="cpu")
    place = torch.arange(side)
    signs = 1.0 - 2.0 * ((place[:, None] + place[None, :]) % 2)
    with torch.no_grad():
        convolution.weight.copy_(taps)
        readout.weight.copy_(signs.reshape(1, -1))
    readout.requires_grad_(False)
    net = nn.Sequential()
    net.add_module("convolution", convolution)
    net.add_module("flatten", nn.Flatten())
    net.add_module("readout", readout)
    return net, torch.ones(1, 1, side, side, dtype=torch.float64)
