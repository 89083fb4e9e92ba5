"""Measures that sharpness and MLS are compared with: other people's, of weights and of inputs.

The loss is that of Eq. (2) unless another one is given: a function of the outputs ``(n, N)`` and
the targets that returns one number, a sum or mean over samples. PyTorch's
`torch.nn.functional.mse_loss`, which the authors' code takes, is 2/N of Eq. (2)'s, and so are its
relative flatness and its largest eigenvalue.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from flatlib.checks import check_loss, check_number, check_seed
from flatlib.derivatives import (
    by_parts,
    check_fits,
    checked_forward,
    checked_output,
    curvature,
    dense_last_layer,
    differentiate,
    float64_network,
    in_full,
    part_size,
    plan,
    trainable_names,
    twice_if_single,
)
from flatlib.sharpness import HessianProducts, squared_loss

Loss = Callable[[Tensor, Tensor], Tensor]
SMALLEST_LANCZOS = 16  # parameters; Hessians of fewer are written out


def relative_flatness(net: nn.Module, x: Tensor, y: Tensor, *, loss: Loss = squared_loss) -> float:
    r"""Relative flatness of the last layer, :math:`\kappa` of Petzka et al.; larger is sharper.

    .. math:: \kappa = \sum_{s,s'} \langle w_s, w_{s'}\rangle
       \sum_t \frac{\partial^2 L}{\partial W_{st}\,\partial W_{s't}}
       = \sum_i \lVert\phi_i\rVert_2^2\,\operatorname{Tr}\big(W^\top \nabla_{z_i}^2 L\, W\big)

    Row s of the layer's weight W is :math:`w_s`, and the layer makes :math:`z_i = W\phi_i + b` of
    :math:`\phi_i`, so that a second derivative along two entries of W's column t is
    :math:`\sum_i\phi_{it}^2` times that along two entries of :math:`z_i`. Where z is the output
    and the loss that of Eq. (2), the latter form the unit matrix over n, and
    :math:`\kappa = \lVert W\rVert_F^2\,\frac1n\sum_i\lVert\phi_i\rVert_2^2`.

    Args:
        net: as for `flatlib.measure`; the layer that it calls last is linear, reads one vector a
            sample and is called once, and its weight is used nowhere else.
        x: ``(n, *input_shape)``.
        y: targets as the loss takes them, ``(n, N)`` for that of Eq. (2).
        loss: see the head of this room.

    Returns:
        A float, in the units of the loss, by one product for each output of the layer. It stays
        the same when a layer before is scaled by c and the last one by 1/c, and the output stays.

    Raises:
        TypeError, ValueError: as `flatlib.measure`; targets or a loss of another kind; a last
            layer of another kind.

    Source: Petzka et al. (2021), relative flatness by the trace, of the last layer.

    >>> import flatlib
    >>> net = flatlib.nets.linear(2, 2).double()
    >>> net.linear1.weight.data = torch.tensor([[3.0, 0.0], [0.0, 4.0]]).double()
    >>> relative_flatness(net, torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2))  # 25 * 5
    125.0
    """
    with float64_network(net) as network:
        forward, n = checked_forward(network, x), len(x)
        call, W = dense_last_layer(network, forward)
        value = check_loss(loss, forward.output[:n], y)
        traces = sum(
            (row * second).sum(dim=1)
            for row, second in zip(W @ W.mT, curvature(value, call), strict=True)
        )
        return float((call.value.detach().square().sum(dim=1) * traces)[:n].sum())


@dataclass(frozen=True)
class NoiseEstimate:
    """A mean over draws of noise."""

    estimate: float
    standard_error: float  # of the mean over draws; the samples are given
    n_draws: int


def adaptive_sharpness_by_noise(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    rho: float = 0.1,
    *,
    loss: Loss = squared_loss,
    n_draws: int = 100,
    seed: int = 0,
) -> NoiseEstimate:
    r"""Elementwise-adaptive sharpness at a finite size of the noise, by drawing it.

    .. math:: \frac{2}{\rho^2}\,\mathbb E\big[L(\theta+\varepsilon) - L(\theta)\big],\quad
       \varepsilon_j \sim \mathcal N(0, \rho^2\theta_j^2)
       \quad\xrightarrow{\rho\to0}\quad \sum_j\theta_j^2\,\partial^2 L/\partial\theta_j^2

    The limit is `flatlib.sharpness.adaptive_sharpness` at interpolation. The authors' code takes
    :math:`\rho = 0.1` and a loss without the factor 1/2 of Eq. (2)'s, which the 2 in front makes
    up for.

    Args:
        net: as for `flatlib.measure`. Frozen parameters get no noise.
        x: ``(n, *input_shape)``.
        y: targets as the loss takes them, ``(n, N)`` for that of Eq. (2).
        rho: size of the noise relative to each parameter.
        loss: see the head of this room.
        n_draws: how often noise is drawn, the same for all samples; at least 2.
        seed: of the noise, which the global random state has no part in.

    Returns:
        `NoiseEstimate`. Its expectation stays the same when weights are rescaled and the output
        is not.

    Raises:
        TypeError, ValueError: as `flatlib.measure`; targets or a loss of another kind; rho,
            n_draws or seed out of range; noise that the loss is not finite with.

    Source: Andriushchenko et al. (2023), average-case and elementwise-adaptive, after Kwon et al.
    (2021); the paper's later versions.

    >>> import flatlib
    >>> net, x = flatlib.nets.linear(1, 1).double(), torch.tensor([[2.0]])  # L = (x e)^2 / 2
    >>> found = adaptive_sharpness_by_noise(net, x, net(x.double()).detach(), n_draws=400)
    >>> exact = 4 * net.linear1.weight.item() ** 2
    >>> abs(found.estimate - exact) < 3 * found.standard_error < exact / 3
    True
    """
    check_number("rho", rho, needed=True)
    check_number("n_draws", n_draws, whole=True, needed=True)
    check_seed(seed)
    if not 0 < rho < math.inf:
        raise ValueError(f"rho must be positive and finite, got {rho}")
    if n_draws < 2:
        raise ValueError(f"n_draws must be at least 2, got {n_draws}")
    generator = torch.Generator().manual_seed(seed)
    with float64_network(net) as network:
        at_rest = check_loss(loss, checked_output(network, x), y).item()
        noisy = [network.parameters[name] for name in trainable_names(network)]
        theta = [parameter.detach().clone() for parameter in noisy]
        rows, n = twice_if_single(in_full(x)), len(x)
        rises = np.empty(n_draws)
        for draw in range(n_draws):
            for parameter, own in zip(noisy, theta, strict=True):
                noise = torch.randn(
                    own.shape, generator=generator, device="cpu", dtype=torch.float64
                )
                # A forward may put another tensor behind its own parameter.
                parameter.data.copy_(own + rho * own * noise.to(own.device))
            try:
                value = check_loss(loss, network(rows)[:n], y)
            except ValueError as error:
                raise ValueError(
                    f"draw {draw} of noise of rho = {rho}: {error} (a smaller rho?)"
                ) from error
            rises[draw] = 2 * (value.item() - at_rest) / rho**2
    error = float(rises.std(ddof=1)) / math.sqrt(n_draws)
    return NoiseEstimate(float(rises.mean()), error, n_draws)


@dataclass(frozen=True)
class HessianEigenvalue:
    """The largest eigenvalue of a loss's Hessian."""

    value: float
    residual: float  # ||H v - value v|| of its unit vector v; an eigenvalue is no farther away
    n_products: int  # Hessian-vector products that it took


def largest_hessian_eigenvalue(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    loss: Loss = squared_loss,
    tolerance: float = 1e-8,
    max_products: int = 10_000,
    seed: int = 0,
) -> HessianEigenvalue:
    r"""The largest eigenvalue of the Hessian of the loss, :math:`\lambda_{\max}(\nabla_\theta^2L)`.

    Lanczos iterations, each a product of a vector with the Hessian, which is never formed.

    Args:
        net: as for `flatlib.hessian_trace`. Frozen parameters are left out.
        x: ``(n, *input_shape)``.
        y: targets as the loss takes them, ``(n, N)`` for that of Eq. (2).
        loss: see the head of this room.
        tolerance: of the residual, relative to the eigenvalue, or to the root mean square of all
            eigenvalues where this is larger. The eigenvalue is off by no more, and by about the
            square of it where the next one is not near.
        max_products: refuses to go on after about so many products.
        seed: of the first vector.

    Returns:
        `HessianEigenvalue`; the largest in sign, so it may be negative at a maximum.

    Raises:
        TypeError, ValueError: as `flatlib.measure`; targets or a loss of another kind; tolerance,
            max_products or seed out of range; an operation without a second derivative; the
            residual is not within the tolerance after ``max_products``.

    Source: the Hessian of Eq. (2), whose trace is `flatlib.hessian_trace`.

    >>> import flatlib
    >>> net = flatlib.nets.linear(2, 1)  # L is quadratic: H = x x^T
    >>> largest_hessian_eigenvalue(net, torch.tensor([[3.0, 4.0]]), torch.zeros(1, 1)).value
    25.0
    """
    check_number("tolerance", tolerance, needed=True)
    check_number("max_products", max_products, whole=True, needed=True)
    check_seed(seed)
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance must lie between 0 and 1, got {tolerance}")
    if max_products < 1:
        raise ValueError(f"max_products must be at least 1, got {max_products}")
    with float64_network(net) as network:
        products = HessianProducts(network, x, lambda output: check_loss(loss, output, y))
        n_products = 0

        def product(v: np.ndarray) -> np.ndarray:
            nonlocal n_products
            n_products += 1
            vector = torch.from_numpy(np.ascontiguousarray(v.ravel())).to(products.gradient)
            return products(vector).cpu().numpy()

        m = products.gradient.numel()
        value, vector, size = _top(product, m, tolerance, max_products, seed)
        residual = float(np.linalg.norm(product(vector) - value * vector))
    if not residual <= (allowed := tolerance * max(abs(value), size)):
        raise ValueError(
            f"the largest eigenvalue {value:.6g} has a residual of {residual:.3g} after "
            f"{n_products} products, above {allowed:.3g}; pass a larger tolerance"
        )
    return HessianEigenvalue(value, residual, n_products)


def _top(
    product: Callable[[np.ndarray], np.ndarray], m: int, tolerance: float, limit: int, seed: int
) -> tuple[float, np.ndarray, float]:
    """A symmetric matrix's largest eigenvalue, unit vector, and root mean square eigenvalue."""
    start = np.random.default_rng(seed).standard_normal(m)
    start /= np.linalg.norm(start)
    size = float(np.linalg.norm(product(start)))  # in the mean over starts
    if size == 0.0:
        return 0.0, start, size
    if m < SMALLEST_LANCZOS:
        matrix = np.stack([product(row) for row in np.eye(m)])
        values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
        return float(values[-1]), vectors[:, -1], size
    from scipy.sparse import linalg  # a third of a second

    # ARPACK's tolerance is relative to the eigenvalue, which is positive after this shift.
    shift, width = 2 * size, min(m, 20)
    shifted = linalg.LinearOperator((m, m), lambda v: product(v) + shift * v.ravel(), dtype=float)
    try:
        values, vectors = linalg.eigsh(
            shifted,
            k=1,
            which="LA",
            tol=tolerance / 3,
            v0=start,
            ncv=width,
            maxiter=max(1, limit // width),
        )
    except linalg.ArpackNoConvergence as error:
        raise ValueError(
            f"the largest eigenvalue is not found to a tolerance of {tolerance} by about {limit} "
            "products with the Hessian; pass a larger tolerance or max_products"
        ) from error
    return float(values[0]) - shift, vectors[:, 0], size


def iimls(net: nn.Module, x: Tensor) -> Tensor:
    r"""IIMLS of each sample: what scaling the input moves the output, an input number on average.

    .. math:: \mathrm{IIMLS}(x_i) = \frac1M\lVert\nabla_xf(x_i)^\top x_i\rVert_2^2

    Args:
        net: as for `flatlib.measure`.
        x: ``(n, *input_shape)``, M numbers a sample.

    Returns:
        ``(n,)`` float64, in squared units of output; at most :math:`\mathrm{MLS}^2\lVert
        x_i\rVert^2/M`. It stays the same when inputs are scaled and the first weights inversely.

    Raises:
        TypeError, ValueError, MemoryError: as `flatlib.measure`.

    Source: the paper's later versions and their code.

    >>> import flatlib
    >>> net, x = flatlib.nets.linear(2, 1).double(), torch.tensor([[3.0, 4.0]])
    >>> abs(float((iimls(net, x) - net(x.double()).square() / 2).detach())) < 1e-15  # J x = f(x)
    True
    """
    with float64_network(net) as network:
        planned = plan(network, x, at_layers=False)
        size = part_size(None, x.device, planned.cost)
        check_fits(planned.cost, None, None, x.device)

        def measured(rows: Tensor, start: int) -> Tensor:
            found = differentiate(network, rows, start, planned, size)
            J = found.jacobian
            moved = J @ found.x.reshape(len(J), -1, 1)
            return moved.square().sum(dim=(1, 2)) / J.shape[2]

        return torch.cat(by_parts(x, planned, size, measured))
