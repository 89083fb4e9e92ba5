"""``measure(net, data, method="matrix-free")`` against the slow oracle, and over many probes."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import tqdm.auto
from architectures import networks
from compare import assert_close
from hypothesis import given, settings
from inputs import gaussian
from oracle import slow_measure
from scipy import stats
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import flatlib
from flatlib import MatrixFreeMeasurement, NotConvergedError, matrix_free, streaming

measure = partial(flatlib.measure, method="matrix-free")


class Attention(nn.Module):
    """Two heads over tokens, a skip connection and a normalization."""

    def __init__(self, width: int = 8, outputs: int = 3):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        attended = self.attention(x, x, x, need_weights=False)[0]
        return self.head(self.norm(x + attended).mean(dim=1))


def made(make, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().eval()


NETS = {
    "mlp": (lambda: flatlib.nets.mlp((5, 9, 7), "gelu"), (5,)),
    "convolutions": (
        lambda: nn.Sequential(
            *(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(4, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(3, 6)),
        ),
        (2, 6, 6),
    ),
    "attention": (Attention, (6, 8)),
    "more outputs than inputs": (lambda: flatlib.nets.mlp((3, 12, 20)), (3,)),
    "one output": (lambda: flatlib.nets.mlp((6, 5, 1)), (6,)),
}
WIDE = (4, 12, 24)  # of an MLP with more outputs than probes


def assert_exact(m: MatrixFreeMeasurement, net: nn.Module, x: Tensor) -> None:
    """Hold the MLS, and norms that had as many probes as outputs, against the oracle."""
    slow = slow_measure(net, x)
    s = slow.singular_values
    assert ((m.mls - s[:, 0]).abs() <= 1e-8 * s[:, 0]).all()
    assert (m.mls_residual <= m.tolerance * m.mls).all() and m.converged.all()
    assert_close(m.gradient_energy, s.square().sum(dim=1), "gradient energy")
    assert_close(m.parameter_gradient_energy, slow.parameter_gradient_energy, "parameters")
    assert m.gradient_energy_error.abs().max() == m.parameter_gradient_energy_error.max() == 0
    assert (m.n, m.n_outputs, m.n_probes) == (len(x), s.shape[1], s.shape[1])
    assert m.sharpness == pytest.approx(float(slow.parameter_gradient_energy.mean()), rel=1e-9)


@pytest.mark.parametrize("name", NETS)
def test_a_network_by_the_oracle(name):
    make, shape = NETS[name]
    net, x = made(make), gaussian(3, *shape)
    assert_exact(measure(net, x, tolerance=1e-9), net, x)


@settings(max_examples=25)
@given(networks())
def test_any_network_by_the_oracle(case):
    net, x = case
    assert_exact(measure(net, x, tolerance=1e-9), net, x)


@pytest.mark.parametrize("name", ["mlp", "attention"])
def test_the_mls_lies_within_its_residual_of_the_exact_one(name):
    make, shape = NETS[name]
    net, x = made(make), gaussian(4, *shape)
    exact = flatlib.measure(net, x)
    for max_products in (2, 4):
        with pytest.raises(NotConvergedError) as fault:
            measure(net, x, tolerance=1e-12, max_products=max_products)
        m = fault.value.measured
        off = (exact.singular_values - m.mls[:, None]).abs().amin(dim=1)
        assert (off <= m.mls_residual * (1 + 1e-9) + 1e-13).all()
        assert (m.mls <= exact.mls * (1 + 1e-12)).all() and (m.mls_residual > 0).all()


# --- random probes -----------------------------------------------------------------------------


def one_sample_often(
    n: int, sizes: tuple[int, ...] = WIDE, **options
) -> tuple[flatlib.Measurement, MatrixFreeMeasurement]:
    """Exact and random measurement of one sample n times: n independent sets of probes."""
    net, x = flatlib.nets.mlp(sizes), gaussian(1, sizes[0])
    return flatlib.measure(net, x), measure(net, x.expand(n, -1), **options)


def test_estimates_are_unbiased_and_their_intervals_hold_95_percent():
    """The rough MLS leaves the gradient energy something to estimate."""
    exact, m = one_sample_often(500, (30, 40, 25), probes=10, tolerance=0.4, max_products=20)
    for name in ("parameter_gradient_energy", "gradient_energy"):
        truth, found = float(getattr(exact, name)[0]), getattr(m, name)
        error = getattr(m, name + "_error")
        assert (error > 0).all()
        scatter = float(found.std())
        assert abs(float(found.mean()) - truth) <= 3 * scatter / math.sqrt(500)
        assert scatter == pytest.approx(float(error.square().mean().sqrt()), rel=0.15)
        held = (found - truth).abs() <= stats.t.ppf(0.975, m.n_probes - 1) * error
        assert 0.93 <= float(held.double().mean()) <= 0.97
    low, high = m.intervals()["sharpness"]
    assert low < exact.sharpness < high and m.sharpness_error < 0.005 * m.sharpness
    assert m.sharpness_error == pytest.approx(
        float(m.parameter_gradient_energy_error.square().sum().sqrt()) / 500, rel=1e-9
    )


def test_products_of_the_mls_spare_the_gradient_energy_its_noise():
    """The Jacobian has rank 4, which the iteration finds whole: nothing is left to estimate."""
    exact, m = one_sample_often(3, probes=4, tolerance=1e-9)
    assert (m.gradient_energy_error <= 1e-12 * m.gradient_energy).all()
    assert_close(m.gradient_energy, exact.gradient_energy.expand(3), "gradient energy")
    assert (m.parameter_gradient_energy_error > 1e-3 * m.parameter_gradient_energy).all()


def test_a_target_plans_the_number_of_probes():
    net, x = flatlib.nets.mlp((4, 12, 200)), gaussian(2, 4)
    exact = flatlib.measure(net, x).sharpness
    rough, fine = (
        [measure(net, x, target_relative_error=target, seed=seed) for seed in range(seeds)]
        for target, seeds in ((0.05, 3), (0.015, 8))
    )
    assert {m.n_probes for m in rough} == {8}  # 16 in all, no fewer
    assert all(8 < m.n_probes < 200 for m in fine)
    met = [m.sharpness_error <= 0.015 * m.sharpness for m in fine]
    held = [low <= exact <= high for low, high in (m.intervals()["sharpness"] for m in fine)]
    assert sum(met) >= 6 and sum(held) >= 6
    pilot = 2 * 16
    for m in (*rough, *fine):
        per_mls = (m.n_products - pilot) / 2 - m.n_probes
        assert per_mls == int(per_mls) and 0 < per_mls <= 20
    few = measure(net, x, target_relative_error=0.001)
    assert few.n_probes == 200 and few.sharpness_error == 0
    assert few.sharpness == pytest.approx(exact, rel=1e-9)


def test_the_plan_of_the_first_batch_holds_for_all():
    net, x = flatlib.nets.mlp((4, 12, 200)), gaussian(6, 4)
    batched = measure(net, x.split(2), target_relative_error=0.02)
    first = measure(net, x[:2], target_relative_error=0.02)
    assert batched.n_probes == first.n_probes
    assert torch.equal(batched.parameter_gradient_energy[:2], first.parameter_gradient_energy)
    assert batched.n == 6 and batched.sharpness_error < 0.02 * batched.sharpness


def test_a_seed_decides_everything_and_nothing_else_does():
    net, x = flatlib.nets.mlp(WIDE), gaussian(5, WIDE[0])
    before = torch.get_rng_state()
    first, again, other = (measure(net, x, probes=5, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert first == again and first != other
    assert (first.parameter_gradient_energy != other.parameter_gradient_energy).all()


@pytest.mark.parametrize(
    "batched",
    [
        lambda x: list(x.split(1)),
        lambda x: x.split(3),
        lambda x: (rows for rows in x.split(2)),
        lambda x: DataLoader(TensorDataset(x, torch.arange(len(x))), batch_size=4),
    ],
)
def test_batches_are_measured_as_one(batched):
    net, x = made(NETS["convolutions"][0]), gaussian(5, 2, 6, 6)
    one, several = (measure(net, data, probes=3, seed=1) for data in (x, batched(x)))
    assert one.n_products == several.n_products
    for name, value in one.to_dict().items():
        if isinstance(value, Tensor):
            # Where an iteration ends is decided by a residual that is rounding in the end.
            close = {"rtol": 1e-9, "atol": 1e-12}
            torch.testing.assert_close(value, getattr(several, name), **close)


# --- samples without a direction, and other corners --------------------------------------------


def test_a_dead_sample_beside_living_ones():
    net = made(lambda: nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 4)))
    nn.init.constant_(net[0].weight, 0.5)
    with torch.no_grad():
        net[0].weight += 0.1 * gaussian(6, 3)
    nn.init.zeros_(net[0].bias)
    x = torch.tensor([[1.0, 2.0, 0.5], [-9.0, -9.0, -9.0], [0.3, 0.1, 2.0]])
    m = measure(net, x, tolerance=1e-9)
    assert_exact(m, net, x)
    assert m.mls[1] == m.mls_residual[1] == m.gradient_energy[1] == 0
    assert m.parameter_gradient_energy[1] == 4  # the last bias


@pytest.mark.parametrize("widths", [(6, 30), (5, 30), (6, 20, 40), (16, 12, 4, 12, 16)])
@pytest.mark.parametrize("seed", range(6))
def test_a_network_of_low_rank(widths, seed):
    net = made(lambda: flatlib.nets.mlp(widths), seed)
    x = gaussian(4, widths[0], seed=seed)
    found = flatlib.measure(net, x, method="matrix-free", probes=2)
    torch.testing.assert_close(found.mls, flatlib.measure(net, x).mls, rtol=1e-4, atol=0)


def test_a_zero_jacobian():
    net = flatlib.nets.mlp(WIDE)
    nn.init.zeros_(net.linear1.weight)
    m = measure(net, gaussian(2, WIDE[0]), probes=4)
    assert m.mls.tolist() == m.mls_residual.tolist() == m.gradient_energy.tolist() == [0.0, 0.0]
    assert m.gradient_energy_error.tolist() == [0.0, 0.0] and m.converged.all()


def test_indices_that_are_looked_up_count_as_what_the_table_returns():
    net = made(lambda: nn.Sequential(nn.Embedding(9, 8), Attention()))
    x = torch.tensor([[0, 3, 3, 8, 1], [7, 2, 5, 5, 5]])
    exact, m = flatlib.measure(net, x), measure(net, x, tolerance=1e-9)
    assert m.input_dimension == exact.input_dimension == 40
    for name in ("mls", "gradient_energy", "parameter_gradient_energy"):
        assert_close(getattr(m, name), getattr(exact, name), name)


def test_frozen_parameters_do_not_count():
    net, x = flatlib.nets.mlp((3, 4, 2)), gaussian(3, 3)
    for frozen in ("linear1.weight", "linear2.bias", "linear2.weight", "linear1.bias"):
        dict(net.named_parameters())[frozen].requires_grad_(False)
        assert_exact(measure(net, x, tolerance=1e-9), net, x)
    assert measure(net, x).sharpness == 0.0


def test_the_network_is_only_read():
    net, x = made(Attention), gaussian(2, 6, 8)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    measure(net, x)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None and p.dtype == torch.float32 for p in net.parameters())


# --- what is refused ---------------------------------------------------------------------------


def test_an_mls_that_is_not_known_to_the_tolerance_is_told():
    net, x = flatlib.nets.mlp((30, 40, 30)), gaussian(3, 30)
    with pytest.raises(NotConvergedError) as fault:
        measure(net, x.split(2), tolerance=1e-10, max_products=6, probes=2)
    m = fault.value.measured
    worst = int((m.mls_residual / m.mls).argmax())
    said = str(fault.value)
    assert f"the MLS of sample {worst} is {float(m.mls[worst]):.6g} within " in said
    assert f"{float(m.mls_residual[worst]):.2g} after max_products = 6" in said
    assert "(3 of 3 samples); pass more max_products or a larger tolerance" in said
    assert m.n == 3 and not m.converged.any() and (m.parameter_gradient_energy > 0).all()
    assert "3 samples have an MLS that is not known" in repr(m)
    assert measure(net, x, tolerance=1e-10, probes=2).converged.all()


@pytest.mark.parametrize(
    "options, kind, message",
    [
        ({"tolerance": 0.0}, ValueError, "tolerance must be between 1e-12 and 1, got 0.0"),
        ({"tolerance": math.nan}, ValueError, "tolerance must be .* got nan"),
        ({"max_products": 1}, ValueError, "max_products must be at least 2, got 1"),
        ({"probes": 1}, ValueError, "probes must be at least 2"),
        ({"probes": 4, "target_relative_error": 0.1}, ValueError, "not both"),
        ({"target_relative_error": 0.0}, ValueError, "between 0 and 1, got 0.0"),
        ({"target_relative_error": math.nan}, ValueError, "between 0 and 1, got nan"),
        ({"max_memory": 0.5}, ValueError, "max_memory must be at least 1 byte, got 0.5"),
        ({"method": "lanczos"}, ValueError, 'must be "exact" or "matrix-free", got \'lanczos\''),
        ({"layers": ["linear1"]}, ValueError, "layers names those .* forms none; leave it out"),
        ({"method": "exact", "probes": 8}, TypeError, "takes no 'probes' with method=\"exact\""),
        ({"method": "exact", "colour": 8}, TypeError, "takes no 'colour'"),
        ({"colour": 8}, TypeError, "colour"),
    ],
)
def test_options_out_of_range(options, kind, message):
    with pytest.raises(kind, match=message):
        flatlib.measure(
            flatlib.nets.linear(3, 2), gaussian(4, 3), **{"method": "matrix-free", **options}
        )


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return gradient.clone()


class Fixed(torch.autograd.Function):
    """Its backward is one of a function without a derivative of its own."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return Refusing.apply(gradient)


class Refusing(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise RuntimeError("derivative is not implemented")


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.first, self.function, self.last = nn.Linear(4, 4), function, nn.Linear(4, 3)

    def forward(self, x):
        return self.last(self.function(self.first(x)))


@pytest.mark.parametrize(
    "function, x, kind, message",
    [
        (Once.apply, gaussian(3, 4), ValueError, "second derivative .* wrong for sample 0.*exact"),
        (Fixed.apply, gaussian(3, 4), ValueError, "cannot be differentiated twice.*exact"),
        (lambda h: h - h.mean(dim=0), gaussian(3, 4), ValueError, "samples influence each other"),
        (lambda h: h + h[:1] - h[:1].detach(), gaussian(3, 4), ValueError, "mixes the rows of x"),
        (lambda h: h.detach(), gaussian(3, 4), ValueError, "does not depend on x"),
        (lambda h: h * h.sum().sign() / 0, gaussian(3, 4), ValueError, "holds NaN or infinite"),
        (lambda h: (h * 0).sqrt(), gaussian(3, 4), ValueError, "gradient for sample 0 holds NaN"),
        (torch.tanh, torch.ones(3, 4).long(), TypeError, "x holds integers"),
        (torch.tanh, torch.ones(3, 4) * math.nan, ValueError, "sample 0 of x holds NaN"),
        (torch.tanh, gaussian(4), ValueError, "no batch axis"),
        (torch.tanh, 3.0, TypeError, "data must be a torch.Tensor or an iterable"),
        (torch.tanh, [], ValueError, "data yields no batch"),
        (nn.Dropout().train(), gaussian(3, 4), ValueError, "training mode"),
    ],
)
def test_bad_input_is_refused_as_by_the_exact_method(function, x, kind, message):
    with pytest.raises(kind, match=message):
        measure(Calls(function), x)


def test_what_was_measured_before_a_fault_is_not_lost():
    net, x = flatlib.nets.mlp(WIDE), gaussian(6, WIDE[0])
    with pytest.raises(flatlib.IncompleteError, match="sample 4 of x holds NaN") as fault:
        measure(net, [x[:2], x[2:4], x[4:] * math.nan], probes=3)
    assert fault.value.measured == measure(net, x[:4].split(2), probes=3)


def test_batches_with_other_outputs_are_refused():
    net = Calls(lambda h: h)
    net.last = nn.Identity()
    net.function = lambda h: h[:, :3] if h.mean() > 50 else h
    x = gaussian(4, 4)
    far = 1e4 * net.first.weight.detach().sum(dim=0).sign().expand(2, 4)
    with pytest.raises(flatlib.IncompleteError, match="returns 3 numbers for samples from 4 on"):
        measure(net, [x, far])


def test_the_exact_method_names_this_one_where_memory_is_short():
    with pytest.raises(MemoryError, match=r'method="matrix-free", smaller samples'):
        flatlib.measure(flatlib.nets.mlp(WIDE), gaussian(2, 4), max_memory=9)


def test_an_interrupt_goes_through_and_leaves_nothing_behind():
    net, x = flatlib.nets.mlp(WIDE), gaussian(2, WIDE[0])

    def stopped():
        yield x
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(net, stopped(), progress=True)
    assert measure(net, x).n == 2


# --- memory and progress -----------------------------------------------------------------------


def test_a_small_limit_splits_and_one_too_small_is_told(monkeypatch):
    net, x = made(NETS["convolutions"][0]), gaussian(5, 2, 6, 6)
    with pytest.raises(MemoryError, match="need about [0-9,]+ bytes and max_memory is 9") as fault:
        measure(net, x, max_memory=9)
    assert "pass a larger max_memory, smaller samples, or a smaller network" in str(fault.value)
    limit = int(str(fault.value).split("about ")[1].split(" ")[0].replace(",", ""))
    sizes = []
    inside = matrix_free.JacobianProducts

    def noted(network, rows, *rest):
        sizes.append(len(rows))
        return inside(network, rows, *rest)

    monkeypatch.setattr(matrix_free, "JacobianProducts", noted)
    split, whole = measure(net, x, max_memory=limit, seed=2), measure(net, x, seed=2)
    assert sizes[-1] == 5 and sum(sizes[:-1]) == 5 and max(sizes[:-1]) <= 2
    torch.testing.assert_close(split.mls, whole.mls, rtol=1e-10, atol=0)
    torch.testing.assert_close(
        split.parameter_gradient_energy, whole.parameter_gradient_energy, rtol=1e-10, atol=0
    )


@pytest.mark.parametrize("progress, shown", [(True, True), (False, False), (None, False)])
def test_a_bar_counts_to_the_most_products_that_it_may_take(progress, shown, monkeypatch, capsys):
    monkeypatch.setattr(streaming, "DELAY", 0.0)
    monkeypatch.setattr(tqdm.auto, "tqdm", partial(tqdm.auto.tqdm, mininterval=0, miniters=1))
    measure(flatlib.nets.mlp(WIDE), gaussian(3, 4).split(1), probes=6, progress=progress)
    captured = capsys.readouterr()
    most = 3 * (2 * 24 + 6)
    assert (f"{most}/{most}" in captured.err) == shown and captured.out == ""


# --- the record --------------------------------------------------------------------------------


def measured(**options) -> MatrixFreeMeasurement:
    return measure(flatlib.nets.mlp(WIDE), gaussian(3, WIDE[0]), probes=6, **options)


def test_it_is_read_as_it_was_written(tmp_path):
    m = measured(seed=5)
    m.save(tmp_path / "m.npz")
    again = MatrixFreeMeasurement.load(str(tmp_path / "m.npz"))
    assert again == m and again.summary() == m.summary() and again.intervals() == m.intervals()
    assert MatrixFreeMeasurement.from_dict(m.to_dict()) == m
    flatlib.measure(flatlib.nets.linear(2, 1), torch.eye(2)).save(tmp_path / "exact.npz")
    with pytest.raises(ValueError, match="exact.npz holds no matrix-free measurement"):
        MatrixFreeMeasurement.load(tmp_path / "exact.npz")


@pytest.mark.parametrize(
    "change",
    [
        lambda m: {"mls": m.mls * (1 + 1e-15)},
        lambda m: {"mls_residual": m.mls_residual + 1e-9},
        lambda m: {"seed": 1},
        lambda m: {"n_products": m.n_products + 1},
    ],
)
def test_records_that_differ_in_one_value_are_not_equal(change):
    m = measured()
    assert replace(m) == m and replace(m, **change(m)) != m != "a measurement"


def test_a_summary_and_a_few_lines():
    m, exact = measured(), flatlib.measure(flatlib.nets.mlp(WIDE), gaussian(3, WIDE[0]))
    s = m.summary()
    assert s["mls"] == pytest.approx(exact.summary()["mls"], rel=1e-4)
    assert s["sharpness"] == m.sharpness == float(m.parameter_gradient_energy.mean())
    assert s["gradient_energy"] == pytest.approx(exact.summary()["gradient_energy"], rel=1e-6)
    assert s["sharpness_error"] == m.sharpness_error > 0
    assert np.all([type(value) is float for value in s.values()])
    low, high = m.intervals()["sharpness"]
    assert (low + high) / 2 == pytest.approx(m.sharpness) and high - low > 2 * m.sharpness_error
    shown = repr(m)
    assert shown.startswith("MatrixFreeMeasurement of 3 samples, 4 to 24 numbers,")
    assert f"{m.sharpness:.6g} +- {m.sharpness_error:.2g}" in shown and "tensor" not in shown
    assert len(shown.splitlines()) == 4 and m.method == "matrix-free"
