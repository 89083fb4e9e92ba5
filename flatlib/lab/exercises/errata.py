"""Exercises on the errata."""

from __future__ import annotations

import torch

from flatlib import measure, nets
from flatlib.lab.exercises.exercise import Exercise, once


def _verdicts() -> list[float]:
    """Whether Eq. (7) holds for three powers, on ten networks."""
    generator = torch.Generator().manual_seed(0)
    held = torch.ones(3, dtype=torch.bool)
    for seed in range(10):
        x = torch.randn(6, 5, dtype=torch.float64, generator=generator)
        m = measure(nets.mlp([5, 7, 3], seed=seed).double(), x)
        gradients = m.parameter_gradient_energy.sqrt()
        reach = m.layers[0].weight_norm / float(m.input_norm.min())
        for place, k in enumerate((-1, 0.5, 3)):
            held[place] &= bool((m.mls**k).mean() <= reach**k * (gradients**k).mean())
    return held.double().tolist()


EXERCISES = (
    Exercise(
        "errata-own",
        stars=2,
        minutes=10,
        hints=(
            "which step of the proof uses the size of k?",
            "(5) is raised to the power k sample by sample: when does a power keep the order?",
        ),
        questions=once(_verdicts),
    ),
)
