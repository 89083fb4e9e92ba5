"""Milliseconds per network and step: flatlib's trainer, a stack, and a plain PyTorch loop.

Contenders are interleaved, some steps of each in turn; medians of wall and of processor time and
the ratios to the plain loop are reported, for one and two threads. On a machine with a GPU the same
is measured there.

    python -m benchmarks.training [--rounds 9] [--output FILE.json]
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import flatlib
from benchmarks.environment import arguments, environment, write_record
from benchmarks.rounds import interleaved
from flatlib.lab.training import Trainer
from flatlib.lab.training.layout import contiguous_for
from flatlib.lab.training.replay import exact_convolutions
from flatlib.lab.training.stack import StackedTrainer

NETWORKS = {
    "mlp": (lambda seed: flatlib.nets.mlp((784, 500, 500, 500, 10), seed=seed), (784,)),
    "vgg10": (lambda seed: flatlib.nets.vgg10(seed=seed), (3, 32, 32)),
}
BATCH_SIZE = 20
N_SAMPLES = 2000
STEPS = {"cpu": 20, "cuda": 100}  # of every contender, each round
STACK = {"cpu": 3, "cuda": 25}  # networks


def plain_loop(net: nn.Module, x: Tensor, y: Tensor, n_steps: int) -> None:
    """What a tutorial writes: PyTorch's optimizer, images as they come, one network."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    for _ in range(n_steps):
        index = torch.randperm(len(x))[:BATCH_SIZE].to(x.device)
        optimizer.zero_grad()
        F.mse_loss(net(x[index]), y[index]).backward()
        optimizer.step()


def contenders(name: str, device: str) -> dict[str, tuple[int, Callable[[], None]]]:
    """How many networks each contender trains, and its steps of one round."""
    make, shape = NETWORKS[name]
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(N_SAMPLES, *shape, generator=generator).to(device)
    y = torch.eye(10)[torch.arange(N_SAMPLES) % 10].to(device)
    laid_out = contiguous_for(x)
    n_steps, R = STEPS[device], STACK[device]

    def trainer(seed: int) -> Trainer:
        return Trainer(make(seed).to(device), laid_out, y, 0.05, BATCH_SIZE, seed=seed)

    def advance(trained: Trainer | StackedTrainer) -> None:
        trained.advance(trained.step + n_steps)

    return {
        "plain loop": (1, partial(plain_loop, make(0).to(device), x, y, n_steps)),
        "trainer": (1, partial(advance, trainer(0))),
        f"stack of {R}": (R, partial(advance, StackedTrainer([trainer(r) for r in range(R)]))),
    }


def timed(run: Callable[[], None], device: str) -> tuple[float, float]:
    """Wall and processor seconds of one run."""
    wall, processor = time.perf_counter(), time.process_time()
    run()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - processor


def compare(name: str, device: str, threads: int, rounds: int) -> dict:
    """Medians over interleaved rounds, in milliseconds per network and step."""
    torch.set_num_threads(threads)
    entered = contenders(name, device)
    runs = {label: run for label, (_, run) in entered.items()}
    with exact_convolutions():
        seconds = interleaved(runs, rounds, partial(timed, device=device))
    medians = {
        label: [
            1e3 * statistics.median(column) / (entered[label][0] * STEPS[device])
            for column in zip(*values, strict=True)
        ]
        for label, values in seconds.items()
    }
    plain = medians["plain loop"]
    return {
        "network": name,
        "device": device,
        "threads": threads,
        "rounds": rounds,
        "wall_milliseconds": {label: wall for label, (wall, _) in medians.items()},
        "processor_milliseconds": {label: busy for label, (_, busy) in medians.items()},
        "times_faster_than_plain": {label: plain[0] / wall for label, (wall, _) in medians.items()},
    }


def main(words: list[str] | None = None) -> None:
    """Run every setting in a process of its own, print a table, and write the record if asked."""
    options = arguments(__doc__, words, rounds=9)
    settings = [(name, "cpu", threads) for name in NETWORKS for threads in (1, 2)]
    if torch.cuda.is_available():
        settings += [(name, "cuda", 1) for name in NETWORKS]
    record = {"environment": environment(), "settings": []}
    context = multiprocessing.get_context("spawn")
    for setting in settings:
        with context.Pool(1) as pool:
            found = pool.apply(compare, (*setting, options.rounds))
        record["settings"].append(found)
        walls = found["wall_milliseconds"]
        print(
            f"{found['network']:6} {found['device']} threads {found['threads']} "
            + ", ".join(
                f"{label} {wall:.2f} ms ({found['times_faster_than_plain'][label]:.2f} x)"
                for label, wall in walls.items()
            ),
            flush=True,
        )
    write_record(options.output, record)


if __name__ == "__main__":
    main()
