"""The same function and numbers, laid out so that a CPU computes them faster."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def contiguous_for(x: Tensor) -> Tensor:
    """Images with their channels last in memory, where CPU convolutions are fastest."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def pooled_first(net: nn.Module) -> nn.Module:
    """The same function of the same parameters with less work: pooling before ReLU.

    ReLU keeps order, so the largest of some rectified numbers is the largest of the numbers,
    rectified. Outputs and gradients are the same to the last bit, and ReLU sees a quarter of the
    numbers. Any network but a plain ``nn.Sequential`` comes back as it is, and so does one with
    hooks.

    >>> chain = pooled_first(nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)))
    >>> [type(module).__name__ for module in chain]
    ['MaxPool2d', 'ReLU']
    """
    if type(net) is not nn.Sequential or any(_has_hooks(module) for module in (net, *net)):
        return net
    modules = list(net)
    for i in range(len(modules) - 1):
        if type(modules[i]) is nn.ReLU and type(modules[i + 1]) is nn.MaxPool2d:
            modules[i], modules[i + 1] = modules[i + 1], modules[i]
    return nn.Sequential(*modules)


def _has_hooks(module: nn.Module) -> bool:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, kind) for kind in kinds)
