"""Networks that look up their input: measured from the embedded vectors on, tables and all."""

from __future__ import annotations

import pytest
import torch
from compare import assert_close, assert_log_volume, assert_values, smallest_limit
from inputs import gaussian
from oracle import double_copy, slow_measure
from test_layers import drawn, plain
from torch import Tensor, nn

import flatlib


def tokens(n: int, T: int = 5, vocabulary: int = 7, seed: int = 0) -> Tensor:
    return torch.randint(vocabulary, (n, T), generator=torch.Generator().manual_seed(seed))


class Model(nn.Module):
    """Tokens, and what else is made of an embedding; `rest` takes the embedded vectors."""

    def __init__(self, way: str = "tokens", width: int = 4):
        super().__init__()
        self.way = way
        self.token = nn.Embedding(7, width, padding_idx=0 if way == "padding" else None)
        self.place = nn.Embedding(5, width)
        self.first, self.head = nn.Linear(width, 3), nn.Linear(15, 2)
        if way == "sparse":
            self.token.sparse = self.token.scale_grad_by_freq = True

    def forward(self, x: Tensor) -> Tensor:
        e = torch.nn.functional.embedding(x, self.token.weight) if self.way == "function" else None
        return self.rest(self.token(x) if e is None else e, x)

    def rest(self, e: Tensor, x: Tensor) -> Tensor:
        if self.way == "places":
            e = e + self.place(torch.arange(x.shape[1]))
        if self.way == "places of each":
            e = e * self.place(torch.arange(x.shape[1]).expand_as(x))
        if self.way == "places counted":
            e = e + self.place((x != 0).cumsum(dim=1) - 1).tanh()
        if self.way == "places twice":
            there = torch.arange(x.shape[1]).expand_as(x)
            e = e * self.place(there) + self.place(there.flip(1)).sin()
        if self.way == "other tokens":
            e = e * self.token((x + 1) % 7)
        if self.way == "in place":
            e += 1.0
            e.mul_(2.0)
        h = torch.tanh(self.first(e))
        if self.way == "masked":
            h = h.masked_fill((x == 0)[..., None], 0.0)
        if self.way == "tied":
            h = h + h @ self.token.weight[:3, :3]
        return self.head(h.flatten(1))


class Rest(nn.Module):
    """A model from the embedded vectors of one batch on, which the oracle knows how to look at."""

    def __init__(self, model: nn.Module, x: Tensor):
        super().__init__()
        self.model, self.x, self.seen = model, x, 0

    def forward(self, e: Tensor) -> Tensor:
        x = self.x[self.seen % len(self.x)][None] if len(e) == 1 else self.x
        self.seen += len(e)
        return self.model.rest(e, x)


def energies(net: nn.Module, x: Tensor) -> Tensor:
    """One sample and one output at a time, every trainable parameter, by autograd alone."""
    twin = double_copy(net)
    for module in twin.modules():
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            module.sparse = module.scale_grad_by_freq = False
    trainable = [p for p in twin.parameters() if p.requires_grad]
    found = []
    for sample in x.split(1):
        rows = [
            torch.autograd.grad(out, trainable, retain_graph=True, materialize_grads=True)
            for out in twin(sample)[0]
        ]
        found.append(sum(float(g.square().sum()) for row in rows for g in row))
    return torch.tensor(found, dtype=torch.float64)


def assert_measured(net: nn.Module, x: Tensor, oracle=None, **options) -> flatlib.Measurement:
    """Hold everything against the oracle, which is given the embedded vectors."""
    m = flatlib.measure(net, x, **options)
    e = double_copy(net).token(x).detach()
    slow = slow_measure(Rest(net, x) if oracle is None else oracle, e)
    s = slow.singular_values
    assert m.input_dimension == e[0].numel()
    assert_close(m.input_norm, slow.input_norm, "input norm")
    assert_values(m.singular_values, s, "singular values")
    assert_log_volume(m.log_volume, s, "log volume")
    assert_close(m.gradient_energy, slow.jacobian.square().sum(dim=(1, 2)), "gradient energy")
    assert_close(m.parameter_gradient_energy, energies(net, x), "parameter gradient energy")
    names = [layer.name.removeprefix("model.") for layer in slow.layers]
    assert [layer.name for layer in m.layers] == names
    for mine, its in zip(m.layers, slow.layers, strict=True):
        assert_close(mine.mls, its.singular_values[:, 0], "MLS")
        assert_close(mine.weight_gradient_energy, its.weight_gradient_energy, "weight")
        assert_close(mine.input_norm, its.input_norm, "input norm of a layer")
    return m


WAYS = {  # and how the tables' gradients are had
    "tokens": {"token.weight": "formula"},
    "function": {"token.weight": "formula"},
    "padding": {"token.weight": "formula"},
    "sparse": {"token.weight": "formula"},
    "in place": {"token.weight": "formula"},
    "masked": {"token.weight": "formula"},
    "places": {"token.weight": "formula", "place.weight": "vmap"},
    "places of each": {"token.weight": "formula", "place.weight": "formula"},
    "places counted": {"token.weight": "formula", "place.weight": "formula"},
    "places twice": {"token.weight": "formula", "place.weight": "vmap"},
    "other tokens": {"token.weight": "vmap"},
    "tied": {"token.weight": "vmap"},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("n", [1, 3, 5])  # as many as tokens, too
def test_tokens_are_measured_from_the_embedded_vectors_on(way, n):
    net = drawn(lambda: Model(way))
    m = assert_measured(net, tokens(n))
    assert m.other_parameters == WAYS[way] and not m.other_layers


@pytest.mark.parametrize("size", [1, 2])
def test_parts_and_batches_of_tokens(size):
    net, x = drawn(lambda: Model("places counted")), tokens(5)
    whole = flatlib.measure(net, x)
    small = flatlib.measure(net, x, max_memory=size * smallest_limit(net, x))
    loaded = flatlib.measure(net, [(part, part) for part in x.split(size)])
    for other in (small, loaded, flatlib.measure(net, x.int())):
        for name in ("singular_values", "parameter_gradient_energy", "input_norm"):
            assert_close(getattr(other, name), getattr(whole, name), name)


def test_equal_tokens_add_up_in_the_table():
    """Three equal tokens: 3^2 times the table's energy of one."""
    net = drawn(lambda: nn.Sequential(nn.Embedding(5, 2), Mean(), nn.Linear(2, 1)))
    same, apart = (flatlib.measure(net, x) for x in (tokens(1, 3, 1), torch.tensor([[0, 1, 2]])))
    w = net[2].weight.detach().double().square().sum()
    rest = [m.layers[0].weight_gradient_energy + 1 for m in (same, apart)]
    assert_close(same.parameter_gradient_energy - rest[0], w[None], "of equal tokens")
    assert_close(apart.parameter_gradient_energy - rest[1], w[None] / 3, "of different tokens")


class Mean(nn.Module):
    def forward(self, e: Tensor) -> Tensor:
        return e.mean(dim=1)


def test_a_frozen_table_does_not_count_and_hides_nothing():
    net, x = drawn(Model), tokens(3)
    net.token.requires_grad_(False)
    m = assert_measured(net, x)
    assert not m.other_parameters and (m.mls > 0).all()


def test_a_lookup_without_gradients_hides_nothing():
    class Frozen(Model):
        def forward(self, x):
            with torch.no_grad():
                e = self.token(x)
            return self.rest(e, x)

    m = assert_measured(drawn(Frozen), tokens(3))
    assert not m.other_parameters and (m.mls > 0).all()


def test_a_dense_layer_of_the_embedded_vectors_bounds_the_mls():
    net = drawn(
        lambda: nn.Sequential(
            nn.Embedding(7, 2), nn.Flatten(), nn.Linear(10, 4), nn.Tanh(), nn.Linear(4, 2)
        )
    )
    m = flatlib.measure(net, tokens(4))
    assert m.input_layer_is_dense
    assert all(bound.holds and bound.proven for bound in flatlib.bounds.evaluate(m))


class Encoder(nn.Module):
    """A transformer of tokens, some of which are padding."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True, activation="gelu")
        self.token = nn.Embedding(7, 4)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.place, self.head = nn.Parameter(torch.ones(5, 4)), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.token(x), x)

    def rest(self, e: Tensor, x: Tensor) -> Tensor:
        hidden = x == 6
        return self.head(self.encoder(e + self.place, src_key_padding_mask=hidden)[:, 0])


def test_a_transformer_of_tokens():
    net, x = drawn(Encoder), tokens(3, seed=1)
    x[:, 0] = 1
    assert (x == 6).any()
    m = assert_measured(net, x, oracle=Rest(plain(net), x))
    assert len(m.layers) == 5 and set(m.other_parameters.values()) == {"formula"}


# --- the other doors ---------------------------------------------------------------------------


def test_derivatives_and_comparisons_of_tokens():
    net, x = drawn(Model), tokens(3)
    e, y = double_copy(net).token(x).detach(), gaussian(3, 2)
    rest = double_copy(net)[1:] if isinstance(net, nn.Sequential) else Rest(net, x)
    J = flatlib.derivatives.input_jacobian(net, x)
    assert_close(J, flatlib.derivatives.input_jacobian(rest, e), "Jacobian")
    K = flatlib.derivatives.parameter_jacobian(net, x)
    assert_close(K.square().sum(dim=(1, 2)), energies(net, x), "gradients of parameters")
    moved = (J @ e.flatten(1)[:, :, None]).square().sum(dim=(1, 2)) / 20
    assert_close(flatlib.comparisons.iimls(net, x), moved, "IIMLS")
    net.token.requires_grad_(False)
    for function in (
        lambda net, x: flatlib.hessian_trace(net, x, y).estimate,
        lambda net, x: flatlib.sharpness.sharpness_gap(net, x, y),
        lambda net, x: flatlib.comparisons.relative_flatness(net, x, y),
        lambda net, x: flatlib.comparisons.largest_hessian_eigenvalue(net, x, y).value,
    ):
        assert_close(function(net, x), function(Rest(net, x), e), "a measure with a loss")


@pytest.mark.parametrize("n", [1, 3])
def test_gradients_of_a_table_are_whole_and_dense(n):
    """Whatever the table says of sparse gradients, and of rows that are looked up often."""
    net, x = drawn(lambda: Model("sparse")), tokens(n)
    K = flatlib.derivatives.parameter_jacobian(net, x)
    assert_close(K.square().sum(dim=(1, 2)), energies(net, x), "gradients of parameters")


class Bag(nn.Module):
    """A bag of categories, which the forward makes of its numbers, beside a layer."""

    def __init__(self, **options):
        super().__init__()
        self.bag = nn.EmbeddingBag(4, 3, **options)
        self.first, self.head = nn.Linear(5, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        categories = (x.detach() * 4).long().clamp(0, 3)
        return self.head(torch.tanh(self.first(x) + self.bag(categories)))


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("options", [{}, {"scale_grad_by_freq": True}, {"sparse": True}])
def test_gradients_of_a_bag_are_whole_and_dense(options, mode):
    net, x = drawn(lambda: Bag(mode=mode, **options)), gaussian(4, 5).double().sigmoid()
    plainly = energies(net, x)
    assert_close(flatlib.measure(net, x).parameter_gradient_energy, plainly, "sharpness")
    K = flatlib.derivatives.parameter_jacobian(net, x)
    assert_close(K.square().sum(dim=(1, 2)), plainly, "gradients of parameters")
    theta = torch.cat([p.flatten() for p in double_copy(net).parameters()]).detach()
    adaptive = (K * theta).square().sum(dim=(1, 2)).mean()
    found = flatlib.sharpness.adaptive_sharpness(net, x)
    assert found == pytest.approx(float(adaptive), rel=1e-9)
    free = flatlib.measure(net, x, method="matrix-free")  # a pass for each of the two outputs
    assert_close(free.parameter_gradient_energy, plainly, "sharpness, matrix-free")


# --- refusals ----------------------------------------------------------------------------------


class Tabular(nn.Module):
    """A table for each column of categories."""

    def __init__(self, way: str):
        super().__init__()
        self.colour, self.shape, self.way = nn.Embedding(9, 2), nn.Embedding(9, 2), way
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "columns":
            return self.out(torch.cat([self.colour(x[:, 0]), self.shape(x[:, 1])], dim=1))
        if self.way == "twice":
            return self.out(torch.cat([self.colour(x), self.colour(x)], dim=2).flatten(1)[:, :4])
        if self.way == "both":
            return self.out(torch.cat([self.colour(x), self.shape(x)], dim=2).flatten(1)[:, :4])
        return self.out(nn.functional.one_hot(x[:, 0] % 4, 4).float())


REFUSALS = {
    "columns": "'colour.weight' and 'shape.weight' look up other.*embed them first",
    "twice": "looked up in 'colour.weight' and 'colour.weight', so no one vector.*embed them first",
    "both": "looked up in 'colour.weight' and 'shape.weight', so no one vector.*embed them first",
    "none": "is not itself what an embedding of the network looks up; embed them first",
}


@pytest.mark.parametrize("way", REFUSALS)
@pytest.mark.parametrize("door", [flatlib.measure, flatlib.derivatives.input_jacobian])
def test_indices_that_no_one_vector_stands_for_are_refused_by_name(way, door):
    with pytest.raises(TypeError, match=REFUSALS[way]):
        door(drawn(lambda: Tabular(way)), tokens(4, 2))


def test_a_hessian_needs_no_vector():
    net, x, y = drawn(lambda: Tabular("columns")), tokens(4, 2), gaussian(4, 2)
    flat = nn.Sequential(net.out)
    e = torch.cat([net.colour(x[:, 0]), net.shape(x[:, 1])], dim=1).detach()
    net.colour.requires_grad_(False), net.shape.requires_grad_(False)
    assert_close(
        flatlib.hessian_trace(net, x, y).estimate, flatlib.hessian_trace(flat, e, y).estimate, "H"
    )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.bool])
def test_integers_that_nothing_looks_up_are_refused(dtype):
    with pytest.raises(TypeError, match="x holds integers .*as int64 for a torch.nn.Embedding"):
        flatlib.measure(drawn(Model), tokens(3).to(dtype))


def test_an_index_beyond_the_table_is_told():
    with pytest.raises(ValueError, match=r"index out of range.*samples of shape \(5,\)"):
        flatlib.measure(drawn(Model), tokens(3, vocabulary=7) + 5)


def test_tokens_that_mix_over_the_batch_are_refused():
    class Mixes(Model):
        def rest(self, e, x):
            return super().rest(0.5 * e + 0.5 * e[:1], x)

    with pytest.raises(ValueError, match="influence each other"):
        flatlib.measure(drawn(Mixes), tokens(5))
