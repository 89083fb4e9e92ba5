"""The networks of the populations, each drawn from a seed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlib import nets

MLP_RATIO = 2  # a block's hidden numbers for each of its width


def lenet5(in_channels: int = 3, outputs: int = 10, seed: int = 0) -> nn.Sequential:
    """LeNet5 with ReLU and max-pooling, Xavier-normal weights and zero biases.

    Args:
        in_channels: channels of the images.
        outputs: number N of outputs.
        seed: seed of the initialization.

    Returns:
        A network from ``(n, in_channels, 32, 32)`` to ``(n, outputs)``. Its layers are named
        ``conv1``, ``conv2``, ``linear1``, ``linear2``, ``linear3``.

    Source: LeCun et al. (1998); activation, pooling and initialization as the paper's authors
    ran it.

    >>> lenet5()(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(in_channels, 6, kernel_size=5),
                relu1=nn.ReLU(),
                pool1=nn.MaxPool2d(2),
                conv2=nn.Conv2d(6, 16, kernel_size=5),
                relu2=nn.ReLU(),
                pool2=nn.MaxPool2d(2),
                flatten=nn.Flatten(),
                linear1=nn.Linear(16 * 5 * 5, 120),
                relu3=nn.ReLU(),
                linear2=nn.Linear(120, 84),
                relu4=nn.ReLU(),
                linear3=nn.Linear(84, outputs),
            )
        )
        for module in net:
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_normal_(module.weight)
                nn.init.zeros_(module.bias)
    return net


class Attention(nn.Module):
    """Multi-head self-attention over the tokens of ``(n, T, width)``."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        n, T, width = tokens.shape
        qkv = self.qkv(tokens).reshape(n, T, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).reshape(n, T, width))


class Block(nn.Module):
    """Attention, then two linear layers, each after a LayerNorm and with a skip connection."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, MLP_RATIO * width)
        self.gelu = nn.GELU()
        self.linear2 = nn.Linear(MLP_RATIO * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.norm1(tokens))
        return tokens + self.linear2(self.gelu(self.linear1(self.norm2(tokens))))


class VisionTransformer(nn.Module):
    """A vision transformer with class token and learned positions, see `vision_transformer`."""

    def __init__(
        self, side: int, channels: int, patch: int, width: int, depth: int, heads: int, outputs: int
    ):
        super().__init__()
        self.image = nn.Unflatten(1, (channels, side, side))
        self.patches = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        n_tokens = 1 + (side // patch) ** 2
        self.positions = nn.Parameter(0.02 * torch.randn(1, n_tokens, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(self.image(x)).flatten(2).transpose(1, 2)
        first = self.class_token.expand(len(x), -1, -1)
        tokens = self.blocks(torch.cat([first, tokens], dim=1) + self.positions)
        return self.head(self.norm(tokens)[:, 0])


def vision_transformer(
    width: int,
    depth: int,
    heads: int,
    *,
    side: int = 28,
    channels: int = 1,
    patch: int = 7,
    outputs: int = 10,
    seed: int = 0,
) -> VisionTransformer:
    """A small vision transformer for flattened images, with PyTorch's default initialization.

    Args:
        width: numbers a token; a multiple of ``heads``.
        depth: blocks of attention and two linear layers, each after a LayerNorm.
        heads: of the attention.
        side: pixels a side of the image; a multiple of ``patch``.
        channels: of the image.
        patch: pixels a side of what becomes a token.
        outputs: number N of outputs, read off the class token.
        seed: seed of the initialization.

    Returns:
        A network from ``(n, channels * side^2)`` to ``(n, outputs)``.

    Raises:
        ValueError: a width that the heads do not share evenly, or an image that the patches do
            not tile.

    Source: Dosovitskiy et al. (2021).

    >>> vision_transformer(36, 2, 3)(torch.zeros(5, 784)).shape
    torch.Size([5, 10])
    """
    if width % heads:
        raise ValueError(f"width must be a multiple of heads, got {width} and {heads}")
    if side % patch:
        raise ValueError(f"side must be a multiple of patch, got {side} and {patch}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VisionTransformer(side, channels, patch, width, depth, heads, outputs)


BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "mlp": lambda seed: nets.mlp((784, 500, 500, 500, 10), seed=seed),
    "mlp-relu": lambda seed: nets.mlp((784, 500, 500, 500, 10), "relu", seed=seed),
    "mlp-relu-digits": lambda seed, width, depth: nets.mlp(
        (64, *[width] * depth, 10), "relu", seed=seed
    ),
    "vision-transformer": lambda seed, width, depth, heads: vision_transformer(
        width, depth, heads, seed=seed
    ),
    "lenet5": lambda seed: lenet5(seed=seed),
    "vgg10": lambda seed: nets.vgg10(seed=seed),
}
