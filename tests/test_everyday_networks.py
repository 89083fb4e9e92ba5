"""Parts of networks that people put together, each held against plain autograd."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
import torch.nn.functional as F
from compare import smallest_limit
from inputs import gaussian
from test_layers import assert_energies, drawn, energies
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

import flatlib
from flatlib import comparisons
from flatlib.derivatives import attention, float64
from flatlib.sharpness import sharpness_gap


class Of(nn.Module):
    """A linear layer, what a function makes of the module and this layer's output, another one."""

    def __init__(self, between, width: int = 4, wide: int = 4, out: int = 2, **parameters):
        super().__init__()
        self.first, self.last = nn.Linear(4, wide), nn.Linear(width, out)
        for name, numbers in parameters.items():
            setattr(self, name, nn.Parameter(numbers.clone()))
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self, self.first(x)))


def slow_mls(net: nn.Module, x: Tensor) -> Tensor:
    """Of each sample alone, by plain autograd in float64."""
    twin = copy.deepcopy(net).double()
    jacobians = [
        torch.autograd.functional.jacobian(lambda row: twin(row)[0], row)
        for row in x.double().split(1)
    ]
    return torch.stack([torch.linalg.svdvals(J.flatten(1))[0] for J in jacobians])


def assert_measured(net: nn.Module, x: Tensor) -> flatlib.Measurement:
    """Sharpness and every MLS, by both methods, against plain autograd."""
    m = assert_energies(net, x)
    expected = slow_mls(net, x)
    torch.testing.assert_close(m.mls, expected, rtol=1e-9, atol=0)
    free = flatlib.measure(net, x, method="matrix-free", tolerance=1e-9)
    assert bool(((free.mls - expected).abs() <= free.mls_residual + 1e-9 * expected).all())
    return m


# --- attention -----------------------------------------------------------------------------------


T = 5
CAUSAL = torch.ones(T, T, dtype=torch.bool).tril()
PADDED = torch.tensor([[True] * 3 + [False] * 2, [True] * 5, [False] + [True] * 4])[:, None, None]
MASKS = {
    "none": {},
    "causal, as bools": {"attn_mask": CAUSAL},
    "padding": {"attn_mask": PADDED},
    "some rows all hidden": {"attn_mask": CAUSAL & (torch.arange(T) > 1)},
    "numbers": {"attn_mask": gaussian(T, T).double()},
    "by word": {"is_causal": True},
    "of another scale": {"attn_mask": CAUSAL, "scale": 0.3},
}


def by_hand(q: Tensor, k: Tensor, v: Tensor, attn_mask=None, is_causal=False, scale=None) -> Tensor:
    """`torch.nn.functional.scaled_dot_product_attention`; who may look at nothing sees zeros."""
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    mask = CAUSAL if is_causal else attn_mask
    if mask is None or mask.dtype is not torch.bool:
        return (scores + (0 if mask is None else mask)).softmax(dim=-1) @ v
    blind = ~mask.any(dim=-1, keepdim=True)
    weights = scores.masked_fill(~mask & ~blind, -torch.inf).softmax(dim=-1)
    return weights.masked_fill(blind, 0.0) @ v


class Attends(nn.Module):
    """Attention with a mask for each of the samples or for all."""

    def __init__(self, options: dict):
        super().__init__()
        self.qkv, self.last, self.options = nn.Linear(4, 12), nn.Linear(4, 2), options
        self.attention = F.scaled_dot_product_attention

    def forward(self, x: Tensor) -> Tensor:
        options = dict(self.options)
        mask = options.get("attn_mask")
        if mask is not None and mask.dim() == 4:  # which sample it is stands in its last number
            options["attn_mask"] = mask.to(x.device)[x[:, -1, -1].long()]
        parts = self.qkv(x).chunk(3, dim=-1)
        heads = (part.unflatten(2, (2, 2)).transpose(1, 2) for part in parts)
        seen = self.attention(*heads, **options)
        return self.last(seen.transpose(1, 2).flatten(2).mean(dim=1))


@pytest.mark.parametrize("kind", MASKS)
def test_attention_sees_what_its_mask_lets_it_see(kind):
    net, x = drawn(lambda: Attends(MASKS[kind])), gaussian(3, T, 4).double()
    x[:, -1, -1] = torch.arange(3) + 0.5
    m = assert_measured(net, x)
    y, twin = gaussian(3, 2).double(), copy.deepcopy(net).double()
    twin.attention = by_hand
    torch.testing.assert_close(twin(x), copy.deepcopy(net).double()(x), rtol=1e-12, atol=0)
    own = list(twin.parameters())
    slopes = torch.autograd.grad((twin(x) - y).square().sum() / 6, own, create_graph=True)
    trace = sum(
        float(torch.autograd.grad(slope, parameter, retain_graph=True)[0].flatten()[place])
        for gradient, parameter in zip(slopes, own, strict=True)
        for place, slope in enumerate(gradient.flatten())
    )
    assert flatlib.hessian_trace(net, x, y).estimate == pytest.approx(trace, rel=1e-9)
    assert sharpness_gap(net, x, y) == pytest.approx(trace - m.sharpness, rel=1e-8)


class Encodes(nn.Module):
    """A layer of a transformer, with the options of its call."""

    def __init__(self, hidden: Tensor | None = None, **options):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)
        self.last, self.hidden, self.options = nn.Linear(4, 2), hidden, options

    def forward(self, x: Tensor) -> Tensor:
        hidden = None if self.hidden is None else self.hidden.expand(len(x), -1)
        return self.last(self.layer(x, src_key_padding_mask=hidden, **self.options).mean(dim=1))


WINDOW = ~CAUSAL | torch.ones(T, T, dtype=torch.bool).tril(-2)


@pytest.mark.parametrize(
    "options",
    [
        {"src_mask": WINDOW},
        {"src_mask": WINDOW, "is_causal": True},  # PyTorch takes the word for it
        {"src_mask": ~CAUSAL, "is_causal": True},
        {"src_mask": WINDOW, "is_causal": True, "hidden": torch.arange(T) > 3},
        {"src_mask": ~CAUSAL, "hidden": torch.arange(T) < 2},  # the first see nothing
        {"hidden": torch.arange(T) < T},  # nor does anyone
    ],
)
def test_a_transformers_layer_computes_what_pytorchs_does(options):
    net, x = drawn(lambda: Encodes(**options)), gaussian(3, T, 4)
    assert_measured(net, x)


def test_a_replacement_that_computes_something_else_is_told(monkeypatch):
    plain = attention.multi_head_attention

    def wrong(args, kwargs):
        output, weights = plain(args, kwargs)
        return output * (1 + 1e-3), weights

    monkeypatch.setattr(float64, "multi_head_attention", wrong)
    with pytest.raises(
        ValueError, match="sample 1 has another output .* please report the network"
    ):
        flatlib.measure(drawn(Encodes), gaussian(3, T, 4))


# --- parameters on their way ---------------------------------------------------------------------


SHARED = {
    "layer norm, minus": lambda net, h: F.layer_norm(h, (4,), net.g, -net.g),
    "layer norm, plus one": lambda net, h: F.layer_norm(h, (4,), 1 + net.g, net.g),
    "layer norm, a view": lambda net, h: F.layer_norm(h, (4,), net.g, net.g.view(-1)),
    "layer norm, twice": lambda net, h: F.layer_norm(h, (4,), net.g, net.g),
    "group norm": lambda net, h: F.group_norm(h, 2, net.g, net.g.flip(0)),
    "batch norm": lambda net, h: F.batch_norm(
        h, net.g.detach(), net.g.detach() ** 2, net.g, -net.g
    ),
    "rms norm": lambda net, h: F.rms_norm(h + net.g, (4,), net.g),
    "before the norm": lambda net, h: F.layer_norm(torch.sub(h, net.g, alpha=2), (4,), net.g),
}


@pytest.mark.parametrize("kind", SHARED)
def test_a_scale_that_acts_elsewhere_in_its_norm_counts_whole(kind):
    g = torch.tensor([0.7, 1.2, 0.9, 1.4])
    assert_measured(drawn(lambda: Of(SHARED[kind], g=g)), gaussian(3, 4))


ONE_NUMBER = {
    "scaled": lambda net, h: h.squeeze(1) * net.g,
    "shifted": lambda net, h: h.squeeze(1) + net.g,
    "gated": lambda net, h: h[:, 0] * torch.sigmoid(h[:, 0] * net.g) + net.g,
}


class AsColumn(nn.Module):
    """A network whose samples have one number each, as a column."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)[:, None]


@pytest.mark.parametrize("n", [1, 4, 9])
@pytest.mark.parametrize("kind", ONE_NUMBER)
def test_a_parameter_may_act_on_one_number_a_sample(kind, n):
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.g = nn.Linear(4, 1), nn.Parameter(torch.tensor(2.0))

        def forward(self, x: Tensor) -> Tensor:
            return ONE_NUMBER[kind](self, self.first(x))

    class Within(Last):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(1, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(super().forward(x)[:, None])

    net, x = drawn(Last), gaussian(n, 4)
    each = sum(energies(AsColumn(net), x).values())
    torch.testing.assert_close(
        flatlib.measure(net, x).parameter_gradient_energy, each, rtol=1e-10, atol=0
    )
    assert_energies(drawn(Within), x)


NOTHING = {
    "a norm": lambda net, h: torch.cat([net.norm(h[:, :0]), h], 1),
    "a scale": lambda net, h: torch.cat([h[:, :0] * net.g, h], 1),
    "a table": lambda net, h: torch.cat([net.table(h[:, :0, 0].long()), h], 1),
}


@pytest.mark.parametrize("kind", NOTHING)
def test_what_acts_on_no_token_adds_nothing(kind):
    class Prefix(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.g = nn.LayerNorm(4), nn.Parameter(torch.ones(4))
            self.table, self.last = nn.Embedding(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(NOTHING[kind](self, x).mean(dim=1))

    assert_energies(drawn(Prefix), gaussian(3, 5, 4))


class FromItself(nn.Module):
    """A weight and what a linear layer makes of its rows."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.inner(weight)


def test_a_weight_may_be_made_by_a_layer():
    def build():
        net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
        parametrize.register_parametrization(net[0], "weight", FromItself())
        return net

    m = assert_energies(drawn(build), gaussian(3, 4))
    assert {"0", "2"} <= {layer.name for layer in m.layers}


def test_a_layer_that_raises_and_is_asked_again_was_called_once():
    class Tries(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(12, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            try:
                h = self.first(x)
            except RuntimeError:
                h = self.first(x.flatten(1))
            return self.last(h.tanh())

    m = assert_measured(drawn(Tries), gaussian(3, 3, 4))
    assert [layer.name for layer in m.layers] == ["first", "last"]


# --- products and comparisons --------------------------------------------------------------------


def test_a_sparse_matrix_between_layers():
    graph = (torch.rand(4, 4, generator=torch.Generator().manual_seed(0)) > 0.5).double()
    graph = graph.to_sparse()

    def mixed(net, h):
        return torch.sparse.mm(graph, h.T.double()).T.to(h.dtype)

    assert_measured(drawn(lambda: Of(mixed)), gaussian(3, 4).double())


def test_a_backward_pass_that_takes_the_logarithm_of_its_gradient():
    assert_measured(drawn(lambda: Of(lambda net, h: h.logcumsumexp(dim=1))), gaussian(3, 4))


def test_numbers_rounded_a_channel_at_a_time():
    class Rounds(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 3), nn.Linear(3, 2)
            self.register_buffer("scale", torch.tensor([0.1, 0.2, 0.3]))
            self.register_buffer("zero", torch.zeros(3, dtype=torch.int32))

        def forward(self, x: Tensor) -> Tensor:
            h = torch.fake_quantize_per_channel_affine(
                self.first(x), self.scale, self.zero, 1, -128, 127
            )
            return self.last(h)

    net, x = drawn(Rounds), gaussian(3, 4)
    passes = copy.deepcopy(net).double()
    rounded = torch.round(passes.first(x.double()) / net.scale.double()) * net.scale.double()
    passes.forward = lambda x: passes.last(passes.first(x))  # its backward leaves rounding out
    expected = flatlib.measure(nn.Sequential(passes.first, passes.last), x)
    found = flatlib.measure(net, x)
    torch.testing.assert_close(found.mls, expected.mls, rtol=1e-6, atol=0)
    last = (rounded.square().sum(dim=1) + 1) * 2  # of the last weight and its bias, two outputs
    first = (x.double().square().sum(dim=1) + 1) * passes.last.weight.square().sum()
    torch.testing.assert_close(
        found.parameter_gradient_energy, (last + first).detach(), rtol=1e-6, atol=0
    )


def test_relative_flatness_needs_one_vector_a_sample():
    class Folds(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(x.reshape(-1, 3)).reshape(len(x), -1)

    with pytest.raises(ValueError, match=r"'last', .*reads shape \(20, 3\).* one vector a sample"):
        comparisons.relative_flatness(drawn(Folds), gaussian(4, 5, 3), torch.zeros(4, 10))


def test_noise_reaches_a_weight_that_its_forward_puts_in_place_anew():
    class Anew(nn.Module):
        def __init__(self, how: str):
            super().__init__()
            self.first, self.last = nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False)
            self.how = how

        def forward(self, x: Tensor) -> Tensor:
            made = F.normalize(self.first.weight.data, dim=1)
            if self.how == "data":
                self.first.weight.data = made
            else:
                self.first.weight.data.copy_(made)
            return self.last(self.first(x).tanh())

    x, y = gaussian(6, 4), gaussian(6, 2).double()
    found = [
        comparisons.adaptive_sharpness_by_noise(drawn(lambda how=how: Anew(how)), x, y).estimate
        for how in ("data", "copy")
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-12)


@pytest.mark.parametrize("n, T", [(20, 5), (3, 4), (6, 4), (4, 3), (5, 2)])
def test_a_row_that_the_network_is_not_made_for_hides_no_layer(n, T):
    class Shares(nn.Module):
        """Of numbers between 0 and 1, positions in front inside."""

        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(torch.logit(x).transpose(0, 1)).tanh().sum(dim=0))

    x = gaussian(n, T, 4).sigmoid()
    m = flatlib.measure(drawn(Shares), x)
    assert not m.other_layers and [layer.name for layer in m.layers] == ["first", "last"]


# --- what changes while the network runs ---------------------------------------------------------


class Pyramid(nn.Module):
    """One kernel at two dilations, or at one that is put back."""

    def __init__(self, dilations: tuple[int, ...], back: bool = False):
        super().__init__()
        self.conv, self.last = nn.Conv1d(2, 2, 3, padding=1), nn.Linear(12, 2)
        self.dilations, self.back = dilations, back

    def forward(self, x: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        for d in self.dilations:
            self.conv.dilation = self.conv.padding = (d,)
            y = torch.tanh(y + self.conv(x))
        if self.back:
            self.conv.dilation = self.conv.padding = (1,)
        return self.last(y.flatten(1))


@pytest.mark.parametrize("n", [1, 3, 12])
def test_settings_that_the_forward_changes_are_seen_or_refused(n):
    x = gaussian(n, 2, 6)
    assert_energies(drawn(lambda: Pyramid((2,))), x)
    for changing in (drawn(lambda: Pyramid((1, 2))), drawn(lambda: Pyramid((2,), back=True))):
        with pytest.raises(ValueError, match="changes the settings of layer 'conv'"):
            flatlib.measure(changing, x)


def test_a_layer_with_two_weights_in_one_pass_is_refused():
    class Twice(nn.Module):
        def __init__(self, factors):
            super().__init__()
            self.conv, self.factors = nn.Conv1d(1, 1, 1, bias=False), factors

        def forward(self, x: Tensor) -> Tensor:
            parts = zip(self.factors, x.split(1, dim=2), strict=True)
            made = [
                functional_call(self.conv, {"weight": k * self.conv.weight}, p) for k, p in parts
            ]
            return sum(made).flatten(1)

    assert flatlib.measure(drawn(lambda: Twice((2.0, 2.0))), gaussian(3, 1, 2)).layers
    with pytest.raises(ValueError, match="layer 'conv' is called with different weights"):
        flatlib.measure(drawn(lambda: Twice((10.0, 1.0))), gaussian(3, 1, 2))


class Remembers(nn.Module):
    """A gate of the samples that ran last, which a part that is computed again reads."""

    def __init__(self):
        super().__init__()
        self.gating, self.first, self.last = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 2)

    def block(self, h: Tensor) -> Tensor:
        return torch.tanh(torch.tanh(self.first(h)) * self.gate)

    def forward(self, x: Tensor) -> Tensor:
        self.gate = torch.sigmoid(self.gating(x))
        return self.last(checkpoint(self.block, x, use_reentrant=False))


@pytest.mark.parametrize("n", [2, 8, 12, 16])
def test_a_backward_pass_reads_what_its_own_forward_has_left(n):
    net, x = drawn(Remembers), gaussian(n, 4)
    assert_measured(net, x)
    limit = smallest_limit(net, x)
    for share in (1, 2, 3):
        split = flatlib.measure(net, x, max_memory=share * limit)
        torch.testing.assert_close(split.mls, slow_mls(net, x), rtol=1e-9, atol=0)


def test_a_cast_in_a_part_that_is_computed_again_is_refused():
    class Casts(nn.Module):
        def __init__(self, again: bool):
            super().__init__()
            self.first, self.last, self.again = nn.Linear(4, 5), nn.Linear(5, 2), again

        def block(self, h: Tensor) -> Tensor:
            return torch.tanh(self.first(h.half().to(self.first.weight.dtype)))

        def forward(self, x: Tensor) -> Tensor:
            if self.again:
                return self.last(checkpoint(self.block, x, use_reentrant=False))
            return self.last(self.block(x))

    x = gaussian(3, 4)
    found = flatlib.measure(drawn(lambda: Casts(again=False)), x)
    plain = drawn(lambda: Casts(again=False))
    expected = flatlib.measure(nn.Sequential(plain.first, nn.Tanh(), plain.last), x)
    assert found.sharpness == pytest.approx(expected.sharpness, rel=1e-12)
    with pytest.raises(ValueError, match="recomputed in the backward pass.* switch checkpointing"):
        flatlib.measure(drawn(lambda: Casts(again=True)), x)


def test_indices_that_are_overwritten_after_they_were_looked_up():
    class Overwrites(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.last = nn.Embedding(6, 3), nn.Linear(3, 2)
            self.safe = False

        def forward(self, x: Tensor) -> Tensor:
            found = self.table(x.clone() if self.safe else x)
            x.masked_fill_(x < 3, 0)
            return self.last(torch.tanh(found).sum(1) * (1 + (x > 0).sum(1, keepdim=True)))

    net, x = drawn(Overwrites), torch.tensor([[1, 2, 4, 4, 5], [0, 2, 2, 3, 5]])
    found = flatlib.measure(net, x.clone())
    twin = copy.deepcopy(net).double()
    twin.safe, own = True, list(twin.parameters())
    expected = [
        sum(
            float(gradient.square().sum())
            for value in twin(sample.clone())[0]
            for gradient in torch.autograd.grad(value, own, retain_graph=True)
        )
        for sample in x.split(1)
    ]
    torch.testing.assert_close(
        found.parameter_gradient_energy.tolist(), expected, rtol=1e-12, atol=0
    )


def test_joined_images_of_two_sizes_have_the_larger_operator_norm():
    net = nn.Sequential(
        nn.Conv2d(1, 1, (1, 3), padding="same", bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    nn.init.ones_(net[0].weight)
    parts = [flatlib.measure(net, gaussian(2, 1, *size)) for size in ((12, 2), (2, 12))]
    for order in (parts, parts[::-1]):
        joined = flatlib.Measurement.join(order)
        norm = joined.layers[0].operator_norm
        assert norm == max(part.layers[0].operator_norm for part in parts)
        assert all(b.holds for b in flatlib.bounds.evaluate(joined) if b.proven)


def test_a_network_that_treats_a_single_row_otherwise_is_refused():
    def build(between):
        return drawn(lambda: Of(between))

    with pytest.raises(ValueError, match="sample 0 has another output as the only row"):
        flatlib.measure(build(lambda net, h: h if len(h) > 1 else 2 * h), gaussian(1, 4))
    assert_energies(build(lambda net, h: h.squeeze().reshape(-1, 4)), gaussian(1, 4))


@pytest.mark.parametrize("n_outputs, exact", [(3, True), (8, True), (9, False)])
def test_of_few_outputs_every_one_is_taken(n_outputs, exact):
    net, x = drawn(lambda: flatlib.nets.mlp((4, 12, n_outputs))), gaussian(3, 4)
    found = flatlib.measure(net, x, method="matrix-free", probes=2)
    assert (found.sharpness_error == 0) == exact
    if exact:
        assert found.sharpness == pytest.approx(flatlib.measure(net, x).sharpness, rel=1e-9)


def test_threads_leave_the_settings_of_the_process_as_they_were():
    net, x = drawn(Encodes), gaussian(3, T, 4)
    expected, found = flatlib.measure(net, x).sharpness, []
    plain = torch.compile(drawn(lambda: flatlib.nets.mlp((4, 5, 2))), backend="eager")

    def work(times: int) -> None:
        for _ in range(times):
            found.append(flatlib.measure(net, x).sharpness)
            flatlib.measure(plain, gaussian(3, 4))

    before = [torch.backends.cuda.flash_sdp_enabled(), torch.backends.cudnn.enabled]
    threads = [threading.Thread(target=work, args=(times,)) for times in (5, 7, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 21
    assert [torch.backends.cuda.flash_sdp_enabled(), torch.backends.cudnn.enabled] == before
    assert float64.EAGER.inside == 0


def test_another_default_device_changes_no_number():
    net, x, y = drawn(Encodes), gaussian(3, T, 4), gaussian(3, 2)

    def numbers() -> list:
        return [
            flatlib.measure(net, x).sharpness,
            flatlib.measure(net, x, method="matrix-free").mls.tolist(),
            flatlib.hessian_trace(net, x, y, "hutchinson", max_probes=8).estimate,
            comparisons.adaptive_sharpness_by_noise(net, x, y, n_draws=3).estimate,
            comparisons.largest_hessian_eigenvalue(net, x, y).value,
            comparisons.iimls(net, x).tolist(),
        ]

    expected = numbers()
    with torch.device("meta"):  # where nothing has a number
        assert numbers() == expected
