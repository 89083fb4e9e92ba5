"""The inequalities of `flatlib.inequalities` as equations of the register.

Their quantities come from plain autograd here; the same inequalities as `flatlib.bounds` decides
them, from quantities that were measured, have to hold, be proven and come to the same sides.
"""

from __future__ import annotations

import ast
import inspect
import math
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from flatlib import inequalities
from flatlib.bounds import Bound, evaluate
from flatlib.inequalities import COLUMNS, TABLE, Column, Inequality
from flatlib.lab.equations import convolutions, tight, vectors
from flatlib.lab.equations.cases import draw, draw_curved
from flatlib.lab.equations.checking import Equation, Formula, Link, Tight
from flatlib.measurement import measure
from flatlib.sides import mean_log_volume

DRAWS = {
    "networks": draw,
    "curved": draw_curved,
    "convolutions": convolutions.draw_convolution,
    "vectors": vectors.draw_vector,
}
FAMILIES = {**vars(tight), **vars(convolutions), **vars(vectors)}


def formula_of(inequality: Inequality) -> Formula:
    """What a check evaluates: every step at a case."""

    def formula(c: Any) -> list[Link]:
        links = []
        for step in inequality.steps:
            scale = 1.0 if inequality.logarithmic else step.scale and step.scale(c)
            link = (step.lhs(c), step.relation, step.rhs(c))
            links.append(link if scale is None else (*link, scale))
        return links

    return formula


def library_of(inequality: Inequality) -> Formula | None:
    """A formula: what `flatlib.bounds` reports holds, is proven and has the same sides."""
    columns = [each for each in COLUMNS.values() if each.label == inequality.label]

    def library_bounds(c: Any) -> list[Link]:
        found = _reported(evaluate, c.net, c.x)
        links = [
            (float(column.key in found), "=", float(column.inequality.is_recorded(c)))
            for column in columns
        ]
        for column in columns:
            if column.key in found:
                links += _same_sides(found[column.key], column, c)
        return links

    return library_bounds if columns else None


@lru_cache(maxsize=512)
def _reported(decide: Callable, net: nn.Module, x: Tensor) -> dict[str, Bound]:
    """What the library decides at a case, by key: once for all of the inequalities."""
    return {bound.key: bound for bound in decide(measure(net, x))}


def _same_sides(bound: Bound, column: Column, c: Any) -> list[Link]:
    """One inequality from both witnesses."""
    inequality, step = column.inequality, column.step
    # A power that is free is that of the column, and of (21) and (24) the one that (12) needs.
    c = c.at(float(column.k if inequality.powers else c.N))
    lhs, rhs = (torch.as_tensor(side(c), dtype=torch.float64) for side in (step.lhs, step.rhs))
    scale = [1.0] if inequality.logarithmic else []
    links = [(float(bound.holds and bound.proven), "=", 1.0)]
    if not inequality.per_sample:
        links.append((bound.rhs, "=", rhs, *scale))
        if not inequality.logarithmic:
            links.append((bound.lhs, "=", lhs))
    # The logarithm of a volume that rounding keeps above 0 is known to no digit.
    if step.lhs is not mean_log_volume or c.is_full_rank:
        own = _share(lhs, rhs, inequality.logarithmic)
        links.append((_share(bound.lhs, bound.rhs, inequality.logarithmic), "=", own, 1.0))
    return links


def _share(lhs: Any, rhs: Any, logarithmic: bool) -> float:
    """The left side as a share of the right one, where it is largest."""
    sides = (torch.as_tensor(side, dtype=torch.float64) for side in (lhs, rhs))
    lhs, rhs = torch.broadcast_tensors(*sides)
    share = (lhs - rhs).exp() if logarithmic else lhs / rhs
    return float(torch.where(lhs > (-math.inf if logarithmic else 0), share, 0.0).max())


@cache
def _entries() -> dict[str, str]:
    """The code of every entry of the table, by label."""
    code = inspect.getsource(inequalities)
    calls = [node.value for node in ast.parse(code).body if isinstance(node, ast.Expr)]
    calls = [call for call in calls if isinstance(call, ast.Call)]
    return {call.args[0].elts[0].value: ast.get_source_segment(code, call) for call in calls}


def _code(inequality: Inequality) -> str:
    """An entry, and the functions that it takes for sides."""
    both = [side for step in inequality.steps for side in (step.lhs, step.rhs)]
    named = dict.fromkeys(side for side in both if inspect.isfunction(side))
    named = [side for side in named if side.__name__ != "<lambda>"]
    return "\n\n".join([_entries()[inequality.label], *map(inspect.getsource, named)])


def _equation(inequality: Inequality) -> Equation:
    return Equation(
        *(inequality.label, inequality.name, inequality.where, inequality.statement),
        assumptions=inequality.assumptions,
        kind="inequality",
        check=formula_of(inequality),
        tight=tuple(Tight(FAMILIES[name], steps) for name, steps in inequality.attained.items()),
        draw=DRAWS[inequality.cases],
        library=library_of(inequality),
        logarithmic=inequality.logarithmic,
        code=_code(inequality),
    )


EQUATIONS = tuple(map(_equation, TABLE.values()))
