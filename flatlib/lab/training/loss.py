"""The two losses: as the paper writes it and as its authors ran it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .layout import contiguous_for, pooled_first


def mse(output: Tensor, y: Tensor) -> Tensor:
    """Mean square over samples *and* outputs, as the authors ran it.

    >>> float(mse(torch.ones(2, 4), torch.zeros(2, 4)))
    1.0
    """
    return (output - y).square().mean()


def half_squared(output: Tensor, y: Tensor) -> Tensor:
    """``sum_i ||f(x_i) - y_i||^2 / (2 n)``, the loss whose Hessian Eqs. (1)-(3) are about.

    Its gradient is N / 2 times that of :func:`mse`.

    >>> float(half_squared(torch.ones(2, 4), torch.zeros(2, 4)))
    2.0
    """
    return (output - y).square().sum() / (2 * len(y))


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": mse,
    "half-squared": half_squared,
}


def loss_function(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of this name.

    Raises:
        ValueError: neither ``"mse"`` nor ``"half-squared"``.
    """
    if name not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {name!r}")
    return LOSSES[name]


def evaluate(
    net: torch.nn.Module, x: Tensor, y: Tensor, loss: str, batch: int = 500
) -> tuple[float, Tensor]:
    """The loss over many samples, and which of them are classified correctly.

    Args:
        net: in eval mode.
        x: ``(n, *input_shape)``.
        y: one-hot targets, ``(n, N)``.
        loss: its name.
        batch: samples a forward pass.

    Returns:
        The loss, added up in float64, and ``(n,)`` booleans: the largest output is the target's.
    """
    total, correct = 0.0, []
    forward = pooled_first(net)
    with torch.no_grad():
        for start in range(0, len(x), batch):
            output = forward(contiguous_for(x[start : start + batch]))
            target = y[start : start + batch]
            part = LOSSES[loss](output.double(), target.double())
            total += float(part) * len(target)
            correct.append(output.argmax(dim=1) == target.argmax(dim=1))
    return total / len(x), torch.cat(correct)
