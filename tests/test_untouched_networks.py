"""The network comes back as it was, also after an error in the middle."""

from __future__ import annotations

from collections import deque

import pytest
import torch
from compare import assert_matches_oracle
from inputs import gaussian
from small import seeded
from torch import Tensor, nn

import flatlib


def state_of(net: nn.Module) -> list:
    """Everything about a network that somebody could notice, as comparable values."""

    def bits(tensor: Tensor | None):
        return None if tensor is None else (tensor.dtype, tensor.detach().clone().tolist())

    state = [("rng", torch.get_rng_state().tolist())]
    for name, p in net.named_parameters(remove_duplicate=False):
        state.append((name, id(p), bits(p), bits(p.grad), p.requires_grad, p._version))
    for name, b in net.named_buffers():
        state.append((name, id(b), bits(b)))
    for name, module in net.named_modules():
        state.append((name, module.training))
        for key, value in sorted(vars(module).items()):
            if "hooks" in key:
                state.append((name, key, list(value.items())))
            elif isinstance(value, Tensor):
                state.append((name, key, id(value), bits(value)))
            else:
                state.append((name, key))
    return state


class Everything(nn.Module):
    """Frozen and unfrozen parameters, buffers, tensors that are not registered, hooks."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)
        self.norm, self.drop = nn.BatchNorm1d(4), nn.Dropout(0.3)
        self.loose = torch.tensor([0.5, 1.0, 2.0])
        self.first.bias.requires_grad_(False)
        self.last.weight.grad = torch.ones_like(self.last.weight)
        self.last.register_forward_hook(lambda *_: None)
        self.first.register_full_backward_hook(lambda *_: None)

    def forward(self, x):
        return self.last(self.drop(self.norm(torch.tanh(self.first(x * self.loose)))))


# PyTorch says so of the network's own hook: pytorch/pytorch pull request 155339, in torch 2.13.
@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_everything_comes_back_as_it_was():
    net = seeded(Everything)
    before = state_of(net)
    for _ in range(2):
        flatlib.measure(net, gaussian(4, 3))
    flatlib.hessian_trace(net, gaussian(4, 3), gaussian(4, 2))
    flatlib.hessian_trace(net, gaussian(4, 3), gaussian(4, 2), "hutchinson", max_probes=8)
    flatlib.derivatives.input_jacobian(net, gaussian(4, 3))
    flatlib.derivatives.parameter_jacobian(net, gaussian(4, 3))
    flatlib.sharpness.sharpness_gap(net, gaussian(4, 3), gaussian(4, 2))
    flatlib.sharpness.adaptive_sharpness(net, gaussian(4, 3))
    assert state_of(net) == before


def test_submodules_keep_their_modes():
    net = seeded(Everything)
    net.train()
    net.norm.eval()
    net.drop.eval()
    before = state_of(net)
    flatlib.measure(net, gaussian(4, 3))
    assert state_of(net) == before and net.training and not net.norm.training


class BackwardFails(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise FloatingPointError("broken on purpose")


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_everything_comes_back_after_an_error_in_the_middle(where):
    class Broken(Everything):
        def forward(self, x):
            if where == "forward":
                self.last(self.first(x))
                raise FloatingPointError("broken on purpose")
            return BackwardFails.apply(super().forward(x))

    net = seeded(Broken)
    before = state_of(net)
    with pytest.raises((ValueError, FloatingPointError), match="broken on purpose"):
        flatlib.measure(net, gaussian(4, 3))
    assert state_of(net) == before


def test_what_forward_notes_on_itself_is_put_back():
    class Notes(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.calls, self.kept = nn.Linear(3, 2), 0, torch.zeros(1)
            self.seen, self.by_name, self.shapes = ["before"], {"before": {"x": []}}, {(3,)}
            self.recent, self.count = deque([0], maxlen=2), torch.tensor(1)
            self.drift = torch.ones(2).double()

        def forward(self, x):
            self.calls += 1
            self.seen.append(x)
            self.by_name["x"] = x
            self.by_name["before"]["x"].append(x)
            self.shapes.add(x.shape)
            self.recent.append(x)
            self.count += 1
            self.drift.add_(1)
            self.kept = self.hidden = self.linear(x)
            return self.kept

    net = seeded(Notes)
    before = state_of(net)
    flatlib.measure(net, gaussian(4, 3))
    assert state_of(net) == before
    assert net.calls == 0 and not hasattr(net, "hidden")
    assert (net.seen, net.by_name, net.shapes) == (["before"], {"before": {"x": []}}, {(3,)})
    assert net.recent == deque([0], maxlen=2)


def test_a_forward_that_writes_into_its_input_leaves_the_input_alone():
    net = seeded(lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 2)))
    x = gaussian(4, 3)
    kept = x.clone()
    assert_matches_oracle(net, x)
    assert torch.equal(x, kept)


def test_tensors_in_a_list_that_a_forward_changes_are_put_back():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.calls = nn.Linear(2, 2), [torch.zeros(1)]
            self.fixed = ({"calls": torch.zeros(1)},)

        def forward(self, x):
            self.calls[0] += 1
            self.fixed[0]["calls"].data.add_(1)
            return self.layer(x)

    net = Counts()
    calls, fixed = net.calls[0], net.fixed[0]["calls"]
    flatlib.measure(net, gaussian(3, 2))
    assert net.calls[0] is calls and net.fixed[0]["calls"] is fixed
    assert float(calls) == 0 and float(fixed) == 0
