"""`float64`: a copy runs in float64 whatever its forward asks for, and says what goes wrong."""

from __future__ import annotations

import pytest
import torch
from inputs import gaussian
from torch import nn

from flatlib.derivatives.float64 import (
    OutOfMemory,
    float64_network,
    in_full,
    out_of_memory_told,
)


def test_numbers_in_float64_and_indices_in_int64():
    assert in_full(torch.ones(2, dtype=torch.bfloat16)).dtype == torch.float64
    assert in_full(torch.ones(2, dtype=torch.int32)).dtype == torch.int64


class Casts(nn.Module):
    """Asks for a lower precision in many ways."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        h = self.first(x.float()).to(torch.bfloat16)
        h = h.to(dtype=torch.float16).half().type(torch.float32)
        h = torch.tanh(h) + torch.zeros(4) + torch.arange(4.0) * torch.full((4,), 0.1)
        with torch.autocast("cpu", torch.bfloat16):
            return self.last(h)


def test_casts_and_new_tensors_come_out_in_float64():
    torch.manual_seed(0)
    net, x = Casts(), gaussian(3, 3).double()
    with float64_network(net) as network:
        found = network(x)
    twin = net.double()
    h = torch.tanh(twin.first(x)) + torch.arange(4.0, dtype=torch.float64) * 0.1
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, twin.last(h), rtol=1e-14, atol=1e-15)


def test_a_function_that_the_network_holds_must_not_refer_to_the_network():
    net = nn.Linear(3, 2)
    net.extra = lambda x: x @ net.weight.T
    net.register_forward_hook(lambda module, args, output: module.extra(args[0]))
    with float64_network(net) as network:
        with pytest.raises(ValueError, match="the forward reads 'weight' of the network itself"):
            network(gaussian(2, 3).double())


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x, time):
        return self.layer(x) * time


@pytest.mark.parametrize(
    "net, said",
    [
        (
            nn.Linear(3, 2),
            r"fails with RuntimeError: mat1 and mat2 .* of shape \(4,\) .*another size",
        ),
        (
            TwoInputs(),
            r"fails with TypeError: .* 'time' .* of shape \(4,\) .*wrap it in a module",
        ),
    ],
)
def test_an_error_of_the_forward_is_told_first_and_then_the_shape_of_samples(net, said):
    with float64_network(net) as network:
        with pytest.raises(ValueError, match=said):
            network(gaussian(2, 4).double())


def test_parameters_and_layers_have_the_networks_names():
    net = nn.Sequential(nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(4, 2))
    net[0].bias.requires_grad_(False)
    with float64_network(net) as network:
        assert network.kinds == {"0": "Conv1d", "2": "Linear"}
        assert list(network.parameters) == ["0.weight", "0.bias", "2.weight", "2.bias"]
        assert network.trainable == {"0.weight", "2.weight", "2.bias"}
        assert all(
            p.requires_grad and p.dtype == torch.float64 for p in network.parameters.values()
        )
    assert not net[0].bias.requires_grad


@pytest.mark.parametrize("error", [MemoryError("no more"), RuntimeError("out of memory")])
def test_memory_that_runs_out_is_told_with_task_and_remedy(error):
    told = "memory ran out while the tests ran: take fewer"
    with (
        pytest.raises(OutOfMemory, match=told) as e,
        out_of_memory_told("the tests ran", "take fewer"),
    ):
        raise error
    with pytest.raises(OutOfMemory) as again, out_of_memory_told("another", "remedy"):
        raise e.value
    assert again.value is e.value, "it is told once"


def test_another_error_stays_what_it_is():
    with pytest.raises(KeyError), out_of_memory_told("the tests ran", "take fewer"):
        raise KeyError("x")
