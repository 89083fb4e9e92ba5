"""`passes`: the derivatives of a part, planned by a probe, against plain autograd."""

from __future__ import annotations

import pytest
import torch
from inputs import gaussian
from small import seeded, small_conv
from torch import nn

from flatlib.derivatives.float64 import OutOfMemory, float64_network
from flatlib.derivatives.passes import by_parts, differentiate, plan, trainable_names

X = gaussian(5, 2, 6, 6)
LIMIT = 2**24


class Energies:
    """Squared norms of the gradients at what a layer returns, summed over the outputs."""

    def __init__(self, module, inputs, n_outputs):
        self.total, self.seen = 0.0, 0

    def add(self, gradients):
        self.total = self.total + sum(g.square().flatten(1).sum(1) for g in gradients)
        self.seen += gradients[0].shape[1]


def test_jacobian_and_gradients_at_layers_are_those_of_plain_autograd():
    net = small_conv()
    with float64_network(net) as network:
        found = differentiate(network, X, 0, plan(network, X), LIMIT, Energies)
    twin, x = net.double(), X.double()
    with torch.random.fork_rng(devices=[]):
        expected = torch.stack(
            [torch.func.jacrev(lambda row: twin(row[None] * 1.0)[0])(row) for row in x]
        )
    torch.testing.assert_close(found.jacobian, expected.flatten(2).detach(), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(found.output, twin(x).detach(), rtol=1e-14, atol=0)
    first, last = found.layers
    assert [first.kind, last.kind] == ["Conv2d", "Linear"]
    torch.testing.assert_close(first.input_gradients[0].flatten(2), found.jacobian)
    expected = twin[-1].weight.detach().expand(5, -1, -1)
    torch.testing.assert_close(last.input_gradients[0], expected, rtol=1e-14, atol=0)
    assert first.owns_weight and last.owns_bias and not found.other_parameters
    # Along what the last layer returns the outputs have the unit vectors for gradients.
    assert last.collected.total.tolist() == [3.0] * 5 and last.collected.seen == 3


@pytest.mark.parametrize("at_layers, kept", [(True, ["0", "4"]), (False, []), (["4"], ["4"])])
def test_gradients_are_kept_at_the_layers_that_are_asked_for(at_layers, kept):
    with float64_network(small_conv()) as network:
        planned = plan(network, X, at_layers=at_layers)
        found = differentiate(network, X, 0, planned, LIMIT, Energies)
    assert found.at_layers == set(kept) and planned.n_outputs == 3
    assert [layer.name for layer in found.layers if layer.input_gradients] == kept
    assert planned.cost_without_layers.each <= planned.cost.each


@pytest.mark.parametrize("fit, sizes", [(1, [1] * 5), (2.9, [2, 2, 1]), (4.2, [3, 2]), (9, [5])])
def test_a_batch_is_measured_in_parts_that_fit(fit, sizes):
    with float64_network(small_conv()) as network:
        planned = plan(network, X, start=7)
    limit = fit * planned.cost.each
    found = by_parts(X, planned, limit, lambda part, start: (start, len(part)))
    assert [size for _, size in found] == sizes
    assert [start for start, _ in found] == [7 + sum(sizes[:k]) for k in range(len(sizes))]


def test_a_part_that_runs_out_of_memory_is_named():
    def fails(part, start):
        raise MemoryError

    with float64_network(small_conv()) as network:
        planned = plan(network, X)
    with pytest.raises(OutOfMemory, match="samples 0 to 1 were differentiated at once"):
        by_parts(X, planned, 2 * planned.cost.each, fails)


def test_names_of_the_parameters_that_are_trained():
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    net[0].weight.requires_grad_(False)
    with float64_network(net) as network:
        assert trainable_names(network) == ("0.bias", "1.weight", "1.bias")
    with float64_network(net.requires_grad_(False)) as network:
        with pytest.raises(ValueError, match="every parameter is frozen"):
            trainable_names(network)


def test_an_output_that_does_not_rest_on_the_input_is_refused():
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x):
            return self.layer(x.detach())

    with float64_network(seeded(Cut)) as network:
        x = gaussian(3, 3)
        planned = plan(network, x)
        with pytest.raises(ValueError, match="the output does not depend on x"):
            differentiate(network, x, 0, planned, LIMIT)
