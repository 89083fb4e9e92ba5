"""Feature space: what the singular values of a Jacobian say about the representation.

Every function takes singular values of shape ``(n, K)``, descending, one row a sample, and
returns ``(n,)``. Volumes are logarithms; a rank-deficient Jacobian has log volume ``-inf``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

# A Jacobian reached by backpropagation carries a few rounding errors of its largest singular
# value, so what lies below this many units of rounding is zero as far as float64 can tell.
MINIMUM_RANK_UNITS = 64
# Where squared singular values span less than this, a Gram matrix keeps 13 of float64's 16 digits.
GRAM_SPAN = 1e3
GRAM_OUTPUTS = 64  # with more outputs than this they hardly ever do
SQUARES = (1e-200, 1e200)  # what may be squared without loss


def singular_values(jacobian: Tensor) -> Tensor:
    r"""Singular values of each sample's Jacobian.

    Values below ``max(64, N, M)`` units of float64 rounding of the largest are set to 0, and a
    Jacobian with more outputs than inputs gets zeros appended, so that a rank-deficient
    Jacobian has volume exactly 0.

    Args:
        jacobian: ``(n, N, M)`` float64.

    Returns:
        ``(n, N)`` float64, descending.

    Source: Eqs. (10), (13) and (14) are functions of these numbers.

    >>> singular_values(torch.tensor([[[0.0, 3.0, 0.0], [4.0, 0.0, 0.0]]]).double())
    tensor([[4., 3.]], dtype=torch.float64)
    """
    n, N, M = jacobian.shape
    if M <= N:
        values = _at_any_size(torch.linalg.svdvals, jacobian)
        return torch.nn.functional.pad(_cut(values, N, M), (0, N - M))
    values, wide = jacobian.new_empty((n, N)), torch.ones_like(jacobian[:, 0, 0], dtype=torch.bool)
    if N <= GRAM_OUTPUTS:
        squared = _gram_eigenvalues(jacobian)
        values, wide = squared.sqrt(), ~(squared[:, 0] < GRAM_SPAN * squared[:, -1])
    if bool(wide.any()):
        values[wide] = _cut(_at_any_size(_by_triangles, jacobian[wide]), N, M)
    return values


def largest_singular_value(jacobian: Tensor) -> Tensor:
    """The largest singular value of each sample's Jacobian alone.

    Args:
        jacobian: ``(n, N, M)`` float64.

    Returns:
        ``(n,)`` float64.

    >>> largest_singular_value(torch.tensor([[[3.0], [4.0]]]).double())
    tensor([5.], dtype=torch.float64)
    """
    n, N, M = jacobian.shape
    largest = _gram_eigenvalues(jacobian if N <= M else jacobian.mT)[:, 0].sqrt()
    lost = largest == 0
    if bool(lost.any()):
        largest[lost] = _at_any_size(torch.linalg.svdvals, jacobian[lost])[:, 0]
    return largest


def _gram_eigenvalues(matrix: Tensor) -> Tensor:
    """Squared singular values, descending, to rounding of the largest; 0 where squaring loses."""
    gram = matrix @ matrix.mT
    size = gram.diagonal(dim1=1, dim2=2).amax(dim=1)
    keeps = (size > SQUARES[0]) & (size < SQUARES[1])
    return torch.linalg.eigvalsh(gram.masked_fill(~keeps[:, None, None], 0.0)).flip(1).clamp(min=0)


def _by_triangles(wide: Tensor) -> Tensor:
    """Singular values by Householder QR, which makes the problem N x N.

    It keeps the small ones to rounding of the largest, which the Gram matrix would not.
    """
    return torch.linalg.svdvals(torch.linalg.qr(wide.mT, mode="r").R)


def _at_any_size(values_of: Callable[[Tensor], Tensor], matrices: Tensor) -> Tensor:
    """``values_of`` matrices on any device.

    A GPU's decompositions square the entries, which overflows or underflows where the values do
    not. LAPACK, on the CPU, sees to this itself.
    """
    return values_of(matrices) if matrices.is_cpu else _at_unit_size(values_of, matrices)


def _at_unit_size(values_of: Callable[[Tensor], Tensor], matrices: Tensor) -> Tensor:
    """``values_of`` matrices whose largest entries are near 1, brought back to their own size.

    The sizes are powers of 2, so nothing is rounded.
    """
    largest = torch.linalg.vector_norm(matrices, math.inf, dim=(1, 2))
    exponent = torch.frexp(largest).exponent.to(largest).clamp(min=-1021)
    size = torch.exp2(exponent - 1)
    size = torch.where((largest > 0) & largest.isfinite(), size, 1.0)
    return values_of(matrices / size[:, None, None]) * size[:, None]


def _cut(values: Tensor, N: int, M: int) -> Tensor:
    """Singular values, 0 where they are nothing but rounding."""
    cutoff = max(MINIMUM_RANK_UNITS, N, M) * torch.finfo(values.dtype).eps
    return values.masked_fill(values <= cutoff * values[:, :1], 0.0)


def mls(s: Tensor) -> Tensor:
    """Maximum local sensitivity, the largest singular value: Sec. 3.2.

    Args:
        s: singular values ``(n, K)``, descending.

    Returns:
        ``(n,)``, in units of output per unit of input.

    >>> mls(torch.tensor([[4.0, 3.0]]))
    tensor([4.])
    """
    return s[:, 0]


def gradient_energy(s: Tensor) -> Tensor:
    r"""Squared Frobenius norm of the input Jacobian; its mean over samples is G of Eq. (6).

    Args:
        s: singular values ``(n, K)``.

    Returns:
        ``(n,)``.

    >>> gradient_energy(torch.tensor([[4.0, 3.0]]))
    tensor([25.])
    """
    return s.square().sum(dim=1)


def log_volume(s: Tensor) -> Tensor:
    r"""Logarithm of the local volume, ``log sqrt(det(J J^T))``: Eq. (10).

    Args:
        s: singular values ``(n, K)``.

    Returns:
        ``(n,)``, ``-inf`` where a singular value is 0.

    >>> log_volume(torch.tensor([[4.0, 0.25], [1.0, 0.0]]))
    tensor([0., -inf])
    """
    return s.log().sum(dim=1)


def log_volume_top(s: Tensor, k: int = 3) -> Tensor:
    r"""Log volume of the k largest singular values only, which the authors' code plots.

    Args:
        s: singular values ``(n, K)``, descending.
        k: how many of them; all if K is smaller.

    Returns:
        ``(n,)``.

    >>> log_volume_top(torch.tensor([[4.0, 0.5, 0.5, 0.1]]), 3)
    tensor([0.])
    """
    return log_volume(s[:, :k])


def local_dimensionality(s: Tensor) -> Tensor:
    r"""Participation ratio of the eigenvalues ``s**2`` of ``J J^T``: Eq. (14).

    Args:
        s: singular values ``(n, K)``.

    Returns:
        ``(n,)``, between 1 and the rank; ``nan`` for a zero Jacobian, which has no direction.

    >>> local_dimensionality(torch.tensor([[2.0, 2.0, 0.0], [5.0, 0.0, 0.0]]))
    tensor([2., 1.])
    """
    # Scale-free, so divide by the largest first: no overflow or underflow in the fourth power.
    relative = (s / s[:, :1]).square()
    return relative.sum(dim=1).square() / relative.square().sum(dim=1)
