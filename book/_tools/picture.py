"""Draw the README's picture: the paper's chain of bounds while a small network learns
handwritten digits.
"""

from __future__ import annotations

import sys

import flatlib
from flatlib import figures

NAMES = {"A": "A, sensitivity", "B": "B", "C": "C", "D": "D, from sharpness"}


def main(target: str) -> None:
    """Train, measure, and write the picture to ``target``."""
    figures.use_style()
    net = flatlib.nets.mlp((64, 32, 10), activation="tanh", seed=0)
    data = flatlib.data.load("digits")
    table = flatlib.train(
        net, data, lr=0.2, batch_size=20, steps=6000, seed=0, measure_every=300, measure_samples=100
    )
    figure, axes = figures.canvas(1, 1, height=230)
    for column, name in NAMES.items():
        axes.plot(table["step"], table[column], label=name)
    axes.set(yscale="log", xlabel="SGD step", title="Each bound of the chain, from one measurement")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    figure.savefig(target, facecolor="white", metadata={"Date": None})


if __name__ == "__main__":
    main(*sys.argv[1:])
