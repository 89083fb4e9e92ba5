"""Inputs that the tests draw."""

from __future__ import annotations

import torch
from torch import Tensor


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    """Normal float32 numbers, the same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
