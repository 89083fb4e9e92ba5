"""The paper's figures, each drawn from the archive: `reproduce` has the table of them.

Every figure is an `ArchiveFigure`: the drawing, the numbers that were drawn, and a caption and
an alternative text that the program wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd

from flatlib.lab import statistics
from flatlib.lab.archive import Runs, label, read
from flatlib.lab.experiments import EXPERIMENTS

from .correlations import WITH_BOUNDS, correlations
from .curves import (
    SETTLED,
    ArchiveFigure,
    axis,
    curve,
    cut_start,
    ends,
    handles,
    here,
    label_axes,
    legend_cell,
)
from .style import CHAIN, COLORS, SAMPLES, SETTINGS, canvas
from .views import QUANTITIES, views

PANELS = {  # column: (title, logarithmic axis), in the paper's order; the last is of later versions
    column: QUANTITIES[column]
    for column in (
        "train_loss",
        "test_accuracy",
        "root_sharpness",
        "log_volume",
        "log_volume_top3",
        "gradient_energy",
        "local_dimensionality",
        "mls",
    )
}
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
    "n_wrong": QUANTITIES["n_wrong"],
}
OURS = ("log_volume_top3", "mls", "n_wrong")  # panels that the paper's first version has not
CUT = ("test_accuracy", "local_dimensionality", "n_wrong")  # panels whose axis leaves the start out
TERMS = {"A": "$A$", "B": "$B$", "C": "$C$", "C_prime": "$C'$", "D": "$D$"}  # of Eqs. (28), (N.4)
STEPS_OF_CHAIN = (("A", "B"), ("B", "C"), ("C", "D"))


@dataclass(frozen=True)
class Original:
    """A figure of the paper."""

    shows: str  # its runs, as far as the paper and its code say
    draw: Callable[[Runs], ArchiveFigure]


def reproduce(
    figure: str,
    scale: str = "laptop",
    results: Path | None = None,
    seeds: Sequence[int] = (1,),
) -> ArchiveFigure:
    """A figure of the paper, from our runs.

    Args:
        figure: as ``flatlib.lab.experiments.EXPERIMENTS`` names it: ``"1"`` ... ``"E.8"`` for the
            reproduction, ``"E.8, tanh"`` for the comparison with another activation.
        scale: ``"smoke"``, ``"laptop"`` or ``"paper"``; the next smaller one where no run at
            this scale is archived, as the caption says then.
        results: the archive; by default that of the checkout.
        seeds: of smoke runs, which are computed where none is archived.

    Returns:
        `ArchiveFigure`, its caption "Paper: ... Here: ...".

    Raises:
        ValueError: a figure that no experiment is for, or an unknown scale.
    """
    names = {experiment.figure: name for name, experiment in EXPERIMENTS.items()}
    if figure not in names:
        raise ValueError(f"figure must be one of {'; '.join(names)}; got {figure!r}")
    number = figure.split(",")[0]
    found = FIGURES[number].draw(read(names[figure], scale, results, seeds))
    word = "Figures" if " and " in number else "Figure"
    caption = f"Paper: {word} {number}, {FIGURES[number].shows}. {found.caption}"
    return replace(found, caption=caption)


def through_training(runs: Runs) -> ArchiveFigure:
    """Panels of Figures 1, 2, E.7 and E.8: mean over seeds of each setting, and the spread.

    Args:
        runs: their archived runs.

    Returns:
        `ArchiveFigure`; its numbers have, for each setting and step, ``COLUMN.mean``,
        ``COLUMN.spread`` and ``COLUMN.n``, geometric for the panels with a logarithmic axis.
    """
    table, fits = runs.on("train"), runs.fit_steps()
    numbers = statistics.mean_and_spread(
        table, ["lr", "batch_size", "step"], list(PANELS), ["train_loss"]
    )
    figure, axes = canvas(3, 3, height=400)
    looks, said = {}, []
    for ax, (title, logarithmic) in zip(axes.flat, PANELS.values(), strict=False):
        axis(ax, title, logarithmic)
    for setting in (each for each in runs.settings if each not in runs.missing):
        own, means = (
            every[(every["lr"] == setting[0]) & (every["batch_size"] == setting[1])]
            for every in (table, numbers)
        )
        looks[label(setting)] = SETTINGS[setting]
        for ax, column in zip(axes.flat, PANELS, strict=False):
            curve(ax, own, column, SETTINGS[setting], label(setting), fits)
        said.append(f"{label(setting)}: {ends(means, _titles(PANELS))}")
    for ax, column in zip(axes.flat, PANELS, strict=False):
        if column in CUT:
            cut_start(ax, numbers, column)
    label_axes(axes)
    legend_cell(axes.flat[-1], looks, runs)
    caption = _here(runs, PANELS, numbers)
    links = views(runs, _titles(PANELS))
    return ArchiveFigure(figure, runs, numbers, _panels_of(runs, said), caption, links)


def on_the_test_set(runs: Runs) -> ArchiveFigure:
    """Panels of Figure 3: training, test and misclassified test samples.

    Args:
        runs: archived runs of one setting.

    Returns:
        `ArchiveFigure`; its numbers have, for each ``samples`` and ``step``, ``COLUMN.mean``,
        ``COLUMN.spread`` and ``COLUMN.n``, geometric for the panels with a logarithmic axis.
    """
    kind, table, fits = runs.table["samples"], runs.table, runs.fit_steps()
    n_test = runs.manifests[0]["data"]["n_test"]
    there = table["test_loss"].where(kind == "test", table["samples_loss"])
    table = table.assign(
        train_loss=table["train_loss"].where(kind == "train"),
        loss_there=there.where(kind != "train"),
        n_wrong=((1 - table["test_accuracy"]) * n_test).where(kind == "misclassified"),
    )
    numbers = statistics.mean_and_spread(
        table, ["samples", "step"], list(TEST_PANELS), ["train_loss", "loss_there"]
    )
    figure, axes = canvas(3, 3, height=400)
    for ax, (title, logarithmic) in zip(axes.flat, TEST_PANELS.values(), strict=False):
        axis(ax, title, logarithmic)
    said = []
    for samples, look in SAMPLES.items():
        own, means = table[kind == samples], numbers[numbers["samples"] == samples]
        for ax, column in zip(axes.flat, TEST_PANELS, strict=False):
            curve(ax, own, column, look, f"{samples} samples", fits)
        said.append(f"{samples} samples: {ends(means, _titles(TEST_PANELS))}")
    for ax, column in zip(axes.flat, TEST_PANELS, strict=False):
        if column in CUT:
            cut_start(ax, numbers, column)
    label_axes(axes)
    looks = {f"{samples} samples": look for samples, look in SAMPLES.items()}
    legend_cell(axes.flat[-1], looks, runs)
    wrong = table[kind == "misclassified"]["n"]
    caption = (
        f"{_here(runs, TEST_PANELS, numbers)} Of the misclassified test images "
        f"{wrong.min()} to {wrong.max()} were measured at a checkpoint."
    )
    links = views(runs, _titles(TEST_PANELS), samples=tuple(SAMPLES))
    return ArchiveFigure(figure, runs, numbers, _panels_of(runs, said), caption, links)


def chain_of_bounds(runs: Runs) -> ArchiveFigure:
    """Figure D.4: the terms of Eq. (28), ours beside them, and each step's gap as a factor.

    Args:
        runs: archived runs of one setting.

    Returns:
        `ArchiveFigure`; its numbers have, for each step, geometric mean, spread and n of ``A``
        ... ``D`` and of the factors ``B/A``, ``C/B`` and ``D/C``.
    """
    table, fits = runs.on("train"), runs.fit_steps()
    factors = {f"{high}/{low}": table[high] / table[low] for low, high in STEPS_OF_CHAIN}
    table = pd.concat([table, pd.DataFrame(factors)], axis=1)
    drawn = [*TERMS, *factors]
    numbers = statistics.mean_and_spread(table, ["step"], drawn, drawn)
    figure, axes = canvas(1, 2, height=230)
    axis(axes[0], "terms of Eq. (28)", True)
    axis(axes[1], "gap as a factor; equal at 1", True)
    for column, name in TERMS.items():
        curve(axes[0], table, column, CHAIN[column], name, fits)
    for name in factors:  # in the look of the upper term
        curve(axes[1], table, name, CHAIN[name[0]], _ratio(name), fits)
    axes[1].axhline(1, color=COLORS["muted"], lw=1, linestyle="-")
    looks = (
        {TERMS[term]: look for term, look in CHAIN.items()},
        {_ratio(name): CHAIN[name[0]] for name in factors},
    )
    for ax, own in zip(axes, looks, strict=True):
        ax.set(xlabel="step", ylabel="")
        ax.legend(handles=handles(own), ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    titles = {name: name.replace("C_prime", "C'") for name in drawn}
    alt = (
        "Left, the bounds A to D against steps of training; right, the gaps between them as "
        f"factors. From first to last checkpoint: {ends(numbers, titles)}."
    )
    ours = "C' and the right panel are ours"
    links = views(runs, titles)
    return ArchiveFigure(figure, runs, numbers, alt, here(runs, numbers, ours), links)


def _titles(panels: Mapping[str, tuple[str, bool]]) -> dict[str, str]:
    """Title of each column's panel."""
    return {column: title for column, (title, _) in panels.items()}


def _here(runs: Runs, panels: Mapping[str, tuple[str, bool]], numbers: pd.DataFrame) -> str:
    """The caption's second part for a figure of panels."""
    ours = " and ".join(f"“{panels[column][0]}”" for column in OURS if column in panels)
    cut = " and ".join(panels[column][0] for column in CUT if column in panels)
    start = f"The axis of {cut} is fitted to what follows the first {SETTLED:.0%} of the steps."
    return here(runs, numbers, f"the panels {ours} are ours", start)


def _panels_of(runs: Runs, said: Sequence[str]) -> str:
    return f"Panels of training at {runs.scale} scale against steps. {'; '.join(said)}."


def _ratio(name: str) -> str:
    """
    >>> _ratio("B/A")
    '$B/A$'
    """
    return f"${name}$"


_MLP = "MLP on all 60,000 images, 750,000 steps and more, four or five seeds"
_VGG10 = "VGG10, 150,000 steps, four or five seeds"
FIGURES = {  # of the paper, by number
    "1": Original(_VGG10, through_training),
    "2": Original(_VGG10, through_training),
    "3": Original(_VGG10, on_the_test_set),
    "D.4": Original("MLP on all 60,000 images, 750,000 steps", chain_of_bounds),
    "D.5": Original("20 VGG10s at the end of training", correlations),
    "D.6": Original("20 MLPs at the end of training", partial(correlations, metrics=WITH_BOUNDS)),
    "E.7": Original(_MLP, through_training),
    "E.8": Original(_MLP, through_training),
    "E.7 and E.8": Original(_MLP, through_training),
}
