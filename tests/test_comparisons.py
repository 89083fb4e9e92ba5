"""Relative flatness, adaptive sharpness by noise, the largest eigenvalue, IIMLS: by definition."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from architectures import networks
from hypothesis import given, settings
from inputs import gaussian
from oracle import double_copy
from torch import Tensor, nn
from torch.func import functional_call

import flatlib
from flatlib import comparisons
from flatlib.sharpness import adaptive_sharpness, squared_loss


def loss_at(net: nn.Module, x: Tensor, y: Tensor, loss):
    """The loss as a function of all trainable parameters in one vector, and these parameters."""
    twin = double_copy(net)
    trainable = {name: p.detach() for name, p in twin.named_parameters() if p.requires_grad}
    sizes = [p.numel() for p in trainable.values()]

    def value(theta: Tensor) -> Tensor:
        parts = zip(trainable.items(), theta.split(sizes), strict=True)
        state = {name: part.view(p.shape) for (name, p), part in parts}
        return loss(functional_call(twin, state, (x.double(),)).flatten(1), y)

    return value, torch.cat([p.flatten() for p in trainable.values()])


def dense_hessian(net: nn.Module, x: Tensor, y: Tensor, loss) -> Tensor:
    value, theta = loss_at(net, x, y, loss)
    return torch.func.hessian(value)(theta)


def plain_flatness(net: nn.Module, last: str, x: Tensor, y: Tensor, loss) -> float:
    """The definition: every second derivative along the last layer's weight, by plain autograd."""
    twin = double_copy(net).requires_grad_(False)
    W = twin.get_submodule(last).weight.clone()

    def value(weight: Tensor) -> Tensor:
        state = {f"{last}.weight": weight}
        return loss(functional_call(twin, state, (x.double(),)).flatten(1), y)

    H = torch.autograd.functional.hessian(value, W)  # (C, K, C, K)
    inner = W @ W.mT
    return float(
        sum(
            inner[s, other] * H[s, t, other, t]
            for s in range(len(W))
            for other in range(len(W))
            for t in range(W.shape[1])
        )
    )


def half_squares(output: Tensor, y: Tensor) -> Tensor:
    return (output - y).square().sum() / (2 * len(output))


def log_cosh(output: Tensor, y: Tensor) -> Tensor:
    return (output - y).cosh().log().sum()


LOSSES = {
    "squares": (squared_loss, half_squares, False),
    "mean of squares": (F.mse_loss, F.mse_loss, False),
    "cross entropy": (F.cross_entropy, F.cross_entropy, True),
    "cross entropy of shares": (F.cross_entropy, F.cross_entropy, False),
    "log cosh": (log_cosh, log_cosh, False),
}
NETS = {
    "tanh": (lambda: flatlib.nets.mlp((3, 4, 2)), "linear2"),
    "relu": (lambda: flatlib.nets.mlp((3, 5, 4, 2), "relu"), "linear3"),
    "one layer": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), "1"),
    "curved after the last layer": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3), nn.Softmax(1)),
        "2",
    ),
}


def drawn(name: str) -> tuple[nn.Module, str, int]:
    build, last = NETS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        net = build()
    return net, last, net(torch.zeros(1, 3)).shape[1]


def targets(labels: bool, n: int, N: int) -> Tensor:
    return torch.arange(n) % N if labels else gaussian(n, N, seed=1).double().softmax(dim=1)


# --- relative flatness -------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("n", [1, 4])
def test_relative_flatness_is_its_definition(name, loss, n):
    net, last, N = drawn(name)
    mine, plain, labels = LOSSES[loss]
    x, y = gaussian(n, 3), targets(labels, n, N)
    expected = plain_flatness(net, last, x, y, plain)
    assert comparisons.relative_flatness(net, x, y, loss=mine) == pytest.approx(expected, rel=1e-10)


def test_relative_flatness_of_squares_in_closed_form():
    net, x, y = flatlib.nets.mlp((3, 6, 4)), gaussian(5, 3), gaussian(5, 4, seed=1)
    W, phi = net.linear2.weight.detach().double(), net.double()[:-1](x.double())
    closed = float(W.square().sum() * phi.square().sum() / 5)
    assert comparisons.relative_flatness(net, x, y) == pytest.approx(closed, rel=1e-12)
    of_mean = comparisons.relative_flatness(net, x, y, loss=F.mse_loss)
    assert of_mean == pytest.approx(2 / 4 * closed, rel=1e-12)


def rescaled(net: nn.Module, c: float) -> nn.Module:
    """The same function: the last weight divided by c, the layer before multiplied."""
    twin = copy.deepcopy(net)
    with torch.no_grad():
        twin.linear2.weight.mul_(c), twin.linear2.bias.mul_(c), twin.linear3.weight.div_(c)
    return twin


def test_measures_that_do_not_feel_a_rescaling_and_those_that_do():
    net, x = flatlib.nets.mlp((3, 5, 4, 2), "relu"), gaussian(4, 3)
    twin, y = rescaled(net, 8.0), net.double()(x.double()).detach()
    for measure in (comparisons.relative_flatness, noise_of, lambda *data: adaptive_of(*data)):
        assert measure(twin, x, y) == pytest.approx(measure(net, x, y), rel=1e-10), measure
        assert measure(net, x, y) > 0
    for measure in (
        lambda net, x, y: flatlib.measure(net, x).sharpness,
        lambda net, x, y: comparisons.largest_hessian_eigenvalue(net, x, y).value,
    ):
        assert measure(twin, x, y) > 2 * measure(net, x, y)


def noise_of(net, x, y) -> float:
    return comparisons.adaptive_sharpness_by_noise(net, x, y, n_draws=20).estimate


def adaptive_of(net, x, y) -> float:
    return adaptive_sharpness(net, x)


class Twice(nn.Module):
    """The last weight has another use: called before, tied, or read by a function."""

    def __init__(self, way: str):
        super().__init__()
        self.first, self.last, self.way = nn.Linear(3, 3), nn.Linear(3, 3), way
        if way == "tied":
            self.first.weight = self.last.weight

    def forward(self, x):
        h = self.last(x) if self.way == "called" else self.first(x)
        return self.last(h.tanh()) + (self.last.weight.sum() if self.way == "read" else 0.0)


@pytest.mark.parametrize("way", ["called", "tied", "read"])
def test_a_last_weight_of_several_uses_is_refused(way):
    with pytest.raises(ValueError, match="calls last, 'last', must be called once"):
        comparisons.relative_flatness(Twice(way), gaussian(4, 3), gaussian(4, 3))


def test_a_last_layer_without_a_part_in_the_output_is_told_as_such():
    class Aside(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.aside = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            y = self.first(x)
            self.aside(y)
            return y

    with pytest.raises(ValueError, match="'aside', has no part in the output; take it out"):
        comparisons.relative_flatness(Aside(), gaussian(4, 3), gaussian(4, 3))


def test_the_last_layer_is_the_one_that_is_called_last():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.end, self.start = nn.Linear(4, 2), nn.Linear(3, 4)

        def forward(self, x):
            return self.end(self.start(x).tanh())

    net, x, y = Backwards(), gaussian(4, 3), gaussian(4, 2, seed=1).double()
    assert comparisons.relative_flatness(net, x, y) == pytest.approx(
        plain_flatness(net, "end", x, y, half_squares), rel=1e-10
    )


@pytest.mark.parametrize(
    "build, x",
    [
        (lambda: nn.Sequential(nn.Conv1d(3, 2, 2), nn.Flatten()), gaussian(4, 3, 3)),
        (lambda: nn.Sequential(nn.Linear(3, 2), nn.Flatten()), gaussian(4, 2, 3)),
    ],
)
def test_a_last_layer_of_several_positions_is_refused(build, x):
    with pytest.raises(ValueError, match="'0', is a .* that reads shape .*must be a dense layer"):
        comparisons.relative_flatness(build(), x, gaussian(4, 4))


def test_a_loss_that_mixes_samples_is_refused():
    def contrastive(output, y):
        return (output @ output.mT).logsumexp(dim=1).sum()

    with pytest.raises(ValueError, match="loss for one sample depends on the output for another"):
        comparisons.relative_flatness(
            flatlib.nets.mlp((3, 4, 2)), gaussian(4, 3), gaussian(4, 2), loss=contrastive
        )


# --- the largest eigenvalue --------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", NETS)
def test_the_largest_eigenvalue_is_that_of_the_dense_hessian(name, loss):
    net, _, N = drawn(name)
    mine, plain, labels = LOSSES[loss]
    x, y = gaussian(6, 3), targets(labels, 6, N)
    exact = float(torch.linalg.eigvalsh(dense_hessian(net, x, y, plain))[-1])
    found = comparisons.largest_hessian_eigenvalue(net, x, y, loss=mine)
    assert found.value == pytest.approx(exact, rel=1e-9)
    assert found.residual <= 1e-8 * exact and found.n_products > 1


@pytest.mark.parametrize("tolerance", [1e-2, 1e-5, 1e-10])
def test_an_eigenvalue_is_within_the_residual_and_this_within_the_tolerance(tolerance):
    net, x, y = flatlib.nets.mlp((6, 9, 3)), gaussian(20, 6), gaussian(20, 3, seed=1).double()
    values = torch.linalg.eigvalsh(dense_hessian(net, x, y, half_squares))
    found = comparisons.largest_hessian_eigenvalue(net, x, y, tolerance=tolerance)
    assert float((values - found.value).abs().min()) <= found.residual + 1e-14
    assert found.residual <= tolerance * found.value


def test_a_tighter_tolerance_takes_more_products():
    net, x, y = flatlib.nets.mlp((9, 30, 4)), gaussian(40, 9), gaussian(40, 4, seed=1)
    rough, fine = (
        comparisons.largest_hessian_eigenvalue(net, x, y, tolerance=t).n_products
        for t in (0.3, 1e-12)
    )
    assert rough < fine


def downhill(output: Tensor, y: Tensor) -> Tensor:
    return -squared_loss(output, y)


def indefinite(output: Tensor, y: Tensor) -> Tensor:
    return (output[:, 0].square() - 3 * output[:, 1].square()).sum()


@pytest.mark.parametrize("loss", [downhill, indefinite])
@pytest.mark.parametrize("width", [2, 9])  # 6 parameters, written out, and 20 by Lanczos
def test_the_largest_in_sign(loss, width):
    net, x = flatlib.nets.linear(width, 2), gaussian(30, width)
    y = gaussian(30, 2, seed=1)
    values = torch.linalg.eigvalsh(dense_hessian(net, x, y, loss))
    found = comparisons.largest_hessian_eigenvalue(net, x, y, loss=loss)
    assert found.value == pytest.approx(float(values[-1]), abs=1e-9 * float(values.abs().max()))
    assert (found.value < 0) == (loss is downhill)


def test_a_top_eigenvalue_of_0():
    """40 negative eigenvalues, all different, and 20 that are 0."""
    net, x, y = flatlib.nets.linear(60, 1), gaussian(40, 60), gaussian(40, 1)
    size = float(dense_hessian(net, x, y, downhill).diagonal().square().mean().sqrt())
    found = comparisons.largest_hessian_eigenvalue(net, x, y, loss=downhill)
    assert abs(found.value) < 1e-8 * size and found.residual < 1e-7 * size


@pytest.mark.parametrize("width", [2, 30])
def test_a_hessian_of_0_has_the_eigenvalue_0(width):
    def linear(output, y):
        return output.sum()

    net, x = flatlib.nets.linear(width, 1), gaussian(3, width)
    found = comparisons.largest_hessian_eigenvalue(net, x, torch.zeros(3, 1), loss=linear)
    assert (found.value, found.residual) == (0.0, 0.0)


def test_frozen_parameters_have_no_part_in_the_hessian():
    net, x, y = flatlib.nets.mlp((5, 6, 2)), gaussian(9, 5), gaussian(9, 2, seed=1).double()
    net.linear2.requires_grad_(False)
    exact = float(torch.linalg.eigvalsh(dense_hessian(net, x, y, half_squares))[-1])
    found = comparisons.largest_hessian_eigenvalue(net, x, y)
    assert found.value == pytest.approx(exact, rel=1e-9)


def test_what_does_not_converge_is_told():
    net, x, y = flatlib.nets.mlp((9, 30, 4)), gaussian(40, 9), gaussian(40, 4, seed=1)
    with pytest.raises(ValueError, match="not found to a tolerance of 1e-13.*max_products"):
        comparisons.largest_hessian_eigenvalue(net, x, y, tolerance=1e-13, max_products=20)


def test_a_residual_above_the_tolerance_is_told(monkeypatch):
    wrong = (1.0, torch.ones(6).double().numpy(), 1.0)
    monkeypatch.setattr(comparisons, "_top", lambda *arguments: wrong)
    with pytest.raises(ValueError, match="eigenvalue 1 has a residual of .* after 1 products"):
        comparisons.largest_hessian_eigenvalue(
            flatlib.nets.linear(6, 1), gaussian(3, 6), torch.zeros(3, 1)
        )


# --- adaptive sharpness by noise ---------------------------------------------------------------


@pytest.mark.parametrize("loss", ["squares", "cross entropy"])
@pytest.mark.parametrize("rho", [0.03, 0.1, 1.0])
def test_noise_is_drawn_and_averaged_as_defined(rho, loss):
    net, _, N = drawn("tanh")
    net.linear1.bias.requires_grad_(False)
    mine, plain, labels = LOSSES[loss]
    x, y = gaussian(5, 3), targets(labels, 5, N)
    value, theta = loss_at(net, x, y, plain)
    generator, rises = torch.Generator().manual_seed(7), []
    trainable = [p.shape for p in net.parameters() if p.requires_grad]
    for _ in range(30):
        draw = [torch.randn(s, generator=generator, dtype=torch.float64) for s in trainable]
        noise = rho * theta * torch.cat([part.flatten() for part in draw])
        rises.append(2 * float(value(theta + noise) - value(theta)) / rho**2)
    found = comparisons.adaptive_sharpness_by_noise(net, x, y, rho, loss=mine, n_draws=30, seed=7)
    rises = torch.tensor(rises, dtype=torch.float64)
    assert found.estimate == pytest.approx(float(rises.mean()), rel=1e-10)
    assert found.standard_error == pytest.approx(float(rises.std()) / math.sqrt(30), rel=1e-10)
    assert found.n_draws == 30


def test_small_noise_finds_the_closed_form_at_interpolation():
    net, x = flatlib.nets.mlp((3, 4, 2)).double(), gaussian(4, 3)
    y, exact = net(x.double()).detach(), adaptive_sharpness(net, x)
    found = comparisons.adaptive_sharpness_by_noise(net, x, y, 1e-4, n_draws=500)
    assert abs(found.estimate - exact) < 4 * found.standard_error < 0.3 * exact


def test_small_noise_finds_the_diagonal_of_the_hessian_elsewhere():
    net, x, y = flatlib.nets.mlp((3, 4, 2)), gaussian(4, 3), gaussian(4, 2, seed=1).double()
    _, theta = loss_at(net, x, y, half_squares)
    exact = float((theta.square() * dense_hessian(net, x, y, half_squares).diagonal()).sum())
    twin = copy.deepcopy(net).double()  # the gradient's part is odd in the noise, and large
    found = [
        comparisons.adaptive_sharpness_by_noise(twin, x, y, 0.02, n_draws=120, seed=seed)
        for seed in range(8)
    ]
    mean = sum(each.estimate for each in found) / 8
    error = math.sqrt(sum(each.standard_error**2 for each in found)) / 8
    assert abs(mean - exact) < 4 * error
    scatter = torch.tensor([each.estimate for each in found], dtype=torch.float64).std()
    assert 0.4 < float(scatter) / (error * math.sqrt(8)) < 2


def test_noise_of_a_seed_is_the_same_again():
    net, x, y = flatlib.nets.mlp((3, 4, 2)), gaussian(4, 3), gaussian(4, 2, seed=1)
    before = torch.get_rng_state()
    first, again, other = (
        comparisons.adaptive_sharpness_by_noise(net, x, y, seed=seed) for seed in (3, 3, 4)
    )
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_that_breaks_the_loss_is_told():
    def fragile(output, y):
        return output.exp().sum()

    with pytest.raises(ValueError, match="draw 0 of noise of rho = 100000000.0: .*smaller rho"):
        comparisons.adaptive_sharpness_by_noise(
            flatlib.nets.linear(3, 2), gaussian(4, 3), gaussian(4, 2), 1e8, loss=fragile
        )


# --- IIMLS -------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(networks())
def test_iimls_is_its_definition(case):
    net, x = case
    found = comparisons.iimls(net, x)
    twin = double_copy(net)
    for row, value in zip(x.double(), found.tolist(), strict=True):
        J = torch.autograd.functional.jacobian(lambda v: twin(v[None] * 1.0).flatten(), row)
        moved = J.flatten(1) @ row.flatten()
        rounding = 1e-24 * float(J.square().sum() * row.square().sum())  # where sums cancel
        assert value == pytest.approx(
            float(moved.square().sum()) / row.numel(), rel=1e-9, abs=rounding
        )
    m = flatlib.measure(net, x)
    bound = m.mls.square() * m.input_norm.square() / m.input_dimension
    assert (found <= bound * (1 + 1e-11)).all()


def test_iimls_of_a_homogeneous_network_is_its_output():
    """f(c x) = c f(x), so that J x = f(x)."""
    net, x = flatlib.nets.mlp((4, 6, 3), "relu").double(), gaussian(5, 4)
    for layer in (net.linear1, net.linear2):
        nn.init.zeros_(layer.bias)
    expected = net(x.double()).square().sum(dim=1).detach() / 4
    torch.testing.assert_close(comparisons.iimls(net, x), expected, rtol=1e-12, atol=0)


def test_iimls_does_not_feel_the_unit_of_the_inputs_and_mls_does():
    net, x = flatlib.nets.mlp((4, 6, 3)), gaussian(5, 4)
    nn.init.zeros_(net.linear1.bias)
    before, mls = comparisons.iimls(net, x), flatlib.measure(net, x).mls
    with torch.no_grad():
        net.linear1.weight.div_(255)
    torch.testing.assert_close(comparisons.iimls(net, 255 * x), before, rtol=1e-5, atol=0)
    assert (flatlib.measure(net, 255 * x).mls < mls / 200).all()


# --- all of them -------------------------------------------------------------------------------

WITH_LOSS = {
    "relative flatness": comparisons.relative_flatness,
    "noise": comparisons.adaptive_sharpness_by_noise,
    "eigenvalue": comparisons.largest_hessian_eigenvalue,
}


@pytest.mark.parametrize("name", WITH_LOSS)
@pytest.mark.parametrize(
    "loss, y, kind, message",
    [
        (lambda o, y: (o - y).square(), None, TypeError, r"returned shape \(4, 2\).*one number"),
        (lambda o, y: 1.0, None, TypeError, "returned float.*one number"),
        (lambda o, y: (o - y).sum().log() * math.nan, None, ValueError, "the loss is nan"),
        (lambda o, y: o.detach().sum(), None, ValueError, "does not depend on the outputs"),
        (squared_loss, torch.zeros(4, dtype=torch.long), TypeError, "one-hot labels"),
        (F.cross_entropy, torch.zeros(3, dtype=torch.long), ValueError, "a label for each sample"),
        (F.mse_loss, torch.zeros(4, 3), ValueError, r"y has shape \(4, 3\)"),
        (F.mse_loss, torch.full((4, 2), math.nan), ValueError, "sample 0 of y"),
    ],
)
def test_a_loss_or_targets_of_another_kind_are_refused(name, loss, y, kind, message):
    y = gaussian(4, 2) if y is None else y
    with pytest.raises(kind, match=message):
        WITH_LOSS[name](flatlib.nets.mlp((3, 4, 2)), gaussian(4, 3), y, loss=loss)


@pytest.mark.parametrize("name", WITH_LOSS)
def test_a_loss_takes_targets_in_the_shape_that_they_have(name):
    net, x, y = flatlib.nets.mlp((3, 4, 1)), gaussian(5, 3), gaussian(5)

    def number(y, loss):
        found = WITH_LOSS[name](net, x, y, loss=loss)
        return getattr(found, "value", getattr(found, "estimate", found))

    own = number(y, lambda o, t: (o[:, 0] - t).square().mean())
    assert own == pytest.approx(number(y[:, None], F.mse_loss), rel=1e-9)


@pytest.mark.parametrize(
    "function, options, message",
    [
        ("noise", {"rho": 0.0}, "rho must be positive and finite, got 0.0"),
        ("noise", {"rho": math.nan}, "rho must be positive and finite, got nan"),
        ("noise", {"n_draws": 1}, "n_draws must be at least 2, got 1"),
        ("eigenvalue", {"tolerance": 0.0}, "tolerance must lie between 0 and 1, got 0.0"),
        ("eigenvalue", {"tolerance": 2.0}, "tolerance must lie between 0 and 1, got 2.0"),
    ],
)
def test_options_out_of_range(function, options, message):
    with pytest.raises(ValueError, match=message):
        WITH_LOSS[function](flatlib.nets.mlp((3, 4, 2)), gaussian(4, 3), gaussian(4, 2), **options)


@pytest.mark.parametrize("name", [*WITH_LOSS, "iimls"])
def test_the_users_network_is_only_read(name):
    net, x, y = flatlib.nets.mlp((3, 4, 2)), gaussian(4, 3), gaussian(4, 2)
    before = {key: (value.clone(), value._version) for key, value in net.state_dict().items()}
    comparisons.iimls(net, x) if name == "iimls" else WITH_LOSS[name](net, x, y)
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key][0]) and value._version == before[key][1]
    assert all(p.grad is None for p in net.parameters())
