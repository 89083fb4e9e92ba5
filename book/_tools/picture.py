"""Draw the picture of the README and of the front page: how strongly the archived networks
respond to small changes of their inputs, against the limit that theorem (13) sets.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from flatlib.lab import experiments, figures

STATIC = Path(__file__).resolve().parents[1] / "_static"
THEMES = ("light", "dark")
SEEDS = 3  # of each setting: with more the picture is heavier and shows no more
NETWORKS = {  # the paper's MLP: its archived runs, their scale, and how they are drawn
    "trained on 2,000 images": ("correlations-mlp-relu", "laptop", "blue", "o"),
    "trained on 60,000 images": ("mlp-relu-all-images", "paper", "orange", "s"),
}


def measurements() -> dict[str, pd.DataFrame]:
    """The archived measurements on training images, by group.

    Raises:
        ValueError: a response above its limit, which the theorem rules out.
    """
    groups = {}
    for label, (experiment, scale, _, _) in NETWORKS.items():
        table = experiments.load(experiment, scale)
        table = table[(table["samples"] == "train") & (table["seed"] < SEEDS)]
        above = table[table["A"] > table["D"]]
        if len(above):
            worst = above.iloc[0]
            raise ValueError(
                f"{worst['run']} at step {worst['step']}: the response {worst['A']} is above its "
                f"limit {worst['D']}"
            )
        groups[label] = table
    return groups


def draw(groups: dict[str, pd.DataFrame]) -> Figure:
    """Response against limit, with all that the theorem rules out shaded."""
    figure, ax = figures.canvas(height=290)
    everything = pd.concat(groups.values())
    low, high = everything["A"].min() / 1.25, everything["D"].max() * 1.25
    left = everything["D"].min() / 1.25
    diagonal = np.array([left, high])
    ax.fill_between(diagonal, diagonal, high, color=figures.COLORS["muted"], alpha=0.25, lw=0)
    ax.plot(diagonal, diagonal, color=figures.COLORS["ink"], linestyle="-", linewidth=1.2)
    for (label, table), (*_, color, marker) in zip(groups.items(), NETWORKS.values(), strict=True):
        runs = table.groupby("run")
        name = f"{label}: {runs.ngroups} runs, {len(table):,} measurements"
        for _, run in runs:
            ax.plot(run["D"], run["A"], color=figures.COLORS[color], linestyle="-", linewidth=0.9)
        ends = runs.tail(1)
        ax.plot(ends["D"], ends["A"], marker, color=figures.COLORS[color], label=name)
    ax.text(left * 1.08, high / 1.2, "no network can be here", va="top", fontsize=11)
    ax.set(
        xscale="log",
        yscale="log",
        xlim=(left, high),
        ylim=(low, high),
        xlabel="limit: norm of the first weights × root of sharpness × size of 1 / input length",
        ylabel="response of the output",
    )
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    ax.legend(loc="lower right")
    return figure


def drawn(figure: Figure, theme: str) -> str:
    """The picture, its lines to a hundredth of a point: more digits are a fifth of its bytes."""
    return re.sub(
        r' d="[^"]+"',
        lambda line: re.sub(r"(\.\d\d)\d+", r"\1", line[0]),
        figures.to_svg(figure, theme),
    )


def alternative_text(groups: dict[str, pd.DataFrame]) -> str:
    """What the picture shows, in numbers."""
    everything = pd.concat(groups.values())
    ratio = everything["D"] / everything["A"]
    ends = [table.groupby("run")[["A", "D"]].last() for table in groups.values()]
    few, many = (
        f"limits of {end['D'].min():.1f} to {end['D'].max():.1f} and responses of "
        f"{end['A'].min():.2f} to {end['A'].max():.2f}"
        for end in ends
    )
    return (
        f"{len(everything):,} measurements of {everything['run'].nunique()} archived networks "
        "while they learn FashionMNIST: how strongly the output responds to a small change of the "
        "input, against the limit set by sharpness, the norm of the first layer's weights and the "
        "lengths of the inputs, both on logarithmic axes. "
        f"Every response lies {ratio.min():.1f} to {ratio.max():.0f} times below its limit, and "
        "the shaded region above the limit is empty. "
        f"The limit does not fix the response: networks trained on 2,000 images end at {few}, "
        f"networks trained on 60,000 images at {many}."
    )


def main() -> None:
    """Write the picture for light and for dark pages, and print its alternative text."""
    figures.use_style()
    groups = measurements()
    figure = draw(groups)
    for theme in THEMES:
        (STATIC / f"limit-{theme}.svg").write_text(drawn(figure, theme))
    print(alternative_text(groups))


if __name__ == "__main__":
    main()
