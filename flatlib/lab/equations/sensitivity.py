"""Maximum local sensitivity: Eqs. (13), (25)-(28), C', and the bounds over all layers."""

from __future__ import annotations

from torch import Tensor

from flatlib import bounds
from flatlib.lab.equations import tight
from flatlib.lab.equations.assumptions import (
    DENSE,
    DENSE_LAYERS,
    LIVE_LAYERS,
    NONZERO,
    SHARPNESS,
    SMOOTH,
    TRAINABLE,
    TRAINABLE_LAYERS,
)
from flatlib.lab.equations.cases import Case, mean
from flatlib.lab.equations.checking import Equation, Link, Tight
from flatlib.measurement import measure


def A(c: Case) -> Tensor:
    return mean(c.grad_x_2)


def B(c: Case) -> Tensor:
    return c.norm_W_2 * mean(c.grad_W_F / c.norm_x)


def C(c: Case) -> Tensor:
    return c.norm_W_2 * mean(c.norm_x**-2).sqrt() * mean(c.grad_W_F**2).sqrt()


def C_prime(c: Case) -> Tensor:
    return c.norm_W_2 * mean(c.grad_W_F**2 / c.norm_x**2).sqrt()


def D(c: Case) -> Tensor:
    """S is the trace of the Hessian at interpolation, so that (3) is no part of the check."""
    return c.norm_W_2 * mean(c.norm_x**-2).sqrt() * c.TrH**0.5


def sensitivity_bound(c: Case) -> list[Link]:
    """(13): mean MLS by sharpness."""
    MLS = mean(c.grad_x_2)
    return [(MLS, "<=", c.norm_W_2 * mean(c.norm_x**-2).sqrt() * c.TrH**0.5)]


def sensitivity_by_weights(c: Case) -> list[Link]:
    """(25): (5) at each sample, then the mean."""
    MLS = mean(c.grad_x_2)
    return [(MLS, "<=", c.norm_W_2 * mean(c.grad_W_F / c.norm_x))]


def cauchy_schwarz(c: Case) -> list[Link]:
    """(26): the only step that mixes samples."""
    left = (c.grad_W_F / c.norm_x).sum() ** 2
    return [(left, "<=", (c.norm_x**-2).sum() * (c.grad_W_F**2).sum())]


def two_steps(c: Case) -> list[Link]:
    """(27): mean MLS by C, C by D."""
    return [(A(c), "<=", C(c)), (C(c), "<=", D(c))]


def chain(c: Case) -> list[Link]:
    """(28): A <= B <= C <= D."""
    return [(A(c), "<=", B(c)), (B(c), "<=", C(c)), (C(c), "<=", D(c))]


def _library_chain(c: Case) -> list[Link]:
    found = bounds.chain(measure(c.net, c.x))
    return [
        (found.A, "=", A(c)),
        (found.B, "=", B(c)),
        (found.C, "=", C(c)),
        (found.C_prime, "=", C_prime(c)),
        (found.D, "=", D(c)),
    ]


def repaired_chain(c: Case) -> list[Link]:
    """N.4: A <= B <= C', by the mean of squares at fixed i."""
    return [(A(c), "<=", B(c)), (B(c), "<=", C_prime(c))]


def network_sensitivity(c: Case) -> Tensor:
    """NMLS: the sensitivities from every layer's input, summed over layers."""
    return mean(sum(layer.grad_x_2 for layer in c.layers))


def weight_shares(c: Case, power: int = 2) -> Tensor:
    """Mean over samples of the sum over layers of ``(||W_l|| / ||x_i^l||)^power``."""
    return mean(sum((layer.norm_W_2 / layer.norm_x) ** power for layer in c.layers))


def network_sensitivity_bound(c: Case) -> list[Link]:
    """N.9: (5) at each layer, then Cauchy-Schwarz over the pairs (i, l)."""
    return [(network_sensitivity(c), "<=", weight_shares(c).sqrt() * c.S**0.5)]


def _library_network_sensitivity(c: Case) -> list[Link]:
    m = measure(c.net, c.x)
    (found,) = [b for b in bounds.evaluate(m) if b.label == "N.9"]
    return [
        (m.summary()["nmls"], "=", network_sensitivity(c)),
        (found.rhs, "=", weight_shares(c).sqrt() * c.S**0.5),
    ]


def normalized_sensitivity(c: Case) -> Tensor:
    """Mean over samples of the sum over layers of ``||x^l|| ||grad_x^l f||_2``."""
    return mean(sum(layer.norm_x * layer.grad_x_2 for layer in c.layers))


def relative_sharpness(c: Case, power: int = 2) -> Tensor:
    """Mean over samples of the sum over layers of ``(||W_l|| ||grad_W_l f||)^power``."""
    return mean(sum((layer.norm_W_2 * layer.grad_W_F) ** power for layer in c.layers))


def relative_sharpness_bound(c: Case) -> list[Link]:
    """N.12: N.11 at each layer, then Cauchy-Schwarz over the pairs (i, l)."""
    layers = len(c.layers)
    return [(normalized_sensitivity(c), "<=", (layers * relative_sharpness(c)).sqrt())]


def _library_relative_sharpness(c: Case) -> list[Link]:
    m = measure(c.net, c.x)
    return [
        (bounds.normalized_nmls(m), "=", normalized_sensitivity(c)),
        (bounds.relative_sharpness(m), "=", relative_sharpness(c)),
    ]


_sensitivity_bound = Equation(
    label="13",
    name="Mean maximum local sensitivity by sharpness",
    statement=r"\overline{\mathrm{MLS}}=\frac1n\sum_i\lVert\nabla_xf(x_i)\rVert_2"
    r"\le\lVert W\rVert_2\sqrt{\frac1n\sum_i\frac1{\lVert x_i\rVert_2^2}}\;S(\theta^*)^{1/2}",
    where="Sec. 3.2",
    assumptions=(DENSE, NONZERO, SHARPNESS, TRAINABLE, SMOOTH),
    kind="inequality",
    check=sensitivity_bound,
    library=_library_chain,
    tight=(Tight(tight.neuron, (0,)), Tight(tight.orthants, (0,))),
)

_sensitivity_by_weights = Equation(
    label="25",
    name="A by B",
    statement=r"\overline{\mathrm{MLS}}\le\lVert W\rVert_2\,\frac1n\sum_i"
    r"\frac{\lVert\nabla_Wf(x_i)\rVert_F}{\lVert x_i\rVert_2}",
    where="App. C",
    assumptions=(DENSE, NONZERO, SMOOTH),
    kind="inequality",
    check=sensitivity_by_weights,
    library=_library_chain,
    tight=(
        Tight(tight.neuron, (0,)),
        Tight(tight.orthants, (0,)),
        Tight(tight.rank_one, (0,)),
    ),
)

_cauchy_schwarz = Equation(
    label="26",
    name="Cauchy-Schwarz over the samples",
    statement=r"\Big(\sum_i\frac{\lVert\nabla_Wf_i\rVert_F}{\lVert x_i\rVert_2}\Big)^2"
    r"\le\Big(\sum_i\frac1{\lVert x_i\rVert_2^2}\Big)\Big(\sum_i\lVert\nabla_Wf_i\rVert_F^2\Big)",
    where="App. C",
    assumptions=(NONZERO,),
    kind="inequality",
    check=cauchy_schwarz,
    library=_library_chain,
    tight=(Tight(tight.neuron, (0,)), Tight(tight.orthants, (0,))),
)

_two_steps = Equation(
    label="27",
    name="A by C, C by D",
    statement=r"\begin{aligned}\overline{\mathrm{MLS}}&\le\lVert W\rVert_2"
    r"\sqrt{\frac1n\sum_i\frac1{\lVert x_i\rVert_2^2}}"
    r"\sqrt{\frac1n\sum_i\lVert\nabla_Wf_i\rVert_F^2}\\"
    r"&\le\lVert W\rVert_2\sqrt{\frac1n\sum_i\frac1{\lVert x_i\rVert_2^2}}\;S(\theta^*)^{1/2}"
    r"\end{aligned}",
    where="App. C",
    assumptions=(DENSE, NONZERO, SHARPNESS, TRAINABLE, SMOOTH),
    kind="inequality",
    check=two_steps,
    library=_library_chain,
    tight=(Tight(tight.neuron, (0, 1)), Tight(tight.orthants, (0, 1))),
)

_chain = Equation(
    label="28",
    name="The chain A to D",
    statement=r"\begin{aligned}A&=\frac1n\sum_i\lVert\nabla_xf(x_i)\rVert_2\\"
    r"&\le B=\frac{\lVert W\rVert_2}n\sum_i\frac{\lVert\nabla_Wf(x_i)\rVert_F}"
    r"{\lVert x_i\rVert_2}\\"
    r"&\le C=\lVert W\rVert_2\sqrt{\frac1n\sum_i\frac1{\lVert x_i\rVert_2^2}}"
    r"\sqrt{\frac1n\sum_i\lVert\nabla_Wf(x_i)\rVert_F^2}\\"
    r"&\le D=\lVert W\rVert_2\sqrt{\frac1n\sum_i\frac1{\lVert x_i\rVert_2^2}}\;S(\theta^*)^{1/2}"
    r"\end{aligned}",
    where="App. D.1",
    assumptions=(DENSE, NONZERO, SHARPNESS, TRAINABLE, SMOOTH),
    kind="inequality",
    check=chain,
    library=_library_chain,
    tight=(
        Tight(tight.neuron, (0, 1, 2)),
        Tight(tight.orthants, (0, 1, 2)),
        Tight(tight.rank_one, (0, 2)),
    ),
)

_repaired_chain = Equation(
    label="N.4",
    name="C', the bound that the printed equality condition describes",
    statement=r"A\le B\le C'=\lVert W\rVert_2\sqrt{\frac1n\sum_i"
    r"\frac{\lVert\nabla_Wf(x_i)\rVert_F^2}{\lVert x_i\rVert_2^2}}",
    where="Ours; beside App. D.1",
    assumptions=(DENSE, NONZERO, SMOOTH),
    kind="inequality",
    check=repaired_chain,
    library=_library_chain,
    tight=(Tight(tight.rank_one, (0, 1)), Tight(tight.isotropic_any_norm, (1,))),
)

_network_sensitivity_bound = Equation(
    label="N.9",
    name="Network MLS by sharpness",
    statement=r"\mathrm{NMLS}=\frac1n\sum_i\sum_l\lVert\nabla_{x^l}f(x_i)\rVert_2"
    r"\le\sqrt{\frac1n\sum_i\sum_l\frac{\lVert W_l\rVert_2^2}{\lVert x_i^l\rVert_2^2}}"
    r"\;S^{1/2}",
    where="Later versions",
    assumptions=(DENSE_LAYERS, TRAINABLE_LAYERS, LIVE_LAYERS, SHARPNESS, SMOOTH),
    kind="inequality",
    check=network_sensitivity_bound,
    library=_library_network_sensitivity,
    tight=(Tight(tight.balanced, (0,)), Tight(tight.linear_functional, (0,))),
)

_relative_sharpness_bound = Equation(
    label="N.12",
    name="Normalized NMLS by relative sharpness",
    statement=r"\frac1n\sum_i\sum_l\lVert x_i^l\rVert_2\lVert\nabla_{x^l}f(x_i)\rVert_2"
    r"\le\sqrt{\#\mathrm{layers}\cdot\frac1n\sum_i\sum_l"
    r"\lVert W_l\rVert_2^2\lVert\nabla_{W_l}f(x_i)\rVert_F^2}",
    where="Later versions",
    assumptions=(DENSE_LAYERS, SMOOTH),
    kind="inequality",
    check=relative_sharpness_bound,
    library=_library_relative_sharpness,
    tight=(Tight(tight.balanced, (0,)), Tight(tight.linear_functional, (0,))),
)

EQUATIONS = (
    _sensitivity_bound,
    _sensitivity_by_weights,
    _cauchy_schwarz,
    _two_steps,
    _chain,
    _repaired_chain,
    _network_sensitivity_bound,
    _relative_sharpness_bound,
)
