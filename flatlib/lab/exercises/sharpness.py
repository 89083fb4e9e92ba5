"""Exercises on sharpness and on where the flattest minima lie."""

from __future__ import annotations

import torch
from scipy.optimize import minimize_scalar

from flatlib import measure, toys
from flatlib.lab.exercises.exercise import Exercise, each


def _sharpness_of_three(*weights: float) -> float:
    chain = toys.from_weights([torch.tensor([[w]]) for w in weights])
    return measure(chain, torch.ones(1, 1).double()).sharpness


def _lines(seed: int) -> list[tuple]:
    samples = torch.randn(3, 6, generator=torch.Generator().manual_seed(seed)).double()
    return list(zip((2.0, -0.5, 1.0), samples, strict=True))


def _least_on_hyperbola(c: float, samples: torch.Tensor) -> float:
    def S(w: float) -> float:
        fit = toys.from_weights([torch.tensor([[w]]), torch.tensor([[c / w]])])
        return measure(fit, samples[:, None]).sharpness

    return float(minimize_scalar(S, bounds=(0.1, 10), method="bounded").fun)


EXERCISES = (
    Exercise(
        "ex-sharpness-line",
        stars=1,
        minutes=5,
        hints=(
            "differentiate f by each weight, one at a time",
            "S is a sum of one squared product a weight, the product of the two other weights",
        ),
        questions=each(
            lambda seed: [(2.0, 0.5, 3.0), (1.0, -1.0, 4.0), (0.3, 2.0, 1.0)], _sharpness_of_three
        ),
    ),
    Exercise(
        "ex-sharpness-hyperbola",
        stars=2,
        minutes=10,
        hints=(
            "at a minimum w_2 = c / w_1: write S as a function of one weight",
            "S is (w_1^2 + w_2^2) times the mean squared sample: when is a sum of two squares of "
            "given product least?",
        ),
        questions=each(_lines, _least_on_hyperbola),
    ),
)
