"""A population whose truth is known, in the columns of `flatlib.lab.populations.load`."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd

from flatlib.lab.drawn import NOISE, RADIUS, SIDES, Drawn
from flatlib.lab.populations import POPULATIONS, robustness
from flatlib.lab.populations.rows import HYPERPARAMETERS, front
from flatlib.lab.records import Record

ROOT = Path(__file__).resolve().parents[1]
NOT_WRITTEN = ("seal", "format", "table")  # of a manifest: what `Record.write` adds

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
    bend: float = 0.0,
    seed: int = 0,
    compressed: bool = False,
) -> pd.DataFrame:
    """Networks at one train loss and at one step, where they are the same.

    Every measure and every outcome moves with the ratio of learning rate and batch size, as
    ``confounding`` times its logarithm and ``bend`` times the square of the logarithm. Beyond
    that, sharpness shares ``effect`` times its own noise with the outcomes.

    Args:
        n: networks.
        effect: of what sharpness has of its own.
        confounding: by the ratio of learning rate and batch size.
        bend: of this confounding.
        seed: of all draws.
        compressed: whether the own part of sharpness is that of MLS, and the outcomes follow MLS.
    """
    random = np.random.default_rng(seed)
    log_lr = random.uniform(-1, 1, n)
    batch_size = np.random.default_rng([seed, 1]).integers(4, 65, n)
    ratio = log_lr - np.log10(batch_size)
    ratio = (ratio - ratio.mean()) / (ratio.std() or 1.0)  # one network alone has no spread
    push = confounding * ratio + bend * ratio**2

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
    for name in ("nvr", *SIDES):
        if name not in found:
            found[name] = found["nmls"] * (1 + 0.1 * np.cos(np.arange(n) + len(name)))
    found |= {"loss_gap": found["test_loss"] - 0.015, "train_loss": np.full(n, 0.015)}
    found |= {name: 1 - outcome() for name in ACCURACIES}
    frame = pd.DataFrame(found).assign(
        index=np.arange(n),
        seed=np.arange(n),
        optimizer="sgd",
        lr=10**log_lr,
        batch_size=batch_size,
        width=random.choice([64, 128, 256], n),
        depth=random.choice([2, 3], n),
        heads=np.nan,
        reached=1,
        step=1_000,
    )
    return pd.concat([frame.assign(condition=name) for name in ("loss", "step")])


def drawn(*, name: str = "mlp-relu", **truth) -> Drawn:
    """The same as statistics read it."""
    return Drawn.of(table(**truth), name, "networks of known truth", 40, 0.015, 2_000)


def optimizers(
    effects: dict[str, float], seeds: int = 5, noise: float = 0.01, spread: float = 0.3
) -> pd.DataFrame:
    """Networks of shared seeds, each optimizer's sizes a known multiple of the baseline's.

    Args:
        effects: by optimizer, the factor of every measure and of the gap; in their turn.
        seeds: how many.
        noise: relative, of each network alone.
        spread: relative, that the networks of one seed share.
    """
    random = np.random.default_rng(0)
    n = seeds * len(effects)
    frame = table(n=n)
    shared = np.repeat(1 + spread * random.uniform(-1, 1, seeds), len(effects))
    factor = shared * np.tile(list(effects.values()), seeds)
    names = [*SIZES, "loss_gap"]
    for condition in ("loss", "step"):
        rows = (frame["condition"] == condition).to_numpy()
        own = factor * (1 + noise * random.normal(size=n))
        frame.loc[rows, names] = np.repeat(own[:, None], len(names), axis=1)
    frame["sharpness"] **= 2  # root of which is what is compared
    optimizer = np.tile(list(effects), 2 * seeds)
    return frame.assign(
        optimizer=optimizer, seed=frame["index"] // len(effects), lr=0.2, batch_size=20,
        width=np.nan, depth=np.nan,
    )  # fmt: skip


def archive(folder: Path, name: str, table: pd.DataFrame) -> Path:
    """A folder of results with these networks, as `flatlib.lab.populations.load` reads them.

    Args:
        folder: where it is made.
        name: of a population, whose networks these are; what is drawn of them is its own.
        table: the numbers, one row a network and condition.
    """
    population = POPULATIONS[name]
    drawn_columns = {"index", "condition", "status", "reached", "step", *HYPERPARAMETERS}
    measured = [column for column in table if column not in drawn_columns]
    layers = {f"share.{layer}": math.nan for layer in population.layers()}
    example = ROOT / "results" / "populations" / "mlp-relu" / "network-00" / "manifest.json"
    manifest = {k: v for k, v in json.loads(example.read_text()).items() if k not in NOT_WRITTEN}
    for index, rows in table.groupby("index"):
        network = population.network(int(index))
        own = []
        for row in rows.to_dict("records"):
            reached = bool(row["reached"])
            start = front(network, row["condition"], int(row["step"]), "complete", reached)
            numbers = {column: row[column] if reached else math.nan for column in measured}
            own.append(start | numbers | layers)
        own.sort(key=lambda row: row["step"])
        steps = own[-1]["step"]
        Record(folder, network.scale, network.name).write(
            own,
            manifest
            | {"run": network.name, "scale": network.scale, "steps": steps, "steps_asked": steps}
            | {"configuration": network.identity, "configuration_sha256": network.identity_hash},
        )
    return folder
