"""Every registered equation passes, and every wrong version of it is caught."""

from __future__ import annotations

import math
import re
from collections import Counter
from functools import lru_cache

import pytest
from mutants import MUTANTS, caught, holds, mutants_of
from register import by_stream

from flatlib.lab import equations
from flatlib.lab.equations.cases import draw_interpolating
from flatlib.lab.equations.checking import CheckResult

OF_THE_PAPER = [*map(str, range(1, 29)), "A.1", "B.1", "B.2"]
LABELS = list(equations.register)
CASES = 40


@lru_cache
def checked(label: str, seed: int) -> CheckResult:
    """A check whose result several tests look at."""
    return equations.check(label, seed=seed, cases=CASES)


def test_the_register_holds_every_label_in_order():
    ours = LABELS[len(OF_THE_PAPER) :]
    assert LABELS[: len(OF_THE_PAPER)] == OF_THE_PAPER
    assert ours == [f"N.{k}" for k in range(1, len(ours) + 1)] and len(ours) >= 14
    assert all(label == found.label for label, found in equations.register.items())


@pytest.mark.parametrize("seed", (0, 1, 2))
@pytest.mark.parametrize("label", LABELS)
def test_check_passes(label, seed):
    result = checked(label, seed)
    assert result.passed, result.failure
    assert result.cases == CASES and result.failure == "" and result.seconds > 0


@pytest.mark.parametrize("label", LABELS)
def test_worst_lies_within_what_its_kind_allows(label):
    found, result = equations.find(label), checked(label, 0)
    if found.kind == "inequality":
        assert result.worst >= -1e-12
        assert result.attained <= 1e-9
    else:
        assert 0 <= result.worst <= (6 if "estimate" in found.worst_means else 1e-9)


def test_every_mutant_is_caught():
    score = {label: caught(found) for label, found in equations.register.items()}
    escaped = [(label, name) for label, m in score.items() for name, hit in m.items() if not hit]
    number = Counter({label: len(mutants) for label, mutants in score.items()})
    assert not escaped
    assert list(score) == LABELS and set(MUTANTS) <= set(LABELS)
    assert min(number.values()) >= 4
    assert number.total() >= 273


def test_an_inequality_without_mutants_of_its_own_has_those_of_every_inequality(monkeypatch):
    assert all(mutants_of(equations.find(label)) is MUTANTS[label] for label in MUTANTS)
    for label in ("13", "N.3", "N.5"):
        monkeypatch.delitem(MUTANTS, label)
        found = equations.find(label)
        steps = [link for link in found.check(found.draw(0, 0)) if link[1] == "<="]
        score = caught(found)
        assert len(score) == 4 * len(steps) and all(score.values()), (label, score)


@pytest.mark.parametrize("seed", (5, 6))
def test_mutants_are_caught_for_other_seeds(seed):
    for label, found in equations.register.items():
        missed = [name for name, hit in caught(found, seed, CASES).items() if not hit]
        assert not missed, f"({label}): {missed}"


def test_the_check_that_catches_mutants_lets_the_equations_pass():
    for label, found in equations.register.items():
        assert holds(found, found.check, 0, CASES), label


@pytest.mark.parametrize("label", LABELS)
def test_entries_can_be_shown(label):
    found = equations.find(label)
    assert found.kind in ("definition", "identity", "inequality")
    assert found.name and found.where and all(a.endswith(".") for a in found.assumptions)
    assert "$" not in found.statement
    assert found.statement.count("{") == found.statement.count("}")
    assert found.statement.count(r"\Big(") == found.statement.count(r"\Big)")
    if found.kind == "inequality":
        heading = rf'_\w+\(\s+\(\s*"{re.escape(label)}", *\s*"{re.escape(found.name)}",'
        assert re.match(heading, found.source) and "Step(" in found.source
        assert len(found.source.splitlines()) <= 70
    else:
        assert found.source.startswith(f"def {found.check.__name__}")
        assert len(found.source.splitlines()) <= 25


def test_each_step_of_an_inequality_has_an_equality_case():
    for label, found in equations.register.items():
        if found.kind != "inequality":
            continue
        steps = [k for k, link in enumerate(found.check(found.draw(0, 0))) if link[1] == "<="]
        covered = {position for family in found.tight for position in family.links}
        assert set(steps) <= covered, label


@pytest.mark.parametrize("label", ("8", "9"))
def test_a_corrected_statement_says_so_and_links_the_errata(label):
    found = equations.find(label)
    assert "corrected, see [Errata](chapters/09-errata.ipynb)" in found.where
    assert (r"o(\lVert x-\bar x\rVert)" if label == "8" else r"\tfrac1\alpha") in found.statement
    assert r"=\alpha" not in found.statement


def test_each_statement_over_layers_says_which_derivative_and_which_weights_it_means():
    for label in ("N.9", "N.10", "N.11", "N.12"):
        text = " ".join(equations.find(label).assumptions)
        assert "through layer l alone" in text
        assert ("none is tied" in text) == (label in ("N.9", "N.10"))
    for label in ("4", "5", "6", "7", "12", "13", "17", "25", "27", "28", "N.2", "N.3", "N.4"):
        assert "the input enters nowhere else" in " ".join(equations.find(label).assumptions)


def test_the_book_checks_each_equation_once_and_draws_each_case_in_one_process():
    groups = by_stream()
    assert sorted(label for group in groups for label in group) == sorted(LABELS)
    cases = [{id(case_of(label)) for label in group} for group in groups]
    assert sum(map(len, cases)) == len(set.union(*cases))
    assert min(len(group) for group in groups) > 1


def case_of(label: str):
    """The first case of an equation's stream, itself and not one that is made from it."""
    found = equations.find(label)
    draw = equations.draw if found.draw is draw_interpolating else found.draw
    return draw(0, 0)


def test_same_seed_same_numbers():
    first = [equations.check(label, seed=3, cases=8) for label in LABELS]
    equations.draw.cache_clear()
    second = [equations.check(label, seed=3, cases=8) for label in LABELS]
    for one, other in zip(first, second, strict=True):
        assert one.worst == other.worst
        assert one.attained == other.attained or math.isnan(one.attained)


@pytest.mark.parametrize("label", ("3", "8", "10", "14", "15", "20", "N.13"))
def test_another_seed_other_numbers(label):
    worst = [equations.check(label, seed=seed, cases=10).worst for seed in (0, 1, 2)]
    assert len(set(worst)) > 1


@pytest.mark.parametrize(
    "label, near", (("(13)", "13"), ("N13", "N.13"), ("A1", "A.1"), ("C.1", "B.1"), (13, "13"))
)
def test_unknown_label_names_the_nearest(label, near):
    with pytest.raises(ValueError, match=f"no equation has the label .*{near}"):
        equations.check(label)


def test_label_like_no_other_points_to_the_register():
    with pytest.raises(ValueError, match="flatlib.lab.equations.register"):
        equations.check("sharpness ")


@pytest.mark.parametrize("cases", (0, -3))
def test_no_cases_is_refused(cases):
    with pytest.raises(ValueError, match=f"cases must be at least 1, got {cases}"):
        equations.check("13", cases=cases)
