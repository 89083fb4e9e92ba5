"""Every numbered statement of the paper, and ours, with a check that draws networks and tests it.

>>> sorted(register)[:3]
['1', '10', '11']
>>> check("13", cases=5).passed
True
"""

from __future__ import annotations

import difflib
from itertools import count, takewhile
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from flatlib.lab.equations import bounded, identities
from flatlib.lab.equations.cases import Case, draw, rescaled
from flatlib.lab.equations.checking import CheckResult, Equation, run

__all__ = [
    "Case",
    "CheckResult",
    "Equation",
    "check",
    "draw",
    "equality_case",
    "equality_cases",
    "find",
    "printed_lemma_counterexample",
    "register",
    "rescaled",
]

PAPER = (*(str(number) for number in range(1, 29)), "A.1", "B.1", "B.2")

_found = {each.label: each for each in (*identities.EQUATIONS, *bounded.EQUATIONS)}
OURS = tuple(takewhile(_found.__contains__, map("N.{}".format, count(1))))
register = MappingProxyType({label: _found[label] for label in (*PAPER, *OURS)})


def find(label: str) -> Equation:
    """The registered equation of a label.

    Args:
        label: ``"1"`` to ``"28"``, ``"A.1"``, ``"B.1"``, ``"B.2"``, ``"N.1"`` to ``"N.15"``.

    Returns:
        `Equation`.

    Raises:
        ValueError: no such label; the message names the nearest ones.

    >>> find("13").kind
    'inequality'
    """
    if label in register:
        return register[label]
    text = str(label).strip("() ")
    near = [text] if text in register else difflib.get_close_matches(text, register, 3, 0.3)
    hint = f"the nearest are {', '.join(near)}" if near else "see flatlib.lab.equations.register"
    raise ValueError(f"no equation has the label {label!r}; {hint}")


def check(label: str, seed: int = 0, cases: int = 200) -> CheckResult:
    """Draw networks and data, and test a numbered equation on each of them.

    Both sides are computed in float64 by plain autograd. Identities hold to 1e-9 relative,
    inequalities up to rounding, and each inequality's equality cases are attained to 1e-9.

    Args:
        label: the equation, see `find`.
        seed: of the networks, their data and whatever else is random.
        cases: how many to draw, at least 1.

    Returns:
        `CheckResult`; `Equation.worst_means` says what ``worst`` is.

    Raises:
        ValueError: no such label, or ``cases`` below 1.

    >>> result = check("4", cases=3)
    >>> result.passed, result.cases, result.worst < 1e-9
    (True, 3, True)
    """
    equation = find(label)
    if cases < 1:
        raise ValueError(f"cases must be at least 1, got {cases}")
    return run(equation, seed, cases)


def equality_case(label: str, link: int | None = None, seed: int = 0) -> Any:
    """A network and data, or a vector, at which an inequality is an equality.

    Args:
        label: an inequality, or (4).
        link: position of the step in the formula's list; the first equality case if None.
        seed: of the case within its family.

    Returns:
        ``(net, x)``; for Lemmas B.1 and B.2 and their steps (19) and (22), a `vectors.Vector`.

    Raises:
        ValueError: no such label, or no equality case of that step.

    >>> net, x = equality_case("13")
    >>> x.dtype
    torch.float64
    """
    families = [t for t in find(label).tight if link is None or link in t.links]
    if not families:
        steps = sorted({position for t in find(label).tight for position in t.links})
        raise ValueError(f"({label}) has equality cases for steps {steps}, got {link}")
    case = families[0].make(seed)
    return (case.net, case.x) if hasattr(case, "net") else case


def equality_cases(label: str, seed: int = 0) -> tuple[Any, ...]:
    """One case of every family at which some step of an equation is an equality.

    Args:
        label: see `find`.
        seed: of the cases within their families.

    Returns:
        What the formula and `Equation.slack` take: `Case`, `ConvolutionCase` or `Vector`.

    Raises:
        ValueError: no such label.

    >>> [float(find("13").slack(case).abs().max()) < 1e-9 for case in equality_cases("13")]
    [True, True]
    """
    return tuple(family.make(seed) for family in find(label).tight)


def printed_lemma_counterexample(seed: int = 0) -> tuple[nn.Sequential, Tensor, Tensor]:
    """A network, inputs and targets whose gap is m times what Eq. (16) prints.

    Args:
        seed: of the family.

    Returns:
        ``(net, x, y)``, one sample, twice, with two targets that are nearly equal.

    >>> net, x, y = printed_lemma_counterexample()
    >>> x.shape == (2, net[0].weight.numel())
    True
    """
    case = equality_cases("16", seed)[0]
    return case.net, case.x, case.y
