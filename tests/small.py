"""Small networks whose weights are drawn from a seed."""

from __future__ import annotations

import torch
from inputs import gaussian
from torch import Tensor, nn


def small_conv(**options) -> nn.Sequential:
    """Convolution, in-place activation, pooling, linear layer, for images of 2 x 6 x 6."""
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, **options),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.LazyLinear(3),
        ),
        gaussian(1, 2, 6, 6),
    )


def seeded(build, first: Tensor | None = None, seed: int = 0) -> nn.Module:
    """The network that ``build`` makes, in eval mode; lazy layers see ``first``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build().eval()
        if first is not None:
            net(first)
    return net


class RawParameters(nn.Module):
    """A linear map, an outer parameter and one that nothing uses."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.gain = nn.Parameter(torch.tensor([1.5, -2.0, 0.5]))
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, x):
        return self.gain * torch.tanh(self.linear(x)) + self.gain.square().sum() * x
