"""`last`: the layer called last, and curvatures along what it returns, in closed form."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from inputs import gaussian
from torch import nn

from flatlib.derivatives.float64 import float64_network
from flatlib.derivatives.last import curvature, dense_last_layer
from flatlib.derivatives.probing import checked_forward

LABELS = torch.tensor([0, 2, 1, 1])


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3))


def rows_of(net: nn.Module, loss) -> torch.Tensor:
    """Curvatures of a loss of the output along what the last layer returns, ``(n, C, C)``."""
    with float64_network(net) as network:
        forward = checked_forward(network, gaussian(4, 3))
        call, _ = dense_last_layer(network, forward)
        return torch.stack(list(curvature(loss(forward.output), call)), dim=1)


def test_it_is_the_layer_that_is_called_last_and_its_weight():
    net = mlp()
    with float64_network(net) as network:
        call, weight = dense_last_layer(network, checked_forward(network, gaussian(4, 3)))
    assert torch.equal(weight, net[2].weight.double())
    expected = torch.tanh(net[0].double()(gaussian(4, 3).double()))
    torch.testing.assert_close(call.read(4), expected, rtol=1e-14, atol=0)


def test_cross_entropy_curves_as_probabilities_do():
    """The Hessian along the logits z is diag(p) - p p^T."""
    net = mlp()
    found = rows_of(net, lambda z: F.cross_entropy(z, LABELS, reduction="sum"))
    p = net.double()(gaussian(4, 3).double()).softmax(dim=1)
    expected = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    torch.testing.assert_close(found, expected.detach(), rtol=1e-12, atol=1e-14)


def test_half_the_squared_error_curves_by_one_and_a_linear_loss_not_at_all():
    eye = torch.eye(3, dtype=torch.float64).expand(4, 3, 3)
    torch.testing.assert_close(rows_of(mlp(), lambda z: z.square().sum() / 2), eye)
    assert not rows_of(mlp(), lambda z: z.sum()).any()


def test_a_loss_that_ties_samples_together_is_refused():
    with pytest.raises(
        ValueError, match="the loss for one sample depends on the output for another"
    ):
        rows_of(mlp(), lambda z: z.sum() ** 2)


class Reused(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return self.layer(torch.tanh(self.layer(x)))


@pytest.mark.parametrize(
    "net, fault",
    [
        (Reused(), "'layer', must be called once, and its weight used nowhere else"),
        (
            nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 2, 3), nn.Flatten()),
            r"'1', is a Conv1d that reads shape \(4, 1, 3\), and must be a dense layer",
        ),
    ],
)
def test_another_last_layer_is_refused(net, fault):
    with float64_network(net) as network:
        forward = checked_forward(network, gaussian(4, 3))
        with pytest.raises(ValueError, match=fault):
            dense_last_layer(network, forward)
