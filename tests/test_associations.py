"""Correlations over networks and predictions of unseen ones, against slow oracles."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict

from flatlib.lab import associations
from flatlib.lab.associations import Association, Networks, out_of_sample


@pytest.fixture
def few_draws(monkeypatch):
    monkeypatch.setattr(associations, "DRAWS", 60)


def networks(n=30, units=None, seed=0) -> Networks:
    """Columns a, b, c that go with each other, ties in c, and a constant."""
    random = np.random.default_rng(seed)
    a = random.normal(size=n)
    c = np.round(a + random.normal(size=n))
    table = pd.DataFrame({"a": a, "b": np.exp(c + random.normal(size=n)), "c": c, "k": 1.0})
    return Networks(table, units)


def by_hand(table, x, y, given, how, rows):
    """The correlation of residuals, of the rows that were drawn."""
    values = table[[x, y, *given]].to_numpy()[rows]
    if how == "spearman":
        values = stats.rankdata(values, axis=0)
    design = np.column_stack([np.ones(len(values)), values[:, 2:]])
    left = values[:, :2] - design @ np.linalg.lstsq(design, values[:, :2])[0]
    return np.arctanh(np.corrcoef(left.T)[0, 1])


@pytest.mark.parametrize("how", ["spearman", "pearson"])
@pytest.mark.parametrize("given", [(), ("c",), ("c", "k", "c")])
def test_a_correlation_and_its_draws_are_those_of_the_drawn_rows(how, given, few_draws):
    """Every draw by hand: its rows repeated, ranked, and freed of what is held fixed."""
    found = networks()
    one = found.correlation("a", "b", given, how)
    distinct = ["c"] if given else []
    weights = associations._draws(np.arange(30)).astype(int)
    z = [
        by_hand(found.table, "a", "b", distinct, how, np.repeat(np.arange(30), w)) for w in weights
    ]
    assert one.z == pytest.approx(z[0], rel=1e-9)
    assert one.error == pytest.approx(np.std(z[1:], ddof=1), rel=1e-9)
    assert (one.freedom, one.n) == (28 - len(distinct), 30)
    if not given:
        oracle = {"spearman": stats.spearmanr, "pearson": stats.pearsonr}[how]
        assert one.value == pytest.approx(oracle(found.table.a, found.table.b).statistic)


@pytest.mark.parametrize("r", [0.9, 0.995])
def test_the_interval_of_few_networks_covers_a_high_correlation_and_decides_it(r):
    """Of the draws of 20 networks in almost one order, some are in the very order: z infinite."""
    generator, n, runs = np.random.default_rng(5), 20, 40
    truth = 6 / math.pi * math.asin(r / 2)  # Spearman's correlation of Gaussian numbers
    covered = decided = 0
    for _ in range(runs):
        x, noise = generator.normal(size=(2, n))
        table = pd.DataFrame({"x": x, "y": r * x + math.sqrt(1 - r * r) * noise})
        low, high = Networks(table).correlation("x", "y").interval(0.05)
        covered, decided = covered + (low <= truth <= high), decided + (low > 0)
    assert covered >= 35 and decided == runs


def test_the_interval_is_students_around_z_and_p_fits_it():
    one = Association(z=0.5, error=0.2, freedom=30, n=32)
    low, high = one.interval(0.05)
    half = stats.t.ppf(0.975, 30) * 0.2
    assert (low, high) == (pytest.approx(math.tanh(0.5 - half)), math.tanh(0.5 + half))
    assert one.interval(one.p())[0] == pytest.approx(0, abs=1e-12)
    assert one.p(0.5) == 1.0
    below_the_upper, above_the_lower = stats.t.cdf([-2.0, -7.0], 30)  # margins at -0.9 and 0.9
    assert one.equivalence(0.9) == pytest.approx(max(below_the_upper, above_the_lower))
    assert Association(z=-0.5, error=0.2, freedom=30, n=32).equivalence(0.9) == one.equivalence(0.9)
    difference = Association(z=-2.0, error=0.5, freedom=30, n=32, is_difference=True)
    assert difference.value == -2.0 and difference.interval(0.05)[0] < -3


def test_a_draw_takes_all_networks_of_a_unit(few_draws):
    """Twins add nothing: the interval is that of the units, and not of twice as many rows."""
    single = networks(20)
    units = np.repeat(np.arange(20), 2)
    table = single.table.loc[units].reset_index(drop=True)
    twins, rows = Networks(table, units), Networks(table)
    one, two, wrong = (each.correlation("a", "b") for each in (single, twins, rows))
    assert (two.n, two.freedom) == (20, 18) and wrong.n == 40
    assert two.value == pytest.approx(one.value)
    assert two.error == pytest.approx(one.error) and wrong.error < 0.85 * one.error


def test_two_correlations_are_compared_draw_by_draw(few_draws):
    """The same column twice differs from itself by nothing, with certainty."""
    found = networks()
    table = found.table.assign(again=found.table.a * 3 + 1)
    same = Networks(table).difference(("a", "b"), ("again", "b"))
    assert (same.z, same.error, same.p()) == (pytest.approx(0), pytest.approx(0), 1.0)
    other = Networks(table).difference(("a", "b"), ("c", "b"))
    each = [Networks(table).correlation(name, "b").z for name in "ac"]
    assert other.z == pytest.approx(each[0] - each[1]) and other.is_difference


def test_what_is_undefined_is_left_out_for_the_columns_concerned_alone(few_draws):
    found = networks()
    table = found.table.assign(d=found.table.a**2)
    table.loc[:4, "d"] = [np.nan, np.inf, -np.inf, np.nan, np.nan]
    holed = Networks(table)
    assert holed.correlation("a", "b").n == 30
    part = holed.correlation("d", "b")
    oracle = stats.spearmanr(table.d[5:], table.b[5:]).statistic
    assert (part.n, part.value) == (25, pytest.approx(oracle))
    with pytest.raises(ValueError, match="has no column 'e'; it has"):
        holed.correlation("a", "e")
    with pytest.raises(ValueError, match="got 'kendall'"):
        holed.correlation("a", "b", how="kendall")
    with pytest.raises(ValueError, match="got 3 for 30 networks"):
        Networks(table, [1, 2, 3])


def test_a_column_that_does_not_vary_has_no_correlation(few_draws):
    found = networks()
    assert math.isnan(found.correlation("a", "k").value)
    table = found.table.assign(twin=2 * found.table.a)
    assert math.isnan(Networks(table).correlation("a", "b", ["twin"]).value)
    with pytest.raises(ValueError, match="column 'a' is held fixed"):
        found.correlation("a", "b", ["a"])
    empty = Networks(found.table.assign(e=np.nan)).correlation("a", "e")
    assert (empty.n, math.isnan(empty.value), math.isnan(empty.p())) == (0, True, True)
    few = Networks(found.table.head(3)).correlation("a", "b")
    assert few.n == 3 and math.isfinite(few.value) == (few.freedom == 1)


@pytest.mark.parametrize("units", [np.arange(24), np.arange(24) // 3])
def test_out_of_sample_is_scikit_learns_leaving_units_out(units):
    random = np.random.default_rng(1)
    X = random.normal(size=(24, 3))
    y = X[:, 0] + random.normal(size=24)
    seen = cross_val_predict(LinearRegression(), X, y, cv=LeaveOneGroupOut(), groups=units)
    means = np.array([y[units != unit].mean() for unit in units])
    oracle = 1 - np.square(y - seen).sum() / np.square(y - means).sum()
    assert out_of_sample(X, y, units) == pytest.approx(oracle, rel=1e-9)
    constant = np.column_stack([X, np.ones(24)])
    assert out_of_sample(constant, y, units) == pytest.approx(oracle, rel=1e-9)
    fit = LinearRegression().fit(X, y).score(X, y)
    assert out_of_sample(X, y, units) < fit - 0.05


def test_noise_predicts_nothing_of_unseen_networks():
    """In the sample it would: with 8 columns of noise and 24 networks R2 is 8/23 on average."""
    random = np.random.default_rng(2)
    found = [out_of_sample(random.normal(size=(24, 8)), random.normal(size=24)) for _ in range(50)]
    assert np.mean(found) < -0.2 and max(found) < 0.5


def test_a_perfect_fit_and_too_few_networks():
    x = np.arange(10.0)
    assert out_of_sample(x[:, None], 3 * x - 1) == 1.0
    holed = np.where(x == 4, np.nan, x)
    assert out_of_sample(holed[:, None], 3 * x - 1) == 1.0
    assert math.isnan(out_of_sample(x[:3, None], x[:3] ** 2))
    assert math.isnan(out_of_sample(x[:, None], np.ones(10)))
    with pytest.raises(ValueError, match=r"got \(10,\), \(10,\)"):
        out_of_sample(x, x)
