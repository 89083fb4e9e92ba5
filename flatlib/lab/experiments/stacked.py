"""Runs of one shape trained as a stack, each recorded as a run of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from tqdm.auto import tqdm

from flatlib.lab.records import Record
from flatlib.lab.training import DivergenceError
from flatlib.lab.training.replay import exact_convolutions
from flatlib.lab.training.stack import StackedTrainer

from .config import RunConfig
from .work import Work, ending


def stacks(runs: Iterable[RunConfig]) -> list[list[RunConfig]]:
    """The runs, grouped into those that can be trained as one: all but rate and seed agree.

    >>> from .catalog import configurations
    >>> [len(stack) for stack in stacks(configurations("correlations-mlp", "paper"))]
    [15, 5, 5]
    """
    groups: dict[RunConfig, list[RunConfig]] = {}
    for run in dict.fromkeys(runs):
        groups.setdefault(replace(run, lr=1.0, seed=0), []).append(run)
    return list(groups.values())


def execute_stacked(
    runs: Sequence[RunConfig],
    scale: str,
    results: Path,
    *,
    device: str = "cpu",
    progress: bool = False,
) -> dict[RunConfig, str]:
    """Bring runs of one shape to their length together.

    Numbers agree with those of runs alone to rounding, not to the bit; the manifest says how
    many were stacked. Of runs that stopped at different steps, those behind catch up first. If a
    member diverges, it is recorded so, and the others go on from their last checkpoint without.

    Args:
        runs: of one group of :func:`stacks`.
        scale: their folder in the archive.
        results: the archive.
        device: where to train and measure.
        progress: whether to draw a progress bar over the steps.

    Returns:
        ``"complete"`` or ``"diverged"`` for each run.

    Raises:
        RecordError, LockedError, OSError: as :func:`execute`.
    """
    outcomes: dict[RunConfig, str] = {}
    with ExitStack() as locks:
        open_runs = []
        for run in runs:
            record = Record(Path(results), scale, run.name)
            if not ending(record, run):
                locks.enter_context(record.lock())
            found = ending(record, run)  # another process may have finished it meanwhile
            if found:
                outcomes[run] = found
            else:
                open_runs.append((run, record))
        while open_runs:
            works = [Work(run, record, device=device) for run, record in open_runs]
            # Those behind, as after a kill between two records, first catch up with the next.
            steps = sorted({work.trainer.step for work in works})
            together = [work for work in works if work.trainer.step == steps[0]]
            with exact_convolutions():
                outcomes |= _go(together, steps[1] if len(steps) > 1 else None, progress)
            open_runs = [pair for pair in open_runs if pair[0] not in outcomes]
    return outcomes


def _go(works: list[Work], until: int | None, progress: bool) -> dict[RunConfig, str]:
    """Train one stack to a step or its end, or until it loses a member; how runs ended."""
    config = works[0].config
    for work in works:
        work.sessions[-1]["stacked"] = len(works)
    stack = StackedTrainer([work.trainer for work in works])
    title = f"{len(works)} x {config.net} batch {config.batch_size}"
    bar = tqdm(total=config.steps, initial=stack.step, unit="step", desc=title,
               disable=not progress)  # fmt: skip
    with bar, ExitStack() as clocks:
        for step in works[0].todo():
            if until is not None and step > until:
                return {}
            for work in works:
                clocks.enter_context(work.clock("training_seconds"))
            try:
                stack.advance(step, bar.update)
            except DivergenceError as fault:
                lost = works[fault.member]
                lost.trainer.step = stack.step
                lost.archive(diverged=str(fault))
                return {lost.config: "diverged"}
            clocks.close()
            stack.unstack()
            for work in works:
                work.checkpoint()
    return {work.config: "complete" for work in works}
