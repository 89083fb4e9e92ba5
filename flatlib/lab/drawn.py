"""Populations as statistics see them: one row a network, a column for each number and condition.

Every column is oriented and scaled here, once. Sizes that range over orders of magnitude are
taken as logarithms, and shares of right answers become shares of wrong ones, so that a positive
correlation of a measure with an outcome always reads: the larger the measure, the worse.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from flatlib.lab import claims, populations
from flatlib.lab.associations import Networks
from flatlib.lab.populations import protocol, robustness
from flatlib.lab.records import RecordError, default_results

LOSS, STEP = "loss", "step"  # conditions: at one train loss, at one step
CONDITIONS = (LOSS, STEP)
LOGARITHMIC = ("lr", "batch_size", "width")  # hyper-parameters
PLAIN = ("depth", "heads")
RATIO = "lr/batch_size"
BENDS = {f"{RATIO}, above {share:.0%} of the networks": share for share in (0.25, 0.5, 0.75)}
ERROR_PGD, ERROR_NOISE = "error_pgd", "error_noise"
ERROR_CORRUPTIONS, CALIBRATION = "error_corruptions", "calibration_error"
RADIUS, NOISE = protocol.PGD_RADII[1], protocol.NOISE_LEVELS[1]  # of the attack, of the noise
MEASURES = (
    claims.S,
    "hessian_eigenvalue",
    "relative_flatness",
    "adaptive_sharpness",
    claims.D,
    claims.G,
    claims.MLS,
    claims.NMLS,
    "iimls",
    claims.V,
    claims.DIMENSION,
)
OUTCOMES = (
    claims.GAP,
    claims.TEST_ERROR,
    ERROR_PGD,
    ERROR_NOISE,
    ERROR_CORRUPTIONS,
    CALIBRATION,
)
NVR = "nvr"
BOUNDS = ("N.9", "N.10", "N.11", "N.12")  # whose sides are compared
SIDE = ("lhs", "rhs")
SIDES = tuple(f"{side}_{bound}" for bound in BOUNDS for side in SIDE)
OTHERS = ("C", claims.V3, NVR, *SIDES)  # that claims and hypotheses speak of
NO_LOGARITHM = (claims.V, claims.V3, claims.DIMENSION, "lhs_N.10", "rhs_N.10")  # logs already
SIZES = tuple(name for name in (*MEASURES, *OTHERS) if name not in NO_LOGARITHM)


def at(condition: str, name: str) -> str:
    """The column of a number at a condition.

    >>> at("loss", "mls")
    'loss.mls'
    """
    return f"{condition}.{name}"


@dataclass(frozen=True)
class Drawn:
    """A population as far as it is archived."""

    name: str
    title: str  # what the networks are, in words
    planned: int  # networks
    level: float  # of the train loss
    fixed_step: int
    networks: Networks  # columns as `at` names them, and the recipe
    hyperparameters: tuple[str, ...]  # columns of those that vary
    recipe: tuple[str, ...]  # columns of all that is held fixed with them, see `_recipe`
    optimizers: tuple[str, ...] = ()  # of each network

    @property
    def n(self) -> int:
        """Networks that are archived."""
        return len(self.networks.table)

    def reached(self, condition: str) -> int:
        """Networks that were measured at a condition."""
        return int(self._measured(condition).sum())

    def seeds(self, condition: str) -> int:
        """Seeds of those: the independent draws, which one optimizer has as many of as networks."""
        return len(np.unique(np.asarray(self.networks.units)[self._measured(condition)]))

    def obeying(self, condition: str, bound: str) -> int:
        """Networks in which the left side of a bound is at most the right side.

        Args:
            condition: ``"loss"`` or ``"step"``.
            bound: one of `BOUNDS`.
        """
        left, right = (self.networks.table[at(condition, f"{side}_{bound}")] for side in SIDE)
        return int((left <= right).sum())

    def by_seed(self, condition: str, name: str) -> pd.DataFrame:
        """A number of networks that share their seeds, one row a seed, one column an optimizer.

        Args:
            condition: ``"loss"`` or ``"step"``.
            name: a measure or an outcome; sizes are given as they are, not as logarithms.
        """
        values = self.networks.table[at(condition, name)]
        table = pd.DataFrame(
            {
                "seed": np.asarray(self.networks.units),
                "optimizer": self.optimizers,
                "value": 10**values if name in SIZES else values,
            }
        )
        return table.pivot(index="seed", columns="optimizer", values="value")

    def _measured(self, condition: str) -> np.ndarray:
        return self.networks.table[at(condition, "train_loss")].notna().to_numpy()

    @classmethod
    def of(
        cls, table: pd.DataFrame, name: str, title: str, planned: int, level: float, fixed_step: int
    ) -> Drawn:
        """From a table with one row a network and condition, as `flatlib.lab.populations` has it.

        Raises:
            ValueError: a network with two rows at one condition, or a column that is missing.
        """
        twice = table[table.duplicated(["index", "condition"])]
        if len(twice):
            row = twice.iloc[0]
            raise ValueError(
                f"network {row['index']} of {name} has two rows at condition {row['condition']!r}"
            )
        drawn = table.drop_duplicates("index").set_index("index").sort_index()
        settings = _settings(drawn)
        recipe = _recipe(settings)
        parts = [recipe]
        for condition in CONDITIONS:
            rows = table[table["condition"] == condition].set_index("index")
            rows = rows[rows["reached"] == 1]
            numbers = _numbers(rows).reindex(drawn.index)
            parts.append(numbers.rename(columns=lambda column, c=condition: at(c, column)))
        networks = Networks(pd.concat(parts, axis=1), drawn["seed"].to_numpy())
        optimizers = tuple(drawn["optimizer"])
        columns = tuple(settings), tuple(recipe)
        return cls(name, title, planned, level, fixed_step, networks, *columns, optimizers)


def _settings(drawn: pd.DataFrame) -> pd.DataFrame:
    """The hyper-parameters that vary, rates and sizes as logarithms, optimizers as indicators."""
    found = {name: np.log10(drawn[name].astype(float)) for name in LOGARITHMIC if name in drawn}
    found |= {name: drawn[name].astype(float) for name in PLAIN if name in drawn}
    for name in sorted(drawn["optimizer"].unique())[1:]:
        found[f"optimizer {name}"] = (drawn["optimizer"] == name).astype(float)
    settings = pd.DataFrame(found, index=drawn.index)
    return settings.loc[:, settings.nunique() > 1]


def _recipe(settings: pd.DataFrame) -> pd.DataFrame:
    """The hyper-parameters and, where both vary, the ratio of rate to batch size with three bends.

    The noise of plain descent is proportional to the ratio. Its ranks are no sum of the ranks of
    rate and batch size, and a quantity that rises with the ratio and falls again has no ranks that
    are. With the hyper-parameters alone held fixed, both would count as what a measure itself says.
    With the ratio, and the ratio above each quarter of the networks, held fixed as well, what goes
    with the ratio in four straight pieces is taken away.
    """
    if not {"lr", "batch_size"} <= set(settings):
        return settings
    ratio = settings["lr"] - settings["batch_size"]
    bends = {name: np.maximum(ratio, ratio.quantile(share)) for name, share in BENDS.items()}
    return settings.assign(**{RATIO: ratio}, **bends)


def _numbers(rows: pd.DataFrame) -> pd.DataFrame:
    """Measures and outcomes, scaled and oriented."""
    with np.errstate(invalid="ignore", divide="ignore"):
        found = {name: rows[name] for name in (*MEASURES[1:], *OTHERS)}
        found[claims.S] = np.sqrt(rows["sharpness"])
        found |= {name: np.log10(found[name].where(found[name] > 0)) for name in SIZES}
    found[claims.GAP] = rows["loss_gap"]
    found[ERROR_PGD] = 1 - rows[f"accuracy_pgd_{RADIUS:g}"]
    found[ERROR_NOISE] = 1 - rows[f"accuracy_noise_{NOISE:g}"]
    wrong = 1 - rows[[f"accuracy_{name}" for name in robustness.CORRUPTIONS]]
    found[ERROR_CORRUPTIONS] = wrong.mean(axis=1)
    names = ("step", "train_loss", claims.TEST_LOSS, claims.TEST_ERROR, CALIBRATION)
    return pd.DataFrame(found | {name: rows[name] for name in names}, dtype=float)


@dataclass(frozen=True)
class Archived:
    """The populations that are archived, and those that are not."""

    found: Mapping[str, Drawn]  # by name, in the order of the catalogue
    missing: tuple[str, ...] = ()  # titles of those without a network
    refused: tuple[str, ...] = ()  # the reason for each that is not whole, with its name


def read(results: Path | None = None) -> Archived:
    """Every population of an archive; one that is not whole is refused by name, not guessed.

    Args:
        results: the archive; by default that of the checkout.
    """
    folder = Path(results or default_results())
    found, missing, refused = {}, [], []
    for name, plan in populations.POPULATIONS.items():
        if not any((folder / populations.FOLDER / name).glob("*/manifest.json")):
            missing.append(plan.title)
            continue
        try:
            table = populations.load(name, folder)
        except RecordError as fault:
            refused.append(f"{name}: {fault}".replace(f"{folder}/", ""))
            continue
        found[name] = Drawn.of(table, name, plan.title, plan.networks, plan.level, plan.fixed_step)
    return Archived(found, tuple(missing), tuple(refused))
