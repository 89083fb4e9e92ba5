"""A population whose truth is known, in the columns of `flatlib.lab.populations.load`."""

from __future__ import annotations

import numpy as np
import pandas as pd

from flatlib.lab.drawn import NOISE, RADIUS, Drawn
from flatlib.lab.populations import robustness

SIZES = (  # columns of measures that are positive
    "sharpness",
    "mls",
    "gradient_energy",
    "nmls",
    "iimls",
    "C",
    "D",
    "hessian_eigenvalue",
    "relative_flatness",
    "adaptive_sharpness",
    "rhs_N.9",
    "rhs_N.12",
)
ACCURACIES = (
    f"accuracy_pgd_{RADIUS:g}",
    f"accuracy_noise_{NOISE:g}",
    *(f"accuracy_{name}" for name in robustness.CORRUPTIONS),
)


def table(
    n: int = 40,
    effect: float = 0.0,
    confounding: float = 1.0,
    seed: int = 0,
    compressed: bool = False,
) -> pd.DataFrame:
    """Networks at one train loss and at one step, where they are the same.

    Every measure and every outcome rises with the learning rate, as ``confounding`` times its
    logarithm. Beyond that, sharpness shares ``effect`` times its own noise with the outcomes.

    Args:
        n: networks.
        effect: of what sharpness has of its own.
        confounding: by the learning rate.
        seed: of all draws.
        compressed: whether the own part of sharpness is that of MLS, and the outcomes follow MLS.
    """
    random = np.random.default_rng(seed)
    log_lr = random.uniform(-1, 1, n)
    push = confounding * log_lr / np.sqrt(1 / 3)  # of variance confounding squared

    own = {name: random.normal(size=n) for name in SIZES}
    cause = own["mls"] if compressed else own["sharpness"]
    if compressed:
        own["sharpness"] = own["mls"] + own["sharpness"]
    found = {name: np.exp(push + own[name]) for name in SIZES}
    for name in ("log_volume", "log_volume_top3", "local_dimensionality"):
        found[name] = push + random.normal(size=n)

    def outcome():
        return push + effect * cause + random.normal(size=n)

    found |= {"test_loss": outcome(), "test_error": outcome(), "calibration_error": outcome()}
    found |= {"loss_gap": found["test_loss"] - 0.015, "train_loss": np.full(n, 0.015)}
    found |= {name: 1 - outcome() for name in ACCURACIES}
    frame = pd.DataFrame(found).assign(
        index=np.arange(n),
        seed=np.arange(n),
        optimizer="sgd",
        lr=10**log_lr,
        batch_size=random.integers(4, 65, n),
        width=random.choice([64, 128, 256], n),
        depth=random.choice([2, 3], n),
        heads=np.nan,
        reached=1,
    )
    return pd.concat([frame.assign(condition=name) for name in ("loss", "step")])


def drawn(*, name: str = "mlp-relu", **truth) -> Drawn:
    """The same as statistics read it."""
    return Drawn.of(table(**truth), name, "networks of known truth", 40, 0.015, 2_000)
