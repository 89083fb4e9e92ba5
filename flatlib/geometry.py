"""Feature space: what the singular values of a Jacobian say about the representation.

Every function takes singular values of shape ``(n, K)``, descending, one row a sample, and
returns ``(n,)``. Volumes are logarithms; a rank-deficient Jacobian has log volume ``-inf``.
"""

from __future__ import annotations

import torch
from torch import Tensor

# A Jacobian reached by backpropagation carries a few rounding errors of its largest singular
# value, so what lies below this many units of rounding is zero as far as float64 can tell.
MINIMUM_RANK_UNITS = 64


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
    # A thin QR first makes the tall problem N x N; Householder QR keeps the small singular
    # values to rounding of the largest, which the Gram matrix would not.
    tall = jacobian.mT
    triangle = torch.linalg.qr(tall, mode="r").R if M > N else tall
    values = torch.linalg.svdvals(triangle)
    cutoff = max(MINIMUM_RANK_UNITS, N, M) * torch.finfo(values.dtype).eps
    values = values.masked_fill(values <= cutoff * values[:, :1], 0.0)
    return torch.nn.functional.pad(values, (0, N - values.shape[1]))


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
