"""Random traces: over many seeds the intervals hold the trace as often as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from inputs import gaussian
from oracle import double_copy
from torch import Tensor, nn
from torch.func import functional_call

import flatlib
from flatlib import traces

SEEDS = 500
TRULY = (0.93, 0.97)  # of 95 % intervals


def dense_hessian(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The Hessian of ``sum ||f - y||^2 / 2n`` by `torch.func.hessian`."""
    twin = double_copy(net)
    names, shapes = zip(*((name, p.shape) for name, p in twin.named_parameters()), strict=True)

    def loss(theta: Tensor) -> Tensor:
        parts = theta.split([shape.numel() for shape in shapes])
        values = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        output = functional_call(twin, values, (x.double(),))
        return (output - y.double()).square().sum() / (2 * len(x))

    flat = torch.cat([p.detach().flatten() for p in twin.parameters()])
    return torch.func.hessian(loss)(flat)


def small() -> Tensor:
    net, x, y = flatlib.nets.mlp((3, 4, 2)), gaussian(4, 3), gaussian(4, 2, seed=1)
    return dense_hessian(net, x, y)


def wider() -> Tensor:
    net = flatlib.nets.mlp((5, 8, 5))
    return dense_hessian(net, gaussian(20, 5), gaussian(20, 5, seed=1))


HESSIANS = {"of 26 parameters": small, "of 93 parameters": wider}


def runs_of(A: Tensor, target: float) -> list[tuple[Tensor, int]]:
    """What `traces.draw` has drawn for each seed."""
    found = []
    for seed in range(SEEDS):
        z = traces.signs((800, len(A)), torch.Generator().manual_seed(seed))
        probe = iter(((z @ A) * z).sum(dim=1).tolist()).__next__
        found.append(traces.draw(probe, lambda trace: target * abs(trace), 800))
    return found


@pytest.mark.parametrize("target", [0.2, 0.1])
@pytest.mark.parametrize("name", HESSIANS)
def test_95_percent_intervals_hold_the_trace_in_95_percent_of_runs(name, target):
    A = HESSIANS[name]()
    trace = float(A.trace())
    runs = [(traces.mean_of(values), n_pilot) for values, n_pilot in runs_of(A, target)]
    held = [low <= trace <= high for low, high in (mean.interval for mean, _ in runs)]
    assert TRULY[0] <= np.mean(held) <= TRULY[1]
    estimates = np.array([mean.value for mean, _ in runs])
    error = estimates.std(ddof=1) / math.sqrt(SEEDS)
    assert abs(estimates.mean() - trace) <= 3 * error and error < 0.01 * trace
    met = [mean.standard_error <= target * abs(mean.value) for mean, _ in runs]
    assert np.mean(met) >= 0.75 and all(n_pilot == traces.PILOT for _, n_pilot in runs)


def test_the_scatter_of_estimates_is_what_their_errors_say():
    runs = [traces.mean_of(values) for values, _ in runs_of(small(), 0.2)]
    scatter = np.std([run.value for run in runs], ddof=1)
    claimed = math.sqrt(np.mean([run.standard_error**2 for run in runs]))
    assert scatter == pytest.approx(claimed, rel=0.1)


def test_signs_have_the_moments_that_make_traces_unbiased():
    z = traces.signs((20_000, 3), torch.Generator().manual_seed(0))
    assert set(z.unique().tolist()) == {-1.0, 1.0}
    assert torch.allclose(z.T @ z / len(z), torch.eye(3).double(), atol=4 / math.sqrt(len(z)))
    again = traces.signs((20_000, 3), torch.Generator().manual_seed(0))
    assert torch.equal(z, again)


@pytest.mark.parametrize("n, dof", [(1, 5), (4, 15), (30, 3)])
def test_a_mean_of_estimates_has_an_interval_of_its_own(n, dof):
    """Each of n estimates has its own variance; the interval of their mean holds 95 %."""
    random = np.random.default_rng(0)
    scale = random.uniform(0.2, 3.0, n)
    values = torch.from_numpy(random.standard_normal((SEEDS, n, dof + 1)) * scale[:, None])
    held = 0
    for each in values:
        errors = each.std(dim=1) / math.sqrt(dof + 1)
        low, high = traces.mean_of_estimates(each.mean(dim=1), errors, dof).interval
        held += low <= 0 <= high
    assert TRULY[0] <= held / SEEDS <= TRULY[1]


def test_numbers_that_need_no_probes_or_too_many():
    assert traces.probes_needed(0.0, 15, 0.0) == 1
    assert traces.probes_needed(1.0, 15, 0.0) > 10**15
    assert traces.probes_needed(1.0, 15, 1e-200) > 10**15
    assert traces.probes_needed(1e-9, 15, 1.0) == 1
    constant = traces.draw(lambda: 2.0, lambda trace: 0.01 * trace, 1000)
    assert constant[0].tolist() == [2.0] * 16 and constant[1] == 16
    assert traces.Estimate(3.0, 0.0, 5).interval == (3.0, 3.0)
    assert traces.mean_of_estimates(torch.ones(3), torch.zeros(3), 5).interval == (1.0, 1.0)


def test_the_largest_and_smallest_errors_do_not_overflow():
    for scale in (1e-200, 1e200):
        errors = torch.tensor([1.0, 1.0]).double() * scale
        assert traces.mean_of_estimates(errors, errors, 4).standard_error == pytest.approx(
            scale / math.sqrt(2)
        )
