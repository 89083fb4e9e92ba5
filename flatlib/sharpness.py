"""Parameter space: the norms behind Eq. (3), and the trace of the Hessian.

The norm of a weight's gradient is had without the gradient. A linear layer or a convolution
multiplies its weight with patches ``X`` (``K x P``, one column a position), so the gradient of
output k is ``delta_k X^T`` and its squared norm can be summed either over the entries of that
product or, where positions are few, over those of ``delta_k R^T``, where ``R`` is the triangular
factor of ``X = Q R``. The smallest column is taken off the others first, and ``delta_k`` applied
to it whole: columns that are nearly equal, ``d`` apart, leave a relative error of about
``2.2e-16 / d`` in a contrast of them, which is what float64 allows. With ``X^T X`` the error would
be ``2.2e-16 / d^2``, and sums could be negative.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flatlib import traces
from flatlib.checks import check_number, check_seed, check_targets
from flatlib.derivatives import (
    Float64Network,
    autograd_faults_told,
    check_custom_functions,
    check_second_derivatives,
    checked_output,
    float64_network,
    sample_parameter_gradients,
    trainable_names,
)
from flatlib.patches import is_transposed, output_positions, patch_energies, patches
from flatlib.streaming import Progress, progress_bar

MINIMUM_PROBES = 8
MAXIMUM_PROBES = 10_000


@dataclass(frozen=True)
class GradientNorms:
    """Squared norms of one layer's gradients, each ``(n,)``, summed over outputs."""

    weight: Tensor  # of the gradient of the weight, all calls and positions summed first
    bias: Tensor  # of the gradient of the bias
    untied: Tensor  # of the gradients of one copy of the weight a position
    output: Tensor  # of the gradient at the layer's output
    smallest_patch: Tensor  # squared norm of the smallest vector that W multiplies
    n_positions: int  # P over all calls; 1 for a dense layer


class NormSums:
    r"""Squared norms of one layer's gradients, added up output by output.

    Args:
        module: a linear layer, a convolution or a transposed convolution.
        inputs: what it read, one a call, each ``(n, ..., d)`` or ``(n, C_in, ...)``.
        n_outputs: N, how often `add` will be called.

    Source: the terms of Eq. (3) that belong to this layer; for one position the weight's is
    :math:`\lVert J\rVert_F^2 \lVert x\rVert_2^2` of Eq. (4).
    """

    def __init__(self, module: nn.Module, inputs: tuple[Tensor, ...], n_outputs: int):
        self.module, self.n_outputs = module, n_outputs
        self.shapes = [x.shape for x in inputs]
        self.patches = _joined([patches(module, x) for x in inputs])  # (n, groups, K, P)
        self.patch_energy = _joined([patch_energies(module, x) for x in inputs])  # (n, groups, P)
        self.triangle: Tensor | None = None  # of the patches, made when first needed
        # Of delta, (n, groups, C or 1, P), to be summed over the channels.
        self.energy: Tensor | float = 0.0
        self.weight: Tensor | float = 0.0  # (n,)
        self.bias: Tensor | float = 0.0  # (n,)
        # Where patches of delta overlap, what is written has norms of its own, (n,).
        self.written = 0.0

    def add(self, gradients: Sequence[Tensor]) -> None:
        """Take in those of k outputs at what the layer returned, ``(n, k, ...)`` for each call."""
        n, k = gradients[0].shape[:2]
        if self.patches.shape[-1] == 1 and not is_transposed(self.module):
            self._add_single_position(gradients[0])
            return
        pairs = zip(gradients, self.shapes, strict=True)
        # (n, groups, k C, P): the outputs side by side, as one output of k times the channels
        delta = _joined([_side_by_side(self.module, *pair) for pair in pairs])
        X, N = self.patches, self.n_outputs
        C, (K, P) = delta.shape[2] // k, X.shape[2:]
        if is_transposed(self.module):
            self._add_bias(sum(each.flatten(3).sum(dim=3) for each in gradients))
            self.written = self.written + sum(each.flatten(1).square().sum(1) for each in gradients)
        if P == 1:  # see `norms`
            self.energy = self.energy + torch.linalg.vecdot(delta, delta, dim=2)[:, :, None]
            return
        if not isinstance(self.energy, Tensor):
            self.energy = delta.new_zeros((n, delta.shape[1], C, P))
        for each in delta.unflatten(2, (k, C)).unbind(dim=2):
            self.energy.addcmul_(each, each)  # in place: to sum over the channels here is slow
        at_channels = delta.sum(dim=-1)  # at the first column as well, see below
        if not is_transposed(self.module):
            self._add_bias(at_channels)
        # Per sample the product costs N C K P multiplications, R and its products P^2 (2 K + N C).
        if P * (2 * K + N * C) < N * C * K:
            if self.triangle is None:
                self.triangle = _triangle(X, self.patch_energy)
            R = self.triangle
            gradient = delta @ R[..., 1:].mT
            gradient[..., 0] += at_channels * R[..., 0, :1]
        else:
            gradient = delta @ X.mT
        self.weight = self.weight + gradient.square_().flatten(1).sum(dim=1)

    def _add_single_position(self, gradients: Tensor) -> None:
        """Add up the squares of what a single position of each sample got; see `norms`."""
        for each in gradients.unbind(dim=1):
            flat = each.reshape(len(each), self.patches.shape[1], -1)
            self.energy = self.energy + torch.linalg.vecdot(flat, flat)[:, :, None, None]

    def _add_bias(self, gradients: Tensor) -> None:
        """Add up squares: small tensors kept between large ones would break up the memory."""
        flat = gradients.flatten(1)
        self.bias = self.bias + torch.linalg.vecdot(flat, flat)

    def norms(self) -> GradientNorms:
        """The sums so far."""
        patch = self.patch_energy
        position = self.energy.sum(dim=2)
        untied, output = (position * patch).sum(dim=(1, 2)), position.sum(dim=(1, 2))
        several = patch.shape[-1] > 1
        return GradientNorms(
            # For a single position the weight's gradient is delta x^T, the bias's is delta.
            weight=self.weight if several else untied,
            bias=self.bias if several or is_transposed(self.module) else output,
            untied=untied,
            output=self.written if is_transposed(self.module) else output,
            smallest_patch=patch.amin(dim=(1, 2)),
            n_positions=patch.shape[-1],
        )


def _triangle(X: Tensor, energy: Tensor) -> Tensor:
    """R of ``(x, X - x) = Q R``, where x is the smallest column of ``X`` ``(n, groups, K, P)``.

    ``energy`` has the columns' squared norms. A larger x would drown the columns that are smaller.
    """
    smallest = energy.argmin(dim=2)[:, :, None, None]
    x = X.gather(3, smallest.expand(*X.shape[:3], 1))
    return torch.linalg.qr(torch.cat([x, X - x], dim=3), mode="r").R


def _side_by_side(module: nn.Module, gradients: Tensor, read: torch.Size) -> Tensor:
    """`output_positions` of k outputs, ``(n, k, ...)``, as ``(n, groups, k C, P)``."""
    n, k = gradients.shape[:2]
    if k == 1:
        return output_positions(module, gradients[:, 0], read)
    apart = output_positions(module, gradients.flatten(0, 1), read).unflatten(0, (n, k))
    return apart.transpose(1, 2).flatten(2, 3)


def _joined(parts: list[Tensor]) -> Tensor:
    """Tensors of several calls side by side along the positions; one call's as it is."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


@dataclass(frozen=True)
class HessianTrace:
    """Trace of the loss's Hessian."""

    estimate: float  # Tr H, Eq. (2), for L = sum_i ||f(x_i) - y_i||^2 / (2 n)
    standard_error: float  # 0.0 for the exact method
    n_probes: int  # Hessian-vector products that it is made of
    n_pilot: int = 0  # further ones, that told how many are needed

    @property
    def interval(self) -> tuple[float, float]:
        """A 95 % confidence interval, by Student's t; a single number for the exact method.

        >>> [round(end, 3) for end in HessianTrace(0.0, 1.0, 16).interval]
        [-2.131, 2.131]
        """
        return traces.Estimate(self.estimate, self.standard_error, self.n_probes - 1).interval


def squared_loss(output: Tensor, y: Tensor) -> Tensor:
    r"""The loss of Eq. (2), :math:`\frac1{2n}\sum_i\lVert f(x_i) - y_i\rVert^2`.

    Args:
        output: ``(n, N)``.
        y: targets, as many numbers.

    Returns:
        One number. `torch.nn.functional.mse_loss`, a mean over samples and outputs, is 2/N of it.

    Raises:
        TypeError, ValueError: targets of another kind or shape.

    >>> squared_loss(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2))
    tensor(12.5000, dtype=torch.float64)
    """
    return _residual(output, y).square().sum() / (2 * len(output))


def _residual(output: Tensor, y: Tensor) -> Tensor:
    check_targets(y, output)
    return output - y.double().reshape(output.shape)


def _curved_by_network(output: Tensor, y: Tensor) -> Tensor:
    """A number whose Hessian is the loss's but for the square of the first derivatives."""
    return (_residual(output, y).detach() * output).sum() / len(output)


class HessianProducts:
    """Products of vectors with the Hessian of a loss, a number made of the network's outputs."""

    def __init__(self, network: Float64Network, x: Tensor, loss: Callable[[Tensor], Tensor]):
        output = checked_output(network, x)
        self.parameters = [network.parameters[name] for name in trainable_names(network)]
        value = loss(output)
        check_second_derivatives(value)
        check_custom_functions(network, x, output)
        with autograd_faults_told(
            "the network or the loss cannot be differentiated",
            "does an in-place operation overwrite what an earlier layer returned? use its "
            "out-of-place form",
        ):
            found = torch.autograd.grad(
                value, self.parameters, create_graph=True, materialize_grads=True
            )
        self.gradient = torch.cat([part.flatten() for part in found])

    def __call__(self, vector: Tensor) -> Tensor:
        """``H v`` for ``v`` of shape ``(m,)``."""
        if not self.gradient.requires_grad:
            return torch.zeros_like(vector)
        with autograd_faults_told(
            "the network or the loss cannot be differentiated twice, which products with the "
            "Hessian take",
            "use an operation with a second derivative in its place, or the sharpness of "
            "flatlib.measure, which takes first derivatives alone",
        ):
            found = torch.autograd.grad(
                self.gradient, self.parameters, vector, retain_graph=True, materialize_grads=True
            )
        return torch.cat([part.flatten() for part in found])

    def trace(self, bar: Progress) -> float:
        """The exact trace, one product for each of the m parameters."""
        total = 0.0
        unit = torch.zeros_like(self.gradient)
        bar.expect(unit.numel())
        for j in range(unit.numel()):
            unit[j] = 1.0
            total += self(unit)[j].item()
            unit[j] = 0.0
            bar.done(1)
        return total


def hessian_trace(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    method: str = "exact",
    *,
    seed: int | None = None,
    target_standard_error: float | None = None,
    max_probes: int | None = None,
    progress: bool | None = None,
) -> HessianTrace:
    r"""Trace of the Hessian of the loss, the sharpness of Eq. (2), at any parameters.

    .. math:: S(\theta) = \operatorname{Tr} \nabla^2_\theta \frac{1}{2n}
       \sum_i \lVert f(x_i) - y_i\rVert^2

    ``"hutchinson"`` draws a pilot of 16 probes, from which it plans how many fresh ones bring the
    standard error to the target or below, in some 9 of 10 runs. A number that is fixed beforehand
    is what makes the standard error and the interval honest, see `flatlib.traces`.

    Args:
        net: a network with at least one linear or convolutional layer, in eval mode. Frozen
            parameters are left out.
        x: ``(n, *input_shape)``.
        y: targets, ``(n, N)``.
        method: ``"exact"``, one Hessian-vector product for each of the m parameters, or
            ``"hutchinson"``, the mean of :math:`z^\top H z` over random signs z.
        seed: of the random signs, by default 0; with ``"hutchinson"`` only, as the following.
        target_standard_error: what the standard error shall be; by default 1 % of the
            estimate's size.
        max_probes: the most products to take, the pilot's among them, by default 10,000; where
            they are too few for the target, read ``standard_error``. Up to 32 are all taken,
            without a pilot.
        progress: a bar that counts the products, as for `flatlib.measure`.

    Returns:
        `HessianTrace`.

    Raises:
        TypeError, ValueError: as `flatlib.measure`; targets of another shape; unknown method;
            an option out of range; an operation without a second derivative; what is for random
            signs only, given to the exact method.

    Source: Eq. (2); at interpolation equal to Eq. (3), by Lemma A.1.

    >>> import flatlib
    >>> net = flatlib.nets.linear(2, 1)  # L is quadratic: Tr H = ||x||^2
    >>> hessian_trace(net, torch.tensor([[3.0, 4.0]]), torch.zeros(1, 1)).estimate
    25.0
    """
    _check_settings(
        method,
        seed=seed,
        target_standard_error=target_standard_error,
        max_probes=max_probes,
    )
    with float64_network(net) as network, progress_bar(progress, "products") as bar:
        products = HessianProducts(network, x, lambda output: squared_loss(output, y))
        if method == "exact":
            return HessianTrace(products.trace(bar), 0.0, products.gradient.numel())
        generator = torch.Generator().manual_seed(seed or 0)

        def probe() -> float:
            z = traces.signs(products.gradient.shape, generator).to(products.gradient)
            value = float(z @ products(z))
            bar.done(1)
            return value

        def target(trace: float) -> float:
            return target_standard_error or 0.01 * abs(trace)

        most = MAXIMUM_PROBES if max_probes is None else max_probes
        values, n_pilot = traces.draw(probe, target, most)
        mean = traces.mean_of(values)
        return HessianTrace(mean.value, mean.standard_error, len(values), n_pilot)


def _check_settings(method: str, **given: float | None) -> None:
    """Refuse what `hessian_trace` can't take, and what is for random signs where none are drawn."""
    if method not in ("exact", "hutchinson"):
        raise ValueError(f'method must be "exact" or "hutchinson", got {method!r}')
    for name, value in given.items():
        check_number(name, value, whole=name != "target_standard_error")
    unused = [name for name, value in given.items() if value is not None]
    if method == "exact" and unused:
        raise ValueError(
            f'{unused[0]} is for random signs, and method="exact" draws none; leave it out, or '
            'pass method="hutchinson"'
        )
    if given["seed"] is not None:
        check_seed(given["seed"])
    error, probes = given["target_standard_error"], given["max_probes"]
    if error is not None and not error > 0:
        raise ValueError(f"target_standard_error must be positive, got {error}")
    if probes is not None and probes < MINIMUM_PROBES:
        raise ValueError(f"max_probes must be at least {MINIMUM_PROBES}, got {probes}")


def sharpness_gap(net: nn.Module, x: Tensor, y: Tensor, *, progress: bool | None = None) -> float:
    r"""What Eq. (3) leaves out away from interpolation, exactly.

    .. math:: \operatorname{Tr} H - \frac1n\sum_i\lVert\nabla_\theta f(x_i)\rVert_F^2
       = \frac1n\sum_i\sum_j (f(x_i)-y_i)^\top \partial^2 f(x_i)/\partial\theta_j^2

    Args:
        net: as for `hessian_trace`; one Hessian-vector product for each parameter.
        x: ``(n, *input_shape)``.
        y: targets, ``(n, N)``.
        progress: a bar that counts the products, as for `flatlib.measure`.

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
    with float64_network(net) as network, progress_bar(progress, "products") as bar:
        products = HessianProducts(network, x, lambda output: _curved_by_network(output, y))
        return products.trace(bar)


def adaptive_sharpness(net: nn.Module, x: Tensor) -> float:
    r"""Elementwise-adaptive sharpness at interpolation, by n N backward passes of single samples.

    .. math:: \frac1n\sum_i\lVert\theta\odot\nabla_\theta f(x_i)\rVert_F^2

    It is the limit of what `flatlib.comparisons.adaptive_sharpness_by_noise` estimates.

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
    with float64_network(net) as network:
        checked_output(network, x)
        names = trainable_names(network)
        theta = [network.parameters[name].detach() for name in names]
        total = sum(
            float((weight * part).square().sum())
            for rows in sample_parameter_gradients(network, x, names)
            for gradient in rows
            for weight, part in zip(theta, gradient, strict=True)
        )
    return total / len(x)
