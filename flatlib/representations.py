"""What a layer makes of many samples: the dimension of the cloud, its classes, its stability.

Jacobians say what a network does around one sample, see `flatlib.geometry`. The functions here
take the layer's values for a set of samples, ``(n, d)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

CUT = 3  # highest frequency of a deformation, in half waves a side


def participation_ratio(h: Tensor) -> float:
    r"""The dimension of a cloud of points: the participation ratio of its covariance C.

    .. math:: D_{\mathrm{PR}} = \frac{(\operatorname{Tr}C)^2}{\operatorname{Tr}C^2}

    Args:
        h: one row a sample, ``(n, d)``.

    Returns:
        A number from 1, for points on a line, to d, for a covariance that is alike in all
        directions; NaN where all points are equal.

    Raises:
        TypeError: no tensor, or complex numbers.
        ValueError: another shape, fewer than two samples, or numbers that are not finite.

    Source: Eq. (14) has the same ratio of a Jacobian; of a cloud, Recanatesi et al. (2019).

    >>> corners = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    >>> participation_ratio(corners), participation_ratio(corners[:2])
    (2.0, 1.0)
    """
    points = _points(h)
    s = torch.linalg.svdvals(points - points.mean(dim=0))
    if not bool((s > _rounding(h)).any()):
        return math.nan
    variances = (s / s.max()).square()
    return float(variances.sum()) ** 2 / float(variances.square().sum())


def neural_collapse(h: Tensor, classes: Tensor) -> float:
    r"""Spread within the classes over spread between them, the first measure of neural collapse.

    .. math:: \mathrm{NC}_1 = \tfrac1K\operatorname{Tr}\big(\Sigma_W\Sigma_B^{+}\big)

    :math:`\Sigma_W` is the mean over samples of the covariance around their class's mean,
    :math:`\Sigma_B` the covariance of the K means, each counted once, and + the pseudoinverse.

    Args:
        h: one row a sample, ``(n, d)``.
        classes: the number of each sample's class, ``(n,)``.

    Returns:
        0 where every class is one point; NaN where all means are equal.

    Raises:
        TypeError: no tensors, or complex numbers.
        ValueError: shapes that do not fit, fewer than two classes, or numbers that are not
            finite.

    Source: Papyan, Han and Donoho (2020).

    >>> points = torch.tensor([[1.0], [3.0], [-1.0], [-3.0]])  # means 2 and -2, variance 1 within
    >>> neural_collapse(points, torch.tensor([0, 0, 1, 1]))  # 1 / 4 over K = 2
    0.125
    """
    h = _points(h)
    _check_tensor("classes", classes)
    if classes.shape != h.shape[:1]:
        raise ValueError(f"need one class a sample, got {tuple(classes.shape)} for {len(h)}")
    numbers, index = classes.unique(return_inverse=True)
    K = len(numbers)
    if K < 2:
        raise ValueError(f"need at least two classes, got {K}")
    member = torch.nn.functional.one_hot(index, K).to(h)
    means = (member.T @ h) / member.sum(dim=0)[:, None]
    between = (means - means.mean(dim=0)) / math.sqrt(K)  # Sigma_B = between^T between
    within = (h - means[index]) / math.sqrt(len(h))
    _, s, vh = torch.linalg.svd(between, full_matrices=False)
    real = s > _rounding(h)
    if not real.any():
        return math.nan
    return float(((within @ vh[real].T) / s[real]).square().sum()) / K


def deformed(images: Tensor, displacement: float, *, cut: int = CUT, seed: int = 0) -> Tensor:
    r"""Images whose pixels are moved a little, each by a smooth random field of its own.

    .. math:: \tau(u,v) = \sum_{i^2+j^2\le c^2} C_{ij}\sin(i\pi u)\sin(j\pi v),\qquad
       C_{ij}\sim\mathcal N\Big(0,\frac{\lambda}{i^2+j^2}\Big)

    for each of the two coordinates, over a square of side 1; the border stays where it is, and
    pixels between pixels are interpolated.

    Args:
        images: ``(n, channels, height, width)``, floating point.
        displacement: root mean square length of a pixel's move, in pixels, which sets lambda.
        cut: the frequency c.
        seed: of the fields.

    Returns:
        Images of the same shape.

    Raises:
        TypeError: no tensor, or numbers that are not floating point.
        ValueError: another shape, a displacement that is negative or not finite, a cut below 2 or
            not below the number of pixels a side.

    Source: Petrini et al. (2021).

    >>> image = torch.rand(1, 1, 8, 8)
    >>> torch.allclose(deformed(image, 0.0), image, atol=1e-6)
    True
    """
    _check_tensor("images", images)
    if not images.is_floating_point():
        raise TypeError(
            f"images must hold real floating-point numbers, got {images.dtype}; pass "
            "images.float() if they are pixels"
        )
    if images.dim() != 4:
        raise ValueError(f"images must be (n, channels, height, width), got {tuple(images.shape)}")
    if not 0 <= displacement < math.inf:
        raise ValueError(f"displacement must be 0 or more pixels, got {displacement}")
    if cut < 2:
        raise ValueError(f"cut must be at least 2, or no frequency is left, got {cut}")
    n, _, height, width = images.shape
    if min(height, width) <= cut:
        raise ValueError(f"images of {height} x {width} pixels cannot show {cut} half waves a side")
    rows, columns = ((torch.arange(k, dtype=torch.float64) + 0.5) / k for k in (height, width))
    field = _fields(n, rows, columns, cut, seed) * displacement  # of x, of y, in pixels
    at = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
    at = at + field / torch.tensor([width, height])
    return torch.nn.functional.grid_sample(
        images, (2 * at - 1).to(images), padding_mode="border", align_corners=False
    )


def _fields(n: int, rows: Tensor, columns: Tensor, cut: int, seed: int) -> Tensor:
    """Fields whose mean square length is expected to be 1, ``(n, height, width, 2)``."""
    generator = torch.Generator().manual_seed(seed)
    frequencies = torch.arange(1, cut + 1, dtype=torch.float64)
    square = frequencies[:, None] ** 2 + frequencies**2
    variance = torch.where(square <= cut**2, 1 / square, 0.0)
    waves = [torch.sin(math.pi * frequencies[:, None] * along) for along in (rows, columns)]
    # A wave's square is 1/2 on average over pixels, and there are two coordinates.
    variance = variance / (2 * variance.sum() / 4)
    C = (
        torch.randn(n, 2, cut, cut, generator=generator, device="cpu", dtype=torch.float64)
        * variance.sqrt()
    )
    return torch.einsum("ncij,iy,jx->nyxc", C, *waves)


def relative_stability(
    function: Callable[[Tensor], Tensor],
    images: Tensor,
    displacement: float = 0.5,
    *,
    cut: int = CUT,
    seed: int = 0,
) -> float:
    r"""How much a function reacts to a deformation, beside noise of the same length.

    .. math:: R = \frac{\langle\lVert f(\tau x)-f(x)\rVert^2\rangle}
       {\langle\lVert f(x+\eta)-f(x)\rVert^2\rangle},\qquad
       \lVert\eta\rVert = \lVert\tau x-x\rVert

    Args:
        function: of images, with one row of numbers an image.
        images: ``(n, channels, height, width)``.
        displacement: of `deformed`, as is ``cut``.
        seed: of the deformations and the noise.

    Returns:
        1 for the identity, below 1 where the function bears deformations better than noise; NaN
        where noise does nothing.

    Raises:
        TypeError, ValueError: as `deformed`.

    Source: Petrini et al. (2021), whose noise has one length for all images.

    >>> images = torch.rand(5, 1, 8, 8)
    >>> round(relative_stability(lambda x: x.flatten(1), images), 6)
    1.0
    """
    moved = deformed(images, displacement, cut=cut, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(images.shape, generator=generator, device="cpu", dtype=torch.float64).to(
        images
    )
    length = (moved - images).flatten(1).norm(dim=1) / noise.flatten(1).norm(dim=1)
    noisy = images + length.view(-1, 1, 1, 1) * noise
    with torch.no_grad():
        at_rest = function(images)
        squares = [
            float((function(other) - at_rest).flatten(1).square().sum(dim=1).double().mean())
            for other in (moved, noisy)
        ]
    return squares[0] / squares[1] if squares[1] > 0 else math.nan


def _rounding(h: Tensor) -> float:
    """What a singular value of points of this size may be off by."""
    return max(h.shape) * torch.finfo(torch.float64).eps * float(h.abs().max())


def _check_tensor(name: str, value: object) -> None:
    """Refuse anything else."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name} must be a torch.Tensor, got {type(value).__name__}; use torch.as_tensor"
        )


def _points(h: Tensor) -> Tensor:
    """What `participation_ratio` and `neural_collapse` take, in float64."""
    _check_tensor("h", h)
    if h.is_complex():
        raise TypeError(f"h is complex ({h.dtype}); pass torch.view_as_real(h).flatten(1)")
    if h.dim() != 2 or len(h) < 2:
        raise ValueError(f"need one row a sample, (n, d) with n of 2 or more, got {tuple(h.shape)}")
    h = h.detach().double()
    if not bool(torch.isfinite(h).all()):
        raise ValueError("some numbers are NaN or infinite")
    return h
