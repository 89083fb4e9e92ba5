"""`rows`: factors, powers of two, tell which rows of a gradient belong to which sample."""

from __future__ import annotations

import pytest
import torch
from inputs import gaussian

from flatlib.derivatives.rows import FACTORS, Rows, belonging, factors, unweighted, weights

N_SAMPLES = 5
PLACES = {"first": (5, 3, 4), "second": (3, 5, 4), "folded": (15, 4)}


def test_factors_are_different_powers_of_two():
    powers = [2.0**k for k in range(FACTORS)]
    found = factors(3 * FACTORS, torch.ones(1, dtype=torch.float64)).split(FACTORS)
    assert found[0].tolist() == powers
    assert [sorted(each.tolist()) for each in found] == [powers] * 3


@pytest.mark.parametrize("distance", [FACTORS, 2 * FACTORS])
def test_samples_at_a_distance_seldom_share_a_factor(distance):
    found = factors(distance + FACTORS, torch.ones(1, dtype=torch.float64))
    assert int((found[:-distance] == found[distance:]).sum()) < 5


@pytest.mark.parametrize("n", [1, 2, 7, 1000])
def test_weights_differ_and_one_is_zero(n):
    found = weights(n, torch.ones(1, dtype=torch.float64), torch.Generator().manual_seed(3))
    ordered = found.sort().values
    assert ordered[0] == 0 and ordered[-1] < 1.5
    assert bool((ordered.diff() > 0.49 / n).all())


@pytest.mark.parametrize("place", PLACES)
def test_the_sample_of_weight_zero_shows_where_the_samples_are(place):
    weight = weights(N_SAMPLES, torch.ones(1).double(), torch.Generator().manual_seed(0))
    gradient = gaussian(*PLACES[place]).double()
    arranged = Rows(N_SAMPLES, place).arranged(gradient)
    arranged *= weight.view(-1, *[1] * (arranged.dim() - 1))
    found = unweighted(gradient, weight, foldable=True)
    assert (found.n, found.place) == (N_SAMPLES, place)
    assert torch.equal(found.flat(gradient), arranged.reshape(N_SAMPLES, -1))
    gradient += 1e-9
    assert unweighted(gradient, weight, foldable=True) is None


def test_a_gradient_of_zero_has_its_rows_in_the_likely_place():
    weight = weights(5, torch.ones(1).double(), torch.Generator().manual_seed(0))
    for likely in ("first", "second"):
        assert unweighted(torch.zeros(5, 5, 2), weight, True, likely).place == likely


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
