"""Exercises on VGG10's experiments."""

from __future__ import annotations

from itertools import product

import torch

from flatlib import geometry
from flatlib.lab.exercises.exercise import COUNTS, Exercise, between, each, grouped, once, times


def _norms(value: float, a: int, b: int) -> list[float]:
    w = torch.tensor(value, dtype=torch.float64, requires_grad=True)
    x = torch.tensor([float(b), float(a)], dtype=torch.float64, requires_grad=True)
    by_x, by_w = torch.autograd.grad(a * w * x[0] - b * w * x[1], (x, w))
    return [float(by_x.norm()), float(by_w.abs())]


def _norms_say(a: int, b: int) -> tuple[str, ...]:
    aw, bw, ax, bx = (f"{times(k)}{one}" for one in ("w", "x") for k in (a, b))
    return (
        f"reads the input $(x_1,x_2)=({b},{a})$",
        f"$f={aw}x_1-{bw}x_2$",
        rf"$\nabla_xf=({aw},-{bw})$ has norm $\sqrt{grouped(a**2 + b**2)}\,",
        f"={ax}_1-{bx}_2=0$",
        f"math.sqrt({a**2 + b**2}) * abs(w)",
        f"are {aw} and -{bw}; the derivative by w is {ax}_1 - {bx}_2",
    )


def _changes_say(n: int, before: int, after: int) -> tuple[str, ...]:
    small, fall = COUNTS[n - 2], after - before
    return (
        f"largest of {COUNTS[n]} singular values stay at 1 and the other {small} fall from "
        f"$10^{{-{before}}}$ to $10^{{-{after}}}$",
        rf"Each of {small} logarithms falls by ${times(fall)}\log10$, and one of the {small}",
        f"return [-{(n - 2) * fall} * math.log(10), "
        f"-{'' if fall == 1 else f'{fall} * '}math.log(10)]",
        f"{small} logarithms fall by {'' if fall == 1 else f'{fall} '}log 10 each, and one of the "
        f"{small}",
    )


def _count_says(q: int) -> tuple[str, ...]:
    return (
        "were as likely to be above the mean as below"
        if q == 2
        else f"were above the mean with the probability $1/{q}$",
        f"${q}^{{-k}}$",
        f"return {q}.0**-k",
        f"each coin {'halves' if q == 2 else f'of {q} sides leaves 1/{q} of'} the probability",
    )


def _changes(n: int, start: int, end: int) -> list[float]:
    before = torch.tensor([[1.0] * 2 + [10.0**-start] * (n - 2)], dtype=torch.float64)
    after = torch.tensor([[1.0] * 2 + [10.0**-end] * (n - 2)], dtype=torch.float64)
    volumes = (geometry.log_volume, geometry.log_volume_top)  # all values, the largest 3
    return [float(volume(after) - volume(before)) for volume in volumes]


def _counted(k: int, q: int) -> float:
    """The share of all-above among all that can happen, one side of q being above."""
    outcomes = [not any(sides) for sides in product(range(q), repeat=k)]
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
        asked=each(between((-3.0, 3.0)), _norms),
        numbers=((1, 1), (2, 1), (3, 1), (3, 2), (4, 1), (4, 3), (5, 2), (5, 3), (5, 4)),
        says=_norms_say,
    ),
    Exercise(
        "vgg-volume",
        stars=1,
        minutes=5,
        hints=(
            "add up the logarithms",
            "eight logarithms fall by log 10 each, and one of the eight is among the largest three",
        ),
        asked=once(_changes),
        numbers=((10, 2, 3), *((n, 2, end) for end in (4, 5) for n in (9, 6, 8, 12, 7, 11))),
        says=_changes_say,
        tolerance=1e-3,
    ),
    Exercise(
        "vgg-count",
        stars=1,
        minutes=5,
        hints=("k independent coins, all heads", "each coin halves the probability"),
        asked=each(between((1, 5)), _counted),
        numbers=tuple((q,) for q in range(2, 10)),
        says=_count_says,
    ),
)
