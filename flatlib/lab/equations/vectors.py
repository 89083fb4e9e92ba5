"""Vectors for Appendix B's lemmas: random ones, and the gradient norms of drawn networks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from flatlib.lab.equations.cases import draw
from flatlib.lab.equations.draws import Draws, family


@dataclass(frozen=True)
class Vector:
    """A vector and two exponents, 1 <= p <= q."""

    v: Tensor  # (n,)
    p: float
    q: float  # may be infinite

    n = property(lambda c: len(c.v))


def _exponents(draws: Draws) -> tuple[float, float]:
    p, step = draws.uniform(0, 1, 2).tolist()
    p = 1 + 4 * p
    return p, p + 0.1 + 4 * step


@lru_cache(maxsize=1024)
def draw_vector(seed: int, index: int) -> Vector:
    """Gaussian, heavy-tailed and sparse vectors, and a network's ``||grad_theta f_i||_F``.

    >>> draw_vector(0, 0).p <= draw_vector(0, 0).q
    True
    """
    draws = Draws(seed, index)
    p, q = _exponents(draws)
    if index % 8 == 4:
        q = math.inf
    size = draws.integer(1, 20)
    v = draws.normal(size)
    if index % 4 == 1:
        v = v * 10 ** draws.uniform(-3, 3, size)
    elif index % 4 == 2:
        v = v * (torch.rand(size, generator=draws.generator) < 0.3)
    elif index % 4 == 3:
        v = draw(seed, index).grad_theta_F
    return Vector(v, p, q)


@family
def one_entry(draws: Draws) -> Vector:
    """All entries but one are zero, so that every p-norm is the same."""
    v = torch.zeros(5 + draws.index % 3, dtype=torch.float64)
    v[draws.index % 5] = draws.normal()
    return Vector(v, *_exponents(draws))


@family
def one_size(draws: Draws) -> Vector:
    """All entries have one absolute value."""
    signs = draws.normal(5 + draws.index % 3).sign()
    return Vector((0.5 + draws.index % 3) * signs, *_exponents(draws))
