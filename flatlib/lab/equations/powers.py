"""Appendix B: Eqs. (17)-(24) and Lemmas B.1 and B.2, on vectors and on networks."""

from __future__ import annotations

from torch import Tensor

from flatlib.lab.equations import tight, vectors
from flatlib.lab.equations.assumptions import (
    DENSE,
    EXPONENTS,
    FINITE_EXPONENTS,
    NONZERO,
    POWER,
    SHARPNESS,
    SMOOTH,
    TRAINABLE,
)
from flatlib.lab.equations.cases import Case, mean
from flatlib.lab.equations.checking import Equation, Link, Tight
from flatlib.lab.equations.library import at_power_of_outputs, same_shares
from flatlib.lab.equations.vectors import Vector, norm


def powers_by_weights(c: Case) -> list[Link]:
    """(17): (5) to the k-th power at each sample, then the smallest input."""
    k = c.k
    middle = c.norm_W_F**k * mean(c.grad_W_F**k / c.norm_x**k)
    last = c.norm_W_F**k / c.norm_x.min() ** k * mean(c.grad_W_F**k)
    return [(mean(c.grad_x_F**k), "<=", middle), (middle, "<=", last)]


def _prefactor(c: Case, k: float) -> Tensor:
    return c.norm_W_F**k / c.norm_x.min() ** k


def powers_by_parameters(c: Case) -> list[Link]:
    """(18): W is some of the parameters."""
    k, factor = c.k, _prefactor(c, c.k)
    return [(factor * mean(c.grad_W_F**k), "<=", factor * mean(c.grad_theta_F**k))]


def norms_step(c: Vector) -> list[Link]:
    """(19): the equality of exponents, then sums of powers p/q <= 1."""
    v, p, q = c.v.abs(), c.p, c.q
    left = (v**q).sum() ** (1 / q)
    middle = (v**q).sum() ** (p / q * (1 / p))
    by_terms = ((v**q) ** (p / q)).sum() ** (1 / p)
    return [
        (left, "=", middle),
        (middle, "<=", by_terms),
        (by_terms, "=", norm(v, p)),
    ]


def high_powers(c: Case) -> list[Link]:
    """(20): Lemma B.1 with p = 1, q = k/2 for the squared gradient norms."""
    k, squares = c.k_high, c.grad_theta_F**2
    return [((squares ** (k / 2)).sum() ** (2 / k), "<=", squares.sum())]


def high_powers_by_sharpness(c: Case) -> list[Link]:
    """(21): k >= 2, with the power of n that the means leave."""
    k, n, factor = c.k_high, c.n, _prefactor(c, c.k_high)
    middle = n ** (k / 2 - 1) * factor * mean(c.grad_theta_F**2) ** (k / 2)
    return [
        (factor * mean(c.grad_theta_F**k), "<=", middle),
        (middle, "=", n ** (k / 2 - 1) * factor * c.TrH ** (k / 2)),
    ]


def holder_step(c: Vector) -> list[Link]:
    """(22): Hoelder's inequality against a vector of ones."""
    v, p, q = c.v.abs(), c.p, c.q
    middle = (v**q).sum() ** (p / q) * c.n ** (1 - p / q)
    return [
        ((v**p).sum(), "<=", middle),
        (middle, "=", c.n ** (1 - p / q) * norm(v, q) ** p),
    ]


def low_powers(c: Case) -> list[Link]:
    """(23): Lemma B.2 with p = k, q = 2 for the gradient norms."""
    k, norms = c.k_low, c.grad_theta_F
    left = (norms**k).sum() ** (1 / k)
    return [(left, "<=", c.n ** (1 / k - 1 / 2) * (norms**2).sum().sqrt())]


def low_powers_by_sharpness(c: Case) -> list[Link]:
    """(24): 1 <= k < 2, where the powers of n cancel."""
    k, n, factor = c.k_low, c.n, _prefactor(c, c.k_low)
    middle = factor * n ** (1 - k / 2) / n * (c.grad_theta_F**2).sum() ** (k / 2)
    return [
        (factor * mean(c.grad_theta_F**k), "<=", middle),
        (middle, "=", factor * c.TrH ** (k / 2)),
    ]


def larger_exponent(c: Vector) -> list[Link]:
    """Lemma B.1: the norm falls as its exponent grows."""
    return [(norm(c.v, c.q), "<=", norm(c.v, c.p))]


def smaller_exponent(c: Vector) -> list[Link]:
    """Lemma B.2: it falls by no more than a power of n."""
    return [(norm(c.v, c.p), "<=", c.n ** (1 / c.p - 1 / c.q) * norm(c.v, c.q))]


_powers_by_weights = Equation(
    label="17",
    name="Powers of the input gradient by the weights' gradient",
    statement=r"\frac1n\sum_i\lVert\nabla_xf(x_i)\rVert_F^k\le\lVert W\rVert_F^k\frac1n\sum_i"
    r"\frac{\lVert\nabla_Wf(x_i)\rVert_F^k}{\lVert x_i\rVert_2^k}"
    r"\le\frac{\lVert W\rVert_F^k}{\min_i\lVert x_i\rVert_2^k}\frac1n\sum_i"
    r"\lVert\nabla_Wf(x_i)\rVert_F^k",
    where="App. B",
    assumptions=(DENSE, NONZERO, POWER, SMOOTH),
    kind="inequality",
    check=powers_by_weights,
    tight=(
        Tight(tight.neuron, (0, 1)),
        Tight(tight.neuron_some_dead, (0, 1)),
        Tight(tight.rank_one, (0,)),
    ),
)


_powers_by_parameters = Equation(
    label="18",
    name="W's gradient is part of the whole",
    statement=r"\frac{\lVert W\rVert_F^k}{\min_i\lVert x_i\rVert_2^k}\frac1n\sum_i"
    r"\lVert\nabla_Wf(x_i)\rVert_F^k\le\frac{\lVert W\rVert_F^k}{\min_i\lVert x_i\rVert_2^k}"
    r"\frac1n\sum_i\lVert\nabla_\theta f(x_i)\rVert_F^k",
    where="App. B",
    assumptions=(NONZERO, TRAINABLE, POWER),
    kind="inequality",
    check=powers_by_parameters,
    tight=(Tight(tight.neuron, (0,)), Tight(tight.rank_one, (0,))),
)


_norms_step = Equation(
    label="19",
    name="The step behind Lemma B.1",
    statement=r"\Big(\sum_i|v_i|^q\Big)^{1/q}=\Big(\sum_i|v_i|^q\Big)^{\frac pq\cdot\frac1p}"
    r"\le\Big(\sum_i(|v_i|^q)^{p/q}\Big)^{1/p}=\Big(\sum_i|v_i|^p\Big)^{1/p}",
    where="App. B",
    assumptions=(FINITE_EXPONENTS,),
    kind="inequality",
    check=norms_step,
    draw=vectors.draw_vector,
    tight=(Tight(vectors.one_entry, (1,)),),
)


_high_powers = Equation(
    label="20",
    name="Powers k/2 of squared gradient norms, k at least 2",
    statement=r"\Big(\sum_i\big(\lVert\nabla_\theta f(x_i)\rVert_F^2\big)^{k/2}\Big)^{2/k}"
    r"\le\sum_i\lVert\nabla_\theta f(x_i)\rVert_F^2",
    where="App. B",
    assumptions=("k is at least 2.",),
    kind="inequality",
    check=high_powers,
    tight=(Tight(tight.neuron_one_live, (0,)),),
)


_high_powers_by_sharpness = Equation(
    label="21",
    name="Mean powers by sharpness, k at least 2",
    statement=r"\begin{aligned}\frac{\lVert W\rVert_F^k}{\min_i\lVert x_i\rVert_2^k}\frac1n\sum_i"
    r"\lVert\nabla_\theta f(x_i)\rVert_F^k&\le\frac{n^{k/2-1}\lVert W\rVert_F^k}"
    r"{\min_i\lVert x_i\rVert_2^k}\Big(\frac1n\sum_i\lVert\nabla_\theta f(x_i)\rVert_F^2"
    r"\Big)^{k/2}\\&=\frac{n^{k/2-1}\lVert W\rVert_F^k}{\min_i\lVert x_i\rVert_2^k}"
    r"S(\theta^*)^{k/2}\end{aligned}",
    where="App. B",
    assumptions=("k is at least 2.", NONZERO, SHARPNESS),
    kind="inequality",
    check=high_powers_by_sharpness,
    library=same_shares(
        "21",
        at_power_of_outputs(high_powers_by_sharpness),
        (0,),
        logarithms=True,
        reports=lambda c: c.N >= 2,
    ),
    tight=(Tight(tight.neuron_one_live, (0,)),),
)


_holder_step = Equation(
    label="22",
    name="The step behind Lemma B.2",
    statement=r"\sum_i|v_i|^p\cdot1\le\Big(\sum_i|v_i|^q\Big)^{p/q}\Big(\sum_i1\Big)^{1-p/q}"
    r"=n^{1-p/q}\lVert v\rVert_q^p",
    where="App. B",
    assumptions=(FINITE_EXPONENTS,),
    kind="inequality",
    check=holder_step,
    draw=vectors.draw_vector,
    tight=(Tight(vectors.one_size, (0,)),),
)


_low_powers = Equation(
    label="23",
    name="Powers k of gradient norms, k below 2",
    statement=r"\Big(\sum_i\lVert\nabla_\theta f_i\rVert_F^k\Big)^{1/k}"
    r"\le n^{1/k-1/2}\Big(\sum_i\lVert\nabla_\theta f_i\rVert_F^2\Big)^{1/2}",
    where="App. B",
    assumptions=("k is at least 1 and below 2.",),
    kind="inequality",
    check=low_powers,
    tight=(Tight(tight.linear_functional, (0,)), Tight(tight.balanced, (0,))),
)


_low_powers_by_sharpness = Equation(
    label="24",
    name="Mean powers by sharpness, k below 2",
    statement=r"\begin{aligned}\frac{\lVert W\rVert_F^k}{\min_i\lVert x_i\rVert_2^k}\frac1n\sum_i"
    r"\lVert\nabla_\theta f_i\rVert_F^k&\le\frac{\lVert W\rVert_F^k}{\min_i\lVert x_i\rVert_2^k}"
    r"\frac{n^{1-k/2}}n\Big(\sum_i\lVert\nabla_\theta f_i\rVert_F^2\Big)^{k/2}\\"
    r"&=\frac{\lVert W\rVert_F^k}{\min_i\lVert x_i\rVert_2^k}S(\theta^*)^{k/2}\end{aligned}",
    where="App. B",
    assumptions=("k is at least 1 and below 2.", NONZERO, SHARPNESS),
    kind="inequality",
    check=low_powers_by_sharpness,
    library=same_shares(
        "24",
        at_power_of_outputs(low_powers_by_sharpness),
        (0,),
        logarithms=True,
        reports=lambda c: c.N < 2,
    ),
    tight=(Tight(tight.linear_functional, (0,)), Tight(tight.balanced, (0,))),
)


_larger_exponent = Equation(
    label="B.1",
    name="Lemma B.1",
    statement=r"\lVert v\rVert_p\ge\lVert v\rVert_q\qquad(1\le p\le q\le\infty)",
    where="App. B",
    assumptions=(EXPONENTS,),
    kind="inequality",
    check=larger_exponent,
    draw=vectors.draw_vector,
    tight=(Tight(vectors.one_entry, (0,)),),
)


_smaller_exponent = Equation(
    label="B.2",
    name="Lemma B.2",
    statement=r"\lVert v\rVert_p\le n^{1/p-1/q}\lVert v\rVert_q"
    r"\qquad(v\in\mathbb R^n,\ 1\le p\le q\le\infty)",
    where="App. B",
    assumptions=(EXPONENTS,),
    kind="inequality",
    check=smaller_exponent,
    draw=vectors.draw_vector,
    tight=(Tight(vectors.one_size, (0,)),),
)


EQUATIONS = (
    _powers_by_weights,
    _powers_by_parameters,
    _norms_step,
    _high_powers,
    _high_powers_by_sharpness,
    _holder_step,
    _low_powers,
    _low_powers_by_sharpness,
    _larger_exponent,
    _smaller_exponent,
)
