"""Networks that mix a layer's rows over the batch, cut the way back to x, or run out of memory."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inputs import gaussian
from torch import Tensor, nn

import flatlib
from flatlib.derivatives import mixing
from flatlib.derivatives.float64 import float64_network
from flatlib.derivatives.mixing import Watched, find_rows, weighted_pass
from flatlib.derivatives.outputs import gradients_of_outputs
from flatlib.derivatives.recording import run_recorded
from flatlib.derivatives.rows import FACTORS, Rows

MIXINGS = {
    "the first": lambda rows: rows[:1],
    "the last": lambda rows: rows[-1:],
    "one in the middle": lambda rows: rows[len(rows) // 2].unsqueeze(0),
    "the mean": lambda rows: rows.mean(dim=0),
    "the next": lambda rows: rows.roll(1, dims=0),
    "in reverse": lambda rows: rows.flip(0),
    "the largest": lambda rows: rows.amax(dim=0),
    "gathered": lambda rows: rows[torch.arange(len(rows)) // 2],
    "half its own": lambda rows: 0.5 * rows + 0.5 * rows[:1],
}


class Conditioned(nn.Module):
    """A condition, the same for all samples, is embedded row by row and added to each sample."""

    def __init__(self, choose, depth: int = 1, seed: int = 0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.condition = nn.ModuleList([nn.Linear(2, 6), *[nn.Linear(6, 6)] * (depth - 1)])
            self.read, self.out = nn.Linear(5, 6), nn.Linear(6, 3)
        self.choose = choose

    def forward(self, x: Tensor) -> Tensor:
        rows = x.new_ones(len(x), 2)
        for layer in self.condition:
            rows = layer(rows).sin()
        return self.out(torch.tanh(self.read(x) + self.choose(rows)))


def plain_sharpness(net: nn.Module, x: Tensor) -> float:
    """One sample and one output at a time, by autograd alone."""
    net, energy = net.double(), 0.0
    for i in range(len(x)):
        for output in net(x.double())[i]:
            found = torch.autograd.grad(output, list(net.parameters()), retain_graph=True)
            energy += sum(float(g.square().sum()) for g in found) / len(x)
    return energy


@pytest.mark.parametrize("size", [1, 7, None])
@pytest.mark.parametrize("name", MIXINGS)
@pytest.mark.parametrize("n", [1, 2, 20])
def test_mixed_rows_are_refused_by_layer(n, name, size):
    net = Conditioned(MIXINGS[name])
    with pytest.raises(ValueError, match="mixes the rows of layer 'condition.0'.*its own row"):
        flatlib.measure(net, gaussian(n, 5) if size is None else gaussian(n, 5).split(size))


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(MIXINGS)), st.integers(1, 3), st.integers(1, 9), st.integers(0, 99))
def test_drawn_networks_that_mix_rows_are_never_given_a_wrong_sharpness(name, depth, n, seed):
    x = gaussian(n, 5, seed=seed)
    with pytest.raises(ValueError, match="mixes the rows"):
        flatlib.measure(Conditioned(MIXINGS[name], depth, seed), x)
    own = Conditioned(lambda rows: rows, depth, seed)
    found = flatlib.measure(own, x).sharpness
    assert found == pytest.approx(plain_sharpness(own, x), rel=1e-9)


def test_a_mixture_that_begins_beyond_the_samples_of_the_probe():
    """The probe sees a few samples; this network mixes the rows of larger batches alone."""
    late = Conditioned(lambda rows: rows if len(rows) < 8 else rows[7:8])
    flatlib.measure(late, gaussian(3, 5))
    with pytest.raises(ValueError, match="mixes the rows of layer 'condition.0'"):
        flatlib.measure(late, gaussian(20, 5))


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([None, *sorted(MIXINGS)]),
    st.sampled_from([2, 5, 40]),
    st.integers(1, 3),
    st.sampled_from([1, 2, 3]),
    st.integers(0, 99),
)
def test_one_weighted_pass_and_those_of_the_outputs_find_what_two_passes_find(
    name, n, depth, outputs_at_once, seed
):
    net = Conditioned(MIXINGS.get(name, lambda rows: rows), depth, seed)
    with float64_network(net) as network:
        forward = run_recorded(network, gaussian(n, 5, seed=seed), range(n))
        how = (forward, network.kinds, forward.calls, forward.uses)
        mixed = find_rows(*how)
        sure = {name: [call.rows for call in made] for name, made in forward.calls.items()}
        at_once, watched = weighted_pass(*how)
        gradients_of_outputs(forward.output, n, [], [], watched, list, outputs_at_once, int)
    assert (mixed is None) == (name is None)
    assert (at_once is None and all(place.holds() for place in watched)) == (mixed is None)
    found = {name: [call.rows for call in made] for name, made in forward.calls.items()}
    assert mixed is not None or found == sure


class OfTheUser(nn.Sequential):
    """What nobody knows to keep samples apart."""


@pytest.mark.parametrize("widths", [(5, 6, 3), (5, 6, 6, 3)])
def test_what_one_pass_leaves_open_is_settled_by_two(widths, monkeypatch):
    net, x = OfTheUser(flatlib.nets.mlp(widths)), gaussian(9, 5)
    at_once = flatlib.measure(net, x)
    asked = []
    monkeypatch.setattr(Watched, "holds", lambda place: asked.append(place))
    assert flatlib.measure(net, x) == at_once
    assert len(asked) == 1


@pytest.mark.parametrize("distance", [FACTORS, 2 * FACTORS])
def test_samples_that_exchange_rows_far_apart_are_refused(distance):
    net, x = Conditioned(lambda rows: rows.roll(distance, dims=0)), gaussian(2 * distance, 5)
    with pytest.raises(ValueError, match="mixes the rows of layer 'condition.0'"):
        flatlib.measure(net, x)


class Tokens(nn.Module):
    """As many tokens as samples, along the first axis, of which the last sample's add up to 0."""

    def __init__(self):
        super().__init__()
        self.scale, self.layer = nn.Parameter(torch.ones(4)), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.layer(x.transpose(0, 1) * self.scale).tanh()  # (T, n, 3)
        dead = x.new_ones(len(x), 1)
        dead[x[:, 0, 0] > 9] = 0.0
        return tokens.sum(0) * dead


@pytest.mark.parametrize("dead", range(5))
def test_a_sample_without_gradients_does_not_hide_where_the_samples_are(dead):
    x = gaussian(5, 5, 4)
    x[dead, 0, 0] = 10.0
    net = Tokens()
    assert flatlib.measure(net, x).sharpness == pytest.approx(plain_sharpness(net, x), rel=1e-9)


def test_samples_that_one_pass_sees_in_the_wrong_place_are_found_by_two(monkeypatch):
    net, x = Tokens(), gaussian(5, 5, 4)
    monkeypatch.setattr(
        mixing,
        "unweighted",
        lambda gradient, weight, foldable, likely: Rows(len(weight), likely or "first"),
    )
    assert flatlib.measure(net, x).sharpness == pytest.approx(plain_sharpness(net, x), rel=1e-9)


class OneWay(nn.Module):
    """A sample whose first number is above 9 alone goes by way of another layer's last row."""

    def __init__(self):
        super().__init__()
        self.read, self.other = nn.Linear(5, 3), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h, far = self.read(x), x[:, :1] > 9
        return torch.where(far, h + self.other(x)[-1:], h) if far.any() else h


@pytest.mark.parametrize(
    "sample, told",
    [
        (0, "the output for sample 0 depends on which other samples"),
        (1, "mixes the rows of"),  # not among the samples that are tried out in other company
    ],
)
def test_a_mixture_on_a_way_that_one_sample_alone_takes(sample, told):
    x = gaussian(20, 5)
    x[sample, 0] = 10.0
    with pytest.raises(ValueError, match=told):
        flatlib.measure(OneWay(), x)


def test_a_gradient_that_is_all_rounding_is_no_mixture():
    class Cancels(nn.Module):
        def __init__(self):
            super().__init__()
            self.vain, self.out = nn.Linear(5, 4), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.vain(x)
            return self.out(x) + (0.1 * h + 0.2 * h - 0.3 * h)[:, :3]

    x = gaussian(7, 5)
    net = Cancels()
    assert flatlib.measure(net, x).sharpness == pytest.approx(plain_sharpness(net, x), rel=1e-9)


def test_the_jacobian_does_not_suffer_from_mixed_rows():
    net = Conditioned(MIXINGS["the first"]).double()
    x = gaussian(4, 5).double()
    expected = torch.func.vmap(torch.func.jacrev(lambda v: net(v[None])[0]))(x)
    torch.testing.assert_close(
        flatlib.derivatives.input_jacobian(net, x), expected, rtol=1e-9, atol=1e-12
    )


def test_equal_samples_are_no_mixture():
    net = flatlib.nets.mlp((5, 6, 3))
    alone = flatlib.measure(net, gaussian(1, 5)).sharpness
    same = flatlib.measure(net, gaussian(1, 5).expand(7, 5)).sharpness
    assert same == pytest.approx(alone, rel=1e-12)


class Cut(nn.Module):
    """Reads x, but not in a way that autograd can follow."""

    def __init__(self, cut):
        super().__init__()
        self.embedding, self.out = nn.Embedding(9, 4), nn.Linear(4, 2)
        self.cut = cut

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.cut(self, x))


CUTS = {
    "indices": lambda net, x: net.embedding(x[:, 0].abs().long() % 9),
    "detached": lambda net, x: x.detach(),
    "by way of NumPy": lambda net, x: torch.from_numpy(x.detach().numpy().copy()).to(x),
    "rounded off": lambda net, x: x.detach().round().sin(),
}


@pytest.mark.parametrize("name", CUTS)
@pytest.mark.parametrize("way", ["measure", "input_jacobian"])
def test_a_way_to_x_that_is_cut_is_refused(name, way):
    measuring = flatlib.measure if way == "measure" else flatlib.derivatives.input_jacobian
    with pytest.raises(ValueError, match="does not depend on x as far as autograd sees.*embedded"):
        measuring(Cut(CUTS[name]), gaussian(3, 4))


def test_a_hessian_needs_no_way_to_x():
    net, x, y = Cut(CUTS["indices"]), gaussian(3, 4), gaussian(3, 2)
    found = flatlib.sharpness.hessian_trace(net, x, y, method="exact")
    twin = net.double()
    theta = torch.cat([p.detach().flatten() for p in twin.parameters()])
    shapes = {name: p.shape for name, p in twin.named_parameters()}

    def loss(theta: Tensor) -> Tensor:
        parts = theta.split([shape.numel() for shape in shapes.values()])
        state = {k: part.view(s) for (k, s), part in zip(shapes.items(), parts, strict=True)}
        output = torch.func.functional_call(twin, state, (x.double(),))
        return (output - y.double()).square().sum() / (2 * len(x))

    trace = torch.autograd.functional.hessian(loss, theta).trace()
    assert found.estimate == pytest.approx(float(trace), rel=1e-9)


def test_a_constant_that_is_connected_to_x_has_sensitivity_0():
    net = flatlib.nets.linear(4, 2)
    nn.init.zeros_(net.linear1.weight)
    assert flatlib.measure(net, gaussian(3, 4)).mls.tolist() == [0.0] * 3


def test_indices_of_tokens_are_not_advised_to_become_floats():
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))  # no embedding looks them up
    with pytest.raises(TypeError, match="embed them first") as refusal:
        flatlib.measure(net, torch.ones(3, 2, dtype=torch.long))
    assert "float()" not in str(refusal.value)


STARVED = """
import resource, sys, torch, flatlib
where = sys.argv[1]
if where == "forward":  # one activation of 8 GB
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Upsample(scale_factor=5e8))
    x = torch.ones(1, 1, 2)
else:  # the backward passes of 4,000 outputs take 4,000 times the forward's memory
    net = torch.nn.Sequential(torch.nn.Linear(4000, 4000), torch.nn.Tanh())
    x = torch.ones(60, 4000)
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 2**30, taken + 2**30))
try:
    flatlib.measure(net, x, max_memory=2**50)
except MemoryError as error:
    print(error)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory by Linux's means")
@pytest.mark.parametrize(
    ("where", "remedy"), [("forward", "no split of the batch"), ("backward", "smaller max_memory")]
)
def test_out_of_memory_is_told_as_such(where, remedy):
    command = [sys.executable, "-c", STARVED, where]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "memory ran out" in ended.stdout and remedy in ended.stdout, ended.stderr[-800:]
