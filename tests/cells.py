"""The cells of a notebook, run in a process that has its libraries from the start.

Each chapter imports the same libraries, which takes longer than many a chapter. A server imports
them once, and each notebook runs in a fresh copy of the server: nothing that another notebook did
is there.
"""

from __future__ import annotations

import os
import tempfile
import traceback
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from IPython.core.interactiveshell import InteractiveShell
from matplotlib.layout_engine import ConstrainedLayoutEngine
from traitlets.config import Config

LIBRARIES = (
    "cells",
    "scipy.stats",
    "seaborn",
    "sklearn.datasets",
    "torch",
    "torch._dynamo",  # of the first torch.func.jacrev, and in part of the first torch.autograd.grad
    "flatlib.measurement",
    "flatlib.lab.chapter",
    "flatlib.lab.equations",
    "flatlib.lab.exercises",
    "flatlib.lab.experiments",
    "flatlib.lab.figures",
    "flatlib.lab.hypotheses",
    "flatlib.lab.training",
)


def _run(sources: list[str], folder: str) -> tuple[int, str]:
    """How many cells ran to their end, and what the one after them raised, if there is one.

    A cell that shows an object by its address, such as a line of a figure, fails.
    """
    os.chdir(folder)
    with tempfile.TemporaryDirectory() as scratch:
        # The reader's own IPython start-up files have no say.
        os.environ["IPYTHONDIR"] = scratch
        silent = Config({"HistoryManager": {"hist_file": ":memory:"}})
        shell = InteractiveShell.instance(config=silent)
        # Laying a figure out takes most of the time that drawing one takes, and no cell rests on
        # it; whoever builds the book lays out the same figures of another seed.
        ConstrainedLayoutEngine.execute = lambda engine, figure: None
        for place, source in enumerate(sources):
            result = shell.run_cell(source, store_history=True)
            if not result.success:
                fault = result.error_before_exec or result.error_in_exec
                return place, "".join(traceback.format_exception(fault))
            if " at 0x" in (shown := repr(result.result)):
                return place, f"the page would show {shown}"
    return len(sources), ""


def run(sources: list[str], folder: Path) -> tuple[int, str]:
    """The cells one after the other, as IPython runs them, in a fresh process.

    Args:
        sources: of the cells of code.
        folder: that they run in.

    Returns:
        How many ran to their end, and the traceback of the next, empty if all did.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(list(LIBRARIES))
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_run, sources, str(folder)).result()
