"""Sentences that several equations share, and whether a case meets them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from flatlib.lab.equations.cases import Case

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
INTERPOLATES = "The network interpolates: f(x_i) = y_i for every i."
MOVING = "The Jacobian is not zero."
NO_MORE_OUTPUTS = "N is at most M; the ratio is that of an N-cube in the row space of the Jacobian."
POWER = "k is at least 1."
EXPONENTS = "1 <= p <= q; q may be infinite."
FINITE_EXPONENTS = "1 <= p <= q, both finite."
CONVOLUTION = "The first layer is a convolution, and the input enters nowhere else."
ALL_PATCHES = "No patch x_p is the zero vector."
FULL_RANK_PATCHES = (
    "X, the patches, one column a position, has full column rank: no more positions than C_in k^2."
)


def _is_case(c: Any) -> bool:
    return isinstance(c, Case)


def _of_a_case(met: Callable[[Case], bool]) -> Callable[[Any], bool]:
    """A sentence about a network of linear layers; of other cases it decides nothing."""
    return lambda c: not _is_case(c) or met(c)


def _patches_independent(c: Any) -> bool:
    return bool((c.smallest_sigma > 1e-8 * c.norm_X.max(dim=1).values).all())


# Whether a case meets a sentence. What no drawn case can violate has no entry: that S is what it
# is, and that no sample sits on a kink, which rounding alone prevents.
MET: Mapping[str, Callable[[Any], bool]] = MappingProxyType(
    {
        DENSE: lambda c: _is_case(c) and c.first_alone,
        DENSE_LAYERS: _is_case,
        CONVOLUTION: lambda c: not _is_case(c),
        ALL_PATCHES: lambda c: _is_case(c) or bool((c.norm_X > 0).all()),
        FULL_RANK_PATCHES: lambda c: _is_case(c) or _patches_independent(c),
        NONZERO: lambda c: bool((c.x.flatten(1).norm(dim=1) > 0).all()),
        MOVING: lambda c: bool((c.grad_x.flatten(1) != 0).any(dim=1).all()),
        TRAINABLE: _of_a_case(lambda c: c.is_own(c.linears[0])),
        TRAINABLE_LAYERS: _of_a_case(lambda c: all(map(c.is_own, c.linears))),
        LIVE_LAYERS: _of_a_case(lambda c: all(bool((one.norm_x > 0).all()) for one in c.layers)),
        INTERPOLATES: _of_a_case(lambda c: bool((c.residual == 0).all())),
        NO_MORE_OUTPUTS: _of_a_case(lambda c: c.N <= c.x.shape[1]),
        POWER: _of_a_case(lambda c: c.k >= 1),
        EXPONENTS: lambda c: 1 <= c.p <= c.q,
        FINITE_EXPONENTS: lambda c: 1 <= c.p <= c.q < math.inf,
    }
)


def unmet(assumptions: tuple[str, ...], case: Any) -> tuple[str, ...]:
    """Those of an equation's assumptions that a case does not meet.

    Args:
        assumptions: sentences; one that `MET` does not list counts as met.
        case: `Case`, `convolutions.ConvolutionCase` or `vectors.Vector`.

    Returns:
        The sentences in their order.

    >>> from flatlib.lab import equations
    >>> unmet((DENSE, CONVOLUTION), equations.draw(0, 0)) == (CONVOLUTION,)
    True
    """
    return tuple(a for a in assumptions if a in MET and not MET[a](case))
