"""Exercises on sharpness and on where the flattest minima lie."""

from __future__ import annotations

import torch
from scipy.optimize import minimize_scalar

from flatlib import measure, toys
from flatlib.lab.exercises.exercise import FROM_1_TO_9, Exercise, between, each, sharpness, times


def _sharpness_of_three(w_1: float, w_2: float, w_3: float, x: int) -> float:
    chain = toys.from_weights([torch.tensor([[w]]).double() for w in (w_1, w_2, w_3)])
    return measure(chain, torch.full((1, 1), float(x)).double()).sharpness


def _sharpness_says(x: int) -> tuple[str, ...]:
    words = "" if x == 1 else f"{x} times "
    return (
        f"the single sample $x={x}$",
        f"w3 w2 w1 x at x = {x}.",
        f"is {words}the product of the other two weights",
        f"so $S={times(x**2)}{'' if x == 1 else '['}(w_2w_3)^2+(w_1w_3)^2+(w_1w_2)^2"
        f"{'' if x == 1 else ']'}$",
        f"return {'' if x == 1 else f'{x**2} * ('}(w2 * w3)**2 + (w1 * w3)**2 + (w1 * w2)**2"
        f"{'' if x == 1 else ')'}",
    )


def _lines(seed: int, k: int) -> list[tuple]:
    samples = torch.randn(3, 6, generator=torch.Generator().manual_seed(seed)).double()
    return list(zip((2.0, -0.5, 1.0), samples, strict=True))


def _hyperbola_says(k: int) -> tuple[str, ...]:
    c = f"{times(k)}c"
    return (
        f"$y_i={c}x_i$",
        f"and $w_1w_2={c}$, so",
        rf"$S\ge{2 * k}\lvert c\rvert\Sigma$",
        rf"$w_1^2=w_2^2={times(k)}\lvert c\rvert$",
        f"and $T={c}$",
        rf"gives ${2 * k}\sqrt{{\Sigma}}",
        f"return {2 * k} * abs(c)",
        f"w_2 = {'' if k == 1 else f'{k} '}c / w_1",
    )


def _least_on_hyperbola(c: float, samples: torch.Tensor, k: int) -> float:
    def S(w: float) -> float:
        return sharpness(lambda weights: weights[1] * weights[0] * samples, [w, k * c / w])

    return float(minimize_scalar(S, bounds=(0.1, 10), method="bounded").fun)


EXERCISES = (
    Exercise(
        "ex-sharpness-line",
        stars=1,
        minutes=5,
        hints=(
            "differentiate f by each weight, one at a time",
            "f is linear in each weight: what does it multiply w1 by? S adds three squares",
        ),
        asked=each(between((0.3, 3.0), (0.3, 3.0), (0.3, 3.0)), _sharpness_of_three),
        numbers=FROM_1_TO_9,
        says=_sharpness_says,
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
        asked=each(_lines, _least_on_hyperbola),
        numbers=FROM_1_TO_9,
        says=_hyperbola_says,
    ),
)
