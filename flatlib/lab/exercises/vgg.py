"""Exercises on VGG10's experiments."""

from __future__ import annotations

from itertools import product

import torch

from flatlib import geometry
from flatlib.lab.exercises.exercise import Exercise, each, once


def _norms(value: float) -> list[float]:
    w = torch.tensor(value, dtype=torch.float64, requires_grad=True)
    x = torch.ones(2, dtype=torch.float64, requires_grad=True)
    by_x, by_w = torch.autograd.grad(w * x[0] - w * x[1], (x, w))
    return [float(by_x.norm()), float(by_w.abs())]


def _changes() -> list[float]:
    before = torch.tensor([[1.0] * 2 + [1e-2] * 8], dtype=torch.float64)
    after = torch.tensor([[1.0] * 2 + [1e-3] * 8], dtype=torch.float64)
    volumes = (geometry.log_volume, geometry.log_volume_top)  # all values, the largest 3
    return [float(volume(after) - volume(before)) for volume in volumes]


def _counted(k: int) -> float:
    """The share of all-above among all that can happen."""
    outcomes = [all(above) for above in product((True, False), repeat=k)]
    return sum(outcomes) / len(outcomes)


EXERCISES = (
    Exercise(
        "vgg-cancel",
        stars=1,
        minutes=5,
        hints=(
            "differentiate f by x_1, by x_2 and by w",
            "the derivatives by x are w and -w; the derivative by w is x_1 - x_2",
        ),
        questions=each(lambda seed: [(3.0,), (-1.0,), (0.2,)], _norms),
    ),
    Exercise(
        "vgg-volume",
        stars=1,
        minutes=5,
        hints=(
            "add up the logarithms",
            "eight logarithms fall by log 10 each, and one of the eight is among the largest three",
        ),
        questions=once(_changes),
        tolerance=1e-3,
    ),
    Exercise(
        "vgg-count",
        stars=1,
        minutes=5,
        hints=("k independent coins, all heads", "each coin halves the probability"),
        questions=each(lambda seed: [(1,), (3,), (5,)], _counted),
    ),
)
