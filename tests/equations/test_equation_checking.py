"""What passes a check and what does not, at the edge of its tolerance."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from mutants import MUTANTS, Swapped, holds, scaled, swap, turned

from flatlib import bounds
from flatlib.inequalities import COLUMNS
from flatlib.lab import equations
from flatlib.lab.equations import bounded
from flatlib.lab.equations.cases import Case
from flatlib.lab.equations.checking import run


def outcome(label: str, link, cases: int = 3):
    """The result with all links of an equation replaced by one, equality cases left out."""
    return run(replace(equations.find(label), check=lambda c: [link], tight=()), 0, cases)


@pytest.mark.parametrize("error, passed", ((1e-10, True), (1e-8, False), (-1e-8, False)))
def test_identity_to_a_billionth(error, passed):
    assert outcome("3", (3.0 * (1 + error), "=", 3.0)).passed is passed


@pytest.mark.parametrize(
    "error, passed", ((-0.5, True), (0.0, True), (1e-13, True), (1e-11, False))
)
def test_inequality_to_rounding(error, passed):
    assert outcome("5", (2.0 * (1 + error), "<=", 2.0)).passed is passed


@pytest.mark.parametrize("errors, passed", ((5.0, True), (-5.0, True), (6.5, False), (-7.0, False)))
def test_samples_to_six_standard_errors(errors, passed):
    assert outcome("9", (1.0 + 0.1 * errors, "~", 1.0, 0.1)).passed is passed


def test_one_entry_off_is_enough():
    sides = torch.ones(4, 5).double()
    other = sides.clone()
    other[2, 3] += 1e-8
    assert outcome("3", (sides, "=", sides)).passed
    assert not outcome("3", (sides, "=", other)).passed


@pytest.mark.parametrize("label, relation", (("3", "="), ("5", "<="), ("9", "~")))
def test_nan_fails(label, relation):
    assert not outcome(label, (math.nan, relation, 1.0)).passed
    assert not outcome(label, (1.0, relation, math.nan)).passed


def test_minus_infinity_is_below_everything_and_nothing_above_infinity():
    assert outcome("N.3", (-math.inf, "<=", 1.0, 1.0)).passed
    assert outcome("N.3", (-math.inf, "<=", -math.inf, 1.0)).passed
    assert outcome("N.3", (1.0, "<=", math.inf, 1.0)).passed
    assert not outcome("N.3", (1.0, "<=", -math.inf, 1.0)).passed
    assert not outcome("N.3", (math.inf, "<=", 1.0, 1.0)).passed


@pytest.mark.parametrize("label", ("5", "13", "16", "20", "26", "N.5", "N.8", "N.14"))
def test_loosened_bound_is_caught_by_its_equality_case_alone(label):
    found = equations.find(label)
    position = found.tight[0].links[-1]
    loose = replace(found, check=scaled(1 + 1e-7, position)(found.check))
    result = run(loose, 0, 20)
    assert not result.passed
    assert "equality case" in result.failure and result.attained > 1e-9
    assert not holds(found, loose.check, 0, 20)


def test_equality_of_vanishing_sides_does_not_count():
    found = equations.find("25")
    empty = replace(found, check=lambda c: [(0.0, "<=", 0.0)], library=None)
    assert not run(empty, 0, 2).passed


def test_library_that_disagrees_fails_the_check():
    found = equations.find("28")

    def twice(case):
        return scaled(2.0)(found.library)(case)

    result = run(replace(found, library=twice), 0, 3)
    assert not result.passed and "library: link" in result.failure


@pytest.mark.parametrize("side", ("loss_curvatures", "hessian_of_gradient", "hessian_at_targets"))
def test_either_side_of_the_trace_is_caught_when_it_is_off(side, monkeypatch):
    true = vars(Case)[side].func
    monkeypatch.setattr(Case, side, property(lambda c: 1.05 * true(c)))
    assert not run(replace(equations.find("2"), library=None), 0, 3).passed


def test_a_loss_with_a_wrong_factor_is_caught_by_the_gradient_that_is_written_out(monkeypatch):
    found = equations.find("2")
    fresh = replace(found, library=None, draw=lambda *index: replace(equations.draw(*index)))
    assert run(fresh, 0, 3).passed
    true = Case.loss
    monkeypatch.setattr(Case, "loss", lambda c, theta, y: 1.05 * true(c, theta, y))
    assert not run(fresh, 0, 3).passed


def test_an_equation_without_further_cases_says_so():
    two = replace(
        equations.find("B.1"), draw=lambda seed, index: index, applies=lambda index: index < 2,
        assumptions=("An index is below 2.",),
    )  # fmt: skip
    assert list(two.cases(7, 2)) == [0, 1]
    says = r"\(B.1\) has no case: none of the 300 from number 2 of seed 7 on .*: An index is below"
    with pytest.raises(ValueError, match=says):
        list(two.cases(7, 3))


def test_a_failure_says_which_case():
    found = equations.find("13")
    result = run(replace(found, check=turned()(found.check)), 4, 20)
    assert not result.passed and "of seed 4" in result.failure


def test_a_mutant_changes_one_side_of_one_step():
    found, case = equations.find("28"), equations.draw(0, 0)
    true = found.check(case)
    right, left = (swap(1, side, norm_W_2=1.0)(found.check)(case) for side in ("right", "left"))
    assert right[0] == left[0] == true[0] and right[2] == left[2] == true[2]
    assert right[1][0] == true[1][0] and left[1][2] == true[1][2]
    assert float(right[1][2]) == pytest.approx(float(true[1][2] / case.norm_W_2))
    assert float(left[1][0]) == pytest.approx(float(true[1][0] / case.norm_W_2))
    assert turned(1)(found.check)(case)[1] == (true[1][2], "<=", true[1][0])
    assert scaled(2.0, 1)(found.check)(case)[1] == (*true[1][:2], 2 * true[1][2])


def test_a_quantity_that_is_swapped_keeps_its_shape():
    case = equations.draw(0, 0)
    other = Swapped(case, {"norm_x": lambda c: c.norm_x.max(), "W": 1.0, "n": 7})
    assert torch.equal(other.norm_x, case.norm_x.max().repeat(case.n))
    assert torch.equal(other.W, torch.ones_like(case.W))
    assert other.n == 7 and other.N == case.N and other.grad_x is case.grad_x


def test_every_mutant_is_wrong_somewhere_and_makes_numbers():
    """A mutant that is caught because it makes no number at all would prove nothing."""
    for label, mutants in MUTANTS.items():
        found = equations.find(label)
        cases = [*found.cases(0, 20), *equations.equality_cases(label)]
        for name, mutant in mutants.items():
            links = [pair for case in cases for pair in _changed(found.check, mutant, case)]
            assert links, f"({label}) {name}"
            for true, wrong in links:
                assert not torch.as_tensor(wrong[0]).isnan().any(), f"({label}) {name}"
                assert not torch.as_tensor(wrong[2]).isnan().any(), f"({label}) {name}"
                assert wrong[1] == true[1] and len(wrong) == len(true)


def _changed(check, mutant, case) -> list[tuple]:
    """The links of a case that a mutant changes, each with what it becomes."""
    pairs = zip(check(case), mutant(check)(case), strict=True)
    return [(true, wrong) for true, wrong in pairs if not _same(true, wrong)]


def _same(one, other) -> bool:
    sides = zip(one[::2], other[::2], strict=True)
    return all(torch.equal(*map(torch.as_tensor, pair)) for pair in sides)


def test_slack_is_relative_and_one_a_step():
    case = next(equations.find("28").cases(0, 1))
    slack = equations.find("28").slack(case)
    assert slack.shape == (3,) and bool((slack <= 1).all()) and bool((slack >= -1e-12).all())


def test_statistical_equations_say_what_their_worst_number_is():
    meaning = {label: equations.find(label).worst_means for label in equations.register}
    estimated = {label for label, m in meaning.items() if "the estimate's error" in m}
    assert estimated == {"8", "9", "14"}
    assert "slack" in meaning["13"] and "error" in meaning["3"]


REPORTED = sorted({column.label for column in COLUMNS.values()})


@pytest.mark.parametrize("label", REPORTED)
@pytest.mark.parametrize("side", ("lhs", "rhs"))
def test_a_bound_of_the_library_that_is_off_fails_the_check(label, side, monkeypatch):
    def off(m):
        return tuple(replace(b, **{side: _moved(b, getattr(b, side))}) for b in bounds.evaluate(m))

    found = _reported(label)
    assert run(found, 0, 2).passed
    monkeypatch.setattr(bounded, "evaluate", off)
    result = run(found, 0, 2)
    assert not result.passed and "library: link" in result.failure


def _moved(bound: bounds.Bound, side: float) -> float:
    """A side one millionth of it away, as a logarithm is if its number is."""
    logarithmic = COLUMNS[bound.key].inequality.logarithmic
    return side + 1e-6 if logarithmic else side * (1 + 1e-6)


def _reported(label: str):
    """An equation whose cases are those that the library reports a bound of its label for."""
    found = equations.find(label)
    (report,) = {c.inequality.is_recorded for c in COLUMNS.values() if c.label == label}
    return replace(found, applies=lambda c: found.applies(c) and report(c))


@pytest.mark.parametrize("label", REPORTED)
def test_a_bound_that_the_library_leaves_out_fails_the_check(label, monkeypatch):
    def without(m):
        return tuple(b for b in bounds.evaluate(m) if b.label != label)

    monkeypatch.setattr(bounded, "evaluate", without)
    assert not run(_reported(label), 0, 2).passed


@pytest.mark.parametrize("label", REPORTED)
def test_a_bound_that_the_library_does_not_prove_fails_the_check(label, monkeypatch):
    def unproven(m):
        return tuple(replace(b, proven=b.label != label) for b in bounds.evaluate(m))

    monkeypatch.setattr(bounded, "evaluate", unproven)
    assert not run(_reported(label), 0, 2).passed
