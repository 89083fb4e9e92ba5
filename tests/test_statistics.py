"""Our statistics against SciPy, closed forms, and intervals that cover what they promise."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from flatlib.lab.statistics import (
    clustered_pearson,
    mean_and_spread,
    paired_difference,
    pearson,
    quantile,
)

finite = st.floats(-1e3, 1e3)


@given(st.lists(st.tuples(finite, finite), min_size=4, max_size=30))
def test_pearson_agrees_with_scipy(pairs):
    x, y = np.array(pairs).T
    if np.ptp(x) < 1e-6 or np.ptp(y) < 1e-6:
        return
    theirs = stats.pearsonr(x, y)
    ours = pearson(x, y)
    assert ours.value == pytest.approx(theirs.statistic, abs=1e-9)
    if abs(ours.value) < 1 - 1e-6:
        interval = theirs.confidence_interval(0.95)
        assert (ours.low, ours.high) == pytest.approx(tuple(interval), abs=1e-6)
    assert ours.n == len(pairs)


def test_pearson_is_sure_of_neither_sign_nor_size_on_few_or_constant_values():
    assert math.isnan(pearson([1, 1, 1, 1, 1], [1, 2, 3, 4, 5]).value)
    assert math.isnan(pearson([1.0], [2.0]).value)
    three = pearson([1, 2, 3], [1, 2, 4])
    assert three.value > 0.9
    assert math.isnan(three.low)
    assert not three.excludes_zero


def test_pearson_leaves_infinite_and_undefined_pairs_out():
    x, y = [1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 3.0, 2.0, 5.0, 4.0]
    assert pearson([*x, math.inf, 7.0], [*y, 1.0, math.nan]) == pearson(x, y)


def test_pearson_survives_values_whose_squares_do_not():
    x = np.array([1e-200, 2e-200, 4e-200, 3e-200])
    assert pearson(x, x * 1e300).value == pytest.approx(1)


def test_interval_of_pearson_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    rho, covered, draws = 0.6, 0, 2_000
    for _ in range(draws):
        x = rng.standard_normal(20)
        y = rho * x + math.sqrt(1 - rho**2) * rng.standard_normal(20)
        found = pearson(x, y)
        covered += found.low <= rho <= found.high
    assert covered / draws == pytest.approx(0.95, abs=0.02)


@given(st.lists(st.tuples(finite, finite), min_size=2, max_size=20))
def test_paired_difference_agrees_with_scipy(pairs):
    first, second = np.array(pairs).T
    if np.ptp(second - first) < 1e-6:
        return
    interval = stats.ttest_rel(second, first).confidence_interval(0.95)
    ours = paired_difference(first, second)
    assert ours.value == pytest.approx((second - first).mean(), abs=1e-9)
    assert (ours.low, ours.high) == pytest.approx(tuple(interval), rel=1e-6, abs=1e-6)


def test_paired_difference_of_one_pair_and_of_none():
    one = paired_difference([1.0], [4.0])
    assert (one.value, one.n, one.excludes_zero) == (3.0, 1, False)
    assert math.isnan(paired_difference([], []).value)
    assert paired_difference([1, 2, 3], [2.0, 3.1, 4.05]).excludes_zero


@pytest.mark.parametrize("function", [pearson, paired_difference])
def test_lists_of_different_length_are_refused(function):
    with pytest.raises(ValueError, match=r"shapes \(2,\) and \(3,\)"):
        function([1, 2], [1, 2, 3])


@pytest.mark.parametrize("share", [0.5, 0.75])
def test_interval_of_a_quantile_covers_it_at_least_as_often_as_it_says(share):
    rng = np.random.default_rng(0)
    truth, covered, draws = stats.norm.ppf(share), 0, 2_000
    for _ in range(draws):
        found = quantile(rng.standard_normal(40), share)
        assert found.low <= found.value <= found.high and found.n == 40
        covered += found.low <= truth <= found.high
    assert 0.94 < covered / draws < 0.99


def test_quantiles_count_what_is_infinite_and_leave_out_what_is_undefined():
    found = quantile([math.inf] * 3 + [math.nan] * 5 + [1.0] * 4)
    assert (found.value, found.low, found.high, found.n) == (1.0, 1.0, math.inf, 7)
    few = quantile([1.0, 2.0, 3.0, 4.0, 5.0])
    assert few.value == 3 and math.isnan(few.low) and math.isnan(few.high)
    assert math.isnan(quantile([math.nan]).value)


def test_mean_and_spread_are_numpys():
    rng = np.random.default_rng(1)
    values = rng.standard_normal((4, 3))  # seeds, steps
    rows = [(seed, step, values[seed, step]) for seed in range(4) for step in range(3)]
    table = pd.DataFrame(rows, columns=["seed", "step", "loss"])
    found = mean_and_spread(table.sample(frac=1, random_state=0), ["step"], ["loss"])
    assert found["step"].tolist() == [0, 1, 2]
    np.testing.assert_allclose(found["loss.mean"], values.mean(axis=0))
    np.testing.assert_allclose(found["loss.spread"], values.std(axis=0, ddof=1))
    assert (found["loss.n"] == 4).all()


def test_geometric_mean_and_spread_are_scipys_and_bands_stay_above_0():
    rng = np.random.default_rng(2)
    table = pd.DataFrame({"step": np.repeat([0, 1], 6), "loss": np.exp(4 * rng.normal(size=12))})
    found = mean_and_spread(table, ["step"], ["loss"], ["loss"])
    for step, own in table.groupby("step")["loss"]:
        mean, spread, n = found.loc[found["step"] == step, "loss.mean":"loss.n"].iloc[0]
        assert mean == pytest.approx(stats.gmean(own), rel=1e-9)
        assert spread == pytest.approx(stats.gstd(own, ddof=1), rel=1e-9)
        assert mean / spread > 0 and own.mean() - own.std() < 0 and n == 6


def test_mean_and_spread_say_which_column_is_missing():
    with pytest.raises(ValueError, match=r"no column \['mls'\]"):
        mean_and_spread(pd.DataFrame({"step": [0]}), ["step"], ["mls"])


@given(
    points=st.lists(
        st.tuples(st.integers(-50, 50), st.integers(-50, 50), st.integers(0, 3)), max_size=20
    )
)
def test_clustered_correlations_are_numpys_on_means_and_on_what_is_left(points):
    x, y, groups = (list(column) for column in zip(*points, strict=True)) if points else ([],) * 3
    found = clustered_pearson(x, y, groups)
    assert repr(found.pooled) == repr(pearson(x, y))  # equal, and nan where that is
    labels = sorted(set(groups))
    members = [[i for i, group in enumerate(groups) if group == one] for one in labels]
    means = np.array([[np.mean(np.take(v, own)) for own in members] for v in (x, y)])
    rest = np.array(
        [
            np.subtract(v, [m[labels.index(g)] for g in groups])
            for v, m in zip((x, y), means, strict=True)
        ]
    )
    for got, pair in ((found.between.value, means), (found.within, rest)):
        if len(pair[0]) > 1 and (pair.std(axis=1) > 1e-9).all():
            assert got == pytest.approx(np.corrcoef(pair)[0, 1], abs=1e-9)


def test_clustered_correlation_of_constant_groups_has_no_inside():
    found = clustered_pearson([0.1] * 3 + [0.7] * 3, [1, 2, 3, 4, 5, 6], [0, 0, 0, 1, 1, 1])
    assert math.isnan(found.within) and found.between.value == 1.0


@pytest.mark.parametrize("missing", [None, math.nan, pd.NA])
def test_clustered_correlation_refuses_a_point_without_a_group(missing):
    """Such a point would count in one of the three correlations and not in the others."""
    with pytest.raises(ValueError, match="1 of 3 points have None or NaN for a group"):
        clustered_pearson([1, 2, 4], [1, 3, 2], ["a", "b", missing])


def test_clustered_correlation_needs_a_group_a_point():
    with pytest.raises(ValueError, match="one group a point, got 1 for 2 points"):
        clustered_pearson([1, 2], [1, 2], ["a"])


@pytest.mark.parametrize("pair", [(math.nan, 1.0), (2.0, math.inf), (-math.inf, math.nan)])
def test_undefined_pairs_count_neither_as_points_nor_as_a_group(pair):
    x, y, groups = [0.0, 1.0, 2.0, 3.0, 5.0], [1.0, 0.0, 3.0, 2.0, 9.0], list("aabbc")
    expected = clustered_pearson(x, y, groups)
    assert (expected.between.n, expected.pooled.n) == (3, 5)
    for group in ("a", "d"):  # of a group, and alone in its own
        found = clustered_pearson([*x, pair[0]], [*y, pair[1]], [*groups, group])
        assert found == expected


def test_mean_and_spread_count_what_they_average():
    table = pd.DataFrame(
        {"step": [0, 0, 0, 5, 5], "mls": [1.0, math.nan, 5.0, math.nan, math.nan]}
    ).assign(loss=1.0)
    found = mean_and_spread(table, ["step"], ["mls", "loss"])
    assert found["mls.n"].tolist() == [2, 0]
    assert found["loss.n"].tolist() == [3, 2]
    assert found["mls.mean"].tolist() == pytest.approx([3.0, math.nan], nan_ok=True)
    assert found["mls.spread"].tolist() == pytest.approx([math.sqrt(8), math.nan], nan_ok=True)
