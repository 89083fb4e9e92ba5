"""An archive whose every number is known in closed form, written by the library's own records."""

from __future__ import annotations

import math
from pathlib import Path

from flatlib.lab.experiments import RunConfig, configurations
from flatlib.lab.records import Record

STEPS = (0, 30_000, 60_000)
SEED_SHIFT = {0: -1.0, 1: 0.0, 2: 1.0}  # mean 0, standard deviation 1
PROVEN = {"25": True, "11": True, "13": True, "N.7": False}


def level(lr: float, batch_size: int) -> float:
    """What a setting adds to every quantity: the higher the learning rate, the lower."""
    return 10.0 - 20.0 * lr + 0.05 * batch_size


def row(step: int, samples: str, lr: float, batch_size: int, seed: int) -> dict:
    """One row; quantities are the setting's level, plus step / 10,000, plus the seed's shift."""
    value = level(lr, batch_size) + step / 10_000 + SEED_SHIFT[seed]
    extra = {"train": 0.0, "test": 1.0, "misclassified": 2.0}[samples]
    wrong = samples == "misclassified"
    return {
        "step": step,
        "epoch": 0,
        "train_loss": 10.0 ** -(1 + step / 30_000),
        "train_accuracy": 1.0 if step >= 30_000 else 0.5,
        "test_loss": 0.1 * value,
        "test_accuracy": 0.9,
        "samples": samples,
        "samples_loss": 0.5 + extra,
        "samples_accuracy": 0.0 if wrong else 1.0,
        "hessian_gap": 0.0 if samples == "train" else math.nan,
        "n": 7 if wrong else 100,
        "sharpness": (value + extra) ** 2,
        "mls": value,
        "gradient_energy": 2 * value,
        "log_volume": -value,
        "log_volume_top3": -value / 2,
        "local_dimensionality": 3.0 + SEED_SHIFT[seed],
        "A": value,
        "B": 2 * value,
        "C": 3 * value,
        "C_prime": 2.5 * value,
        "D": 12 * value,
        "lhs_25": value,
        "rhs_25": 2 * value,
        "lhs_11": -value,
        "rhs_11": math.log(10) - value,
        "lhs_13": 5.0,
        "rhs_13": 0.5 if samples == "train" and step == 60_000 else 5.0,
        "lhs_N.7": 1.0,
        "rhs_N.7": math.inf,
    }


def manifest_of(
    config: RunConfig, scale: str, reached: int, status: str = "complete", note: str = ""
) -> dict:
    """All that a run's manifest says, but for the table."""
    return {
        "run": config.name,
        "scale": scale,
        "status": status,
        "note": note,
        "steps": reached,
        "steps_asked": reached if status == "complete" else reached + config.measure_every,
        "configuration": config.identity,
        "configuration_sha256": config.identity_hash,
        "data": {"name": config.data, "sha256": 64 * "0", "n_train": 2000, "n_test": 100},
        "weights_sha256": 64 * "0",
        "weights": None,
        "losses_and_accuracies_over": "all training and all test samples",
        "bounds": {k: {"label": k, "name": f"name {k}", "proven": v} for k, v in PROVEN.items()},
        "sessions": [],
    }


def write(folder: Path, name: str, runs, status: str = "complete", note: str = "") -> None:
    """Archive runs of one experiment at laptop scale: ``(lr, batch_size, seed, last step)``."""
    made = {
        (config.lr, config.batch_size, config.seed): config
        for config in configurations(name, "laptop", seeds=tuple(SEED_SHIFT))
    }
    for lr, batch_size, seed, last in runs:
        config = made[lr, batch_size, seed]
        steps = [step for step in STEPS if step <= last]
        rows = [
            row(step, samples, lr, batch_size, seed)
            for step in steps
            for samples in ("train", "test", "misclassified")
        ]
        manifest = manifest_of(config, "laptop", steps[-1], status, note)
        Record(folder, "laptop", config.name).write(rows, manifest)
