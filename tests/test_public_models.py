"""The table of public models: made as it says, and able to disagree."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from inputs import gaussian

import flatlib

pytest.importorskip("resource", reason="limits processes by Unix's means")
import public_models  # noqa: E402

# The page says that this one disagrees in the seventh digit, and why.
DISAGREE = {"timm/xcit_nano_12_p16_224"}
SMALL = ("mobilenet_v3_small", "mnasnet0_5", "shufflenet_v2_x0_5", "squeezenet1_1")


@pytest.mark.parametrize("name", SMALL)
def test_a_public_model_is_as_the_table_says(name):
    found, told = public_models.row(name), public_models.read(public_models.TABLE)[name]
    assert found["result"] == "agrees" and float(found["largest relative error"]) <= 1e-8
    timed = {"seconds", "largest relative error"}
    same = set(public_models.COLUMNS) - timed
    assert {column: str(found[column]) for column in same} == {c: told[c] for c in same}


def test_the_table_holds_every_model_and_all_agree_but_one():
    rows = public_models.read(public_models.TABLE)
    of_timm = {f"timm/{name}" for name in public_models.TIMM}
    assert len(public_models.names()) == 80 and len(of_timm) == 40
    assert set(rows) == {*public_models.names(), *of_timm}
    for name, row in rows.items():
        if name in DISAGREE:
            assert row["result"] == "disagrees" and float(row["largest relative error"]) < 1e-6
        else:
            assert row["result"] == "agrees"
            assert float(row["largest relative error"]) <= public_models.AGREES
            assert int(row["layers"]) > 0
    page = (public_models.TABLE.parent / "public-models.md").read_text(encoding="utf-8")
    largest = max(int(row["parameters"]) for row in rows.values())
    assert "All 80 models" in page and "39 of the 40 models" in page
    assert f"{largest // 10**6} million parameters" in page


@pytest.mark.parametrize("field", ["mls", "gradient_energy", "parameter_gradient_energy", "layers"])
def test_the_comparison_of_public_models_sees_a_fault(field):
    torch.manual_seed(0)
    net, x = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3)), gaussian(2, 3, 2, 2)
    m, plain = flatlib.measure(net, x), public_models.plainly(net, x)
    assert public_models.largest_error(m, *plain) < 1e-14
    fault = torch.tensor([1.0, 1.0 + 1e-6], dtype=torch.float64)
    if field == "layers":
        layer = m.layers[0]
        changed = (replace(layer, weight_gradient_energy=layer.weight_gradient_energy * fault),)
    else:
        changed = getattr(m, field) * fault
    wrong = replace(m, **{field: changed})
    assert public_models.largest_error(wrong, *plain) == pytest.approx(1e-6, rel=1e-3)


def test_no_forward_pass_has_touched_the_model_that_is_measured(monkeypatch):
    class Counts(torch.nn.Flatten):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return super().forward(x)

    monkeypatch.setattr(public_models, "build", lambda name, size: Counts())
    net, x = public_models.smallest("some model")
    assert net.calls == 0 and x.shape == (2, 3, 32, 32)


class PositionsInFront(torch.nn.Module):
    """Batch normalization whose gradients come with the positions in front, as in LeViT."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(4)
        self.last = torch.nn.Linear(20, 3)
        self.register_buffer("mixture", torch.randn(5, 9))

    def forward(self, x):
        rows = self.norm(x).permute(2, 3, 0, 1).reshape(9, -1).contiguous()
        return self.last((self.mixture @ rows).unflatten(1, (len(x), 4)).transpose(0, 1).flatten(1))


def test_the_comparison_is_right_where_gradients_of_batch_normalization_are_not():
    torch.manual_seed(0)
    net, x = PositionsInFront().eval(), gaussian(2, 4, 3, 3)
    net.norm.running_var.copy_(torch.tensor([0.5, 1.0, 2.0, 3.0]))
    net.norm.weight.data.copy_(torch.tensor([1.0, -2.0, 3.0, 0.5]))
    jacobian, energies = public_models.plainly(net, x)
    twin, step = copy.deepcopy(net).double(), gaussian(2, 4, 3, 3, seed=1).double()
    with torch.no_grad():  # the network is linear
        along = twin(x.double() + step) - twin(x.double())
    found = torch.einsum("nkm,nm->nk", jacobian, step.flatten(1))
    torch.testing.assert_close(found, along, rtol=1e-12, atol=1e-13)
    m = flatlib.measure(net, x)
    assert public_models.largest_error(m, jacobian, energies) < 1e-13


def spin(name):
    while True:
        pass


def hoard(name):
    return torch.ones(10**12)


def fail(name):
    raise ValueError("no such thing")


@pytest.mark.parametrize(
    "row, told",
    [
        (spin, "not run: takes more than 0.02 minutes of processor time"),
        (hoard, "not run: needs more than 16 GB"),
        (fail, "refused: no such thing"),
    ],
)
def test_a_model_beyond_the_limits_is_told(row, told, monkeypatch):
    monkeypatch.setattr(public_models, "row", row)
    monkeypatch.setattr(public_models, "MINUTES", 0.02)
    found = public_models.within_limits("some model")
    assert found == {"model": "some model", "result": told}


def test_a_table_is_added_to(tmp_path, monkeypatch):
    table = tmp_path / "table.csv"
    monkeypatch.setattr(
        public_models, "within_limits", lambda name: {"model": name, "result": "agrees"}
    )
    public_models.main(["b", "--output", str(table)])
    public_models.main(["a", "--output", str(table)])
    rows = public_models.read(table)
    assert list(rows) == ["a", "b"] and rows["b"]["result"] == "agrees"
