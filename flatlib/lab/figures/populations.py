"""Pictures of populations drawn at random: correlations as a heat map, as dots, and as points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flatlib.lab import claims, verdicts
from flatlib.lab.drawn import BOUNDS, LOSS, MEASURES, OUTCOMES, SIZES, Drawn, at
from flatlib.lab.hypotheses import GIVEN, PLAIN, RESPONSES, SIDES, key, response_key
from flatlib.lab.sentences import OPTIMIZERS, SYMBOLS, effect_words
from flatlib.lab.verdicts import Verdict

from .correlations import SMALL, heat_map, two_digits
from .style import COLORS, POINTS_PER_INCH, WIDTH, canvas
from .verdicts import MARKS, legend

DECIDED = (verdicts.HELD, verdicts.AGAINST)
BAND = {"color": COLORS["grid"], "alpha": 0.6, "lw": 0}  # of the margin


def measures_and_outcomes(
    decided: Mapping[str, Verdict], population: str, condition: str, kinds: Mapping[str, str]
) -> tuple[Figure, str]:
    """Heat maps of the correlations of every measure with every outcome, one a kind.

    Args:
        decided: verdicts on the hypotheses of `flatlib.lab.hypotheses`, by key.
        population: its name.
        condition: ``"loss"`` or ``"step"``.
        kinds: ``"plain"``, ``"given"`` and the titles of their maps.

    Returns:
        The figure, in which a frame marks what is decided after Holm; and an alternative text.
    """
    figure, axes = canvas(1, len(kinds), height=285, sharey=True, squeeze=False)
    said = []
    for ax, (kind, title) in zip(axes.flat, kinds.items(), strict=True):
        cells = {
            (SYMBOLS[m], SYMBOLS[o]): decided.get(key(population, condition, kind, m, o))
            for m in MEASURES
            for o in OUTCOMES
        }
        rho = pd.Series({pair: one.value if one else math.nan for pair, one in cells.items()})
        square = rho.unstack(sort=False)
        heat_map(ax, square, title)
        marked = [pair for pair, one in cells.items() if one and one.word in DECIDED]
        for measure, outcome in marked:
            row, column = square.index.get_loc(measure), square.columns.get_loc(outcome)
            box = plt.Rectangle(
                (column + 0.05, row + 0.05), 0.9, 0.9, fill=False, ec=COLORS["ink"], lw=1.3
            )
            ax.add_patch(box)
        strongest = rho.abs().idxmax() if rho.notna().any() else None
        said.append(
            f"{title}: {len(marked)} of {len(cells)} decided"
            + (f", strongest {' with '.join(strongest)}, {rho[strongest]:.2f}" if strongest else "")
        )
    return figure, f"Heat maps of rank correlations. {'; '.join(said)}."


def dots(
    decided: Mapping[str, Verdict],
    populations: Sequence[str],
    outcome: str,
    kinds: Mapping[tuple[str, str], str],
) -> tuple[Figure, str]:
    """Dot and 95 % interval of each measure's correlation with one outcome.

    Args:
        decided: verdicts on the hypotheses, by key.
        populations: names, a row of panels each.
        outcome: one of `flatlib.lab.drawn.OUTCOMES`.
        kinds: condition and kind, and the title of their panel.

    Returns:
        The figure, and an alternative text with each panel's strongest measure.
    """
    height = 60 + 190 * len(populations)
    figure, axes = canvas(
        len(populations), len(kinds), height=height, sharex=True, sharey=True, squeeze=False
    )
    said, seen = [], []
    for row, name in zip(axes, populations, strict=True):
        for ax, ((condition, kind), title) in zip(row, kinds.items(), strict=True):
            found = [decided.get(key(name, condition, kind, m, outcome)) for m in MEASURES]
            known = {m: one for m, one in zip(MEASURES, found, strict=True) if _shown(one)}
            _dots(ax, [SYMBOLS[m] for m in MEASURES], {SYMBOLS[m]: v for m, v in known.items()})
            ax.set(xlim=(-1.02, 1.02))
            ax.axvspan(-claims.WEAK.size, claims.WEAK.size, **BAND)
            ax.set_title(f"{name}\n{title}" if len(populations) > 1 else title, fontsize=9)
            seen += [one.word for one in known.values()]
            if known:
                top = max(known, key=lambda m: abs(known[m].value))
                said.append(f"{name}, {title}: {SYMBOLS[top]} {two_digits(known[top].value)}")
    axes[-1, len(kinds) // 2].set_xlabel(f"rank correlation with {SYMBOLS[outcome]}", fontsize=9)
    legend(figure, axes[0, 0], seen)
    strongest = "; ".join(said) or "no population has enough networks"
    return figure, f"Correlations as dots with intervals; the strongest: {strongest}."


def _shown(one: Verdict | None) -> bool:
    return one is not None and math.isfinite(one.value)


def _dots(ax: Axes, rows: Sequence[str], known: Mapping[str, Verdict], scale: float = 1) -> None:
    """A verdict's value and interval in each row that has one."""
    for row, name in enumerate(rows):
        if name not in known:
            continue
        one = known[name]
        color, shape = MARKS.get(one.word, ("muted", "o"))
        ends = [scale * one.low, scale * one.high]
        ax.plot(ends, [row, row], color=COLORS[color], lw=1.4, ls="-")
        sns.scatterplot(
            x=[scale * one.value], y=[row], s=34, marker=shape, color=COLORS[color], ax=ax, zorder=3
        )
    ax.axvline(0, color=COLORS["muted"], lw=0.8, ls="-")
    ax.set(ylim=(len(rows) - 0.4, -0.6))
    ax.set_yticks(range(len(rows)), rows)
    ax.tick_params(labelsize=8)


def against_baseline(decided: Mapping[str, Verdict]) -> tuple[Figure, str]:
    """Dot and 95 % interval of each optimizer's change against the baseline, a panel a quantity.

    Args:
        decided: verdicts on `flatlib.lab.hypotheses.comparisons`, by key.

    Returns:
        The figure, whose unit is a percentage of the baseline's mean, and an alternative text.
    """
    panels: dict[str, dict[str, Verdict]] = {}
    for one in decided.values():
        own = panels.setdefault(SYMBOLS[one.claim.quantity], {})
        own[OPTIMIZERS[one.claim.other]] = one
    figure, axes, said = _rows_of_dots(panels, claims.RATIO.size, scale=100)
    for ax in axes:
        ax.xaxis.set_major_locator(MaxNLocator(4))
    axes[len(panels) // 2].set_xlabel("change against SGD, in % of SGD's mean", fontsize=9)
    return figure, f"Changes against SGD as dots with intervals. {said}."


def response_dots(
    decided: Mapping[str, Verdict], population: str, outcomes: Sequence[str]
) -> tuple[Figure, str]:
    """Correlations of measures of response with outcomes, as dots with their 95 % intervals.

    Args:
        decided: verdicts on `flatlib.lab.hypotheses.responses`, by key.
        population: its name.
        outcomes: one panel each.

    Returns:
        The figure and an alternative text with every correlation and its word.
    """
    rows = [
        (SYMBOLS[measure] + addition, kind, measure)
        for measure in RESPONSES
        for kind, addition in ((PLAIN, ""), (GIVEN, ", given"))
    ]
    return _correlation_dots(
        {
            SYMBOLS[outcome]: {
                name: decided[response_key(population, kind, measure, outcome)]
                for name, kind, measure in rows
            }
            for outcome in outcomes
        }
    )


def side_dots(decided: Mapping[str, Verdict], population: str) -> tuple[Figure, str]:
    """Correlations of the two sides of bounds, as dots with their 95 % intervals.

    Args:
        decided: verdicts on `flatlib.lab.hypotheses.responses`, by key.
        population: its name.

    Returns:
        The figure and an alternative text with every correlation and its word.
    """
    rows = {
        f"({bound})": decided[response_key(population, SIDES, f"lhs_{bound}", f"rhs_{bound}")]
        for bound in BOUNDS
    }
    return _correlation_dots({"left with right side": rows})


def _correlation_dots(panels: Mapping[str, Mapping[str, Verdict]]) -> tuple[Figure, str]:
    """By title, verdicts by the name of their row; all panels have the same rows."""
    figure, axes, said = _rows_of_dots(panels, claims.WEAK.size)
    for ax in axes:
        ax.set(xlim=(-1.02, 1.02))
    axes[len(panels) // 2].set_xlabel("rank correlation over networks", fontsize=9)
    return figure, f"Rank correlations as dots with intervals. {said}."


def _rows_of_dots(
    panels: Mapping[str, Mapping[str, Verdict]], margin: float, scale: float = 1
) -> tuple[Figure, np.ndarray, str]:
    """A panel a title, all with the same rows: the figure, its axes and every verdict in words."""
    rows = list(next(iter(panels.values())))
    figure, axes = canvas(1, len(panels), height=110 + 19 * len(rows), sharey=True, squeeze=False)
    said, seen = [], []
    for ax, (title, own) in zip(axes.flat, panels.items(), strict=True):
        known = {name: one for name, one in own.items() if _shown(one)}
        _dots(ax, rows, known, scale)
        ax.axvspan(-scale * margin, scale * margin, **BAND)
        ax.set_title(title, fontsize=9)
        if not known:
            ax.set_xlim(-4 * scale * margin, 4 * scale * margin)
            ax.text(0.5, 0.5, "not measured yet", transform=ax.transAxes, ha="center", size=8)
        seen += [one.word for one in known.values()]
        parts = [f"{name} {effect_words(one)}, {one.word}" for name, one in known.items()]
        said.append(f"{title}: {', '.join(parts) or 'not measured yet'}")
    legend(figure, axes[0, 0], seen)
    return figure, axes[0], "; ".join(said)


def seed_by_seed(
    population: Drawn | None, quantities: Sequence[str], optimizers: Sequence[str]
) -> tuple[Figure, str]:
    """A line a seed from the baseline's network to another optimizer's, a panel a quantity.

    Args:
        population: of networks that share seeds; None where it is not archived.
        quantities: measures and outcomes.
        optimizers: two names, the baseline first.
    """
    figure, axes = canvas(1, len(quantities), height=190)
    said = []
    for ax, name in zip(axes, quantities, strict=True):
        pairs = pd.DataFrame(columns=optimizers, dtype=float)
        if population:
            pairs = population.by_seed(LOSS, name).reindex(columns=optimizers).dropna()
        for _, pair in pairs.iterrows():
            ax.plot([0, 1], pair, "o-", color=COLORS["blue"], ms=4, lw=1.2)
        if pairs.empty:
            ax.text(0.5, 0.5, "not measured yet", transform=ax.transAxes, ha="center", size=8)
            ax.set(yticks=[])
        ax.set_xticks([0, 1], [OPTIMIZERS[each] for each in optimizers])
        ax.set(xlim=(-0.3, 1.3), ylim=None if pairs.empty else (0, 1.1 * pairs.to_numpy().max()))
        ax.set_title(SYMBOLS[name], fontsize=9)
        ax.tick_params(labelsize=8)
        lower = int((pairs[optimizers[1]] < pairs[optimizers[0]]).sum())
        said.append(f"{SYMBOLS[name]} lower in {lower} of {len(pairs)} seeds")
    title = " and ".join(OPTIMIZERS[each] for each in optimizers)
    return figure, f"Networks of the same seed trained by {title}: {', '.join(said)}."


def scatter(
    population: Drawn, names: Sequence[str], conditions: Mapping[str, str]
) -> tuple[Figure, str]:
    """Every pair of some numbers, a point a network, one colour and shape a condition.

    Args:
        population: of networks.
        names: measures and outcomes.
        conditions: by condition, its name in the legend.

    Returns:
        The figure and an alternative text.
    """
    table = population.networks.table
    labels = {n: f"log₁₀ {SYMBOLS[n]}" if n in SIZES else SYMBOLS[n] for n in names}
    parts = [
        pd.DataFrame({labels[n]: table[at(c, n)] for n in names}).assign(condition=title)
        for c, title in conditions.items()
    ]
    points = pd.concat(parts, ignore_index=True)
    points = points[np.isfinite(points[list(labels.values())]).all(axis=1)]
    palette = dict(zip(conditions.values(), (COLORS["blue"], COLORS["orange"]), strict=False))
    markers = dict(zip(conditions.values(), ("o", "s"), strict=False))
    grid = sns.PairGrid(
        points, vars=list(labels.values()), hue="condition", palette=palette, corner=True
    )
    plt.close(grid.figure)  # it is shown by `figures.show` alone
    grid.map_lower(sns.scatterplot, style=points["condition"], markers=markers, s=16, alpha=0.8)
    grid.map_diag(sns.histplot, element="step", fill=False, bins=8)
    grid.add_legend(title="", loc="upper right", fontsize=9)
    side = WIDTH / POINTS_PER_INCH
    grid.figure.set_size_inches(side, side * 0.85)
    for ax in filter(None, grid.axes.flat):
        ax.tick_params(labelsize=SMALL)
        ax.xaxis.label.set_size(8)
        ax.yaxis.label.set_size(8)
        for each in (ax.xaxis, ax.yaxis):
            each.set_major_locator(MaxNLocator(3))
    grid.figure.set_layout_engine("constrained")  # seaborn has laid out the panels in another size
    counts = points["condition"].value_counts()
    shown = ", ".join(f"{counts.get(title, 0)} {title}" for title in conditions.values())
    return grid.figure, f"Scatter plots of {', '.join(labels.values())}: networks {shown}."
