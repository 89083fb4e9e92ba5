"""Many runs at once: on the cores here, or on a Dask cluster."""

from __future__ import annotations

import logging
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Future,
    ProcessPoolExecutor,
    wait,
)
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm.auto import tqdm

from flatlib.lab.records import LockedError, Record, RecordError

from . import worker
from .config import RunConfig
from .single import execute
from .stacked import execute_stacked, stacks

LOOK_EVERY = 1.0  # seconds between two looks at the runs' progress
LOST_WORKERS = 5  # how often a pool or a cluster may lose the worker of one run


@dataclass(frozen=True)
class Outcome:
    """How one run ended."""

    run: str  # its name
    status: str  # "complete", "diverged", "failed", "busy" elsewhere or "lost"
    message: str = ""  # what went wrong


def run_many(
    runs: Sequence[RunConfig],
    scale: str,
    results: Path,
    *,
    workers: int = 2,
    scheduler: str | None = None,
    device: str = "cpu",
    progress: bool = True,
    make: Callable[..., str] = execute,
) -> list[Outcome]:
    """Bring every run to its length, several at once.

    Args:
        runs: configurations; one that occurs twice is run once.
        scale: their folder in the archive.
        results: the archive; with a scheduler, a folder that every worker sees.
        workers: processes here; without effect with a scheduler.
        scheduler: address of a Dask scheduler, such as ``tcp://host:8786``.
        device: ``"cpu"``, or such as ``"cuda"``: then runs of one shape are trained as a stack
            there, one stack after another, in this process.
        progress: whether to draw progress bars.
        make: what a worker process calls with a run, its scale, the archive and ``workers``.

    Returns:
        How each run ended, in the order asked. A run that fails does not stop the others.

    Raises:
        ValueError: fewer than one worker; a device together with a scheduler, or one that is not
            there.
        ImportError: a scheduler is given and ``distributed`` is not installed.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    if scheduler and device != "cpu":
        raise ValueError(f"a cluster's workers choose no device, got {device!r}; leave one out")
    runs = list(dict.fromkeys(runs))
    results = Path(results).resolve()
    if device != "cpu":
        _require_device(device)
        found: dict[RunConfig, Outcome] = {}
        for stack in stacks(runs):
            found |= _stacked(stack, scale, results, device, progress)
        return [found[run] for run in runs]
    outcomes: dict[RunConfig, Outcome] = {}
    waiting = runs
    with _bars(runs, scale, results, progress) as look:
        for _ in range(1 + LOST_WORKERS):
            lost = []
            started = _dask(scheduler) if scheduler else _pool(min(workers, max(len(waiting), 1)))
            with started as submit:
                futures = {submit(run, scale, results, workers, make): run for run in waiting}
                for future in _as_they_end(list(futures), look):
                    run = futures[future]
                    outcomes[run] = _outcome(run, future)
                    if not future.cancelled() and isinstance(future.exception(), BrokenExecutor):
                        lost.append(run)  # a process was killed: its run, or one beside it
                    look(outcomes)
            waiting = lost
            if not waiting:
                break
    return [outcomes[run] for run in runs]


def _require_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as fault:
        raise ValueError(
            f"device {device!r} cannot be used here: {fault}; leave it out to compute on the "
            "processor, or install a build of PyTorch for it"
        ) from fault


def task(run: RunConfig, scale: str, results: Path, workers: int, make: Callable[..., str]) -> str:
    """One run in a worker process."""
    torch.set_num_threads(1)
    return make(run, scale, results, workers=workers)


def _stacked(
    stack: list[RunConfig], scale: str, results: Path, device: str, progress: bool
) -> dict[RunConfig, Outcome]:
    """One stack; a fault stops all of its runs and no others."""
    try:
        found = execute_stacked(stack, scale, results, device=device, progress=progress)
        return {run: Outcome(run.name, found[run]) for run in stack}
    except LockedError as fault:
        return {run: Outcome(run.name, "busy", str(fault)) for run in stack}
    except Exception as fault:  # whatever stopped this stack shall not stop the others
        message = f"{type(fault).__name__}: {fault}"
        return {run: Outcome(run.name, "failed", message) for run in stack}


def _outcome(run: RunConfig, future: Future) -> Outcome:
    try:
        return Outcome(run.name, future.result())
    except CancelledError:
        return Outcome(run.name, "lost", "scheduler lost; the same command goes on")
    except LockedError as fault:
        return Outcome(run.name, "busy", str(fault))
    except Exception as fault:  # whatever stopped this run shall not stop the others
        return Outcome(run.name, "failed", f"{type(fault).__name__}: {fault}")


@contextmanager
def _pool(workers: int) -> Iterator[Callable[..., Future]]:
    """Submit to fresh processes of this machine."""
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=worker.leave_with_parent
    ) as pool:
        try:
            yield lambda *arguments: _submit(pool, *arguments)
        except BaseException:
            # Runs can be stopped at any instant; leaving the pool would first finish them all.
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise


def _submit(pool: ProcessPoolExecutor, *arguments) -> Future:
    """Submit a run; a process started for it does not see Ctrl-C, which the parent handles."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        return pool.submit(task, *arguments)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # processes inherit it
    try:
        return pool.submit(task, *arguments)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _dask(scheduler: str) -> Iterator[Callable[..., Future]]:
    """Submit to a cluster; the run of a lost worker starts again elsewhere, from its state."""
    from distributed import Client

    # Of a scheduler that is gone `_outcome` tells, without the client's traceback.
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    with Client(scheduler) as client:
        pool = client.get_executor(pure=False, retries=LOST_WORKERS)
        yield lambda *arguments: pool.submit(task, *arguments)


def _as_they_end(futures: list[Future], look: Callable[[], object]) -> Iterator[Future]:
    """Futures in the order in which they end, with a look at the progress while they run."""
    waiting = set(futures)
    while waiting:
        ended, waiting = wait(waiting, timeout=LOOK_EVERY, return_when=FIRST_COMPLETED)
        look()
        yield from ended


@contextmanager
def _bars(
    runs: Sequence[RunConfig], scale: str, results: Path, progress: bool
) -> Iterator[Callable[..., None]]:
    """A bar over the runs, and one for each run that is at work, from what is recorded."""
    records = {run: Record(results, scale, run.name) for run in runs}
    over_runs = tqdm(total=len(runs), unit="run", desc=scale, disable=not progress)
    within: dict[RunConfig, tqdm] = {}

    def look(outcomes: dict[RunConfig, Outcome] | None = None) -> None:
        if not progress:
            return
        for run in outcomes or {}:
            if run in within:
                within.pop(run).close()
        if outcomes:
            over_runs.update(len(outcomes) - over_runs.n)
        for run, record in records.items():
            try:
                manifest = record.read_manifest()
            except RecordError:  # the run itself reports it
                manifest = None
            reached = manifest["steps"] if manifest else 0
            if manifest and manifest["status"] == "running" and run not in within:
                within[run] = tqdm(
                    total=run.steps, initial=reached, unit="step", desc=run.name, leave=False
                )
            if run in within:
                within[run].update(max(reached - within[run].n, 0))

    try:
        yield look
    finally:
        for bar in [*within.values(), over_runs]:
            bar.close()
