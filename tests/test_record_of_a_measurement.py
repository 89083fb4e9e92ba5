"""What `measure` returns as a value: equal, joined, written, read, shown, and with dead samples."""

from __future__ import annotations

import copy
import json
import math
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from compare import assert_close, assert_matches_oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from inputs import gaussian
from torch import nn
from torch.nn.utils import parametrizations

import flatlib
from flatlib import Measurement
from flatlib.saving import load_arrays, save_arrays


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            *(nn.Conv1d(2, 3, 3, padding=1), nn.BatchNorm1d(3), nn.Tanh()),
            *(nn.ConvTranspose1d(3, 2, 2), nn.Flatten(), nn.Linear(14, 4)),
        ).eval()


def measured(**options) -> Measurement:
    return flatlib.measure(network(), gaussian(5, 2, 6), **options)


# --- equality ----------------------------------------------------------------------------------


def test_measurements_of_the_same_are_equal():
    assert measured() == measured() and measured().layers[0] == measured().layers[0]
    assert measured() != "a measurement" and measured().layers[0] != measured()


@pytest.mark.parametrize(
    "change",
    [
        lambda m: {"mls": m.mls * (1 + 1e-15)},
        lambda m: {"mls": m.mls[:4]},
        lambda m: {"mls": m.mls.float()},
        lambda m: {"n_outputs": 5},
        lambda m: {"input_layer_is_dense": True},
        lambda m: {"other_layers": {"1": "for a reason"}},
        lambda m: {"layers": m.layers[:2]},
        lambda m: {"layers": (replace(m.layers[0], weight=m.layers[0].weight + 1), *m.layers[1:])},
        lambda m: {"layers": (replace(m.layers[0], mls=None), *m.layers[1:])},
        lambda m: {"layers": (replace(m.layers[0], geometries=()), *m.layers[1:])},
    ],
)
def test_measurements_that_differ_in_one_value_are_not(change):
    m = measured()
    assert replace(m) == m
    assert replace(m, **change(m)) != m


def test_undefined_values_are_equal_to_each_other():
    net = flatlib.nets.mlp((4, 5, 3))
    nn.init.zeros_(net.linear1.weight)
    first, second = (flatlib.measure(net, gaussian(2, 4)) for _ in range(2))
    assert first.local_dimensionality.isnan().all() and first == second


# --- written and read --------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"layers": False}])
def test_a_measurement_is_read_as_it_was_written(options, tmp_path):
    m = measured(**options)
    m.save(tmp_path / "m.npz")
    again = Measurement.load(str(tmp_path / "m.npz"))
    assert again == m and again.summary() == m.summary()
    assert [layer.operator_norm for layer in again.layers] == [
        layer.operator_norm for layer in m.layers
    ]
    assert flatlib.bounds.evaluate(again) == flatlib.bounds.evaluate(m)


def test_a_file_holds_no_pickle(tmp_path):
    measured().save(tmp_path / "m.npz")
    with zipfile.ZipFile(tmp_path / "m.npz") as archive:
        for name in archive.namelist():
            np.lib.format.read_magic(archive.open(name))
    with np.load(tmp_path / "m.npz", allow_pickle=False) as file:
        outline = json.loads(str(file["outline"]))
        assert file[outline["mls"]["array"]].tolist() == measured().mls.tolist()


def test_a_dictionary_of_plain_values_goes_through_torch_save(tmp_path):
    m = measured()
    torch.save(m.to_dict(), tmp_path / "m.pt")  # and is read back as weights alone
    assert Measurement.from_dict(torch.load(tmp_path / "m.pt")) == m


@pytest.mark.parametrize("fault", ["cut", "text", "other arrays"])
def test_a_file_that_holds_no_measurement_is_named(fault, tmp_path):
    path = tmp_path / "m.npz"
    measured().save(path)
    if fault == "cut":
        path.write_bytes(path.read_bytes()[:500])
    elif fault == "text":
        path.write_text("sharpness 3")
    else:
        np.savez(path, a=np.ones(3))
    with pytest.raises(ValueError, match="m.npz is damaged or holds no measurement"):
        Measurement.load(path)
    with pytest.raises(FileNotFoundError, match="none.npz"):
        Measurement.load(tmp_path / "none.npz")


class Scaled(nn.Module):
    """Its one parameter outside of its layer is called as a file calls its arrays."""

    def __init__(self):
        super().__init__()
        self.layer, self.array = nn.Linear(3, 2), nn.Parameter(torch.ones(2))

    def forward(self, x):
        return torch.tanh(self.layer(x)) * self.array


def test_a_parameter_called_array_is_no_array(tmp_path):
    m = flatlib.measure(Scaled(), gaussian(4, 3))
    assert m.other_parameters.keys() == {"array"}
    m.save(tmp_path / "m.npz")
    assert Measurement.load(tmp_path / "m.npz") == m


def test_a_file_of_before_with_a_parameter_called_array_is_read(tmp_path):
    m = flatlib.measure(Scaled(), gaussian(4, 3))
    m.save(tmp_path / "m.npz")
    with np.load(tmp_path / "m.npz") as file:
        arrays = dict(file)
    outline = json.loads(str(arrays.pop("outline")))
    outline["other_parameters"] = m.other_parameters
    np.savez(tmp_path / "before.npz", outline=json.dumps(outline), **arrays)
    assert Measurement.load(tmp_path / "before.npz") == m


WORDS = st.sampled_from(["array", "array0", "outline", "formula"])
PLAIN = st.recursive(
    st.none() | st.integers() | WORDS,
    lambda inside: st.lists(inside, max_size=2) | st.dictionaries(WORDS, inside, max_size=2),
)


@settings(max_examples=200)
@given(value=PLAIN)
def test_any_dictionary_is_read_as_it_was_written(value, tmp_path_factory):
    path = tmp_path_factory.mktemp("any") / "file.npz"
    save_arrays(path, {"value": value, "tensor": torch.ones(2)})
    again = load_arrays(path)
    assert again["value"] == value and torch.equal(again["tensor"], torch.ones(2))


def test_a_file_with_the_fields_of_another_version_is_named(tmp_path):
    path = tmp_path / "m.npz"
    plain = measured().to_dict()
    for layer in plain["layers"]:
        layer["sensitivity"] = layer.pop("mls")
    save_arrays(path, plain)
    with pytest.raises(ValueError, match="m.npz holds other fields.*sensitivity.*measure again"):
        Measurement.load(path)


# --- shown -------------------------------------------------------------------------------------


def test_a_measurement_is_shown_in_a_few_lines():
    shown = repr(measured())
    assert len(shown.splitlines()) < 12 and "tensor" not in shown
    assert shown.startswith("Measurement of 5 samples, 12 to 4 numbers, 3 layers\n")
    assert f"sharpness            {measured().sharpness:.6g}" in shown
    assert repr(measured().layers[0]).startswith("LayerMeasurement('0', Conv1d, weight (3, 2, 3),")
    assert "nmls" not in repr(measured(layers=False))


def test_a_table_has_a_row_a_sample():
    m, y = measured(), torch.tensor([3, 1, 2, 0, 1])
    rows = m.rows(y)
    assert [row["sample"] for row in rows] == list(range(5))
    assert [row["y"] for row in rows] == y.tolist()
    for name in ("mls", "log_volume", "parameter_gradient_energy", "input_norm"):
        assert [row[name] for row in rows] == getattr(m, name).tolist()
    assert [row["3.mls"] for row in rows] == m.layers[1].mls.tolist()
    assert [row["sigma_2"] for row in rows] == m.singular_values[:, 1].tolist()
    assert all(isinstance(value, (int, float)) for row in rows for value in row.values())
    assert "y" not in m.rows()[0] and "3.mls" not in measured(layers=False).rows()[0]
    with pytest.raises(ValueError, match="y has 4 entries for 5 samples"):
        m.rows(y[:4])


# --- joined ------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [True, False])
@pytest.mark.parametrize("changed", ["0", "3", "5"])
def test_measurements_of_two_networks_are_not_joined(changed, layers):
    net, x = network(), gaussian(5, 2, 6)
    before = flatlib.measure(net, x, layers=layers)
    again = flatlib.measure(copy.deepcopy(net), x, layers=layers)
    assert torch.equal(Measurement.join([before, again]).mls, torch.cat([before.mls, before.mls]))
    net.get_submodule(changed).weight.data[0] *= 1 + 1e-6
    after = flatlib.measure(net, x, layers=layers)
    message = f"layer '{changed}' has other weights for samples 10 to 14 than for those before"
    with pytest.raises(ValueError, match=message):
        Measurement.join([before, again, after])


def test_what_is_no_measurement_is_not_joined_and_an_iterator_is():
    net, x = flatlib.nets.linear(3, 2), gaussian(4, 3)
    parts = [flatlib.measure(net, part) for part in x.split(2)]
    joined = flatlib.Measurement.join(iter(parts))
    assert joined == flatlib.Measurement.join(parts) and joined.n == 4
    other = flatlib.measure(net, x, method="matrix-free")
    with pytest.raises(TypeError, match="measurements of measure, got MatrixFreeMeasurement"):
        flatlib.Measurement.join([*parts, other])


def test_measurements_of_a_weight_that_is_computed_anew_are_joined():
    net, x = parametrizations.weight_norm(nn.Linear(4, 3)), gaussian(6, 4)
    parts = [flatlib.measure(net, rows) for rows in x.split(2)]
    assert_close(Measurement.join(parts).mls, flatlib.measure(net, x).mls, "MLS")


# --- samples without a direction ---------------------------------------------------------------


def test_a_dead_sample_does_not_poison_the_means():
    """The second sample switches every rectifier off: its Jacobian is 0."""
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    nn.init.constant_(net[0].weight, 0.5)
    with torch.no_grad():
        net[0].weight += 0.1 * gaussian(4, 3)
    nn.init.zeros_(net[0].bias)
    x = torch.tensor([[1.0, 2.0, 0.5], [-9.0, -9.0, -9.0], [0.3, 0.1, 2.0]])
    m = assert_matches_oracle(net, x)
    assert m.n_undefined == 1 and m.mls[1] == 0
    alive = flatlib.measure(net, x[[0, 2]])
    assert alive.n_undefined == 0
    for name in ("log_volume", "log_volume_top3", "local_dimensionality"):
        assert m.summary()[name] == pytest.approx(alive.summary()[name], rel=1e-12)
    assert m.summary()["mls"] == pytest.approx(alive.summary()["mls"] * 2 / 3, rel=1e-12)
    assert "1 samples have a zero Jacobian" in repr(m)


def test_where_every_sample_is_dead_nothing_is_defined():
    net = flatlib.nets.mlp((4, 5, 3))
    nn.init.zeros_(net.linear1.weight)
    m = flatlib.measure(net, gaussian(2, 4))
    assert m.n_undefined == 2
    assert m.summary()["log_volume"] == -math.inf
    assert math.isnan(m.summary()["local_dimensionality"])


def test_a_sample_that_lost_a_direction_alone_is_defined():
    m = flatlib.measure(flatlib.nets.mlp((6, 2, 4), seed=3), gaussian(5, 6))
    assert m.n_undefined == 0 and m.summary()["log_volume"] == -math.inf
