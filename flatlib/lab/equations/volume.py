"""Volume: Eqs. (8)-(12), the log-volume bound and the network volumetric ratio."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flatlib.inequalities import SMOOTH
from flatlib.lab.equations.assumptions import NO_MORE_OUTPUTS
from flatlib.lab.equations.cases import Case
from flatlib.lab.equations.checking import Equation, Link
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

EQUATIONS = (
    _first_order,
    _limit_covariance,
    _local_volume,
)
