"""A self-checking exercise accepts right answers, refuses wrong ones and waits for the rest."""

import math

import pytest
import torch

from flatlib.lab import exercises

SIGNS = torch.tensor([1, 1, -1], dtype=torch.float64)


@pytest.mark.parametrize(
    "answer",
    [2.0, 2, torch.tensor(2.0), 2.0 * (1 + 1e-11), 4 * torch.tensor(0.25).sqrt(), 2.00001, [2.0]],
)
def test_right_numbers_pass(answer):
    verdict = exercises.check(answer, 2.0, hint="look again")
    assert verdict.passed is True
    assert repr(verdict) == "right"


@pytest.mark.parametrize(
    "answer",
    [2.1, 2.001, -2.0, float("nan"), "two", torch.tensor([2.0, 2.0]), [2.0, "two"], object()],
)
def test_wrong_answers_fail_with_the_hint(answer):
    verdict = exercises.check(answer, 2.0, hint="look again")
    assert verdict.passed is False
    assert repr(verdict) == "not yet: look again"


def test_no_answer_is_neither():
    assert exercises.check(None, 2.0, hint="look again").passed is None


def test_tensors_are_compared_entry_by_entry():
    want = torch.tensor([1.0, 2.0])
    assert exercises.check([1.0, 2.0], want, hint="order").passed is True
    assert exercises.check([2.0, 1.0], want, hint="order").passed is False
    assert exercises.check([want, 2 * want], [want, 2 * want], hint="order").passed is True
    assert exercises.check([want, want[:1]], [want, 2 * want], hint="order").passed is False
    assert exercises.check([], [], hint="order").passed is True


def test_tolerance_is_relative_to_the_largest_entry():
    assert exercises.check(1.05e6, 1e6, hint="size", tolerance=0.1).passed is True
    assert exercises.check(1.05e6, 1e6, hint="size", tolerance=0.01).passed is False
    assert exercises.check(1e-12, 0.0, hint="size").passed is False


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (1e-17, 0.0),
        (0.0, -1e-17),
        (0.1 + 0.2 - 0.3, 0.0),
        (math.sin(math.pi), 0.0),
        ([0.0, 1e-16], [0.0, 0.0]),
        (torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64).dot(SIGNS), 0.0),
    ],
)
def test_a_right_answer_of_zero_allows_for_rounding(answer, expected):
    assert exercises.check(answer, expected, hint="size").passed is True
    assert exercises.check(answer, expected, hint="size", tolerance=0.0).passed is True


def test_small_numbers_above_rounding_are_no_zero():
    for wrong in (2e-14, -1e-10, 1e-4):
        assert exercises.check(wrong, 0.0, hint="size").passed is False
    assert exercises.check(0.0, 1e-13, hint="size").passed is False
    assert exercises.check([0.0, math.nan], [0.0, 0.0], hint="size").passed is False


def test_a_predicate_decides():
    assert exercises.check(4, lambda v: v % 2 == 0, hint="even").passed is True
    assert exercises.check(3, lambda v: v % 2 == 0, hint="even").passed is False


@pytest.mark.parametrize("answer", [3.0, [], [1.0], "two"])
def test_what_a_predicate_cannot_read_is_wrong(answer):
    def adds_up(pair):
        return float(pair[0]) + float(pair[1]) == 1.0

    assert exercises.check([0.5, 0.5], adds_up, hint="a pair").passed is True
    assert repr(exercises.check(answer, adds_up, hint="a pair")) == "not yet: a pair"


def test_a_hint_is_owed():
    with pytest.raises(ValueError, match="hint"):
        exercises.check(1.0, 1.0, hint="")


def test_trying_waits_for_the_unwritten_and_shows_other_errors():
    def unwritten(x):
        raise NotImplementedError

    def broken(x):
        raise ZeroDivisionError

    assert exercises.trying(unwritten, 1.0) is None
    assert exercises.trying(abs, -1.0) == 1.0
    with pytest.raises(ZeroDivisionError):
        exercises.trying(broken, 1.0)


def test_a_forgotten_return_is_told_apart_from_no_answer():
    def unwritten(x):
        raise NotImplementedError

    def forgetful(x):
        2 * x

    messages = [
        repr(exercises.check(exercises.trying(function, 1.0), 2.0, hint="double it"))
        for function in (unwritten, forgetful)
    ]
    assert messages[0] == "no answer yet"
    assert "returned nothing" in messages[1] and "return" in messages[1]
    assert exercises.check(exercises.trying(forgetful, 1.0), 2.0, hint="-").passed is None


def test_several_arguments_refuse_a_constant():
    def unwritten(x):
        raise NotImplementedError

    def mostly(x):
        return x if x > 1 else None

    cases, want = [(1.0,), (2.0,)], [2.0, 4.0]
    for function, passed in ((lambda x: 2 * x, True), (lambda x: 2.0, False), (unwritten, None)):
        answer = exercises.trying_each(function, cases)
        assert exercises.check(answer, want, hint="double it").passed is passed
    assert exercises.trying_each(mostly, cases) is exercises.Missing.NOTHING


def test_an_answer_that_the_check_cannot_read_is_wrong():
    two = torch.ones(2)
    for answer, expected in (
        (torch.ones(3), lambda v: torch.allclose(v, two)),
        (1.0, lambda v: v.shape == two.shape),
        (two, lambda v: v == two),
    ):
        assert exercises.check(answer, expected, hint="two ones").passed is False
