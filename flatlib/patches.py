"""Linear and convolutional layers as what they are: a weight times a matrix.

What a layer reads becomes a matrix ``X`` (``K x P``, one column a position), its weight ``W`` is
``C x K``, and what it returns ``W X``. A transposed convolution goes the other way: its positions
are those of its input, and a column of ``W X`` is added to the patch of the output around it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd


def one_an_axis(module: nn.Module, value: int | tuple[int, ...]) -> tuple[int, ...]:
    """A convolution's stride, dilation or padding, which may be one number for all its axes."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * len(module.kernel_size) if len(values) == 1 else values


def padding_of(module: nn.Module) -> tuple[tuple[int, ...], str]:
    """What a convolution adds to its input: numbers a side, last axis first, and the mode."""
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    if mode != "constant":  # its forward pads as it was made, whatever ``padding`` is now
        return tuple(module._reversed_padding_repeated_twice), mode
    if not isinstance(module.padding, str):
        padding = one_an_axis(module, module.padding)
        return tuple(side for p in padding[::-1] for side in (p, p)), mode
    if module.padding == "valid":
        return (0,) * (2 * len(module.kernel_size)), mode
    sides = []
    dilations = one_an_axis(module, module.dilation)
    for size, dilation in zip(module.kernel_size[::-1], dilations[::-1], strict=True):
        total = dilation * (size - 1)
        sides += [total // 2, total - total // 2]
    return tuple(sides), mode


def is_transposed(module: nn.Module) -> bool:
    """Whether a layer is a transposed convolution."""
    return isinstance(module, _ConvTransposeNd)


def pad(x: Tensor, sides: tuple[int, ...], mode: str) -> Tensor:
    """``x`` with what `padding_of` says added."""
    return F.pad(x, sides, mode=mode) if any(sides) else x


def _windows(
    x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]
) -> Tensor:
    """What each position of a kernel sees, ``(n, C, *positions, *kernel)``, without a copy."""
    for axis, (size, step, gap) in enumerate(zip(kernel, stride, dilation, strict=True), start=2):
        x = x.unfold(axis, gap * (size - 1) + 1, step)[..., ::gap]
    return x


def patches(module: nn.Module, x: Tensor) -> Tensor:
    """What the weight of a layer multiplies, one column a position.

    Args:
        module: a linear layer, a convolution or a transposed convolution.
        x: the layer's input, ``(n, ..., d)`` or ``(n, C_in, ...)``.

    Returns:
        ``(n, groups, K, P)``: K = d, or ``C_in / groups``, for a convolution times the kernel's
        size; P positions.

    Source: the vector x of Eq. (4), where there is one position; the patches of Eqs. (N.7), (N.8).

    >>> import torch
    >>> conv = nn.Conv1d(1, 1, kernel_size=2)
    >>> patches(conv, torch.tensor([[[1.0, 2.0, 3.0]]]))[0, 0]
    tensor([[1., 2.],
            [2., 3.]])
    """
    n = x.shape[0]
    if isinstance(module, nn.Linear):
        return x.reshape(n, 1, -1, x.shape[-1]).mT
    if is_transposed(module):
        return x.reshape(n, module.groups, -1, x[0, 0].numel())
    return _columns(module, pad(x, *padding_of(module)))


def patch_energies(module: nn.Module, x: Tensor) -> Tensor:
    """Squared norms of the columns of `patches`, ``(n, groups, P)``, without these.

    >>> import torch
    >>> conv = nn.Conv1d(1, 1, kernel_size=2)
    >>> patch_energies(conv, torch.tensor([[[1.0, 2.0, 3.0]]]))[0, 0]
    tensor([ 5., 13.])
    """
    if isinstance(module, nn.Linear):
        return x.square().sum(dim=-1).reshape(len(x), 1, -1)
    if not is_transposed(module):
        x = pad(x, *padding_of(module))
    energy = x.square().unflatten(1, (module.groups, -1)).sum(dim=2)
    if is_transposed(module):
        return energy.flatten(2)
    stride, dilation = (one_an_axis(module, each) for each in (module.stride, module.dilation))
    windows = _windows(energy, module.kernel_size, stride, dilation)
    return windows.flatten(2 + len(stride)).sum(dim=-1).flatten(2)


def _columns(module: nn.Module, x: Tensor) -> Tensor:
    """The patches of ``x`` that a kernel sees, ``(n, groups, C / groups * kernel, P)``."""
    stride, dilation = (one_an_axis(module, each) for each in (module.stride, module.dilation))
    windows = _windows(x, module.kernel_size, stride, dilation)
    n_axes = len(stride)
    positions = windows.shape[2 : 2 + n_axes]
    columns = windows.permute(0, 1, *range(2 + n_axes, 2 + 2 * n_axes), *range(2, 2 + n_axes))
    K = x.shape[1] // module.groups * math.prod(module.kernel_size)
    return columns.reshape(len(x), module.groups, K, math.prod(positions))


def output_padding_of(module: nn.Module, read: torch.Size, written: torch.Size) -> tuple[int, ...]:
    """What a transposed convolution adds at the ends of its output, from both shapes of axes."""
    settings = zip(
        *(one_an_axis(module, each) for each in (module.stride, module.padding, module.dilation)),
        module.kernel_size,
        read,
        written,
        strict=True,
    )
    return tuple(
        after - (stride * (before - 1) - 2 * padding + dilation * (size - 1) + 1)
        for stride, padding, dilation, size, before, after in settings
    )


def output_positions(module: nn.Module, gradient: Tensor, read: torch.Size) -> Tensor:
    """The gradient of one output at what a layer returns, one column a position.

    Args:
        module: a linear layer, a convolution or a transposed convolution.
        gradient: ``(n, ..., d)`` or ``(n, C_out, ...)``.
        read: the shape of the layer's input.

    Returns:
        ``(n, groups, C_out / groups, P)``; for a transposed convolution the patches of the
        gradient, ``(n, groups, C_out / groups * kernel, P)``.
    """
    n = gradient.shape[0]
    if isinstance(module, nn.Linear):
        return gradient.reshape(n, 1, -1, gradient.shape[-1]).mT
    if is_transposed(module):
        ends = output_padding_of(module, read[2:], gradient.shape[2:])
        sides = zip(one_an_axis(module, module.padding)[::-1], ends[::-1], strict=True)
        padded = F.pad(gradient, [side for p, end in sides for side in (p, p - end)])
        return _columns(module, padded)
    return gradient.reshape(n, module.groups, -1, math.prod(gradient.shape[2:]))
