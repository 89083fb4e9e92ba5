"""From weights to inputs: Eqs. (4)-(7), their spectral form and the layerwise invariant form."""

from __future__ import annotations

from flatlib.inequalities import DENSE, SMOOTH
from flatlib.lab.equations import tight
from flatlib.lab.equations.cases import Case
from flatlib.lab.equations.checking import Equation, Link, Tight
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

EQUATIONS = (_linear_stability,)
