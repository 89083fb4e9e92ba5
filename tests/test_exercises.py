"""What counts as a right answer, and what a wrong one is told."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from flatlib.lab.exercises.checking import Failed, Missing, answers, close, mistake

SIGNS = torch.tensor([1, 1, -1], dtype=torch.float64)
MATRIX = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
MIDDLE_WRONG = "numbers 1 and 3 are right, number 2 is wrong"


@pytest.mark.parametrize(
    "answer",
    [2.0, 2, torch.tensor(2.0), 2.0 * (1 + 1e-11), 4 * torch.tensor(0.25).sqrt(), 2.00001, [2.0],
     np.float64(2), np.array([2.0])],
)  # fmt: skip
def test_right_numbers(answer):
    assert close(answer, 2.0)


@pytest.mark.parametrize(
    "answer",
    [2.1, 2.001, -2.0, float("nan"), "two", torch.tensor([2.0, 2.0]), [2.0, "two"], object(), [],
     None],
)  # fmt: skip
def test_wrong_numbers(answer):
    assert not close(answer, 2.0)


def test_numbers_are_compared_entry_by_entry():
    want = torch.tensor([1.0, 2.0])
    assert close([1.0, 2.0], want) and close((1.0, 2.0), want) and close(np.array([1, 2]), want)
    assert not close([2.0, 1.0], want)
    assert close([want, 2 * want], [want, 2 * want])
    assert not close([want, want[:1]], [want, 2 * want])
    assert close([], [])


def test_tolerance_is_relative_to_the_largest_entry():
    assert close(1.05e6, 1e6, tolerance=0.1)
    assert not close(1.05e6, 1e6, tolerance=0.01)
    assert not close(1e-12, 0.0)


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
    assert close(answer, expected) and close(answer, expected, tolerance=0.0)


def test_small_numbers_above_rounding_are_no_zero():
    assert not any(close(wrong, 0.0) for wrong in (2e-14, -1e-10, 1e-4))
    assert not close(0.0, 1e-13)
    assert not close([0.0, math.nan], [0.0, 0.0])


@pytest.mark.parametrize(
    ("given", "expected", "told"),
    [
        (["two"], [2.0], "your answer is not a number or a list of numbers"),
        ([[1.0, "two"]], [2.0], "your answer is not a number or a list of numbers"),
        ([1.0, math.nan], [1.0, 2.0], "your answer contains nan"),
        ([-math.inf], [2.0], "your answer contains -inf"),
        ([MATRIX.T], [MATRIX], "right but transposed"),
        ([MATRIX[0]], [MATRIX], "your answer has shape (3,), and the right one has (2, 3)"),
        ([-1.0, -2.0], [1.0, 2.0], "right but for the sign"),
        ([[2.0, 1.0]], [[1.0, 2.0]], "right but in the other order"),
        ([MATRIX.flip(0)], [MATRIX], "right but in the other order"),
        ([[2.0, 1.0], [3.0, 4.0]], [[1.0, 2.0], [3.0, 4.0]], ""),  # in one case alone
        ([2.0, 4.0], [1.0, 2.0], "every number is 2 times the right one"),
        ([[0.5, 1.0]], [[1.0, 2.0]], "every number is 0.5 times the right one"),
        ([math.pi, 2 * math.pi], [1.0, 2.0], "every number is pi times the right one"),
        ([2**0.5, 8**0.5], [1.0, 2.0], "every number is the root of 2 times the right one"),
        ([0.5, 0.25], [2.0, 4.0], "every number is one over the right one"),
        ([0.0, 0.5], [1.0, 2.0], ""),
        ([3.0], [1.0], ""),  # one number is some factor times any other
        ([1.0, 4.0], [1.0, 2.0], ""),
        ([2.0, 0.0], [1.0, 0.0], ""),
        ([[1.0, 5.0]], [[1.0, 2.0]], "number 1 is right, number 2 is wrong"),
        ([[1.0, 5.0, 3.0], [7.0, 9.0, 8.0]], [[1.0, 2.0, 3.0], [7.0, 4.0, 8.0]], MIDDLE_WRONG),
        ([[1.0, 5.0], [9.0, 4.0]], [[1.0, 2.0], [3.0, 4.0]], ""),  # each is wrong in one case
        ([[1.0, 5.0]], [[1.0 + 1e-9, 2.0]], "number 1 is right, number 2 is wrong"),
        ([[1.0, 2.0, 3.0, 4.0, 6.0]], [[1.0, 2.0, 3.0, 4.0, 5.0]], ""),  # too many to list
        ([MATRIX + torch.eye(2, 3)], [MATRIX], ""),
    ],
)
def test_the_kind_of_mistake(given, expected, told):
    assert mistake(given, expected) == told


def test_a_negative_factor_keeps_its_sign():
    assert mistake([-math.pi, -2 * math.pi], [1.0, 2.0]).startswith("every number is -")


def test_what_is_missing_is_told_apart():
    def unwritten(x):
        raise NotImplementedError

    def half_written(x):
        if x > 1:
            raise NotImplementedError
        return x

    assert answers(unwritten, [(1,)]) is Missing.UNWRITTEN
    assert answers(half_written, [(1,), (2,)]) is Missing.UNWRITTEN
    assert answers(lambda x: None, [(1,)]) is Missing.NOTHING
    assert answers(lambda x: 2 * x, [(1,), (2,)]) == [2, 4]


def test_an_error_is_told_with_its_line():
    with pytest.raises(Failed, match=r"raises ZeroDivisionError: division by zero \(line \d+: "):
        answers(lambda x: 1 / 0 if x else x, [(1,)])
    with pytest.raises(Failed, match=r"raises ValueError: two words \(line \d+: def fail"):
        answers(_fails, [(1,)])
    with pytest.raises(Failed, match=r"raises TypeError: .*\bmissing\b[^()]*$"):  # before line 1
        answers(lambda x, y: x, [(1,)])
    with pytest.raises(Failed, match=r"raises TypeError: [^\n]*$"):  # no code of the reader's own
        answers(math.sqrt, [("two",)])
    with pytest.raises(KeyboardInterrupt):  # a reader who stops the cell
        answers(_stopped, [(1,)])


def _fails(x):
    def fail(): raise ValueError("two\n  words")  # fmt: skip

    fail()


def _stopped(x):
    raise KeyboardInterrupt


@pytest.mark.parametrize("given", [2.83, 2.828, 2.8284, 2.8235, 2.8334])
def test_decimals_that_are_asked_for_leave_half_a_unit(given):
    root = math.sqrt(8)
    assert close(given, root, decimals=2) and close([given, 300.0], [root, 300.0], decimals=2)


@pytest.mark.parametrize("given", [2.82, 2.8233, 2.84, 2.8, 2.8336])
def test_the_size_of_another_number_does_not_widen_the_decimals(given):
    root = math.sqrt(8)
    assert not close(given, root, decimals=2)
    assert not close([given, 300.0], [root, 300.0], decimals=2)
    said = mistake([[given, 300.0]], [[root, 300.0]], decimals=2)
    assert said == "number 2 is right, number 1 is wrong"


def test_a_half_is_rounded_either_way():
    assert all(close(given, 0.125, decimals=2) for given in (0.12, 0.13))
