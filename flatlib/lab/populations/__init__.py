"""Populations: networks whose hyper-parameters are drawn at random, compared at one train loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from flatlib.lab.experiments import Outcome, run_many
from flatlib.lab.experiments.config import load_data
from flatlib.lab.records import Record, RecordError, default_results, parsed

from .catalog import FOLDER, POPULATIONS, Network, Population
from .rows import columns, front
from .work import CONDITIONS, is_made, make

__all__ = [
    "CONDITIONS",
    "FOLDER",
    "POPULATIONS",
    "Network",
    "Population",
    "is_made",
    "load",
    "make",
    "named",
    "run",
    "table_columns",
]

MOST_NETWORKS = 10_000  # that one command may make


def named(name: str) -> Population:
    """The population of this name.

    Raises:
        ValueError: there is none.
    """
    if name not in POPULATIONS:
        raise ValueError(f"no population is called {name!r}; there are {', '.join(POPULATIONS)}")
    return POPULATIONS[name]


def run(
    name: str,
    networks: int | None = None,
    *,
    results: Path | None = None,
    workers: int = 2,
    progress: bool = True,
) -> list[Outcome]:
    """Make the networks of a population, the first ones first; those archived are left alone.

    Args:
        name: of the population, a key of ``POPULATIONS``.
        networks: how many, from index 0 on; by default all that are planned.
        results: the archive; by default that of the checkout.
        workers: processes.
        progress: whether to draw a progress bar.

    Returns:
        How each network ended.

    Raises:
        ValueError: an unknown population; fewer than one network, more than 10,000, or fewer
            than one worker.
    """
    population = named(name)
    n = population.networks if networks is None else networks
    if not 1 <= n <= MOST_NETWORKS:
        raise ValueError(f"networks must be from 1 to {MOST_NETWORKS:,}, got {n}")
    return run_many(
        [population.network(index) for index in range(n)],
        f"{FOLDER}/{name}",
        results or default_results(),
        workers=workers,
        progress=progress,
        make=make,
    )


def table_columns(name: str) -> list[str]:
    """The columns of a population's table, in their order; its data set is needed.

    Raises:
        ValueError: an unknown population.
    """
    population = named(name)
    start = front(population.network(0), CONDITIONS[0], 0, "complete", True)
    return [*start, *columns(population, load_data(population.data))]


def load(name: str, results: Path | None = None) -> pd.DataFrame:
    """The networks of a population that are archived today, two rows each, see `rows`.

    Args:
        name: of the population, a key of ``POPULATIONS``.
        results: the archive; by default that of the checkout.

    Returns:
        One row a network and condition, by index; both conditions of each network are there.

    Raises:
        ValueError: an unknown population.
        RecordError: no network is archived; one was altered, was made by another configuration
            than the population's, or has not the table that it shall have.
    """
    population = named(name)
    folder = Path(results or default_results())
    paths = sorted((folder / FOLDER / name).glob("*/manifest.json"))
    if not paths:
        raise RecordError(
            f"no network of {name} is archived in {folder}; make them with: "
            f"flatlib run population-{name}"
        )
    records = [Record(folder, f"{FOLDER}/{name}", path.parent.name) for path in paths]
    texts = [record.read_table_text(record.read_manifest()) for record in records]
    first = texts[0].partition("\n")[0]
    for record, text in zip(records, texts, strict=True):
        own = text.partition("\n")[0]
        if own != first:
            odd = ", ".join(sorted(set(own.split(",")) ^ set(first.split(","))))
            raise RecordError(f"{record.folder} has other columns than {records[0].folder}: {odd}")
    table = parsed(*texts)
    made = np.repeat(range(len(records)), [text.count("\n") - 1 for text in texts])
    for place, record in enumerate(records):
        _check_whole(record, table[made == place])
        network = population.network(int(table["index"][made == place].iloc[0]))
        if network.name != record.run or not is_made(network, folder):
            raise RecordError(f"{record.folder} holds the network of index {network.index}")
    return table.sort_values(["index", "condition"], ignore_index=True)


def _check_whole(record: Record, rows: pd.DataFrame) -> None:
    """Refuse a network of which one of the two rows is missing."""
    if "condition" not in rows or sorted(rows["condition"]) != sorted(CONDITIONS):
        raise RecordError(
            f"{record.table_path} is not whole: it shall have one row for each of the conditions "
            f"{', '.join(CONDITIONS)}. Delete the folder {record.folder} and run it again."
        )
