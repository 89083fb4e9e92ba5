"""Norms of gradients and traces of Hessians against plain and functional autograd."""

from __future__ import annotations

import math

import pytest
import torch
from architectures import networks
from hypothesis import given, settings
from inputs import gaussian
from oracle import double_copy
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrizations

import flatlib
from flatlib import sharpness


def functional_trace(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """Tr H of ``sum ||f - y||^2 / 2n`` by `torch.func.hessian`."""
    twin = double_copy(net)
    trainable = {name: p.detach() for name, p in twin.named_parameters() if p.requires_grad}
    names, shapes = list(trainable), [p.shape for p in trainable.values()]
    flat = torch.cat([p.flatten() for p in trainable.values()])

    def loss(theta: Tensor) -> Tensor:
        parts = theta.split([shape.numel() for shape in shapes])
        parameters = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        output = functional_call(twin, parameters, (x.double(),))
        return (output.flatten() - y.double().flatten()).square().sum() / (2 * len(x))

    return float(torch.func.hessian(loss)(flat).trace())


NETS = {
    "tanh": lambda: flatlib.nets.mlp((3, 4, 2)),
    "relu": lambda: flatlib.nets.mlp((3, 5, 2), "relu"),
    "gelu": lambda: flatlib.nets.mlp((3, 4, 4, 2), "gelu"),
    "linear": lambda: flatlib.nets.linear(3, 2),
    "tied": lambda: tied(),
    "repeated norm": lambda: nn.Sequential(
        nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 2)
    ),
}


def tied() -> nn.Module:
    net = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))
    net[2].weight = net[0].weight
    return net


@pytest.mark.parametrize("name", NETS)
def test_the_exact_trace_is_that_of_the_dense_hessian(name):
    torch.manual_seed(0)
    net, x, y = NETS[name](), gaussian(4, 3), gaussian(4, 2, seed=1)
    found = flatlib.hessian_trace(net, x, y)
    assert found.estimate == pytest.approx(functional_trace(net, x, y), rel=1e-10)
    assert found.standard_error == 0.0
    assert found.n_probes == sum(p.numel() for p in net.parameters())


def test_a_convolutional_net():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 2))
    x, y = gaussian(3, 1, 3, 3), gaussian(3, 2, seed=1)
    assert flatlib.hessian_trace(net, x, y).estimate == pytest.approx(
        functional_trace(net, x, y), rel=1e-10
    )


@pytest.mark.parametrize("frozen", ["linear1.weight", "linear2.weight", "linear1.bias"])
def test_frozen_parameters_are_left_out(frozen):
    net, x, y = flatlib.nets.mlp((3, 4, 2)), gaussian(4, 3), gaussian(4, 2, seed=1)
    dict(net.named_parameters())[frozen].requires_grad_(False)
    assert flatlib.hessian_trace(net, x, y).estimate == pytest.approx(
        functional_trace(net, x, y), rel=1e-10
    )


@settings(max_examples=20)
@given(networks())
def test_the_trace_is_sharpness_and_gap(case):
    """Tr H = S + gap at any parameters: the proof of Lemma A.1."""
    net, x = case
    trainable = [p for p in net.parameters() if p.requires_grad]
    if not 0 < sum(p.numel() for p in trainable) <= 120:
        return
    N = flatlib.measure(net, x).n_outputs
    y = gaussian(len(x), N)
    S, gap = flatlib.measure(net, x).sharpness, sharpness.sharpness_gap(net, x, y)
    trace = flatlib.hessian_trace(net, x, y).estimate
    assert trace == pytest.approx(S + gap, rel=1e-9, abs=1e-11 * (S + abs(gap)))


def test_at_interpolation_the_gap_is_nothing():
    net, x = flatlib.nets.mlp((3, 4, 2)), gaussian(4, 3)
    y = net.double()(x.double()).detach()
    assert sharpness.sharpness_gap(net, x, y) == 0.0
    assert flatlib.hessian_trace(net, x, y).estimate == pytest.approx(
        flatlib.measure(net, x).sharpness, rel=1e-12
    )


def test_the_gap_is_linear_in_the_residual():
    net, x, e = flatlib.nets.mlp((3, 4, 2)).double(), gaussian(4, 3), gaussian(4, 2, seed=1)
    y = net(x.double()).detach()
    one, ten = (sharpness.sharpness_gap(net, x, y + c * e.double()) for c in (1.0, 10.0))
    assert ten == pytest.approx(10 * one, rel=1e-11) and one != 0


# --- Hutchinson --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_hutchinson_is_within_four_standard_errors(seed):
    net, x, y = flatlib.nets.mlp((3, 4, 2)), gaussian(4, 3), gaussian(4, 2, seed=1)
    exact = flatlib.hessian_trace(net, x, y).estimate
    target = 0.05 * abs(exact)
    found = flatlib.hessian_trace(net, x, y, "hutchinson", seed=seed, target_standard_error=target)
    assert abs(found.estimate - exact) <= 4 * found.standard_error
    assert 0 < found.standard_error <= 1.2 * target and found.n_pilot == 16


def test_hutchinson_aims_at_one_percent():
    net, x, y = flatlib.nets.linear(40, 1), gaussian(60, 40), torch.zeros(60, 1)
    found = flatlib.hessian_trace(net, x, y, "hutchinson")
    assert 0.003 * found.estimate < found.standard_error <= 0.01 * found.estimate
    assert abs(found.estimate - flatlib.hessian_trace(net, x, y).estimate) <= (
        4 * found.standard_error
    )


def test_hutchinson_is_reproducible_and_leaves_the_global_state_alone():
    net, x, y = flatlib.nets.mlp((3, 4, 2)), gaussian(4, 3), gaussian(4, 2, seed=1)
    before = torch.get_rng_state()
    first, again, other = (
        flatlib.hessian_trace(net, x, y, "hutchinson", seed=seed, max_probes=20)
        for seed in (3, 3, 4)
    )
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), before)


def test_hutchinson_meets_its_target():
    """In some 9 of 10 runs: the number of probes is planned, and kept."""
    net, x, y = flatlib.nets.mlp((3, 4, 2)), gaussian(4, 3), gaussian(4, 2, seed=1)
    runs = [
        flatlib.hessian_trace(net, x, y, "hutchinson", seed=s, target_standard_error=0.6)
        for s in range(10)
    ]
    assert sum(run.standard_error <= 0.6 for run in runs) >= 7
    assert all(16 <= run.n_probes < 10_000 and run.n_pilot == 16 for run in runs)


def test_up_to_32_probes_are_all_taken():
    net, x, y = flatlib.nets.mlp((3, 4, 2)), gaussian(4, 3), gaussian(4, 2, seed=1)
    for most, n_pilot in ((8, 0), (32, 0), (33, 16), (50, 16)):
        found = flatlib.hessian_trace(
            net, x, y, "hutchinson", target_standard_error=1e-9, max_probes=most
        )
        assert (found.n_probes, found.n_pilot) == (most - n_pilot, n_pilot)


def test_most_intervals_hold_the_exact_trace():
    net, x, y = flatlib.nets.mlp((3, 4, 2)), gaussian(4, 3), gaussian(4, 2, seed=1)
    exact = flatlib.hessian_trace(net, x, y)
    assert exact.interval == (exact.estimate, exact.estimate)
    held = 0
    for seed in range(40):
        low, high = flatlib.hessian_trace(
            net, x, y, "hutchinson", seed=seed, max_probes=24
        ).interval
        held += low <= exact.estimate <= high
    assert 35 <= held <= 40


def test_a_smaller_target_takes_more_probes():
    net, x, y = flatlib.nets.mlp((3, 4, 2)), gaussian(4, 3), gaussian(4, 2, seed=1)
    rough, fine = (
        flatlib.hessian_trace(net, x, y, "hutchinson", target_standard_error=t).n_probes
        for t in (1.5, 0.3)
    )
    # A 25th of the variance takes 25 times the probes, and one pilot has planned both numbers.
    assert 16 < rough and fine == pytest.approx(25 * rough, rel=25 / rough)


def test_hutchinson_stops_at_its_limit_and_says_how_far_it_got():
    net, x, y = flatlib.nets.mlp((3, 4, 2)), gaussian(4, 3), gaussian(4, 2, seed=1)
    found = flatlib.hessian_trace(
        net, x, y, "hutchinson", target_standard_error=1e-9, max_probes=20
    )
    assert found.n_probes == 20 and found.standard_error > 1e-9


def test_the_standard_error_is_that_of_the_mean():
    """Over independent seeds the estimates scatter as their standard errors say."""
    net, x, y = flatlib.nets.mlp((3, 4, 2)), gaussian(4, 3), gaussian(4, 2, seed=1)
    runs = [
        flatlib.hessian_trace(
            net, x, y, "hutchinson", seed=s, max_probes=16, target_standard_error=1e-12
        )
        for s in range(40)
    ]
    scatter = torch.tensor([run.estimate for run in runs], dtype=torch.float64).std().item()
    claimed = math.sqrt(sum(run.standard_error**2 for run in runs) / len(runs))
    assert 0.6 < scatter / claimed < 1.6


@pytest.mark.parametrize("max_probes", [8, 9, 32])
def test_the_standard_error_has_n_minus_1_in_its_variance(max_probes):
    """One sample x of a linear map: a probe gives (x_1 + x_2)^2 or (x_1 - x_2)^2."""
    net, x = flatlib.nets.linear(2, 1), torch.tensor([[3.0, 4.0]])
    found = flatlib.hessian_trace(
        net, x, torch.zeros(1, 1), "hutchinson", max_probes=max_probes, target_standard_error=1e-9
    )
    share = (found.estimate - 1.0) / 48  # of probes that give 49, others give 1
    assert 0 < share < 1 and share * max_probes == pytest.approx(round(share * max_probes))
    variance = 48**2 * share * (1 - share) * max_probes / (max_probes - 1)
    assert found.standard_error == pytest.approx(math.sqrt(variance / max_probes), rel=1e-9)


def test_a_zero_hessian_has_no_error():
    net = nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 1))
    for p in net.parameters():
        nn.init.zeros_(p)
    net[0].bias.requires_grad_(False)
    net[1].bias.requires_grad_(False)
    x, y = gaussian(3, 2), torch.zeros(3, 1)
    assert flatlib.hessian_trace(net, x, y) == flatlib.sharpness.HessianTrace(0.0, 0.0, 3)
    assert flatlib.hessian_trace(net, x, y, "hutchinson").estimate == 0.0


@pytest.mark.parametrize(
    "options, message",
    [
        ({"method": "lanczos"}, '"exact" or "hutchinson", got \'lanczos\''),
        ({"method": "hutchinson", "target_standard_error": 0.0}, "must be positive, got 0.0"),
        ({"method": "hutchinson", "target_standard_error": -1.0}, "must be positive, got -1.0"),
        ({"method": "hutchinson", "target_standard_error": math.nan}, "must be positive, got nan"),
        ({"method": "hutchinson", "max_probes": 3}, "at least 8, got 3"),
        ({"seed": 0}, 'seed is for random signs, and method="exact" draws none'),
        ({"target_standard_error": 0.1}, "target_standard_error is for random signs"),
        ({"max_probes": 20}, "max_probes is for random signs"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        flatlib.hessian_trace(flatlib.nets.linear(3, 2), gaussian(4, 3), gaussian(4, 2), **options)


# --- operations without a second derivative ----------------------------------------------------


class OnceOnly(torch.autograd.Function):
    """A square whose gradient cannot be differentiated again."""

    @staticmethod
    def forward(context, h):
        context.save_for_backward(h)
        return h.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context, gradient):
        return 2 * gradient * context.saved_tensors[0]


class Bent(nn.Module):
    def __init__(self, way: str, remedied: bool):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)
        self.table, self.way, self.remedied = nn.Parameter(torch.ones(5, 4)), way, remedied

    def forward(self, x):
        h = torch.tanh(self.first(x))
        if self.way == "function":
            h = h.square() if self.remedied else OnceOnly.apply(h)
        if self.way == "bag":
            places = (x.detach() > 0).long()
            table = nn.functional.embedding(places, self.table).sum(dim=1)
            bag = nn.functional.embedding_bag(places, self.table, mode="sum")
            h = h * (table if self.remedied else bag)
        if self.way == "in place":
            h = h + 1 if self.remedied else h.add_(1)
        return self.last(h)


@pytest.mark.parametrize("way", ["function", "bag", "in place"])
@pytest.mark.parametrize(
    "measured",
    [
        flatlib.hessian_trace,
        sharpness.sharpness_gap,
        flatlib.comparisons.largest_hessian_eigenvalue,
    ],
)
def test_what_has_no_second_derivative_is_told_with_a_remedy_that_works(measured, way):
    torch.manual_seed(0)
    x, y = gaussian(4, 3), gaussian(4, 2)
    faults = {
        "function": "OnceOnly is marked with @once_differentiable.*use an operation that has one",
        "bag": "cannot be differentiated twice, which products with the Hessian take .*second deri",
        "in place": "the network or the loss cannot be differentiated .*out-of-place form",
    }
    with pytest.raises(ValueError, match=faults[way]):
        measured(Bent(way, False), x, y)
    measured(Bent(way, True), x, y)
    if way != "in place":
        assert flatlib.measure(Bent(way, False), x).sharpness > 0


class Cube(torch.autograd.Function):
    """A cube whose backward is right and, in one of two ways, can be differentiated again."""

    leaves = False

    @classmethod
    def forward(cls, context, h):
        context.save_for_backward(h)
        return h**3

    @classmethod
    def backward(cls, context, gradient):
        (h,) = context.saved_tensors
        return 3 * (h.detach() if cls.leaves else h) ** 2 * gradient


class CubeOutsideAutograd(Cube):
    leaves = True


class Cubed(nn.Module):
    def __init__(self, cube):
        super().__init__()
        self.first, self.last, self.cube = nn.Linear(3, 4), nn.Linear(4, 2), cube

    def forward(self, x):
        return self.last(torch.relu(self.cube(self.first(x))))


@pytest.mark.parametrize(
    "measured",
    [
        lambda *given: flatlib.hessian_trace(*given).estimate,
        sharpness.sharpness_gap,
        lambda *given: flatlib.comparisons.largest_hessian_eigenvalue(*given).value,
    ],
    ids=["trace", "gap", "eigenvalue"],
)
def test_a_backward_that_leaves_autograd_is_refused_and_another_is_not(measured):
    def cubed(cube):
        torch.manual_seed(0)
        return Cubed(cube)

    x, y = gaussian(40, 3), gaussian(40, 2)
    expected = measured(cubed(lambda h: h**3), x, y)
    assert measured(cubed(Cube.apply), x, y) == pytest.approx(expected, rel=1e-9)
    net = cubed(CubeOutsideAutograd.apply)
    before = [parameter.clone() for parameter in net.parameters()]
    with pytest.raises(ValueError, match="CubeOutsideAutograd are not what differences.*detach"):
        measured(net, x, y)
    assert all(map(torch.equal, before, net.parameters()))


def by_formula(direction, length):
    return direction * (length / direction.norm(dim=1, keepdim=True))


@pytest.mark.parametrize("way", ["new", "old"])
def test_weights_of_a_direction_and_a_length_have_their_second_derivatives(way):
    class Normed(nn.Module):
        def __init__(self, own):
            super().__init__()
            self.last = nn.Linear(4, 2)
            self.length, self.direction = own.clone().norm(dim=1, keepdim=True), own.clone()
            self.length, self.direction = map(nn.Parameter, (self.length, self.direction))

        def forward(self, x):
            weight = by_formula(self.direction, self.length)
            return self.last(torch.tanh(nn.functional.linear(x, weight)))

    torch.manual_seed(0)
    first, x, y = nn.Linear(3, 4, bias=False), gaussian(5, 3), gaussian(5, 2)
    plain = Normed(first.weight.detach())
    normed = {"new": parametrizations.weight_norm, "old": nn.utils.weight_norm}[way](first)
    net = nn.Sequential(normed, nn.Tanh(), plain.last)
    for measured in (
        lambda net: flatlib.hessian_trace(net, x, y).estimate,
        lambda net: sharpness.sharpness_gap(net, x, y),
        lambda net: flatlib.comparisons.largest_hessian_eigenvalue(net, x, y).value,
        lambda net: flatlib.measure(net, x).sharpness,
    ):
        assert measured(net) == pytest.approx(measured(plain), rel=1e-6)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_loss_that_is_differentiable_once_is_refused(frozen):
    net = flatlib.nets.mlp((3, 4, 2))
    net.linear2.requires_grad_(not frozen)
    with pytest.raises(ValueError, match="OnceOnly is marked with @once_differentiable"):
        flatlib.comparisons.largest_hessian_eigenvalue(
            net, gaussian(4, 3), gaussian(4, 2), loss=lambda f, y: OnceOnly.apply(f - y).sum()
        )


def test_relative_flatness_refuses_what_is_differentiable_once_after_the_last_layer_alone():
    torch.manual_seed(0)
    x, y = gaussian(4, 3), gaussian(4, 2)
    with pytest.raises(ValueError, match="OnceOnly is marked with @once_differentiable"):
        flatlib.comparisons.relative_flatness(
            flatlib.nets.mlp((3, 4, 2)), x, y, loss=lambda f, y: OnceOnly.apply(f - y).mean()
        )
    before = Bent("function", False)
    found = flatlib.comparisons.relative_flatness(before, x, y)
    before.remedied = True
    assert found == pytest.approx(flatlib.comparisons.relative_flatness(before, x, y), rel=1e-12)


# --- adaptive sharpness ------------------------------------------------------------------------


def test_adaptive_sharpness_by_its_definition():
    net, x = flatlib.nets.mlp((3, 4, 2), "relu").double(), gaussian(4, 3)
    total = 0.0
    for row in x.double():
        for output in net(row[None])[0]:
            found = torch.autograd.grad(output, list(net.parameters()), retain_graph=True)
            total += sum(
                float((p * g).square().sum()) for p, g in zip(net.parameters(), found, strict=True)
            )
    assert sharpness.adaptive_sharpness(net, x) == pytest.approx(total / 4, rel=1e-12)


def test_adaptive_sharpness_does_not_feel_a_rescaling():
    net, x = flatlib.nets.mlp((3, 4, 2), "relu"), gaussian(4, 3)
    before, S = sharpness.adaptive_sharpness(net, x), flatlib.measure(net, x).sharpness
    with torch.no_grad():
        net.linear1.weight.mul_(8)
        net.linear1.bias.mul_(8)
        net.linear2.weight.div_(8)
    assert sharpness.adaptive_sharpness(net, x) == pytest.approx(before, rel=1e-12)
    assert flatlib.measure(net, x).sharpness != pytest.approx(S, rel=0.1)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(2, 6), nn.Linear(6, 2)

    def forward(self, x):
        q, k, v = self.first(x).chunk(3, dim=2)
        h = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return self.last(torch.cat([h, q, k], dim=2)).flatten(1)


def test_hessian_trace_goes_through_fused_attention():
    torch.manual_seed(0)
    net = Attention().double()
    x, y = torch.randn(2, 3, 2).double(), torch.randn(2, 6).double()
    names = [name for name, _ in net.named_parameters()]

    def loss(*values):
        output = torch.func.functional_call(net, dict(zip(names, values, strict=True)), (x,))
        return (output - y).square().sum() / 4

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        blocks = torch.autograd.functional.hessian(loss, tuple(net.parameters()))
    sizes = [p.numel() for p in net.parameters()]
    expected = sum(float(blocks[i][i].reshape(m, m).trace()) for i, m in enumerate(sizes))
    found = flatlib.hessian_trace(net, x, y).estimate
    assert found == pytest.approx(expected, rel=1e-9)


LAYERS_OF_ONE_POSITION = {
    "linear": (lambda: nn.Linear(5, 6), (5,), (6,)),
    "linear with axes of 1": (lambda: nn.Linear(5, 6), (1, 5), (1, 6)),
    "convolution": (lambda: nn.Conv2d(4, 6, 3), (4, 3, 3), (6, 1, 1)),
    "convolution in groups": (lambda: nn.Conv2d(4, 6, 3, groups=2), (4, 3, 3), (6, 1, 1)),
    "transposed convolution": (lambda: nn.ConvTranspose1d(4, 6, 3, groups=2), (4, 1), (6, 3)),
}


@pytest.mark.parametrize("at_once", [1, 2, 7])
@pytest.mark.parametrize("name", LAYERS_OF_ONE_POSITION)
def test_norms_at_a_single_position_are_those_of_the_gradients_in_any_order_of_axes(name, at_once):
    make, read, written = LAYERS_OF_ONE_POSITION[name]
    torch.manual_seed(0)
    layer, x, delta = make().double(), gaussian(3, *read).double(), gaussian(7, 3, *written)
    delta = delta.double()  # (N, n, ...)
    weight, bias = torch.zeros(3).double(), torch.zeros(3).double()
    for i in range(3):
        for k in range(7):
            found = torch.autograd.grad(
                layer(x[i : i + 1]), (layer.weight, layer.bias), delta[k, i, None]
            )
            weight[i] += found[0].square().sum()
            bias[i] += found[1].square().sum()
    for gradients in (delta.transpose(0, 1), delta.transpose(0, 1).contiguous()):
        sums = sharpness.NormSums(layer, (x,), 7)
        for some in gradients.split(at_once, dim=1):
            sums.add([some])
        norms = sums.norms()
        torch.testing.assert_close(norms.weight, weight, rtol=1e-12, atol=0.0)
        torch.testing.assert_close(norms.bias, bias, rtol=1e-12, atol=0.0)
        expected = delta.square().flatten(2).sum(dim=(0, 2))
        torch.testing.assert_close(norms.output, expected, rtol=1e-12, atol=0.0)
