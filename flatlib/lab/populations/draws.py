"""Hyper-parameters drawn at random: each a pure function of population, index and its own name.

No generator goes from one draw to the next, so any network can be drawn alone, and a further
hyper-parameter leaves those before it as they were.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

DIGITS = 4  # significant digits of a drawn rate, so that a reader can type it
T = TypeVar("T")


def uniform(population: str, index: int, name: str) -> float:
    """A number from 0 up to 1, uniform over indices and independent over names.

    The first 53 bits of the SHA-256 of the three, divided by 2^53.

    >>> uniform("a", 0, "lr") == uniform("a", 0, "lr") != uniform("a", 0, "batch size")
    True
    """
    digest = hashlib.sha256(f"{population}:{index}:{name}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def log_uniform(u: float, low: float, high: float) -> float:
    """The number at ``u`` of the log-uniform distribution from low to high, to four digits.

    >>> log_uniform(0.0, 0.01, 1.0), log_uniform(0.5, 0.01, 1.0)
    (0.01, 0.1)
    """
    return float(f"{low * (high / low) ** u:.{DIGITS}g}")


def log_uniform_integer(u: float, low: int, high: int) -> int:
    """The whole number at ``u`` of the log-uniform distribution, both ends included.

    k has the probability ``log((k + 1) / k) / log((high + 1) / low)``.

    >>> [log_uniform_integer(u, 1, 3) for u in (0.0, 0.49, 0.51, 0.99)]
    [1, 1, 2, 3]
    """
    return min(int(low * ((high + 1) / low) ** u), high)


def choice(u: float, among: Sequence[T]) -> T:
    """The member at ``u``, all of them equally likely.

    >>> choice(0.5, (2, 3, 4))
    3
    """
    return among[int(u * len(among))]
