"""Parameter space: the norms behind Eq. (3), and the trace of the Hessian.

The norm of a weight's gradient is had without the gradient. A linear layer or a convolution
multiplies its weight with patches ``X`` (``K x P``, one column a position), so the gradient of
output k is ``delta_k X^T`` and its squared norm can be summed either over the entries of that
product or, where positions are few, as ``<delta_k (X^T X), delta_k>``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from flatlib.checks import check_targets
from flatlib.derivatives import (
    Float64Network,
    LayerDerivatives,
    checked_output,
    float64_network,
    parameter_jacobian,
    trainable_names,
)

MINIMUM_PROBES = 8


def one_an_axis(module: nn.Module, value: int | tuple[int, ...]) -> tuple[int, ...]:
    """A convolution's stride, dilation or padding, which may be one number for all its axes."""
    return (value,) * len(module.kernel_size) if isinstance(value, int) else tuple(value)


def padding_of(module: nn.Module) -> tuple[tuple[int, ...], str]:
    """What a convolution adds to its input: numbers a side, last axis first, and the mode."""
    if module.padding_mode != "zeros":  # then the layer reads this, not its padding
        return tuple(module._reversed_padding_repeated_twice), module.padding_mode
    mode = "constant"
    if not isinstance(module.padding, str):
        padding = one_an_axis(module, module.padding)
        return tuple(side for p in padding[::-1] for side in (p, p)), mode
    if module.padding == "valid":
        return (0,) * (2 * len(module.kernel_size)), mode
    sides = []
    dilations = one_an_axis(module, module.dilation)
    for size, dilation in zip(module.kernel_size[::-1], dilations[::-1], strict=True):
        total = dilation * (size - 1)
        sides += [total // 2, total - total // 2]
    return tuple(sides), mode


def pad(x: Tensor, sides: tuple[int, ...], mode: str) -> Tensor:
    """``x`` with what `padding_of` says added."""
    return F.pad(x, sides, mode=mode) if any(sides) else x


def patches(module: nn.Module, x: Tensor) -> Tensor:
    """What the weight of a layer multiplies, one column a position.

    Args:
        module: Linear, Conv1d or Conv2d.
        x: the layer's input, ``(n, ..., d)`` or ``(n, C_in, ...)``.

    Returns:
        ``(n, groups, K, P)``: K = d, or ``C_in / groups`` times the kernel's size; P positions.
    """
    n = x.shape[0]
    if isinstance(module, nn.Linear):
        return x.reshape(n, 1, -1, x.shape[-1]).mT
    padded = pad(x, *padding_of(module))
    kernel = module.kernel_size
    dilation, stride = (one_an_axis(module, each) for each in (module.dilation, module.stride))
    if isinstance(module, nn.Conv1d):
        padded = padded.unsqueeze(2)
        kernel, dilation, stride = (1, *kernel), (1, *dilation), (1, *stride)
    columns = F.unfold(padded, kernel, dilation=dilation, stride=stride)
    return columns.unflatten(1, (module.groups, -1))


def output_positions(module: nn.Module, gradient: Tensor) -> Tensor:
    """The gradient of one output at what a layer returns, one column a position.

    Args:
        module: Linear, Conv1d or Conv2d.
        gradient: ``(n, ..., d)`` or ``(n, C_out, ...)``.

    Returns:
        ``(n, groups, C_out / groups, P)``.
    """
    n = gradient.shape[0]
    if isinstance(module, nn.Linear):
        return gradient.reshape(n, 1, -1, gradient.shape[-1]).mT
    return gradient.reshape(n, module.groups, -1, gradient[0, 0].numel())


@dataclass(frozen=True)
class GradientNorms:
    """Squared norms of one layer's gradients, each ``(n,)``, summed over outputs."""

    weight: Tensor  # of the gradient of the weight, all calls and positions summed first
    bias: Tensor  # of the gradient of the bias
    untied: Tensor  # of the gradients of one copy of the weight a position
    output: Tensor  # of the gradient at the layer's output
    smallest_patch: Tensor  # squared norm of the smallest vector that W multiplies
    n_positions: int  # P over all calls; 1 for a dense layer


def gradient_norms(layer: LayerDerivatives) -> GradientNorms:
    r"""Squared norms of a layer's gradients without forming a gradient per sample.

    Args:
        layer: from `flatlib.derivatives.differentiate`.

    Returns:
        `GradientNorms`, every field but the last ``(n,)`` float64.

    Source: the terms of Eq. (3) that belong to this layer; for one position the weight's is
    :math:`\lVert J\rVert_F^2 \lVert x\rVert_2^2` of Eq. (4).
    """
    if layer.kind == "Linear" and len(layer.inputs) == 1 and layer.inputs[0].dim() == 2:
        return _dense_gradient_norms(layer.inputs[0], layer.output_gradients[0])
    X = _joined([patches(layer.module, x) for x in layer.inputs])
    n, groups, K, P = X.shape
    first = layer.output_gradients[0]
    N, C = len(first), output_positions(layer.module, first[0]).shape[2]
    # Per sample the product costs N C K P multiplications, the Gram form P^2 (K + N C).
    gram = X.mT @ X if P * (K + N * C) < N * C * K else None
    weight, bias = X.new_zeros((2, n)).unbind()
    position = X.new_zeros((n, groups, P))  # squared norm of the gradient at each position
    for gradients in zip(*layer.output_gradients, strict=True):  # one output's, of every call
        delta = _joined([output_positions(layer.module, each) for each in gradients])
        if gram is None:
            weight += _energy(delta @ X.mT)
        else:
            weight += (delta @ gram).mul_(delta).sum(dim=(1, 2, 3))
        bias += _energy(delta.sum(dim=-1))
        position += delta.square().sum(dim=2)
    patch = X.square().sum(dim=2)
    return GradientNorms(
        weight,
        bias,
        untied=(position * patch).sum(dim=(1, 2)),
        output=position.sum(dim=(1, 2)),
        smallest_patch=patch.amin(dim=(1, 2)),
        n_positions=P,
    )


def _dense_gradient_norms(x: Tensor, gradients: tuple[Tensor, ...]) -> GradientNorms:
    """The norms where W multiplies one vector a sample: Eq. (4)."""
    input_energy = torch.linalg.vector_norm(x, dim=1).square()
    output = sum(_energy(gradient) for gradient in gradients)
    weight = output * input_energy
    return GradientNorms(weight, output, weight, output, input_energy, 1)


def _joined(parts: list[Tensor]) -> Tensor:
    """Tensors of several calls side by side along the positions; one call's as it is."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def _energy(values: Tensor) -> Tensor:
    """Squared norm of each sample's numbers."""
    return torch.linalg.vector_norm(values.flatten(1), dim=1).square()


@dataclass(frozen=True)
class HessianTrace:
    """Trace of the loss's Hessian."""

    estimate: float  # Tr H, Eq. (2), for L = sum_i ||f(x_i) - y_i||^2 / (2 n)
    standard_error: float  # 0.0 for the exact method
    n_probes: int  # Hessian-vector products that it took


class _HessianProducts:
    """Products of vectors with the Hessian of a scalar of the network's outputs."""

    def __init__(self, network: Float64Network, x: Tensor, y: Tensor, residual_only: bool):
        with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
            output = checked_output(network, x)
        self.parameters = [network.parameters[name] for name in trainable_names(network)]
        check_targets(y, output)
        residual = output - y.double().reshape(output.shape)
        if residual_only:
            scalar = (residual.detach() * output).sum() / len(x)
        else:
            scalar = residual.square().sum() / (2 * len(x))
        found = torch.autograd.grad(
            scalar, self.parameters, create_graph=True, materialize_grads=True
        )
        self.gradient = torch.cat([part.flatten() for part in found])

    def __call__(self, vector: Tensor) -> Tensor:
        """``H v`` for ``v`` of shape ``(m,)``."""
        if not self.gradient.requires_grad:
            return torch.zeros_like(vector)
        found = torch.autograd.grad(
            self.gradient, self.parameters, vector, retain_graph=True, materialize_grads=True
        )
        return torch.cat([part.flatten() for part in found])

    def trace(self) -> float:
        """The exact trace, one product for each of the m parameters."""
        total = 0.0
        unit = torch.zeros_like(self.gradient)
        for j in range(unit.numel()):
            unit[j] = 1.0
            total += self(unit)[j].item()
            unit[j] = 0.0
        return total


def hessian_trace(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    method: str = "exact",
    *,
    seed: int = 0,
    target_standard_error: float | None = None,
    max_probes: int = 10_000,
) -> HessianTrace:
    r"""Trace of the Hessian of the loss, the sharpness of Eq. (2), at any parameters.

    .. math:: S(\theta) = \operatorname{Tr} \nabla^2_\theta \frac{1}{2n}
       \sum_i \lVert f(x_i) - y_i\rVert^2

    Args:
        net: a network with at least one Linear, Conv1d or Conv2d layer, in eval mode. Frozen
            parameters are left out.
        x: ``(n, *input_shape)``.
        y: targets, ``(n, N)``.
        method: ``"exact"``, one Hessian-vector product for each of the m parameters, or
            ``"hutchinson"``, the mean of :math:`z^\top H z` over random signs z.
        seed: of the random signs.
        target_standard_error: ``"hutchinson"`` stops once its standard error is no more; by
            default 1 % of the estimate's size.
        max_probes: ``"hutchinson"`` stops here in any case; read ``standard_error``.

    Returns:
        `HessianTrace`.

    Raises:
        TypeError, ValueError: as `flatlib.measure`; targets of another shape; unknown method.

    Source: Eq. (2); at interpolation equal to Eq. (3), by Lemma A.1.

    >>> import flatlib
    >>> net = flatlib.nets.linear(2, 1)  # L is quadratic: Tr H = ||x||^2
    >>> hessian_trace(net, torch.tensor([[3.0, 4.0]]), torch.zeros(1, 1)).estimate
    25.0
    """
    if method not in ("exact", "hutchinson"):
        raise ValueError(f'method must be "exact" or "hutchinson", got {method!r}')
    if target_standard_error is not None and not target_standard_error > 0:
        raise ValueError(f"target_standard_error must be positive, got {target_standard_error}")
    if max_probes < MINIMUM_PROBES:
        raise ValueError(f"max_probes must be at least {MINIMUM_PROBES}, got {max_probes}")
    with float64_network(net) as network:
        products = _HessianProducts(network, x, y, residual_only=False)
        if method == "exact":
            return HessianTrace(products.trace(), 0.0, products.gradient.numel())
        generator = torch.Generator().manual_seed(seed)
        mean, squares = 0.0, 0.0
        for n_probes in range(1, max_probes + 1):
            signs = torch.randint(0, 2, products.gradient.shape, generator=generator)
            z = (2.0 * signs - 1.0).to(products.gradient)
            value = float(z @ products(z))
            step = value - mean
            mean += step / n_probes
            squares += step * (value - mean)
            if n_probes < MINIMUM_PROBES:
                continue
            standard_error = math.sqrt(squares / (n_probes - 1) / n_probes)
            target = target_standard_error or 0.01 * abs(mean)
            if standard_error <= target:
                break
        return HessianTrace(mean, standard_error, n_probes)


def sharpness_gap(net: nn.Module, x: Tensor, y: Tensor) -> float:
    r"""What Eq. (3) leaves out away from interpolation, exactly.

    .. math:: \operatorname{Tr} H - \frac1n\sum_i\lVert\nabla_\theta f(x_i)\rVert_F^2
       = \frac1n\sum_i\sum_j (f(x_i)-y_i)^\top \partial^2 f(x_i)/\partial\theta_j^2

    Args:
        net: as for `hessian_trace`; one Hessian-vector product for each parameter.
        x: ``(n, *input_shape)``.
        y: targets, ``(n, N)``.

    Returns:
        The difference, in the units of sharpness; of either sign.

    Raises:
        TypeError, ValueError: as `hessian_trace`.

    Source: proof of Lemma A.1, Eq. (16).

    >>> import flatlib
    >>> net = flatlib.nets.linear(2, 1)  # linear in its parameters: no second derivative
    >>> sharpness_gap(net, torch.ones(1, 2), torch.zeros(1, 1))
    0.0
    """
    with float64_network(net) as network:
        return _HessianProducts(network, x, y, residual_only=True).trace()


def adaptive_sharpness(net: nn.Module, x: Tensor) -> float:
    r"""Elementwise-adaptive sharpness at interpolation, for toys (n N backward passes).

    .. math:: \frac1n\sum_i\lVert\theta\odot\nabla_\theta f(x_i)\rVert_F^2

    Args:
        net: as for `flatlib.derivatives.parameter_jacobian`.
        x: ``(n, *input_shape)``.

    Returns:
        A float; unchanged when weights are rescaled and the output is not.

    Raises:
        TypeError, ValueError: as `flatlib.measure`.

    Source: the paper's later versions, after Kwon et al. (2021).

    >>> import flatlib
    >>> net = flatlib.nets.linear(1, 1).double()
    >>> w = net.linear1.weight.item()
    >>> abs(adaptive_sharpness(net, torch.tensor([[2.0]])) - 4 * w**2) < 1e-15
    True
    """
    jacobian = parameter_jacobian(net, x)
    theta = torch.cat([p.detach().double().flatten() for p in net.parameters() if p.requires_grad])
    return float((jacobian * theta).square().sum() / len(x))
