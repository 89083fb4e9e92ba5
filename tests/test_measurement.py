"""`measure` against the slow oracle, on networks that are drawn and on such as people write."""

from __future__ import annotations

import math

import pytest
import torch
from architectures import Concatenate, InputAgain, Repeat, Residual, WeightElsewhere, networks
from compare import assert_matches_oracle
from hypothesis import given, settings
from inputs import gaussian
from small import RawParameters, seeded, small_conv
from torch import nn
from torch.nn.utils import parametrizations, prune

import flatlib


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
