"""Jacobians against plain autograd."""

from __future__ import annotations

import pytest
import torch
from architectures import networks
from hypothesis import given, settings
from oracle import double_copy, gradients, slow_measure
from torch import nn

import flatlib
from flatlib import derivatives


@settings(max_examples=60)
@given(networks())
def test_the_input_jacobian_is_that_of_the_oracle(case):
    net, x = case
    mine, slow = derivatives.input_jacobian(net, x), slow_measure(net, x).jacobian
    assert mine.shape == slow.shape and mine.dtype == torch.float64
    assert torch.allclose(mine, slow, rtol=1e-9, atol=1e-13 * float(slow.abs().max()))


@settings(max_examples=40)
@given(networks())
def test_the_parameter_jacobian_is_that_of_plain_autograd(case):
    net, x = case
    trainable = [p for p in net.parameters() if p.requires_grad]
    if not trainable:
        return
    twin = double_copy(net)
    wanted = [p for p in twin.parameters() if p.requires_grad]
    slow = torch.stack(
        [
            torch.cat([g.flatten(1) for g in gradients(twin(row[None] * 1.0).flatten(), wanted)], 1)
            for row in x.double()
        ]
    )
    mine = derivatives.parameter_jacobian(net, x)
    assert mine.shape == slow.shape == (len(x), slow.shape[1], sum(p.numel() for p in trainable))
    assert torch.allclose(mine, slow, rtol=1e-10, atol=1e-14 * float(slow.abs().max()))


def test_the_parameter_jacobian_follows_the_order_of_the_parameters():
    net = flatlib.nets.mlp((3, 4, 2)).double()
    net.linear1.bias.requires_grad_(False)
    x = torch.randn(2, 3, dtype=torch.float64)
    K = derivatives.parameter_jacobian(net, x)
    first = 3 * 4
    h = torch.tanh(net.linear1(x))
    assert torch.allclose(K[0, 1, first : first + 8], torch.cat([torch.zeros(4), h[0]]).double())
    assert K[0, :, -2:].tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_sharpness_is_the_energy_of_the_parameter_jacobian():
    net, x = flatlib.nets.mlp((4, 5, 3), "gelu"), torch.randn(6, 4)
    K = derivatives.parameter_jacobian(net, x)
    assert flatlib.measure(net, x).sharpness == pytest.approx(
        float(K.square().sum() / 6), rel=1e-12
    )


@pytest.mark.parametrize("max_memory", [1, 2**40])
def test_the_input_jacobian_in_parts(max_memory):
    net, x = flatlib.nets.mlp((4, 5, 3), "relu"), torch.randn(6, 4)
    assert torch.allclose(
        derivatives.input_jacobian(net, x, max_memory),
        derivatives.input_jacobian(net, x),
        rtol=1e-13,
        atol=0,
    )


def test_an_image_has_a_flat_jacobian():
    net = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(12, 4))
    assert derivatives.input_jacobian(net, torch.randn(5, 2, 3, 3)).shape == (5, 4, 18)


def test_one_forward_and_n_backward_passes_serve_everything(monkeypatch):
    """The whole of a measurement: a probe on few samples, one forward, N rows of gradients.

    The probe runs forward on some samples together and on each of the six alone, and whose rows
    are whose takes one row of gradients.
    """
    calls = {"forward": 0, "rows": 0}
    net = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten(), nn.Linear(8, 4))
    net.register_forward_hook(lambda *_: calls.update(forward=calls["forward"] + 1))
    plain = torch.autograd.grad

    def counted(outputs, inputs, grad_outputs=None, **options):
        batched = options.get("is_grads_batched")
        calls["rows"] += len(grad_outputs) if batched else 1
        return plain(outputs, inputs, grad_outputs, **options)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    flatlib.measure(net, torch.randn(6, 1, 3, 3))
    assert calls == {"forward": 1 + 6 + 1, "rows": 1 + 4}
