"""Sharpness at interpolation: Eqs. (1)-(3), (15), (16), Lemma A.1 and the tangent kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from flatlib import sharpness
from flatlib.inequalities import SMOOTH
from flatlib.lab.equations.assumptions import INTERPOLATES
from flatlib.lab.equations.cases import Case, draw_curved, draw_interpolating, mean
from flatlib.lab.equations.checking import Equation, Link
from flatlib.measurement import measure
from flatlib.sides import residual_term


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


def sharpness_near_interpolation(c: Case) -> list[Link]:
    """The gap is the residual term, and halving the residual halves it: it is O(epsilon)."""
    TrH, gap = c.hessian_at_targets.trace(), residual_term(c)
    halfway = c.halfway.hessian_at_targets.trace()
    scale = c.S + gap.abs()
    return [(TrH, "=", c.S + gap, scale), (halfway - c.S, "=", (TrH - c.S) / 2, scale)]


def _library_gap(c: Case) -> list[Link]:
    gap = residual_term(c)
    return [(sharpness.sharpness_gap(c.net, c.x, c.y), "=", gap, c.S + gap.abs())]


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
    _kernel,
)
