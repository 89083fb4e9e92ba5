"""What the build makes for each explorable: its numbers and its still picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

import flatlib
from flatlib import bounds, toys
from flatlib.lab import figures


@dataclass(frozen=True)
class Made:
    """An explorable as the build hands it to a page."""

    numbers: dict  # that its script needs, as JSON can hold them
    figure: Figure
    alt: str
    caption: str


def example() -> dict:
    """The running example as nested lists."""
    net, x, _ = toys.running_example()
    W_1, W_2 = (parameter.tolist() for parameter in net.parameters())
    return {"W_1": W_1, "W_2": W_2, "x": x.tolist()}


LARGEST = 4.0  # factor of the slider, and the inverse of the smallest one


def rescaling() -> Made:
    """The running example with W_1 times c and W_2 over c."""
    net, x, _ = toys.running_example()
    factors = np.geomspace(1 / LARGEST, LARGEST, 33)
    twins = [flatlib.measure(toys.rescaled(net, (c, 1 / c)), x) for c in factors]
    S = np.array([twin.sharpness for twin in twins])
    chains = [bounds.chain(twin) for twin in twins]
    figure, axes = figures.canvas(1, 2, height=210)
    axes[0].plot(factors, S, "-", color=figures.COLORS["ink"])
    for name in "ABCD":
        look = figures.CHAIN[name]
        values = [getattr(chain, name) for chain in chains]
        axes[1].plot(
            factors, values, linestyle=look.line, color=figures.COLORS[look.color], label=name
        )
    for ax, label in zip(axes, ("sharpness S", "terms of the chain"), strict=True):
        ax.set(xscale="log", yscale="log", xlabel="factor c", ylabel=label)
        ax.set_xticks([1 / 4, 1 / 2, 1, 2, 4], ["¼", "½", "1", "2", "4"], minor=False)
        ax.xaxis.set_minor_formatter("")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter("")
    axes[1].legend()
    first, middle, last = chains[0], chains[16], chains[-1]
    return Made(
        numbers={"network": example(), "largest": LARGEST},
        figure=figure,
        caption=(
            "The running example with its first layer times c and its second over c, which all "
            f"compute one function. Sharpness is {S[16]:,.0f} at c = 1 and {S[-1]:,.0f} at c = 4; "
            f"A, B and C stay, and D rises from {first.D:.3g} at c = ¼ to {last.D:.3g} at c = 4."
        ),
        alt=(
            f"Left: sharpness on logarithmic axes, from {S[0]:,.0f} at c = 1/4 down to "
            f"{S.min():,.0f} near c = 1 and up to {S[-1]:,.0f} at c = 4. Right: A, B and C are "
            f"flat lines at {middle.A:.2f}, {middle.B:.2f} and {middle.C:.2f}; D rises from "
            f"{first.D:.3g} over {middle.D:.3g} at c = 1 to {last.D:.3g}."
        ),
    )


MAKERS: dict[str, Callable[[], Made]] = {"rescaling": rescaling}
