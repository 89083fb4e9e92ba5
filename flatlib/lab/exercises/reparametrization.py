"""Exercises on reparametrization."""

from __future__ import annotations

import math
from typing import Any

import torch
from scipy.optimize import brentq, minimize

from flatlib import bounds, measure, toys
from flatlib.lab.exercises.exercise import (
    FROM_1_TO_9,
    Exercise,
    between,
    each,
    grouped,
    once,
    times,
)
from flatlib.sharpness import adaptive_sharpness


def _pair(S_1: int, S_rest: int, wanted: int) -> list[float]:
    """The factors on either side of the flattest one, by search."""

    def missing(c: float) -> float:
        return S_1 / c**2 + S_rest + c**2 - wanted

    flattest = S_1**0.25
    sides = ((1e-3 * flattest, flattest), (flattest, 1e3 * flattest))
    return [brentq(missing, *side, xtol=1e-12) for side in sides]


def _sharp_enough(pair: Any, S_1: int, S_rest: int, wanted: int) -> bool:
    low, high = (float(c) for c in pair)
    reached = [S_1 / c**2 + S_rest + c**2 for c in (low, high)]
    return 0 < low < high and all(math.isclose(S, wanted, rel_tol=2e-3) for S in reached)


def _target_says(S_1: int, S_rest: int, wanted: int) -> tuple[str, ...]:
    both = wanted - S_rest
    return (
        rf"$S_1={S_1}$, $S_\circ={S_rest}$",
        f"the sharpness ${wanted}$",
        f"${S_1}/c^2+{S_rest}+c^2={wanted}$",
        f"$c^4-{both}c^2+{S_1}=0$",
        rf"$c^2=({both}\pm\sqrt{{{both}^2-{4 * S_1}}})/2$",
        f"math.sqrt({both}**2 - {4 * S_1})",
        f"(({both} + sign * root)",
        f"{S_1} - {both} c^2 + c^4 = 0",
    )


def _smallest(S_1: float, S_2: float, S_3: float, k: int) -> float:
    """The least sharpness over the factors, whose product is k, by search."""

    def S(a) -> float:  # c_1 and c_2 are exp(a / 2), and a layer's part gets (k / c_l)^2
        powers = torch.tensor([-a[0], -a[1], a[0] + a[1]]).double().exp()
        return float(powers @ torch.tensor([k**2 * S_1, k**2 * S_2, S_3]).double())

    return float(minimize(S, [0.0, 0.0], tol=1e-9).fun)


def _smallest_says(k: int) -> tuple[str, ...]:
    square, fourth = times(k**2), times(k**4)
    return (
        f"$c_1c_2c_3={k}$",
        rf"$S={square}\sum_lS_l/c_l^2$, and the product of its three terms is ${fourth}S_1S_2S_3$",
        rf"$S\ge3({fourth}S_1S_2S_3)^{{1/3}}$",
        f"$c_l^2={square}S_l/({fourth}S_1S_2S_3)^{{1/3}}$",
        f"return 3 * ({'' if k == 1 else f'{k**4} * '}S_1",
    )


def _three_numbers(w: float, v: float, x: float, units: int) -> list[float]:
    """Sharpness, relative and adaptive sharpness of the network with equal units, measured."""
    ones = torch.ones(units, 1, dtype=torch.float64)
    net = toys.from_weights([w * ones, v * ones.T], "relu")
    sample = torch.tensor([[x]], dtype=torch.float64)
    m = measure(net, sample)
    return [m.sharpness, bounds.relative_sharpness(m), adaptive_sharpness(net, sample)]


def _three_numbers_say(units: int) -> tuple[str, ...]:
    relative, adaptive = 2 * units**2, 2 * units
    return (
        rf"\sum_{{h=1}}^{grouped(units)}v",
        f"{units} hidden units",
        f"$S={units}(v^2+w^2)x^2$",
        rf"$\lVert W_1\rVert_2^2={units}w^2$",
        rf"$\lVert W_2\rVert_2^2={units}v^2$",
        f"${units}v^2x^2$",
        f"${units}w^2x^2$",
        rf"${relative}\,v^2w^2x^2$",
        rf"${adaptive}\,v^2w^2x^2$",
        f"[{units} * (v**2",
        f"{relative} * invariant",
        f"{adaptive} * invariant",
    )


EXERCISES = (
    Exercise(
        "reparametrization-target",
        stars=2,
        minutes=10,
        hints=(
            "S(c) times c^2 is a quadratic polynomial in c^2",
            "4 - 99 c^2 + c^4 = 0 has two solutions for c^2: return their roots, the smaller first",
        ),
        asked=once(_pair),
        accepts=_sharp_enough,
        numbers=((4, 1, 100), *((s, o, S) for S in (60, 150) for o in (2, 3) for s in (9, 16, 25))),
        says=_target_says,
    ),
    Exercise(
        "reparametrization-three",
        stars=2,
        minutes=15,
        hints=(
            "the product of the three parts does not depend on the factors",
            "a sum of three numbers of given product is least when they are equal",
        ),
        asked=each(between((0.3, 9.0), (0.3, 9.0), (0.3, 9.0)), _smallest),
        numbers=FROM_1_TO_9,
        says=_smallest_says,
    ),
    Exercise(
        "reparametrization-alike",
        stars=2,
        minutes=10,
        hints=(
            "each unit has the derivatives v x and w x with respect to its two weights",
            "the norm of a layer of k equal weights is the root of k times one of them",
        ),
        asked=each(between((0.3, 3.0), (0.3, 3.0), (0.3, 3.0)), _three_numbers),
        numbers=((4,), *((units,) for units in (2, 3, 5, 6, 7, 8, 9))),
        says=_three_numbers_say,
    ),
)
