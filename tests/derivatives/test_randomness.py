"""`randomness`: a forward that draws is refused, other threads may draw."""

from __future__ import annotations

import pytest
import torch
from inputs import gaussian
from torch import nn

from flatlib.derivatives.float64 import float64_network
from flatlib.derivatives.randomness import RandomState

CPU = torch.device("cpu")


class Draws(nn.Module):
    def __init__(self, generator: torch.Generator | None = None):
        super().__init__()
        self.layer, self.seeded = nn.Linear(3, 2), generator is not None

    def forward(self, x):
        generator = torch.Generator().manual_seed(3) if self.seeded else None
        return self.layer(x) + torch.rand(2, generator=generator)


def test_a_forward_that_draws_is_refused_and_leaves_the_random_state():
    with float64_network(Draws()) as network:
        before = torch.get_rng_state()
        random = RandomState(CPU)
        network(gaussian(2, 3).double())
        with pytest.raises(ValueError, match=r"draws random numbers in its forward \(aten.rand"):
            random.check_untouched(network, gaussian(2, 3))
        assert torch.equal(torch.get_rng_state(), before)


def test_numbers_that_another_thread_draws_are_no_fault_of_the_network():
    with float64_network(nn.Linear(3, 2)) as network:
        random = RandomState(CPU)
        torch.rand(1)  # as another thread would in the meantime
        after = torch.get_rng_state()
        random.check_untouched(network, gaussian(2, 3))
        assert torch.equal(torch.get_rng_state(), after), "they stay drawn"


def test_a_generator_of_the_networks_own_is_no_randomness():
    with float64_network(Draws(torch.Generator())) as network:
        random = RandomState(CPU)
        network(gaussian(2, 3).double())
        torch.rand(1)
        random.check_untouched(network, gaussian(2, 3))
