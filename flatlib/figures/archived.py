"""The paper's figures, each from the archive by one function, and both sides of every inequality.

Every function takes ``scale``, ``results`` and ``seeds`` as `flatlib.archive.read` does and
returns an `ArchiveFigure`: the drawing, the numbers that were drawn, and a caption and an
alternative text that the program wrote.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flatlib import statistics
from flatlib.archive import Runs, label, read

from .style import COLORS, CYCLE, LINES, POINTS_PER_INCH, WIDTH, canvas, show

PANELS = {  # column: (title, logarithmic axis), in the paper's order; the last is of later versions
    "train_loss": ("train loss", True),
    "test_accuracy": ("test accuracy", False),
    "root_sharpness": ("sharpness √S, Eq. (3)", False),
    "log_volume": ("log volume, Eq. (10)", False),
    "log_volume_top3": ("log volume, largest 3", False),
    "gradient_energy": ("G, Eq. (6), k = 2", False),
    "local_dimensionality": ("local dimensionality", False),
    "mls": ("MLS", False),
}
CHAIN = {"A": "A", "B": "B", "C": "C", "C_prime": "C′", "D": "D"}
STEPS_OF_CHAIN = (("A", "B"), ("B", "C"), ("C", "D"))
TEST_PANELS = {  # of Figure 3
    "train_loss": PANELS["train_loss"],
    "loss_there": ("test loss", True),
    **{
        name: PANELS[name]
        for name in (
            "root_sharpness",
            "log_volume",
            "log_volume_top3",
            "gradient_energy",
            "local_dimensionality",
        )
    },
    "n_wrong": ("misclassified test images", False),
}
PER_SAMPLE = ("5", "N.2", "11", "N.5", "N.6", "N.7", "N.11")  # recorded at the tightest sample
LOGARITHMS = ("11", "12", "21", "24", "N.3", "N.10")  # inequalities between logarithms
GROUPS = {  # inequalities that one figure shows together, by label
    "weights to inputs": ("5", "N.2", "6", "7"),
    "volume": ("11", "12", "21", "24", "N.3"),
    "sensitivity": ("25", "26", "27", "28", "13", "N.4"),
    "layers and dimensions": ("N.5", "N.9", "N.10", "N.11", "N.12"),
    "convolutions": ("N.6", "N.7"),
}
METRICS = {  # of the scatter matrices, in the paper's order
    "local_dimensionality": "dim",
    "root_sharpness": "√S",
    "log_volume": "log vol",
    "log_volume_top3": "log vol 3",
    "gradient_energy": "G",
    "mls": "MLS",
    "test_loss": "test loss",
}
BOUND_METRICS = {"C": "bound C", "D": "bound D"}
MARKERS = ("o", "s", "D", "^", "v")
ARCHIVED_DIGITS = 1e-9  # tables hold ten significant digits


@dataclass(frozen=True)
class ArchiveFigure:
    """A figure drawn from archived runs."""

    figure: Figure
    runs: Runs  # that it was drawn from
    numbers: pd.DataFrame  # that were drawn
    alt: str  # what it shows, for readers who cannot see it
    caption: str  # data, scale, steps, seeds, what is missing

    def show(self) -> None:
        """Show it in a notebook, and on the page made from it."""
        show(self.figure, self.alt, self.caption)


def figure_1(scale: str = "laptop", results: Path | None = None, seeds: Sequence[int] = (1,)):
    """Figure 1: VGG10, batch 20, three learning rates."""
    return through_training("1", read("vgg10-learning-rate", scale, results, seeds))


def figure_2(scale: str = "laptop", results: Path | None = None, seeds: Sequence[int] = (1,)):
    """Figure 2: VGG10, lr 0.1, three batch sizes."""
    return through_training("2", read("vgg10-batch-size", scale, results, seeds))


def figure_3(scale: str = "laptop", results: Path | None = None, seeds: Sequence[int] = (1,)):
    """Figure 3: VGG10 measured on the test set, misclassified samples apart."""
    return on_the_test_set("3", read("vgg10-test-set", scale, results, seeds))


def figure_D4(scale: str = "laptop", results: Path | None = None, seeds: Sequence[int] = (1,)):
    """Figure D.4: the chain A, B, C, D of Eq. (28) for the MLP, and the gaps between them."""
    return chain_of_bounds("D.4", read("mlp-bounds", scale, results, seeds))


def figure_D5(scale: str = "laptop", results: Path | None = None, seeds: Sequence[int] = (1,)):
    """Figure D.5: correlations over VGG10s at the end of training."""
    return correlations("D.5", read("correlations-vgg10", scale, results, seeds), METRICS)


def figure_D6(scale: str = "laptop", results: Path | None = None, seeds: Sequence[int] = (1,)):
    """Figure D.6: correlations over MLPs, with the bounds C and D."""
    runs = read("correlations-mlp", scale, results, seeds)
    return correlations("D.6", runs, METRICS | BOUND_METRICS)


def figure_E7(scale: str = "laptop", results: Path | None = None, seeds: Sequence[int] = (1,)):
    """Figure E.7: MLP, lr 0.1, three batch sizes."""
    return through_training("E.7", read("mlp-batch-size", scale, results, seeds))


def figure_E8(scale: str = "laptop", results: Path | None = None, seeds: Sequence[int] = (1,)):
    """Figure E.8: MLP, batch 20, three learning rates."""
    return through_training("E.8", read("mlp-learning-rate", scale, results, seeds))


def through_training(number: str, runs: Runs) -> ArchiveFigure:
    """Panels of Figures 1, 2, E.7 and E.8: mean over seeds of each setting, and the spread.

    Args:
        number: of the paper's figure.
        runs: their archived runs.

    Returns:
        `ArchiveFigure`; its numbers have, for each setting and step, ``COLUMN.mean``,
        ``COLUMN.spread`` and ``COLUMN.n``.
    """
    numbers = statistics.mean_and_spread(
        runs.on("train"), ["lr", "batch_size", "step"], list(PANELS)
    )
    figure, axes = canvas(3, 3, height=400)
    said = []
    for index, setting in enumerate(runs.settings):
        curve = numbers[(numbers["lr"] == setting[0]) & (numbers["batch_size"] == setting[1])]
        if curve.empty:
            continue
        for ax, column in zip(axes.flat, PANELS, strict=False):
            _line(ax, curve, column, index, label(setting))
        said.append(f"{label(setting)}: {_ends(curve, PANELS)}")
    _dress(axes, PANELS, runs)
    alt = f"{_panels_of(runs)} against steps of training. " + "; ".join(said) + "."
    return ArchiveFigure(figure, runs, numbers, alt, _caption(number, runs, numbers))


def on_the_test_set(number: str, runs: Runs) -> ArchiveFigure:
    """Panels of Figure 3: training, test and misclassified test samples.

    Args:
        number: of the paper's figure.
        runs: archived runs of one setting.

    Returns:
        `ArchiveFigure`; its numbers have, for each ``samples`` and ``step``, ``COLUMN.mean``,
        ``COLUMN.spread`` and ``COLUMN.n``.
    """
    kind, table = runs.table["samples"], runs.table
    n_test = runs.manifests[0]["data"]["n_test"]
    there = table["test_loss"].where(kind == "test", table["samples_loss"])
    table = table.assign(
        train_loss=table["train_loss"].where(kind == "train"),
        loss_there=there.where(kind != "train"),
        n_wrong=((1 - table["test_accuracy"]) * n_test).where(kind == "misclassified"),
    )
    numbers = statistics.mean_and_spread(table, ["samples", "step"], list(TEST_PANELS))
    figure, axes = canvas(3, 3, height=400)
    said = []
    for index, samples in enumerate(("train", "test", "misclassified")):
        curve = numbers[numbers["samples"] == samples]
        for ax, column in zip(axes.flat, TEST_PANELS, strict=False):
            _line(ax, curve, column, index, f"{samples} samples")
        said.append(f"{samples} samples: {_ends(curve, TEST_PANELS)}")
    _dress(axes, TEST_PANELS, runs)
    alt = f"{_panels_of(runs)} against steps of training. " + "; ".join(said) + "."
    wrong = table[kind == "misclassified"]["n"]
    caption = (
        f"{_caption(number, runs, numbers)} Of the misclassified test images "
        f"{wrong.min()} to {wrong.max()} were measured at a checkpoint."
    )
    return ArchiveFigure(figure, runs, numbers, alt, caption)


def chain_of_bounds(number: str, runs: Runs) -> ArchiveFigure:
    """Figure D.4: the terms of Eq. (28), ours beside them, and each step's gap as a factor.

    Args:
        number: of the paper's figure.
        runs: archived runs of one setting.

    Returns:
        `ArchiveFigure`; its numbers have, for each step, mean, spread and n of ``A`` ... ``D``
        and of the factors ``B/A``, ``C/B`` and ``D/C``.
    """
    table = runs.on("train")
    factors = {f"{high}/{low}": table[high] / table[low] for low, high in STEPS_OF_CHAIN}
    table = pd.concat([table, pd.DataFrame(factors)], axis=1)
    numbers = statistics.mean_and_spread(table, ["step"], [*CHAIN, *factors])
    figure, axes = canvas(1, 2, height=230)
    for index, (column, name) in enumerate(CHAIN.items()):
        _line(axes[0], numbers, column, index, name)
    for index, name in enumerate(factors):
        _line(axes[1], numbers, name, index, name.replace("/", " / "))
    axes[1].axhline(1, color=COLORS["muted"], lw=1, linestyle="-")
    _name(axes[0], f"bounds of Eq. (28), {runs.scale} scale", True)
    _name(axes[1], "gap as a factor; equal at 1", True)
    for ax in axes:
        ax.set_xlabel("step")
        ax.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    titles = dict.fromkeys([*CHAIN, *factors], "")
    alt = (
        "Left, the bounds A to D against steps of training; right, the gaps between them as "
        f"factors. At the end, {_ends(numbers, {name: (name, True) for name in titles})}."
    )
    return ArchiveFigure(figure, runs, numbers, alt, _caption(number, runs, numbers))


def inequalities(group: str, runs: Runs, setting: tuple[float, int] = (0.1, 20)) -> ArchiveFigure:
    """Both sides of each inequality of a group, and under them the gap, at every checkpoint.

    The gap is drawn in decades, ``log10(right / left)``, so that 0 is equality and below 0 the
    inequality fails; of inequalities between logarithms it is the difference over ``ln 10``.

    Args:
        group: a key of ``GROUPS``.
        runs: archived runs.
        setting: ``(lr, batch_size)`` of the runs that are drawn.

    Returns:
        `ArchiveFigure`; its numbers have, for each inequality's ``key`` and each ``step``, mean,
        spread and n of ``left``, ``right``, ``gap`` (right minus left) and ``decades``.

    Raises:
        ValueError: an unknown group, or one that was not recorded for this network.
    """
    if group not in GROUPS:
        raise ValueError(f"group must be one of {', '.join(GROUPS)}, got {group!r}")
    names = {k: b for k, b in _recorded(runs).items() if b["label"] in GROUPS[group]}
    if not names:
        raise ValueError(f"no inequality on {group!r} was recorded for {runs.name}")
    sides = both_sides_of(runs, names)
    sides = sides[(sides["lr"] == setting[0]) & (sides["batch_size"] == setting[1])]
    if sides.empty:
        raise ValueError(f"no run of {runs.name} at {runs.scale} scale has {label(setting)}")
    columns = ["left", "right", "gap", "decades"]
    numbers = statistics.mean_and_spread(sides, ["key", "step"], columns)
    figure, axes = _blocks(len(names))
    said = []
    for (top, low), (key, bound) in zip(axes, names.items(), strict=True):
        curve = numbers[numbers["key"] == key]
        _line(top, curve, "left", 1, "left side")
        _line(top, curve, "right", 0, "right side")
        _line(low, curve, "decades", 2, "gap")
        low.axhline(0, color=COLORS["muted"], lw=1, linestyle="-")
        if np.isinf(curve["right.mean"]).all():
            _word(low, "right side infinite: no bound", 7)
        title = textwrap.fill(f"({key}) {in_symbols(bound['name'])}", 32)
        _name(top, title + ("" if bound["proven"] else "\nnot proven here"), _spans_decades(curve))
        _name(low, "", False)
        top.title.set_fontsize(7)
        said.append(f"({key}) gap {_span(curve['decades.mean'])} decades")
    axes[0][0].legend(fontsize=7)
    axes[0][1].set_ylabel("gap, decades", fontsize=7)
    alt = f"Both sides of {len(names)} inequalities against steps, gaps below: {'; '.join(said)}."
    opening = f"Inequalities on {group}, {label(setting)}: both sides, and the gap in decades."
    if any(bound["label"] in PER_SAMPLE for bound in names.values()):
        opening += " Where an inequality is one of each sample, those of the tightest are drawn."
    caption = f"{opening} {_caption('', runs, numbers, [setting])}"
    return ArchiveFigure(figure, runs, numbers, alt, caption)


def correlations(number: str, runs: Runs, metrics: dict[str, str]) -> ArchiveFigure:
    """Scatter matrix over networks at the end of training, with Pearson's correlations.

    All networks are taken at one step, the last that all have reached; a run shorter than half
    of the longest, or one that diverged, is left out and named.

    Args:
        number: of the paper's figure.
        runs: archived runs of many settings and seeds.
        metrics: columns and the names they get.

    Returns:
        `ArchiveFigure`; its numbers have one row a pair: ``first``, ``second``, ``rho`` over
        ``n`` networks, ``between`` with its interval ``low`` to ``high`` over the means of
        ``settings``, and ``within``, each setting's mean taken away.
    """
    points, step, out = runs.at_one_step()
    left_out = f"Left out, too short or diverged: {', '.join(out)}. " if out else ""
    group = list(zip(points["lr"], points["batch_size"], strict=True))
    names = list(metrics)
    side, count = WIDTH / POINTS_PER_INCH, len(names)
    figure = Figure(figsize=(side, side))  # all cells alike: nothing to lay out
    edges = {"left": 0.01, "right": 0.99, "bottom": 0.11, "top": 0.99}
    grid = edges | {"wspace": 0.08, "hspace": 0.08}
    axes = figure.subplots(count, count, gridspec_kw=grid)
    rows = []
    for i, first in enumerate(names):
        for j, second in enumerate(names):
            ax = axes[i, j]
            ax.set(xticks=[], yticks=[])
            if i == j:
                _word(ax, metrics[first], 8.0)
            elif i > j:
                _scatter(ax, points, second, first, runs.settings)
            else:
                rho = statistics.clustered_pearson(points[first], points[second], group)
                rows.append(
                    {"first": first, "second": second, "rho": rho.pooled.value}
                    | {"n": rho.pooled.n, "between": rho.between.value, "low": rho.between.low}
                    | {"high": rho.between.high, "settings": rho.between.n, "within": rho.within}
                )
                _word(ax, _correlation(rho), 5.5, "bold" if rho.between.excludes_zero else "normal")
    numbers = pd.DataFrame(rows)
    handles, texts = axes[1, 0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="lower center", ncols=3, title=f"{runs.scale} scale")
    known = numbers.dropna(subset=["rho"])
    strongest = known.loc[known["rho"].abs().sort_values(ascending=False).index].head(3)
    words = "; ".join(
        f"{metrics[pair.first]} with {metrics[pair.second]} {pair.rho:.2f}"
        for pair in strongest.itertuples()
    )
    alt = (
        f"Scatter matrix; networks: {len(points)}, at step {step:,}. "
        f"Strongest correlations: {words or 'none, there are too few networks'}."
    )
    caption = (
        f"Figure {number} of the paper, from our runs; networks: {len(points)}, at step {step:,}; "
        "above the diagonal Pearson's correlation; under it the 95 % interval of that over the "
        "means of the settings, bold where it excludes 0, and the one within settings, w. "
        f"{left_out}{runs.caption()}"
    )
    return ArchiveFigure(figure, runs, numbers, alt, caption)


def inequality_table(runs: Runs) -> pd.DataFrame:
    """Every recorded inequality over all runs and checkpoints, training and test samples.

    Args:
        runs: archived runs.

    Returns:
        One row an inequality: ``key``, ``label``, ``name``, ``proven``, ``measured`` (how often),
        ``held`` (how often the left side was at most the right one, to the nine digits that
        every table holds), ``least`` and ``last`` gap in decades, the latter the median over
        runs at their last step on training samples.
    """
    names = _recorded(runs)
    sides = both_sides_of(runs, names, ("train", "test"))
    final = sides["step"] == sides.groupby("run")["step"].transform("max")
    rows = []
    for key, bound in names.items():
        own = sides[(sides["key"] == key) & sides["holds"].notna()]
        last = own[final.loc[own.index] & (own["samples"] == "train")]["decades"].median()
        rows.append(
            {"key": key, "label": bound["label"], "name": bound["name"]}
            | {"proven": bound["proven"], "measured": len(own), "held": int(own["holds"].sum())}
            | {"least": own["decades"].min(), "last": last}
        )
    return pd.DataFrame(rows)


def both_sides_of(
    runs: Runs, keys: Sequence[str], samples: Sequence[str] = ("train",)
) -> pd.DataFrame:
    """Both sides and the gap of some inequalities, one row a run, step, set of samples and key.

    Returns:
        Columns ``run``, ``lr``, ``batch_size``, ``seed``, ``step``, ``samples``, ``key``,
        ``left``, ``right``, ``gap`` (right minus left), ``decades`` and ``holds``.
    """
    table = runs.table[runs.table["samples"].isin(samples)]
    names = _recorded(runs)
    parts = []
    for key in keys:
        left, right = table[f"lhs_{key}"], table[f"rhs_{key}"]
        with np.errstate(divide="ignore", invalid="ignore"):
            if names[key]["label"] in LOGARITHMS:
                decades = (right - left) / math.log(10)
            else:
                decades = np.log10(right / left)
            size = np.maximum(left.abs(), right.abs())
            rounding = ARCHIVED_DIGITS * size.where(np.isfinite(size), 0.0)
        known = left.notna() & right.notna()
        part = table[["run", "lr", "batch_size", "seed", "step", "samples"]].assign(
            key=key,
            left=left,
            right=right,
            gap=right - left,
            decades=decades,
            holds=(left <= right + rounding).astype(float).where(known),
        )
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def in_symbols(name: str) -> str:
    """An inequality's name as a figure writes it.

    >>> in_symbols("||grad_x f||_2 by ||T_W||_2 ||delta||_F")
    '‖∇ₓ f‖_2 by ‖T_W‖_2 ‖δ‖_F'
    """
    symbols = {"||": "‖", "grad_x": "∇ₓ", "grad_W": "∇_W", "grad_theta": "∇_θ", "delta": "δ"}
    for word, symbol in symbols.items():
        name = name.replace(word, symbol)
    return name


def _recorded(runs: Runs) -> dict[str, dict]:
    """The inequalities that these runs recorded, by key."""
    return runs.manifests[0]["bounds"]


def _line(ax: Axes, curve: pd.DataFrame, column: str, index: int, name: str) -> None:
    """Mean over seeds, and a band of one standard deviation where there are several."""
    color, line = COLORS[CYCLE[index % 5]], LINES[index % 5]
    finite = curve.where(np.isfinite(curve[f"{column}.mean"]))
    step, mean, spread = (finite[name] for name in ("step", f"{column}.mean", f"{column}.spread"))
    if not mean.notna().any():
        return
    ax.plot(step, mean, color=color, linestyle=line, linewidth=1.4, label=name)
    if spread.notna().any():
        ax.fill_between(step, mean - spread, mean + spread, color=color, alpha=0.2, linewidth=0)


def _name(ax: Axes, title: str, logarithmic: bool) -> None:
    ax.set_title(title, fontsize=8.5)
    if logarithmic:
        ax.set_yscale("log", nonpositive="clip")
        ax.yaxis.set_minor_formatter(lambda value, _: _between_decades(value, *ax.get_ylim()))
    ax.tick_params(which="both", labelsize=7)
    ax.xaxis.set_major_formatter(_thousands)
    ax.xaxis.set_major_locator(MaxNLocator(4))


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


def _thousands(step: float, _position: int | None = None) -> str:
    """A step as an axis shows it.

    >>> _thousands(600), _thousands(60_000), _thousands(2_500)
    ('600', '60k', '2.5k')
    """
    return f"{step:g}" if abs(step) < 1_000 else f"{step / 1_000:g}k"


def _dress(axes: np.ndarray, panels: dict[str, tuple[str, bool]], runs: Runs) -> None:
    """Titles and scales of the panels, and the legend in the cell that is left."""
    for ax, (title, logarithmic) in zip(axes.flat, panels.values(), strict=False):
        _name(ax, title, logarithmic)
    for ax in axes[-1]:
        ax.set_xlabel("step")
    drawn = [ax.get_legend_handles_labels() for ax in axes.flat]
    handles, texts = max(drawn, key=lambda found: len(found[0]))
    last = axes.flat[-1]
    last.set_axis_off()
    title = f"{runs.scale} scale" + (",\nembedded data" if runs.scale == "smoke" else "")
    last.legend(handles, texts, loc="center", title=title, handlelength=3.5)


def _blocks(count: int) -> tuple[Figure, list[tuple[Axes, Axes]]]:
    """Pairs of axes, both sides above and the gap below, three pairs a row."""
    rows = -(-count // 3)
    ratios = [2.2, 1.0] * rows
    figure, axes = canvas(2 * rows, 3, height=180 * rows, height_ratios=ratios, squeeze=False)
    pairs = [(axes[2 * (i // 3), i % 3], axes[2 * (i // 3) + 1, i % 3]) for i in range(3 * rows)]
    for top, low in pairs[count:]:
        top.remove()
        low.remove()
    return figure, pairs[:count]


def _spans_decades(curve: pd.DataFrame) -> bool:
    """Whether both sides are above 0, so that a logarithmic axis shows them."""
    sides = pd.concat([curve["left.mean"], curve["right.mean"]])
    return bool((sides[np.isfinite(sides)] > 0).all()) and not sides.empty


def _scatter(ax: Axes, points: pd.DataFrame, x: str, y: str, settings) -> None:
    for index, (lr, batch_size) in enumerate(settings):
        own = points[(points["lr"] == lr) & (points["batch_size"] == batch_size)]
        if own.empty:
            continue
        ax.scatter(
            own[x],
            own[y],
            s=9,
            color=COLORS[CYCLE[index % 5]],
            marker=MARKERS[index % 5],
            label=label((lr, batch_size)),
        )


def _word(ax: Axes, text: str, size: float, weight: str = "normal") -> None:
    ax.set_axis_off()
    ax.text(
        0.5,
        0.5,
        text,
        ha="center",
        va="center",
        fontsize=size,
        fontweight=weight,
        transform=ax.transAxes,
        in_layout=False,
    )


def _correlation(rho: statistics.Clustered) -> str:
    """A correlation, its interval and that within groups as a cell of the matrix shows them.

    >>> between = statistics.Estimate(0.4, -0.1, 0.8, 5)
    >>> pooled = statistics.Estimate(0.5, 0.2, 0.7, 10)
    >>> _correlation(statistics.Clustered(pooled, between, -0.25))
    '0.50\\n−0.10 to 0.80\\nw −0.25'
    """
    if math.isnan(rho.pooled.value):
        return "–"
    lines = [f"{rho.pooled.value:.2f}"]
    if not math.isnan(rho.between.low):
        lines.append(f"{rho.between.low:.2f} to {rho.between.high:.2f}")
    if not math.isnan(rho.within):
        lines.append(f"w {rho.within:.2f}")
    return "\n".join(lines).replace("-", "−")


def _panels_of(runs: Runs) -> str:
    return f"Panels of training at {runs.scale} scale"


def _ends(curve: pd.DataFrame, panels: dict[str, tuple[str, bool]]) -> str:
    """First and last mean of each panel, as words."""
    words = []
    for column, (title, _) in panels.items():
        means = curve[f"{column}.mean"].dropna()
        if len(means):
            words.append(f"{title} from {means.iloc[0]:.2g} to {means.iloc[-1]:.2g}")
    return ", ".join(words)


def _span(values: pd.Series) -> str:
    finite = values[np.isfinite(values)]
    return f"{finite.min():.2g} to {finite.max():.2g}" if len(finite) else "undefined"


def _caption(number: str, runs: Runs, numbers: pd.DataFrame, settings=None) -> str:
    """Which figure, how it is drawn, and where the numbers come from."""
    spreads = numbers[[name for name in numbers.columns if name.endswith(".spread")]]
    means = numbers[[name for name in numbers.columns if name.endswith(".mean")]]
    sentences = [f"Figure {number} of the paper, from our runs."] if number else []
    sentences.append(runs.caption(settings))
    sentences.append(
        "Lines are means over seeds, bands one standard deviation."
        if spreads.notna().any(axis=None)
        else "Each line is one seed, so there is no spread to show."
    )
    infinite = int(np.isinf(means).sum().sum())
    if infinite:
        sentences.append(f"Not drawn, infinite: {infinite} means.")
    return " ".join(sentences)
