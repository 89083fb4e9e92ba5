"""`recording`: what calls, what acts on the batch, and what of the graph uses a parameter."""

from __future__ import annotations

import pytest
import torch
from inputs import gaussian
from torch import nn

from flatlib.derivatives.float64 import float64_network
from flatlib.derivatives.recording import graph_behind, run_recorded, twice_if_single
from flatlib.derivatives.rows import Rows


class Net(nn.Module):
    """A layer that is called twice, one by its function, and a gain of the network's own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 2)
        self.gain = nn.Parameter(torch.tensor([2.0, 3.0]))

    def forward(self, x):
        h = torch.tanh(self.a(torch.tanh(self.a(x))))
        return nn.functional.linear(h, self.b.weight, self.b.bias) * self.gain


def test_every_call_with_what_it_read():
    net, x = Net(), gaussian(4, 3)
    with float64_network(net) as network:
        forward = run_recorded(network, x, range(4))
    assert {name: len(made) for name, made in forward.calls.items()} == {"a": 2, "b": 1}
    assert forward.last == "b"
    net, x = net.double(), x.double()
    h = torch.tanh(net.a(x))
    for call, expected in zip(forward.calls["a"], (x, h), strict=True):
        call.rows = Rows(4, "first")
        torch.testing.assert_close(call.read(4), expected.detach(), rtol=1e-14, atol=0)
    assert [call.by_module for call in (*forward.calls["a"], *forward.calls["b"])] == [
        True,
        True,
        False,
    ]


def test_a_gains_gradient_for_each_sample_is_that_of_plain_autograd():
    net, x, along = Net(), gaussian(4, 3), gaussian(4, 2, seed=1).double()
    with float64_network(net) as network:
        forward = run_recorded(network, x, range(4))
    (use,) = forward.uses
    use.rows = Rows(4, "first")
    (delta,) = torch.autograd.grad(forward.output, [use.edge], along, retain_graph=True)
    # Two outputs' gradients at a time: here one and its double.
    ((name, found),) = use.gradients(torch.stack([delta, 2 * delta], dim=1))
    assert name == "gain" and delta.shape == use.shape
    gain = network.parameters["gain"]
    for sample in range(4):
        value = forward.output[sample] @ along[sample]
        (expected,) = torch.autograd.grad(value, [gain], retain_graph=True)
        torch.testing.assert_close(
            found[sample].detach(), torch.stack([expected, 2 * expected]), rtol=1e-12, atol=1e-15
        )


def test_how_often_the_graph_uses_each_parameter():
    with float64_network(Net()) as network:
        forward = run_recorded(network, gaussian(4, 3), range(4))
        graph = graph_behind(forward.output, network.parameters)
    assert graph.uses == {"a.weight": 2, "a.bias": 2, "b.weight": 1, "b.bias": 1, "gain": 1}


def test_a_single_sample_runs_twice():
    x = gaussian(1, 3)
    assert torch.equal(twice_if_single(x), torch.cat([x, x]))
    assert twice_if_single(gaussian(2, 3)).shape == (2, 3)


def test_the_first_layer_that_reads_what_is_not_finite_is_named():
    class Root(nn.Module):
        def forward(self, x):
            return (x - 1e9).sqrt()

    net = nn.Sequential(nn.Linear(3, 3), Root(), nn.Linear(3, 3), nn.Linear(3, 2))
    with float64_network(net) as network:
        with pytest.raises(ValueError, match="output for sample 8 holds NaN.*read such.* is '2'"):
            run_recorded(network, gaussian(2, 3), [8, 9])


def test_an_overwritten_input_is_named():
    class Overwrites(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x):
            h = self.first(x) * 1.0
            y = self.last(h)
            h.add_(1)
            return y

    with float64_network(Overwrites()) as network:
        with pytest.raises(ValueError, match="what layer 'last' read is overwritten in place"):
            run_recorded(network, gaussian(2, 3), range(2))


def test_indices_that_nothing_looks_up_have_no_source():
    class Categories(nn.Module):
        def __init__(self, tables: int):
            super().__init__()
            self.tables = nn.ModuleList(nn.Embedding(5, 3) for _ in range(tables))
            self.last = nn.Linear(3, 2)

        def forward(self, x):
            return self.last(sum(table(x) for table in self.tables).mean(1))

    x = torch.tensor([[0, 1], [2, 4]])
    with float64_network(Categories(1)) as network:
        forward = run_recorded(network, x, range(2))
        forward.check_source()
        torch.testing.assert_close(forward.x, network.net.tables[0](x))
    with float64_network(Categories(2)) as network:
        forward = run_recorded(network, x, range(2))
        with pytest.raises(TypeError, match="looked up in .* and .*, so no one vector stands"):
            forward.check_source()
