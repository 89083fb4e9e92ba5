"""Normalization where one row is no batch and PyTorch's own backward passes are wrong."""

from __future__ import annotations

import pytest
import torch
from differences import mls_by_differences, sharpness_by_differences
from inputs import gaussian
from small import seeded
from torch import nn

import flatlib


class Tokens(nn.Module):
    """Convolution, normalization, then one token a position, as vision transformers begin."""

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3, padding=1), norm
        self.scale, self.head = nn.LayerNorm(4, elementwise_affine=False), nn.Linear(4, 3)

    def forward(self, x):
        tokens = self.norm(self.conv(x)).flatten(2).transpose(1, 2)
        return self.head(self.scale(tokens).mean(1))


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("shape", [(3, 3), (1, 4), (4, 1)])
@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.InstanceNorm2d])
def test_normalization_before_tokens_agrees_with_differences(norm, shape, size):
    net, x = seeded(lambda: Tokens(norm(4, affine=True))), gaussian(4, 2, *shape)
    m = flatlib.measure(net, x.split(size))
    assert m.sharpness == pytest.approx(sharpness_by_differences(net, x), rel=1e-6)
    assert torch.allclose(m.mls, mls_by_differences(net, x), rtol=1e-6)
    assert torch.allclose(flatlib.measure(net, x[:1]).mls, m.mls[:1], rtol=1e-9)


CALLS = {
    "positional": lambda norm, h: norm(h),
    "keyword": lambda norm, h: norm(input=h),
    "method": lambda norm, h: norm.forward(h),
    "functional": lambda norm, h: (
        nn.functional.instance_norm(h)
        if isinstance(norm, nn.InstanceNorm2d)
        else nn.functional.batch_norm(h, norm.running_mean, norm.running_var)
    ),
}


class SequenceFirst(Tokens):
    """The same with the sequence in front, whose gradients come in another layout for any n."""

    def __init__(self, norm: nn.Module, call):
        super().__init__(norm)
        self.call = call

    def forward(self, x):
        tokens = self.call(self.norm, self.conv(x)).flatten(2).permute(2, 0, 1)
        return self.head(self.scale(tokens).mean(0))


class Columns(Tokens):
    """What the normalization reads is itself in another layout."""

    def __init__(self, norm: nn.Module, call):
        super().__init__(norm)
        self.into, self.out, self.call = nn.Linear(3, 4), nn.Linear(4, 3), call

    def forward(self, x):
        h = self.into(x)[:, :, None].permute(0, 3, 2, 1)
        h = self.call(self.norm, h).permute(0, 3, 2, 1)[:, :, 0]
        return self.out(h).tanh().mean(1)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.InstanceNorm2d])
def test_normalization_in_any_layout_and_call_agrees_with_differences(norm, call):
    for kind, shape in ((SequenceFirst, (4, 2, 3, 3)), (Columns, (4, 5, 3))):
        net, x = seeded(lambda k=kind: k(norm(4), CALLS[call])), gaussian(*shape)
        found = flatlib.measure(net, x).sharpness
        assert found == pytest.approx(sharpness_by_differences(net, x), rel=1e-6)


def test_a_normalization_of_the_users_own_signature():
    class Own(nn.BatchNorm2d):
        def forward(self, x, scale):
            return super().forward(x), scale

    class Net(Tokens):
        def forward(self, x):
            return self.head(self.norm(self.conv(x), None)[0].mean(dim=(2, 3)))

    net, x = seeded(lambda: Net(Own(4))), gaussian(3, 2, 3, 3)
    expected = sharpness_by_differences(net, x)
    assert flatlib.measure(net, x).sharpness == pytest.approx(expected, rel=1e-6)


def test_group_norm_in_channels_last_is_measured():
    net = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(64, 2)
        )
    )
    x = gaussian(2, 3, 6, 6)
    expected = flatlib.measure(net, x)
    found = flatlib.measure(net, x.contiguous(memory_format=torch.channels_last))
    assert found.sharpness == pytest.approx(expected.sharpness, rel=1e-9)
    assert expected.sharpness == pytest.approx(sharpness_by_differences(net, x), rel=1e-6)
