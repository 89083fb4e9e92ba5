"""Seconds of runs that take turns, so that a slow moment of the machine touches all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any

Run = Callable[[], object]


def wall_seconds(run: Run) -> float:
    """Seconds on the clock of one run."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def processor_seconds(run: Run) -> float:
    """Processor seconds of one run."""
    start = time.process_time()
    run()
    return time.process_time() - start


def interleaved(
    runs: dict[Any, Run], rounds: int, seconds: Callable[[Run], Any], slow: Collection = ()
) -> dict[Any, list]:
    """What ``seconds`` says of each run, in rounds of one of each in turn, behind a warm-up.

    Args:
        runs: by label.
        rounds: how many, the warm-up not counted.
        seconds: of one run.
        slow: labels of those that run at most three times and are not warmed up.

    Returns:
        A list for each label, in the order of the rounds.
    """
    times = {label: [] for label in runs}
    for round_ in range(rounds + 1):
        for label, run in runs.items():
            if label not in slow or 1 <= round_ <= 3:
                times[label].append(seconds(run))
    return {label: own if label in slow else own[1:] for label, own in times.items()}
