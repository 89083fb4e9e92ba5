"""What every figure from the archive shares: curves through training, their axes and captions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from flatlib.lab.archive import FITTED, Runs

from .style import Look, show
from .views import View, addresses

SETTLED = 1 / 20  # of the training, after which an axis that is cut off at the start begins
EXPLAINED = (
    "Lines are means over seeds and bands one standard deviation, both geometric on logarithmic "
    "axes."
)


@dataclass(frozen=True)
class ArchiveFigure:
    """A figure drawn from archived runs."""

    figure: Figure
    runs: Runs  # that it was drawn from
    numbers: pd.DataFrame  # that were drawn
    alt: str  # what it shows, for readers who cannot see it
    caption: str  # the paper's figure, our runs, what is missing
    views: Mapping[str, View] = field(default_factory=dict)  # of what is drawn, in the archive

    def show(self, number: str = "", says: str = "") -> None:
        """Show it in a notebook, and on the page made from it.

        Args:
            number: of the figure, such as ``"11.2"``.
            says: what is drawn and what one sees: its caption, before that of the program.
        """
        show(
            self.figure,
            self.alt,
            stamp=self.caption,
            caption=says,
            number=number,
            views=addresses(self.views),
        )


def curve(
    ax: Axes, table: pd.DataFrame, column: str, look: Look, name: str, fits: pd.Series
) -> None:
    """Mean over seeds against steps, its band, and a marker at each run's fit step.

    On a logarithmic axis the mean and the spread are those of logarithms.

    Args:
        ax: axes whose scale is set.
        table: one row a run and step, with ``run``, ``step`` and the column.
        column: what is drawn; infinite and undefined entries, and on a logarithmic axis those
            that are 0 or below, are left out.
        look: of the curve.
        name: its label.
        fits: the step at which each run fitted its data, NaN if it never did.
    """
    logarithmic = ax.get_yscale() == "log"
    values = table[column].where(np.isfinite(table[column]))
    if logarithmic:
        values = np.log10(values.where(values > 0))
    values = values.dropna()
    if values.empty:
        return
    by_step = values.groupby(table["step"])
    mean, spread = by_step.mean(), by_step.std()
    means, low, high = (
        10**ends if logarithmic else ends for ends in (mean, mean - spread, mean + spread)
    )
    steps = mean.index.to_numpy()
    color = look.marks["color"]
    ax.plot(steps, means, color=color, linestyle=look.line, linewidth=1.4, label=name)
    if spread.notna().any():
        ax.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
    drawn = table.loc[values.index, "run"]
    at = np.intersect1d(fits[fits.index.isin(drawn)].dropna(), steps)
    ax.plot(
        at,
        means[at],
        **look.marks | {"linestyle": "none"},
        markersize=4.5,
        label="_fit",
    )


def axis(ax: Axes, title: str, logarithmic: bool) -> None:
    """Title and scale of a panel, before anything is drawn on it."""
    ax.set_title(title, fontsize=8.5)
    if logarithmic:
        ax.set_yscale("log", nonpositive="clip")
        ax.yaxis.set_major_formatter(lambda value, _: _power(value, *ax.get_ylim()))
        ax.yaxis.set_minor_formatter(lambda value, _: _between_decades(value, *ax.get_ylim()))
    ax.tick_params(which="both", labelsize=7)
    ax.xaxis.set_major_formatter(_thousands)
    ax.xaxis.set_major_locator(MaxNLocator(4))


def label_axes(axes: np.ndarray) -> None:
    """The name of the step under the lowest panels only, none beside the others."""
    for ax in axes.flat:
        ax.set(xlabel="", ylabel="")
    for ax in axes[-1]:
        ax.set_xlabel("step", fontsize=8.5)


def cut_start(ax: Axes, numbers: pd.DataFrame, column: str) -> None:
    """Fit the axis to the bands after the first ``SETTLED`` of the training.

    Args:
        ax: axes with a linear scale.
        numbers: of `flatlib.lab.statistics.mean_and_spread`, with ``step``.
        column: that is drawn.
    """
    later = numbers[numbers["step"] >= SETTLED * numbers["step"].max()]
    mean, spread = later[f"{column}.mean"], later[f"{column}.spread"].fillna(0.0)
    low, high = (mean - spread).min(), (mean + spread).max()
    margin = 0.05 * (high - low)
    if margin > 0:
        ax.set_ylim(low - margin, high + margin)


def handles(looks: Mapping[str, Look], lines: bool = True) -> list[Line2D]:
    """Entries of a legend: marker of each name, and its line where ``lines`` are drawn."""
    rest = {"linewidth": 1.4, "markersize": 4.5} | ({} if lines else {"linestyle": "none"})
    return [Line2D([], [], **look.marks | rest, label=name) for name, look in looks.items()]


def legend_cell(ax: Axes, looks: Mapping[str, Look], runs: Runs) -> None:
    """The legend, in a cell of its own."""
    ax.set_axis_off()
    title = f"{runs.scale} scale" + (",\nembedded data" if runs.scale == "smoke" else "")
    ax.legend(handles=handles(looks), loc="center", title=title, handlelength=3.5)


def here(runs: Runs, numbers: pd.DataFrame, ours: str = "", how: str = "", settings=None) -> str:
    """What a caption says of our runs and of how they are drawn.

    Args:
        runs: that are drawn.
        numbers: that are drawn.
        ours: what the paper's figure has not.
        how: what is special in the drawing, a sentence.
        settings: that are drawn; by default all of the experiment.
    """
    spreads = numbers[[name for name in numbers.columns if name.endswith(".spread")]]
    means = numbers[[name for name in numbers.columns if name.endswith(".mean")]]
    infinite = int(np.isinf(means).sum().sum())
    sentences = [
        f"Here: {'; '.join(filter(None, (runs.summary(settings), ours)))}.",
        EXPLAINED if spreads.notna().any(axis=None) else "Each line is one seed, without a spread.",
        _fits(runs, settings),
        how,
        f"Not drawn, infinite: {infinite} means." if infinite else "",
        runs.reservations(settings),
    ]
    return " ".join(filter(None, sentences))


def _fits(runs: Runs, settings) -> str:
    """What the markers on the curves are, and how many runs have one."""
    table = runs.on("train").set_index(["lr", "batch_size"])["run"]
    drawn = [s for s in settings or runs.settings if s not in runs.missing]
    fits = runs.fit_steps()[pd.unique(pd.concat([table.loc[[s]] for s in drawn]))]
    fitted = int(fits.notna().sum())
    if not fitted:
        return f"No run reaches training accuracy {FITTED}, so no curve has a marker."
    return (
        f"A marker stands where a run first reaches training accuracy {FITTED}, as {fitted} of "
        f"{len(fits)} runs do."
    )


def ends(numbers: pd.DataFrame, columns: Mapping[str, str]) -> str:
    """First and last mean of each column, as words."""
    words = []
    for column, title in columns.items():
        means = numbers[f"{column}.mean"].dropna()
        if len(means):
            words.append(f"{title} from {means.iloc[0]:.3g} to {means.iloc[-1]:.3g}")
    return ", ".join(words)


def _between_decades(value: float, low: float, high: float) -> str:
    """A tick between powers of ten, where an axis is too short for those alone.

    >>> _between_decades(0.5, 0.1, 9.0), _between_decades(3.0, 0.1, 9.0)
    ('0.5', '')
    >>> _between_decades(3.0, 2.0, 9.0), _between_decades(0.5, 1e-4, 9.0)
    ('3', '')
    """
    leading = value / 10 ** math.floor(math.log10(value))
    digits = (2, 3, 4, 5, 7) if high < 10 * low else (2, 5)
    wanted = any(math.isclose(leading, digit) for digit in digits)
    return f"{value:g}" if wanted and high < 100 * low else ""


def _power(value: float, low: float, high: float) -> str:
    r"""A power of ten, written out on an axis of less than two decades.

    >>> _power(10.0, 3.0, 50.0), _power(0.001, 1e-5, 0.1)
    ('10', '$10^{-3}$')
    """
    return f"{value:g}" if high < 100 * low else f"$10^{{{round(math.log10(value))}}}$"


def _thousands(step: float, _position: int | None = None) -> str:
    """A step as an axis shows it.

    >>> _thousands(600), _thousands(60_000), _thousands(2_500)
    ('600', '60k', '2.5k')
    """
    return f"{step:g}" if abs(step) < 1_000 else f"{step / 1_000:g}k"
