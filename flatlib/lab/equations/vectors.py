"""Vectors for Appendix B's lemmas: random ones, and the gradient norms of drawn networks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from flatlib.lab.equations.cases import draw, stream


@dataclass(frozen=True)
class Vector:
    """A vector and two exponents, 1 <= p <= q."""

    v: Tensor  # (n,)
    p: float
    q: float  # may be infinite

    @property
    def n(self) -> int:
        return len(self.v)


def _exponents(generator: torch.Generator) -> tuple[float, float]:
    p, step = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    p = 1 + 4 * p
    return p, p + 0.1 + 4 * step


@lru_cache(maxsize=1024)
def draw_vector(seed: int, index: int) -> Vector:
    """Gaussian, heavy-tailed and sparse vectors, and a network's ``||grad_theta f_i||_F``.

    >>> draw_vector(0, 0).p <= draw_vector(0, 0).q
    True
    """
    generator = torch.Generator().manual_seed(stream(seed, index))
    p, q = _exponents(generator)
    if index % 8 == 4:
        q = math.inf
    size = int(torch.randint(1, 21, (), generator=generator))
    v = torch.randn(size, generator=generator, dtype=torch.float64)
    if index % 4 == 1:
        v = v * 10 ** (6 * torch.rand(size, generator=generator, dtype=torch.float64) - 3)
    elif index % 4 == 2:
        v = v * (torch.rand(size, generator=generator) < 0.3)
    elif index % 4 == 3:
        v = draw(seed, index).grad_theta_F
    return Vector(v, p, q)


@lru_cache(maxsize=64)
def one_entry(seed: int) -> Vector:
    """All entries but one are zero, so that every p-norm is the same."""
    generator = torch.Generator().manual_seed(stream(7_919, seed))
    v = torch.zeros(5 + seed % 3, dtype=torch.float64)
    v[seed % 5] = torch.randn((), generator=generator, dtype=torch.float64)
    return Vector(v, *_exponents(generator))


@lru_cache(maxsize=64)
def one_size(seed: int) -> Vector:
    """All entries have one absolute value."""
    generator = torch.Generator().manual_seed(stream(7_919, seed))
    signs = torch.randn(5 + seed % 3, generator=generator, dtype=torch.float64).sign()
    return Vector((0.5 + seed % 3) * signs, *_exponents(generator))
