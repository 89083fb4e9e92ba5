"""Populations: networks whose hyper-parameters are drawn at random, compared at one train loss."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from flatlib.lab.experiments import Outcome, run_many
from flatlib.lab.experiments.config import load_data
from flatlib.lab.records import Record, RecordError, default_results

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
        ValueError: an unknown population, or fewer than one network or worker.
    """
    population = named(name)
    n = population.networks if networks is None else networks
    if n < 1:
        raise ValueError(f"networks must be at least 1, got {n}")
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
    tables = [_whole(Record(folder, f"{FOLDER}/{name}", path.parent.name)) for path in paths]
    first, at = list(tables[0]), paths[0].parent
    for table, path in zip(tables, paths, strict=True):
        network = population.network(int(table["index"].iloc[0]))
        if network.name != path.parent.name or not is_made(network, folder):
            raise RecordError(f"{path.parent} holds the network of index {network.index}")
        if list(table) != first:
            odd = sorted(set(table) ^ set(first))
            raise RecordError(f"{path.parent} has other columns than {at}: {', '.join(odd)}")
    return pd.concat(tables).sort_values(["index", "condition"], ignore_index=True)


def _whole(record: Record) -> pd.DataFrame:
    """A network's two rows, refused if one is missing."""
    table = record.read_table()
    if "condition" not in table or sorted(table["condition"]) != sorted(CONDITIONS):
        raise RecordError(
            f"{record.table_path} is not whole: it shall have one row for each of the conditions "
            f"{', '.join(CONDITIONS)}. Delete the folder {record.folder} and run it again."
        )
    return table
