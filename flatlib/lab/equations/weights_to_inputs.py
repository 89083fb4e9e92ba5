"""From weights to inputs: Eqs. (4)-(7), their spectral form and the layerwise invariant form."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flatlib.lab.equations import tight
from flatlib.lab.equations.assumptions import (
    DENSE,
    DENSE_LAYERS,
    NONZERO,
    POWER,
    SMOOTH,
    TRAINABLE,
)
from flatlib.lab.equations.cases import Case, frobenius, mean, rescaled
from flatlib.lab.equations.checking import Equation, Link, Tight
from flatlib.lab.equations.library import same_shares, same_shares_of_powers
from flatlib.measurement import measure


def linear_stability(c: Case) -> list[Link]:
    """Both equalities and the inequality of (4), sample by sample."""
    largest = c.norm_W_2 * c.J_F
    return [
        (c.grad_W_F, "=", c.J_F * c.norm_x),
        (c.grad_x, "=", c.J @ c.W, largest[:, None, None]),
        (c.J_2 * c.norm_x, "<=", c.J_F * c.norm_x),
    ]


def _library_norms(c: Case) -> list[Link]:
    first = measure(c.net, c.x).layers[0]
    return [
        (first.weight_gradient_energy.sqrt(), "=", c.J_F * c.norm_x),
        (first.weight_norm, "=", c.norm_W_2),
    ]


def gradient_bound(c: Case) -> list[Link]:
    """Both lines of (5), sample by sample."""
    return [
        (c.grad_x_F, "<=", c.norm_W_F / c.norm_x * c.grad_W_F),
        (c.grad_x_2, "<=", c.norm_W_2 / c.norm_x * c.grad_W_F),
    ]


def mean_power_bound(c: Case) -> list[Link]:
    """(6): means of k-th powers, by the derivative for W, then for all parameters."""
    k, closest = c.k, c.norm_x.min()
    by_W = c.norm_W_F**k / closest**k * mean(c.grad_W_F**k)
    by_theta = c.norm_W_F**k / closest**k * mean(c.grad_theta_F**k)
    return [(mean(c.grad_x_F**k), "<=", by_W), (by_W, "<=", by_theta)]


def spectral_power_bound(c: Case) -> list[Link]:
    """(7): the same with spectral norms on the left and for W."""
    k, closest = c.k, c.norm_x.min()
    by_theta = c.norm_W_2**k / closest**k * mean(c.grad_theta_F**k)
    return [(mean(c.grad_x_2**k), "<=", by_theta)]


def spectral_form(c: Case) -> list[Link]:
    """N.2, and with it the sharper (5), (6) and second step of (12), where k is N."""
    k, N, closest = c.k, c.N, c.norm_x.min()
    WTJ = c.J @ c.W
    power = c.n ** max(N / 2 - 1, 0)
    return [
        (frobenius(WTJ), "<=", c.norm_W_2 * c.J_F),
        (c.grad_x_F, "<=", c.norm_W_2 / c.norm_x * c.grad_W_F),
        (mean(c.grad_x_F**k), "<=", c.norm_W_2**k / closest**k * mean(c.grad_theta_F**k)),
        (mean(c.grad_x_F**N), "<=", power * c.norm_W_2**N / closest**N * c.S ** (N / 2)),
    ]


def _sides_of_layers(c: Case) -> tuple[Tensor, Tensor]:
    left = torch.stack([layer.norm_x * layer.grad_x_2 for layer in c.layers])
    right = torch.stack([layer.norm_W_2 * layer.grad_W_F for layer in c.layers])
    return left, right


def _homogeneous(c: Case) -> bool:
    """Without skips, ties and biases, and with activations that positive factors pass through."""
    modules = all(isinstance(m, (nn.Linear, nn.ReLU, nn.Identity, nn.Flatten)) for m in c.net)
    return modules and all(layer.bias is None and c.is_own(layer) for layer in c.linears)


def layerwise_bound(c: Case) -> list[Link]:
    """N.11 for every layer; in homogeneous nets, both sides stay when layers are rescaled."""
    left, right = _sides_of_layers(c)
    links = [(left, "<=", right)]
    if _homogeneous(c):
        factors = 10 ** c.normal(len(c.layers))
        factors = factors / factors.prod() ** (1 / len(factors))
        new_left, new_right = _sides_of_layers(rescaled(c, factors.tolist()))
        links += [(new_left, "=", left), (new_right, "=", right)]
    return links


_linear_stability = Equation(
    label="4",
    name="The linear-stability trick",
    statement=r"\lVert\nabla_Wf\rVert_F=\lVert J\rVert_F\lVert x\rVert_2"
    r"\ge\lVert J\rVert_2\lVert x\rVert_2,\qquad\nabla_xf=W^\top J",
    where="Sec. 2",
    assumptions=(DENSE, "Gradients are in the paper's convention: J is H x N.", SMOOTH),
    kind="identity",
    check=linear_stability,
    library=_library_norms,
    tight=(Tight(tight.neuron, (2,)), Tight(tight.rank_one, (2,))),
)

_gradient_bound = Equation(
    label="5",
    name="Input gradient by weight gradient",
    statement=r"\lVert\nabla_xf\rVert_F\le\frac{\lVert W\rVert_F}{\lVert x\rVert_2}"
    r"\lVert\nabla_Wf\rVert_F,\qquad\lVert\nabla_xf\rVert_2\le"
    r"\frac{\lVert W\rVert_2}{\lVert x\rVert_2}\lVert\nabla_Wf\rVert_F",
    where="Sec. 2",
    assumptions=(DENSE, NONZERO, SMOOTH),
    kind="inequality",
    check=gradient_bound,
    library=same_shares("5", gradient_bound, (0, 1)),
    tight=(Tight(tight.neuron, (0, 1)), Tight(tight.rank_one, (0, 1))),
)

_mean_power_bound = Equation(
    label="6",
    name="Mean powers of the input gradient",
    statement=r"\frac1n\sum_i\lVert\nabla_xf(x_i)\rVert_F^k"
    r"\le\frac{\lVert W\rVert_F^k}{\min_i\lVert x_i\rVert_2^k}"
    r"\frac1n\sum_i\lVert\nabla_Wf(x_i)\rVert_F^k"
    r"\le\frac{\lVert W\rVert_F^k}{\min_i\lVert x_i\rVert_2^k}"
    r"\frac1n\sum_i\lVert\nabla_\theta f(x_i)\rVert_F^k",
    where="Sec. 2",
    assumptions=(DENSE, NONZERO, POWER, TRAINABLE, SMOOTH),
    kind="inequality",
    check=mean_power_bound,
    library=same_shares_of_powers("6", mean_power_bound, (0, 1)),
    tight=(Tight(tight.neuron, (0, 1)), Tight(tight.neuron_some_dead, (0, 1))),
)

_spectral_power_bound = Equation(
    label="7",
    name="Mean powers of the sensitivity",
    statement=r"\frac1n\sum_i\lVert\nabla_xf(x_i)\rVert_2^k"
    r"\le\frac{\lVert W\rVert_2^k}{\min_i\lVert x_i\rVert_2^k}"
    r"\frac1n\sum_i\lVert\nabla_\theta f(x_i)\rVert_F^k",
    where="Sec. 2",
    assumptions=(DENSE, NONZERO, POWER, TRAINABLE, SMOOTH),
    kind="inequality",
    check=spectral_power_bound,
    library=same_shares_of_powers("7", spectral_power_bound, (0,)),
    tight=(Tight(tight.neuron, (0,)), Tight(tight.neuron_some_dead, (0,))),
)

_spectral_form = Equation(
    label="N.2",
    name="Spectral norm of W in place of its Frobenius norm",
    statement=r"\lVert W^\top J\rVert_F\le\lVert W\rVert_2\lVert J\rVert_F",
    where="Ours; sharpens (5), (6) and (12)",
    assumptions=(DENSE, NONZERO, TRAINABLE, SMOOTH),
    kind="inequality",
    check=spectral_form,
    library=same_shares("N.2", spectral_form, (1,)),
    tight=(
        Tight(tight.isotropic, (0, 1)),
        Tight(tight.neuron, (0, 1, 2)),
        Tight(tight.neuron_one_live, (0, 1, 2, 3)),
    ),
)

_layerwise_bound = Equation(
    label="N.11",
    name="Layerwise scale-invariant bound",
    statement=r"\lVert x^l\rVert_2\lVert\nabla_{x^l}f\rVert_2"
    r"\le\lVert W_l\rVert_2\lVert\nabla_{W_l}f\rVert_F\qquad\text{for every layer }l",
    where="Later versions",
    assumptions=(
        DENSE_LAYERS,
        "Invariance under rescaling of the layers (product 1): no biases, no skip connections, no "
        "tied weights, and activations that commute with positive factors, such as ReLU.",
        SMOOTH,
    ),
    kind="inequality",
    check=layerwise_bound,
    library=same_shares("N.11", layerwise_bound, (0,)),
    tight=(Tight(tight.balanced, (0,)), Tight(tight.rank_one, (0,))),
)

EQUATIONS = (
    _linear_stability,
    _gradient_bound,
    _mean_power_bound,
    _spectral_power_bound,
    _spectral_form,
    _layerwise_bound,
)
