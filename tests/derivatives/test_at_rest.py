"""`at_rest`: what a pass leaves in the copy is put back, and caches of parameters are emptied."""

from __future__ import annotations

import functools
from collections import OrderedDict, defaultdict, deque

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from inputs import gaussian
from torch import nn

from flatlib.derivatives.at_rest import AtRest
from flatlib.derivatives.copying import float64_copy
from flatlib.derivatives.float64 import float64_network


class Store:
    def __init__(self):
        self.entries = {"a": 1}


class Holds(nn.Module):
    """Every kind of container, and what leads to them."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.register_buffer("buffer", torch.ones(2))
        self.plain, self.none, self.pair = torch.ones(2), None, (1, [2])
        self.named, self.listed, self.some = {"x": {"y": [1]}}, [1, [2]], {1, 2}
        self.ordered, self.grows = OrderedDict(a=1), defaultdict(list, a=[1])
        self.recent, self.store = deque([1, 2], maxlen=2), Store()
        self.method, self.part = Store().entries.get, functools.partial(max, [3], key=Store())
        self.loose = [nn.Linear(2, 2)]


CHANGES = {
    "an attribute": lambda net: setattr(net, "none", torch.ones(1)),
    "a new attribute": lambda net: setattr(net, "new", 1),
    "a missing attribute": lambda net: delattr(net, "plain"),
    "an attribute of a layer": lambda net: setattr(net.layer, "seen", 1),
    "a flag": lambda net: setattr(net, "training", not net.training),
    "a buffer": lambda net: setattr(net, "buffer", torch.zeros(2)),
    "a new buffer": lambda net: net.register_buffer("more", torch.zeros(1)),
    "a new parameter": lambda net: setattr(net, "scale", nn.Parameter(torch.ones(1))),
    "a new module": lambda net: setattr(net, "extra", nn.Linear(1, 1)),
    "numbers of a buffer": lambda net: net.buffer.mul_(3),
    "numbers of a tensor": lambda net: net.plain.add_(1),
    "a dictionary": lambda net: net.named["x"].update(z=1),
    "a list in dictionaries": lambda net: net.named["x"]["y"].append(2),
    "a list": lambda net: net.listed.pop(),
    "a list in a list": lambda net: net.listed[-1].clear(),
    "a list in a tuple": lambda net: net.pair[1].append(1),
    "a set": lambda net: net.some.add(3),
    "an order": lambda net: (net.ordered.update(b=2), net.ordered.move_to_end("a")),
    "a default": lambda net: net.grows["b"],
    "a queue": lambda net: net.recent.append(3),
    "an object": lambda net: setattr(net.store, "entries", {}),
    "a dictionary of an object": lambda net: net.store.entries.clear(),
    "an argument": lambda net: net.part.args[0].append(4),
    "a module in a list": lambda net: setattr(net.loose[0], "seen", 1),
}


def told(thing) -> object:
    """What a network holds, as words and numbers."""
    if isinstance(thing, torch.Tensor):
        return (type(thing).__name__, thing.dtype, thing.tolist())
    if isinstance(thing, (dict, list, set, deque, tuple)):
        entries = list(thing.items()) if isinstance(thing, dict) else list(thing)
        return (type(thing).__name__, [told(entry) for entry in entries])
    if isinstance(thing, functools.partial):
        return told([thing.args, thing.keywords])
    if isinstance(thing, (nn.Module, Store)):
        return (type(thing).__name__, told(vars(thing)))
    return repr(thing) if isinstance(thing, (int, float, str, type(None))) else repr(type(thing))


def test_the_words_tell_every_change():
    for name, change in CHANGES.items():
        net = Holds()
        before = told(net)
        change(net)
        assert told(net) != before, name


@given(names=st.lists(st.sampled_from(sorted(CHANGES)), min_size=1, unique=True))
def test_whatever_changes_is_put_back(names):
    net = Holds()
    copied, _ = float64_copy(net)
    before, users = told(copied), told(net)
    at_rest = AtRest(copied, net)
    assert not at_rest.changed()
    for _ in range(2):
        for name in names:
            try:
                CHANGES[name](copied)
            except (AttributeError, IndexError):  # of what another change took away
                continue
        assert at_rest.changed()
        at_rest.put_back()
        assert not at_rest.changed() and told(copied) == before
    assert told(net) == users


def test_what_a_graph_needs_is_not_written_into():
    net = Holds()
    copied, _ = float64_copy(net)
    at_rest = AtRest(copied, net)
    factor = torch.ones(2, dtype=torch.float64, requires_grad=True)
    copied.buffer.mul_(3)
    product = (factor * copied.buffer).sum()
    at_rest.put_back()
    assert copied.buffer.tolist() == [1, 1]
    assert torch.autograd.grad(product, factor)[0].tolist() == [3, 3]


def test_what_the_copy_shares_with_the_network_is_left_alone():
    class Shares(Holds):
        def __deepcopy__(self, memo):
            copied = Holds()
            copied.named = self.named
            return copied

    net = Shares()
    copied, _ = float64_copy(net)
    at_rest = AtRest(copied, net)
    net.named["new"] = 1
    copied.listed.append(3)
    at_rest.put_back()
    assert net.named["new"] == 1 and copied.listed == [1, [2]]


class Keeps(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.scale = nn.Parameter(torch.tensor([2.0, 3.0]))
        self.tables, self.factor = {}, torch.tensor([0.5, 4.0])
        self.runs = 0

    def forward(self, x):
        self.runs += 1
        if "of scale" not in self.tables:
            self.tables["of scale"] = self.scale.square()
        return self.layer(x) * self.tables["of scale"] * self.factor


def test_a_cache_is_emptied_once_and_a_constant_stays():
    net, x = nn.Sequential(Keeps()), gaussian(4, 3).double()
    with torch.no_grad():
        net(gaussian(4, 3))
    with float64_network(net) as network:
        assert set(network.at_rest.kept) == {"0.tables['of scale']", "0.factor"}
        output = network(x)
        assert set(network.at_rest.kept) == {"0.factor"}
        assert network.at_rest.tried == {"0.tables['of scale']", "0.factor"}
        assert network.net[0].runs == net[0].runs + 1, "at rest, it has run as often as the user's"
        (gradient,) = torch.autograd.grad(output.sum(), network.net[0].scale)
        table = network.net[0].tables["of scale"]
        assert network(x) is not None and network.net[0].tables["of scale"] is not table
    expected = (2 * net[0].scale * net[0].layer(x.float()).sum(0) * net[0].factor).detach()
    torch.testing.assert_close(gradient.float(), expected, rtol=1e-5, atol=1e-6)


def test_layers_of_one_class_are_tried_together():
    class Chain(nn.Module):
        def __init__(self, length):
            super().__init__()
            self.parts = nn.ModuleList(Keeps() for _ in range(length))
            self.runs = []

        def forward(self, x):
            self.runs.append(None)
            return sum(part(x) for part in self.parts)

    runs = []
    for length in (1, 5):
        net = Chain(length)
        counted = []
        net.register_forward_pre_hook(lambda *_, counted=counted: counted.append(None))
        with torch.no_grad():
            net(gaussian(2, 3))
        with float64_network(net) as network:
            network(gaussian(2, 3).double())
            assert not any("tables" in name for name in network.at_rest.kept)
        runs.append(len(counted))
    assert runs[0] == runs[1]


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError])
def test_memory_that_runs_out_in_a_trial_is_told(error):
    class Greedy(Keeps):
        def forward(self, x):
            if not isinstance(self.__dict__.get("factor"), torch.Tensor):
                raise error("no more")
            return super().forward(x)

    with pytest.raises(MemoryError, match="no more"), float64_network(Greedy()) as network:
        network(gaussian(2, 3).double())
