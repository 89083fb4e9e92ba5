"""Elementwise-adaptive sharpness: what it measures (N.13) and what it bounds (N.14)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import vmap

from flatlib import sharpness
from flatlib.inequalities import SMOOTH
from flatlib.lab.equations.assumptions import INTERPOLATES
from flatlib.lab.equations.cases import Case, draw_interpolating, frobenius, mean
from flatlib.lab.equations.checking import Equation, Link

RHO = 1e-7


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


def adaptive_expectation(c: Case) -> list[Link]:
    """N.13 over rho^2: the Hessian's expectation exactly, the loss's rise by finite differences."""
    energy, H = adaptive_energy(c) / 2, c.hessian_at_targets
    scaled = c.theta[:, None] * H * c.theta
    m, rounding = len(c.theta), 1e-16 * c.f(c.x).norm() / RHO
    floor = 1e-4 * energy + rounding * (m * rounding + (m * energy).sqrt())
    return [
        (scaled.trace() / 2, "=", energy),
        (_mean_rise(c), "~", energy, floor),
    ]


def _library_adaptive(c: Case) -> list[Link]:
    return [(sharpness.adaptive_sharpness(c.net, c.x), "=", adaptive_energy(c))]


_adaptive_expectation = Equation(
    label="N.13",
    name="Elementwise-adaptive sharpness",
    statement=r"\mathbb E_{\delta\sim\mathcal N(0,\rho^2\operatorname{diag}\theta^2)}"
    r"[L(\theta+\delta)-L(\theta)]=\frac{\rho^2}{2n}\sum_i"
    r"\lVert\theta\odot\nabla_\theta f(x_i)\rVert_F^2+o(\rho^2)",
    where="Later versions",
    assumptions=(
        INTERPOLATES,
        SMOOTH,
        "Exact for the loss's quadratic part; the rise itself is checked by finite differences.",
    ),
    kind="identity",
    check=adaptive_expectation,
    draw=draw_interpolating,
    applies=off_kinks,
    library=_library_adaptive,
)

EQUATIONS = (_adaptive_expectation,)
