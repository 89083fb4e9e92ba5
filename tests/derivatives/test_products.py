"""`products`: with Jacobians that are never formed, against those that are."""

from __future__ import annotations

import pytest
import torch
from inputs import gaussian
from small import small_conv
from torch import nn

import flatlib
from flatlib import derivatives
from flatlib.derivatives.float64 import float64_network
from flatlib.derivatives.products import JacobianProducts, SampleGradients, plan_products

X = gaussian(4, 2, 6, 6)


@pytest.fixture
def smooth() -> nn.Module:
    net = small_conv()
    net[1] = nn.Tanh()
    return net


def products(net: nn.Module, x: torch.Tensor, u, v) -> tuple[torch.Tensor, torch.Tensor]:
    with float64_network(net) as network:
        made = JacobianProducts(network, x, 0, plan_products(network, x, 0, 1))
        return made.transposed(u), made(v)


@pytest.mark.parametrize("n", [1, 4])
def test_products_are_those_with_the_jacobian(smooth, n):
    x, u, v = X[:n], gaussian(n, 3).double(), gaussian(n, 72, seed=1).double()
    back, forth = products(smooth, x, u, v)
    J = derivatives.input_jacobian(smooth, x)
    torch.testing.assert_close(back, torch.einsum("ikj,ik->ij", J, u), rtol=1e-11, atol=1e-14)
    torch.testing.assert_close(forth, torch.einsum("ikj,ij->ik", J, v), rtol=1e-11, atol=1e-14)
    torch.testing.assert_close((back * v).sum(1), (forth * u).sum(1), rtol=1e-11, atol=1e-13)


def test_energies_of_one_sample_are_squared_norms_of_rows():
    net = flatlib.nets.mlp((4, 5, 3), "gelu")
    x, u = gaussian(1, 4), gaussian(3, seed=2).double()
    names = tuple(name for name, _ in net.named_parameters())
    with float64_network(net) as network:
        at_input, at_parameters = SampleGradients(network, x, 0, names).energies(u)
        _, none = SampleGradients(network, x, 0, ()).energies(u)
    J, K = derivatives.input_jacobian(net, x)[0], derivatives.parameter_jacobian(net, x)[0]
    assert at_input == pytest.approx(float((u @ J).square().sum()), rel=1e-12)
    assert at_parameters == pytest.approx(float((u @ K).square().sum()), rel=1e-12)
    assert none == 0.0


def test_more_vectors_cost_more():
    """Time and again: memory that is freed on the way must not be counted as another's."""
    for _ in range(60):
        others = [torch.empty(k) for k in range(1, 40)]  # leave gaps where the next tensors go
        del others[::2]
        with float64_network(flatlib.nets.mlp((4, 5, 3))) as network:
            few, many = (plan_products(network, gaussian(4, 4), 0, count).cost for count in (1, 11))
        assert many.each - few.each == 8 * 10 * 3
        assert many.one_sample > few.one_sample


def test_a_gradient_that_is_not_finite_is_named_by_its_sample():
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x):
            return self.layer(x).mul(0) + x.abs().sqrt()

    x = torch.tensor([[1.0, 2.0], [3.0, 0.0], [4.0, 5.0]])
    with float64_network(Root()) as network:
        made = JacobianProducts(network, x, 10, plan_products(network, x, 10, 1))
        with pytest.raises(ValueError, match="the gradient for sample 11 holds NaN or infinite"):
            made.transposed(torch.ones(3, 2, dtype=torch.float64))
