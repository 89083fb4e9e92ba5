"""Numbers about numbers: correlations with intervals, spread over seeds, paired differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

CONFIDENCE = 0.95  # of every interval


@dataclass(frozen=True)
class Estimate:
    """A number with its confidence interval; ends are NaN where the data allow none."""

    value: float
    low: float
    high: float
    n: int  # pairs or values that it rests on

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval is there and lies on one side of 0."""
        return self.low > 0 or self.high < 0


def _pairs(x, y) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"need two lists of equal length, got shapes {x.shape} and {y.shape}")
    finite = np.isfinite(x) & np.isfinite(y)
    return x[finite], y[finite]


def pearson(x, y) -> Estimate:
    r"""Pearson's correlation with Fisher's 95 % confidence interval.

    .. math:: \rho=\frac{\sum_i(x_i-\bar x)(y_i-\bar y)}
       {\sqrt{\sum_i(x_i-\bar x)^2\sum_i(y_i-\bar y)^2}},\qquad
       \tanh\Big(\operatorname{artanh}\rho\pm\frac{1.96}{\sqrt{n-3}}\Big)

    Args:
        x: ``(n,)`` numbers.
        y: ``(n,)`` numbers; pairs with an infinite or undefined member are left out.

    Returns:
        `Estimate`. The value is NaN for fewer than two pairs or a constant list, the interval
        for fewer than four pairs.

    Raises:
        ValueError: lists of different length.

    >>> pearson([0, 1, 2, 3], [1, 3, 5, 7]).value
    1.0
    >>> pearson([0, 1], [1, 0])
    Estimate(value=-1.0, low=nan, high=nan, n=2)
    """
    x, y = _pairs(x, y)
    n = len(x)
    if n < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Estimate(math.nan, math.nan, math.nan, n)
    found = stats.pearsonr(x, y)
    rho = float(found.statistic)
    if n < 4:
        return Estimate(rho, math.nan, math.nan, n)
    if abs(rho) == 1:
        return Estimate(rho, rho, rho, n)
    low, high = found.confidence_interval(CONFIDENCE)
    return Estimate(rho, float(low), float(high), n)


@dataclass(frozen=True)
class Clustered:
    """A correlation over points that come in groups, such as the seeds of a setting."""

    pooled: Estimate  # over all points; its interval takes them for independent
    between: Estimate  # over the means of the groups
    within: float  # over all points, each group's mean taken away


def clustered_pearson(x, y, groups: Sequence) -> Clustered:
    r"""Pearson's correlation over points, over the means of their groups, and within groups.

    Args:
        x: ``(n,)`` numbers.
        y: ``(n,)`` numbers; pairs with an infinite or undefined member are left out.
        groups: ``(n,)`` labels.

    Returns:
        `Clustered`; ``within`` is NaN where no group has two different points.

    Raises:
        ValueError: lists of different length, or a point without a group.

    >>> both = clustered_pearson([0, 1, 2, 3], [1, 0, 3, 2], ["a", "a", "b", "b"])
    >>> both.pooled.value, both.between.value, both.within
    (0.6, 1.0, -1.0)
    """
    if len(groups) != len(x):
        raise ValueError(f"need one group a point, got {len(groups)} for {len(x)} points")
    if missing := int(pd.isna(pd.Series(list(groups), dtype=object)).sum()):
        raise ValueError(
            f"{missing} of {len(x)} points have None or NaN for a group; leave the points out, or "
            "give each a label"
        )
    table = pd.DataFrame({"x": np.asarray(x, float), "y": np.asarray(y, float), "group": groups})
    table = table[np.isfinite(table[["x", "y"]]).all(axis=1)]
    grouped = table.groupby("group")[["x", "y"]]
    rest = table[["x", "y"]] - grouped.transform("mean")
    rest = rest.mask(grouped.transform("nunique") == 1, 0.0)  # a mean of equals rounds
    means = grouped.mean()
    return Clustered(
        pooled=pearson(table["x"], table["y"]),
        between=pearson(means["x"], means["y"]),
        within=pearson(rest["x"], rest["y"]).value,
    )


def paired_difference(first, second) -> Estimate:
    r"""Mean of ``second - first`` over pairs, such as seeds, with Student's 95 % interval.

    .. math:: \bar d\pm t_{n-1}\,s_d/\sqrt n

    Args:
        first: ``(n,)`` numbers.
        second: ``(n,)`` numbers; pairs with an infinite or undefined member are left out.

    Returns:
        `Estimate`. The value is NaN without pairs, the interval with fewer than two.

    Raises:
        ValueError: lists of different length.

    >>> paired_difference([1.0, 2.0], [1.5, 2.5])
    Estimate(value=0.5, low=0.5, high=0.5, n=2)
    """
    first, second = _pairs(first, second)
    difference = second - first
    n = len(difference)
    if n < 2:
        value = float(difference[0]) if n else math.nan
        return Estimate(value, math.nan, math.nan, n)
    # Of a spread that may be rounding SciPy warns, also where it is 0 (scipy/scipy pull request
    # 15905, from 1.9 on; tests/test_guards.py tells when it does not).
    if np.ptp(difference) == 0:
        return Estimate(*[float(difference[0])] * 3, n)
    low, high = stats.ttest_1samp(difference, 0.0).confidence_interval(CONFIDENCE)
    return Estimate(float(difference.mean()), float(low), float(high), n)


def quantile(values, share: float = 0.5) -> Estimate:
    r"""The value that a share of all draws stays below, with a 95 % interval from the order.

    The value is a member of the list, and so are the ends of the interval: of :math:`n` sorted
    values, :math:`v_{(k)}\le q\le v_{(l)}` misses the quantile :math:`q` of the distribution
    with a probability of at most 2.5 % a side, whatever the distribution, because the number of
    values below :math:`q` is binomial.

    Args:
        values: numbers, independent draws; undefined ones are left out, infinite ones count.
        share: between 0 and 1; 1/2 is the median.

    Returns:
        `Estimate`; of two middle values the lower one. An end is NaN where the list is too short
        to have one, both for fewer than 6 values and the median.

    >>> quantile([*range(1, 101)])
    Estimate(value=50.0, low=40.0, high=61.0, n=100)
    >>> quantile([3, 1, 2]).value
    2.0
    """
    values = np.asarray(values, dtype=float)
    values = np.sort(values[~np.isnan(values)])
    n = len(values)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    tail = (1 - CONFIDENCE) / 2
    # Both places counted from 1: P(fewer than k values lie below q) is at most the tail.
    below = int(stats.binom.ppf(tail, n, share))
    above = int(stats.binom.isf(tail, n, share)) + 1
    return Estimate(
        float(np.quantile(values, share, method="lower")),
        float(values[below - 1]) if below > 0 else math.nan,
        float(values[above - 1]) if above <= n else math.nan,
        n,
    )


def mean_and_spread(
    table: pd.DataFrame,
    by: Sequence[str],
    columns: Sequence[str],
    logarithmic: Sequence[str] = (),
) -> pd.DataFrame:
    r"""Mean and standard deviation of some columns over the rows that agree in others.

    A column that is drawn on a logarithmic axis has the geometric mean and the geometric
    standard deviation, so that a band from mean / spread to mean * spread stays above 0:

    .. math:: \exp\Big(\frac1n\sum_i\log v_i\Big),\qquad
       \exp\Big(\sqrt{\tfrac1{n-1}\textstyle\sum_i(\log v_i-\overline{\log v})^2}\Big)

    Args:
        table: one row a run and step.
        by: columns that name a point of a curve, such as setting and step.
        columns: what is averaged. Undefined entries are left out.
        logarithmic: those of ``columns`` whose mean and spread are geometric; entries that are
            0 or below are left out of them.

    Returns:
        A table with the columns ``by`` and, for each averaged one, ``NAME.mean``,
        ``NAME.spread`` (with n - 1, NaN for one row; a factor where geometric) and ``NAME.n``.

    Raises:
        ValueError: columns that the table lacks.

    >>> table = pd.DataFrame({"step": [0, 0, 5], "loss": [1.0, 3.0, 7.0]})
    >>> print(mean_and_spread(table, ["step"], ["loss"]).to_string(index=False))
     step  loss.mean  loss.spread  loss.n
        0        2.0     1.414214       2
        5        7.0          NaN       1
    >>> mean_and_spread(table, ["step"], ["loss"], ["loss"])["loss.mean"].round(12).tolist()
    [1.732050807569, 7.0]
    """
    missing = [name for name in (*by, *columns) if name not in table.columns]
    if missing:
        raise ValueError(
            f"the table has no column {missing}; it has {list(table.columns)[:12]} ..."
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(table[list(logarithmic)].where(table[list(logarithmic)] > 0))
    grouped = table.assign(**logs).groupby(list(by), sort=True)
    parts = {}
    for name in columns:
        mean, spread = grouped[name].mean(), grouped[name].std(ddof=1)
        parts[f"{name}.mean"] = np.exp(mean) if name in logarithmic else mean
        parts[f"{name}.spread"] = np.exp(spread) if name in logarithmic else spread
        parts[f"{name}.n"] = grouped[name].count()
    return pd.concat(parts, axis=1).copy().reset_index()  # one block, for many columns
