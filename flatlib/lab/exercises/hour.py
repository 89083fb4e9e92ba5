"""Exercises of the book in one hour."""

from __future__ import annotations

import math

import torch
from scipy.optimize import minimize_scalar

from flatlib import bounds, measure, toys
from flatlib.lab.exercises.exercise import (
    FROM_1_TO_9,
    Exercise,
    Scaled,
    between,
    each,
    power,
    sharpness,
    times,
)


def _S_A_D(w: float, v: float, x: float, k: int) -> list[float]:
    """Sharpness, sensitivity and bound of k v max(0, wx), measured."""
    weights = torch.tensor([w, v], dtype=torch.float64).reshape(2, 1, 1)
    net = Scaled(toys.from_weights(list(weights), "relu"), k)
    m = measure(net, torch.full((1, 1), x, dtype=torch.float64))
    chain = bounds.chain(m)
    return [m.sharpness, chain.A, chain.D]


def _S_A_D_says(k: int) -> tuple[str, ...]:
    c, words = times(k), f"{k} " if k > 1 else ""
    return (
        rf"f(x)={c}v\max(0,wx)",
        f"${c}vx$ with respect to $w$ and ${c}wx$",
        f"S={times(k**2)}(v^2+w^2)x^2",
        f"$A={c}vw$",
        rf"\sqrt S={c}w\sqrt",
        f"never below ${c}vw$",
        f"return {f'{k**2} * ' if k > 1 else ''}(v**2 + w**2)",
        f"x**2, {f'{k} * ' if k > 1 else ''}v * w, {f'{k} * ' if k > 1 else ''}w * math",
        f"to w is {words}v x, the slope with respect to v is {words}w x",
    )


def _flattest_says(p: int) -> tuple[str, ...]:
    c, c_2 = power(p), power(2 * p)
    return (
        f"Multiply $w$ by ${c}$ and divide $v$ by ${c}$",
        rf"$f(x)=v\max(0,wx)${' of the first exercise' if p == 1 else ''}.",
        f"$v^2/{c_2}$ and ${c_2}w^2$ of",
        r"at $c=\sqrt{v/w}$" if p == 1 else f"at $c=(v/w)^{{1/{2 * p}}}$",
        rf"$D={c}w\sqrt{{v^2/{c_2}+{c_2}w^2}}=w\sqrt{{v^2+{power(4 * p)}w^2}}",
        "return math.sqrt(v / w)" if p == 1 else f"return (v / w) ** (1 / {2 * p})",
        f"v^2 / {c_2} + {c_2} w^2",
    )


def _flattest(w: float, v: float, p: int) -> float:
    """The factor of least sharpness, by search."""

    def S(log_c: float) -> float:
        c = math.exp(log_c)
        return sharpness(lambda weights: weights[1:] * weights[:1].relu(), [w * c, v / c])

    return math.exp(minimize_scalar(S, tol=1e-12).x / p)


EXERCISES = (
    Exercise(
        "hour-bound",
        stars=1,
        minutes=5,
        hints=(
            "the slope with respect to w is v x, the slope with respect to v is w x",
            "S adds the squares of the two slopes, A is the slope with respect to x, and D is the "
            "norm of w over the length of x, times the root of S",
        ),
        asked=each(between((0.3, 3.0), (0.3, 3.0), (0.3, 3.0)), _S_A_D),
        numbers=FROM_1_TO_9,
        says=_S_A_D_says,
    ),
    Exercise(
        "hour-flattest",
        stars=1,
        minutes=5,
        hints=(
            "S is proportional to v^2 / c^2 + c^2 w^2",
            "a sum of two numbers of given product is least where the two are equal",
        ),
        asked=each(between((0.3, 3.0), (0.3, 3.0)), _flattest),
        numbers=FROM_1_TO_9,
        says=_flattest_says,
    ),
)
