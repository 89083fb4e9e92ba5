"""What a benchmark is asked for and runs on, a process of its own, and the file of its record."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import re
from collections.abc import Callable
from pathlib import Path

import numpy
import torch

from flatlib.lab.experiments.provenance import processor


def environment() -> dict:
    """Versions, processor and threads."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "load_average": os.getloadavg()[0],
    }


def arguments(docstring: str, words: list[str] | None, **numbers: float) -> argparse.Namespace:
    """Options of a benchmark: its numbers, each with its default, and ``--output``."""
    parser = argparse.ArgumentParser(description=docstring.splitlines()[0])
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--output", help="file to write the record to, as JSON")
    return parser.parse_args(words)


def write_record(path: str | None, record: dict) -> None:
    """Put a record into a file, as JSON, if one was asked for."""
    if path:
        text = json.dumps(record, indent=1, allow_nan=False)
        Path(path).write_text(f"{text}\n", encoding="utf-8")


def high_water_mark() -> float:
    """Most resident memory that this process has had, in megabytes."""
    # Not getrusage: what it reports of a new process includes its parent's size.
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def _put(queue, work: Callable, arguments: tuple) -> None:
    queue.put(work(*arguments))


def in_own_process(work: Callable, *arguments: object) -> object:
    """``work(*arguments)``, run in a new process.

    Raises:
        RuntimeError: the process ended without a result.
    """
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=_put, args=(queue, work, arguments))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"the process ended with exit code {process.exitcode} and no result")
    return queue.get()
