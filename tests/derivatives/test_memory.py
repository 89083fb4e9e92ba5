"""`memory`: what a part may take, and a plain refusal of what does not fit."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
import torch

from flatlib.derivatives import memory
from flatlib.derivatives.float64 import OutOfMemory
from flatlib.derivatives.memory import Cost, check_fits, free_memory, part_size

CPU = torch.device("cpu")


def test_as_many_samples_as_fit_and_at_least_one():
    cost = Cost(each=100, one_sample=250)
    assert [cost.samples_at_once(limit) for limit in (1, 100, 250, 1000)] == [1, 1, 2.5, 10]


def test_a_pass_takes_as_many_outputs_as_what_is_left_holds_and_at_least_one(monkeypatch):
    cost = Cost(each=100, one_sample=250, each_output=10)
    found = [cost.outputs_at_once(3, limit) for limit in (1, 300, 329, 330, 389, 390)]
    assert found == [1, 1, 1, 2, 3, 4]
    monkeypatch.setattr(memory, "PART", 60)
    assert cost.outputs_at_once(3, 10**9) == 3


MEASURED_AGAIN = """
import resource, torch, flatlib
net, x = flatlib.nets.mlp((784, 500, 500, 500, 10)), torch.rand(100, 784)
taken = []
for _ in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    flatlib.measure(net, x)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    taken.append(faults * resource.getpagesize())
print(min(taken[1:]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="how glibc gives memory back")
def test_a_batch_like_the_one_before_takes_the_memory_that_is_there():
    """The gradients take some 35 MB, of which glibc would give 23 MB or more back in between."""
    command = [sys.executable, "-c", MEASURED_AGAIN]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert int(ended.stdout) < 2e6


def test_what_is_free_is_no_more_than_there_is():
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < free_memory(CPU) <= there


def test_the_limit_of_a_container_counts(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("1500")
    (tmp_path / "memory.current").write_text("500")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert free_memory(CPU) == 1000
    (tmp_path / "memory.max").write_text("max")  # a container without a limit
    assert free_memory(CPU) > 1000


def test_a_part_takes_what_it_is_given_or_what_is_free(monkeypatch):
    assert part_size(7.0, CPU) == 7.0
    monkeypatch.setattr(memory, "free_memory", lambda device: 1000)
    assert part_size(None, CPU) == 500
    monkeypatch.setattr(memory, "free_memory", lambda device: 2**60)
    assert part_size(None, CPU) == part_size(None, CPU, Cost(10, 20)) == memory.PART
    assert part_size(None, CPU, Cost(2**30, 2**31)) == 8 * 2**30


@pytest.mark.parametrize("one_sample, fits", [(1000, True), (1001, False)])
def test_one_sample_that_does_not_fit_is_refused_with_the_ways_out(one_sample, fits):
    cost, without = Cost(10, one_sample), Cost(10, 400)
    if fits:
        check_fits(cost, without, 1000, CPU)
        return
    with pytest.raises(OutOfMemory, match="need about 1,001 bytes and max_memory is 1,000") as e:
        check_fits(cost, without, 1000, CPU)
    said = str(e.value)
    assert "layers=False (which needs 400 bytes)" in said and 'method="matrix-free"' in said
    with pytest.raises(OutOfMemory) as e:
        check_fits(cost, None, 1000, CPU, matrix_free=True)
    assert "layers=False" not in str(e.value) and "matrix-free" not in str(e.value)


def test_without_a_limit_the_device_is_asked(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda device: 1000)
    with pytest.raises(OutOfMemory, match="cpu has 1,000 bytes free"):
        check_fits(Cost(10, 1001), None, None, CPU)
