"""`rows`: factors, powers of two, tell which rows of a gradient belong to which sample."""

from __future__ import annotations

import pytest
import torch
from inputs import gaussian

from flatlib.derivatives.rows import FACTORS, Rows, belonging, factors

N_SAMPLES = 5
PLACES = {"first": (5, 3, 4), "second": (3, 5, 4), "folded": (15, 4)}


def test_factors_are_different_powers_of_two():
    found = factors(FACTORS, torch.ones(1, dtype=torch.float64))
    assert found.tolist() == [2.0**k for k in range(FACTORS)]
    assert factors(FACTORS + 2, found)[-2:].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("place", PLACES)
def test_the_samples_are_found_where_they_are(place):
    one, factor = gaussian(*PLACES[place]).double(), factors(N_SAMPLES, torch.ones(1).double())
    other = one.clone()
    arranged = Rows(N_SAMPLES, place).arranged(other)
    arranged *= factor.view(-1, *[1] * (arranged.dim() - 1))
    found = belonging(one, other, factor, foldable=True)
    assert (found.n, found.place) == (N_SAMPLES, place)
    assert found.arranged(one).shape[0] == N_SAMPLES
    assert found.shape(one.shape) == found.arranged(one).shape


@pytest.mark.parametrize("n", [5, 200, 2 * FACTORS])
def test_a_row_with_a_trace_of_another_sample_belongs_to_none(n):
    one, factor = gaussian(n, 4).double(), factors(n, torch.ones(1).double())
    other = factor[:, None] * one
    assert belonging(one, other, factor, foldable=True).place == "first"
    other[1] += 1e-9 * one[1]
    assert belonging(one, other, factor, foldable=True) is None


def test_gradients_of_zero_take_the_likely_place():
    zero, factor = torch.zeros(5, 5, 2), factors(5, torch.ones(1))
    for likely in ("first", "second"):
        assert belonging(zero, zero, factor, True, likely).place == likely
    assert belonging(zero, zero, factor, foldable=False, likely="second").place == "first"


def test_axes_along_which_something_is_repeated():
    assert Rows(5, "first").shared_axes(torch.Size((1, 3, 1))) == [2]
    assert Rows(5, "second").shared_axes(torch.Size((3, 1, 1))) == [2]
    assert Rows(5, "second").fits(torch.Size((3, 1, 4)))
    assert not Rows(5, "second").fits(torch.Size((1, 3, 4)))
