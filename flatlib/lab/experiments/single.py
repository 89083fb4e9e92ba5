"""One run from start or from where it stopped to its length."""

from __future__ import annotations

from pathlib import Path

import torch
from tqdm.auto import tqdm

from flatlib.lab.records import Record
from flatlib.lab.training import DivergenceError

from .config import RunConfig
from .work import Work, ending


def execute(
    config: RunConfig, scale: str, results: Path, *, progress: bool = False, workers: int = 1
) -> str:
    """Bring one run to its length: start it, go on with it, or find it done.

    The thread count is one while it works, and what it was afterwards: the numbers of a run
    depend on it to the last bit.

    Args:
        config: the run.
        scale: its folder in the archive.
        results: the archive.
        progress: whether to draw a progress bar over the steps.
        workers: how many runs share the machine, for the manifest.

    Returns:
        ``"complete"`` or ``"diverged"``.

    Raises:
        RecordError: the archive holds a run of this name made otherwise, or a shorter one whose
            state is gone and whose final weights are not archived.
        LockedError: another process is at work on this run.
        OSError: the disk is full; what was recorded before is whole.
    """
    record = Record(Path(results), scale, config.name)
    done = ending(record, config)
    if done:
        return done
    with record.lock():
        done = ending(record, config)  # another process may have finished it meanwhile
        if done:
            return done
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return _go(Work(config, record, workers), progress)
        finally:
            torch.set_num_threads(threads)


def _go(work: Work, progress: bool) -> str:
    """Step, measure and record until the run's length is reached."""
    bar = tqdm(
        total=work.config.steps,
        initial=work.trainer.step,
        unit="step",
        desc=work.config.name,
        disable=not progress,
    )
    with bar:
        for step in work.todo():
            try:
                with work.clock("training_seconds"):
                    work.trainer.advance(step, bar.update)
            except DivergenceError as fault:
                work.archive(diverged=str(fault))
                return "diverged"
            work.checkpoint()
    return "complete"
