"""What an equation's check is made of, and how it is run.

A formula takes a case to its links: ``(lhs, relation, rhs)`` or, with what the comparison is
relative to, ``(lhs, relation, rhs, scale)``. The relations are

* ``"="``: both sides agree to 1e-9, relative to the larger one or to the scale;
* ``"<="``: the left side exceeds the right by rounding (1e-12 of the larger) and no more;
* ``"~"``: an estimate, by samples or by finite differences; the scale is its error.

An inequality must also be attained: at each of its equality cases the links named there are
equal to 1e-9, so a bound that is merely loose is caught.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flatlib.lab.equations.assumptions import MET
from flatlib.lab.equations.cases import draw

ALLOWED = {  # by relation, the largest excess that passes
    "=": 1e-9,  # relative
    "<=": 1e-12,  # relative: some thousands of float64 operations, powers up to 6
    "~": 6.0,  # errors, for some thousands of entries a check: one false alarm in a thousand runs
}
EQUALITY_DRAWS = 3  # random versions of each equality case
MOST_UNMET = 300  # cases in a row; of those drawn one in three or more meets any assumptions
LIBRARY_CASES = 25  # at which the library's own numbers are compared as well

Link = tuple  # (lhs, relation, rhs) or (lhs, relation, rhs, scale)
Formula = Callable[[Any], list[Link]]


@dataclass(frozen=True)
class Tight:
    """A family of cases at which some links of an inequality are equalities."""

    make: Callable[[int], Any]  # seed -> case
    links: tuple[int, ...]  # positions in the formula's list


@dataclass(frozen=True)
class CheckResult:
    """What a check found."""

    passed: bool
    cases: int  # drawn; equality cases come on top
    worst: float  # see `Equation.worst_means`
    seconds: float
    attained: float = math.nan  # largest relative gap at the equality cases; nan without any
    failure: str = ""  # the first cases that failed, if any


@dataclass(frozen=True)
class Equation:
    """A numbered statement, its assumptions and the formula that its check evaluates."""

    label: str
    name: str
    where: str  # in the 2023 version of the paper
    statement: str  # LaTeX, for display
    assumptions: tuple[str, ...]
    kind: str  # "definition", "identity" or "inequality"
    check: Formula  # a case to its links: the formula that is tested
    tight: tuple[Tight, ...] = ()
    draw: Callable[[int, int], Any] = draw  # (seed, index) -> case
    applies: Callable[[Any], bool] = lambda case: True  # whether float64 resolves a case
    library: Formula | None = None  # the same numbers from the library
    logarithmic: bool = False  # both sides of an inequality are logarithms
    code: str = ""  # what the register page shows, where that is not the check's own code

    @property
    def source(self) -> str:
        """The code of the check, as the register page shows it."""
        return self.code or inspect.getsource(self.check)

    @property
    def worst_means(self) -> str:
        """What `CheckResult.worst` is for this equation."""
        if self.kind == "inequality":
            logarithmic = "least slack, of the logarithms, in nats"
            return (
                logarithmic if self.logarithmic else "least slack, relative to the right-hand side"
            )
        if self.kind == "definition":
            if any(link[1] == "~" for link in self.check(next(self.cases(0, 1)))):
                return "largest deviation, in units of the estimate's error"
        return "largest error, relative"

    def cases(self, seed: int, count: int) -> Iterator[Any]:
        """The first ``count`` cases of the stream that meet the assumptions.

        Raises:
            ValueError: of 300 cases in a row none does.
        """
        index = last = 0
        while count:
            case = self.draw(seed, index)
            index += 1
            if not self.unmet(case) and self.applies(case):
                count, last = count - 1, index
                yield case
            elif index - last == MOST_UNMET:
                raise ValueError(
                    f"({self.label}) has no case: none of the {MOST_UNMET} from number {last} of "
                    f"seed {seed} on meets its assumptions: {' '.join(self.assumptions)}"
                )

    def unmet(self, case: Any) -> tuple[str, ...]:
        """Those of the assumptions that a case does not meet; one not in `MET` counts as met."""
        return tuple(a for a in self.assumptions if a in MET and not MET[a](case))

    def slack(self, case: Any) -> Tensor:
        """Relative slack of each ``"<="`` link at a case: 0 is attained, 1 says nothing.

        Args:
            case: from `draw` or an equality case.

        Returns:
            One number a link: the least over samples and layers of ``(rhs - lhs) / |rhs|``.

        Raises:
            ValueError: the case does not meet an assumption, which the message quotes.
        """
        if missing := self.unmet(case):
            raise ValueError(
                f"({self.label}) says nothing of this case, which does not meet: "
                f"{' '.join(missing)} Take a case that does, for instance from Equation.cases"
            )
        links = [link for link in self.check(case) if link[1] == "<="]
        return torch.tensor([-_excess(*link) for link in links], dtype=torch.float64)


def _parts(lhs: Any, rhs: Any, scale: Any) -> tuple[Tensor, Tensor, Tensor]:
    sides = [torch.as_tensor(side, dtype=torch.float64).detach() for side in (lhs, rhs)]
    if scale is None:
        scale = torch.maximum(*(side.abs() for side in torch.broadcast_tensors(*sides)))
    scale = torch.as_tensor(scale, dtype=torch.float64).detach()
    return tuple(part.flatten() for part in torch.broadcast_tensors(*sides, scale))


def _excess(lhs: Any, relation: str, rhs: Any, scale: Any = None) -> float:
    """How far one link is from what it states, relative to its scale; nan counts as infinite."""
    left, right, unit = _parts(lhs, rhs, scale)
    difference = torch.where(left == right, torch.zeros_like(left), left - right)
    if relation != "<=":
        difference = difference.abs()
    relative = torch.where(difference == 0, difference, difference / unit)
    # One side infinite: minus infinity lies below every bound, and nothing lies above infinity.
    below = (difference == -math.inf) & (relation == "<=")
    relative = torch.where(below, -torch.ones_like(relative), relative)
    return float(relative.nan_to_num(nan=math.inf).max())


def _gap(link: Link, logarithmic: bool) -> float:
    """Relative distance of the two sides at an equality case; they may not vanish."""
    lhs, _, rhs, *scale = link
    left, right, _ = _parts(lhs, rhs, None)
    alive = bool((left.isfinite() & right.isfinite() & (logarithmic | (right != 0))).any())
    return _excess(lhs, "=", rhs, *scale) if alive else math.inf


def first_failure(links: list[Link]) -> str:
    """The first link that is further off than it may be, in words."""
    for position, link in enumerate(links):
        excess = _excess(*link)
        if not excess <= ALLOWED[link[1]]:
            return f"link {position} ({link[1]}) is off by {excess:.3g}"
    return ""


def at_equality_cases(
    equation: Equation, formula: Formula, seed: int
) -> Iterator[tuple[float, str]]:
    """At each equality case: the largest gap of the steps attained there, and any failure."""
    for family in equation.tight:
        for shift in range(EQUALITY_DRAWS):
            case = family.make(seed + shift)
            links = formula(case)
            gap = max(_gap(links[position], equation.logarithmic) for position in family.links)
            failure = first_failure(links)
            if gap > ALLOWED["="]:
                failure = f"missed by {gap:.3g}"
            yield gap, failure and f"equality case {family.make.__name__}: {failure}"


def _worst(equation: Equation, links: list[Link]) -> float:
    """The largest excess of the links that the equation's kind is about."""
    relations = {link[1] for link in links}
    main = {"identity": "=", "inequality": "<=", "definition": "~" if "~" in relations else "="}
    return max(_excess(*link) for link in links if link[1] == main[equation.kind])


def run(equation: Equation, seed: int, cases: int) -> CheckResult:
    """Evaluate the formula at every case and at every equality case."""
    start, worst, failures = time.perf_counter(), -math.inf, []
    for number, case in enumerate(equation.cases(seed, cases)):
        found = {"formula": equation.check(case)}
        worst = max(worst, _worst(equation, found["formula"]))
        if equation.library and number < LIBRARY_CASES:
            found["library"] = equation.library(case)
        for which, links in found.items():
            if failure := first_failure(links):
                failures.append(f"case {number} of seed {seed}: {which}: {failure}")
    at_equality = list(at_equality_cases(equation, equation.check, seed))
    attained = max((gap for gap, _ in at_equality), default=math.nan)
    failures += [failure for _, failure in at_equality if failure]
    if equation.kind == "inequality":
        worst = 0.0 - worst
    seconds = time.perf_counter() - start
    return CheckResult(not failures, cases, worst, seconds, attained, "; ".join(failures[:3]))
