"""Correlations over networks at the end of training: Figures D.5 and D.6, and two heat maps."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flatlib.lab import statistics
from flatlib.lab.archive import Runs, label

from .curves import ArchiveFigure, handles
from .style import COLORS, POINTS_PER_INCH, SETTINGS, WIDTH, canvas
from .views import views

METRICS = {  # of the scatter matrices, in the paper's order
    "local_dimensionality": "dim",
    "root_sharpness": "√S",
    "log_volume": "log vol",
    "log_volume_top3": "log vol 3",
    "gradient_energy": "G",
    "mls": "MLS",
    "test_loss": "test loss",
}
WITH_BOUNDS = METRICS | {"C": "bound C", "D": "bound D"}  # of Figure D.6
SMALL = 7.0  # points, the smallest text of a figure


def pairs(runs: Runs, metrics: Mapping[str, str] = METRICS) -> pd.DataFrame:
    """Pearson's correlation of every two metrics, over networks, over settings and within them.

    All networks are taken at one step, the last that all have reached; a run shorter than half
    of the longest, or one that diverged, is left out.

    Args:
        runs: archived runs of many settings and seeds.
        metrics: columns of their table; the names are not used.

    Returns:
        One row a pair: ``first``, ``second``, ``rho`` over ``n`` networks, ``between`` with its
        interval ``low`` to ``high`` over the means of ``settings``, and ``within``, each
        setting's mean taken away.
    """
    points, _, _ = runs.at_one_step()
    group = list(zip(points["lr"], points["batch_size"], strict=True))
    names, rows = list(metrics), []
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            rho = statistics.clustered_pearson(points[first], points[second], group)
            rows.append(
                {"first": first, "second": second, "rho": rho.pooled.value}
                | {"n": rho.pooled.n, "between": rho.between.value, "low": rho.between.low}
                | {"high": rho.between.high, "settings": rho.between.n, "within": rho.within}
            )
    return pd.DataFrame(rows)


def correlations(runs: Runs, metrics: Mapping[str, str] = METRICS) -> ArchiveFigure:
    """Scatter matrix over networks at the end of training, with Pearson's correlations.

    Below the diagonal every network is a small mark and every setting's mean a large one, with
    the line of regression over the means. Above it stand the correlation over the means, its
    interval, and in grey the correlation over all networks.

    Args:
        runs: archived runs of many settings and seeds.
        metrics: columns and the names they get.

    Returns:
        `ArchiveFigure`; its numbers are those of `pairs`.
    """
    points, step, out = runs.at_one_step()
    numbers = pairs(runs, metrics)
    looks = {label(setting): SETTINGS[setting] for setting in runs.settings}
    points = points.assign(
        setting=[label(s) for s in zip(points["lr"], points["batch_size"], strict=True)]
    )
    here = [name for name in looks if name in set(points["setting"])]
    means = points.groupby("setting")[list(metrics)].mean().reset_index()
    marks = {
        "hue": "setting",
        "hue_order": here,
        "palette": {name: COLORS[looks[name].color] for name in here},
        "markers": {name: looks[name].marker for name in here},
    }
    marks |= {"style": "setting", "style_order": here, "edgecolor": "none", "legend": False}
    names = list(metrics)
    figure = Figure()
    axes = figure.subplots(len(names), len(names), sharex="col", sharey="row")
    for i, second in enumerate(names):
        for j, first in enumerate(names[:i]):
            on = {"x": first, "y": second, "ax": axes[i, j]}
            sns.scatterplot(points, s=9, alpha=0.6, **on, **marks)
            _regression(axes[i, j], means, first, second)
            sns.scatterplot(means, s=26, **on, **marks)
    for pair in numbers.itertuples():
        _words(axes[names.index(pair.first), names.index(pair.second)], pair)
    for name, ax in zip(names, np.diag(axes), strict=True):
        ax.set_axis_off()
        _word(ax, 0.5, metrics[name], 8.0)
    _lay_out(axes)
    figure.legend(
        handles=handles({name: looks[name] for name in here}, lines=False),
        loc="lower center",
        ncols=3,
        title=f"{runs.scale} scale",
        fontsize=8,
    )
    alt = _alternative_text(numbers, metrics, step, len(points))
    caption = _caption(runs, step, len(points), out)
    return ArchiveFigure(figure, runs, numbers, alt, caption, views(runs, metrics))


def _alternative_text(
    numbers: pd.DataFrame, metrics: Mapping[str, str], step: int, count: int
) -> str:
    """What the scatter matrix is, and the three strongest correlations between settings."""
    known = numbers.dropna(subset=["between"])
    strongest = known.loc[known["between"].abs().sort_values(ascending=False).index].head(3)
    words = "; ".join(
        f"{metrics[pair.first]} with {metrics[pair.second]} {pair.between:.2f}"
        for pair in strongest.itertuples()
    )
    return (
        f"Scatter matrix; networks: {count}, at step {step:,}. Strongest correlations "
        f"between settings: {words or 'none, there are too few settings'}."
    )


def _caption(runs: Runs, step: int, count: int, out: list[str]) -> str:
    sentences = [
        f"Here: {runs.summary()}; {count} networks at step {step:,}; the column “log vol 3”, the "
        "log volume of the largest 3, the intervals and the means are ours.",
        "Small marks are networks, large ones the means of a setting, lines their regression.",
        "Above the diagonal, Pearson's correlation over the means of the settings, bold where its "
        "95 % interval, below it, excludes 0; in grey that over all networks.",
        f"Left out, too short or diverged: {', '.join(out)}." if out else "",
        runs.reservations(),
    ]
    return " ".join(filter(None, sentences))


def between_and_within(runs: Runs, metrics: Mapping[str, str] = METRICS) -> ArchiveFigure:
    """Two heat maps: correlations over the means of the settings, and within the settings.

    Args:
        runs: archived runs of many settings and seeds.
        metrics: columns and the names they get.

    Returns:
        `ArchiveFigure`; its numbers are those of `pairs`.
    """
    numbers = pairs(runs, metrics)
    names = list(metrics)
    figure, axes = canvas(1, 2, height=235, sharey=True)
    titles = {"between": "between settings", "within": "within settings"}
    for ax, (column, title) in zip(axes, titles.items(), strict=True):
        square = numbers.pivot(index="second", columns="first", values=column)
        square = square.reindex(index=names[1:], columns=names[:-1])
        heat_map(ax, square.rename(index=metrics, columns=metrics), title)
    _, step, _ = runs.at_one_step()
    furthest = (numbers["between"] - numbers["within"]).abs()
    apart = "no pair has both"
    if furthest.notna().any():
        pair = numbers.loc[furthest.idxmax()]
        apart = (
            f"furthest apart are {metrics[pair['first']]} with {metrics[pair['second']]}, "
            f"{pair['between']:.2f} between and {pair['within']:.2f} within settings"
        )
    alt = f"Two heat maps of Pearson's correlations at step {step:,}: {apart}."
    caption = (
        f"Here: {runs.summary()}, at step {step:,}. On the left are correlations over the means of "
        "the settings, on the right those over the networks with each setting's mean taken away. "
        "Blue is positive, orange negative, and the stronger the deeper."
    )
    return ArchiveFigure(figure, runs, numbers, alt, caption, views(runs, metrics))


def heat_map(ax: Axes, square: pd.DataFrame, title: str) -> None:
    """Correlations as colors from -1 to 1 with their two digits, as labelled in the table."""
    sns.heatmap(
        square,
        vmin=-1,
        vmax=1,
        cmap=_signed(),
        annot=square.map(two_digits),
        fmt="",
        annot_kws={"fontsize": SMALL, "color": COLORS["ink"]},
        cbar=False,
        linewidths=1,
        linecolor=COLORS["paper"],
        ax=ax,
    )
    ax.grid(False)
    ax.set_title(title, fontsize=9)
    ax.set(xlabel="", ylabel="")
    ax.tick_params(labelsize=8, length=0)
    ax.tick_params(axis="x", labelrotation=90)


def _signed() -> ListedColormap:
    """From orange over nothing to blue; of named colours, so that both themes have them."""
    strengths = np.linspace(0.0, 0.65, 33)
    orange = [to_rgba(COLORS["orange"], strength) for strength in strengths[:0:-1]]
    blue = [to_rgba(COLORS["blue"], strength) for strength in strengths]
    return ListedColormap([*orange, *blue])


def _regression(ax: Axes, means: pd.DataFrame, x: str, y: str) -> None:
    """The line of least squares over the settings' means, if it is not vertical."""
    if means[[x, y]].notna().all(axis=1).sum() > 1 and np.ptp(means[x].dropna()) > 0:
        line = {"linewidth": 1, "linestyle": "-"}
        sns.regplot(
            means, x=x, y=y, scatter=False, ci=None, color=COLORS["muted"], line_kws=line, ax=ax
        )


def _words(ax: Axes, pair) -> None:
    """One pair's correlations, in a cell of the matrix."""
    ax.set_axis_off()
    if math.isnan(pair.between):
        _word(ax, 0.75, "–", 9.0)
    else:
        decided = pair.low > 0 or pair.high < 0
        _word(ax, 0.78, two_digits(pair.between), 9.0, "bold" if decided else "normal")
    if not math.isnan(pair.low):
        _word(ax, 0.5, f"{two_digits(pair.low)} to {two_digits(pair.high)}", SMALL)
    if not math.isnan(pair.rho):
        _word(ax, 0.22, two_digits(pair.rho), SMALL + 0.5, color="muted")


def two_digits(value: float) -> str:
    """A correlation as figures write it.

    >>> two_digits(0.934), two_digits(-0.2), two_digits(0.999), two_digits(math.nan)
    ('.93', '−.20', '1.00', '–')
    """
    if math.isnan(value):
        return "–"
    return f"{value:.2f}".replace("-", "−").replace("0.", ".", 1)


def _word(
    ax: Axes, height: float, text: str, size: float, weight: str = "normal", color: str = "ink"
) -> None:
    ax.text(
        0.5,
        height,
        text,
        ha="center",
        va="center",
        fontsize=size,
        fontweight=weight,
        color=COLORS[color],
        transform=ax.transAxes,
        in_layout=False,
    )


def _lay_out(axes: np.ndarray) -> None:
    """Cells alike, ticks on the left and below."""
    figure: Figure = axes[0, 0].figure
    side = WIDTH / POINTS_PER_INCH
    figure.set_layout_engine("none")
    figure.set_size_inches(side, side)
    figure.subplots_adjust(left=0.065, right=0.995, bottom=0.17, top=0.995, wspace=0.1, hspace=0.1)
    for ax in axes.flat:
        ax.set(xlabel="", ylabel="")
        ax.use_sticky_edges = False  # the ends of a regression line, where marks would be cut
        ax.margins(0.12)
        ax.tick_params(labelsize=SMALL, length=2, pad=1.5)
        for each in (ax.xaxis, ax.yaxis):
            each.set_major_locator(MaxNLocator(2))
    for ax in axes[-1]:
        ax.tick_params(axis="x", labelrotation=90)
