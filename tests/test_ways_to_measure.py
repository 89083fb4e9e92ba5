"""How `measure` is called, and what surrounds the call, make no difference."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from architectures import networks
from compare import assert_matches_oracle, smallest_limit
from hypothesis import given, settings
from inputs import gaussian
from small import RawParameters, seeded, small_conv
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

import flatlib
from flatlib import measurement


def fields_of(m: flatlib.Measurement) -> list[Tensor]:
    values = [v for v in vars(m).values() if isinstance(v, Tensor)]
    return values + [v for layer in m.layers for v in vars(layer).values() if isinstance(v, Tensor)]


def assert_same(first: flatlib.Measurement, second: flatlib.Measurement, rel=1e-12) -> None:
    assert len(first.layers) == len(second.layers)
    for a, b in zip(fields_of(first), fields_of(second), strict=True):
        assert a.shape == b.shape
        assert torch.allclose(a, b, rtol=rel, atol=0.0, equal_nan=True)


@settings(max_examples=40)
@given(networks())
def test_splitting_the_batch_changes_nothing(case):
    net, x = case
    # A split may change the order of sums: rounding of the largest singular value at most.
    whole = flatlib.measure(net, x)
    single = flatlib.measure(net, x, max_memory=smallest_limit(net, x))
    assert_same(
        replace(whole, **smooth(whole), layers=()), replace(single, **smooth(single), layers=())
    )
    for a, b in zip(whole.layers, single.layers, strict=True):
        assert torch.allclose(
            a.weight_gradient_energy,
            b.weight_gradient_energy,
            rtol=1e-12,
            atol=1e-24 * float(a.untied_gradient_energy.max()),
        )
        assert torch.allclose(a.mls, b.mls, rtol=1e-12, atol=0)


def smooth(m: flatlib.Measurement) -> dict[str, Tensor]:
    """Stand-ins for the two fields whose relative error rank deficiency makes unbounded."""
    s = m.singular_values
    kept = s.where(s > 1e-3 * s[:, :1], 0.0)
    return {"singular_values": kept, "log_volume": kept.clamp(min=1e-300).log().sum(dim=1)}


@pytest.mark.parametrize("times", [1, 3, 2**20])
def test_memory_limits_give_the_same_numbers(times):
    net, x = small_conv(), gaussian(7, 2, 6, 6)
    limit = times * smallest_limit(net, x)
    assert_same(flatlib.measure(net, x), flatlib.measure(net, x, max_memory=limit))


def test_a_smaller_memory_limit_takes_smaller_parts(monkeypatch):
    sizes = []
    measured = measurement._measure_part
    monkeypatch.setattr(
        measurement,
        "_measure_part",
        lambda part, *rest: sizes.append(len(part.output)) or measured(part, *rest),
    )
    net, x = small_conv(), gaussian(7, 2, 6, 6)
    flatlib.measure(net, x, max_memory=smallest_limit(net, x))
    assert sizes == [1] * 7
    flatlib.measure(small_conv(), gaussian(7, 2, 6, 6))
    assert sizes[7:] == [7]


def test_strided_and_differentiable_inputs():
    net, x = flatlib.nets.mlp((4, 6, 3)), gaussian(4, 10)
    strided = x.T[::2]
    leaf = strided.clone().requires_grad_()
    reference = flatlib.measure(net, strided.contiguous())
    assert_same(reference, flatlib.measure(net, strided))
    assert_same(reference, flatlib.measure(net, leaf))
    assert_same(reference, flatlib.measure(net, leaf * 1.0))
    assert leaf.grad is None and leaf.requires_grad


def test_channels_last_inputs():
    net, x = small_conv(), gaussian(3, 2, 6, 6)
    last = x.to(memory_format=torch.channels_last)
    assert_same(flatlib.measure(net, x), flatlib.measure(net, last))


@pytest.mark.parametrize(
    "context",
    [
        torch.no_grad,
        torch.inference_mode,
        torch.enable_grad,
        lambda: torch.autocast("cpu", torch.bfloat16),
    ],
)
def test_modes_around_the_call_change_nothing(context):
    reference = flatlib.measure(small_conv(), gaussian(3, 2, 6, 6))
    with context():
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        net, x = small_conv(), gaussian(3, 2, 6, 6)  # made under this mode, too
        m = flatlib.measure(net, x)
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == before
    if net[0].weight.dtype == torch.float32:
        assert_same(reference, m)
    assert not any(value.requires_grad for value in fields_of(m))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_the_slow_route_and_the_hessian_under_other_modes(context):
    net, x, y = seeded(RawParameters), gaussian(4, 3), gaussian(4, 3, seed=1)
    sharpness, trace = flatlib.measure(net, x).sharpness, flatlib.hessian_trace(net, x, y)
    with context():
        assert flatlib.measure(net, x.clone()).sharpness == sharpness
        assert flatlib.hessian_trace(net, x.clone(), y.clone()) == trace


def test_hooks_of_the_user_run_and_change_nothing():
    net, x = flatlib.nets.mlp((4, 6, 3)), gaussian(5, 4)
    reference, seen = flatlib.measure(net, x), []
    net.linear1.register_forward_hook(lambda *_: seen.append("forward"))
    net.linear1.register_forward_pre_hook(lambda *_: seen.append("before"))
    net.linear2.register_full_backward_hook(lambda *_: seen.append("backward"))
    assert_same(reference, flatlib.measure(net, x))
    assert {"forward", "before", "backward"} == set(seen)


def test_a_hook_that_changes_what_the_layer_returns_is_part_of_the_network():
    net, x = flatlib.nets.mlp((4, 6, 3)), gaussian(5, 4)
    net.linear1.register_forward_hook(lambda module, args, output: 2 * output)
    net.linear2.register_forward_pre_hook(lambda module, args: (args[0].square(),))
    assert_matches_oracle(net, x)
    assert flatlib.measure(net, x).mls[0] != flatlib.measure(flatlib.nets.mlp((4, 6, 3)), x).mls[0]


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh())
        self.last, self.reentrant = nn.Linear(5, 2), reentrant

    def forward(self, x):
        return self.last(checkpoint(self.body, x, use_reentrant=self.reentrant))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_checkpointing_agrees_or_raises(dtype):
    net = seeded(lambda: Checkpointed(False)).to(dtype)
    assert_agrees_or_raises(net, gaussian(3, 4))


def test_reentrant_checkpointing_raises():
    with pytest.raises(ValueError, match="gradients switched off"):
        flatlib.measure(seeded(lambda: Checkpointed(True)), gaussian(3, 4))


def assert_agrees_or_raises(net: nn.Module, x: Tensor) -> None:
    """`measure` may raise a ValueError that names the trouble, and may not mislead."""
    try:
        flatlib.measure(net, x)
    except ValueError:
        return
    assert_matches_oracle(net, x)


def test_an_input_that_requires_a_gradient_leaves_no_graph_behind():
    x = gaussian(3, 4).requires_grad_()
    found = flatlib.measure(flatlib.nets.mlp((4, 3, 2)), x * 1.0)
    tensors = [value for value in vars(found).values() if isinstance(value, Tensor)]
    assert not any(value.requires_grad for value in tensors)
    copy.deepcopy(found)


def test_cached_parametrizations_are_measured_as_if_they_were_not():
    net, x = flatlib.nets.mlp((4, 5, 2)), gaussian(3, 4)
    parametrizations.weight_norm(net.linear1)
    expected = flatlib.measure(net, x)
    for first in (lambda: net(x), lambda: None):
        with torch.nn.utils.parametrize.cached():
            first()
            found = flatlib.measure(net, x)
            assert net(x).dtype == torch.float32
        assert found.sharpness == expected.sharpness


def test_memory_without_a_limit():
    net, x = small_conv(), gaussian(5, 2, 6, 6)
    assert (
        flatlib.measure(net, x, max_memory=math.inf).sharpness == flatlib.measure(net, x).sharpness
    )


class Category(nn.Module):
    """Its last number is one of five categories."""

    def __init__(self):
        super().__init__()
        self.table, self.linear = nn.Embedding(5, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x[:, :3].tanh() + self.table(x[:, 3].long()))


class Force(nn.Module):
    """The gradient of an energy, taken in the forward pass."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x if x.requires_grad else x.requires_grad_()
        energy = self.last(torch.tanh(self.first(x))).sum()
        return torch.autograd.grad(energy, x, create_graph=True)[0]


class Reads(nn.Module):
    """A recurrent layer, and a linear one of what it has read last."""

    def __init__(self):
        super().__init__()
        self.recurrent, self.last = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.recurrent(x)[0][:, -1])


def tiny_weights() -> nn.Module:
    net = flatlib.nets.mlp((6, 5, 3)).double()
    with torch.no_grad():
        net.linear1.weight.mul_(1e-150)
    return net


ON_A_GPU = {
    "mlp": (lambda: flatlib.nets.mlp((9, 8, 3)), gaussian(5, 9)),
    "vgg10": (lambda: flatlib.nets.vgg10(1, 3), gaussian(5, 1, 32, 32)),
    "tiny weights": (tiny_weights, gaussian(5, 6)),
    "recurrent": (lambda: seeded(Reads), gaussian(5, 4, 3)),
    "differentiates": (lambda: seeded(Force), gaussian(5, 3)),
    "looks up": (lambda: seeded(Category), torch.cat([gaussian(12, 3), torch.full((12, 1), 4)], 1)),
}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
@pytest.mark.parametrize("kind", ON_A_GPU)
def test_a_gpu_measures_the_same(kind):
    make, x = ON_A_GPU[kind]
    net = make()
    expected = flatlib.measure(net, x.clone())
    found = flatlib.measure(net.cuda(), x.cuda())
    assert found.sharpness == pytest.approx(expected.sharpness, rel=1e-9)
    torch.testing.assert_close(
        found.singular_values.cpu(), expected.singular_values, rtol=1e-9, atol=0
    )
    for mine, its in zip(
        flatlib.bounds.evaluate(found), flatlib.bounds.evaluate(expected), strict=True
    ):
        assert (mine.lhs, mine.rhs) == pytest.approx((its.lhs, its.rhs), rel=1e-9)


def test_operations_that_another_thread_has_numbered_are_of_this_forward():
    class Numbered(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.tanh(self.first(x))
            h.grad_fn._set_sequence_nr(0)  # as a GPU's thread numbers its first one
            return self.last(h)

    net = seeded(Numbered)
    same = nn.Sequential(net.first, nn.Tanh(), net.last)
    found, expected = (flatlib.measure(each, gaussian(5, 3)) for each in (net, same))
    assert_same(found, expected)
