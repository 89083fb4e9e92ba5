"""Maximum local sensitivity: Eqs. (13), (25)-(28), C', and the bounds over all layers."""

from __future__ import annotations

import torch
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
from flatlib.lab.equations.mutation import reversed_link, scaled_link, with_link
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
    mutants={
        "root of S dropped": lambda c: [(A(c), "<=", D(c) * c.S**0.5)],
        "power of 1/||x|| dropped": lambda c: [
            (A(c), "<=", c.norm_W_2 * mean(1 / c.norm_x).sqrt() * c.S**0.5)
        ],
        "mean of ||x|| for the mean of 1/||x||^2": lambda c: [
            (A(c), "<=", c.norm_W_2 / mean(c.norm_x) * c.S**0.5)
        ],
        "largest ||x|| for the mean": lambda c: [
            (A(c), "<=", c.norm_W_2 / c.norm_x.max() * c.S**0.5)
        ],
        "smallest ||x|| for the mean": lambda c: [
            (A(c), "<=", c.norm_W_2 / c.norm_x.min() * c.S**0.5)
        ],
        "norm of W dropped": lambda c: [(A(c), "<=", mean(c.norm_x**-2).sqrt() * c.S**0.5)],
        "without the first layer's share of S": lambda c: [
            (
                A(c),
                "<=",
                c.norm_W_2
                * mean(c.norm_x**-2).sqrt()
                * mean(c.grad_theta_F**2 - c.grad_W_F**2).clamp(min=0).sqrt(),
            )
        ],
        "the wrong way round": reversed_link(sensitivity_bound),
    },
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
    mutants={
        "largest ||x|| for each": lambda c: [
            (A(c), "<=", c.norm_W_2 * mean(c.grad_W_F) / c.norm_x.max())
        ],
        "smallest ||x|| for each": lambda c: [
            (A(c), "<=", c.norm_W_2 * mean(c.grad_W_F) / c.norm_x.min())
        ],
        "norm of x squared": lambda c: [(A(c), "<=", c.norm_W_2 * mean(c.grad_W_F / c.norm_x**2))],
        "norm of W dropped": lambda c: [(A(c), "<=", mean(c.grad_W_F / c.norm_x))],
        "smallest singular value of W": lambda c: [
            (A(c), "<=", torch.linalg.svdvals(c.W)[-1] * mean(c.grad_W_F / c.norm_x))
        ],
        "the wrong way round": reversed_link(sensitivity_by_weights),
    },
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
    mutants={
        "square on the left dropped": lambda c: [
            (
                (c.grad_W_F / c.norm_x).sum(),
                "<=",
                (c.norm_x**-2).sum() * (c.grad_W_F**2).sum(),
            )
        ],
        "means for sums on the right": scaled_link(cauchy_schwarz, lambda c: c.n**-2),
        "one mean for a sum": scaled_link(cauchy_schwarz, lambda c: 1 / c.n),
        "inverse of the sum for the sum of inverses": lambda c: [
            (
                (c.grad_W_F / c.norm_x).sum() ** 2,
                "<=",
                c.n**2 / (c.norm_x**2).sum() * (c.grad_W_F**2).sum(),
            )
        ],
        "sum of the ratios' squares": lambda c: [
            ((c.grad_W_F / c.norm_x).sum() ** 2, "<=", ((c.grad_W_F / c.norm_x) ** 2).sum())
        ],
        "the wrong way round": reversed_link(cauchy_schwarz),
    },
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
    mutants={
        "C' for C, which is no upper bound of D": lambda c: [
            (A(c), "<=", C_prime(c)),
            (C_prime(c), "<=", D(c)),
        ],
        "sum for mean under the second root": scaled_link(two_steps, lambda c: c.n**0.5, 0),
        "norm of W dropped": with_link(two_steps, 0, lambda c: (A(c), "<=", C(c) / c.norm_W_2)),
        "root of the norms dropped": with_link(
            two_steps, 0, lambda c: (A(c), "<=", C(c) * mean(c.grad_W_F**2).sqrt())
        ),
        "A and C the wrong way round": reversed_link(two_steps, 0),
        "C and D the wrong way round": reversed_link(two_steps, 1),
    },
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
    mutants={
        "B and C swapped": reversed_link(chain, 1),
        "C and D swapped": reversed_link(chain, 2),
        "A and B swapped": reversed_link(chain, 0),
        "B with the mean norm of x": with_link(
            chain,
            0,
            lambda c: (A(c), "<=", c.norm_W_2 * mean(c.grad_W_F) / mean(c.norm_x)),
        ),
        "C with the root mean square of x": with_link(
            chain,
            1,
            lambda c: (
                B(c),
                "<=",
                c.norm_W_2 / mean(c.norm_x**2).sqrt() * mean(c.grad_W_F**2).sqrt(),
            ),
        ),
        "D without the root of S": with_link(chain, 2, lambda c: (C(c), "<=", D(c) * c.S**0.5)),
        "D without W's own share of S": with_link(
            chain,
            2,
            lambda c: (
                C(c) ** 2,
                "<=",
                c.norm_W_2**2 * mean(c.norm_x**-2) * (c.S - mean(c.grad_W_F**2)),
            ),
        ),
    },
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
    mutants={
        "C for C', whose equality condition is another": with_link(
            repaired_chain, 1, lambda c: (B(c), "<=", C(c))
        ),
        "root dropped": with_link(repaired_chain, 1, lambda c: (B(c), "<=", C_prime(c) ** 2)),
        "norm of x not squared": with_link(
            repaired_chain,
            1,
            lambda c: (B(c), "<=", c.norm_W_2 * mean(c.grad_W_F**2 / c.norm_x).sqrt()),
        ),
        "smallest ratio for the root mean": with_link(
            repaired_chain,
            1,
            lambda c: (B(c), "<=", c.norm_W_2 * (c.grad_W_F / c.norm_x).min()),
        ),
        "largest ratio for the root mean, in front of A": with_link(
            repaired_chain,
            0,
            lambda c: (c.norm_W_2 * (c.grad_W_F / c.norm_x).max(), "<=", B(c)),
        ),
        "the wrong way round": reversed_link(repaired_chain, 1),
    },
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
    mutants={
        "the first layer alone on the right": lambda c: [
            (network_sensitivity(c), "<=", c.norm_W_2 * mean(c.norm_x**-2).sqrt() * c.S**0.5)
        ],
        "the last layer missing on the right": lambda c: [
            (
                network_sensitivity(c),
                "<=",
                (weight_shares(c) - mean((c.layers[-1].norm_W_2 / c.layers[-1].norm_x) ** 2))
                .clamp(min=0)
                .sqrt()
                * c.S**0.5,
            )
        ],
        "the network's input for every layer's": lambda c: [
            (
                network_sensitivity(c),
                "<=",
                mean(sum((layer.norm_W_2 / c.norm_x) ** 2 for layer in c.layers)).sqrt() * c.S**0.5,
            )
        ],
        "ratios not squared": lambda c: [
            (network_sensitivity(c), "<=", weight_shares(c, power=1).sqrt() * c.S**0.5)
        ],
        "the number of layers to spare": scaled_link(
            network_sensitivity_bound, lambda c: len(c.layers) + 1
        ),
        "the wrong way round": reversed_link(network_sensitivity_bound),
    },
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
    mutants={
        "number of layers dropped": scaled_link(
            relative_sharpness_bound, lambda c: len(c.layers) ** -0.5
        ),
        "root of the number of layers to spare": scaled_link(
            relative_sharpness_bound, lambda c: len(c.layers) ** 0.5
        ),
        "products not squared": lambda c: [
            (
                normalized_sensitivity(c),
                "<=",
                (len(c.layers) * relative_sharpness(c, power=1)).sqrt(),
            )
        ],
        "norms of W dropped": lambda c: [
            (
                normalized_sensitivity(c),
                "<=",
                (len(c.layers) * mean(sum(layer.grad_W_F**2 for layer in c.layers))).sqrt(),
            )
        ],
        "the first layer alone": lambda c: [
            (
                normalized_sensitivity(c),
                "<=",
                c.norm_W_2 * mean(c.grad_W_F**2).sqrt(),
            )
        ],
        "the wrong way round": reversed_link(relative_sharpness_bound),
    },
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
