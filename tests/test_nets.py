"""The networks are the paper's, drawn from their seed alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from flatlib import nets


def test_the_papers_mlp():
    net = nets.mlp((784, 500, 500, 500, 10))
    assert [tuple(p.shape) for n, p in net.named_parameters() if "weight" in n] == [
        (500, 784),
        (500, 500),
        (500, 500),
        (10, 500),
    ]
    assert [type(m) for m in net] == [
        nn.Flatten,
        nn.Linear,
        nn.Tanh,
        nn.Linear,
        nn.Tanh,
        nn.Linear,
        nn.Tanh,
        nn.Linear,
    ]
    assert net(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_the_default_initialization_is_pytorchs():
    torch.manual_seed(5)
    expected = nn.Linear(6, 4)
    net = nets.mlp((6, 4), seed=5)
    assert torch.equal(net.linear1.weight, expected.weight)
    assert torch.equal(net.linear1.bias, expected.bias)


@pytest.mark.parametrize(
    "activation, function",
    [
        ("tanh", torch.tanh),
        ("relu", torch.relu),
        ("gelu", nn.functional.gelu),
        ("identity", lambda h: h),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_an_mlp_computes_what_it_says(activation, function, bias):
    net, x = nets.mlp((3, 5, 4, 2), activation, bias=bias), torch.randn(6, 3)
    assert (net.linear1.bias is not None) == bias
    expected = net.linear3(function(net.linear2(function(net.linear1(x)))))
    assert torch.equal(net(x), expected)


def test_vgg10_is_the_papers():
    net = nets.vgg10()
    shapes = [tuple(p.shape) for n, p in net.named_parameters() if "weight" in n]
    assert shapes == [
        (16, 3, 3, 3),
        (16, 16, 3, 3),
        (32, 16, 3, 3),
        (64, 32, 3, 3),
        (64, 64, 3, 3),
        (128, 256),
        (10, 128),
    ]
    convs = [m for m in net if isinstance(m, nn.Conv2d)]
    assert all(m.padding == (2, 2) and m.stride == (1, 1) for m in convs)
    assert all((m.bias == 0).all() for m in convs) and (net.linear1.bias != 0).all()
    x = torch.randn(2, 3, 32, 32)
    h = x
    for conv in convs:
        h = nn.functional.max_pool2d(torch.relu(conv(h)), 2)
    assert h.flatten(1).shape == (2, 256)
    assert torch.equal(net(x), net.linear2(torch.relu(net.linear1(h.flatten(1)))))


def test_vgg10s_weights_have_their_spread():
    net = nets.vgg10(seed=3)
    for name in ("conv3", "conv4", "conv5"):
        weight = getattr(net, name).weight
        expected = math.sqrt(2 / (9 * weight.shape[0]))
        # A sample standard deviation is within four of its own standard errors.
        assert weight.std().item() == pytest.approx(expected, rel=4 / math.sqrt(2 * weight.numel()))


@pytest.mark.parametrize("side, channels, outputs", [(28, 1, 2), (33, 3, 10), (32, 2, 1)])
def test_vgg10_takes_images_of_28_to_33_pixels(side, channels, outputs):
    net = nets.vgg10(channels, outputs)
    assert net(torch.zeros(2, channels, side, side)).shape == (2, outputs)


@pytest.mark.parametrize(
    "build",
    [
        lambda seed: nets.mlp((4, 5, 3), seed=seed),
        lambda seed: nets.vgg10(seed=seed),
        lambda seed: nets.linear(4, 3, seed=seed),
    ],
)
def test_a_seed_gives_one_network_and_leaves_the_global_state_alone(build):
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first, again, other = build(0), build(0), build(1)
    assert torch.equal(torch.get_rng_state(), before)
    parameters = zip(first.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in parameters)
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


def test_linear_has_one_weight_and_no_bias():
    net = nets.linear(5, 2)
    assert [name for name, _ in net.named_parameters()] == ["linear1.weight"]
    assert net.linear1.weight.shape == (2, 5)


@pytest.mark.parametrize("widths", [(), (3,), (3, 0), (3, -1, 2), (3, 2.5, 2)])
def test_bad_widths(widths):
    with pytest.raises(ValueError, match="at least two positive integers.*got"):
        nets.mlp(widths)


def test_unknown_activations_are_named():
    with pytest.raises(ValueError, match="activation must be one of.*'gelu'.*got 'swish'"):
        nets.mlp((3, 2), activation="swish")


@pytest.mark.parametrize("channels, outputs", [(0, 10), (3, 0)])
def test_vgg10_needs_channels_and_outputs(channels, outputs):
    with pytest.raises(ValueError, match=f"at least 1, got {channels} and {outputs}"):
        nets.vgg10(channels, outputs)


def test_linear_needs_dimensions():
    with pytest.raises(ValueError, match="positive integers"):
        nets.linear(0, 2)
