"""What a benchmark ran on."""

from __future__ import annotations

import os
import platform

import numpy
import torch

from flatlib.lab.experiments.provenance import processor


def environment() -> dict:
    """Versions, processor and threads."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "load_average": os.getloadavg()[0],
    }
