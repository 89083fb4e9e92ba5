"""Exercises on the errata."""

from __future__ import annotations

from fractions import Fraction

import torch

from flatlib import measure, nets
from flatlib.lab.exercises.exercise import Exercise, once


def _verdicts(*powers: str) -> list[float]:
    """Whether Eq. (7) holds for three powers, on ten networks."""
    generator = torch.Generator().manual_seed(0)
    held = torch.ones(3, dtype=torch.bool)
    for seed in range(10):
        x = torch.randn(6, 5, dtype=torch.float64, generator=generator)
        m = measure(nets.mlp([5, 7, 3], seed=seed).double(), x)
        gradients = m.parameter_gradient_energy.sqrt()
        reach = m.layers[0].weight_norm / float(m.input_norm.min())
        for place, k in enumerate(float(Fraction(power)) for power in powers):
            held[place] &= bool((m.mls**k).mean() <= reach**k * (gradients**k).mean())
    return held.double().tolist()


def _verdicts_say(*powers: str) -> tuple[str, ...]:
    false = [f"$k={power}$" for power in powers if power.startswith("-")]
    return (
        f"if $k={powers[0]}$, if $k={powers[1]}$, and if $k={powers[2]}$",
        f"is false at {' and '.join(false)}." if false else "is true for all three powers here.",
        f"lambda: {[not power.startswith('-') for power in powers]}",
    )


POWERS = (  # every pattern of true and false once, the book's first
    ("-1", "1/2", "3"),
    ("2", "-1/2", "1/3"),
    ("1/4", "5", "-2"),
    ("-3", "-1/3", "2/3"),
    ("3/2", "-2", "-1"),
    ("-1/4", "1/5", "-5"),
    ("1/3", "4", "5/2"),
    ("-2", "-1/2", "-4"),
)


EXERCISES = (
    Exercise(
        "errata-own",
        stars=2,
        minutes=10,
        hints=(
            "which step of the proof uses the size of k?",
            "(5) is raised to the power k sample by sample: when does a power keep the order?",
        ),
        asked=once(_verdicts),
        numbers=POWERS,
        says=_verdicts_say,
    ),
)
