"""Networks that do not treat all samples alike."""

from __future__ import annotations

import pytest
import torch
from compare import smallest_limit
from differences import sharpness_by_differences
from hypothesis import given, settings
from hypothesis import strategies as st
from inputs import gaussian
from small import seeded
from torch import nn
from torch.nn.utils import rnn

import flatlib
from flatlib.checkpoint import MLS_COLUMN
from flatlib.derivatives.float64 import float64_network
from flatlib.derivatives.passes import by_parts, differentiate, plan


def test_samples_in_another_order_inside_forward_are_refused_by_layer():
    class Sorts(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            order = x[:, 0].argsort()
            return self.b(torch.tanh(self.a(x[order]))[order.argsort()])

    net = seeded(Sorts)
    with pytest.raises(ValueError, match="layer 'a' reads other numbers .* keep the batch's order"):
        flatlib.measure(net, gaussian(7, 3))


class Gated(nn.Module):
    """An expert, and a parameter of its own, for samples beyond 2 alone."""

    def __init__(self):
        super().__init__()
        self.first, self.expert, self.last = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)
        self.gain = nn.Parameter(torch.full((3,), 1.5))

    def forward(self, x):
        hidden = torch.tanh(self.first(x))
        gate = (x[:, :1] > 2).to(x.dtype)
        if gate.any():
            hidden = hidden + gate * self.gain * self.expert(hidden)
        return self.last(hidden)


def test_a_layer_and_a_parameter_that_one_sample_alone_uses_count():
    net, x = seeded(Gated), gaussian(12, 3).clamp(max=1.9)
    x[0, 0] = 3.0  # not among those that are tried out first
    m = flatlib.measure(net, x)
    assert m.sharpness == pytest.approx(sharpness_by_differences(net, x), rel=1e-6)
    assert [layer.name for layer in m.layers] == ["first", "expert", "last"]


@pytest.mark.parametrize("layers", [True, ["expert"], ["expert", "last"], ["last"], False])
def test_a_layer_that_one_sample_alone_uses_has_an_mls_where_it_is_asked_for(layers):
    net, x = seeded(Gated), gaussian(12, 3).clamp(max=1.9)
    x[0, 0] = 3.0
    m = flatlib.measure(net, x, layers=layers)
    names = ["first", "expert", "last"] if layers is True else layers or []
    assert [layer.name for layer in m.layers if layer.mls is not None] == names
    if "expert" in names:
        last, gain, expert = (
            p.detach().double() for p in (net.last.weight, net.gain, net.expert.weight)
        )
        largest = torch.linalg.matrix_norm(last * gain @ expert, 2)
        expected = torch.cat([largest[None], largest.new_zeros(11)])
        torch.testing.assert_close(m.layers[1].mls, expected, rtol=1e-9, atol=0)
    if layers is True:
        assert m.has_layer_mls and {"nmls", "nvr"} <= set(m.summary())
        row = flatlib.measurement_row(net, x, torch.zeros(12, 2))
        assert row[f"expert.{MLS_COLUMN}"] == pytest.approx(float(m.layers[1].mls.mean()), rel=1e-9)
        assert flatlib.bounds.normalized_nmls(m) is not None


def test_a_layer_that_no_sample_uses_is_not_called():
    net, x = seeded(Gated), gaussian(12, 3).clamp(max=1.9)
    with pytest.raises(ValueError, match="'expert' is not called.* layers are 'first', 'last'$"):
        flatlib.measure(net, x, layers=["expert"])


def test_parts_of_a_batch_that_take_different_ways_are_refused():
    net, x = seeded(Gated), gaussian(12, 3).clamp(max=1.9)
    x[0, 0] = 3.0
    with pytest.raises(ValueError, match="another way for samples 1 to 1 .*'expert' .P = 1.") as e:
        flatlib.measure(net, x, max_memory=smallest_limit(net, x))
    assert "measure samples that take one way together" in str(e.value)


class Wayward(nn.Module):
    """A linear map; for samples beyond 2 its weight, or the input, goes another way as well."""

    def __init__(self, way: str):
        super().__init__()
        self.first, self.last, self.way = nn.Linear(3, 3), nn.Linear(3, 3), way

    def forward(self, x):
        gate = (x[:, :1] > 2).to(x.dtype)
        output = self.last(torch.tanh(self.first(x)))
        if gate.any():
            more = {"weight": torch.tanh(output) @ self.first.weight, "input": x}[self.way]
            output = output + gate * more
        return output


@pytest.mark.parametrize("beyond", [0, 1, 4])
def test_what_holds_of_a_layer_holds_in_every_part_of_the_batch(beyond):
    for way in ("weight", "input"):
        net, x = seeded(lambda way=way: Wayward(way)), gaussian(5, 3).clamp(max=1.9)
        limit = smallest_limit(net, x)
        usual = flatlib.measure(net, x, max_memory=limit)
        assert usual.layers[0].in_sharpness and usual.input_layer_is_dense
        x[beyond, 0] = 3.0
        for max_memory in (limit, None):
            m = flatlib.measure(net, x, max_memory=max_memory)
            assert m.sharpness == pytest.approx(sharpness_by_differences(net, x), rel=1e-6)
            assert m.layers[0].in_sharpness == (way == "input")
            assert m.layers[1].in_sharpness
            assert m.input_layer_is_dense == (way == "weight")


class InHalf(torch.autograd.Function):
    """Loses precision where no cast is seen."""

    @staticmethod
    def forward(ctx, x):
        return torch.from_numpy(x.detach().numpy().astype("f"))

    @staticmethod
    def backward(ctx, gradient):
        return gradient


@pytest.mark.parametrize("fault", ["precision", "parameter made before", "random"])
def test_faults_on_a_way_that_one_sample_alone_takes(fault):
    class Rare(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 2)
            self.made = self.last.weight.sum() * 2

        def forward(self, x):
            hidden = torch.tanh(self.first(x))
            gate = (x[:, :1] > 20).to(x.dtype)
            if gate.any():
                extra = {
                    "precision": lambda: hidden + InHalf.apply(hidden),
                    "parameter made before": lambda: hidden * self.made,
                    "random": lambda: hidden * torch.rand(1),
                }[fault]()
                hidden = hidden + gate * extra
            return self.last(hidden)

    net, x = seeded(Rare), gaussian(12, 3)
    flatlib.measure(net, x)
    x[0, 0] = 30.0
    message = {"precision": "works in torch.float32", "random": "draws random numbers"}
    with pytest.raises(ValueError, match=message.get(fault, "computed from parameters before")):
        flatlib.measure(net, x)


def test_a_single_sample_does_not_hide_that_the_batch_size_counts():
    class BySize(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x):
            return self.layer(x) * len(x)

    for n in (1, 2, 3):
        with pytest.raises(ValueError, match="samples influence each other"):
            flatlib.measure(BySize(), gaussian(n, 3))


class Decided(nn.Module):
    """One sample, which is marked, decides for all, or its numbers do."""

    DECISIONS = {
        "min": lambda x: x - x.min(),
        "max": lambda x: x - x.max(),
        "min as a number": lambda x: x - x.min().item(),
        "whether any is below 0": lambda x: x if bool((x < 0).any()) else 2 * x - 1,
        "whether all are above 0": lambda x: 2 * x - 1 if bool((x > 0).all()) else x,
        "least of each column": lambda x: x - x.amin(dim=0),
        "where the least is": lambda x: x - x[x[:, 0].argmin()],
    }

    def __init__(self, decision: str):
        super().__init__()
        self.layer, self.decision = flatlib.nets.mlp((3, 4, 2)), self.DECISIONS[decision]

    def forward(self, x):
        return self.layer(self.decision(x))


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(sorted(Decided.DECISIONS)),
    st.integers(2, 24),
    st.integers(0, 23),
    st.sampled_from(["exact", "matrix-free", "hessian", "in parts"]),
    st.integers(0, 99),
)
def test_what_a_single_sample_decides_for_the_others_is_refused(decision, n, which, way, seed):
    net, x = seeded(lambda: Decided(decision)), gaussian(n, 3, seed=seed).abs() + 0.1
    x[which % n, 0] = -0.2
    with pytest.raises(ValueError, match="samples influence each other: the output for sample"):
        if way == "hessian":
            flatlib.sharpness.hessian_trace(net, x, torch.zeros(n, 2))
        elif way == "in parts":
            with float64_network(net) as network:  # of about 8
                planned = plan(network, x)
                by_parts(
                    x,
                    planned,
                    8 * planned.cost.each,
                    lambda part, start: differentiate(network, part, start, planned, 2**24),
                )
        else:
            flatlib.measure(net, x, method=way)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_what_many_samples_decide_is_refused_where_one_of_the_others_goes_alone(share):
    """Each sample below 0 alone makes all of them go another way."""
    net, x = seeded(lambda: Decided("whether any is below 0")), gaussian(40, 3).abs() + 0.1
    x[: int(40 * share)] *= -1
    x = x[torch.randperm(40, generator=torch.Generator().manual_seed(1))]
    x[-2] = x[-2].abs()  # goes alone
    with pytest.raises(ValueError, match="the output for sample 38 depends on which other samples"):
        flatlib.measure(net, x)


def test_a_sample_that_the_network_does_not_take_alone_is_refused():
    class Pairs(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x):
            if len(x) == 2 and torch.equal(x[0], x[1]):
                raise RuntimeError("no pair")
            return self.layer(x)

    with pytest.raises(ValueError, match="takes sample 3 with others in its batch, and not alone"):
        flatlib.measure(seeded(Pairs), gaussian(5, 3))


class Ragged(nn.Module):
    """A recurrent network that crops the batch to its longest text, and averages over all that is
    left, padding included.
    """

    def __init__(self):
        super().__init__()
        self.recurrent, self.last = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        lengths = (x.detach().abs().sum(-1) > 0).sum(1)
        packed = rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        read, _ = rnn.pad_packed_sequence(self.recurrent(packed)[0], batch_first=True)
        return self.last(read.mean(1))


@settings(max_examples=40, deadline=None)
@given(st.data(), st.sampled_from([2, 3, 5, 8, 9, 20, 33]))
def test_a_sample_that_rests_on_the_longest_of_its_batch_is_found(data, n):
    x = gaussian(n, 6, 3)
    x[data.draw(st.integers(0, n - 1)), data.draw(st.integers(1, 5)) :] = 0
    with pytest.raises(ValueError, match="samples influence each other"):
        flatlib.measure(seeded(Ragged), x)


class LimitedRoom(nn.Module):
    """Experts that take half of the batch each, those samples that want them most."""

    def __init__(self):
        super().__init__()
        self.gate, self.last = nn.Linear(4, 3), nn.Linear(4, 2)
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x):
        share = self.gate(x).softmax(1)
        chosen, taken = share.argmax(1), torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            wants = (chosen == number).nonzero()[:, 0]
            first = share[wants, number].detach().argsort(descending=True)[: max(1, len(x) // 2)]
            own = wants[first]
            taken = taken.index_add(0, own, share[own, number, None] * expert(x[own]))
        return self.last(x + taken)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 8), st.integers(0, 999))
def test_of_few_samples_none_is_measured_as_its_batch_makes_it(n, seed):
    torch.manual_seed(seed)
    net, x = LimitedRoom().double(), gaussian(n, 4, seed=seed).double()
    alone = torch.cat([net(x[[i, i]])[:1] for i in range(n)])
    try:
        flatlib.measure(net, x)
    except ValueError as refused:
        assert "samples influence each other" in str(refused)
    else:
        torch.testing.assert_close(net(x), alone)


class Centred(nn.Module):
    """What a network gives beyond its output at 0, so that a sample of zeros has rounding alone."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(30, 200), nn.Tanh(), nn.Linear(200, 200), nn.Tanh(), nn.Linear(200, 1)
        ).double()
        self.register_buffer("at_zero", self.net(torch.zeros(1, 30).double()).detach())

    def forward(self, x):
        return self.net(x) - self.at_zero


@pytest.mark.parametrize("n", [2, 3, 6, 8, 9, 12, 20, 33])
def test_a_sample_whose_output_is_rounding_alone_is_no_mixture(n):
    x = gaussian(n, 30).double()
    x[1] = 0
    assert flatlib.measure(seeded(Centred), x).n == n


def test_a_network_that_does_not_take_half_of_its_batch_is_told_as_such():
    class Choosy(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x):
            if len(x) == 10:
                raise RuntimeError("ten are too many")
            return self.layer(x)

    told = "samples 0 to 19 together, and not every other one of them: .*ten are too many"
    with pytest.raises(ValueError, match=told):
        flatlib.measure(Choosy(), gaussian(20, 3))
