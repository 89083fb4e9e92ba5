"""The paper's networks and the toys, each drawn from a seed.

Drawing a network leaves PyTorch's global random state as it was.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn

ACTIVATIONS = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "identity": nn.Identity,
}

VGG10_WIDTHS = (16, 16, 32, 64, 64)


def mlp(
    widths: Sequence[int], activation: str = "tanh", bias: bool = True, seed: int = 0
) -> nn.Sequential:
    """Fully connected network with PyTorch's default initialization.

    Computes ``f(x) = W_L a(... a(W_1 x + b_1) ...) + b_L``; images are flattened first.

    Args:
        widths: ``(M, H_1, ..., H_{L-1}, N)``, at least two positive integers.
        activation: ``"tanh"``, ``"relu"``, ``"gelu"`` or ``"identity"`` (a deep linear network).
        bias: whether each layer adds a bias.
        seed: seed of the initialization.

    Returns:
        A network from ``(n, M)``, or ``(n, ...)`` with ``M`` entries a sample, to ``(n, N)``.
        Its layers are named ``linear1``, ``linear2``, ...

    Raises:
        ValueError: fewer than two widths, a width below 1, or an unknown activation.

    Source: the paper's Sec. 4 and App. E (its MLP is ``(784, 500, 500, 500, 10)`` with tanh).

    >>> net = mlp((3, 5, 2), activation="relu")
    >>> net(torch.zeros(4, 3)).shape
    torch.Size([4, 2])
    """
    widths = tuple(widths)
    if len(widths) < 2 or any(int(width) != width or width < 1 for width in widths):
        raise ValueError(
            f"widths must hold at least two positive integers (input, ..., output), got {widths}"
        )
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {sorted(ACTIVATIONS)}, got {activation!r}")
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for index in range(1, len(widths)):
            layers[f"linear{index}"] = nn.Linear(widths[index - 1], widths[index], bias=bias)
            if index < len(widths) - 1:
                layers[f"{activation}{index}"] = ACTIVATIONS[activation]()
    return nn.Sequential(layers)


def vgg10(in_channels: int = 3, outputs: int = 10, seed: int = 0) -> nn.Sequential:
    """The paper's ten-layer convolutional network, for images of 28 to 33 pixels a side.

    Five times a 3x3 convolution with padding 2, ReLU and 2x2 max-pooling, then two linear
    layers. Convolution weights are drawn from ``N(0, 2 / (k^2 C_out))`` and their biases are 0;
    the linear layers keep PyTorch's default.

    Args:
        in_channels: channels of the images, at least 1.
        outputs: number N of outputs, at least 1.
        seed: seed of the initialization.

    Returns:
        A network from ``(n, in_channels, 32, 32)`` to ``(n, outputs)``. Its layers are named
        ``conv1`` ... ``conv5``, ``linear1``, ``linear2``.

    Raises:
        ValueError: ``in_channels`` or ``outputs`` below 1.

    Source: the paper's Sec. 4.1.

    >>> net = vgg10()
    >>> net(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    >>> sum(p.numel() for p in net.parameters())
    97018
    """
    if in_channels < 1 or outputs < 1:
        raise ValueError(
            f"in_channels and outputs must be at least 1, got {in_channels} and {outputs}"
        )
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        channels = in_channels
        for index, width in enumerate(VGG10_WIDTHS, start=1):
            conv = nn.Conv2d(channels, width, kernel_size=3, padding=2)
            nn.init.normal_(conv.weight, std=(2 / (9 * width)) ** 0.5)
            nn.init.zeros_(conv.bias)
            layers[f"conv{index}"] = conv
            layers[f"relu{index}"] = nn.ReLU()
            layers[f"pool{index}"] = nn.MaxPool2d(2)
            channels = width
        layers["flatten"] = nn.Flatten()
        layers["linear1"] = nn.Linear(4 * channels, 128)
        layers["relu6"] = nn.ReLU()
        layers["linear2"] = nn.Linear(128, outputs)
    return nn.Sequential(layers)


def linear(M: int, N: int, seed: int = 0) -> nn.Sequential:
    """One bias-free linear map ``f(x) = W x``, the toy for which C = D in Eq. (28).

    Args:
        M: input dimension.
        N: output dimension.
        seed: seed of the initialization.

    Returns:
        A network from ``(n, M)`` to ``(n, N)`` with the single layer ``linear1``.

    Raises:
        ValueError: a dimension below 1.

    >>> net = linear(3, 2)
    >>> torch.equal(net(torch.eye(3)).T, net.linear1.weight)
    True
    """
    return mlp((M, N), bias=False, seed=seed)
