"""Layers that are chosen by name have an MLS and a volume, and all else is measured as ever."""

from __future__ import annotations

import pytest
import torch
from compare import smallest_limit
from inputs import gaussian
from test_layers import Crosses, drawn
from torch import Tensor, nn

import flatlib


def network() -> nn.Module:
    """Layers "stem", "blocks.0.fc1", "blocks.0.fc2", "blocks.1", "head", and one not called."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2, self.act = nn.Linear(4, 5), nn.Linear(5, 4), nn.Tanh()

        def forward(self, x: Tensor) -> Tensor:
            return x + self.fc2(self.act(self.fc1(x)))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.blocks = nn.Linear(3, 4), nn.Sequential(Block(), nn.Linear(4, 4))
            self.head, self.unused = nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.blocks(self.stem(x)).tanh())

    return drawn(Net)


CHOICES = {
    ("head",): {"head"},
    ("stem",): {"stem"},
    ("blocks.0",): {"blocks.0.fc1", "blocks.0.fc2"},
    ("blocks", "head"): {"blocks.0.fc1", "blocks.0.fc2", "blocks.1", "head"},
    ("blocks.1", "blocks.0.fc2", "blocks.1"): {"blocks.1", "blocks.0.fc2"},
}


@pytest.mark.parametrize("names", CHOICES)
def test_chosen_layers_are_as_ever_and_the_others_have_none(names):
    net, x = network(), gaussian(4, 3)
    whole, some = flatlib.measure(net, x), flatlib.measure(net, x, layers=list(names))
    assert [layer.name for layer in some.layers] == [layer.name for layer in whole.layers]
    for mine, its in zip(some.layers, whole.layers, strict=True):
        if mine.name in CHOICES[names]:
            assert torch.equal(mine.mls, its.mls) and torch.equal(mine.log_volume, its.log_volume)
        else:
            assert mine.mls is None and mine.log_volume is None
        assert torch.equal(mine.weight_gradient_energy, its.weight_gradient_energy)
        assert mine.in_sharpness == its.in_sharpness
    for name in ("singular_values", "parameter_gradient_energy", "log_volume"):
        torch.testing.assert_close(getattr(some, name), getattr(whole, name), rtol=1e-13, atol=0)
    assert some.input_layer_is_dense == whole.input_layer_is_dense is True
    assert flatlib.bounds.chain(some) == flatlib.bounds.chain(whole)


def test_sums_over_all_layers_are_left_out():
    net, x = network(), gaussian(4, 3)
    some = flatlib.measure(net, x, layers=["head", "stem"])
    assert not some.has_layer_mls and not {"nmls", "nvr"} & set(some.summary())
    labels = {bound.label for bound in flatlib.bounds.evaluate(some)}
    assert "13" in labels and not labels & {"N.9", "N.10", "N.11", "N.12"}
    with pytest.raises(ValueError, match="not every layer has an MLS"):
        flatlib.bounds.normalized_nmls(some)
    every = flatlib.measure(net, x, layers=["stem", "blocks", "head"])
    assert every == flatlib.measure(net, x) and every.has_layer_mls


def test_a_choice_goes_through_parts_batches_and_files(tmp_path):
    net, x = network(), gaussian(5, 3)
    whole = flatlib.measure(net, x, layers=("blocks.0",))
    parts = flatlib.measure(net, x.split(2), layers=iter(["blocks.0"]), max_memory=2**12)
    for mine, its in zip(parts.layers, whole.layers, strict=True):
        assert (mine.mls is None) == (its.mls is None)
        if mine.mls is not None:
            torch.testing.assert_close(mine.mls, its.mls, rtol=1e-12, atol=0)
    whole.save(tmp_path / "m.npz")
    assert flatlib.Measurement.load(tmp_path / "m.npz") == whole
    assert "blocks.0.fc1.mls" in whole.rows()[0] and "head.mls" not in whole.rows()[0]
    with pytest.raises(ValueError, match="with MLS of 'blocks.0.fc1', 'blocks.0.fc2'"):
        flatlib.Measurement.join([flatlib.measure(net, x), whole])
    with pytest.raises(ValueError, match="with MLS of 'head', before .*with MLS of 'blocks.0.fc1'"):
        flatlib.Measurement.join([whole, flatlib.measure(net, x, layers=["head"])])


def test_memory_is_what_the_chosen_layers_take():
    net = nn.Sequential(nn.Linear(2, 400), nn.Tanh(), nn.Linear(400, 3), nn.Tanh(), nn.Linear(3, 2))
    x = gaussian(3, 2)
    every, last, none = (smallest_limit(net, x, layers=layers) for layers in (True, ["4"], False))
    assert none < last < every and every - last == 8 * 2 * 400
    assert flatlib.measure(net, x, layers=["4"], max_memory=last).n == 3


def test_the_projections_of_attention_are_inside_its_module():
    net, x = drawn(Crosses), gaussian(3, 5, 4)
    some = flatlib.measure(net, x, layers=["attention"])
    kept = [layer.name for layer in some.layers if layer.mls is not None]
    assert kept == [f"attention.{name}_proj" for name in ("q", "k", "v", "out")]


class SamplesSecond(nn.Module):
    """A dense first layer that reads ``(1, n, d)``."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x.transpose(0, 1)).tanh()[0])


def flat_after_the_first() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Flatten(), nn.Linear(4, 3))


@pytest.mark.parametrize("layers", [False, "last"])
@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize(
    "make, shape",
    [
        (flat_after_the_first, (6,)),
        (flat_after_the_first, (1, 6)),
        (flat_after_the_first, (1, 1, 6)),
        (SamplesSecond, (1, 6)),
    ],
)
def test_a_dense_first_layer_that_is_not_chosen_is_still_known_to_read_the_input(
    make, shape, n, layers
):
    net, x = drawn(make), gaussian(n, *shape)
    whole = flatlib.measure(net, x)
    last = [whole.layers[-1].name]
    some = flatlib.measure(net, x, layers=layers and last)
    assert some.input_layer_is_dense == whole.input_layer_is_dense is True
    assert torch.equal(some.singular_values, whole.singular_values)
    assert flatlib.bounds.chain(some) == flatlib.bounds.chain(whole)


REFUSALS = {
    "heed": "'heed' does not exist; near is 'head'; the layers are 'stem', 'blocks.0.fc1'.*'head'$",
    "blocks.0.fc3": "'blocks.0.fc3' does not exist; near is 'blocks.0.fc[12]', 'blocks.0.fc[12]'",
    "zzz": "'zzz' does not exist; the layers are 'stem'",
    "blocks.0.act": "'blocks.0.act' is a Tanh without a linear or convolutional layer",
    "unused": "'unused' is not called, or its rows are not the samples; the layers are",
    "block": "'block' does not exist; near is 'blocks'",
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_name_of_no_layer_is_refused_with_those_there_are(name):
    with pytest.raises(ValueError, match=f"layers: {REFUSALS[name]}"):
        flatlib.measure(network(), gaussian(4, 3), layers=["head", name])


@pytest.mark.parametrize("name", ["0", "2", "2.0"])
def test_a_module_that_stands_twice_has_both_names(name):
    shared = nn.Sequential(nn.Linear(3, 3))
    m = flatlib.measure(nn.Sequential(shared, nn.Tanh(), shared), gaussian(4, 3), layers=[name])
    assert [layer.name for layer in m.layers if layer.mls is not None] == ["0.0"]


def test_a_container_has_the_layers_that_stand_in_it_a_second_time():
    first = nn.Linear(3, 3)
    again = nn.Sequential(first, nn.Tanh(), nn.Linear(3, 3))
    m = flatlib.measure(nn.Sequential(first, nn.Sequential(again)), gaussian(4, 3), layers=["1"])
    assert [layer.name for layer in m.layers if layer.mls is not None] == ["0", "1.0.2"]


def test_many_names_are_cut_short():
    net = nn.Sequential(*[nn.Linear(2, 2) for _ in range(30)])
    with pytest.raises(ValueError, match="'19' and 10 more$"):
        flatlib.measure(net, gaussian(2, 2), layers=["x"])


@pytest.mark.parametrize("layers", ["head", [], [1], None, 3])
def test_what_is_no_list_of_names_is_refused(layers):
    with pytest.raises(TypeError, match="layers must be True, False or a list of names"):
        flatlib.measure(network(), gaussian(4, 3), layers=layers)
