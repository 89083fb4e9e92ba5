"""Derivatives from central differences: no autograd, all samples at once."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def sharpness_by_differences(net: nn.Module, x: Tensor, h: float = 1e-6) -> float:
    """Eq. (3) from central differences of every parameter: no autograd, all samples at once."""
    net, total = copy.deepcopy(net).double(), 0.0
    with torch.no_grad():
        for entries in (parameter.view(-1) for parameter in net.parameters()):
            for j, value in enumerate(entries.tolist()):
                entries[j] = value + h
                above = net(x.double())
                entries[j] = value - h
                total += float(((above - net(x.double())) / (2 * h)).square().sum())
                entries[j] = value
    return total / len(x)


def mls_by_differences(net: nn.Module, x: Tensor, h: float = 1e-6) -> Tensor:
    """MLS of every sample from central differences of every input."""
    net, x = copy.deepcopy(net).double(), x.double()
    columns = []
    with torch.no_grad():
        for j in range(x[0].numel()):
            move = torch.zeros_like(x[0]).flatten()
            move[j] = h
            columns.append((net(x + move.view_as(x[0])) - net(x - move.view_as(x[0]))) / (2 * h))
    return torch.linalg.matrix_norm(torch.stack(columns, dim=2), 2)
