"""What goes with what over networks: correlations, plain and partial, and how well one predicts.

The unit is what was drawn independently, a network with its seed. Intervals come from draws of
units with replacement: every draw takes a unit with all of its rows and columns, so two
correlations over the same networks are compared draw by draw. No variable needs a distribution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
from scipy import linalg, special

DRAWS = 1_000  # of units, behind every interval
DRAW_SEED = 0
SPEARMAN, PEARSON = "spearman", "pearson"
NEAREST_ONE = 1 - 1e-9  # a correlation of 1 has no finite z
NOTHING_LEFT = 1e-12  # of a variance, relative: what remains of a column that others determine


@dataclass(frozen=True)
class Association:
    r"""A correlation with what its interval needs, or a difference of two as Fisher's z.

    .. math:: \tanh\big(\operatorname{artanh}\rho\pm t_{n-2-k}\,s\big)

    where s is the standard deviation of :math:`\operatorname{artanh}\rho` over the draws and k
    the number of columns that are held fixed.

    >>> one = Association(z=0.0, error=1.0, freedom=1e9, n=40)
    >>> low, high = one.interval(0.05)
    >>> round(math.atanh(high), 2), low == -high, one.p()
    (1.96, True, 1.0)
    """

    z: float  # Fisher's
    error: float  # its standard deviation over the draws
    freedom: float  # degrees of freedom
    n: int  # units
    is_difference: bool = False  # of two correlations, which has no correlation of its own

    @property
    def value(self) -> float:
        """The correlation; of a difference that of Fisher's z."""
        return self._out(self.z)

    def interval(self, level: float) -> tuple[float, float]:
        """The ends of the interval that misses the truth with this probability."""
        half = float(special.stdtrit(self.freedom, 1 - level / 2)) * self.error
        return self._out(self.z - half), self._out(self.z + half)

    def p(self, z: float = 0.0) -> float:
        """Of the hypothesis that the truth, as Fisher's z, is this one; two-sided."""
        return 2 * self.tail(-abs(self.z - z), 0.0)

    def tail(self, z: float, null: float) -> float:
        """Probability of a z below this one where the truth is ``null``."""
        if self.error == 0:
            return float(z >= null) if z != null else 0.5
        return float(special.stdtr(self.freedom, (z - null) / self.error))

    def equivalence(self, margin: float) -> float:
        """p of two one-sided tests that z lies between -margin and margin."""
        below, above = self.tail(self.z, margin), self.tail(-self.z, margin)
        return max(below, above)

    def _out(self, z: float) -> float:
        return z if self.is_difference else math.tanh(z)


def undecided(n: int) -> Association:
    """The association of too few units, or of a column that is constant."""
    return Association(math.nan, math.nan, math.nan, n)


@dataclass(frozen=True)
class Networks:
    """Columns over networks, and the draws that all statistics of them share.

    Args:
        table: one row a network; columns are numbers, NaN or infinite where undefined.
        units: one label a row; rows of one label are drawn together. By default each row is one.
    """

    table: pd.DataFrame
    units: Sequence | None = None
    _found: dict = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self):
        n = len(self.table)
        if self.units is not None and len(self.units) != n:
            raise ValueError(f"need one unit a network, got {len(self.units)} for {n} networks")

    def correlation(
        self, x: str, y: str, given: Sequence[str] = (), how: str = SPEARMAN
    ) -> Association:
        r"""The correlation of two columns over networks, others held fixed if there are any.

        .. math:: \rho_{xy\cdot g}=\frac{c_{xy}-c_{xg}C_{gg}^{-1}c_{gy}}
           {\sqrt{(c_{xx}-c_{xg}C_{gg}^{-1}c_{gx})(c_{yy}-c_{yg}C_{gg}^{-1}c_{gy})}}

        C are covariances, of ranks for Spearman's correlation.

        Args:
            x: a column.
            y: another.
            given: columns that are held fixed. One that does not vary changes nothing.
            how: ``"spearman"`` or ``"pearson"``.

        Returns:
            `Association` over the networks for which all columns are defined; NaN if they are
            too few or one does not vary beyond what the columns held fixed determine.

        Raises:
            ValueError: a column that the table lacks or that is held fixed, or another kind of
                correlation.

        >>> table = pd.DataFrame({"lr": range(30)}) % 10
        >>> table = table.assign(S=table.lr + np.sin(range(30)), gap=table.lr + np.cos(range(30)))
        >>> networks = Networks(table)
        >>> round(networks.correlation("S", "gap", how="pearson").value, 2)
        0.94
        >>> round(networks.correlation("S", "gap", ["lr"], how="pearson").value, 2)
        0.03
        """
        z, rows, fixed = self._z([(x, y)], given, how)
        return self._association(z[:, 0], rows, fixed)

    def difference(
        self,
        first: tuple[str, str],
        second: tuple[str, str],
        given: Sequence[str] = (),
        how: str = SPEARMAN,
    ) -> Association:
        """Fisher's z of the first pair's correlation minus that of the second's.

        Args:
            first: two columns.
            second: two columns.
            given: as for `correlation`.
            how: as for `correlation`.
        """
        z, rows, fixed = self._z([first, second], given, how)
        return self._association(z[:, 0] - z[:, 1], rows, fixed, is_difference=True)

    def _association(self, z, rows, fixed, is_difference=False) -> Association:
        n = len(np.unique(self._labels(rows)))
        freedom = n - 2 - fixed
        if freedom < 1 or not math.isfinite(z[0]):
            return undecided(n)
        drawn = z[1:][np.isfinite(z[1:])]
        if len(drawn) < DRAWS / 2:  # draws of few networks can leave a column without variance
            return undecided(n)
        error = float(drawn.std(ddof=1))
        return Association(float(z[0]), error, freedom, n, is_difference)

    def _z(self, pairs, given, how) -> tuple[np.ndarray, np.ndarray, int]:
        """Fisher's z of each pair, ``(1 + DRAWS, pairs)``; the rows behind; columns held fixed."""
        names = list(dict.fromkeys([*given, *(name for pair in pairs for name in pair)]))
        absent = [name for name in names if name not in self._places]
        if absent:
            raise ValueError(
                f"the table has no column {absent[0]!r}; it has {list(self.table.columns)[:12]} ..."
            )
        both = [name for pair in pairs for name in pair if name in given]
        if both:
            raise ValueError(f"column {both[0]!r} is held fixed and has no correlation then")
        if how not in (SPEARMAN, PEARSON):
            raise ValueError(f"how must be {SPEARMAN!r} or {PEARSON!r}, got {how!r}")
        rows = self._defined[:, [self._places[name] for name in names]].all(axis=1)
        if not rows.any():
            return np.full((1 + DRAWS, len(pairs)), np.nan), rows, 0
        columns, C = self._covariances(rows, how)
        at = np.array([columns[name] for name in names])
        C = C[:, at[:, None], at]
        n_given = len(dict.fromkeys(given))
        C, fixed = _hold_fixed(C, n_given)
        left = [names.index(name) - n_given for pair in pairs for name in pair]
        first, second = left[::2], left[1::2]
        variance = np.einsum("bkk->bk", C)
        with np.errstate(divide="ignore", invalid="ignore"):
            r = C[:, first, second] / np.sqrt(variance[:, first] * variance[:, second])
        nearest = np.full((len(r), 1), NEAREST_ONE)
        if how == SPEARMAN:
            nearest[1:] = _nearest_one(int(rows.sum()))
        return np.arctanh(np.clip(r, -nearest, nearest)), rows, fixed

    @cached_property
    def _values(self) -> np.ndarray:
        return self.table.to_numpy(dtype=float)

    @cached_property
    def _defined(self) -> np.ndarray:
        return np.isfinite(self._values)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.table)}

    def _covariances(self, rows: np.ndarray, how: str) -> tuple[dict[str, int], np.ndarray]:
        """Of all columns that are defined on these rows: over the rows, then over each draw.

        Returns:
            The place of each such column, and ``(1 + DRAWS, columns, columns)``.
        """
        key = (rows.tobytes(), how)
        if key not in self._found:
            whole = self._defined[rows].all(axis=0)
            weights = _draws(self._labels(rows))
            columns = [name for name, kept in zip(self.table, whole, strict=True) if kept]
            places = {name: place for place, name in enumerate(columns)}
            self._found[key] = places, _covariance(self._values[rows][:, whole], weights, how)
        return self._found[key]

    def _labels(self, rows: np.ndarray) -> np.ndarray:
        units = np.arange(len(rows)) if self.units is None else np.asarray(self.units)
        return units[rows]


def _nearest_one(n: int) -> float:
    r"""How near to 1 a draw's correlation of n ranks is taken: half of the smallest step below 1.

    Two neighbours that change places lower Spearman's correlation by :math:`12/(n^3-n)`. Draws of
    few networks in almost the same order often have them in the same order; a z that stands for
    an infinite one would then be most of the standard deviation.

    >>> round(_nearest_one(20), 5)
    0.99925
    """
    return 1 - 6 / (n**3 - n) if n > 2 else NEAREST_ONE


def _draws(units: np.ndarray) -> np.ndarray:
    """How often each row counts: once each, then in each draw of units, ``(1 + DRAWS, rows)``."""
    labels, unit = np.unique(units, return_inverse=True)
    n = len(labels)
    drawn = np.random.default_rng(DRAW_SEED).multinomial(n, np.full(n, 1 / n), size=DRAWS)
    return np.concatenate([np.ones((1, len(units))), drawn[:, unit].astype(float)])


def _ranks(column: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Rank of each row in each draw, where a row counts as often as it was drawn; ties share.

    Args:
        column: ``(n,)``.
        weights: ``(draws, n)``.

    >>> _ranks(np.array([5.0, 1.0, 5.0]), np.array([[1.0, 1.0, 1.0], [2.0, 0.0, 1.0]])).tolist()
    [[2.5, 1.0, 2.5], [2.0, 0.5, 2.0]]
    """
    order = np.argsort(column)
    ordered = column[order]
    below = np.zeros((len(weights), len(column) + 1))
    np.cumsum(weights[:, order], axis=1, out=below[:, 1:])
    less, at_most = (np.searchsorted(ordered, column, side) for side in ("left", "right"))
    return (below[:, less] + below[:, at_most] + 1) / 2


def _covariance(values: np.ndarray, weights: np.ndarray, how: str) -> np.ndarray:
    """Covariances of all columns in each draw, ``(draws, columns, columns)``, of unit variance."""
    scale = values.std(axis=0)
    values = (values - values.mean(axis=0)) / np.where(scale > 0, scale, 1.0)
    C = np.empty((len(weights), values.shape[1], values.shape[1]))
    total = weights.sum(axis=1)
    for part in np.array_split(np.arange(len(weights)), -(-len(weights) // 200)):
        w = weights[part]
        x = np.broadcast_to(values, (len(part), *values.shape))
        if how == SPEARMAN:
            x = np.stack([_ranks(column, w) for column in values.T], axis=-1)
        mean = (w[:, None] @ x) / total[part, None, None]
        centred = (x - mean) * np.sqrt(w)[:, :, None]
        C[part] = centred.swapaxes(1, 2) @ centred / total[part, None, None]
    return C


def _hold_fixed(C: np.ndarray, k: int) -> tuple[np.ndarray, int]:
    """What the first k columns leave of the covariances of the others, and how many they are.

    One column at a time: of the rest stays what it does not determine. A column that does not
    vary, or that those before it determine, is passed over.
    """
    variances, fixed = np.einsum("bkk->bk", C).copy(), 0
    for i in range(k):
        left = C[:, i, i] > NOTHING_LEFT * variances[:, i]
        pivot = np.where(left, C[:, i, i], np.inf)
        C = C - C[:, :, i, None] * C[:, i, None, :] / pivot[:, None, None]
        fixed += int(left[0])
    C, variances = C[:, k:, k:], variances[:, k:]
    nothing = np.einsum("bkk->bk", C) <= NOTHING_LEFT * variances
    return np.where(nothing[:, :, None] | nothing[:, None, :], np.nan, C), fixed


def out_of_sample(
    features: np.ndarray | pd.DataFrame, outcome, units: Sequence | None = None
) -> float:
    r"""How much of an outcome least squares predicts of networks that the fit has not seen.

    .. math:: R^2=1-\frac{\sum_i(y_i-\hat y_i)^2}{\sum_i(y_i-\bar y_i)^2}

    The prediction of network i and the mean that it is compared with both come from the networks
    of all other units. 1 is perfect; 0 is no better than the mean; below 0 is worse.

    Args:
        features: ``(n, p)`` numbers; a column that does not vary changes nothing.
        outcome: ``(n,)`` numbers.
        units: as for `Networks`.

    Returns:
        The share; NaN with fewer units than p + 3, or an outcome that does not vary. Networks
        with an undefined member are left out.

    Raises:
        ValueError: lists of different length.

    >>> x = np.arange(9.0)[:, None]
    >>> out_of_sample(x, 2 * x[:, 0] + 1)
    1.0
    >>> bool(out_of_sample(x, [0, 1] * 4 + [0]) < 0)
    True
    """
    X, y = np.asarray(features, dtype=float), np.asarray(outcome, dtype=float)
    unit = np.arange(len(y)) if units is None else np.asarray(units)
    if X.ndim != 2 or not len(X) == len(y) == len(unit):
        raise ValueError(
            f"need (n, p) features, n outcomes and n units, got {X.shape}, {y.shape}, {unit.shape}"
        )
    rows = np.isfinite(X).all(axis=1) & np.isfinite(y)
    X, y, unit = X[rows], y[rows], unit[rows]
    X = X[:, np.ptp(X, axis=0) > 0] if len(X) else X
    if len(np.unique(unit)) < X.shape[1] + 3 or np.ptp(y) == 0:
        return math.nan
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    one = np.ones((len(y), 1))
    missed, spread = (
        float(np.square(_unseen(design, y, unit)).sum()) for design in (np.hstack([one, X]), one)
    )
    return float(1 - missed / spread) if missed > NOTHING_LEFT * spread else 1.0


def _unseen(design: np.ndarray, y: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Residual of each row under the fit to all other units.

    With residuals e and the hat matrix H of one fit to all rows, those of a unit that was left
    out are :math:`(1-H_{uu})^{-1}e_u`.
    """
    basis = linalg.orth(design)
    residual = y - basis @ (basis.T @ y)
    found = np.empty_like(residual)
    for label in np.unique(unit):
        own = unit == label
        seen = np.eye(int(own.sum())) - basis[own] @ basis[own].T
        found[own] = linalg.lstsq(seen, residual[own])[0]
    return found
