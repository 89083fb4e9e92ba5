"""Whether a case meets the assumptions that equations share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from flatlib import inequalities as given
from flatlib.lab.equations.cases import Case

INTERPOLATES = "The network interpolates: f(x_i) = y_i for every i."
NO_MORE_OUTPUTS = "N is at most M; the ratio is that of an N-cube in the row space of the Jacobian."


def _is_case(c: Any) -> bool:
    return isinstance(c, Case)


def _of_a_case(met: Callable[[Case], bool]) -> Callable[[Any], bool]:
    """A sentence about a network of linear layers; of other cases it decides nothing."""
    return lambda c: not _is_case(c) or met(c)


# Whether a case meets a sentence. What no drawn case can violate has no entry: that S is what it
# is, and that no sample sits on a kink, which rounding alone prevents.
MET: Mapping[str, Callable[[Any], bool]] = MappingProxyType(
    {
        given.DENSE: lambda c: _is_case(c) and not bool(c.pasts[0].any()),
        given.DENSE_LAYERS: _is_case,
        given.CONVOLUTION: lambda c: not _is_case(c),
        given.ALL_PATCHES: lambda c: _is_case(c) or bool((c.norm_X > 0).all()),
        given.FULL_RANK_PATCHES: lambda c: (
            _is_case(c) or bool((c.smallest_sigma > 1e-8 * c.norm_X.max(dim=1).values).all())
        ),
        given.NONZERO: lambda c: bool((c.x.flatten(1).norm(dim=1) > 0).all()),
        given.MOVING: lambda c: bool((c.grad_x.flatten(1) != 0).any(dim=1).all()),
        given.TRAINABLE: _of_a_case(lambda c: c.is_own(c.linears[0])),
        given.TRAINABLE_LAYERS: _of_a_case(lambda c: all(map(c.is_own, c.linears))),
        given.LIVE_LAYERS: _of_a_case(
            lambda c: all(bool((one.norm_x > 0).all()) for one in c.layers)
        ),
        INTERPOLATES: _of_a_case(lambda c: bool((c.residual == 0).all())),
        NO_MORE_OUTPUTS: _of_a_case(lambda c: c.N <= c.x.shape[1]),
        given.POWER: _of_a_case(lambda c: c.k >= 1),
        given.EXPONENTS: lambda c: 1 <= c.p <= c.q,
        given.FINITE_EXPONENTS: lambda c: 1 <= c.p <= c.q < math.inf,
    }
)
