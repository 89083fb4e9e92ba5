"""``flatlib.measure`` over the floor on more networks, and how its time grows with n and N.

The floor is one forward and N plain backward passes in float64, as in `benchmarks.measuring`. Runs
are interleaved; the seconds are the processor's, since the clock's depend on what else the machine
does. Everything runs on one thread.

    python -m benchmarks.floors [--rounds 5] [--output FILE.json]
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable
from functools import partial

import numpy
import torch
from torch import nn

import flatlib
from benchmarks.environment import arguments, environment, write_record
from benchmarks.measuring import floor
from benchmarks.rounds import interleaved, processor_seconds
from flatlib.lab.data import vision


def small_cnn() -> nn.Module:
    """Two convolutions and 1,000 outputs, for images of 28 x 28 pixels."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(16 * 7 * 7, 1000)),
    )


def resnet50() -> nn.Module:
    """ResNet-50 with 10 outputs."""
    from torchvision.models import resnet50

    return resnet50(weights=None, num_classes=10)


def vit_tiny() -> nn.Module:
    """A vision transformer of width 192 and depth 12 with 3 heads and 10 outputs."""
    from torchvision.models import VisionTransformer

    return VisionTransformer(64, 8, 12, 3, 192, 768, num_classes=10)


NETWORKS = {  # network, samples, shape of a sample, the most that is aimed at
    "mlp": (lambda: flatlib.nets.mlp((784, 500, 500, 500, 10)), 100, (784,), 0.8),
    "vgg10": (flatlib.nets.vgg10, 100, (3, 32, 32), 0.9),
    "small CNN, 1,000 outputs": (small_cnn, 4, (1, 28, 28), 1.5),
    "resnet50, 64 pixels": (resnet50, 10, (3, 64, 64), 2.0),
    "vit-tiny, 64 pixels": (vit_tiny, 10, (3, 64, 64), 1.5),
}
SAMPLES, OUTPUTS = (25, 50, 100, 200, 400), (5, 10, 20, 40, 80)


def over_floor(name: str, rounds: int) -> dict:
    """Medians of interleaved runs."""
    make, n, shape, aim = NETWORKS[name]
    torch.manual_seed(0)
    net = make().eval()
    double, x = copy.deepcopy(net).double(), torch.rand(n, *shape)
    runs = {
        "measure": lambda: flatlib.measure(net, x),
        "floor": lambda: floor(double, x.double()),
    }
    times = interleaved(runs, rounds, processor_seconds)
    medians = {label: statistics.median(values) for label, values in times.items()}
    return {
        "network": name,
        "samples": n,
        "median_processor_seconds": medians,
        "measure_over_floor": medians["measure"] / medians["floor"],
        "aim": aim,
    }


def growth(rounds: int) -> dict:
    """The exponents of n and of N in the time of an MLP, by least squares of logarithms."""

    def exponent(sizes: tuple[int, ...], setting: Callable[[int], tuple]) -> float:
        runs = {size: partial(flatlib.measure, *setting(size)) for size in sizes}
        times = interleaved(runs, rounds, processor_seconds)
        medians = [statistics.median(times[size]) for size in sizes]
        return float(numpy.polyfit(numpy.log(sizes), numpy.log(medians), 1)[0])

    def of_samples(n: int) -> tuple[nn.Module, torch.Tensor]:
        return flatlib.nets.mlp((784, 500, 500, 500, 10)), torch.rand(n, 784)

    def of_outputs(N: int) -> tuple[nn.Module, torch.Tensor]:
        return flatlib.nets.mlp((784, 500, 500, 500, N)), torch.rand(100, 784)

    return {
        "samples": SAMPLES,
        "exponent_of_samples": exponent(SAMPLES, of_samples),
        "outputs": OUTPUTS,
        "exponent_of_outputs": exponent(OUTPUTS, of_outputs),
    }


def main(words: list[str] | None = None) -> None:
    """Run every setting, print a line each, and write the record if asked."""
    options = arguments(__doc__, words, rounds=5)
    torch.set_num_threads(1)
    vision.datasets()  # torchvision imports beside any build of torch after this
    record = {"environment": environment(), "settings": []}
    for name in NETWORKS:
        found = over_floor(name, options.rounds)
        record["settings"].append(found)
        seconds = found["median_processor_seconds"]
        print(
            f"{name:26} measure {seconds['measure']:.3f} s = {found['measure_over_floor']:.2f} x "
            f"floor (aimed at: {found['aim']} x)",
            flush=True,
        )
    record["growth"] = growth(options.rounds)
    print(
        f"time grows as n^{record['growth']['exponent_of_samples']:.2f} and "
        f"N^{record['growth']['exponent_of_outputs']:.2f}"
    )
    write_record(options.output, record)


if __name__ == "__main__":
    main()
