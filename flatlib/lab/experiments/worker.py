"""What a worker process does before its first run."""

from __future__ import annotations

import ctypes
import multiprocessing
import multiprocessing.connection
import os
import sys
import threading

import torch
from tqdm.auto import tqdm

# glibc's mallopt parameters and the largest threshold that it accepts
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
MEMORY_KEPT = 2**30 - 1
LARGEST_MMAP_THRESHOLD = 2**25


def leave_with_parent() -> None:
    """End this process when the one that started it is gone, even in the midst of a step.

    Records are whole at every instant, so nothing is lost. A process that is stopped also leaves
    no semaphore of a progress bar behind, as its bars are locked between threads alone.
    """
    tqdm.set_lock(threading.RLock())
    parent = multiprocessing.parent_process()
    threading.Thread(target=_wait_for_the_end_of, args=(parent.sentinel,), daemon=True).start()


def _wait_for_the_end_of(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)  # without a word, for whoever read the errors may be gone, too


def prepare() -> None:
    """One thread, and memory kept between steps.

    By default glibc returns every freed array of some megabytes to the system and gets it back,
    zeroed page by page, in the next step; what keeping it saves depends on the machine, see
    ``benchmarks/training.py``. Numbers do not change. Other systems' allocators are left alone.
    """
    torch.set_num_threads(1)
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
        mallopt(M_TRIM_THRESHOLD, MEMORY_KEPT)
        mallopt(M_TOP_PAD, LARGEST_MMAP_THRESHOLD)
