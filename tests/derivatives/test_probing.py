"""`probing`: a few samples in other company show what would make derivatives wrong."""

from __future__ import annotations

import pytest
import torch
from inputs import gaussian
from torch import nn

from flatlib.derivatives.float64 import float64_network
from flatlib.derivatives.probing import (
    PROBE_SAMPLES,
    checked_forward,
    checked_output,
    probed,
)


@pytest.mark.parametrize(
    "n, samples", [(1, (0,)), (2, (1,)), (5, (4, 2, 0)), (9, (8, 6, 4, 2)), (20, (19, 17, 15, 13))]
)
def test_every_other_sample_from_the_last_on(n, samples):
    net = nn.Sequential(nn.Linear(3, 2))
    with float64_network(net) as network:
        probe, _ = probed(network, gaussian(n, 3), start=100)
    assert probe.samples == tuple(100 + sample for sample in samples)
    assert len(samples) <= PROBE_SAMPLES
    expected = net.double()(gaussian(n, 3).double()[list(samples)])
    torch.testing.assert_close(probe.output, expected.detach(), rtol=1e-14, atol=0)


def test_the_output_is_that_of_the_network():
    net, x = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2)), gaussian(6, 3)
    with float64_network(net) as network:
        output, forward = checked_output(network, x), checked_forward(network, x)
    expected = net.double()(x.double())
    torch.testing.assert_close(output, expected, rtol=1e-14, atol=1e-16)
    torch.testing.assert_close(forward.output, expected, rtol=1e-14, atol=1e-16)


class Faulty(nn.Module):
    def __init__(self, fault: str):
        super().__init__()
        self.first, self.last, self.fault = nn.Linear(3, 4), nn.Linear(4, 2), fault
        self.calls = 0
        self.before = self.last.weight * 2

    def forward(self, x):
        if self.fault == "batch":
            x = x - x.mean(0)
        h = torch.tanh(self.first(x))
        if self.fault == "before":
            return h @ self.before.T
        if self.fault == "calls":
            self.calls += 1
            h = h * self.calls
        if self.fault == "adds" and not hasattr(self, "scale"):
            self.scale = nn.Parameter(torch.ones(4))
        return self.last(h * self.scale if self.fault == "adds" else h)


@pytest.mark.parametrize(
    "fault, message",
    [
        ("batch", "samples influence each other"),
        ("calls", "the network is not deterministic: two runs on sample 5 differ"),
        ("before", "computed from parameters before"),
        ("adds", "adds parameter 'scale' to the network; run the network once first"),
    ],
)
def test_each_fault_is_refused(fault, message):
    with float64_network(Faulty(fault)) as network:
        with pytest.raises(ValueError, match=message):
            checked_output(network, gaussian(6, 3))


def test_another_output_for_a_probed_sample_is_refused_by_its_number():
    x = gaussian(6, 3)
    with float64_network(nn.Linear(3, 2)) as network:
        probe, _ = probed(network, x)
        elsewhere, output = probe.elsewhere(x), network(x.double())
        probe.check(output, elsewhere)
        output[3] += 1e-3
        with pytest.raises(ValueError, match="the output for sample 3 depends on which other"):
            probe.check(output, elsewhere)
        probe.check(output[:3], probe.elsewhere(x[:3]))  # it is not among these


@pytest.mark.parametrize("sample", range(20))
def test_another_output_for_any_sample_is_refused_by_its_number(sample):
    x = gaussian(20, 3)
    with float64_network(nn.Linear(3, 2)) as network:
        probe, _ = probed(network, x)
        elsewhere, output = probe.elsewhere(x), network(x.double())
        output[sample] += 1e-3
        with pytest.raises(ValueError, match=f"the output for sample {sample} depends on which"):
            probe.check(output, elsewhere)


def test_rows_that_are_not_the_samples_are_refused_by_their_layer():
    net, x = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), gaussian(6, 3)
    with float64_network(net) as network:
        probe, _ = probed(network, x)
    probe.check_inputs("0", (x.double(),), 0)
    with pytest.raises(ValueError, match="layer '0' reads other numbers for sample"):
        probe.check_inputs("0", (x.double().flip(0),), 0)
