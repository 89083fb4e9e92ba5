"""Local dimensionality: Eq. (14) and the sandwich with MLS and the gradient energy."""

from __future__ import annotations

from torch import Tensor

from flatlib.inequalities import MOVING, SMOOTH
from flatlib.lab.equations.cases import Case, participation_ratio
from flatlib.lab.equations.checking import Equation, Link
from flatlib.lab.equations.volume import ROUNDING_FLOOR, resolved
from flatlib.measurement import measure

GROUPS = 40  # of the propagated samples, for the jackknife


def _sampled_dimensionality(moved: Tensor) -> tuple[Tensor, Tensor]:
    """Jackknife estimate from the propagated ball, and its standard error."""
    groups = (moved - moved.mean(dim=0)).unflatten(0, (GROUPS, -1))
    moments = groups.mT @ groups
    whole = participation_ratio(moments.sum(dim=0))
    left_out = participation_ratio(moments.sum(dim=0) - moments)
    estimate = GROUPS * whole - (GROUPS - 1) * left_out.mean()
    variance = (GROUPS - 1) / GROUPS * (left_out - left_out.mean()).square().sum()
    return estimate, variance.sqrt()


def dimensionality(c: Case) -> list[Link]:
    """(14): traces against eigenvalues, its range, and the propagated Gaussian ball."""
    C = c.grad_x @ c.grad_x.mT
    D_PR, eigenvalues = participation_ratio(C), c.sigma**2
    by_norms = (eigenvalues.sum(dim=1) / eigenvalues.norm(dim=1)) ** 2
    rank = (c.sigma > 1e-12 * c.sigma[:, :1]).sum(dim=1)
    estimate, error = _sampled_dimensionality(c.ball[1])
    # At D_PR = N the first-order error vanishes: the second-order one is N^2 / samples.
    error = error + c.N**2 / len(c.ball[1]) + ROUNDING_FLOOR
    return [
        (D_PR, "=", by_norms),
        (1.0, "<=", D_PR),
        (D_PR, "<=", rank),
        (estimate, "~", D_PR[0], error),
    ]


def _library_dimensionality(c: Case) -> list[Link]:
    found = measure(c.net, c.x).local_dimensionality
    return [(found, "=", participation_ratio(c.grad_x @ c.grad_x.mT))]


_dimensionality = Equation(
    label="14",
    name="Local dimensionality",
    statement=r"D_{\mathrm{PR}}=\frac{\operatorname{Tr}[C_f^{\lim}]^2}"
    r"{\operatorname{Tr}[(C_f^{\lim})^2]}="
    r"\Big(\frac{\lVert\lambda\rVert_1}{\lVert\lambda\rVert_2}\Big)^2\in[1,\operatorname{rank}]",
    where="Sec. 3.3",
    assumptions=(
        MOVING,
        "lambda are the eigenvalues of C.",
        SMOOTH,
        "Sampled: the propagated ball's ratio agrees within its own standard error.",
    ),
    kind="definition",
    check=dimensionality,
    library=_library_dimensionality,
    applies=resolved,
)

EQUATIONS = (_dimensionality,)
