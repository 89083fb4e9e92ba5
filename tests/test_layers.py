"""Layers as people have them: attention, folded tokens, weights without their layer."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from compare import assert_matches_oracle, smallest_limit
from inputs import gaussian
from torch import Tensor, nn

import flatlib


def drawn(build, seed: int = 0) -> nn.Module:
    """The network that ``build`` makes, in eval mode, with no parameter at 0 or 1."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build().eval()
        for parameter in net.parameters():
            if parameter.dim() == 1:
                nn.init.normal_(parameter)
    return net


def energies(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """For each parameter ``(n,)``: one sample and one output at a time, by autograd alone."""
    twin = copy.deepcopy(net).double().requires_grad_()
    found = {name: [] for name, _ in twin.named_parameters()}
    for sample in x.double().split(1):
        rows = [
            torch.autograd.grad(
                out, list(twin.parameters()), retain_graph=True, materialize_grads=True
            )
            for out in twin(sample)[0]
        ]
        for name, column in zip(found, zip(*rows, strict=True), strict=True):
            found[name].append(sum(float(g.square().sum()) for g in column))
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in found.items()}


def assert_energies(net: nn.Module, x: Tensor, **options) -> flatlib.Measurement:
    """Measure; sharpness, and each layer's part of it, against plain autograd."""
    m, expected = flatlib.measure(net, x, **options), energies(net, x)
    counted = {name: p.requires_grad for name, p in net.named_parameters()}
    total = sum(value for name, value in expected.items() if counted[name])
    torch.testing.assert_close(m.parameter_gradient_energy, total, rtol=1e-10, atol=0)
    for layer in m.layers:
        name = f"{layer.name}.weight"
        name = name if name in expected else f"{layer.name}_weight"
        if name in expected:  # a part of a parameter has no name of its own
            torch.testing.assert_close(
                layer.weight_gradient_energy, expected[name], rtol=1e-10, atol=1e-25
            )
    return m


# --- attention ---------------------------------------------------------------------------------


class PlainAttention(nn.Module):
    """`torch.nn.MultiheadAttention` from layers that are called, one head at a time."""

    def __init__(self, fused: nn.MultiheadAttention):
        super().__init__()
        self.heads, self.batch_first, self.width = fused.num_heads, fused.batch_first, fused.kdim
        self._qkv_same_embed_dim, self.in_proj_bias = False, fused.in_proj_bias
        packed, bias, width = fused.in_proj_weight, fused.in_proj_bias, fused.embed_dim
        if packed is not None:
            self.in_proj = self._linear(packed, bias)
        for index, name in enumerate(("q_proj", "k_proj", "v_proj")):
            rows = slice(index * width, (index + 1) * width)
            weight = getattr(fused, f"{name}_weight") if packed is None else packed[rows]
            own_bias = None if bias is None else bias[rows]
            setattr(self, name, self._linear(weight, own_bias))
        self.out_proj = self._linear(fused.out_proj.weight, fused.out_proj.bias)

    @staticmethod
    def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        layer.weight = nn.Parameter(weight.detach().clone())
        layer.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        return layer

    def forward(self, x, key, value, key_padding_mask=None, attn_mask=None, **options):
        to_itself = x is key and x is value and hasattr(self, "in_proj")
        if not self.batch_first:
            x, key, value = (each.transpose(0, 1) for each in (x, key, value))
        if to_itself:
            q, k, v = self.in_proj(x).chunk(3, dim=2)
        else:
            q, k, v = self.q_proj(x), self.k_proj(key), self.v_proj(value)
        outputs, size = [], x.shape[2] // self.heads
        for h in range(self.heads):
            part = slice(h * size, (h + 1) * size)
            scores = q[..., part] @ k[..., part].mT / math.sqrt(size)
            if attn_mask is not None:
                scores = self._masked(scores, attn_mask)
            if key_padding_mask is not None:
                scores = self._masked(scores, key_padding_mask[:, None])
            outputs.append(scores.softmax(dim=2) @ v[..., part])
        output = self.out_proj(torch.cat(outputs, dim=2))
        return (output if self.batch_first else output.transpose(0, 1)), None

    @staticmethod
    def _masked(scores: Tensor, mask: Tensor) -> Tensor:
        if mask.dtype is torch.bool:
            return scores.masked_fill(mask, -math.inf)
        return scores + mask


def plain(net: nn.Module) -> nn.Module:
    """A copy with `PlainAttention` in the place of the fused one."""
    twin = copy.deepcopy(net)
    for module in list(twin.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.MultiheadAttention):
                setattr(module, name, PlainAttention(child))
    return twin


class Attends(nn.Module):
    def __init__(self, bias: bool, batch_first: bool, mask: Tensor | None = None, padding=False):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)
        self.attention = nn.MultiheadAttention(4, 2, bias=bias, batch_first=batch_first)
        self.batch_first, self.mask, self.padding = batch_first, mask, padding

    def forward(self, x):
        h = self.first(x)
        h = h if self.batch_first else h.transpose(0, 1)
        hidden = torch.arange(x.shape[1]).expand(len(x), -1) >= 4 if self.padding else None
        h, _ = self.attention(h, h, h, key_padding_mask=hidden, attn_mask=self.mask)
        return self.last(h if self.batch_first else h.transpose(0, 1)).flatten(1)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("n", [1, 3, 5])  # as many as tokens, too
def test_multihead_attention_matches_the_oracle(n, bias, batch_first):
    net = drawn(lambda: Attends(bias, batch_first))
    m = assert_matches_oracle(net, gaussian(n, 5, 3), twin=plain(net))
    names = [layer.name for layer in m.layers]
    assert names == ["first", "attention.in_proj", "attention.out_proj", "last"]
    assert all(layer.in_sharpness for layer in m.layers)
    assert not m.other_layers and not m.other_parameters


@pytest.mark.parametrize("n", [1, 4, 5])
def test_attention_before_a_last_layer_of_zeros(n):
    """Gradients of 0 do not tell the axis of 5 tokens from one of 5 samples."""
    net = drawn(lambda: Attends(True, True))
    nn.init.zeros_(net.last.weight)
    m = assert_matches_oracle(net, gaussian(n, 5, 3), twin=plain(net))
    assert len(m.layers) == 4 and (m.mls == 0).all() and m.sharpness > 0


CAUSAL = torch.ones(5, 5, dtype=torch.bool).triu(1)


@pytest.mark.parametrize("mask", [CAUSAL, torch.zeros(5, 5).masked_fill(CAUSAL, -math.inf), None])
@pytest.mark.parametrize("padding", [True, False])
def test_masks_of_attention(mask, padding):
    net = drawn(lambda: Attends(True, True, mask, padding))
    assert_matches_oracle(net, gaussian(2, 5, 3), twin=plain(net))


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_a_transformer_encoder_matches_the_oracle(norm_first, batch_first):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            layer = nn.TransformerEncoderLayer(
                *(4, 2, 6), batch_first=batch_first, norm_first=norm_first, activation="gelu"
            )
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.head = nn.Linear(4, 2)
            self.tokens, self.place = (
                nn.Parameter(torch.ones(1, 1, 4)),
                nn.Parameter(torch.ones(5, 4)),
            )

        def forward(self, x):
            h = torch.cat([self.tokens.expand(len(x), -1, -1), x], dim=1) + self.place
            h = self.encoder(h if batch_first else h.transpose(0, 1))
            return self.head(h[:, 0] if batch_first else h[0])

    net, x = drawn(Net), gaussian(3, 4, 4)
    nn.init.normal_(net.tokens)
    m = assert_matches_oracle(net, x, twin=plain(net))
    assert len(m.layers) == 2 * 4 + 1 and not m.other_layers
    assert set(m.other_parameters.values()) == {"formula"} and len(m.other_parameters) == 2 + 8


class Crosses(nn.Module):
    """The first two tokens attend to all of them."""

    def __init__(self, batch_first=True, mask=None, values=None, padding=False, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=batch_first, **options)
        self.last, self.mask, self.values, self.padding = nn.Linear(4, 2), mask, values, padding
        self.keys = nn.Linear(4, self.attention.kdim)

    def forward(self, x):
        hidden = torch.arange(x.shape[1]).expand(len(x), -1) >= 4 if self.padding else None
        key = self.keys(x)
        value = key if self.values is None else self.values(x)
        queries = x[:, :2]
        if not self.attention.batch_first:
            queries, key = queries.transpose(0, 1), key.transpose(0, 1)
            value = key if self.values is None else value.transpose(0, 1)
        h, _ = self.attention(queries, key, value, key_padding_mask=hidden, attn_mask=self.mask)
        return self.last(h if self.attention.batch_first else h.transpose(0, 1)).flatten(1)


PROJECTIONS = ["attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.out_proj"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False},
        {"batch_first": False},
        {"kdim": 3, "vdim": 3},
        {"kdim": 3, "vdim": 3, "bias": False, "batch_first": False},
        {"kdim": 3, "vdim": 4, "values": torch.sin},
        {"values": torch.sin},
        {"mask": CAUSAL[:2], "padding": True},
    ],
)
@pytest.mark.parametrize("n", [1, 2, 5])  # as many as queries or keys, too
def test_attention_to_something_else_matches_the_oracle(n, options):
    net = drawn(lambda: Crosses(**options))
    m = assert_matches_oracle(net, gaussian(n, 5, 4), twin=plain(net))
    assert [layer.name for layer in m.layers] == ["keys", *PROJECTIONS, "last"]
    assert all(layer.in_sharpness for layer in m.layers)
    assert not m.other_layers and not m.other_parameters


def test_frozen_projections_do_not_count():
    net = drawn(lambda: Crosses(kdim=3, vdim=3))
    (
        net.attention.k_proj_weight.requires_grad_(False),
        net.attention.in_proj_bias.requires_grad_(False),
    )
    m = assert_energies(net, gaussian(3, 5, 4))
    counted = {layer.name for layer in m.layers if layer.in_sharpness}
    assert counted == {"keys", "last", *PROJECTIONS} - {"attention.k_proj"}


class AttendsTwice(nn.Module):
    """One attention, to something else and then to something else again, or to itself."""

    def __init__(self, again: str):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.last, self.again = nn.Linear(4, 2), again

    def forward(self, x):
        h = self.attention(x[:, :2], x, x)[0]
        x = h if self.again == "itself" else x
        return self.last(self.attention(h, x, x)[0]).flatten(1)


def test_attention_that_is_called_twice_sums_before_squaring():
    net = drawn(lambda: AttendsTwice("something else"))
    m = assert_matches_oracle(net, gaussian(3, 5, 4), twin=plain(net))
    assert [layer.name for layer in m.layers] == [*PROJECTIONS, "last"]
    assert all(layer.in_sharpness for layer in m.layers)


def test_a_weight_that_projects_as_a_whole_and_in_parts_counts_among_the_others():
    net, x = drawn(lambda: AttendsTwice("itself")), gaussian(3, 5, 4)
    m, total = flatlib.measure(net, x), sum(energies(net, x).values())
    torch.testing.assert_close(m.parameter_gradient_energy, total, rtol=1e-10, atol=0)
    counted = {layer.name for layer in m.layers if layer.in_sharpness}
    assert counted == {"attention.out_proj", "last"}
    assert set(m.other_parameters) == {"attention.in_proj_weight", "attention.in_proj_bias"}


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_a_transformer_decoder_matches_the_oracle(norm_first, batch_first):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.decoder = nn.TransformerDecoderLayer(
                *(4, 2, 6), batch_first=batch_first, norm_first=norm_first, activation="gelu"
            )
            self.queries, self.head = nn.Parameter(torch.ones(1, 2, 4)), nn.Linear(8, 2)

        def forward(self, x):
            queries = self.queries.expand(len(x), -1, -1)
            if batch_first:
                return self.head(self.decoder(queries, x).flatten(1))
            h = self.decoder(queries.transpose(0, 1), x.transpose(0, 1))
            return self.head(h.transpose(0, 1).flatten(1))

    net = drawn(Net)
    nn.init.normal_(net.queries)
    m = assert_matches_oracle(net, gaussian(3, 4, 4), twin=plain(net))
    names = [layer.name.removeprefix("decoder.") for layer in m.layers]
    assert names == [
        *("self_attn.in_proj", "self_attn.out_proj"),
        *(f"multihead_attn.{name}_proj" for name in ("q", "k", "v", "out")),
        *("linear1", "linear2", "head"),
    ]
    assert all(layer.in_sharpness for layer in m.layers) and not m.other_layers
    assert set(m.other_parameters.values()) == {"formula"} and len(m.other_parameters) == 1 + 6


def test_a_whole_transformer_matches_the_oracle():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Transformer(4, 2, 1, 1, 6, batch_first=True), nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.body(x, x[:, :2]).flatten(1))

    net = drawn(Net)
    m = assert_matches_oracle(net, gaussian(2, 3, 4), twin=plain(net))
    assert len(m.layers) == 4 + 8 + 1 and not m.other_layers


@pytest.mark.parametrize("kdim", [None, 3])
@pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"add_zero_attn": True}])
def test_keys_that_come_from_no_input_count_among_the_others(options, kdim):
    m = assert_energies(drawn(lambda: Crosses(kdim=kdim, vdim=kdim, **options)), gaussian(3, 5, 4))
    assert [layer.name for layer in m.layers] == ["keys", "last"]
    left = ["in_proj"] if kdim is None else ["q_proj", "k_proj", "v_proj"]
    assert m.other_layers == dict.fromkeys(
        [f"attention.{name}" for name in (*left, "out_proj")],
        "its weight is used without calling it",
    )


# --- rows that are not the samples -------------------------------------------------------------


class Folded(nn.Module):
    """Tokens folded into the batch, or put before it."""

    def __init__(self, fold: str):
        super().__init__()
        self.fold, self.first, self.last = fold, nn.Linear(3, 2), nn.Linear(8, 2)

    def forward(self, x):
        n, T, d = x.shape
        if self.fold == "into the batch":
            h = self.first(x.reshape(n * T, d)).reshape(n, 8)
        elif self.fold == "into the batch, tokens first":
            h = self.first(x.transpose(0, 1).reshape(n * T, d))
            h = h.reshape(T, n, 2).transpose(0, 1).reshape(n, 8)
        else:
            h = self.first(x.transpose(0, 1)).transpose(0, 1).flatten(1)
        return self.last(torch.tanh(h))


@pytest.mark.parametrize("fold", ["into the batch", "before the batch"])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 9])
def test_folded_tokens_belong_to_their_sample(fold, n):
    """Also where the number of tokens, 4, happens to be the number of samples."""
    twin = drawn(lambda: Folded("into the batch"))
    net = copy.deepcopy(twin)
    net.fold = fold
    x = gaussian(n, 4, 3)
    assert_matches_oracle(net, x, twin=twin)
    assert_matches_oracle(net, x, twin=twin, max_memory=smallest_limit(net, x))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 9])
def test_rows_of_no_sample_count_among_the_others(n):
    m = assert_energies(drawn(lambda: Folded("into the batch, tokens first")), gaussian(n, 4, 3))
    if n > 1:
        assert m.other_layers == {"first": "its rows are not the samples"}
        assert m.other_parameters == {"first.weight": "vmap", "first.bias": "vmap"}


def test_folded_images_count_among_the_others():
    class Frames(nn.Module):
        """A convolution of each frame of a film."""

        def __init__(self):
            super().__init__()
            self.convolution, self.last = nn.Conv2d(1, 2, 2), nn.Linear(3 * 8, 2)

        def forward(self, x):
            return self.last(self.convolution(x.flatten(0, 1)).tanh().reshape(len(x), -1))

    m = assert_energies(drawn(Frames), gaussian(4, 3, 1, 3, 3))
    assert m.other_layers == {"convolution": "its rows are not the samples"}


class Prototypes(nn.Module):
    """Each sample is compared with k prototypes, which go through a layer of their own."""

    def __init__(self, k: int):
        super().__init__()
        self.enc, self.proj = nn.Linear(6, 4), nn.Linear(3, 4)
        self.prototypes = nn.Parameter(torch.randn(k, 3))

    def forward(self, x):
        return torch.tanh(self.enc(x)) @ self.proj(self.prototypes).T


@pytest.mark.parametrize("k", [2, 3, 4, 5, 6, 10])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 10])
def test_a_layer_whose_rows_happen_to_be_as_many_as_the_samples(n, k):
    """Or as those that are tried out before, or as those of a part."""
    net, x = drawn(lambda: Prototypes(k)), gaussian(n, 6)
    least = smallest_limit(net, x)
    for options in ({}, *({"max_memory": samples * least} for samples in (1, 2, 3, 5, 6))):
        m = assert_energies(net, x, **options)
        assert [layer.name for layer in m.layers] == ["enc"]
        assert m.other_parameters == dict.fromkeys(
            ("prototypes", "proj.weight", "proj.bias"), "vmap"
        )
    with pytest.raises(ValueError, match="'proj' is not called, or its rows are not the samples"):
        flatlib.measure(net, x, layers=["proj"])


def test_a_condition_without_a_batch_axis():
    class Conditioned(nn.Module):
        def __init__(self):
            super().__init__()
            self.condition, self.last = nn.Linear(2, 3), nn.Linear(3, 3)

        def forward(self, x):
            return self.last(torch.tanh(x + self.condition(x.new_ones(2))))

    for n in (1, 3, 5):  # 3 is the width, too
        m = assert_energies(drawn(Conditioned), gaussian(n, 3))
        assert list(m.other_layers) == ["condition"] and len(m.layers) == 1


class Functional(nn.Module):
    """A weight is multiplied without calling its layer, in this way or that."""

    def __init__(self, way):
        super().__init__()
        self.called, self.fused, self.way = nn.Linear(3, 3), nn.Linear(3, 3), way

    def forward(self, x):
        h, weight, bias = torch.tanh(self.called(x)), self.fused.weight, self.fused.bias
        if self.way == "as it is":
            return nn.functional.linear(h, weight, bias)
        if self.way == "by keyword":
            return nn.functional.linear(input=h, weight=weight, bias=bias)
        if self.way == "another bias":
            return nn.functional.linear(h, weight, torch.cat([bias[:2], torch.ones(1)]))
        if self.way == "no bias":
            return nn.functional.linear(h, weight)
        if self.way == "normalized":
            return nn.functional.linear(h, nn.functional.normalize(weight), bias)
        return h @ weight


def test_a_weight_used_in_linear_is_a_layer():
    called = nn.Sequential()
    for way in ("as it is", "by keyword"):
        net, x = drawn(lambda way=way: Functional(way)), gaussian(4, 3)
        called = nn.Sequential(net.called, nn.Tanh(), net.fused)
        slow, m = assert_matches_oracle(called, x), assert_energies(net, x)
        assert m.parameter_gradient_energy.tolist() == slow.parameter_gradient_energy.tolist()
        assert [layer.name for layer in m.layers] == ["called", "fused"]
        assert torch.equal(m.layers[1].mls, slow.layers[1].mls)


@pytest.mark.parametrize("way", ["another bias", "no bias"])
def test_a_bias_that_is_not_the_layers_is_not_counted_as_if_it_were(way):
    m = assert_energies(drawn(lambda: Functional(way)), gaussian(4, 3))
    assert [layer.name for layer in m.layers] == ["called", "fused"]
    assert list(m.other_parameters) == (["fused.bias"] if way == "another bias" else [])


@pytest.mark.parametrize("way", ["normalized", "a product"])
def test_weights_used_in_other_ways_count_among_the_others(way):
    m = assert_energies(drawn(lambda: Functional(way)), gaussian(4, 3))
    assert m.other_layers == {"fused": "its weight is used without calling it"}
    assert m.other_parameters["fused.weight"] == "vmap"


# --- convolutions of other kinds ---------------------------------------------------------------


def settings(rank: int, groups: int, transposed: bool):
    """Strides, paddings, dilations and output paddings, different along each axis."""
    kernel, stride, dilation = (2, 3, 1)[:rank], (2, 1, 3)[:rank], (1, 2, 2)[:rank]
    options = {
        "stride": stride,
        "dilation": dilation,
        "groups": groups,
        "padding": (1, 2, 0)[:rank],
    }
    return (kernel, options | ({"output_padding": (1, 1, 2)[:rank]} if transposed else {}))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "name", ["Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]
)
def test_convolutions_of_other_kinds_match_the_oracle(name, groups, bias):
    rank, transposed = int(name[-2]), "Transpose" in name
    size = {1: (5,), 2: (3, 3), 3: (3, 2, 2) if transposed else (4, 3, 3)}[rank]
    kernel, options = settings(rank, groups, transposed)
    net = nn.Sequential(
        getattr(nn, name)(4, 2, kernel, bias=bias, **options), nn.Tanh(), nn.Flatten(),
        nn.LazyLinear(3),
    )  # fmt: skip
    x = gaussian(3, 4, *size)
    net(x)
    m = assert_matches_oracle(drawn(lambda: net), x)
    assert [layer.kind for layer in m.layers] == [name, "Linear"]
    assert all(layer.in_sharpness for layer in m.layers)


@pytest.mark.parametrize("size", [(5,), (6,), None])
def test_a_transposed_convolution_of_a_given_size_and_called_twice(size):
    class Grows(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.last = nn.ConvTranspose1d(1, 1, 3, stride=2, padding=1), nn.LazyLinear(2)

        def forward(self, x):
            h = self.up(x, output_size=size)
            return self.last(self.up(h.tanh()).flatten(1))

    net = Grows()
    net(gaussian(1, 1, 3))
    m = assert_matches_oracle(drawn(lambda: net), gaussian(2, 1, 3))
    assert m.layers[0].n_positions == 3 + (size or (5,))[0]


def test_one_position_of_a_transposed_convolution():
    net = drawn(
        lambda: nn.Sequential(nn.ConvTranspose2d(3, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3))
    )
    m = assert_matches_oracle(net, gaussian(3, 3, 1, 1))
    assert m.layers[0].n_positions == 1


# --- other parameters --------------------------------------------------------------------------


class Affine(nn.Module):
    """A parameter that scales or shifts the rows, in one of many ways."""

    def __init__(self, way, shape):
        super().__init__()
        self.first, self.last, self.way = nn.Linear(3, 4), nn.Linear(4, 2), way
        self.p = nn.Parameter(torch.randn(shape))

    def forward(self, x):
        return self.last(torch.tanh(self.way(self.first(x), self.p))).flatten(1)


WAYS = {
    "position table": (lambda h, p: h + p, (5, 4)),
    "position table of one sample": (lambda h, p: p + h, (1, 5, 4)),
    "gain": (lambda h, p: h * p, (4,)),
    "gain of tokens": (lambda h, p: p * h, (5, 1)),
    "number": (lambda h, p: h / p, ()),
    "difference": (lambda h, p: p - h, (1, 1, 4)),
    "in place": (lambda h, p: torch.sin(h).add_(p), (4,)),
    "in place by operator": (lambda h, p: torch.sin(h).__iadd__(p), (4,)),
    "twice": (lambda h, p: (h * p + p) * p, (4,)),
    "function": (lambda h, p: torch.mul(torch.add(h, p), p), (4,)),
    "token": (lambda h, p: torch.cat([p.expand(len(h), -1, -1), h], dim=1), (1, 2, 4)),
    "repeated token": (lambda h, p: torch.cat([p.repeat(len(h), 1, 1), h], dim=1), (1, 2, 4)),
    "expanded as": (lambda h, p: h * p.expand_as(h), (1, 5, 4)),
    "a token used twice": (
        lambda h, p: (lambda e: torch.cat([e, h * e], dim=1))(p.expand(len(h), -1, -1)),
        (1, 1, 4),
    ),
}


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("n", [1, 5])  # as many as tokens, too
def test_scales_and_shifts_are_had_by_formula(name, n):
    way, shape = WAYS[name]
    m = assert_energies(drawn(lambda: Affine(way, shape)), gaussian(n, 5, 3))
    assert m.other_parameters == {"p": "formula"}


SLOWER = {
    "a function of it": (lambda h, p: h * p.exp(), (4,), "vmap"),
    "also a function of it": (lambda h, p: h * p + p.exp(), (4,), "vmap"),
    "product": (lambda h, p: h @ p, (4, 4), "vmap"),
    "rows of it": (lambda h, p: h * p[: h.shape[1]], (7, 4), "vmap"),
    "tiled": (lambda h, p: h + p.repeat(1, 2), (5, 2), "vmap"),
    "with a factor": (lambda h, p: torch.add(h, p, alpha=2), (4,), "vmap"),
    "two ways": (lambda h, p: h + p if float(h.sum()) > -1e9 else h, (4,), "formula"),
    "two ways of a function": (
        lambda h, p: h + p.exp() if float(h.sum()) > -1e9 else h,
        (4,),
        "loop",
    ),
    "batch by batch": (
        lambda h, p: h * p.new_ones(len(h)).mul(p.sum()).view(-1, 1, 1),
        (4,),
        "vmap",
    ),
}


@pytest.mark.parametrize("name", SLOWER)
def test_parameters_without_a_formula(name):
    way, shape, how = SLOWER[name]
    m = assert_energies(drawn(lambda: Affine(way, shape)), gaussian(4, 5, 3))
    assert m.other_parameters == {"p": how}


def test_vmap_is_not_trusted_where_it_sees_another_network():
    """Inside `vmap` a batch has one sample; this network shifts such batches."""

    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.p = nn.Linear(3, 2), nn.Parameter(torch.tensor([0.5, 1.5, -1.0]))

        def forward(self, x):
            scale = 3.0 if len(x) == 1 else 1.0
            return self.last(x * (scale * self.p))

    net, x = Counts(), gaussian(4, 3)
    m = flatlib.measure(net, x)
    K = flatlib.derivatives.parameter_jacobian(net, x)
    assert m.sharpness == pytest.approx(float(K.square().sum() / 4), rel=1e-12)
    assert m.other_parameters == {"p": "loop"}


NORMS = {
    "layer": lambda: nn.LayerNorm(6),
    "layer without shift": lambda: nn.LayerNorm(6, bias=False),
    "layer over two axes": lambda: nn.LayerNorm((4, 6)),
    "group": lambda: nn.GroupNorm(2, 4),
    "batch": lambda: nn.BatchNorm1d(4),
    "instance": lambda: nn.InstanceNorm1d(4, affine=True),
    "instance with statistics": lambda: nn.InstanceNorm1d(4, affine=True, track_running_stats=True),
    "root mean square": lambda: nn.RMSNorm(6),
}


@pytest.mark.parametrize("frozen, n", [(None, 1), (None, 3), ("weight", 3), ("bias", 3)])
@pytest.mark.parametrize("norm", NORMS)
def test_scales_and_shifts_of_norms_are_had_by_formula(norm, frozen, n):
    net = drawn(
        lambda: nn.Sequential(
            nn.Conv1d(2, 4, 3), NORMS[norm](), nn.Tanh(), nn.Flatten(), nn.Linear(24, 3)
        )
    )
    if hasattr(net[1], "running_var") and net[1].running_var is not None:
        net[1].running_mean.normal_()
        net[1].running_var.uniform_(0.5, 2)
    if getattr(net[1], frozen or "", None) is not None:
        getattr(net[1], frozen).requires_grad_(False)
    m = assert_energies(net, gaussian(n, 2, 8))
    own = {f"1.{name}" for name, p in net[1].named_parameters() if p.requires_grad}
    assert m.other_parameters == dict.fromkeys(own, "formula")


def test_a_norm_called_twice_is_summed_before_squaring():
    norm = nn.LayerNorm(4)
    net = drawn(lambda: nn.Sequential(norm, nn.Linear(4, 4), norm, nn.Tanh(), nn.Linear(4, 2)))
    m = assert_energies(net, gaussian(3, 4))
    assert m.other_parameters == {"0.weight": "formula", "0.bias": "formula"}


def test_a_zero_scale_hides_no_gradient():
    net = drawn(lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)))
    nn.init.zeros_(net[1].weight)
    m = assert_energies(net, gaussian(3, 4))
    assert (m.parameter_gradient_energy > 0).all()


def test_no_more_backward_passes_for_scales_and_shifts(monkeypatch):
    rows = []
    plain = torch.autograd.grad

    def counted(outputs, inputs, grad_outputs=None, **options):
        rows.append(len(grad_outputs) if options.get("is_grads_batched") else 1)
        return plain(outputs, inputs, grad_outputs, **options)

    net = drawn(
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 4), nn.LayerNorm(4)
        )
    )
    monkeypatch.setattr(torch.autograd, "grad", counted)
    flatlib.measure(net, gaussian(6, 1, 3, 3))
    assert sum(rows) == 1 + 4  # one tells of mixed rows
