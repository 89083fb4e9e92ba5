"""Volume: Eqs. (8)-(12), the log-volume bound and the network volumetric ratio."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flatlib.lab.equations import tight
from flatlib.lab.equations.assumptions import (
    DENSE,
    DENSE_LAYERS,
    LIVE_LAYERS,
    NO_MORE_OUTPUTS,
    NONZERO,
    SHARPNESS,
    SMOOTH,
    TRAINABLE,
    TRAINABLE_LAYERS,
)
from flatlib.lab.equations.cases import Case, mean, singular_values
from flatlib.lab.equations.checking import Equation, Link, Tight
from flatlib.lab.equations.library import reported, same_shares
from flatlib.lab.equations.sensitivity import weight_shares
from flatlib.measurement import measure

ROUNDING_FLOOR = 1e-6  # relative, of float64 differences of outputs


def resolved(c: Case) -> bool:
    """Whether the first sample's ball moves the output by far more than rounding."""
    _, moved, alpha = c.ball
    size = max(float(c.f(c.x[:1]).abs().max()), float(c.norm_x[0]) * float(c.grad_x_F[0]))
    return float(c.grad_x_F[0]) * math.sqrt(alpha) > 1e-9 * size and bool(moved.any())


def first_order(c: Case) -> list[Link]:
    """(8): what small steps along every axis do to the output, divided by their lengths."""
    slope, error = c.along_the_axes
    J = c.grad_x[0]
    return [(slope, "~", J, error + ROUNDING_FLOOR * J.norm())]


def limit_covariance(c: Case) -> list[Link]:
    """(9): the covariance, over alpha, of the image of points with covariance alpha I."""
    slope, error = c.along_the_axes
    J = c.grad_x[0]
    covariance = slope @ slope.T
    spread = 2 * slope.norm() * error + ROUNDING_FLOOR * covariance.trace()
    return [(covariance, "~", J @ J.T, spread)]


def volume(c: Case) -> Tensor:
    """dVol of every sample, the product of the singular values."""
    return c.sigma.prod(dim=1)


def local_volume(c: Case) -> list[Link]:
    """(10), squared: the Gram determinant against the QR factor and the singular values."""
    gram = torch.linalg.det(c.grad_x @ c.grad_x.mT)
    edges = torch.linalg.qr(c.grad_x.mT).R.diagonal(dim1=1, dim2=2)
    scale = (c.grad_x_F**2 / c.N) ** c.N
    return [
        (gram, "=", edges.prod(dim=1) ** 2, scale),
        (gram, "=", c.sigma.prod(dim=1) ** 2, scale),
    ]


def _library_volume(c: Case) -> list[Link]:
    scale = (c.grad_x_F**2 / c.N) ** (c.N / 2)
    return [(measure(c.net, c.x).log_volume.exp(), "=", volume(c), scale)]


def volume_bound(c: Case) -> list[Link]:
    """(11): arithmetic against geometric mean of the squared singular values."""
    N = c.N
    trace = (c.grad_x @ c.grad_x.mT).diagonal(dim1=1, dim2=2).sum(dim=1)
    by_trace = (trace / N) ** (N / 2)
    return [
        (volume(c), "<=", by_trace),
        (by_trace, "=", N ** (-N / 2) * c.grad_x_F**N),
    ]


def mean_volume_bound(c: Case) -> list[Link]:
    """(12): the mean volume by G-like means, those by sharpness."""
    n, N, closest = c.n, c.N, c.norm_x.min()
    middle = N ** (-N / 2) * mean(c.grad_x_F**N)
    power = n ** max(N / 2 - 1, 0)
    last = power * c.norm_W_F**N / closest**N * (c.TrH / N) ** (N / 2)
    return [(mean(volume(c)), "<=", middle), (middle, "<=", last)]


def log_volume_bound(c: Case) -> list[Link]:
    """N.3, in nats: AM-GM at each sample, Jensen over them, then the smallest input."""
    N, closest = c.N, c.norm_x.min()
    mean_log = mean(c.sigma.log().sum(dim=1))
    ratio = mean(c.grad_W_F**2 / c.norm_x**2)
    middle = N / 2 * (c.norm_W_2**2 / N * ratio).log()
    last = N / 2 * (c.norm_W_2**2 * c.S / (N * closest**2)).log()
    return [(mean_log, "<=", middle, 1.0), (middle, "<=", last, 1.0)]


def _library_log_volume(c: Case) -> list[Link]:
    found, links = reported(c, "N.3"), log_volume_bound(c)
    if len(found) != len(links):
        return [(float(len(found)), "=", float(len(links)))]
    same = [(b.rhs, "=", link[2], 1.0) for b, link in zip(found, links, strict=True)]
    if bool((c.sigma[:, -1] > 1e-6 * c.sigma[:, 0]).all()):
        # A smaller singular value is known to fewer than nine digits.
        same.append((found[0].lhs, "=", links[0][0], 1.0))
    return same


def network_volume(c: Case) -> Tensor:
    """NVR: volumes from every layer's input, summed over the layers of N inputs or more."""
    wide = [layer for layer in c.layers if layer.W.shape[1] >= c.N]
    volumes = [singular_values(layer.grad_x).prod(dim=1) for layer in wide]
    return mean(sum(volumes, torch.zeros(c.n, dtype=c.x.dtype)))


def network_volume_bound(c: Case) -> list[Link]:
    """N.10: (11) and (5) at each layer, sum of N-th powers by N-th power of the sum, N.9."""
    n, N = c.n, c.N
    return [(network_volume(c), "<=", n ** (N - 1) * (weight_shares(c) * c.S / N) ** (N / 2))]


def _library_network_volume(c: Case) -> list[Link]:
    m = measure(c.net, c.x)
    found, rhs = reported(c, "N.10"), network_volume_bound(c)[0][2]
    if len(found) != 1:
        return [(float(len(found)), "=", 1.0)]
    return [
        (m.summary()["nvr"], "=", network_volume(c), rhs),
        (found[0].rhs, "=", rhs.log(), 1.0),
    ]


_first_order = Equation(
    label="8",
    name="First-order propagation",
    statement=r"f(x)=f(\bar x)+\nabla_xf(\bar x,\theta^*)^\top(x-\bar x)"
    r"+o(\lVert x-\bar x\rVert)\qquad(x\sim\mathcal N(\bar x,\alpha I),\ \alpha\to0)",
    where="Sec. 3.1; corrected, see [Errata](chapters/09-errata.ipynb): "
    "the paper prints the gradient "
    "without its transpose and the equation without its remainder",
    assumptions=(SMOOTH, "Checked by finite differences, along every axis of the input."),
    kind="definition",
    check=first_order,
    applies=resolved,
)


_limit_covariance = Equation(
    label="9",
    name="Covariance of the propagated ball",
    statement=r"C_f^{\lim}=\lim_{\alpha\to0}\tfrac1\alpha\,C_{f(\mathcal B_\alpha)}"
    r"=\nabla_xf(\bar x,\theta^*)^\top\nabla_xf(\bar x,\theta^*)",
    where="Sec. 3.1; corrected, see [Errata](chapters/09-errata.ipynb): "
    "the paper prints the factors in "
    "the other order, and a limit without the division by alpha, which is 0",
    assumptions=(
        SMOOTH,
        "The gradient convention of (4): the product is N x N.",
        "Checked by finite differences, from points whose covariance is alpha I exactly.",
    ),
    kind="definition",
    check=limit_covariance,
    applies=resolved,
)


_local_volume = Equation(
    label="10",
    name="Local volumetric ratio",
    statement=r"d\mathrm{Vol}=\sqrt{\det(\nabla_xf^\top\nabla_xf)}=\prod_{k=1}^N\sigma_k",
    where="Sec. 3.1",
    assumptions=(
        NO_MORE_OUTPUTS,
        "A rank-deficient Jacobian has volume 0.",
        SMOOTH,
    ),
    kind="definition",
    check=local_volume,
    library=_library_volume,
)


_volume_bound = Equation(
    label="11",
    name="Volume by the Frobenius norm",
    statement=r"d\mathrm{Vol}\le\Big(\frac{\operatorname{Tr}\nabla_xf^\top\nabla_xf}N\Big)^{N/2}"
    r"=N^{-N/2}\lVert\nabla_xf\rVert_F^N",
    where="Sec. 3.1",
    assumptions=(SMOOTH,),
    kind="inequality",
    check=volume_bound,
    library=same_shares("11", volume_bound, (0,), logarithms=True),
    tight=(Tight(tight.isotropic, (0,)), Tight(tight.rank_one, (0,))),
)


_mean_volume_bound = Equation(
    label="12",
    name="Mean volume by sharpness",
    statement=r"dV\le\frac{N^{-N/2}}n\sum_i\lVert\nabla_xf(x_i)\rVert_F^N"
    r"\le\frac{n^{\max(N/2-1,0)}\lVert W\rVert_F^N}{\min_i\lVert x_i\rVert_2^N}"
    r"\Big(\frac{S(\theta^*)}N\Big)^{N/2},\qquad dV=\frac1n\sum_id\mathrm{Vol}(x_i)",
    where="Sec. 3.1",
    assumptions=(DENSE, NONZERO, SHARPNESS, TRAINABLE, SMOOTH),
    kind="inequality",
    check=mean_volume_bound,
    library=same_shares("12", mean_volume_bound, (0, 1), logarithms=True),
    tight=(
        Tight(tight.isotropic_any_norm, (0,)),
        Tight(tight.linear_functional, (0, 1)),
        Tight(tight.neuron_one_live, (1,)),
    ),
)


_log_volume_bound = Equation(
    label="N.3",
    name="Mean log volume by sharpness",
    statement=r"\begin{aligned}\frac1n\sum_i\log d\mathrm{Vol}(x_i)&\le\frac N2\log\Big("
    r"\frac{\lVert W\rVert_2^2}N\,\frac1n\sum_i\frac{\lVert\nabla_Wf(x_i)\rVert_F^2}"
    r"{\lVert x_i\rVert_2^2}\Big)\\&\le\frac N2\log\Big("
    r"\frac{\lVert W\rVert_2^2\,S}{N\min_i\lVert x_i\rVert_2^2}\Big)\end{aligned}",
    where="Ours; beside (12)",
    assumptions=(DENSE, NONZERO, SHARPNESS, TRAINABLE, SMOOTH, "Slack is in nats."),
    kind="inequality",
    check=log_volume_bound,
    library=_library_log_volume,
    tight=(Tight(tight.isotropic, (0, 1)), Tight(tight.isotropic_any_norm, (0,))),
)


_network_volume_bound = Equation(
    label="N.10",
    name="Network volumetric ratio by sharpness",
    statement=r"\mathrm{NVR}=\frac1n\sum_i\sum_ld\mathrm{Vol}_{x^l\to f}(x_i)"
    r"\le n^{N-1}\Big(\frac SN\;\frac1n\sum_i\sum_l"
    r"\frac{\lVert W_l\rVert_2^2}{\lVert x_i^l\rVert_2^2}\Big)^{N/2}",
    where="Later versions",
    assumptions=(
        DENSE_LAYERS,
        TRAINABLE_LAYERS,
        LIVE_LAYERS,
        "Layers of fewer than N inputs have volume 0 and are left out of NVR.",
        SHARPNESS,
        SMOOTH,
    ),
    kind="inequality",
    check=network_volume_bound,
    library=_library_network_volume,
    tight=(
        Tight(tight.isotropic_one_live, (0,)),
        Tight(tight.linear_functional, (0,)),
        Tight(tight.balanced, (0,)),
    ),
)


EQUATIONS = (
    _first_order,
    _limit_covariance,
    _local_volume,
    _volume_bound,
    _mean_volume_bound,
    _log_volume_bound,
    _network_volume_bound,
)
