"""Time and memory of ``flatlib.measure`` with ``method="matrix-free"`` on a vision transformer.

ViT-B/16 of torchvision, drawn at random, on two images of 224 x 224 pixels with 1,000 outputs.
The exact method would hold 1,000 gradients a sample at each layer; what it would need is told by
its refusal. Everything runs on one thread in float64, in a process of its own.

    python -m benchmarks.matrix_free [--probes 4] [--tolerance 1e-2] [--output FILE.json]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import time

import torch

import flatlib
from benchmarks.environment import environment
from benchmarks.measuring import high_water_mark
from flatlib.lab.data import vision

SAMPLES, PIXELS = 2, 224


def exact_needs(net: torch.nn.Module, x: torch.Tensor) -> float:
    """Megabytes that the exact method would need for one sample, without layers."""
    try:
        flatlib.measure(net, x, layers=False, max_memory=1, progress=False)
    except MemoryError as refusal:
        needed = re.search(r"need about ([\d,]+) bytes", str(refusal))[1]
        return int(needed.replace(",", "")) / 2**20
    raise AssertionError("a byte was enough")


def _measured(probes: int, tolerance: float, queue) -> None:
    torch.set_num_threads(1)
    vision.datasets()  # torchvision imports beside any build of torch after this
    from torchvision.models import vit_b_16

    torch.manual_seed(0)
    net = vit_b_16(weights=None).eval()
    torch.nn.init.normal_(net.heads.head.weight, std=0.02)  # it starts at 0, and so would all
    x = torch.rand(SAMPLES, 3, PIXELS, PIXELS)
    before, start = high_water_mark(), time.perf_counter()
    m = flatlib.measure(net, x, method="matrix-free", probes=probes, tolerance=tolerance)
    seconds, peak = time.perf_counter() - start, high_water_mark()
    summary = m.summary()
    queue.put(
        {
            "network": "vit_b_16",
            "samples": SAMPLES,
            "outputs": m.n_outputs,
            "input_dimension": m.input_dimension,
            "probes": probes,
            "tolerance": tolerance,
            "products": m.n_products,
            "seconds": seconds,
            "peak_megabytes": peak,
            "megabytes_before": before,
            "megabytes_that_the_exact_method_needs_for_one_sample": exact_needs(net, x),
            "summary": summary,
            "largest_mls_residual_over_mls": float((m.mls_residual / m.mls).max()),
        }
    )


def main(words: list[str] | None = None) -> None:
    """Run it, print a line, and write the record if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--probes", type=int, default=4)
    parser.add_argument("--tolerance", type=float, default=1e-2)
    parser.add_argument("--output", help="file to write the record to, as JSON")
    arguments = parser.parse_args(words)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_measured, args=(arguments.probes, arguments.tolerance, queue))
    process.start()
    found = queue.get()
    process.join()
    print(
        f"ViT-B/16, {found['samples']} images: {found['products']} products in "
        f"{found['seconds']:.0f} s, peak {found['peak_megabytes']:.0f} MB (the exact method: "
        f"{found['megabytes_that_the_exact_method_needs_for_one_sample']:.0f} MB a sample)"
    )
    if arguments.output:
        with open(arguments.output, "w", encoding="utf-8") as file:
            json.dump({"environment": environment(), "settings": [found]}, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
