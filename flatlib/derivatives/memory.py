"""What the derivatives of a sample cost in memory, and what a device has free."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from .float64 import OutOfMemory

PART = 2**27  # bytes that a part of the batch takes on a CPU: larger parts are no faster there
FEW = 8  # samples that a part has even so where free memory lets it: one sample runs as two rows
UNKNOWN = 2**33  # bytes taken to be free where the system does not tell
CGROUP = Path("/sys/fs/cgroup")
LARGEST_BLOCK = 2**25 - 2**13  # bytes; glibc learns nothing from a freed block of 32 MB or more


@dataclass(frozen=True)
class Cost:
    """Bytes that derivatives take."""

    each: int  # a sample of many
    one_sample: int  # a single sample, which runs as two rows
    each_output: int = 0  # a sample, for every further output of a backward pass

    def outputs_at_once(self, n: int, max_memory: float) -> int:
        """How many outputs of n samples one backward pass takes beside the n samples' cost."""
        left = min(max_memory - n * self.each, PART)
        return 1 + max(0, int(left // (n * self.each_output)))

    def samples_at_once(self, max_memory: float) -> float:
        """How many samples fit; at least one."""
        return max(1, max_memory / self.each)


def free_memory(device: torch.device) -> int:
    """Bytes that ``device`` has free now, as far as its system tells."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = [UNKNOWN]
    if hasattr(os, "sysconf"):
        free = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    try:
        words = Path("/proc/meminfo").read_text(encoding="ascii").split()
        free.append(1024 * int(words[words.index("MemAvailable:") + 1]))
    except (OSError, ValueError):  # no Linux
        pass
    try:
        limit, used = ((CGROUP / f"memory.{what}").read_text() for what in ("max", "current"))
        free.append(int(limit) - int(used))
    except (OSError, ValueError):  # no container with a limit
        pass
    return min(free)


@cache
def keep_freed_memory() -> None:
    """Let the C library keep what is freed for what is allocated next, up to 64 MB.

    glibc gives the free end of its heap back to the system once it is longer than twice the largest
    block that was freed so far. The gradients of one batch would then cost a page fault every 4 kB
    in the next: a tenth of the time that an MLP takes. Nothing is written to the block here.
    """
    torch.empty(LARGEST_BLOCK, dtype=torch.uint8, device="cpu")


def part_size(max_memory: float | None, device: torch.device, cost: Cost | None = None) -> float:
    """Bytes that a part of the batch may take, of which a sample takes ``cost``."""
    if max_memory is not None:
        return max_memory
    free = free_memory(device)
    if device.type == "cuda":
        return free / 4
    return min(max(PART, FEW * cost.each if cost else 0), free / 2)


def check_fits(
    cost: Cost,
    without_layers: Cost | None,
    max_memory: float | None,
    device: torch.device,
    matrix_free: bool = False,
) -> None:
    """Refuse a network of which not even one sample fits.

    ``without_layers`` is the cost with ``layers=False``, None where this is asked for already;
    ``matrix_free`` whether the method is that already.
    """
    limit = free_memory(device) if max_memory is None else max_memory
    if cost.one_sample <= limit:
        return
    has = f"max_memory is {limit:,.0f}"
    if max_memory is None:
        has = f"{device} has {limit:,} bytes free"
    ways = "" if max_memory is None else "pass a larger max_memory, "
    if without_layers is not None and without_layers.one_sample < cost.one_sample:
        ways += f"layers=False (which needs {without_layers.one_sample:,} bytes), "
    ways += "" if matrix_free else 'method="matrix-free", '
    raise OutOfMemory(
        f"the derivatives of one sample need about {cost.one_sample:,} bytes and {has}; {ways}"
        "smaller samples, or a smaller network"
    )
