"""Linear and convolutional layers as what they are: a weight times a matrix.

What a layer reads becomes a matrix ``X`` (``K x P``, one column a position), its weight ``W`` is
``C x K``, and what it returns ``W X``.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn


def one_an_axis(module: nn.Module, value: int | tuple[int, ...]) -> tuple[int, ...]:
    """A convolution's stride, dilation or padding, which may be one number for all its axes."""
    return (value,) * len(module.kernel_size) if isinstance(value, int) else tuple(value)


def padding_of(module: nn.Module) -> tuple[tuple[int, ...], str]:
    """What a convolution adds to its input: numbers a side, last axis first, and the mode."""
    if module.padding_mode != "zeros":  # then the layer reads this, not its padding
        return tuple(module._reversed_padding_repeated_twice), module.padding_mode
    mode = "constant"
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
        module: Linear, Conv1d or Conv2d.
        x: the layer's input, ``(n, ..., d)`` or ``(n, C_in, ...)``.

    Returns:
        ``(n, groups, K, P)``: K = d, or ``C_in / groups`` times the kernel's size; P positions.

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
    stride, dilation = (one_an_axis(module, each) for each in (module.stride, module.dilation))
    windows = _windows(pad(x, *padding_of(module)), module.kernel_size, stride, dilation)
    n_axes = len(stride)
    positions = windows.shape[2 : 2 + n_axes]
    columns = windows.permute(0, 1, *range(2 + n_axes, 2 + 2 * n_axes), *range(2, 2 + n_axes))
    K = x.shape[1] // module.groups * math.prod(module.kernel_size)
    return columns.reshape(n, module.groups, K, math.prod(positions))


def output_positions(module: nn.Module, gradient: Tensor) -> Tensor:
    """The gradient of one output at what a layer returns, one column a position.

    Args:
        module: Linear, Conv1d or Conv2d.
        gradient: ``(n, ..., d)`` or ``(n, C_out, ...)``.

    Returns:
        ``(n, groups, C_out / groups, P)``.
    """
    n = gradient.shape[0]
    if isinstance(module, nn.Linear):
        return gradient.reshape(n, 1, -1, gradient.shape[-1]).mT
    return gradient.reshape(n, module.groups, -1, gradient[0, 0].numel())
