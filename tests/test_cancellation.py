"""Networks in which nearly equal tokens cancel: sharpness stays exact and never negative."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import flatlib


class Contrast(nn.Module):
    """One linear map of every token, read out by differences of neighbouring tokens.

    A fixed map of the first token keeps the output itself from cancelling.
    """

    def __init__(self, width: int, hidden: int, outputs: int, seed: int):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layer = nn.Linear(width, hidden)
            self.register_buffer("readout", torch.randn(outputs, hidden))
            self.register_buffer("fixed", torch.randn(width, outputs))

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(x)  # (n, T, hidden)
        return (h[:, 1:] - h[:, :-1]).sum(dim=1) @ self.readout.T + x[:, 0] @ self.fixed


def case(difference: float, width: int, outputs: int, seed: int) -> tuple[Contrast, Tensor]:
    """A network and three tokens of length 1, whose first and last are ``difference`` apart."""
    generator = torch.Generator().manual_seed(seed)
    net = Contrast(width, 3 * width, outputs, seed).double()
    x = torch.randn(3, 1, width, generator=generator, dtype=torch.float64)
    step = torch.randn(3, 2, width, generator=generator, dtype=torch.float64)
    x, step = x / x.norm(dim=2, keepdim=True), step / step[:, -1:].norm(dim=2, keepdim=True)
    return net, torch.cat([x, x + difference * step], dim=1)


def closed_form(net: Contrast, x: Tensor) -> Tensor:
    """``||readout||_F^2 ||x_T - x_1||^2``: the weight's part, biases cancel altogether."""
    ends = x[:, -1] - x[:, 0]
    return net.readout.square().sum() * ends.square().sum(dim=1)


# Gradients are sums over tokens of terms 1 / difference times larger, so float64's eps = 2.2e-16
# leaves about eps / difference of relative accuracy: 1e-9 down to differences of 1e-6.
@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([1e-2, 1e-4, 1e-6]),
    st.integers(4, 12),
    st.integers(1, 6),
    st.integers(0, 1000),
)
def test_nearly_equal_tokens_are_kept_apart(difference, width, outputs, seed):
    net, x = case(difference, width, outputs, seed)
    found = flatlib.measure(net, x)
    torch.testing.assert_close(
        found.parameter_gradient_energy, closed_form(net, x), rtol=1e-9, atol=0
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(4, 12), st.integers(1, 6), st.integers(0, 1000))
def test_at_the_limit_of_float64_no_energy_is_negative(width, outputs, seed):
    net, x = case(1e-8, width, outputs, seed)
    found = flatlib.measure(net, x)
    expected = closed_form(net, x)
    torch.testing.assert_close(found.parameter_gradient_energy, expected, rtol=1e-6, atol=0)
    assert bool((found.layers[0].weight_gradient_energy >= 0).all())
    flatlib.bounds.chain(found)  # roots of energies


@pytest.mark.parametrize("kernel", [1, 3])
def test_convolutions_of_a_nearly_constant_image(kernel):
    """The readout is a contrast of pixels: each output is blind to a constant image."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(8, 24, kernel), nn.Flatten(), nn.LazyLinear(4)).double().eval()
    x = 1.0 + 1e-6 * torch.randn(2, 8, 5, 5, dtype=torch.float64)
    net(x)
    with torch.no_grad():
        rows = net[2].weight.view(4, 24, -1)
        rows -= rows.mean(dim=2, keepdim=True)
    found = flatlib.measure(net, x).layers[0].weight_gradient_energy
    expected = []
    for sample in x.split(1):
        made = [torch.autograd.grad(out, net[0].weight)[0] for out in _outputs(net, sample)]
        expected.append(sum(g.square().sum() for g in made))
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-9, atol=0)


def _outputs(net: nn.Module, sample: Tensor):
    for k in range(4):
        yield net(sample)[0, k]
