r"""The largest singular value of a matrix that is known by its products, with a bound on the error.

In the space that :math:`u, A u, A^2 u, \dots` span, with :math:`A = J J^\top` and u random, the
largest Ritz pair :math:`(\sigma^2, y)` has the residual :math:`r = \lVert A y - \sigma^2 y\rVert`.
An eigenvalue of A lies within r of :math:`\sigma^2`, so a singular value of J lies within
:math:`r / \sigma` of :math:`\sigma`. The residual is that of the products themselves, not of a
recurrence. Rayleigh's quotient makes :math:`\sigma` no larger than :math:`\sigma_1`. The residual
cannot tell that the singular value nearby is :math:`\sigma_1` and not a smaller one; that the start
is random does, but for a chance that falls off with every product (Kuczynski and Wozniakowski,
1992).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

STEPS = 8  # at least, if the matrix is as large: a start near another singular vector moves off it
SAME = 1e-6  # of ||J^T u||^2: u . J J^T u is the same number
ROUNDING = 1e-12  # of the largest ||J^T u||: by so much each of the two vectors there is off
# A matrix whose largest product is smaller loses digits below float64's smallest normal number.
FEWER_DIGITS = sys.float_info.min / sys.float_info.epsilon
NOTHING = 1e-13  # of the largest eigenvalue: what rounding leaves once the space holds its image


class Products(Protocol):
    """Products with a matrix ``J``, ``(N, M)``, for each of n samples."""

    def transposed(self, u: Tensor) -> Tensor:
        """``J^T u``, ``(n, N)`` to ``(n, M)``."""

    def __call__(self, v: Tensor) -> Tensor:
        """``J v``, ``(n, M)`` to ``(n, N)``."""


@dataclass(frozen=True)
class Top:
    """The largest singular value of one sample's ``J``, and the space that it was found in."""

    value: float  # never above the largest one, but for rounding
    residual: float  # a singular value lies within this of ``value``
    basis: Tensor  # V, (N, k), orthonormal columns
    projected: Tensor  # V^T J J^T V, (k, k)
    n_products: int  # with J and J^T together, 2 k


def largest_singular_values(
    products: Products,
    start: Tensor,
    samples: Sequence[int],
    tolerance: float,
    max_products: int,
    done: Callable[[int], object] = int,
) -> list[Top]:
    """The largest singular value of each sample's ``J``, by Lanczos with full orthogonalization.

    Args:
        products: with the Jacobians of n samples.
        start: random, ``(N,)``.
        samples: their indices, for errors.
        tolerance: a sample is finished once its residual is no more than this share of its value.
        max_products: the most products a sample takes; at least 2.
        done: is told the number of samples that each product was made for.

    Raises:
        ValueError: what should be products with J are no transpose of those with J^T.

    >>> class Diagonal:
    ...     def transposed(self, u):
    ...         return u * torch.tensor([[3.0, 4.0]]).double()
    ...
    ...     __call__ = transposed
    >>> start = torch.tensor([0.6, 0.8]).double()
    >>> top = largest_singular_values(Diagonal(), start, [0], 1e-8, 100)[0]
    >>> round(top.value, 12), top.n_products
    (4.0, 4)
    """
    n, N = len(samples), len(start)
    most = min(N, max_products // 2)
    basis = start.new_zeros(n, N, most)
    images = torch.zeros_like(basis)  # A of each column of the basis
    v = (start / start.norm()).expand(n, N)
    scale: Tensor | None = None
    largest = start.new_zeros(n)  # energy
    found: list[Top | None] = [None] * n
    for k in range(1, most + 1):
        at_input = products.transposed(v)
        if scale is None:  # the square of J may leave the range of float64
            scale = at_input.abs().amax(dim=1, keepdim=True)
            scale = scale.masked_fill(scale == 0, 1.0)
        at_input = at_input / scale
        image = products(at_input) / scale
        energy, product = at_input.square().sum(dim=1), (v * image).sum(dim=1)
        largest = torch.maximum(largest, energy)
        product = product.where(scale[:, 0] > FEWER_DIGITS, energy)
        _check_transposed(energy, product, largest, samples)
        done(2 * n)
        basis[:, :, k - 1], images[:, :, k - 1] = v, image
        V, AV = basis[:, :, :k], images[:, :, :k]
        projected = V.mT @ AV
        projected = (projected + projected.mT) / 2
        values, vectors = torch.linalg.eigh(projected)
        square, y = values[:, -1:].clamp_min(0.0), vectors[:, :, -1:]
        residual = torch.linalg.vector_norm((AV - square[..., None] * V) @ y, dim=(1, 2))
        for _ in range(2):  # once more for what rounding has left
            image = image - (V @ (V.mT @ image[..., None]))[..., 0]
        beyond = torch.linalg.vector_norm(image, dim=1, keepdim=True)
        whole = beyond <= NOTHING * square  # the space holds its own image
        v = torch.where(whole, 0.0, image / beyond.masked_fill(whole, 1.0))
        for i in range(n):
            small = residual[i] <= tolerance * square[i] and (k >= min(STEPS, N) or whole[i])
            if found[i] is None and (small or k == most):
                found[i] = _top(square[i], residual[i], scale[i], V[i], projected[i])
        if all(found):
            break
    return found


def _check_transposed(
    energy: Tensor, product: Tensor, largest: Tensor, samples: Sequence[int]
) -> None:
    """Refuse ``||J^T u||^2`` and ``u . J J^T u`` that differ.

    Where u is outside of J's range both are rounding, next to the ``largest`` one so far.
    """
    rounding = ROUNDING * (largest * energy).sqrt()
    differ = ~((energy - product).abs() <= SAME * energy + rounding)
    if bool(differ.any()):
        sample = samples[int(differ.nonzero()[0, 0])]
        raise ValueError(
            f"the second derivative of the network is wrong for sample {sample}: products with its "
            "Jacobian and with the transpose do not belong to one matrix (a "
            "torch.autograd.Function whose backward is once_differentiable or leaves autograd?); "
            'mend its backward, or use method="exact"'
        )


def _top(square: Tensor, residual: Tensor, scale: Tensor, V: Tensor, projected: Tensor) -> Top:
    """What was found for one sample, in the units of its own ``J``."""
    value = float(square.sqrt() * scale)
    within = float(residual / square.sqrt() * scale) if value > 0 else 0.0
    return Top(value, within, V.clone(), projected * scale**2, 2 * V.shape[1])
