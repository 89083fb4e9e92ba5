"""What `measure` says where a derivative, a volume or an axis is missing."""

from __future__ import annotations

import math

from compare import assert_matches_oracle
from inputs import gaussian
from small import seeded
from torch import nn

import flatlib


def test_a_zero_jacobian_is_defined():
    net = flatlib.nets.mlp((4, 5, 3))
    nn.init.zeros_(net.linear1.weight)
    m = flatlib.measure(net, gaussian(2, 4))
    assert (m.mls == 0).all() and (m.log_volume == -math.inf).all()
    assert m.local_dimensionality.isnan().all()
    summary = m.summary()
    assert summary["mls"] == 0 and summary["log_volume"] == -math.inf
    assert math.isnan(summary["local_dimensionality"])


def test_a_layer_that_cannot_reach_the_output_counts_nothing():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x):
            self.unused(x)
            return self.used(x)

    m = assert_matches_oracle(seeded(Unused), gaussian(2, 3))
    assert m.layers[0].weight_gradient_energy.tolist() == [0.0, 0.0]
    assert not m.input_layer_is_dense


def test_a_bottleneck_has_no_volume():
    m = flatlib.measure(flatlib.nets.mlp((6, 2, 4), seed=3), gaussian(5, 6))
    assert (m.log_volume == -math.inf).all() and (m.singular_values[:, 2:] == 0).all()
    assert (m.singular_values[:, :2] > 0).all()


def test_a_layer_narrower_than_the_outputs_adds_nothing_to_nvr():
    m = flatlib.measure(flatlib.nets.mlp((6, 5, 2, 4), "identity"), gaussian(5, 6))
    assert m.summary()["nvr"] == 0.0
    assert (m.layers[2].log_volume == -math.inf).all()


def test_scalar_outputs_without_an_output_axis():
    net = seeded(lambda: nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)))
    m = flatlib.measure(net, gaussian(4, 3))
    assert m.n_outputs == 1 and m.singular_values.shape == (4, 1)
