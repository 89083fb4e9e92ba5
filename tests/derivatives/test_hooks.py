"""`hooks`: hooks may look at gradients, and are refused once they change some."""

from __future__ import annotations

import pytest
import torch
from compare import assert_matches_oracle
from inputs import gaussian
from small import seeded
from torch import nn

import flatlib


class Hooked(nn.Module):
    """Gradients pass a hook of a module, before or after it, or of a tensor."""

    def __init__(self, kind: str = "none", hook=None):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)
        self.kind, self.hook = kind, hook
        if kind == "after":
            self.norm.register_full_backward_hook(lambda m, given, at_output: hook(given))
        if kind == "before":
            self.norm.register_full_backward_pre_hook(lambda m, given: hook(given))
        if kind == "parameter":
            self.first.weight.register_hook(hook)

    def forward(self, x):
        h = self.norm(torch.tanh(self.first(x)))
        if self.kind == "tensor":
            h.register_hook(self.hook)
        if self.kind == "tensor by name":
            h.register_hook(hook=self.hook)
        return self.last(h)


def tripled(gradient):
    if isinstance(gradient, tuple):
        return tuple(3 * part for part in gradient)
    return 3 * gradient


@pytest.mark.parametrize(
    "kind, where",
    [
        ("after", "module 'norm'"),
        ("before", "module 'norm'"),
        ("tensor", "a tensor in forward"),
        ("tensor by name", "a tensor in forward"),
    ],
)
def test_a_hook_that_changes_gradients_is_refused(kind, where):
    net, x = seeded(lambda: Hooked(kind, tripled)), gaussian(4, 3)
    for door in (
        flatlib.measure,
        flatlib.derivatives.parameter_jacobian,
        lambda net, x: flatlib.measure(net, x, method="matrix-free"),
    ):
        with pytest.raises(ValueError, match=f"of {where} changes them.*remove the hook"):
            door(net, x)


@pytest.mark.parametrize("kind", ["after", "before", "tensor", "tensor by name"])
@pytest.mark.parametrize("returns", [lambda gradient: None, lambda gradient: gradient])
def test_a_hook_that_looks_changes_nothing(kind, returns):
    seen = []

    def hook(gradient):
        seen.append(gradient)
        return returns(gradient)

    net, x = seeded(lambda: Hooked(kind, hook)), gaussian(4, 3)
    assert_matches_oracle(net, x, twin=seeded(Hooked))
    assert seen


def test_the_gradient_of_a_parameter_is_left_alone():
    """A hook of a parameter is one of training, where its gradients are added up."""
    net, x = seeded(lambda: Hooked("parameter", tripled)), gaussian(4, 3)
    assert_matches_oracle(net, x, twin=seeded(Hooked))
