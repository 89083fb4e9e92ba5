"""torchvision's data sets, also beside a build of torch without its compiled operators."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

from .folder import DataError

_MISSING_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[torch.library.Library] = []


def datasets() -> ModuleType:
    """The module ``torchvision.datasets``.

    A torchvision built for CUDA refuses to import beside a CPU build of torch, because the
    compiled operators that it describes to torch are not there: pytorch/vision issue 8985, open,
    and pytorch/pytorch issue 122494, in all versions that pyproject.toml allows. Data sets need
    none of them, so their names are declared and the import is tried again. A healthy torchvision
    is not touched. tests/test_guards.py tells when the guard can go.

    Raises:
        DataError: torchvision is not installed, or fails to import for another reason.
    """
    try:
        return importlib.import_module("torchvision.datasets")
    except ModuleNotFoundError as fault:
        raise DataError(
            f"downloading this data set needs torchvision ({fault}); "
            "install it with: pip install torchvision"
        ) from fault
    except RuntimeError as fault:
        if "torchvision::nms" not in str(fault):
            raise DataError(f"torchvision does not import: {fault}") from fault
    _declare_operators()
    return importlib.import_module("torchvision.datasets")


def _declare_operators() -> None:
    """Tell torch the names of the operators that torchvision wants to describe."""
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    if not _declared:
        library = torch.library.Library("torchvision", "DEF")
        for operator in _MISSING_OPERATORS:
            library.define(operator)
        _declared.append(library)
