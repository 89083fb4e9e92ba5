"""Speed and memory of ``flatlib.measure`` against the naive way, the floor and BackPACK.

Runs are interleaved, one of each in turn, so that a slow moment of the machine touches all of
them; medians and their ratios are reported. Everything runs on one thread in float64.

    python -m benchmarks.measuring [--rounds 7] [--output FILE.json]
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

import flatlib
from benchmarks.environment import (
    arguments,
    environment,
    high_water_mark,
    in_own_process,
    write_record,
)
from benchmarks.rounds import interleaved, wall_seconds
from flatlib import operators

NETWORKS = {
    "mlp": (lambda: flatlib.nets.mlp((784, 500, 500, 500, 10)), (784,)),
    "vgg10": (lambda: flatlib.nets.vgg10(), (3, 32, 32)),
}
SAMPLES = (20, 100)
SLOW = ("naive", "joint")  # timed three times, without a warm-up


def one_by_one(
    net: nn.Module, x: Tensor, targets: Callable[[Tensor], list[Tensor]]
) -> Iterator[Iterator[tuple[Tensor, ...]]]:
    """For each sample, the gradients of its outputs at ``targets``, formed one at a time."""
    for sample in x.split(1):
        sample = sample.clone().requires_grad_()
        output = net(sample)[0]
        wanted = targets(sample)
        yield (torch.autograd.grad(value, wanted, retain_graph=True) for value in output.unbind())


def naive(net: nn.Module, x: Tensor) -> None:
    """The way the authors' code takes: loops over samples and outputs, one gradient at a time.

    One loop for the parameters, joined into one vector, behind sharpness, B and C; one for the
    input, behind G, MLS, volume and dimensionality; one for each layer's input, behind NMLS.
    """
    parameters = list(net.parameters())
    for gradients in one_by_one(net, x, lambda sample: parameters):
        for gradient in gradients:
            float(torch.cat([part.flatten() for part in gradient]).square().sum())
            float(gradient[0].square().sum())
    for gradients in one_by_one(net, x, lambda sample: [sample]):
        torch.linalg.svdvals(torch.stack([gradient[0].flatten() for gradient in gradients]))
    for layer in [m for m in net.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]:
        read = []
        handle = layer.register_forward_pre_hook(lambda module, args, r=read: r.append(args[0]))
        for gradients in one_by_one(net, x, lambda sample, r=read: [r.pop()]):
            jacobian = torch.stack([gradient[0].flatten() for gradient in gradients])
            torch.linalg.matrix_norm(jacobian, 2)
        handle.remove()


def joint(net: nn.Module, x: Tensor) -> None:
    """One sample and one output at a time, but all of its gradients in one pass."""
    parameters = list(net.parameters())
    for sample in x.split(1):
        sample = sample.clone().requires_grad_()
        output = net(sample)[0]
        rows, energy = [], 0.0
        for k in range(output.shape[0]):
            found = torch.autograd.grad(output[k], [sample, *parameters], retain_graph=True)
            rows.append(found[0].flatten())
            energy += sum(float(gradient.square().sum()) for gradient in found[1:])
        torch.linalg.svdvals(torch.stack(rows))


def floor(net: nn.Module, x: Tensor) -> None:
    """One forward pass and N plain batched backward passes, and nothing done with them."""
    x = x.clone().requires_grad_()
    targets = [x, *net.parameters()]
    output = net(x)
    for k in range(output.shape[1]):
        torch.autograd.grad(output[:, k].sum(), targets, retain_graph=True)


def backpack(net: nn.Module, x: Tensor) -> None:
    """Sharpness alone, from BackPACK's squared norms of per-sample gradients."""
    from backpack import backpack as context
    from backpack.extensions import BatchL2Grad

    # BackPACK's hooks want a gradient at the input; the networks here read x, so it is on.
    output = net(x.clone().requires_grad_())
    energy = 0.0
    for k in range(output.shape[1]):
        with context(BatchL2Grad(), retain_graph=True):
            output[:, k].sum().backward(retain_graph=True)
        energy += sum(float(p.batch_l2.sum()) for p in net.parameters())


def everything(net: nn.Module, x: Tensor) -> None:
    """``measure`` and all that a chapter reads of it, spectral norms of weights included."""
    operators.remembered_norm.cache_clear()  # norms are remembered; this is the first time
    m = flatlib.measure(net, x)
    m.summary()
    flatlib.bounds.chain(m)


def setting(name: str, n: int) -> dict[str, Callable[[], None]]:
    """The contenders on one network and batch."""
    make, shape = NETWORKS[name]
    single = make()
    double = copy.deepcopy(single).double()
    x = torch.rand(n, *shape, generator=torch.Generator().manual_seed(0))
    extended = _extended(double)
    return {
        "measure": lambda: flatlib.measure(single, x),
        "measure, summary and chain": lambda: everything(single, x),
        "naive": lambda: naive(double, x.double()),
        "joint": lambda: joint(double, x.double()),
        "floor": lambda: floor(double, x.double()),
        "backpack (S alone)": lambda: backpack(extended, x.double()),
    }


def _extended(net: nn.Module) -> nn.Module:
    from backpack import extend

    return extend(copy.deepcopy(net))


def compare(name: str, n: int, rounds: int) -> dict:
    """Medians of interleaved runs, and ratios of ``measure`` to the others."""
    times = interleaved(setting(name, n), rounds, wall_seconds, SLOW)
    medians = {label: statistics.median(values) for label, values in times.items()}
    return {
        "network": name,
        "samples": n,
        "median_seconds": medians,
        "runs": {label: len(values) for label, values in times.items()},
        "measure_over_floor": medians["measure"] / medians["floor"],
        "everything_over_floor": medians["measure, summary and chain"] / medians["floor"],
        "naive_over_measure": medians["naive"] / medians["measure"],
        "joint_over_measure": medians["joint"] / medians["measure"],
        "backpack_over_measure": medians["backpack (S alone)"] / medians["measure"],
        "peak_megabytes_above_start": in_own_process(_peak, name, n),
    }


def _peak(name: str, n: int) -> float:
    torch.set_num_threads(1)
    make, shape = NETWORKS[name]
    net, x = make(), torch.rand(n, *shape)
    everything(flatlib.nets.linear(2, 1), torch.ones(1, 2))  # libraries load before the start
    start = high_water_mark()
    everything(net, x)
    return high_water_mark() - start


def main(words: list[str] | None = None) -> None:
    """Run every setting, print a table, and write the record if asked."""
    options = arguments(__doc__, words, rounds=7)
    torch.set_num_threads(1)
    record = {"environment": environment(), "settings": []}
    for name in NETWORKS:
        for n in SAMPLES:
            found = compare(name, n, options.rounds)
            record["settings"].append(found)
            print(
                f"{name:6} n={n:<4} measure {1e3 * found['median_seconds']['measure']:7.1f} ms"
                f"  = {found['measure_over_floor']:.2f} x floor"
                f" ({found['everything_over_floor']:.2f} with summary and chain),"
                f" {found['naive_over_measure']:.0f} x faster than naive"
                f" ({found['joint_over_measure']:.0f} x than its joint form),"
                f" {found['backpack_over_measure']:.1f} x faster than BackPACK's S alone,"
                f" peak +{found['peak_megabytes_above_start']:.0f} MB",
                flush=True,
            )
    write_record(options.output, record)


if __name__ == "__main__":
    main()
