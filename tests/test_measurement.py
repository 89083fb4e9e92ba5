"""`measure` against the slow oracle, closed forms, and a network that comes back as it was."""

from __future__ import annotations

import copy
import math
from collections import deque
from dataclasses import replace

import backpack
import backpack.extensions
import pytest
import torch
from architectures import Concatenate, InputAgain, Repeat, Residual, WeightElsewhere, networks
from compare import assert_matches_oracle, smallest_limit
from hypothesis import given, settings
from inputs import gaussian
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

import flatlib
from flatlib import measurement, operators, sharpness


def small_conv(**options) -> nn.Sequential:
    """Convolution, in-place activation, pooling, linear layer, for images of 2 x 6 x 6."""
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, **options),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.LazyLinear(3),
        ),
        gaussian(1, 2, 6, 6),
    )


def seeded(build, first: Tensor | None = None, seed: int = 0) -> nn.Module:
    """The network that ``build`` makes, in eval mode; lazy layers see ``first``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build().eval()
        if first is not None:
            net(first)
    return net


# --- against the oracle ------------------------------------------------------------------------


@settings(max_examples=250)
@given(networks())
def test_random_networks_match_the_oracle(case):
    assert_matches_oracle(*case)


@pytest.mark.parametrize("activation", ["tanh", "relu", "gelu", "identity"])
def test_mlp_matches_the_oracle(activation):
    assert_matches_oracle(flatlib.nets.mlp((7, 9, 8, 3), activation), gaussian(5, 7))


def test_the_papers_vgg10_matches_the_oracle():
    assert_matches_oracle(flatlib.nets.vgg10(), gaussian(3, 3, 32, 32))


def test_a_bare_layer_matches_the_oracle():
    m = assert_matches_oracle(seeded(lambda: nn.Linear(4, 3)), gaussian(5, 4))
    assert [layer.name for layer in m.layers] == [""]
    assert m.sharpness == pytest.approx(3 * (m.input_norm.square().mean().item() + 1), rel=1e-12)


@pytest.mark.parametrize("widths", [(2, 5), (3, 1), (1, 1), (2, 4, 3)])
def test_more_outputs_than_inputs_and_single_outputs(widths):
    m = assert_matches_oracle(flatlib.nets.mlp(widths), gaussian(4, widths[0]))
    assert (m.log_volume == -math.inf).all() == (widths[-1] > widths[0])


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
@pytest.mark.parametrize("padding", [0, 1, "same", "valid"])
def test_convolutions_of_every_padding_match_the_oracle(mode, padding):
    m = assert_matches_oracle(small_conv(padding=padding, padding_mode=mode), gaussian(3, 2, 6, 6))
    assert m.layers[0].kind == "Conv2d"


@pytest.mark.parametrize("shape, outputs", [((2, 3, 3), 3), ((2, 12, 12), 3), ((2, 12, 12), 1)])
def test_both_forms_of_a_convolutions_gradient_match_the_oracle(shape, outputs):
    """Few positions take the Gram form, many one product per output."""
    net = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(2, 6, 3, padding=1, groups=2), nn.Tanh(), nn.Flatten(), nn.LazyLinear(outputs)
        ),
        torch.zeros(1, *shape),
    )
    assert_matches_oracle(net, gaussian(2, *shape))


def test_long_tokens_match_the_oracle():
    net = seeded(
        lambda: nn.Sequential(
            nn.Linear(3, 4), nn.LeakyReLU(0.1, inplace=True), nn.Flatten(), nn.Linear(80, 2)
        )
    )
    assert_matches_oracle(net, gaussian(3, 20, 3))


def test_an_activation_in_place_after_a_view_loses_nothing():
    """A token layer's output is a view, and an in-place operation rewrites a view's history."""
    net = seeded(
        lambda: nn.Sequential(
            nn.Linear(5, 2), nn.LeakyReLU(0.1, inplace=True), nn.Flatten(), nn.Linear(6, 1)
        )
    )
    m = assert_matches_oracle(net, gaussian(2, 3, 5))
    assert (m.layers[0].weight_gradient_energy > 0).all()


@pytest.mark.parametrize("times", [2, 3])
def test_gradients_of_a_repeated_module_are_summed_before_squaring(times):
    net = seeded(
        lambda: nn.Sequential(
            Repeat(nn.Linear(4, 4), times), Repeat(nn.Conv1d(1, 1, 3, padding=1), 2), nn.Flatten()
        )
    )
    m = assert_matches_oracle(net, gaussian(3, 1, 4))
    assert m.layers[0].input_dimension == 4 * times and m.layers[0].n_positions == times
    assert m.layers[0].in_sharpness and not m.input_layer_is_dense


def test_tied_weights_are_summed_before_squaring():
    net = seeded(lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)))
    net[2].weight = net[0].weight
    x = gaussian(3, 4)
    m = assert_matches_oracle(net, x)
    apart = sum(layer.weight_gradient_energy for layer in m.layers)
    assert ((m.parameter_gradient_energy - apart).abs() > 1e-3).all()
    assert not any(layer.in_sharpness for layer in m.layers)


def test_a_weight_used_elsewhere_counts_whole():
    net = seeded(lambda: nn.Sequential(WeightElsewhere(nn.Linear(4, 3)), nn.Tanh()))
    m = assert_matches_oracle(net, gaussian(3, 4))
    assert not m.layers[0].in_sharpness


class RawParameters(nn.Module):
    """A linear map, an outer parameter and one that nothing uses."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.gain = nn.Parameter(torch.tensor([1.5, -2.0, 0.5]))
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, x):
        return self.gain * torch.tanh(self.linear(x)) + self.gain.square().sum() * x


def test_raw_parameters_count():
    m = assert_matches_oracle(seeded(RawParameters), gaussian(4, 3))
    dense = m.layers[0]
    assert dense.in_sharpness and not m.input_layer_is_dense  # the input is used again
    assert (m.parameter_gradient_energy > dense.weight_gradient_energy).all()


def test_only_raw_parameters_and_no_layer_in_between_count():
    net = seeded(lambda: nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 4), nn.LayerNorm(4)))
    assert_matches_oracle(net, gaussian(4, 3))


@pytest.mark.parametrize("frozen", ["linear1.weight", "linear1.bias", "linear2.weight", "all"])
def test_frozen_parameters_are_left_out(frozen):
    net = flatlib.nets.mlp((4, 5, 3))
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(frozen not in (name, "all"))
    m = assert_matches_oracle(net, gaussian(3, 4))
    assert m.sharpness < flatlib.measure(flatlib.nets.mlp((4, 5, 3)), gaussian(3, 4)).sharpness
    assert (m.sharpness == 0) == (frozen == "all")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_every_dtype_is_measured_in_float64(dtype):
    net, x = flatlib.nets.mlp((4, 6, 3)).to(dtype), gaussian(5, 4).to(dtype)
    m = assert_matches_oracle(net, x)
    assert m.layers[0].weight.dtype == torch.float64
    assert all(p.dtype == dtype for p in net.parameters())


def test_net_and_input_of_different_dtypes():
    assert_matches_oracle(flatlib.nets.mlp((4, 6, 3)), gaussian(5, 4).double())


WRAPPED = {
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(4, 4)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(4, 4)),
    "old weight norm": lambda: nn.utils.weight_norm(nn.Linear(4, 4)),
    "old spectral norm": lambda: nn.utils.spectral_norm(nn.Linear(4, 4)),
    "pruned": lambda: prune.l1_unstructured(nn.Linear(4, 4), "weight", 0.5),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(4, 4)),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("wrapped", WRAPPED)
def test_reparametrized_layers_match_the_oracle(wrapped):
    net = seeded(lambda: nn.Sequential(WRAPPED[wrapped](), nn.Tanh(), nn.Linear(4, 2)))
    m = assert_matches_oracle(net, gaussian(3, 4))
    assert not m.layers[0].in_sharpness, "its weight is no parameter"


class Keyword(nn.Module):
    """A layer that is called by keyword, from a module list, and one that is thrown away."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList([nn.Linear(3, 4), nn.Linear(4, 2)])

    def forward(self, x):
        self.parts[1](input=torch.tanh(self.parts[0](input=x)))
        return self.parts[1](input=torch.relu(self.parts[0](x)))


def test_layers_called_by_keyword_and_calls_thrown_away():
    assert_matches_oracle(seeded(Keyword), gaussian(3, 3))


class CalledInVain(nn.Module):
    """The call of the layer reaches the output only as a constant; its weight does otherwise."""

    def __init__(self):
        super().__init__()
        self.layer, self.last = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x):
        gate = self.layer(x).detach()
        return self.last(gate * nn.functional.linear(x, self.layer.weight, self.layer.bias))


def test_a_call_in_vain_does_not_stand_for_a_use_elsewhere():
    m = assert_matches_oracle(seeded(CalledInVain), gaussian(3, 3))
    assert not m.layers[0].in_sharpness and (m.layers[0].weight_gradient_energy == 0).all()


class StandardizedConv(nn.Conv2d):
    """A convolution of its own kind, by the method that Conv2d.forward calls."""

    def _conv_forward(self, input, weight, bias):
        weight = (weight - weight.mean((1, 2, 3), keepdim=True)) / weight.std()
        return super()._conv_forward(input, weight, bias)


class MaskedLinear(nn.Linear):
    def forward(self, x):
        return nn.functional.linear(x, self.weight.tril(), self.bias)


def test_layers_of_the_users_own_kind_count_by_the_slow_route():
    net = seeded(
        lambda: nn.Sequential(
            StandardizedConv(1, 2, 2), nn.Flatten(), MaskedLinear(8, 4), nn.Tanh(), nn.Linear(4, 2)
        )
    )
    m = flatlib.measure(net, gaussian(3, 1, 3, 3))
    assert [layer.name for layer in m.layers] == ["4"]
    K = flatlib.derivatives.parameter_jacobian(net, gaussian(3, 1, 3, 3))
    assert m.sharpness == pytest.approx(float(K.square().sum() / 3), rel=1e-12)


class Recurrent(nn.Module):
    """Weights that no Linear or Conv layer holds, before and after one that does."""

    def __init__(self):
        super().__init__()
        self.lstm, self.up = nn.LSTM(3, 4, batch_first=True), nn.ConvTranspose1d(1, 2, 3)
        self.linear = nn.Linear(12, 2)

    def forward(self, x):
        return self.linear(self.up(self.lstm(x)[0][:, -1:]).flatten(1))


def test_recurrent_layers_count_by_the_slow_route():
    m = assert_matches_oracle(seeded(Recurrent), gaussian(2, 5, 3))
    assert [layer.name for layer in m.layers] == ["up", "linear"]
    assert m.other_layers == {"lstm": "LSTM is not among the kinds of layers"}


def test_the_layer_reads_its_input_alone():
    """Sensitivity is through this layer only; the skip connection beside it does not count."""
    net = seeded(lambda: nn.Sequential(Residual(nn.Linear(3, 3))))
    m = assert_matches_oracle(net, gaussian(2, 3))
    W = net[0].body.weight.detach().double()
    assert m.layers[0].mls.tolist() == pytest.approx(
        [float(torch.linalg.matrix_norm(W, 2))] * 2, rel=1e-12
    )
    assert m.mls[0].item() == pytest.approx(
        float(torch.linalg.matrix_norm(W + torch.eye(3), 2)), rel=1e-12
    )
    assert not m.input_layer_is_dense


def test_mls_of_a_chain_is_the_gradient_at_each_hidden_layer():
    net, x = flatlib.nets.mlp((5, 6, 4, 3)).double(), gaussian(3, 5).double()
    m = flatlib.measure(net, x)
    for index, layer in enumerate(m.layers):
        hidden = net[: 1 + 2 * index](x).detach()
        rest = net[1 + 2 * index :]
        for i in range(3):
            J = torch.autograd.functional.jacobian(rest, hidden[i])
            s = torch.linalg.svdvals(J)
            assert layer.mls[i].item() == pytest.approx(s[0].item(), rel=1e-12)
            assert layer.log_volume[i].item() == pytest.approx(s.log().sum().item(), rel=1e-10)


class Shifted(nn.Module):
    """The input less a constant: the same Jacobian, another norm."""

    def forward(self, x):
        return x - 1.0


def test_the_input_layer_is_dense_only_where_it_is():
    def dense(build, *shape):
        return flatlib.measure(seeded(build), gaussian(2, *shape)).input_layer_is_dense

    assert dense(lambda: nn.Linear(3, 2), 3)
    assert dense(lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 2)), 2, 3)
    assert not dense(lambda: nn.Sequential(nn.Linear(3, 2), nn.Flatten()), 2, 3)  # tokens
    assert not dense(lambda: nn.Sequential(nn.Conv1d(1, 1, 1), nn.Flatten()), 1, 3)
    assert not dense(lambda: nn.Sequential(nn.Tanh(), nn.Linear(3, 2)), 3)
    assert not dense(lambda: nn.Sequential(Shifted(), nn.Linear(3, 2)), 3)  # norms differ
    assert not dense(lambda: nn.Sequential(nn.Softplus(), nn.Linear(3, 2)), 3)
    assert not dense(lambda: InputAgain(nn.Linear(3, 2), nn.Linear(5, 2)), 3)
    assert not dense(lambda: Concatenate(nn.Linear(3, 2), 1), 3)


# --- how it is called makes no difference ------------------------------------------------------


def fields_of(m: flatlib.Measurement) -> list[Tensor]:
    values = [v for v in vars(m).values() if isinstance(v, Tensor)]
    return values + [v for layer in m.layers for v in vars(layer).values() if isinstance(v, Tensor)]


def assert_same(first: flatlib.Measurement, second: flatlib.Measurement, rel=1e-12) -> None:
    assert len(first.layers) == len(second.layers)
    for a, b in zip(fields_of(first), fields_of(second), strict=True):
        assert a.shape == b.shape
        assert torch.allclose(a, b, rtol=rel, atol=0.0, equal_nan=True)


@settings(max_examples=40)
@given(networks())
def test_splitting_the_batch_changes_nothing(case):
    net, x = case
    # A split may change the order of sums: rounding of the largest singular value at most.
    whole = flatlib.measure(net, x)
    single = flatlib.measure(net, x, max_memory=smallest_limit(net, x))
    assert_same(
        replace(whole, **smooth(whole), layers=()), replace(single, **smooth(single), layers=())
    )
    for a, b in zip(whole.layers, single.layers, strict=True):
        assert torch.allclose(
            a.weight_gradient_energy,
            b.weight_gradient_energy,
            rtol=1e-12,
            atol=1e-24 * float(a.untied_gradient_energy.max()),
        )
        assert torch.allclose(a.mls, b.mls, rtol=1e-12, atol=0)


def smooth(m: flatlib.Measurement) -> dict[str, Tensor]:
    """Stand-ins for the two fields whose relative error rank deficiency makes unbounded."""
    s = m.singular_values
    kept = s.where(s > 1e-3 * s[:, :1], 0.0)
    return {"singular_values": kept, "log_volume": kept.clamp(min=1e-300).log().sum(dim=1)}


@pytest.mark.parametrize("times", [1, 3, 2**20])
def test_memory_limits_give_the_same_numbers(times):
    net, x = small_conv(), gaussian(7, 2, 6, 6)
    limit = times * smallest_limit(net, x)
    assert_same(flatlib.measure(net, x), flatlib.measure(net, x, max_memory=limit))


def test_a_smaller_memory_limit_takes_smaller_parts(monkeypatch):
    sizes = []
    measured = measurement._measure_part
    monkeypatch.setattr(
        measurement,
        "_measure_part",
        lambda part, *rest: sizes.append(len(part.output)) or measured(part, *rest),
    )
    net, x = small_conv(), gaussian(7, 2, 6, 6)
    flatlib.measure(net, x, max_memory=smallest_limit(net, x))
    assert sizes == [1] * 7
    flatlib.measure(small_conv(), gaussian(7, 2, 6, 6))
    assert sizes[7:] == [7]


def test_strided_and_differentiable_inputs():
    net, x = flatlib.nets.mlp((4, 6, 3)), gaussian(4, 10)
    strided = x.T[::2]
    leaf = strided.clone().requires_grad_()
    reference = flatlib.measure(net, strided.contiguous())
    assert_same(reference, flatlib.measure(net, strided))
    assert_same(reference, flatlib.measure(net, leaf))
    assert_same(reference, flatlib.measure(net, leaf * 1.0))
    assert leaf.grad is None and leaf.requires_grad


def test_channels_last_inputs():
    net, x = small_conv(), gaussian(3, 2, 6, 6)
    last = x.to(memory_format=torch.channels_last)
    assert_same(flatlib.measure(net, x), flatlib.measure(net, last))


@pytest.mark.parametrize(
    "context",
    [
        torch.no_grad,
        torch.inference_mode,
        torch.enable_grad,
        lambda: torch.autocast("cpu", torch.bfloat16),
    ],
)
def test_modes_around_the_call_change_nothing(context):
    reference = flatlib.measure(small_conv(), gaussian(3, 2, 6, 6))
    with context():
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        net, x = small_conv(), gaussian(3, 2, 6, 6)  # made under this mode, too
        m = flatlib.measure(net, x)
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == before
    if net[0].weight.dtype == torch.float32:
        assert_same(reference, m)
    assert not any(value.requires_grad for value in fields_of(m))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_the_slow_route_and_the_hessian_under_other_modes(context):
    net, x, y = seeded(RawParameters), gaussian(4, 3), gaussian(4, 3, seed=1)
    sharpness, trace = flatlib.measure(net, x).sharpness, flatlib.hessian_trace(net, x, y)
    with context():
        assert flatlib.measure(net, x.clone()).sharpness == sharpness
        assert flatlib.hessian_trace(net, x.clone(), y.clone()) == trace


def test_hooks_of_the_user_run_and_change_nothing():
    net, x = flatlib.nets.mlp((4, 6, 3)), gaussian(5, 4)
    reference, seen = flatlib.measure(net, x), []
    net.linear1.register_forward_hook(lambda *_: seen.append("forward"))
    net.linear1.register_forward_pre_hook(lambda *_: seen.append("before"))
    net.linear2.register_full_backward_hook(lambda *_: seen.append("backward"))
    assert_same(reference, flatlib.measure(net, x))
    assert {"forward", "before", "backward"} == set(seen)


def test_a_hook_that_changes_what_the_layer_returns_is_part_of_the_network():
    net, x = flatlib.nets.mlp((4, 6, 3)), gaussian(5, 4)
    net.linear1.register_forward_hook(lambda module, args, output: 2 * output)
    net.linear2.register_forward_pre_hook(lambda module, args: (args[0].square(),))
    assert_matches_oracle(net, x)
    assert flatlib.measure(net, x).mls[0] != flatlib.measure(flatlib.nets.mlp((4, 6, 3)), x).mls[0]


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh())
        self.last, self.reentrant = nn.Linear(5, 2), reentrant

    def forward(self, x):
        return self.last(checkpoint(self.body, x, use_reentrant=self.reentrant))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_checkpointing_agrees_or_raises(dtype):
    net = seeded(lambda: Checkpointed(False)).to(dtype)
    assert_agrees_or_raises(net, gaussian(3, 4))


def test_reentrant_checkpointing_raises():
    with pytest.raises(ValueError, match="gradients switched off"):
        flatlib.measure(seeded(lambda: Checkpointed(True)), gaussian(3, 4))


def assert_agrees_or_raises(net: nn.Module, x: Tensor) -> None:
    """`measure` may raise a ValueError that names the trouble, and may not mislead."""
    try:
        flatlib.measure(net, x)
    except ValueError:
        return
    assert_matches_oracle(net, x)


class OwnAttention(nn.Module):
    """Attention from linear layers that are called."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(3, 3) for _ in range(4))

    def forward(self, x):
        mixed = nn.functional.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))
        return self.o(mixed).flatten(1)


def test_attention_from_called_layers_matches_the_oracle():
    assert_matches_oracle(seeded(OwnAttention), gaussian(3, 4, 3))


# --- closed forms and an outside witness -------------------------------------------------------


def test_a_linear_map_has_its_closed_forms():
    net, x = flatlib.nets.linear(6, 3, seed=1), gaussian(5, 6)
    m, W = flatlib.measure(net, x), net.linear1.weight.detach().double()
    s = torch.linalg.svdvals(W)
    norms = x.double().norm(dim=1)
    assert m.sharpness == pytest.approx(3 * float(norms.square().mean()), rel=1e-12)
    assert m.mls.tolist() == pytest.approx([float(s[0])] * 5, rel=1e-12)
    assert m.gradient_energy.tolist() == pytest.approx([float(W.square().sum())] * 5, rel=1e-12)
    assert m.log_volume.tolist() == pytest.approx([float(s.log().sum())] * 5, rel=1e-11)
    participation = float(s.square().sum() ** 2 / s.pow(4).sum())
    assert m.local_dimensionality.tolist() == pytest.approx([participation] * 5, rel=1e-12)
    assert m.layers[0].mls.tolist() == m.mls.tolist()
    assert m.summary()["nmls"] == pytest.approx(float(s[0]), rel=1e-12)
    assert m.summary()["nvr"] == pytest.approx(float(s.prod()), rel=1e-11)


def test_a_two_layer_linear_net_has_its_closed_forms():
    net, x = flatlib.nets.mlp((4, 6, 2), "identity", bias=False, seed=2), gaussian(5, 4)
    m = flatlib.measure(net, x)
    V, U = net.linear1.weight.detach().double(), net.linear2.weight.detach().double()
    x = x.double()
    expected = U.square().sum() * x.square().sum(dim=1) + 2 * (x @ V.T).square().sum(dim=1)
    assert m.parameter_gradient_energy.tolist() == pytest.approx(expected.tolist(), rel=1e-12)
    assert m.mls[0].item() == pytest.approx(float(torch.linalg.matrix_norm(U @ V, 2)), rel=1e-12)
    assert m.layers[1].mls[0].item() == pytest.approx(
        float(torch.linalg.matrix_norm(U, 2)), rel=1e-12
    )


def test_the_paper_net_over_random_seeds_is_drawn_from_its_seed_alone():
    x = gaussian(3, 4)
    first, second = (flatlib.measure(flatlib.nets.mlp((4, 6, 3), seed=7), x) for _ in range(2))
    assert first.sharpness == second.sharpness


def witness(net: nn.Module, x: Tensor) -> float:
    """Eq. (3) by BackPACK: per-sample gradients of each output, squared."""
    twin, total = backpack.extend(copy.deepcopy(net).double()), 0.0
    for k in range(twin(x[:1].double()).shape[1]):
        output = twin(x.double())
        with backpack.backpack(backpack.extensions.BatchGrad()):
            output[:, k].sum().backward()
        total += sum(float(p.grad_batch.square().sum()) for p in twin.parameters())
    return total / len(x)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_backpack_sees_the_same_sharpness():
    net, x = flatlib.nets.mlp((6, 8, 8, 3)), gaussian(5, 6)
    assert flatlib.measure(net, x).sharpness == pytest.approx(witness(net, x), rel=1e-11)
    convolutional = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16, 3),
        )
    )
    x = gaussian(4, 2, 8, 8)
    m = flatlib.measure(convolutional, x)
    assert m.sharpness == pytest.approx(witness(convolutional, x), rel=1e-11)


# --- defined corner cases ----------------------------------------------------------------------


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


# --- norms of weights --------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (5, 9), (9, 5), (40, 40)])
@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_spectral_norm_is_that_of_linalg(shape, scale):
    W = gaussian(*shape).double() * scale
    expected = float(torch.linalg.matrix_norm(W, 2))
    assert operators.spectral_norm(W) == pytest.approx(expected, rel=1e-13)


def test_spectral_norm_of_nothing_is_zero():
    assert operators.spectral_norm(torch.zeros(3, 2)) == 0.0


def test_operator_norm_of_a_circular_convolution_is_its_largest_fourier_coefficient():
    net = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular", bias=False), nn.Flatten()
        )
    )
    kernel = torch.zeros(8, 8, dtype=torch.float64)
    kernel[:3, :3] = net[0].weight[0, 0].double()
    expected = float(torch.fft.fft2(kernel).abs().max())
    m = flatlib.measure(net, gaussian(1, 1, 8, 8))
    assert m.layers[0].operator_norm == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("sizes", [(20, 6), (6, 20), (6, 20, 9)])
def test_operator_norm_of_several_calls_is_the_largest(sizes):
    """Second differences of crops of the input: the longer, the nearer the norm comes to 4."""

    class Crops(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = nn.Conv1d(1, 1, 3, bias=False)
            self.convolution.weight.data = torch.tensor([[[-1.0, 2.0, -1.0]]])

        def forward(self, x):
            return torch.cat([self.convolution(x[..., :size]).flatten(1) for size in sizes], dim=1)

    (layer,) = flatlib.measure(Crops(), gaussian(2, 1, 20)).layers
    matrices = [
        torch.diag_embed(torch.full((size,), 2.0).double())
        - torch.diag_embed(torch.ones(size - 1).double(), 1)
        - torch.diag_embed(torch.ones(size - 1).double(), -1)
        for size in sizes
    ]
    norms = [float(torch.linalg.matrix_norm(matrix[1:-1], ord=2)) for matrix in matrices]
    assert max(norms) > 1.02 * min(norms)
    assert layer.operator_norm == pytest.approx(max(norms), rel=1e-9)


def test_operator_norm_is_exact_where_many_singular_values_are_nearly_the_largest():
    """A second difference on a ring of 400: the largest, 4, has neighbours 2.5e-4 below."""
    net = nn.Sequential(
        nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular", bias=False), nn.Flatten()
    )
    net[0].weight.data = torch.tensor([[[-1.0, 2.0, -1.0]]])
    (layer,) = flatlib.measure(net, gaussian(1, 1, 400)).layers
    assert layer.operator_norm == pytest.approx(4.0, rel=1e-12)


def test_operator_norm_of_a_zero_convolution_is_zero():
    net = small_conv()
    nn.init.zeros_(net[0].weight)
    m = flatlib.measure(net, gaussian(1, 2, 6, 6))
    assert m.layers[0].operator_norm == m.layers[0].weight_norm == 0.0


# --- the network comes back as it was ----------------------------------------------------------


def state_of(net: nn.Module) -> list:
    """Everything about a network that somebody could notice, as comparable values."""

    def bits(tensor: Tensor | None):
        return None if tensor is None else (tensor.dtype, tensor.detach().clone().tolist())

    state = [("rng", torch.get_rng_state().tolist())]
    for name, p in net.named_parameters(remove_duplicate=False):
        state.append((name, id(p), bits(p), bits(p.grad), p.requires_grad, p._version))
    for name, b in net.named_buffers():
        state.append((name, id(b), bits(b)))
    for name, module in net.named_modules():
        state.append((name, module.training))
        for key, value in sorted(vars(module).items()):
            if "hooks" in key:
                state.append((name, key, list(value.items())))
            elif isinstance(value, Tensor):
                state.append((name, key, id(value), bits(value)))
            else:
                state.append((name, key))
    return state


class Everything(nn.Module):
    """Frozen and unfrozen parameters, buffers, tensors that are not registered, hooks."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)
        self.norm, self.drop = nn.BatchNorm1d(4), nn.Dropout(0.3)
        self.loose = torch.tensor([0.5, 1.0, 2.0])
        self.first.bias.requires_grad_(False)
        self.last.weight.grad = torch.ones_like(self.last.weight)
        self.last.register_forward_hook(lambda *_: None)
        self.first.register_full_backward_hook(lambda *_: None)

    def forward(self, x):
        return self.last(self.drop(self.norm(torch.tanh(self.first(x * self.loose)))))


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_everything_comes_back_as_it_was():
    net = seeded(Everything)
    before = state_of(net)
    for _ in range(2):
        flatlib.measure(net, gaussian(4, 3))
    flatlib.hessian_trace(net, gaussian(4, 3), gaussian(4, 2))
    flatlib.hessian_trace(net, gaussian(4, 3), gaussian(4, 2), "hutchinson", max_probes=8)
    flatlib.derivatives.input_jacobian(net, gaussian(4, 3))
    flatlib.derivatives.parameter_jacobian(net, gaussian(4, 3))
    flatlib.sharpness.sharpness_gap(net, gaussian(4, 3), gaussian(4, 2))
    flatlib.sharpness.adaptive_sharpness(net, gaussian(4, 3))
    assert state_of(net) == before


def test_submodules_keep_their_modes():
    net = seeded(Everything)
    net.train()
    net.norm.eval()
    net.drop.eval()
    before = state_of(net)
    flatlib.measure(net, gaussian(4, 3))
    assert state_of(net) == before and net.training and not net.norm.training


class BackwardFails(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise FloatingPointError("broken on purpose")


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_everything_comes_back_after_an_error_in_the_middle(where):
    class Broken(Everything):
        def forward(self, x):
            if where == "forward":
                self.last(self.first(x))
                raise FloatingPointError("broken on purpose")
            return BackwardFails.apply(super().forward(x))

    net = seeded(Broken)
    before = state_of(net)
    with pytest.raises((ValueError, FloatingPointError), match="broken on purpose"):
        flatlib.measure(net, gaussian(4, 3))
    assert state_of(net) == before


def test_what_forward_notes_on_itself_is_put_back():
    class Notes(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.calls, self.kept = nn.Linear(3, 2), 0, torch.zeros(1)
            self.seen, self.by_name, self.shapes = ["before"], {"before": {"x": []}}, {(3,)}
            self.recent, self.count = deque([0], maxlen=2), torch.tensor(1)
            self.drift = torch.ones(2).double()

        def forward(self, x):
            self.calls += 1
            self.seen.append(x)
            self.by_name["x"] = x
            self.by_name["before"]["x"].append(x)
            self.shapes.add(x.shape)
            self.recent.append(x)
            self.count += 1
            self.drift.add_(1)
            self.kept = self.hidden = self.linear(x)
            return self.kept

    net = seeded(Notes)
    before = state_of(net)
    flatlib.measure(net, gaussian(4, 3))
    assert state_of(net) == before
    assert net.calls == 0 and not hasattr(net, "hidden")
    assert (net.seen, net.by_name, net.shapes) == (["before"], {"before": {"x": []}}, {(3,)})
    assert net.recent == deque([0], maxlen=2)


def test_a_forward_that_writes_into_its_input_leaves_the_input_alone():
    net = seeded(lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 2)))
    x = gaussian(4, 3)
    kept = x.clone()
    assert_matches_oracle(net, x)
    assert torch.equal(x, kept)


# --- these tests can fail ----------------------------------------------------------------------


def broken_norms(**changes):
    class Broken(sharpness.NormSums):
        def norms(self):
            whole = super().norms()
            return replace(whole, **{k: f(getattr(whole, k)) for k, f in changes.items()})

    return Broken


MUTANTS = {
    "weight energy halved": ("NormSums", broken_norms(weight=lambda v: v / 2)),
    "weight energy off by 1e-8": ("NormSums", broken_norms(weight=lambda v: v * (1 + 1e-8))),
    "weight norm not squared": ("NormSums", broken_norms(weight=torch.sqrt)),
    "bias left out": ("NormSums", broken_norms(bias=torch.zeros_like)),
    "bias counted twice": ("NormSums", broken_norms(bias=lambda v: 2 * v)),
    "untied is tied": ("NormSums", broken_norms(untied=lambda v: v * 1.5)),
    "delta off": ("NormSums", broken_norms(output=lambda v: v + 1e-6)),
    "largest patch": ("NormSums", broken_norms(smallest_patch=lambda v: 2 * v)),
    "Frobenius for spectral": ("spectral_norm", lambda W: float(W.norm())),
    "volume of the top three": ("TOP_VOLUME", 2),
    "samples out of order": (
        "_joined_samples",
        lambda parts: {f: v.flip(0) for f, v in measurement_joined(parts).items()},
    ),
}
measurement_joined = measurement._joined_samples


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_comparison_catches(mutant, monkeypatch):
    net, x = small_conv(), gaussian(3, 2, 6, 6)
    limit = smallest_limit(net, x)
    assert_matches_oracle(net, x, max_memory=limit)
    name, value = MUTANTS[mutant]
    room = operators if name == "spectral_norm" else measurement
    monkeypatch.setattr(room, name, value)
    operators.remembered_norm.cache_clear()  # norms are remembered, right ones and broken ones
    with pytest.raises(AssertionError):
        assert_matches_oracle(net, x, max_memory=limit)
    operators.remembered_norm.cache_clear()


def plain_energy(net, x):
    """Sum over outputs of the squared parameter gradient, one sample at a time."""
    energies = []
    for sample in x.split(1):
        output = net(sample)[0]
        rows = [
            torch.autograd.grad(value, list(net.parameters()), retain_graph=True)
            for value in output
        ]
        energies.append(sum(float(g.square().sum()) for row in rows for g in row))
    return torch.tensor(energies, dtype=torch.float64)


def test_a_forward_that_differentiates_its_layers_counts_both_uses_of_their_weights():
    class Force(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 1, bias=False)

        def forward(self, x):
            x = x if x.requires_grad else x.requires_grad_()
            energy = self.b(torch.tanh(self.a(x))).sum()
            return torch.autograd.grad(energy, x, create_graph=True)[0]

    net, x = seeded(Force).double(), gaussian(4, 3)
    m = flatlib.measure(net, x)
    expected = plain_energy(net, x.double().clone())
    assert torch.allclose(m.parameter_gradient_energy, expected, rtol=1e-9, atol=0)


class ReusesItsBuffer(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.buffer = torch.empty_like(x)
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return ctx.buffer.copy_(2 * gradient)


@pytest.mark.parametrize("kind", ["dense", "convolution"])
def test_a_backward_that_reuses_its_memory_is_measured_right(kind):
    class Reuses(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(6, 5) if kind == "dense" else nn.Conv1d(1, 2, 3)
            self.last = nn.Linear(5 if kind == "dense" else 8, 3)

        def forward(self, x):
            x = x if kind == "dense" else x.unsqueeze(1)
            return self.last(torch.tanh(ReusesItsBuffer.apply(self.first(x)).flatten(1)))

    net, x = seeded(Reuses).double(), gaussian(4, 6).double()
    m = flatlib.measure(net, x)
    expected = plain_energy(net, x)
    assert torch.allclose(m.parameter_gradient_energy, expected, rtol=1e-9, atol=0)


def test_samples_in_another_order_inside_forward_are_refused_by_layer():
    class Sorts(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            order = x[:, 0].argsort()
            return self.b(torch.tanh(self.a(x[order]))[order.argsort()])

    net = seeded(Sorts)
    with pytest.raises(ValueError, match="layer 'a' reads other numbers .* keep the batch's order"):
        flatlib.measure(net, gaussian(7, 3))


def test_operator_norm_of_tiny_weights_does_not_underflow():
    net = seeded(lambda: nn.Sequential(nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2))).double()
    x = gaussian(2, 1, 6)
    expected = flatlib.measure(net, x).layers[0].operator_norm
    with torch.no_grad():
        net[0].weight.mul_(1e-170)
    assert flatlib.measure(net, x).layers[0].operator_norm == pytest.approx(1e-170 * expected)


class Masked(nn.Module):
    """Attention over a sample's three numbers, later ones hidden by minus infinities."""

    def __init__(self):
        super().__init__()
        self.score = nn.Linear(3, 3)
        self.register_buffer("mask", torch.full((3, 3), -math.inf).triu(1))
        self.last = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.score(x).unsqueeze(1) * x.unsqueeze(2) + self.mask
        return self.last((scores.softmax(dim=2) @ x.unsqueeze(2)).squeeze(2))


def test_a_mask_of_minus_infinities_is_no_fault():
    net = seeded(Masked).double()
    x = gaussian(4, 3).double()
    found = flatlib.measure(net, x)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda v: net(v[None])[0]))(x)
    torch.testing.assert_close(
        found.singular_values, torch.linalg.svdvals(jacobian), rtol=1e-9, atol=0
    )


class Category(nn.Module):
    """Its last number is one of five categories."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.first, self.last = nn.Linear(2, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last((self.first(x[:, :2]) + self.embedding(x[:, 2].long())).tanh())


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_network_for_some_inputs_only(n):
    net, x = seeded(Category).double(), gaussian(n, 3).double()
    x[:, 2] = 4
    energy = 0.0
    for sample in x.split(1):
        for k in range(2):
            made = torch.autograd.grad(net(sample)[0, k], list(net.parameters()))
            energy += sum(float(g.square().sum()) for g in made) / n
    assert flatlib.measure(net, x).sharpness == pytest.approx(energy, rel=1e-9)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_network_for_some_inputs_only_is_found_to_mix_samples(n):
    net, x = seeded(Category).double(), gaussian(n, 3).double()
    x[:, 2] = 4
    net.first.register_forward_hook(lambda module, args, output: output - output.mean(dim=0))
    with pytest.raises(ValueError, match="samples influence each other|not the samples"):
        flatlib.measure(net, x)


def test_parameters_that_are_no_floats_stay_as_they_are():
    class Permuted(nn.Module):
        def __init__(self):
            super().__init__()
            self.order = nn.Parameter(torch.tensor([2, 0, 1]), requires_grad=False)
            self.linear = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x[:, self.order])

    net, x = seeded(Permuted), gaussian(4, 3)
    plain = flatlib.measure(nn.Sequential(net.linear), x[:, [2, 0, 1]])
    assert flatlib.measure(net, x).sharpness == pytest.approx(plain.sharpness, rel=1e-12)


def test_an_input_that_requires_a_gradient_leaves_no_graph_behind():
    x = gaussian(3, 4).requires_grad_()
    found = flatlib.measure(flatlib.nets.mlp((4, 3, 2)), x * 1.0)
    tensors = [value for value in vars(found).values() if isinstance(value, Tensor)]
    assert not any(value.requires_grad for value in tensors)
    copy.deepcopy(found)


def test_cached_parametrizations_are_measured_as_if_they_were_not():
    net, x = flatlib.nets.mlp((4, 5, 2)), gaussian(3, 4)
    parametrizations.weight_norm(net.linear1)
    expected = flatlib.measure(net, x)
    for first in (lambda: net(x), lambda: None):
        with torch.nn.utils.parametrize.cached():
            first()
            found = flatlib.measure(net, x)
            assert net(x).dtype == torch.float32
        assert found.sharpness == expected.sharpness


@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_convolutions_whose_settings_are_plain_numbers(mode):
    def make():
        return seeded(
            lambda: nn.Sequential(
                nn.Conv2d(2, 3, 3, padding=1, stride=2, dilation=1, padding_mode=mode),
                nn.Tanh(),
                nn.Flatten(),
                nn.Linear(27, 2),
            )
        )

    net, x = make(), gaussian(3, 2, 6, 6)
    expected = flatlib.measure(net, x)
    net[0].stride, net[0].padding, net[0].dilation = 2, 1, 1
    found = flatlib.measure(net, x)
    assert found.sharpness == expected.sharpness
    for name in ("untied_gradient_energy", "smallest_patch_norm"):
        assert torch.equal(getattr(found.layers[0], name), getattr(expected.layers[0], name))
    assert found.layers[0].operator_norm == expected.layers[0].operator_norm


# --- where one row is no batch, and PyTorch's own backward passes are wrong --------------------


def sharpness_by_differences(net: nn.Module, x: Tensor, h: float = 1e-6) -> float:
    """Eq. (3) from central differences of every parameter: no autograd, all samples at once."""
    net, total = copy.deepcopy(net).double(), 0.0
    with torch.no_grad():
        for entries in (parameter.view(-1) for parameter in net.parameters()):
            for j, value in enumerate(entries.tolist()):
                entries[j] = value + h
                above = net(x.double())
                entries[j] = value - h
                total += float(((above - net(x.double())) / (2 * h)).square().sum())
                entries[j] = value
    return total / len(x)


def mls_by_differences(net: nn.Module, x: Tensor, h: float = 1e-6) -> Tensor:
    """MLS of every sample from central differences of every input."""
    net, x = copy.deepcopy(net).double(), x.double()
    columns = []
    with torch.no_grad():
        for j in range(x[0].numel()):
            move = torch.zeros_like(x[0]).flatten()
            move[j] = h
            columns.append((net(x + move.view_as(x[0])) - net(x - move.view_as(x[0]))) / (2 * h))
    return torch.linalg.matrix_norm(torch.stack(columns, dim=2), 2)


class Tokens(nn.Module):
    """Convolution, normalization, then one token a position, as vision transformers begin."""

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3, padding=1), norm
        self.scale, self.head = nn.LayerNorm(4, elementwise_affine=False), nn.Linear(4, 3)

    def forward(self, x):
        tokens = self.norm(self.conv(x)).flatten(2).transpose(1, 2)
        return self.head(self.scale(tokens).mean(1))


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("shape", [(3, 3), (1, 4), (4, 1)])
@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.InstanceNorm2d])
def test_normalization_before_tokens_agrees_with_differences(norm, shape, size):
    net, x = seeded(lambda: Tokens(norm(4, affine=True))), gaussian(4, 2, *shape)
    m = flatlib.measure(net, x.split(size))
    assert m.sharpness == pytest.approx(sharpness_by_differences(net, x), rel=1e-6)
    assert torch.allclose(m.mls, mls_by_differences(net, x), rtol=1e-6)
    assert torch.allclose(flatlib.measure(net, x[:1]).mls, m.mls[:1], rtol=1e-9)


CALLS = {
    "positional": lambda norm, h: norm(h),
    "keyword": lambda norm, h: norm(input=h),
    "method": lambda norm, h: norm.forward(h),
    "functional": lambda norm, h: (
        nn.functional.instance_norm(h)
        if isinstance(norm, nn.InstanceNorm2d)
        else nn.functional.batch_norm(h, norm.running_mean, norm.running_var)
    ),
}


class SequenceFirst(Tokens):
    """The same with the sequence in front, whose gradients come in another layout for any n."""

    def __init__(self, norm: nn.Module, call):
        super().__init__(norm)
        self.call = call

    def forward(self, x):
        tokens = self.call(self.norm, self.conv(x)).flatten(2).permute(2, 0, 1)
        return self.head(self.scale(tokens).mean(0))


class Columns(Tokens):
    """What the normalization reads is itself in another layout."""

    def __init__(self, norm: nn.Module, call):
        super().__init__(norm)
        self.into, self.out, self.call = nn.Linear(3, 4), nn.Linear(4, 3), call

    def forward(self, x):
        h = self.into(x)[:, :, None].permute(0, 3, 2, 1)
        h = self.call(self.norm, h).permute(0, 3, 2, 1)[:, :, 0]
        return self.out(h).tanh().mean(1)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.InstanceNorm2d])
def test_normalization_in_any_layout_and_call_agrees_with_differences(norm, call):
    for kind, shape in ((SequenceFirst, (4, 2, 3, 3)), (Columns, (4, 5, 3))):
        net, x = seeded(lambda k=kind: k(norm(4), CALLS[call])), gaussian(*shape)
        found = flatlib.measure(net, x).sharpness
        assert found == pytest.approx(sharpness_by_differences(net, x), rel=1e-6)


def test_a_normalization_of_the_users_own_signature():
    class Own(nn.BatchNorm2d):
        def forward(self, x, scale):
            return super().forward(x), scale

    class Net(Tokens):
        def forward(self, x):
            return self.head(self.norm(self.conv(x), None)[0].mean(dim=(2, 3)))

    net, x = seeded(lambda: Net(Own(4))), gaussian(3, 2, 3, 3)
    expected = sharpness_by_differences(net, x)
    assert flatlib.measure(net, x).sharpness == pytest.approx(expected, rel=1e-6)


def test_group_norm_in_channels_last_is_measured():
    net = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(64, 2)
        )
    )
    x = gaussian(2, 3, 6, 6)
    expected = flatlib.measure(net, x)
    found = flatlib.measure(net, x.contiguous(memory_format=torch.channels_last))
    assert found.sharpness == pytest.approx(expected.sharpness, rel=1e-9)
    assert expected.sharpness == pytest.approx(sharpness_by_differences(net, x), rel=1e-6)


class Squeezed(nn.Module):
    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x).squeeze()


@pytest.mark.parametrize("size", [1, 3, 10])
def test_a_network_that_squeezes_its_output(size):
    inner = seeded(lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1)))
    x = gaussian(10, 3)
    expected = flatlib.measure(inner, x)
    found = flatlib.measure(Squeezed(inner), x.split(size))
    assert torch.allclose(found.singular_values, expected.singular_values, rtol=1e-9)
    assert found.sharpness == pytest.approx(expected.sharpness, rel=1e-9)


# --- networks that do not treat all samples alike ----------------------------------------------


class Gated(nn.Module):
    """An expert, and a parameter of its own, for samples beyond 2 alone."""

    def __init__(self):
        super().__init__()
        self.first, self.expert, self.last = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)
        self.gain = nn.Parameter(torch.full((3,), 1.5))

    def forward(self, x):
        hidden = torch.tanh(self.first(x))
        gate = (x[:, :1] > 2).to(x.dtype)
        if gate.any():
            hidden = hidden + gate * self.gain * self.expert(hidden)
        return self.last(hidden)


def test_a_layer_and_a_parameter_that_one_sample_alone_uses_count():
    net, x = seeded(Gated), gaussian(12, 3).clamp(max=1.9)
    x[0, 0] = 3.0  # not among those that are tried out first
    m = flatlib.measure(net, x)
    assert m.sharpness == pytest.approx(sharpness_by_differences(net, x), rel=1e-6)
    assert [layer.name for layer in m.layers] == ["first", "expert", "last"]


def test_parts_of_a_batch_that_take_different_ways_are_refused():
    net, x = seeded(Gated), gaussian(12, 3).clamp(max=1.9)
    x[0, 0] = 3.0
    with pytest.raises(ValueError, match="another way for samples 1 to 1 .*'expert' .P = 1.") as e:
        flatlib.measure(net, x, max_memory=smallest_limit(net, x))
    assert "measure samples that take one way together" in str(e.value)


class Wayward(nn.Module):
    """A linear map; for samples beyond 2 its weight, or the input, goes another way as well."""

    def __init__(self, way: str):
        super().__init__()
        self.first, self.last, self.way = nn.Linear(3, 3), nn.Linear(3, 3), way

    def forward(self, x):
        gate = (x[:, :1] > 2).to(x.dtype)
        output = self.last(torch.tanh(self.first(x)))
        if gate.any():
            more = {"weight": torch.tanh(output) @ self.first.weight, "input": x}[self.way]
            output = output + gate * more
        return output


@pytest.mark.parametrize("beyond", [0, 1, 4])
def test_what_holds_of_a_layer_holds_in_every_part_of_the_batch(beyond):
    for way in ("weight", "input"):
        net, x = seeded(lambda way=way: Wayward(way)), gaussian(5, 3).clamp(max=1.9)
        limit = smallest_limit(net, x)
        usual = flatlib.measure(net, x, max_memory=limit)
        assert usual.layers[0].in_sharpness and usual.input_layer_is_dense
        x[beyond, 0] = 3.0
        for max_memory in (limit, None):
            m = flatlib.measure(net, x, max_memory=max_memory)
            assert m.sharpness == pytest.approx(sharpness_by_differences(net, x), rel=1e-6)
            assert m.layers[0].in_sharpness == (way == "input")
            assert m.layers[1].in_sharpness
            assert m.input_layer_is_dense == (way == "weight")


def test_the_second_of_two_layers_with_one_weight_called_alone():
    class Second(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(x)

    x = gaussian(4, 3).double()
    expected = 3 * float(x.square().sum()) / 4  # the map is linear in its weight
    assert flatlib.measure(Second(), x).sharpness == pytest.approx(expected, rel=1e-9)


class InHalf(torch.autograd.Function):
    """Loses precision where no cast is seen."""

    @staticmethod
    def forward(ctx, x):
        return torch.from_numpy(x.detach().numpy().astype("f"))

    @staticmethod
    def backward(ctx, gradient):
        return gradient


@pytest.mark.parametrize("fault", ["precision", "parameter made before", "random"])
def test_faults_on_a_way_that_one_sample_alone_takes(fault):
    class Rare(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 2)
            self.made = self.last.weight.sum() * 2

        def forward(self, x):
            hidden = torch.tanh(self.first(x))
            gate = (x[:, :1] > 20).to(x.dtype)
            if gate.any():
                extra = {
                    "precision": lambda: hidden + InHalf.apply(hidden),
                    "parameter made before": lambda: hidden * self.made,
                    "random": lambda: hidden * torch.rand(1),
                }[fault]()
                hidden = hidden + gate * extra
            return self.last(hidden)

    net, x = seeded(Rare), gaussian(12, 3)
    flatlib.measure(net, x)
    x[0, 0] = 30.0
    message = {"precision": "works in torch.float32", "random": "draws random numbers"}
    with pytest.raises(ValueError, match=message.get(fault, "computed from parameters before")):
        flatlib.measure(net, x)


def test_a_single_sample_does_not_hide_that_the_batch_size_counts():
    class BySize(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x):
            return self.layer(x) * len(x)

    for n in (1, 2, 3):
        with pytest.raises(ValueError, match="samples influence each other"):
            flatlib.measure(BySize(), gaussian(n, 3))


def test_a_linear_layer_with_a_kernel_size_of_its_own():
    class Patch(nn.Linear):
        kernel_size = 4

    net, x = nn.Sequential(seeded(lambda: Patch(3, 2))), gaussian(4, 3)
    expected = 2 * float((x.double().square().sum(dim=1) + 1).mean())  # N (||x||^2 + 1)
    assert flatlib.measure(net, x).sharpness == pytest.approx(expected, rel=1e-9)


def test_one_sample_of_a_network_that_squeezes_has_a_parameter_jacobian():
    inner = seeded(lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)))
    x = gaussian(1, 3)
    expected = flatlib.derivatives.parameter_jacobian(inner, x)
    assert torch.equal(flatlib.derivatives.parameter_jacobian(Squeezed(inner), x), expected)


def test_memory_without_a_limit():
    net, x = small_conv(), gaussian(5, 2, 6, 6)
    assert (
        flatlib.measure(net, x, max_memory=math.inf).sharpness == flatlib.measure(net, x).sharpness
    )


def test_tensors_in_a_list_that_a_forward_changes_are_put_back():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.calls = nn.Linear(2, 2), [torch.zeros(1)]
            self.fixed = ({"calls": torch.zeros(1)},)

        def forward(self, x):
            self.calls[0] += 1
            self.fixed[0]["calls"].data.add_(1)
            return self.layer(x)

    net = Counts()
    calls, fixed = net.calls[0], net.fixed[0]["calls"]
    flatlib.measure(net, gaussian(3, 2))
    assert net.calls[0] is calls and net.fixed[0]["calls"] is fixed
    assert float(calls) == 0 and float(fixed) == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
@pytest.mark.parametrize("kind", ["mlp", "vgg10"])
def test_a_gpu_measures_the_same(kind):
    make = {"mlp": lambda: flatlib.nets.mlp((9, 8, 3)), "vgg10": lambda: flatlib.nets.vgg10(1, 3)}
    net, x = make[kind](), gaussian(5, *{"mlp": (9,), "vgg10": (1, 32, 32)}[kind])
    expected = flatlib.measure(net, x)
    found = flatlib.measure(net.cuda(), x.cuda())
    assert found.sharpness == pytest.approx(expected.sharpness, rel=1e-9)
    torch.testing.assert_close(
        found.singular_values.cpu(), expected.singular_values, rtol=1e-9, atol=0
    )
    for mine, its in zip(
        flatlib.bounds.evaluate(found), flatlib.bounds.evaluate(expected), strict=True
    ):
        assert (mine.lhs, mine.rhs) == pytest.approx((its.lhs, its.rhs), rel=1e-9)
