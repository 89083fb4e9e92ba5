"""`mixing`: one backward pass, and which rows of a batch hold more than one sample."""

from __future__ import annotations

import pytest
import torch
from inputs import gaussian
from torch import nn

from flatlib.derivatives.float64 import float64_network
from flatlib.derivatives.mixing import find_rows, pulled_back, refuse_mixed
from flatlib.derivatives.recording import run_recorded


class Mixes(nn.Module):
    """Takes the batch's mean out of the input, or of what a layer returns."""

    def __init__(self, where: str):
        super().__init__()
        self.first, self.last, self.where = nn.Linear(3, 4), nn.Linear(4, 2), where

    def forward(self, x):
        x = x - x.mean(0) if self.where == "input" else x
        h = self.first(x)
        h = h - h.mean(0) if self.where == "layer" else h
        return self.last(torch.tanh(h))


@pytest.mark.parametrize(
    "where, mixed", [("nowhere", None), ("input", "x"), ("layer", "layer 'first'")]
)
@pytest.mark.parametrize("n", [4, 200])
def test_the_last_rows_that_are_mixed_are_named(where, mixed, n):
    with float64_network(Mixes(where)) as network:
        forward = run_recorded(network, gaussian(n, 3), range(n))
        found = find_rows(forward, network.kinds, forward.calls, [])
    assert found == mixed
    assert forward.calls["last"][0].rows.place == "first"


def test_mixed_rows_are_refused_by_name():
    refuse_mixed(None)
    with pytest.raises(ValueError, match="^samples influence each other: .* the rows of x:"):
        refuse_mixed("x")
    with pytest.raises(ValueError, match="^the network mixes the rows of layer 'a':"):
        refuse_mixed("layer 'a'")


def test_tokens_are_rows_of_their_samples_wherever_they_stand():
    class Tokens(nn.Module):
        def __init__(self, place: str):
            super().__init__()
            self.layer, self.place = nn.Linear(3, 2), place

        def forward(self, x):
            if self.place == "folded":
                return self.layer(x.flatten(0, 1)).unflatten(0, (4, 5)).sum(1)
            return self.layer(x.transpose(0, 1)).sum(0)

    for place in ("folded", "second"):
        with float64_network(Tokens(place)) as network:
            forward = run_recorded(network, gaussian(4, 5, 3), range(4))
            assert find_rows(forward, network.kinds, forward.calls, []) is None
        assert forward.calls["layer"][0].rows.place == place


def test_a_backward_pass_is_a_product_with_the_jacobian():
    A, x = gaussian(3, 2).double(), gaussian(4, 2).double().requires_grad_()
    alone = torch.ones(2, 2, dtype=torch.float64, requires_grad=True)
    direction = gaussian(4, 3, seed=1).double()
    found, none = pulled_back(x @ A.T, direction, [x, alone], [x.shape, alone.shape])
    torch.testing.assert_close(found, direction @ A, rtol=1e-14, atol=0)
    assert not none.any() and none.shape == (2, 2)


def test_an_operation_that_overwrites_is_named():
    x = gaussian(2, 2).double().requires_grad_()
    y = torch.tanh(x)
    z = y * 2
    y.mul_(3)
    with pytest.raises(ValueError, match="does an in-place operation overwrite"):
        pulled_back(z + y, torch.ones_like(z), [x], [x.shape])
