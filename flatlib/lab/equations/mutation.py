"""Ways to make a formula wrong, so that its check can be seen to fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flatlib.lab.equations.checking import Equation, Formula, Link, holds


def with_link(formula: Formula, position: int, link: Callable[[Any], Link]) -> Formula:
    """The formula with one of its links replaced."""

    def mutant(case: Any) -> list[Link]:
        links = list(formula(case))
        links[position] = link(case)
        return links

    return mutant


def reversed_link(formula: Formula, position: int = 0) -> Formula:
    """The formula with one bound the wrong way round."""

    def mutant(case: Any) -> list[Link]:
        links = list(formula(case))
        lhs, relation, rhs, *scale = links[position]
        links[position] = (rhs, relation, lhs, *scale)
        return links

    return mutant


def scaled_link(formula: Formula, factor: Callable[[Any], Any], position: int = 0) -> Formula:
    """The formula with one right-hand side times a factor that should not be there."""

    def mutant(case: Any) -> list[Link]:
        links = list(formula(case))
        lhs, relation, rhs, *scale = links[position]
        links[position] = (lhs, relation, rhs * factor(case), *scale)
        return links

    return mutant


def caught(equation: Equation, seed: int = 0, cases: int = 40) -> dict[str, bool]:
    """Which of an equation's mutants its check catches.

    Args:
        equation: from the register.
        seed: of the cases.
        cases: how many to draw.

    Returns:
        The mutants' names, each with whether the check fails with it.
    """
    mutants = equation.mutants.items()
    return {name: not holds(equation, formula, seed, cases) for name, formula in mutants}
