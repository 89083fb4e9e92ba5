"""Spectral norms of weights: as matrices, and as the convolutions that they are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlib.patches import is_transposed, one_an_axis, output_padding_of, pad, padding_of

LARGEST_KEPT = 2**23  # bytes of a weight whose norm is remembered


def spectral_norm(matrix: Tensor) -> float:
    """Largest singular value of a matrix, to rounding.

    Raises:
        TypeError: complex numbers.
        ValueError: another shape than a matrix's, or numbers that are not finite.

    >>> spectral_norm(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
    4.0
    """
    if matrix.dim() != 2:
        raise ValueError(f"a matrix has two axes, got shape {tuple(matrix.shape)}")
    A = _real(matrix)
    scale = _largest(A)
    if scale == 0.0:
        return 0.0
    A = A / scale
    # The Gram matrix keeps the *largest* singular value to rounding; the smaller side is enough.
    gram = A @ A.mT if A.shape[0] <= A.shape[1] else A.mT @ A
    return scale * float(torch.linalg.eigvalsh(gram)[-1].sqrt())


def _real(weight: Tensor) -> Tensor:
    """A weight's numbers in float64."""
    if weight.is_complex():
        raise TypeError(f"the weight is complex ({weight.dtype}); pass real numbers")
    return weight.detach().double()


def _largest(A: Tensor) -> float:
    """The largest size of a number of ``A``."""
    largest = float(A.abs().max()) if A.numel() else 0.0
    if not math.isfinite(largest):
        raise ValueError(
            f"the weight of shape {tuple(A.shape)} holds NaN or infinite values, and has no norm"
        )
    return largest


@dataclass(frozen=True)
class ConvolutionGeometry:
    """How a convolution maps one sample, weights apart."""

    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    padding: tuple[int, ...]  # numbers a side, last axis first; an axis if it is transposed
    padding_mode: str  # as torch.nn.functional.pad calls it
    input_shape: tuple[int, ...]  # of one sample, (C_in, ...)
    output_padding: tuple[int, ...] | None = None  # numbers an axis, if it is transposed

    def norm(self, weight: Tensor) -> float:
        """Largest singular value of the map from one sample to its convolution, to rounding.

        Lanczos iterations on ``T^T T``, each a convolution and its transpose; a kernel of 64 to 64
        channels on 32 pixels takes some hundreds of them, seconds to half a minute.
        """
        weight = _real(weight)
        largest = _largest(weight)
        if largest == 0.0:
            return 0.0
        with torch.inference_mode(False), torch.enable_grad():
            return largest * self._norm_of_scaled(weight / largest)

    def _norm_of_scaled(self, weight: Tensor) -> float:
        from scipy.sparse.linalg import LinearOperator, eigsh  # a third of a second

        settings = {"stride": self.stride, "dilation": self.dilation, "groups": self.groups}
        name = "conv" if self.output_padding is None else "conv_transpose"
        convolve = getattr(F, f"{name}{len(self.stride)}d")

        def forward(x: Tensor) -> Tensor:
            x = x.reshape(1, *self.input_shape)
            if self.output_padding is None:
                return convolve(pad(x, self.padding, self.padding_mode), weight, **settings)
            ends = {"padding": self.padding, "output_padding": self.output_padding}
            return convolve(x, weight, **settings, **ends)

        size = int(np.prod(self.input_shape))
        zero = weight.new_zeros(size, requires_grad=True)
        output = forward(zero)

        def gram(v: np.ndarray) -> np.ndarray:
            v = torch.from_numpy(np.ascontiguousarray(v.ravel())).to(weight)
            image = forward(v)
            back = torch.autograd.grad(output, zero, image, retain_graph=True)[0]
            return back.cpu().numpy()

        operator = LinearOperator((size, size), gram, dtype=np.float64)
        if size < 16:
            dense = torch.from_numpy(np.stack([gram(row) for row in np.eye(size)]))
            return float(np.sqrt(spectral_norm(dense)))
        start = np.random.default_rng(0).standard_normal(size)
        if not gram(start).any():
            return 0.0
        top = eigsh(
            operator,
            k=1,
            which="LA",
            tol=0,
            v0=start,
            ncv=min(size, 40),
            return_eigenvectors=False,
        )
        return float(np.sqrt(max(top[0], 0.0)))


def weight_norm(weight: Tensor, geometry: ConvolutionGeometry | None = None) -> float:
    """Spectral norm of a weight as a matrix, or as the convolution of this geometry.

    Small ones are remembered, since one network is measured on several batches.

    Args:
        weight: of any precision, with two axes or more.
        geometry: None for the matrix, one row an output.

    Raises:
        TypeError: complex numbers.
        ValueError: fewer axes, or numbers that are not finite.
    """
    if weight.dim() < 2:
        raise ValueError(f"a weight has two axes or more, got shape {tuple(weight.shape)}")
    W = _real(weight).cpu().contiguous().numpy()
    norm_of = remembered_norm if W.nbytes <= LARGEST_KEPT else remembered_norm.__wrapped__
    return norm_of(W.tobytes(), W.shape, geometry)


@lru_cache(maxsize=16)
def remembered_norm(weight: bytes, shape: tuple, geometry: ConvolutionGeometry | None) -> float:
    """`weight_norm` of the bytes of float64 numbers."""
    W = torch.from_numpy(np.frombuffer(weight).reshape(shape).copy())
    return spectral_norm(W.flatten(1)) if geometry is None else geometry.norm(W)


def geometry_of(module: nn.Module, read: torch.Size, written: torch.Size) -> ConvolutionGeometry:
    """How a convolution maps an input of shape ``read`` to an output of shape ``written``."""
    transposed = is_transposed(module)
    return ConvolutionGeometry(
        one_an_axis(module, module.stride),
        one_an_axis(module, module.dilation),
        module.groups,
        *((one_an_axis(module, module.padding), "constant") if transposed else padding_of(module)),
        tuple(read[1:]),
        output_padding_of(module, read[2:], written[2:]) if transposed else None,
    )
