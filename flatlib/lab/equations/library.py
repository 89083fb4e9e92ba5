"""The same inequalities as `flatlib.bounds` reports them, compared with a check's own numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from flatlib.bounds import Bound, evaluate
from flatlib.lab.equations.cases import Case
from flatlib.lab.equations.checking import Formula, Link
from flatlib.measurement import measure


def reported(c: Any, *labels: str) -> list[Bound]:
    """What the library says of some labels for a case's network and data."""
    return [bound for bound in evaluate(measure(c.net, c.x)) if bound.label in labels]


def _share(bound: Bound, logarithms: bool) -> float:
    """The left side as a share of the right one."""
    if logarithms:
        return 0.0 if bound.lhs == -math.inf else math.exp(bound.lhs - bound.rhs)
    return bound.lhs / bound.rhs if bound.lhs > 0 else 0.0


def _largest_share(link: Link) -> float:
    lhs, rhs = torch.broadcast_tensors(*(torch.as_tensor(side) for side in (link[0], link[2])))
    return float(torch.where(lhs > 0, lhs / rhs, torch.zeros_like(lhs)).max())


def same_shares(
    label: str,
    check: Formula,
    positions: tuple[int, ...],
    logarithms: bool = False,
    reports: Callable[[Any], bool] = lambda c: True,
) -> Formula:
    """A formula: the library's bounds hold, are proven, and are as tight as the check's.

    Args:
        label: under which the library reports them.
        check: the equation's formula.
        positions: its links, in the library's order.
        logarithms: whether the library compares logarithms.
        reports: whether the library has such a bound for a case; a missing one fails the check.
    """

    def library_bounds(c: Any) -> list[Link]:
        found, links = reported(c, label), check(c)
        expected = len(positions) if reports(c) else 0
        if len(found) != expected:
            return [(float(len(found)), "=", float(expected))]
        pairs = [(b, links[k]) for b, k in zip(found, positions[:expected], strict=True)]
        return [
            *((float(b.holds and b.proven), "=", 1.0) for b in found),
            *((_share(b, logarithms), "=", _largest_share(link), 1.0) for b, link in pairs),
        ]

    return library_bounds


def same_shares_of_powers(label: str, check: Formula, positions: tuple[int, ...]) -> Formula:
    """`same_shares` for a check with a power k, which the library reports for k = 1 and 2."""

    def both_powers(c: Case) -> list[Link]:
        return [check(replace(c, k=k))[position] for k in (1, 2) for position in positions]

    return same_shares(label, both_powers, tuple(range(2 * len(positions))))


def at_power_of_outputs(check: Formula) -> Callable[[Case], list[Link]]:
    """The check with k = N, the power that (12) needs."""
    return lambda c: check(replace(c, k=float(c.N)))
