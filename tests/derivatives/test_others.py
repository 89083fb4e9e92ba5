"""`others`: gradients of any parameter, all samples at once or one at a time, are the same."""

from __future__ import annotations

import pytest
import torch
from inputs import gaussian
from torch import nn

from flatlib.derivatives import others
from flatlib.derivatives.float64 import float64_network
from flatlib.derivatives.others import sample_energies, sample_parameter_gradients


class Own(nn.Module):
    """A matrix of its own, which no layer holds; it may look at the numbers before it computes."""

    def __init__(self, looks: bool):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.own = nn.Linear(3, 2), nn.Parameter(torch.randn(3, 2))
        self.looks = looks

    def forward(self, x):
        y = self.layer(x) + torch.tanh(x @ self.own)
        return y if self.looks and float(y.detach().sum()) > 1e9 else y * y


def jacobians(net: nn.Module, x: torch.Tensor, names) -> list[torch.Tensor]:
    """By ``torch.func`` and one sample at a time, each ``(n, N, *parameter)``."""
    net = net.double()
    parameters = {name: p.detach() for name, p in net.named_parameters()}

    def outputs(chosen, sample):
        return torch.func.functional_call(net, {**parameters, **chosen}, (sample[None],))[0]

    each = [
        torch.func.jacrev(outputs)({name: parameters[name] for name in names}, sample)
        for sample in x.double()
    ]
    return [torch.stack([one[name] for one in each]) for name in names]


NAMES = ("own", "layer.bias")


def test_gradients_of_each_sample_and_output_are_those_of_plain_autograd():
    net, x = Own(False), gaussian(4, 3)
    with float64_network(net) as network:
        found = [[row for row in rows] for rows in sample_parameter_gradients(network, x, NAMES)]
    for place, expected in enumerate(jacobians(net, x, NAMES)):
        mine = torch.stack([torch.stack([row[place] for row in rows]) for rows in found])
        torch.testing.assert_close(mine, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("looks", [False, True])
@pytest.mark.parametrize("at_once", [1, 2**26])
def test_energies_are_squared_norms_by_either_way(looks, at_once, monkeypatch):
    """`vmap` is good where forward does not look at its numbers."""
    monkeypatch.setattr(others, "BYTES_AT_ONCE", at_once)
    net, x = Own(looks), gaussian(4, 3)
    with float64_network(net) as network:
        energies, by_vmap = sample_energies(network, x, NAMES, network(x.double()))
    expected = sum(each.square().flatten(1).sum(1) for each in jacobians(net, x, NAMES))
    torch.testing.assert_close(energies, expected, rtol=1e-12, atol=0)
    assert by_vmap is not looks


def test_energies_of_another_output_are_not_taken():
    """A forward that computes something else under `vmap` is found out by its output."""
    net, x = Own(False), gaussian(4, 3)
    with float64_network(net) as network:
        _, by_vmap = sample_energies(network, x, NAMES, network(x.double()) * (1 + 1e-3))
    assert not by_vmap
