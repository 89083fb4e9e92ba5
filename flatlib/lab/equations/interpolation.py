"""Sharpness at interpolation: Eqs. (1)-(3), (15), (16), Lemma A.1 and the tangent kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from flatlib import sharpness
from flatlib.lab.equations import tight
from flatlib.lab.equations.assumptions import INTERPOLATES, SMOOTH
from flatlib.lab.equations.cases import Case, draw_curved, draw_interpolating, mean
from flatlib.lab.equations.checking import Equation, Link, Tight
from flatlib.measurement import measure


def network(c: Case) -> list[Link]:
    """The module's output against matrix products written out by hand."""
    y = c.net(c.x)
    return [(y, "=", c.f(c.x), y.abs().max())]


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


def _library_trace(c: Case) -> list[Link]:
    H = c.hessian_at_targets
    found = sharpness.hessian_trace(c.net, c.x, c.y).estimate
    return [(found, "=", H.trace(), H.diagonal().abs().sum())]


def sharpness_at_interpolation(c: Case) -> list[Link]:
    """The explicit Hessian where y_i = f(x_i), against squared gradient norms."""
    return [(c.hessian_at_targets.trace(), "=", mean(c.grad_theta_F**2))]


def _library_sharpness(c: Case) -> list[Link]:
    return [(measure(c.net, c.x).sharpness, "=", c.S)]


def residual_term(c: Case) -> Tensor:
    """What Lemma A.1 neglects: mean over i, sum over j of (f_i - y_i) . d2 f_i / d theta_j^2."""
    return mean(torch.einsum("ik,ikj->i", c.residual, c.second_derivatives))


def sharpness_near_interpolation(c: Case) -> list[Link]:
    """The gap is the residual term, and halving the residual halves it: it is O(epsilon)."""
    TrH, gap = c.hessian_at_targets.trace(), residual_term(c)
    halfway = c.halfway.hessian_at_targets.trace()
    scale = c.S + gap.abs()
    return [(TrH, "=", c.S + gap, scale), (halfway - c.S, "=", (TrH - c.S) / 2, scale)]


def _library_gap(c: Case) -> list[Link]:
    gap = residual_term(c)
    return [(sharpness.sharpness_gap(c.net, c.x, c.y), "=", gap, c.S + gap.abs())]


def epsilon(c: Case) -> Tensor:
    """The largest residual's norm."""
    return c.residual.norm(dim=1).max()


def largest_curvature(c: Case) -> Tensor:
    """M2, the largest norm of a second derivative of f along one parameter."""
    return c.second_derivatives.norm(dim=1).max()


def gap_bound(c: Case) -> list[Link]:
    """The gap, its triangle inequality, and the constant with the number of parameters m."""
    m, M2 = len(c.theta), largest_curvature(c)
    gap = (c.hessian_at_targets.trace() - c.S).abs()
    terms = torch.einsum("ik,ikj->ij", c.residual, c.second_derivatives).abs()
    middle = mean(terms.sum(dim=1))
    return [
        (gap, "<=", middle, middle + c.S),
        (middle, "<=", m * M2 * epsilon(c)),
    ]


def lemma(c: Case) -> list[Link]:
    """Lemma A.1: the gap is the residual term, which m M2 epsilon bounds."""
    m, M2 = len(c.theta), largest_curvature(c)
    gap = c.hessian_at_targets.trace() - c.S
    term = residual_term(c)
    return [
        (gap, "=", term, c.S + term.abs()),
        (term.abs(), "<=", m * M2 * epsilon(c)),
    ]


def tangent_kernel(c: Case) -> Tensor:
    """K, an (n N) x (n N) matrix: inner products of the outputs' parameter gradients."""
    gradients = c.grad_theta.flatten(0, 1)
    return gradients @ gradients.T


def sharpness_is_kernel_trace(c: Case) -> list[Link]:
    """S, the kernel's trace, and its eigenvalues' sum."""
    K = tangent_kernel(c)
    TrH = c.hessian_at_targets.trace()
    return [
        (TrH, "=", K.trace() / c.n),
        (TrH, "=", torch.linalg.eigvalsh(K).sum() / c.n),
    ]


_network = Equation(
    label="1",
    name="The network",
    statement=r"y=f(x;\theta),\qquad f(x;\theta)=W_L\,a(\cdots a(W_1x+b_1)\cdots)+b_L",
    where="Sec. 2",
    assumptions=("Checked for fully connected networks, the paper's MLP among them.",),
    kind="definition",
    check=network,
)

_trace = Equation(
    label="2",
    name="Sharpness is the trace of the Hessian",
    statement=r"S(\theta)=\operatorname{Tr}H,\qquad H=\nabla^2_\theta L(\theta),\quad "
    r"L=\frac1{2n}\sum_{i=1}^n\lVert f(x_i)-y_i\rVert_2^2",
    where="Sec. 2",
    assumptions=(SMOOTH,),
    kind="definition",
    check=sharpness_is_trace,
    library=_library_trace,
)

_at_interpolation = Equation(
    label="3",
    name="Sharpness at interpolation",
    statement=r"S(\theta^*)=\frac1n\sum_{i=1}^n\lVert\nabla_\theta f(x_i,\theta^*)\rVert_F^2",
    where="Sec. 2",
    assumptions=(INTERPOLATES, SMOOTH),
    kind="identity",
    check=sharpness_at_interpolation,
    draw=draw_interpolating,
    library=_library_sharpness,
)

_near_interpolation = Equation(
    label="15",
    name="Sharpness near interpolation",
    statement=r"S(\theta)=\frac1n\sum_{i=1}^n\lVert\nabla_\theta f(x_i,\theta)\rVert_F^2"
    r"+O(\varepsilon),\qquad O(\varepsilon)="
    r"\frac1n\sum_{i=1}^n\sum_{j=1}^m(f(x_i)-y_i)^\top"
    r"\frac{\partial^2f(x_i)}{\partial\theta_j^2}",
    where="App. A, Lemma A.1",
    assumptions=("S is the trace of the Hessian here, at any parameters.", SMOOTH),
    kind="identity",
    check=sharpness_near_interpolation,
    draw=draw_curved,
    library=_library_gap,
)

_gap_bound = Equation(
    label="16",
    name="Bound on the gap, constant corrected",
    statement=r"\Big|S(\theta)-\frac1n\sum_i\lVert\nabla_\theta f(x_i,\theta)\rVert_F^2\Big|"
    r"\le\frac1n\sum_i\sum_{j=1}^m\Big|(f(x_i)-y_i)^\top"
    r"\frac{\partial^2f(x_i)}{\partial\theta_j^2}\Big|\le m\,M_2\,\varepsilon",
    where="App. A, Lemma A.1; the paper prints the last term without m",
    assumptions=(
        "The residuals' norms are at most epsilon.",
        "The second derivatives of f along single parameters have norm at most M2.",
        SMOOTH,
    ),
    kind="inequality",
    check=gap_bound,
    draw=draw_curved,
    tight=(Tight(tight.curved, (0, 1)),),
)

_lemma = Equation(
    label="A.1",
    name="Lemma A.1, constant corrected",
    statement=r"\lVert f(x_i)-y_i\rVert\le\varepsilon\ \text{and}\ "
    r"\Big\lVert\frac{\partial^2f(x_i)}{\partial\theta_j^2}\Big\rVert\le M_2"
    r"\ \Longrightarrow\ \Big|\operatorname{Tr}H-\frac1n\sum_i"
    r"\lVert\nabla_\theta f(x_i,\theta)\rVert_F^2\Big|\le m\,M_2\,\varepsilon",
    where="App. A",
    assumptions=("theta has m entries.", SMOOTH),
    kind="inequality",
    check=lemma,
    draw=draw_curved,
    tight=(Tight(tight.curved, (0, 1)),),
)

_kernel = Equation(
    label="N.1",
    name="Sharpness is the trace of the tangent kernel",
    statement=r"S(\theta^*)=\frac1n\operatorname{Tr}K,\qquad "
    r"K_{(i,k),(j,l)}=\nabla_\theta f_k(x_i)\cdot\nabla_\theta f_l(x_j)",
    where="Ours",
    assumptions=(INTERPOLATES, SMOOTH),
    kind="identity",
    check=sharpness_is_kernel_trace,
    draw=draw_interpolating,
    applies=lambda c: bool(c.S > 0),
)

EQUATIONS = (
    _network,
    _trace,
    _at_interpolation,
    _near_interpolation,
    _gap_bound,
    _lemma,
    _kernel,
)
