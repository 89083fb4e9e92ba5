r"""Every inequality once: what it says, what it needs, both of its sides, where it is attained.

The sides are functions of named quantities, which two witnesses have: `flatlib.bounds.Measured`
takes them from a measurement, ``flatlib.lab.equations`` from plain autograd. Per sample:

=========================================  =======================================================
name                                       what, ``(n,)``
=========================================  =======================================================
``norm_x``                                 ``||x_i||_2``
``grad_x_F``, ``grad_x_2``                 ``||grad_x f||_F`` and ``||grad_x f||_2``, the MLS
``gradient_energy``                        ``||grad_x f||_F^2``
``grad_W_F``, ``grad_W_energy``            ``||grad_W f||_F`` and its square, W the first layer's
``grad_theta_F``, ``grad_theta_energy``    the same for all parameters
``log_volume``, ``D_PR``                   log of Eq. (10), Eq. (14)
``sigma``                                  singular values of the input Jacobian, ``(n, N)``
``delta_F``, ``untied_F``                  ``||delta||_F``, ``||grad_W f||_F`` with untied weights
``smallest_patch``                         ``min_p ||x_p||_2``
=========================================  =======================================================

and ``norm_W_2``, ``norm_W_F``, ``norm_T_W``, ``sharpness``, the sizes ``n`` and ``N``, the powers
``k``, ``k_high >= 2`` and ``k_low < 2``, and ``layers``, each with ``norm_x``, ``norm_W_2``,
``grad_x_2``, ``grad_W_F`` and ``log_volume``. What no measurement has is read by the checks alone.

A new inequality is one entry: `flatlib.bounds.evaluate`, the archive, the figures, the register
and its checks find it here.

>>> TABLE["13"].name, [column.key for column in COLUMNS.values() if column.label == "12"]
('Mean maximum local sensitivity by sharpness', ['12.1', '12.2'])
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from types import MappingProxyType
from typing import Any

from flatlib import sides

DENSE = (
    "The first layer is a dense linear map W of the input, and the input enters nowhere else; the "
    "gradient for W is the one through this layer."
)
DENSE_LAYERS = (
    "Every layer is a dense linear map of what it reads; the gradients for x^l and W_l are those "
    "through layer l alone, so a skip connection past layer l adds nothing to them."
)
TRAINABLE_LAYERS = (
    "Every W_l is among the parameters that S counts and belongs to layer l alone: none is "
    "frozen, and none is tied to another."
)
NONZERO = "No input is the zero vector."
LIVE_LAYERS = "No layer reads a zero vector."
SHARPNESS = (
    "S is the mean of the squared gradient norms of (3); it is the trace of the Hessian where the "
    "network interpolates."
)
TRAINABLE = "W is among the parameters that S counts, and it is used nowhere else."
SMOOTH = "The network is differentiable at every sample (ReLU: no sample sits on a kink)."
MOVING = "The Jacobian is not zero."
POWER = "k is at least 1."
HIGH, LOW = "k is at least 2.", "k is at least 1 and below 2."
EXPONENTS = "1 <= p <= q; q may be infinite."
FINITE_EXPONENTS = "1 <= p <= q, both finite."
CONVOLUTION = "The first layer is a convolution, and the input enters nowhere else."
ALL_PATCHES = "No patch x_p is the zero vector."
FULL_RANK_PATCHES = (
    "X, the patches, one column a position, has full column rank: no more positions than C_in k^2."
)

Side = Callable[[Any], Any]  # named quantities to a number, or one number a sample or more


@dataclass(frozen=True)
class Step:
    """One relation of an inequality's formula."""

    lhs: Side
    rhs: Side
    name: str = ""  # what is bounded by what, where that is recorded
    needs: tuple[str, ...] | None = None  # assumptions of this step, where these are not all
    relation: str = "<="
    scale: Side | None = None  # what rounding is relative to, where it is not the larger side
    label: str = ""  # under which it is reported, where that is another


@dataclass(frozen=True)
class Inequality:
    """A numbered inequality of the paper, or ours."""

    label: str  # the paper's number, or N.1, N.2, ...
    name: str
    where: str  # in the 2023 version of the paper
    statement: str  # LaTeX
    assumptions: tuple[str, ...]
    attained: Mapping[str, tuple[int, ...]]  # equality case, as the register builds it: its steps
    steps: tuple[Step, ...]
    group: str = ""  # the figure that shows what is recorded of it
    logarithmic: bool = False  # the sides are logarithms
    per_sample: bool = False  # one inequality a sample; the tightest is recorded
    powers: tuple[int, ...] = ()  # k of what is recorded, where k is free
    is_recorded: Callable[[Any], bool] = lambda q: True  # for a network
    cases: str = "networks"  # what its check draws


TABLE: dict[str, Inequality] = {}  # by label


def _equal(lhs: Side, rhs: Side, scale: Side | None = None) -> Step:
    return Step(lhs, rhs, relation="=", scale=scale)


def _state(heading, statement, assumptions, attained, *steps, **options) -> None:
    """Enter an inequality into the table; its heading is its label, its name, and where it is."""
    TABLE[heading[0]] = Inequality(*heading, statement, assumptions, attained, steps, **options)


# What the entries of one figure, or about vectors, have in common.
_of_weights = partial(_state, group="weights to inputs")
_of_volume = partial(_state, group="volume", logarithmic=True)
_of_sensitivity = partial(_state, group="sensitivity")
_of_layers = partial(_state, group="layers and dimensions", is_recorded=attrgetter("has_layer_mls"))
_of_convolutions = partial(
    _state,
    group="convolutions",
    per_sample=True,
    is_recorded=attrgetter("convolution_in_front"),
    cases="convolutions",
)
_of_vectors = partial(_state, cases="vectors")

# Where S is computed as the trace of the Hessian, this is Eq. (3), in logarithms.
IS_SHARPNESS = _equal(
    lambda q: sides.log(q.grad_theta_energy.mean()), lambda q: sides.log(q.sharpness)
)

_state(
    (
        "16",
        "Bound on the gap, constant corrected",
        "App. A, Lemma A.1; the paper prints the last term without m",
    ),
    r"\Big|S(\theta)-\frac1n\sum_i\lVert\nabla_\theta f(x_i,\theta)\rVert_F^2\Big|"
    r"\le\frac1n\sum_i\sum_{j=1}^m\Big|(f(x_i)-y_i)^\top"
    r"\frac{\partial^2f(x_i)}{\partial\theta_j^2}\Big|\le m\,M_2\,\varepsilon",
    (
        "The residuals' norms are at most epsilon.",
        "The second derivatives of f along single parameters have norm at most M2.",
        SMOOTH,
    ),
    {"curved": (0, 1)},
    Step(lambda q: sides.gap(q).abs(), sides.gap_terms, scale=lambda q: sides.gap_terms(q) + q.S),
    Step(sides.gap_terms, sides.gap_bound),
    cases="curved",
)
_state(
    ("A.1", "Lemma A.1, constant corrected", "App. A"),
    r"\lVert f(x_i)-y_i\rVert\le\varepsilon\ \text{and}\ "
    r"\Big\lVert\frac{\partial^2f(x_i)}{\partial\theta_j^2}\Big\rVert\le M_2"
    r"\ \Longrightarrow\ \Big|\operatorname{Tr}H-\frac1n\sum_i"
    r"\lVert\nabla_\theta f(x_i,\theta)\rVert_F^2\Big|\le m\,M_2\,\varepsilon",
    ("theta has m entries.", SMOOTH),
    {"curved": (0, 1)},
    _equal(sides.gap, sides.residual_term, lambda q: q.S + sides.residual_term(q).abs()),
    Step(lambda q: sides.residual_term(q).abs(), sides.gap_bound),
    cases="curved",
)
_of_weights(
    ("5", "Input gradient by weight gradient", "Sec. 2"),
    r"\lVert\nabla_xf\rVert_F\le\frac{\lVert W\rVert_F}{\lVert x\rVert_2}"
    r"\lVert\nabla_Wf\rVert_F,\qquad\lVert\nabla_xf\rVert_2\le"
    r"\frac{\lVert W\rVert_2}{\lVert x\rVert_2}\lVert\nabla_Wf\rVert_F",
    (DENSE, NONZERO, SMOOTH),
    {"neuron": (0, 1), "rank_one": (0, 1)},
    Step(sides.grad_x_F, sides.ratio_F, "||grad_x f||_F by ||W||_F ||grad_W f||_F / ||x||"),
    Step(sides.grad_x_2, sides.ratio_2, "||grad_x f||_2 by ||W||_2 ||grad_W f||_F / ||x||"),
    per_sample=True,
)
_of_weights(
    (
        "N.2",
        "Spectral norm of W in place of its Frobenius norm",
        "Ours; sharpens (5), (6) and (12)",
    ),
    r"\lVert W^\top J\rVert_F\le\lVert W\rVert_2\lVert J\rVert_F",
    (DENSE, NONZERO, TRAINABLE, SMOOTH),
    {"isotropic": (0, 1), "neuron": (0, 1, 2), "neuron_one_live": (0, 1, 2, 3)},
    Step(lambda q: (q.J @ q.W).flatten(1).norm(dim=1), lambda q: q.norm_W_2 * q.J_F),
    Step(
        sides.grad_x_F, sides.ratio_2, "||grad_x f||_F by ||W||_2 ||grad_W f||_F / ||x||", (DENSE,)
    ),
    Step(sides.powers_of_x, sides.by_theta_2),
    Step(
        lambda q: sides.mean_power(q.grad_x_F, q.N),
        lambda q: (
            q.n ** max(q.N / 2 - 1, 0)
            * q.norm_W_2**q.N
            / q.norm_x.min() ** q.N
            * q.sharpness ** (q.N / 2)
        ),
    ),
    per_sample=True,
)
_of_weights(
    ("6", "Mean powers of the input gradient", "Sec. 2"),
    r"\frac1n\sum_i\lVert\nabla_xf(x_i)\rVert_F^k"
    r"\le\frac{\lVert W\rVert_F^k}{\min_i\lVert x_i\rVert_2^k}"
    r"\frac1n\sum_i\lVert\nabla_Wf(x_i)\rVert_F^k"
    r"\le\frac{\lVert W\rVert_F^k}{\min_i\lVert x_i\rVert_2^k}"
    r"\frac1n\sum_i\lVert\nabla_\theta f(x_i)\rVert_F^k",
    (DENSE, NONZERO, POWER, TRAINABLE, SMOOTH),
    {"neuron": (0, 1), "neuron_some_dead": (0, 1)},
    Step(
        sides.powers_of_x,
        sides.by_W,
        "mean of ||grad_x f||_F^k by that of ||grad_W f||_F^k",
        (DENSE,),
    ),
    Step(
        sides.by_W,
        sides.by_theta,
        "mean of ||grad_W f||_F^k by that of ||grad_theta f||_F^k",
        (TRAINABLE,),
    ),
    powers=(1, 2),
)
_of_weights(
    ("7", "Mean powers of the sensitivity", "Sec. 2"),
    r"\frac1n\sum_i\lVert\nabla_xf(x_i)\rVert_2^k"
    r"\le\frac{\lVert W\rVert_2^k}{\min_i\lVert x_i\rVert_2^k}"
    r"\frac1n\sum_i\lVert\nabla_\theta f(x_i)\rVert_F^k",
    (DENSE, NONZERO, POWER, TRAINABLE, SMOOTH),
    {"neuron": (0,), "neuron_some_dead": (0,)},
    Step(
        lambda q: sides.mean_power(q.grad_x_2, q.k),
        sides.by_theta_2,
        "mean of ||grad_x f||_2^k by that of ||grad_theta f||_F^k",
    ),
    powers=(1, 2),
)
_of_volume(
    ("11", "Volume by the Frobenius norm", "Sec. 3.1"),
    r"d\mathrm{Vol}\le\Big(\frac{\operatorname{Tr}\nabla_xf^\top\nabla_xf}N\Big)^{N/2}"
    r"=N^{-N/2}\lVert\nabla_xf\rVert_F^N",
    (SMOOTH,),
    {"isotropic": (0,), "rank_one": (0,)},
    Step(sides.log_volume, sides.log_energies, "log volume by log of ||grad_x f||_F^N / N^(N/2)"),
    _equal(
        lambda q: (
            q.N / 2 * ((q.grad_x @ q.grad_x.mT).diagonal(dim1=1, dim2=2).sum(dim=1) / q.N).log()
        ),
        sides.log_energies,
    ),
    per_sample=True,
)
_of_volume(
    ("12", "Mean volume by sharpness", "Sec. 3.1"),
    r"dV\le\frac{N^{-N/2}}n\sum_i\lVert\nabla_xf(x_i)\rVert_F^N"
    r"\le\frac{n^{\max(N/2-1,0)}\lVert W\rVert_F^N}{\min_i\lVert x_i\rVert_2^N}"
    r"\Big(\frac{S(\theta^*)}N\Big)^{N/2},\qquad dV=\frac1n\sum_id\mathrm{Vol}(x_i)",
    (DENSE, NONZERO, SHARPNESS, TRAINABLE, SMOOTH),
    {"isotropic_any_norm": (0,), "linear_functional": (0, 1), "neuron_one_live": (1,)},
    Step(
        lambda q: sides.log_mean_exp(q.log_volume),
        sides.log_mean_energy,
        "log mean volume by log mean of ||grad_x f||_F^N / N^(N/2)",
        (),
    ),
    Step(
        sides.log_mean_energy,
        lambda q: sides.log_by_sharpness(q, q.N),
        "log mean of ||grad_x f||_F^N / N^(N/2) by sharpness",
    ),
)
_state(
    ("17", "Powers of the input gradient by the weights' gradient", "App. B"),
    r"\frac1n\sum_i\lVert\nabla_xf(x_i)\rVert_F^k\le\lVert W\rVert_F^k\frac1n\sum_i"
    r"\frac{\lVert\nabla_Wf(x_i)\rVert_F^k}{\lVert x_i\rVert_2^k}"
    r"\le\frac{\lVert W\rVert_F^k}{\min_i\lVert x_i\rVert_2^k}\frac1n\sum_i"
    r"\lVert\nabla_Wf(x_i)\rVert_F^k",
    (DENSE, NONZERO, POWER, SMOOTH),
    {"neuron": (0, 1), "neuron_some_dead": (0, 1), "rank_one": (0,)},
    Step(sides.powers_of_x, sides.by_ratio),
    Step(sides.by_ratio, sides.by_W),
)
_state(
    ("18", "W's gradient is part of the whole", "App. B"),
    r"\frac{\lVert W\rVert_F^k}{\min_i\lVert x_i\rVert_2^k}\frac1n\sum_i"
    r"\lVert\nabla_Wf(x_i)\rVert_F^k\le\frac{\lVert W\rVert_F^k}{\min_i\lVert x_i\rVert_2^k}"
    r"\frac1n\sum_i\lVert\nabla_\theta f(x_i)\rVert_F^k",
    (NONZERO, TRAINABLE, POWER),
    {"neuron": (0,), "rank_one": (0,)},
    Step(sides.by_W, sides.by_theta),
)
_of_vectors(
    ("B.1", "Lemma B.1", "App. B"),
    r"\lVert v\rVert_p\ge\lVert v\rVert_q\qquad(1\le p\le q\le\infty)",
    (EXPONENTS,),
    {"one_entry": (0,)},
    Step(sides.norm_q, sides.norm_p),
)
_of_vectors(
    ("19", "The step behind Lemma B.1", "App. B"),
    r"\Big(\sum_i|v_i|^q\Big)^{1/q}=\Big(\sum_i|v_i|^q\Big)^{\frac pq\cdot\frac1p}"
    r"\le\Big(\sum_i(|v_i|^q)^{p/q}\Big)^{1/p}=\Big(\sum_i|v_i|^p\Big)^{1/p}",
    (FINITE_EXPONENTS,),
    {"one_entry": (1,)},
    _equal(sides.norm_q, lambda q: (q.v.abs() ** q.q).sum() ** (q.p / q.q * (1 / q.p))),
    Step(sides.norm_q, sides.by_terms),
    _equal(sides.by_terms, sides.norm_p),
)
_state(
    ("20", "Powers k/2 of squared gradient norms, k at least 2", "App. B"),
    r"\Big(\sum_i\big(\lVert\nabla_\theta f(x_i)\rVert_F^2\big)^{k/2}\Big)^{2/k}"
    r"\le\sum_i\lVert\nabla_\theta f(x_i)\rVert_F^2",
    (HIGH,),
    {"neuron_one_live": (0,)},
    Step(
        lambda q: ((q.grad_theta_F**2) ** (q.k_high / 2)).sum() ** (2 / q.k_high),
        lambda q: (q.grad_theta_F**2).sum(),
    ),
)
_of_volume(
    ("21", "Mean powers by sharpness, k at least 2", "App. B"),
    r"\begin{aligned}\frac{\lVert W\rVert_F^k}{\min_i\lVert x_i\rVert_2^k}\frac1n\sum_i"
    r"\lVert\nabla_\theta f(x_i)\rVert_F^k&\le\frac{n^{k/2-1}\lVert W\rVert_F^k}"
    r"{\min_i\lVert x_i\rVert_2^k}\Big(\frac1n\sum_i\lVert\nabla_\theta f(x_i)\rVert_F^2"
    r"\Big)^{k/2}\\&=\frac{n^{k/2-1}\lVert W\rVert_F^k}{\min_i\lVert x_i\rVert_2^k}"
    r"S(\theta^*)^{k/2}\end{aligned}",
    (HIGH, NONZERO, SHARPNESS),
    {"neuron_one_live": (0,)},
    Step(
        lambda q: sides.log_powers(q, q.k_high),
        lambda q: sides.log_powers_bound(q, q.k_high),
        "log mean of ||grad_theta f||_F^N by sharpness",
    ),
    IS_SHARPNESS,
    is_recorded=lambda q: q.N >= 2,
)
_of_vectors(
    ("B.2", "Lemma B.2", "App. B"),
    r"\lVert v\rVert_p\le n^{1/p-1/q}\lVert v\rVert_q"
    r"\qquad(v\in\mathbb R^n,\ 1\le p\le q\le\infty)",
    (EXPONENTS,),
    {"one_size": (0,)},
    Step(sides.norm_p, lambda q: q.n ** (1 / q.p - 1 / q.q) * sides.norm_q(q)),
)
_of_vectors(
    ("22", "The step behind Lemma B.2", "App. B"),
    r"\sum_i|v_i|^p\cdot1\le\Big(\sum_i|v_i|^q\Big)^{p/q}\Big(\sum_i1\Big)^{1-p/q}"
    r"=n^{1-p/q}\lVert v\rVert_q^p",
    (FINITE_EXPONENTS,),
    {"one_size": (0,)},
    Step(lambda q: (q.v.abs() ** q.p).sum(), sides.hoelder),
    _equal(sides.hoelder, lambda q: q.n ** (1 - q.p / q.q) * sides.norm_q(q) ** q.p),
)
_state(
    ("23", "Powers k of gradient norms, k below 2", "App. B"),
    r"\Big(\sum_i\lVert\nabla_\theta f_i\rVert_F^k\Big)^{1/k}"
    r"\le n^{1/k-1/2}\Big(\sum_i\lVert\nabla_\theta f_i\rVert_F^2\Big)^{1/2}",
    (LOW,),
    {"linear_functional": (0,), "balanced": (0,)},
    Step(
        lambda q: (q.grad_theta_F**q.k_low).sum() ** (1 / q.k_low),
        lambda q: q.n ** (1 / q.k_low - 1 / 2) * (q.grad_theta_F**2).sum().sqrt(),
    ),
)
_of_volume(
    ("24", "Mean powers by sharpness, k below 2", "App. B"),
    r"\begin{aligned}\frac{\lVert W\rVert_F^k}{\min_i\lVert x_i\rVert_2^k}\frac1n\sum_i"
    r"\lVert\nabla_\theta f_i\rVert_F^k&\le\frac{\lVert W\rVert_F^k}{\min_i\lVert x_i\rVert_2^k}"
    r"\frac{n^{1-k/2}}n\Big(\sum_i\lVert\nabla_\theta f_i\rVert_F^2\Big)^{k/2}\\"
    r"&=\frac{\lVert W\rVert_F^k}{\min_i\lVert x_i\rVert_2^k}S(\theta^*)^{k/2}\end{aligned}",
    (LOW, NONZERO, SHARPNESS),
    {"linear_functional": (0,), "balanced": (0,)},
    Step(
        lambda q: sides.log_powers(q, q.k_low),
        lambda q: sides.log_powers_bound(q, q.k_low),
        "log mean of ||grad_theta f||_F^N by sharpness",
    ),
    IS_SHARPNESS,
    is_recorded=lambda q: q.N < 2,
)
_of_volume(
    ("N.3", "Mean log volume by sharpness", "Ours; beside (12)"),
    r"\begin{aligned}\frac1n\sum_i\log d\mathrm{Vol}(x_i)&\le\frac N2\log\Big("
    r"\frac{\lVert W\rVert_2^2}N\,\frac1n\sum_i\frac{\lVert\nabla_Wf(x_i)\rVert_F^2}"
    r"{\lVert x_i\rVert_2^2}\Big)\\&\le\frac N2\log\Big("
    r"\frac{\lVert W\rVert_2^2\,S}{N\min_i\lVert x_i\rVert_2^2}\Big)\end{aligned}",
    (DENSE, NONZERO, SHARPNESS, TRAINABLE, SMOOTH, "Slack is in nats."),
    {"isotropic": (0, 1), "isotropic_any_norm": (0,)},
    Step(
        sides.mean_log_volume,
        sides.log_by_weights,
        "mean log volume by ||grad_W f||_F / ||x||",
        (DENSE,),
    ),
    Step(sides.log_by_weights, sides.log_by_S, "||grad_W f||_F / ||x|| by sharpness", (TRAINABLE,)),
)
_of_sensitivity(
    ("13", "Mean maximum local sensitivity by sharpness", "Sec. 3.2"),
    r"\overline{\mathrm{MLS}}=\frac1n\sum_i\lVert\nabla_xf(x_i)\rVert_2"
    r"\le\lVert W\rVert_2\sqrt{\frac1n\sum_i\frac1{\lVert x_i\rVert_2^2}}\;S(\theta^*)^{1/2}",
    (DENSE, NONZERO, SHARPNESS, TRAINABLE, SMOOTH),
    {"neuron": (0,), "orthants": (0,)},
    Step(sides.A, sides.D, "A <= D"),
)
_of_sensitivity(
    ("25", "A by B", "App. C"),
    r"\overline{\mathrm{MLS}}\le\lVert W\rVert_2\,\frac1n\sum_i"
    r"\frac{\lVert\nabla_Wf(x_i)\rVert_F}{\lVert x_i\rVert_2}",
    (DENSE, NONZERO, SMOOTH),
    {"neuron": (0,), "orthants": (0,), "rank_one": (0,)},
    Step(sides.A, sides.B, "A <= B"),
)
_of_sensitivity(
    ("26", "Cauchy-Schwarz over the samples", "App. C"),
    r"\Big(\sum_i\frac{\lVert\nabla_Wf_i\rVert_F}{\lVert x_i\rVert_2}\Big)^2"
    r"\le\Big(\sum_i\frac1{\lVert x_i\rVert_2^2}\Big)\Big(\sum_i\lVert\nabla_Wf_i\rVert_F^2\Big)",
    (NONZERO,),
    {"neuron": (0,), "orthants": (0,)},
    Step(
        lambda q: (q.grad_W_F / q.norm_x).sum() ** 2,
        lambda q: (q.norm_x**-2).sum() * (q.grad_W_F**2).sum(),
    ),
)
_of_sensitivity(
    ("27", "A by C, C by D", "App. C"),
    r"\begin{aligned}\overline{\mathrm{MLS}}&\le\lVert W\rVert_2"
    r"\sqrt{\frac1n\sum_i\frac1{\lVert x_i\rVert_2^2}}"
    r"\sqrt{\frac1n\sum_i\lVert\nabla_Wf_i\rVert_F^2}\\"
    r"&\le\lVert W\rVert_2\sqrt{\frac1n\sum_i\frac1{\lVert x_i\rVert_2^2}}\;S(\theta^*)^{1/2}"
    r"\end{aligned}",
    (DENSE, NONZERO, SHARPNESS, TRAINABLE, SMOOTH),
    {"neuron": (0, 1), "orthants": (0, 1)},
    Step(sides.A, sides.C, "A <= C", (DENSE,), label="28"),
    Step(sides.C, sides.D, "C <= D", (TRAINABLE,)),
)
_of_sensitivity(
    ("28", "The chain A to D", "App. D.1"),
    r"\begin{aligned}A&=\frac1n\sum_i\lVert\nabla_xf(x_i)\rVert_2\\"
    r"&\le B=\frac{\lVert W\rVert_2}n\sum_i\frac{\lVert\nabla_Wf(x_i)\rVert_F}"
    r"{\lVert x_i\rVert_2}\\"
    r"&\le C=\lVert W\rVert_2\sqrt{\frac1n\sum_i\frac1{\lVert x_i\rVert_2^2}}"
    r"\sqrt{\frac1n\sum_i\lVert\nabla_Wf(x_i)\rVert_F^2}\\"
    r"&\le D=\lVert W\rVert_2\sqrt{\frac1n\sum_i\frac1{\lVert x_i\rVert_2^2}}\;S(\theta^*)^{1/2}"
    r"\end{aligned}",
    (DENSE, NONZERO, SHARPNESS, TRAINABLE, SMOOTH),
    {"neuron": (0, 1, 2), "orthants": (0, 1, 2), "rank_one": (0, 2)},
    Step(sides.A, sides.B),
    Step(sides.B, sides.C, "B <= C", (), label="26"),
    Step(sides.C, sides.D),
)
_of_sensitivity(
    ("N.4", "C', the bound that the printed equality condition describes", "Ours; beside App. D.1"),
    r"A\le B\le C'=\lVert W\rVert_2\sqrt{\frac1n\sum_i"
    r"\frac{\lVert\nabla_Wf(x_i)\rVert_F^2}{\lVert x_i\rVert_2^2}}",
    (DENSE, NONZERO, SMOOTH),
    {"rank_one": (0, 1), "isotropic_any_norm": (1,)},
    Step(sides.A, sides.B),
    Step(sides.B, sides.C_prime, "B <= C'", ()),
)
_state(
    ("N.5", "Dimensionality between MLS and gradient energy", "Ours; beside (14)"),
    r"\frac{\lVert\nabla_xf\rVert_F^2}{D_{\mathrm{PR}}}\le\sigma_1^2"
    r"\le\lVert\nabla_xf\rVert_F^2",
    (MOVING, SMOOTH),
    {"isotropic": (0,), "neuron": (0, 1)},
    Step(sides.energy_over_dimension, sides.squared_mls, "||grad_x f||_F^2 / D_PR by MLS^2"),
    Step(
        sides.squared_mls,
        lambda q: q.gradient_energy[sides.moving(q)],
        "MLS^2 by ||grad_x f||_F^2",
        (),
    ),
    per_sample=True,
    group="layers and dimensions",
)
_of_layers(
    ("N.9", "Network MLS by sharpness", "Later versions"),
    r"\mathrm{NMLS}=\frac1n\sum_i\sum_l\lVert\nabla_{x^l}f(x_i)\rVert_2"
    r"\le\sqrt{\frac1n\sum_i\sum_l\frac{\lVert W_l\rVert_2^2}{\lVert x_i^l\rVert_2^2}}"
    r"\;S^{1/2}",
    (DENSE_LAYERS, TRAINABLE_LAYERS, LIVE_LAYERS, SHARPNESS, SMOOTH),
    {"balanced": (0,), "linear_functional": (0,)},
    Step(sides.nmls, sides.nmls_bound, "NMLS by sharpness"),
)
_of_layers(
    ("N.10", "Network volumetric ratio by sharpness", "Later versions"),
    r"\mathrm{NVR}=\frac1n\sum_i\sum_ld\mathrm{Vol}_{x^l\to f}(x_i)"
    r"\le n^{N-1}\Big(\frac SN\;\frac1n\sum_i\sum_l"
    r"\frac{\lVert W_l\rVert_2^2}{\lVert x_i^l\rVert_2^2}\Big)^{N/2}",
    (
        DENSE_LAYERS,
        TRAINABLE_LAYERS,
        LIVE_LAYERS,
        "Layers of fewer than N inputs have volume 0 and are left out of NVR.",
        SHARPNESS,
        SMOOTH,
    ),
    {"isotropic_one_live": (0,), "linear_functional": (0,), "balanced": (0,)},
    Step(sides.log_nvr, sides.log_nvr_bound, "log NVR by sharpness"),
    logarithmic=True,
)
_of_layers(
    ("N.11", "Layerwise scale-invariant bound", "Later versions"),
    r"\lVert x^l\rVert_2\lVert\nabla_{x^l}f\rVert_2"
    r"\le\lVert W_l\rVert_2\lVert\nabla_{W_l}f\rVert_F\qquad\text{for every layer }l",
    (
        DENSE_LAYERS,
        "Invariance under rescaling of the layers (product 1): no biases, no skip connections, no "
        "tied weights, and activations that commute with positive factors, such as ReLU.",
        SMOOTH,
    ),
    {"balanced": (0,), "rank_one": (0,)},
    Step(
        sides.inputs_times_sensitivities,
        sides.weights_times_gradients,
        "||x^l|| ||grad_x^l f||_2 by ||W_l||_2 ||grad_W_l f||_F",
    ),
    _equal(
        lambda q: sides.inputs_times_sensitivities(q.rescaled), sides.inputs_times_sensitivities
    ),
    _equal(lambda q: sides.weights_times_gradients(q.rescaled), sides.weights_times_gradients),
    per_sample=True,
)
_of_layers(
    ("N.12", "Normalized NMLS by relative sharpness", "Later versions"),
    r"\frac1n\sum_i\sum_l\lVert x_i^l\rVert_2\lVert\nabla_{x^l}f(x_i)\rVert_2"
    r"\le\sqrt{\#\mathrm{layers}\cdot\frac1n\sum_i\sum_l"
    r"\lVert W_l\rVert_2^2\lVert\nabla_{W_l}f(x_i)\rVert_F^2}",
    (DENSE_LAYERS, SMOOTH),
    {"balanced": (0,), "linear_functional": (0,)},
    Step(sides.normalized_nmls, sides.relative_bound, "normalized NMLS by relative sharpness"),
)
_state(
    ("N.14", "Adaptive sensitivity by adaptive sharpness", "Later versions"),
    r"\lVert\operatorname{diag}(x)\nabla_xf\rVert_F^2"
    r"\le H\,\lVert W\odot\nabla_Wf\rVert_F^2",
    (DENSE, "W has H rows.", SMOOTH),
    {"repeated_row": (0,), "neuron": (0,)},
    Step(
        lambda q: (q.x[:, None, :] * q.grad_x).square().sum(dim=(1, 2)),
        lambda q: len(q.W) * (q.W * q.grad_W).square().sum(dim=(1, 2, 3)),
    ),
)
_of_convolutions(
    ("N.6", "Convolution: operator norm times delta", "Ours"),
    r"\lVert\nabla_xf\rVert_2\le\lVert T_W\rVert_2\,\lVert\delta\rVert_F,"
    r"\qquad\nabla_xf=T_W^\top\delta",
    (
        CONVOLUTION,
        "T_W is the dense matrix of the convolution's linear part.",
        "delta is the gradient of f at the convolution's output, all outputs side by side.",
        SMOOTH,
    ),
    {"aligned": (1,)},
    _equal(
        lambda q: q.grad_x,
        lambda q: q.delta.flatten(2) @ q.T_W,
        lambda q: q.grad_x_F[:, None, None],
    ),
    Step(
        sides.grad_x_2, lambda q: q.norm_T_W * q.delta_F, "||grad_x f||_2 by ||T_W||_2 ||delta||_F"
    ),
)
_of_convolutions(
    ("N.7", "Convolution: untied weights", "Ours"),
    r"\lVert\nabla_{W_{\mathrm{untied}}}f\rVert_F^2"
    r"=\sum_p\lVert\delta_p\rVert_F^2\lVert x_p\rVert_2^2,\qquad"
    r"\lVert\nabla_xf\rVert_2\le\frac{\lVert T_W\rVert_2}{\min_p\lVert x_p\rVert_2}"
    r"\lVert\nabla_{W_{\mathrm{untied}}}f\rVert_F",
    (CONVOLUTION, "Its weights are copied once a position p.", ALL_PATCHES, SMOOTH),
    {"aligned": (1,)},
    _equal(
        lambda q: q.untied_F**2, lambda q: ((q.delta**2).sum(dim=(1, 2)) * q.norm_X**2).sum(dim=1)
    ),
    Step(
        sides.grad_x_2,
        sides.untied_bound,
        "||grad_x f||_2 by ||T_W||_2 ||grad_W f (untied)||_F / min_p ||x_p||",
    ),
)
_state(
    ("N.8", "Convolution: patches of full column rank", "Ours"),
    r"\lVert\delta\rVert_F\le\frac{\lVert\nabla_Wf\rVert_F}{\sigma_{\min}(X)},\qquad"
    r"\nabla_Wf=\sum_p\delta_px_p^\top",
    (CONVOLUTION, FULL_RANK_PATCHES, SMOOTH),
    {"cancelling": (1,), "one_position": (1, 2)},
    _equal(
        lambda q: q.grad_W,
        lambda q: q.delta @ q.X[:, None],
        lambda q: q.grad_W_F[:, None, None, None],
    ),
    Step(sides.delta_F, lambda q: q.grad_W_F / q.smallest_sigma),
    Step(sides.grad_x_2, lambda q: q.norm_T_W * q.grad_W_F / q.smallest_sigma),
    cases="convolutions",
)
_state(
    (
        "N.15",
        "Dimensionality by effective rank",
        "Ours; beside (14), with the effective rank of Roy and Vetterli (2007) for squares",
    ),
    r"D_{\mathrm{PR}}\le\exp\Big(-\sum_{k=1}^Np_k\log p_k\Big),\qquad "
    r"p_k=\frac{\sigma_k^2}{\sum_j\sigma_j^2}",
    (MOVING, "The term of a singular value of 0 is 0.", SMOOTH),
    {"isotropic": (0,), "neuron": (0,)},
    Step(lambda q: q.D_PR.nan_to_num(nan=1.0), sides.effective_rank, "D_PR by effective rank"),
    per_sample=True,
    group="layers and dimensions",
)


@dataclass(frozen=True)
class Column:
    """An inequality as it is recorded: one step at one power."""

    key: str  # the label, with a number behind it where a label has several
    label: str
    name: str
    inequality: Inequality
    step: Step
    k: int


def _columns() -> dict[str, Column]:
    """Every recorded inequality by key, in the order of the labels."""
    found = [
        (step.label or inequality.label, inequality, step, k)
        for inequality in TABLE.values()
        for k in inequality.powers or (1,)
        for step in inequality.steps
        if step.name
    ]
    columns = {}
    for label in TABLE:
        own = [each for each in found if each[0] == label]
        for number, (_, inequality, step, k) in enumerate(own, 1):
            key = f"{label}.{number}" if len(own) > 1 else label
            name = f"k={k}: {step.name}" if inequality.powers else step.name
            columns[key] = Column(key, label, name, inequality, step, k)
    return columns


COLUMNS = MappingProxyType(_columns())
