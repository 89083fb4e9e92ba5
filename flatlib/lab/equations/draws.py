"""Random numbers of the cases, each case from a seed of its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any

import torch
from torch import Tensor


class Draws:
    """Random numbers of one case, float64 where they are not whole.

    Case ``index`` of the stream that ``seed`` names; two streams meet nowhere in the first million
    cases.
    """

    def __init__(self, seed: int, index: int):
        self.index, self.seed = index, (1_000_003 * seed + index) % 2**63
        self.generator = torch.Generator().manual_seed(self.seed)

    def integer(self, low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def one_in(self, number: int) -> bool:
        return self.integer(1, number) == 1

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        unit = torch.rand(shape, generator=self.generator, dtype=torch.float64)
        return low + (high - low) * unit

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def direction(self, size: int) -> Tensor:
        vector = self.normal(size)
        return vector / vector.norm()

    def rotation(self, size: int) -> Tensor:
        return torch.linalg.qr(self.normal(size, size)).Q


def family(make: Callable[[Draws], Any]) -> Callable[[int], Any]:
    """A family of equality cases, made from a seed; the same seed, the same case."""
    return wraps(make)(lru_cache(maxsize=64)(lambda seed: make(Draws(7_919, seed))))
