"""What the paper defines and what is equal: the statements that are no inequalities."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import vmap

from flatlib import sharpness
from flatlib.inequalities import DENSE, MOVING, SMOOTH
from flatlib.lab.equations import tight
from flatlib.lab.equations.assumptions import INTERPOLATES, NO_MORE_OUTPUTS
from flatlib.lab.equations.cases import (
    Case,
    draw_curved,
    draw_interpolating,
    frobenius,
    mean,
    participation_ratio,
)
from flatlib.lab.equations.checking import Equation, Formula, Link, Tight
from flatlib.measurement import measure
from flatlib.sides import residual_term

ROUNDING_FLOOR = 1e-6  # relative, of float64 differences of outputs
GROUPS = 40  # of the propagated samples, for the jackknife
RHO = 1e-7

EQUATIONS: list[Equation] = []


def _state(heading, kind, statement, assumptions, **options) -> Callable[[Formula], Formula]:
    """Enter a statement, whose check is the function below; its heading is as in `inequalities`."""

    def enter(check: Formula) -> Formula:
        code = inspect.getsource(check)
        code = code[code.index("def ") :]
        EQUATIONS.append(
            Equation(*heading, statement, assumptions, kind, check, code=code, **options)
        )
        return check

    return enter


@_state(
    ("1", "The network", "Sec. 2"),
    "definition",
    r"y=f(x;\theta),\qquad f(x;\theta)=W_L\,a(\cdots a(W_1x+b_1)\cdots)+b_L",
    ("Checked for fully connected networks, the paper's MLP among them.",),
)
def network(c: Case) -> list[Link]:
    """The module's output against matrix products written out by hand."""
    y = c.net(c.x)
    return [(y, "=", c.f(c.x), y.abs().max())]


def _library_trace(c: Case) -> list[Link]:
    H = c.hessian_at_targets
    found = sharpness.hessian_trace(c.net, c.x, c.y).estimate
    return [(found, "=", H.trace(), H.diagonal().abs().sum())]


@_state(
    ("2", "Sharpness is the trace of the Hessian", "Sec. 2"),
    "definition",
    r"S(\theta)=\operatorname{Tr}H,\qquad H=\nabla^2_\theta L(\theta),\quad "
    r"L=\frac1{2n}\sum_{i=1}^n\lVert f(x_i)-y_i\rVert_2^2",
    (SMOOTH,),
    library=_library_trace,
)
def sharpness_is_trace(c: Case) -> list[Link]:
    """The loss's curvatures along single parameters, summed, against two Hessians.

    The gradient's Jacobian gives the eigenvalues, and the loss's second derivatives a trace.
    """
    trace = c.loss_curvatures.sum()
    scale = c.hessian_at_targets.diagonal().abs().sum()
    return [
        (trace, "=", torch.linalg.eigvalsh(c.hessian_of_gradient).sum(), scale),
        (c.hessian_at_targets.trace(), "=", trace, scale),
    ]


@_state(
    ("3", "Sharpness at interpolation", "Sec. 2"),
    "identity",
    r"S(\theta^*)=\frac1n\sum_{i=1}^n\lVert\nabla_\theta f(x_i,\theta^*)\rVert_F^2",
    (INTERPOLATES, SMOOTH),
    draw=draw_interpolating,
    library=lambda c: [(measure(c.net, c.x).sharpness, "=", c.S)],
)
def sharpness_at_interpolation(c: Case) -> list[Link]:
    """The explicit Hessian where y_i = f(x_i), against squared gradient norms."""
    return [(c.hessian_at_targets.trace(), "=", mean(c.grad_theta_F**2))]


def _library_gap(c: Case) -> list[Link]:
    gap = residual_term(c)
    return [(sharpness.sharpness_gap(c.net, c.x, c.y), "=", gap, c.S + gap.abs())]


@_state(
    ("15", "Sharpness near interpolation", "App. A, Lemma A.1"),
    "identity",
    r"S(\theta)=\frac1n\sum_{i=1}^n\lVert\nabla_\theta f(x_i,\theta)\rVert_F^2"
    r"+O(\varepsilon),\qquad O(\varepsilon)=\frac1n\sum_{i=1}^n\sum_{j=1}^m"
    r"(f(x_i)-y_i)^\top\frac{\partial^2f(x_i)}{\partial\theta_j^2}",
    ("S is the trace of the Hessian here, at any parameters.", SMOOTH),
    draw=draw_curved,
    library=_library_gap,
)
def sharpness_near_interpolation(c: Case) -> list[Link]:
    """The gap is the residual term, and halving the residual halves it: it is O(epsilon)."""
    TrH, gap = c.hessian_at_targets.trace(), residual_term(c)
    halfway = c.halfway.hessian_at_targets.trace()
    scale = c.S + gap.abs()
    return [(TrH, "=", c.S + gap, scale), (halfway - c.S, "=", (TrH - c.S) / 2, scale)]


def tangent_kernel(c: Case) -> Tensor:
    """K, an (n N) x (n N) matrix: inner products of the outputs' parameter gradients."""
    gradients = c.grad_theta.flatten(0, 1)
    return gradients @ gradients.T


@_state(
    ("N.1", "Sharpness is the trace of the tangent kernel", "Ours"),
    "identity",
    r"S(\theta^*)=\frac1n\operatorname{Tr}K,\qquad "
    r"K_{(i,k),(j,l)}=\nabla_\theta f_k(x_i)\cdot\nabla_\theta f_l(x_j)",
    (INTERPOLATES, SMOOTH),
    draw=draw_interpolating,
    applies=lambda c: bool(c.S > 0),
)
def sharpness_is_kernel_trace(c: Case) -> list[Link]:
    """S, the kernel's trace, and its eigenvalues' sum."""
    K = tangent_kernel(c)
    TrH = c.hessian_at_targets.trace()
    return [(TrH, "=", K.trace() / c.n), (TrH, "=", torch.linalg.eigvalsh(K).sum() / c.n)]


def _library_norms(c: Case) -> list[Link]:
    first = measure(c.net, c.x).layers[0]
    return [
        (first.weight_gradient_energy.sqrt(), "=", c.J_F * c.norm_x),
        (first.weight_norm, "=", c.norm_W_2),
    ]


@_state(
    ("4", "The linear-stability trick", "Sec. 2"),
    "identity",
    r"\lVert\nabla_Wf\rVert_F=\lVert J\rVert_F\lVert x\rVert_2"
    r"\ge\lVert J\rVert_2\lVert x\rVert_2,\qquad\nabla_xf=W^\top J",
    (DENSE, "Gradients are in the paper's convention: J is H x N.", SMOOTH),
    tight=(Tight(tight.neuron, (2,)), Tight(tight.rank_one, (2,))),
    library=_library_norms,
)
def linear_stability(c: Case) -> list[Link]:
    """Both equalities and the inequality of (4), sample by sample."""
    largest = c.norm_W_2 * c.J_F
    return [
        (c.grad_W_F, "=", c.J_F * c.norm_x),
        (c.grad_x, "=", c.J @ c.W, largest[:, None, None]),
        (c.J_2 * c.norm_x, "<=", c.J_F * c.norm_x),
    ]


def resolved(c: Case) -> bool:
    """Whether the first sample's ball moves the output by far more than rounding."""
    moved, alpha = c.ball
    size = max(float(c.f(c.x[:1]).abs().max()), float(c.norm_x[0]) * float(c.grad_x_F[0]))
    return float(c.grad_x_F[0]) * math.sqrt(alpha) > 1e-9 * size and bool(moved.any())


@_state(
    (
        "8",
        "First-order propagation",
        "Sec. 3.1; corrected, see [Errata](chapters/09-errata.ipynb): the paper prints the "
        "gradient without its transpose and the equation without its remainder",
    ),
    "definition",
    r"f(x)=f(\bar x)+\nabla_xf(\bar x,\theta^*)^\top(x-\bar x)"
    r"+o(\lVert x-\bar x\rVert)\qquad(x\sim\mathcal N(\bar x,\alpha I),\ \alpha\to0)",
    (SMOOTH, "Checked by finite differences, along every axis of the input."),
    applies=resolved,
)
def first_order(c: Case) -> list[Link]:
    """(8): what small steps along every axis do to the output, divided by their lengths."""
    slope, error = c.along_the_axes
    J = c.grad_x[0]
    return [(slope, "~", J, error + ROUNDING_FLOOR * J.norm())]


@_state(
    (
        "9",
        "Covariance of the propagated ball",
        "Sec. 3.1; corrected, see [Errata](chapters/09-errata.ipynb): the paper prints the "
        "factors in the other order, and a limit without the division by alpha, which is 0",
    ),
    "definition",
    r"C_f^{\lim}=\lim_{\alpha\to0}\tfrac1\alpha\,C_{f(\mathcal B_\alpha)}"
    r"=\nabla_xf(\bar x,\theta^*)^\top\nabla_xf(\bar x,\theta^*)",
    (
        SMOOTH,
        "The gradient convention of (4): the product is N x N.",
        "Checked by finite differences, from points whose covariance is alpha I exactly.",
    ),
    applies=resolved,
)
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


def _library_volume(c: Case) -> list[Link]:
    scale = (c.grad_x_F**2 / c.N) ** (c.N / 2)
    return [(measure(c.net, c.x).log_volume.exp(), "=", volume(c), scale)]


@_state(
    ("10", "Local volumetric ratio", "Sec. 3.1"),
    "definition",
    r"d\mathrm{Vol}=\sqrt{\det(\nabla_xf^\top\nabla_xf)}=\prod_{k=1}^N\sigma_k",
    (NO_MORE_OUTPUTS, "A rank-deficient Jacobian has volume 0.", SMOOTH),
    library=_library_volume,
)
def local_volume(c: Case) -> list[Link]:
    """(10), squared: the Gram determinant against the QR factor and the singular values."""
    gram = torch.linalg.det(c.grad_x @ c.grad_x.mT)
    edges = torch.linalg.qr(c.grad_x.mT).R.diagonal(dim1=1, dim2=2)
    scale = (c.grad_x_F**2 / c.N) ** c.N
    return [(gram, "=", each**2, scale) for each in (edges.prod(dim=1), volume(c))]


def _sampled_dimensionality(moved: Tensor) -> tuple[Tensor, Tensor]:
    """Jackknife estimate from the propagated ball, and its standard error."""
    groups = (moved - moved.mean(dim=0)).unflatten(0, (GROUPS, -1))
    moments = groups.mT @ groups
    whole = participation_ratio(moments.sum(dim=0))
    left_out = participation_ratio(moments.sum(dim=0) - moments)
    estimate = GROUPS * whole - (GROUPS - 1) * left_out.mean()
    variance = (GROUPS - 1) / GROUPS * (left_out - left_out.mean()).square().sum()
    return estimate, variance.sqrt()


@_state(
    ("14", "Local dimensionality", "Sec. 3.3"),
    "definition",
    r"D_{\mathrm{PR}}=\frac{\operatorname{Tr}[C_f^{\lim}]^2}"
    r"{\operatorname{Tr}[(C_f^{\lim})^2]}="
    r"\Big(\frac{\lVert\lambda\rVert_1}{\lVert\lambda\rVert_2}\Big)^2\in[1,\operatorname{rank}]",
    (
        MOVING,
        "lambda are the eigenvalues of C.",
        SMOOTH,
        "Sampled: the propagated ball's ratio agrees within its own standard error.",
    ),
    applies=resolved,
    library=lambda c: [(measure(c.net, c.x).local_dimensionality, "=", c.D_PR)],
)
def dimensionality(c: Case) -> list[Link]:
    """(14): traces against eigenvalues, its range, and the propagated Gaussian ball."""
    D_PR, eigenvalues = c.D_PR, c.sigma**2
    by_norms = (eigenvalues.sum(dim=1) / eigenvalues.norm(dim=1)) ** 2
    rank = (c.sigma > 1e-12 * c.sigma[:, :1]).sum(dim=1)
    estimate, error = _sampled_dimensionality(c.ball[0])
    # At D_PR = N the first-order error vanishes: the second-order one is N^2 / samples.
    error = error + c.N**2 / len(c.ball[0]) + ROUNDING_FLOOR
    return [
        (D_PR, "=", by_norms),
        (1.0, "<=", D_PR),
        (D_PR, "<=", rank),
        (estimate, "~", D_PR[0], error),
    ]


def off_kinks(c: Case) -> bool:
    """Whether no ReLU bends within the perturbations: training may leave a sample at a kink."""
    return c.distance_to_kinks > 100 * RHO


def adaptive_energy(c: Case) -> Tensor:
    """Mean over samples of ``||theta * grad_theta f||_F^2``, the product entry by entry."""
    return mean(frobenius(c.theta * c.grad_theta) ** 2)


def _mean_rise(c: Case) -> Tensor:
    """Mean rise of the loss over rho^2, at perturbations whose moments are those of delta.

    These are steps of one parameter at a time, up and down: second moments decide the limit.
    """
    delta = RHO * torch.diag(c.theta)
    rise = vmap(lambda d: (c.loss(c.theta + d, c.y) + c.loss(c.theta - d, c.y)) / 2)
    return rise(delta).sum() / RHO**2


@_state(
    ("N.13", "Elementwise-adaptive sharpness", "Later versions"),
    "identity",
    r"\mathbb E_{\delta\sim\mathcal N(0,\rho^2\operatorname{diag}\theta^2)}"
    r"[L(\theta+\delta)-L(\theta)]=\frac{\rho^2}{2n}\sum_i"
    r"\lVert\theta\odot\nabla_\theta f(x_i)\rVert_F^2+o(\rho^2)",
    (
        INTERPOLATES,
        SMOOTH,
        "Exact for the loss's quadratic part; the rise itself is checked by finite differences.",
    ),
    draw=draw_interpolating,
    applies=off_kinks,
    library=lambda c: [(sharpness.adaptive_sharpness(c.net, c.x), "=", adaptive_energy(c))],
)
def adaptive_expectation(c: Case) -> list[Link]:
    """N.13 over rho^2: the Hessian's expectation exactly, the loss's rise by finite differences."""
    energy, H = adaptive_energy(c) / 2, c.hessian_at_targets
    scaled = c.theta[:, None] * H * c.theta
    m, rounding = len(c.theta), 1e-16 * c.f(c.x).norm() / RHO
    floor = 1e-4 * energy + rounding * (m * rounding + (m * energy).sqrt())
    return [(scaled.trace() / 2, "=", energy), (_mean_rise(c), "~", energy, floor)]
