"""What each figure of the paper runs, at three scales, and the archive of those runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from flatlib.lab.records import LockedError, Record, RecordError, default_results

from .catalog import EXPERIMENTS, SCALES, Experiment, configurations
from .config import RunConfig
from .many import Outcome, run_many
from .single import execute
from .stacked import execute_stacked

__all__ = [
    "EXPERIMENTS",
    "SCALES",
    "Experiment",
    "LockedError",
    "Outcome",
    "Record",
    "RecordError",
    "RunConfig",
    "configurations",
    "execute",
    "execute_stacked",
    "load",
    "manifests",
    "records",
    "run",
    "run_many",
]


def run(
    name: str,
    scale: str = "smoke",
    *,
    seeds: Sequence[int] | None = None,
    steps: int | None = None,
    results: Path | None = None,
    workers: int = 2,
    scheduler: str | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> list[Outcome]:
    """Bring every run of one experiment to its length; what is archived is not run again.

    Args:
        name: of the experiment, see ``EXPERIMENTS``.
        scale: ``"smoke"``, ``"laptop"`` or ``"paper"``.
        seeds: instead of the scale's own.
        steps: instead of the scale's own length.
        results: the archive; by default that of the checkout.
        workers: processes.
        scheduler: address of a Dask scheduler, instead of processes here.
        device: where to train; on another than ``"cpu"`` runs of one shape are stacked.
        progress: whether to draw progress bars.

    Returns:
        How each run ended.

    Raises:
        ValueError: an unknown experiment or scale, or settings out of range.
    """
    runs = configurations(name, scale, seeds, steps)
    return run_many(
        runs,
        scale,
        results or default_results(),
        workers=workers,
        scheduler=scheduler,
        device=device,
        progress=progress,
    )


def records(name: str, scale: str, results: Path | None = None) -> list[Record]:
    """The archived runs of one experiment, whatever their seeds and lengths.

    Raises:
        ValueError: an unknown experiment or scale.
    """
    first = configurations(name, scale)[0]
    settings = set(EXPERIMENTS[name].settings)
    folder = Path(results or default_results()) / scale
    found = []
    for path in sorted(folder.glob("*/manifest.json")):
        record = Record(folder.parent, scale, path.parent.name)
        made = record.read_manifest()["configuration"]
        same = all(made[key] == first.identity[key] for key in ("net", "data", "loss"))
        if same and (made["lr"], made["batch_size"]) in settings:
            found.append(record)
    return found


def manifests(name: str, scale: str, results: Path | None = None) -> list[dict]:
    """The manifests of one experiment's archived runs."""
    return [record.read_manifest() for record in records(name, scale, results)]


def load(name: str, scale: str, results: Path | None = None) -> pd.DataFrame:
    """All archived measurements of one experiment as one table.

    Args:
        name: of the experiment.
        scale: ``"smoke"``, ``"laptop"`` or ``"paper"``.
        results: the archive; by default that of the checkout.

    Returns:
        The runs' tables below one another, with ``run``, ``lr``, ``batch_size`` and ``seed`` in
        front; ``samples`` is ``"train"``, ``"test"``, ``"misclassified"`` or, of the last
        checkpoints of some runs, ``"test-set"``, all test samples.

    Raises:
        ValueError: an unknown experiment or scale.
        RecordError: nothing is archived, or a record was altered.
    """
    tables = []
    for record in records(name, scale, results):
        made = record.read_manifest()["configuration"]
        table = record.read_table()
        front = {key: made[key] for key in ("lr", "batch_size", "seed")}
        setting = pd.DataFrame({"run": record.run} | front, index=table.index)
        tables.append(pd.concat([setting, table], axis=1))
    if not tables:
        folder = Path(results or default_results()) / scale
        raise RecordError(
            f"no run of {name} is archived in {folder}; make them with: "
            f"flatlib run {name} --scale {scale}"
        )
    return pd.concat(tables, ignore_index=True)
