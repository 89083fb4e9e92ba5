"""Time and memory of ``flatlib.measure`` where a single Jacobian takes more than a gigabyte.

ResNet-18 of torchvision, drawn at random, on one image of 224 x 224 pixels with 1,000 outputs, with
``layers=False``. Everything runs on one thread in float64, in a process of its own. The seconds are
the processor's, since the clock's depend on what else the machine does.

    python -m benchmarks.large [--output FILE.json]
"""

from __future__ import annotations

import math
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

PIXELS = 224


def measured() -> dict:
    """One measurement, and what it took."""
    torch.set_num_threads(1)
    vision.datasets()  # torchvision imports beside any build of torch after this
    from torchvision.models import resnet18

    torch.manual_seed(0)
    net, x = resnet18(weights=None).eval(), torch.rand(1, 3, PIXELS, PIXELS)
    before, start = high_water_mark(), time.process_time()
    m = flatlib.measure(net, x, layers=False)
    return {
        "network": "resnet18",
        "samples": len(x),
        "outputs": m.n_outputs,
        "input_dimension": m.input_dimension,
        "processor_seconds": time.process_time() - start,
        "peak_megabytes": high_water_mark(),
        "megabytes_before": before,
        "megabytes_of_one_jacobian": 8 * m.n_outputs * m.input_dimension / 2**20,
        # A volume is 0 here, and JSON has no infinity for its logarithm.
        "summary": {name: value for name, value in m.summary().items() if math.isfinite(value)},
    }


def main(words: list[str] | None = None) -> None:
    """Run it, print a line, and write the record if asked."""
    options = arguments(__doc__, words)
    found = in_own_process(measured)
    print(
        f"ResNet-18, one image: {found['processor_seconds']:.0f} s, peak "
        f"{found['peak_megabytes']:.0f} MB (its Jacobian: "
        f"{found['megabytes_of_one_jacobian']:.0f} MB)"
    )
    write_record(options.output, {"environment": environment(), "settings": [found]})


if __name__ == "__main__":
    main()
