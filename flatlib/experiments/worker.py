"""What a worker process does before its first run."""

from __future__ import annotations

import ctypes
import sys

import torch

# glibc's mallopt parameters and the largest threshold that it accepts
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
MEMORY_KEPT = 2**30 - 1
LARGEST_MMAP_THRESHOLD = 2**25


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
