"""Time and memory of ``flatlib.measure`` with ``method="matrix-free"`` on a vision transformer.

ViT-B/16 of torchvision, drawn at random, on two images of 224 x 224 pixels with 1,000 outputs.
Everything runs on one thread in float64, in a process of its own. The seconds are the processor's,
since the clock's depend on what else the machine does.

    python -m benchmarks.matrix_free [--probes 2] [--tolerance 5e-2] [--output FILE.json]
"""

from __future__ import annotations

import time

import torch

import flatlib
from benchmarks.environment import (
    arguments,
    environment,
    high_water_mark,
    in_own_process,
    write_record,
)
from flatlib.lab.data import vision

SAMPLES, PIXELS = 2, 224


def _measured(probes: int, tolerance: float) -> dict:
    torch.set_num_threads(1)
    vision.datasets()  # torchvision imports beside any build of torch after this
    from torchvision.models import vit_b_16

    torch.manual_seed(0)
    net = vit_b_16(weights=None).eval()
    torch.nn.init.normal_(net.heads.head.weight, std=0.02)  # it starts at 0, and so would all
    x = torch.rand(SAMPLES, 3, PIXELS, PIXELS)
    before, start = high_water_mark(), time.process_time()
    m = flatlib.measure(net, x, method="matrix-free", probes=probes, tolerance=tolerance)
    seconds, peak = time.process_time() - start, high_water_mark()
    summary = m.summary()
    return {
        "network": "vit_b_16",
        "samples": SAMPLES,
        "outputs": m.n_outputs,
        "input_dimension": m.input_dimension,
        "probes": probes,
        "tolerance": tolerance,
        "products": m.n_products,
        "processor_seconds": seconds,
        "peak_megabytes": peak,
        "megabytes_before": before,
        "megabytes_of_one_jacobian": 8 * m.n_outputs * m.input_dimension / 2**20,
        "summary": summary,
        "largest_mls_residual_over_mls": float((m.mls_residual / m.mls).max()),
    }


def main(words: list[str] | None = None) -> None:
    """Run it, print a line, and write the record if asked."""
    options = arguments(__doc__, words, probes=2, tolerance=5e-2)
    found = in_own_process(_measured, options.probes, options.tolerance)
    print(
        f"ViT-B/16, {found['samples']} images: {found['products']} products in "
        f"{found['processor_seconds']:.0f} s, peak {found['peak_megabytes']:.0f} MB (one Jacobian: "
        f"{found['megabytes_of_one_jacobian']:.0f} MB)"
    )
    write_record(options.output, {"environment": environment(), "settings": [found]})


if __name__ == "__main__":
    main()
