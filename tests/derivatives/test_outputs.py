"""`outputs`: the N backward passes are the same however many outputs a pass takes."""

from __future__ import annotations

import pytest
import torch
from inputs import gaussian
from small import seeded
from torch import nn

from flatlib.derivatives.float64 import float64_network
from flatlib.derivatives.mixing import weighted_pass
from flatlib.derivatives.outputs import Target, gradients_of_outputs
from flatlib.derivatives.recording import run_recorded
from flatlib.derivatives.rows import Rows

N = 7


def network_of_seven() -> nn.Sequential:
    """For images of 2 x 6 x 6."""
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, N)
        )
    )


class Alone(torch.autograd.Function):
    """The identity, whose backward pass takes plain numbers and so one output at a time."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return torch.from_numpy(gradient.numpy().copy())


def taken(net, x, at_once: int, place: str = "first"):
    """What is kept, what is shown and what is told of the passes, and whether the rows hold."""
    shown, told = [], []
    with float64_network(net) as network:
        forward = run_recorded(network, x, range(len(x)))
        mixed, watched = weighted_pass(forward, network.kinds, forward.calls, [])
        assert mixed is None
        call = forward.calls["0" if place == "first" else "layer"][0]
        assert call.rows.place == place
        (jacobian,) = gradients_of_outputs(
            forward.output,
            len(x) - 1,
            [Target(forward.source, forward.x.shape, Rows(len(x), "first"))],
            [Target(call.output_edge, call.output_shape, call.rows)],
            watched,
            lambda gradients: shown.append(gradients[0]),
            at_once,
            told.append,
        )
        expected = torch.func.jacrev(lambda row: network.net(row[None].repeat(2, 1, 1, 1))[0])
        oracle = (
            torch.stack([expected(row) for row in x[:-1].double()]) if place == "first" else None
        )
    return jacobian, torch.cat(shown, dim=1), told, [place.holds() for place in watched], oracle


@pytest.mark.parametrize("at_once", [2, 3, 7, 100])
def test_several_outputs_at_once_have_the_gradients_of_one_after_the_other(at_once):
    net, x = network_of_seven(), gaussian(5, 2, 6, 6)
    kept, shown, told, holds, oracle = taken(net, x, 1)
    torch.testing.assert_close(kept, oracle, rtol=1e-12, atol=1e-15)
    assert told == [4] * N and all(holds) and shown.shape[:2] == (4, N)
    again = taken(net, x, at_once)
    torch.testing.assert_close(again[0], kept, rtol=1e-13, atol=1e-16)
    torch.testing.assert_close(again[1], shown, rtol=1e-13, atol=1e-16)
    assert sum(again[2]) == 4 * N and len(again[2]) == -(-N // at_once) and all(again[3])


@pytest.mark.parametrize("place", ["second", "folded"])
def test_samples_come_first_wherever_a_layer_has_them(place):
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, N)

        def forward(self, x):
            if place == "folded":
                return torch.tanh(self.layer(x.flatten(0, 1))).unflatten(0, (5, 4)).sum(1)
            return torch.tanh(self.layer(x.transpose(0, 1))).sum(0)

    net, x = Tokens(), gaussian(5, 4, 3)
    one, several = (taken(net, x, at_once, place) for at_once in (1, 3))
    assert one[1].shape[:3] == (4, N, 4)
    for mine, other in zip(one[:2], several[:2], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-13, atol=1e-16)
    assert all(one[3]) and all(several[3])


def test_an_operation_that_cannot_be_batched_has_a_pass_for_each_output():
    class Net(nn.Sequential):
        def forward(self, x):
            return Alone.apply(super().forward(x))

    plain, x = network_of_seven(), gaussian(5, 2, 6, 6)
    kept, shown, told, holds, _ = taken(plain, x, 3)
    net = Net(*plain)
    with float64_network(net) as network:
        forward = run_recorded(network, x, range(5))
        source = Target(forward.source, forward.x.shape, Rows(5, "first"))
        seen = []
        how = ([source], [], [], seen.append, 3, told.append)
        told.clear()
        (again,) = gradients_of_outputs(forward.output, 4, *how)
    torch.testing.assert_close(again, kept, rtol=1e-13, atol=1e-16)
    assert told == [4] * N
