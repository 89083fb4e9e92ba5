"""How much inequalities lose, as distributions: one row an inequality, on a logarithmic axis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from flatlib.lab import statistics

from .style import COLORS

LEAST = 1e-3  # orders of magnitude; what is less stands here, and so does equality
KINDS = {"trained": "blue", "untrained": "orange", "random": "purple"}  # of cases: colour


def slack(ax: Axes, table: pd.DataFrame, equal: Sequence[str] = ()) -> None:
    """Violins of the orders of magnitude that inequalities lose, with median and quartiles.

    A bar across the violins of a row is the 95 % interval of the row's median, over all kinds.

    Args:
        ax: axes to draw on.
        table: one row a case, with ``row`` (the inequality's name), ``kind`` (a key of
            ``KINDS``) and ``lost`` (orders of magnitude; less than ``LEAST`` is drawn as
            ``LEAST``). Infinite losses are not drawn; their share stands at the right end.
            Undefined ones are left out.
        equal: rows that an equality case attains, marked by a diamond at the left end.

    Raises:
        ValueError: a negative loss beyond rounding, which no inequality that holds has.
    """
    table = table.dropna(subset=["lost"])
    if (table["lost"] < -1e-9).any():
        worst = table.loc[table["lost"].idxmin()]
        raise ValueError(f"{worst['row']} loses {worst['lost']:.3g} orders: it does not hold")
    rows, kinds = list(dict.fromkeys(table["row"])), sorted(set(table["kind"]))
    finite = table[np.isfinite(table["lost"])].assign(lost=lambda t: t["lost"].clip(lower=LEAST))
    ax.set_xscale("log")
    sns.violinplot(
        finite,
        x="lost",
        y="row",
        order=rows,
        hue="kind",
        hue_order=kinds,
        palette={kind: COLORS[KINDS[kind]] for kind in kinds},
        saturation=1,
        density_norm="width",
        cut=0,
        width=0.85,
        inner="quart",
        inner_kws={"color": COLORS["ink"], "linewidth": 1},
        linewidth=0.6,
        linecolor=COLORS["ink"],
        alpha=0.6,
        legend="full" if len(kinds) > 1 else False,
        ax=ax,
    )
    _draw_intervals(ax, table, rows)
    at = [rows.index(row) for row in equal]
    ax.scatter(
        [LEAST] * len(at), at, marker="D", s=22, color=COLORS["ink"], zorder=4, clip_on=False
    )
    _write_infinite_shares(ax, table, rows)
    top = max(finite["lost"].max(), 1.0) if len(finite) else 1.0
    ax.set(xlim=(0.8 * LEAST, 1.5 * top), xlabel="orders of magnitude lost", ylabel="")
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.tick_params(axis="both", labelsize=8)
    ax.xaxis.set_major_formatter(_from_least)
    if len(kinds) > 1:
        sns.move_legend(
            ax, "lower right", bbox_to_anchor=(1, 1), ncols=len(kinds), title=None, fontsize=8
        )


def _draw_intervals(ax: Axes, table: pd.DataFrame, rows: list[str]) -> None:
    """The 95 % interval of each row's median; an end at infinity lies beyond the axis."""
    top = 100 * max(table["lost"][np.isfinite(table["lost"])].max(), 1.0)
    found = [statistics.quantile(table["lost"][table["row"] == row]) for row in rows]
    low, high = (
        np.clip(ends, LEAST, top) for ends in zip(*((f.low, f.high) for f in found), strict=True)
    )
    ax.hlines(range(len(rows)), low, high, color=COLORS["ink"], lw=3, zorder=3)


def _write_infinite_shares(ax: Axes, table: pd.DataFrame, rows: list[str]) -> None:
    """At the right end of each row, the share of its cases that lose infinitely much."""
    share = np.isinf(table["lost"]).groupby(table["row"]).mean()
    for place, row in enumerate(rows):
        if share[row] > 0:
            ax.annotate(
                f"∞ {share[row]:.0%}",
                (1.0, place),
                xycoords=("axes fraction", "data"),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
            )


def medians(ax: Axes, table: pd.DataFrame) -> list[str]:
    """Median of what each inequality loses, its 95 % interval, and the middle half.

    The loosest stands first, the interval is the thick line, the middle half the thin one.

    Args:
        ax: axes to draw on.
        table: as of `slack`. An interval that leaves the axis goes on to infinity.

    Returns:
        The rows in the order in which they are drawn: those whose median is finite.
    """
    table = table.dropna(subset=["lost"])
    middle = table.groupby("row")["lost"].agg(_quantile, 50).sort_values(ascending=False)
    rows = middle.index[np.isfinite(middle)].tolist()
    top = max(table["lost"][np.isfinite(table["lost"])].max(), 1.0)
    ax.set_xscale("log")
    sns.pointplot(
        table.assign(lost=table["lost"].clip(LEAST, 100 * top)),
        x="lost",
        y="row",
        order=rows,
        estimator=lambda values: _quantile(values, 50),
        errorbar=lambda values: (_quantile(values, 25), _quantile(values, 75)),
        linestyle="none",
        color=COLORS["blue"],
        markersize=4,
        err_kws={"linewidth": 0.8, "linestyle": "-"},
        ax=ax,
    )
    _draw_intervals(ax, table, rows)
    ax.set(xlim=(0.8 * LEAST, 1.5 * top), xlabel="orders of magnitude lost", ylabel="")
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.tick_params(axis="y", labelsize=7)
    ax.xaxis.set_major_formatter(_from_least)
    return rows


def _quantile(values, percent: float) -> float:
    """The lower of the two neighbours, so that the scale of the axis cannot move it.

    >>> _quantile([4.0, 1.0, 3.0, 2.0], 50)
    2.0
    """
    return float(np.percentile(values, percent, method="lower"))


def _from_least(value: float, _position: int | None = None) -> str:
    """A tick; the left end stands for all that is less.

    >>> _from_least(0.001), _from_least(0.01), _from_least(10.0)
    ('0', '0.01', '10')
    """
    return f"{value:g}" if value > 1.001 * LEAST else "0"
