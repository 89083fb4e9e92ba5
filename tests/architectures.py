"""Random networks and batches for hypothesis, of every kind that `measure` promises to take."""

from __future__ import annotations

import torch
from hypothesis import assume
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm


class Residual(nn.Module):
    """``x + f(x)``."""

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Concatenate(nn.Module):
    """``(x, f(x))`` along the channels, or the last axis of tokens."""

    def __init__(self, body: nn.Module, axis: int):
        super().__init__()
        self.body, self.axis = body, axis

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], dim=self.axis)


class Repeat(nn.Module):
    """``f(tanh(f(... x)))``: one module called several times."""

    def __init__(self, body: nn.Module, times: int):
        super().__init__()
        self.body, self.times = body, times

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = self.body(x).tanh()
        return x


class InputAgain(nn.Module):
    """The head reads the body's features and the raw input."""

    def __init__(self, body: nn.Module, head: nn.Module):
        super().__init__()
        self.body, self.head = body, head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.body(x).flatten(1), x.flatten(1)], dim=1))


class WeightElsewhere(nn.Module):
    """A layer that is called, and whose weight is multiplied with something else, too."""

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + nn.functional.linear(x.square(), self.layer.weight)


class Scaled(nn.Module):
    """Raw parameters: a gain and a shift of every number."""

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.gain = nn.Parameter(torch.randn(shape))
        self.shift = nn.Parameter(torch.randn(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain + self.shift


class Head(nn.Module):
    """Flatten and map to N outputs."""

    def __init__(self, features: int, outputs: int):
        super().__init__()
        self.last = nn.Linear(features, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x.flatten(1))


@st.composite
def convolutions(draw, rank: int, channels: int) -> nn.Module:
    groups = draw(st.sampled_from([g for g in (1, 2, 3, channels) if channels % g == 0]))
    out = groups * draw(st.integers(1, 2))

    def numbers(largest: int, smallest: int = 1) -> tuple[int, ...]:
        return tuple(draw(st.integers(smallest, largest)) for _ in range(rank))

    padding = draw(st.sampled_from(["numbers", "numbers", "same", "valid"]))
    stride = 1 if padding == "same" else numbers(3)
    return (nn.Conv1d if rank == 1 else nn.Conv2d)(
        channels,
        out,
        numbers(3),
        stride=stride,
        padding=numbers(2, 0) if padding == "numbers" else padding,
        dilation=numbers(2),
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(["zeros", "zeros", "circular", "reflect", "replicate"])),
    )


ACTIVATIONS = (
    nn.ReLU,
    lambda: nn.ReLU(inplace=True),
    nn.Tanh,
    nn.GELU,
    lambda: nn.ELU(inplace=True),
    nn.Sigmoid,
    lambda: nn.Dropout(0.5),
    lambda: nn.LeakyReLU(0.1, inplace=True),
    nn.SiLU,
)


def pools(rank: int) -> tuple:
    names = [nn.MaxPool1d, nn.AvgPool1d] if rank == 1 else [nn.MaxPool2d, nn.AvgPool2d]
    adaptive = nn.AdaptiveAvgPool1d if rank == 1 else nn.AdaptiveAvgPool2d
    return (*(lambda p=p: p(2) for p in names), lambda: names[0](3, 1, 1), lambda: adaptive(2))


def norms(shape: tuple[int, ...], rank: int) -> tuple:
    """Constructors of normalizations for samples of ``shape``, running statistics drawn.

    Over fewer than four numbers a normalization's derivative is all cancellation.
    """

    def batch():
        norm = (nn.BatchNorm2d if rank == 2 else nn.BatchNorm1d)(shape[0])
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2.0)
        return norm

    made = [batch]
    if shape[-1] >= 4:
        made.append(lambda: nn.LayerNorm(shape[-1]))
    groups = 2 if shape[0] % 2 == 0 else 1
    if rank and torch.Size(shape).numel() >= 4 * groups:
        made.append(lambda: nn.GroupNorm(groups, shape[0]))
    return tuple(made)


def drawn(module: nn.Module) -> nn.Module:
    """``module`` with its own parameters of one dimension redrawn: no ones and zeros."""
    for parameter in module.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter)
    return module


def shape_after(module: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape of one sample after ``module``; None if it cannot take it."""
    module.eval()
    try:
        with torch.no_grad():
            after = tuple(module(torch.zeros(2, *shape)).shape[1:])
    except (RuntimeError, ValueError, NotImplementedError):
        return None
    return after if after and 0 < torch.Size(after).numel() <= 200 else None


@st.composite
def layers(draw, shape: tuple[int, ...], rank: int) -> nn.Module:
    """A linear or convolutional layer for samples of ``shape``, perhaps reparametrized."""
    if rank:
        layer = draw(convolutions(rank, shape[0]))
    else:
        layer = nn.Linear(shape[-1], draw(st.integers(1, 6)), bias=draw(st.booleans()))
    wrap = draw(st.integers(0, 14))
    if wrap == 1:
        layer = parametrizations.weight_norm(layer)
    elif wrap == 2:
        layer = parametrizations.spectral_norm(layer)
    elif wrap == 3:
        layer = weight_norm(layer)
    return layer


@st.composite
def blocks(draw, shape: tuple[int, ...], rank: int, depth: int = 0) -> nn.Module:
    """One block for samples of ``shape``: a layer, an activation, a skip, ..."""
    kind = draw(
        st.sampled_from(
            ["layer"] * 4
            + ["activation"] * 3
            + ["norm", "scaled", "elsewhere"]
            + (["pool"] if rank else [])
            + (["residual", "concatenate", "repeat"] if depth < 2 else [])
        )
    )
    if kind == "layer":
        return draw(layers(shape, rank))
    if kind == "activation":
        return draw(st.sampled_from(ACTIVATIONS))()
    if kind == "pool":
        return draw(st.sampled_from(pools(rank)))()
    if kind == "norm":
        return drawn(draw(st.sampled_from(norms(shape, rank)))())
    if kind == "scaled":
        return Scaled(shape)
    if kind == "elsewhere":
        return WeightElsewhere(nn.Linear(shape[-1], draw(st.integers(1, 4))))
    inner, after = draw(bodies(shape, rank, depth + 1, draw(st.integers(1, 3))))
    if kind == "concatenate":
        return Concatenate(inner, 1 if rank else -1)
    if after != shape:
        return inner
    return Residual(inner) if kind == "residual" else Repeat(inner, draw(st.integers(2, 3)))


@st.composite
def bodies(draw, shape, rank: int, depth: int, length: int) -> tuple[nn.Sequential, tuple]:
    """``length`` blocks, those that do not fit left out, and the shape after them."""
    made = []
    for _ in range(length):
        block = draw(blocks(shape, rank, depth))
        after = shape_after(block, shape)
        # An in-place first block would write into what the skip connection still needs.
        if after is None or (not made and depth and getattr(block, "inplace", False)):
            continue
        made.append(block)
        shape = after
    return nn.Sequential(*made), shape


def tie(net: nn.Module) -> None:
    """Let the second of two plain linear layers of one shape share the first one's weight."""
    plain = [m for m in net.modules() if type(m) is nn.Linear and "weight" in m._parameters]
    for index, first in enumerate(plain):
        for second in plain[index + 1 :]:
            if first.weight.shape == second.weight.shape:
                second.weight = first.weight
                return


def differentiable(net: nn.Module, x: Tensor) -> bool:
    """False where an in-place activation overwrites what another operation has kept."""
    try:
        net(x[:1].double().requires_grad_() * 1.0).sum().backward()
    except (RuntimeError, ValueError):  # or a normalization that has one number to work on
        return False
    finally:
        net.zero_grad()
    return True


@st.composite
def networks(draw) -> tuple[nn.Module, Tensor]:
    """A network in eval mode and a batch for it."""
    seed = draw(st.integers(0, 2**20))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        rank = draw(st.sampled_from([0, 0, 1, 2, 2]))
        axes = (2, 5) if rank == 2 else (3, 7)
        if rank:
            shape = (draw(st.integers(1, 4)), *(draw(st.integers(*axes)) for _ in range(rank)))
        else:  # a vector, or tokens
            shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=2)))
        body, after = draw(bodies(shape, rank, 0, draw(st.integers(0, 5))))
        N = draw(st.integers(1, 5))
        size = torch.Size(after).numel()
        if draw(st.booleans()):
            net = nn.Sequential(body, Head(size, N))
        else:
            net = InputAgain(body, nn.Linear(size + torch.Size(shape).numel(), N))
        if draw(st.integers(0, 3)) == 0:
            tie(net)
        for parameter in net.parameters():
            if draw(st.integers(0, 7)) == 0:
                parameter.requires_grad_(False)
        x = torch.randn(draw(st.integers(1, 4)), *shape)
        assume(differentiable(net.double().eval(), x))
    dtype = draw(st.sampled_from([torch.float64, torch.float32, torch.float32, torch.bfloat16]))
    return net.to(dtype).eval(), x.to(dtype)
