"""The page on one's own training loop: its code runs as it stands and measures what it says."""

from __future__ import annotations

import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from inputs import gaussian
from oracle import double_copy
from torch import nn

import flatlib
from flatlib import checkpoint, nets

PAGE = Path(__file__).resolve().parents[1] / "book" / "training-loop.md"
CODE = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def names() -> dict:
    found: dict = {}
    for block in CODE:
        exec(block, found)
    return found


def test_the_loop_trains_as_without_measuring_and_measures_what_measure_measures(names):
    rows, net, x, y = (names[name] for name in ("rows", "net", "x", "y"))
    assert [row["step"] for row in rows] == [0, 50, 100, 150, 200]
    torch.manual_seed(0)
    other = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
    torch.randn(64, 2)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    for step in range(201):
        if step == 200:
            m = flatlib.measure(other, x[:20])
            assert rows[-1]["sharpness"] == m.sharpness
            assert rows[-1]["D"] == flatlib.bounds.chain(m).D
        optimizer.zero_grad()
        nn.functional.mse_loss(other(x), y).backward()
        optimizer.step()
    for one, another in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, another)


def test_the_callback_collects_rows_and_leaves_the_mode_as_it_was(names, capsys):
    net, x, y = (names[name] for name in ("net", "x", "y"))
    callback = names["MeasureFlatness"](x[:5], y[:5], every_n_epochs=2)
    for epoch in range(5):
        net.train()
        callback.on_train_epoch_end(SimpleNamespace(current_epoch=epoch), net)
        assert net.training
    callback.on_train_end(SimpleNamespace(current_epoch=4), net)
    assert [row["epoch"] for row in callback.rows] == [0, 2, 4]
    assert capsys.readouterr().out.startswith("3 rows of ")


def test_the_columns_that_the_page_names_are_there(names):
    row = names["rows"][0]
    table = PAGE.read_text(encoding="utf-8").partition("## What a row holds")[2]
    named = [name for name in re.findall(r"`(\w+)`", table) if name != "measurement_row"]
    assert set(named) - {"Measurement"} <= set(row)
    assert any(name.endswith(".weight_norm") for name in row)


def test_samples_of_any_precision_are_measured_without_a_call_of_the_network():
    net, x, y = nets.mlp((3, 5, 2)), gaussian(4, 3), gaussian(4, 2, seed=1)
    expected = float((double_copy(net)(x.double()) - y.double()).detach().norm(dim=1).max())
    calls = []
    net.register_forward_hook(lambda *args: calls.append(args[0]))
    row = flatlib.measurement_row(net, x.double(), y)
    assert row["max_residual"] == pytest.approx(expected, rel=1e-12)
    assert row == flatlib.measurement_row(net, x, y)
    assert not any(module is net for module in calls)


def test_one_hot_labels_are_targets():
    net, x, labels = nets.mlp((3, 5, 2)), gaussian(4, 3), torch.tensor([0, 1, 1, 0])
    y = nn.functional.one_hot(labels)
    assert flatlib.measurement_row(net, x, y) == flatlib.measurement_row(net, x, y.float())
    single = nets.mlp((3, 5, 1))
    row = flatlib.measurement_row(single, x, labels)
    assert row == flatlib.measurement_row(single, x, labels[:, None])


@pytest.mark.parametrize(
    "change, error, message",
    [
        (lambda y: y[:, 0], ValueError, r"y has shape \(2,\) but.*\(2, 2\); one-hot encode"),
        (lambda y: y[:1], ValueError, r"y has shape \(1, 2\) but"),
        (lambda y: y.tolist(), TypeError, "y must be a torch.Tensor, got list; use torch.as_tens"),
        (lambda y: y * math.inf, ValueError, "sample 0 of y holds NaN or infinite"),
    ],
)
def test_targets_are_refused_before_anything_is_measured(change, error, message, monkeypatch):
    net, x, y = flatlib.toys.running_example()
    monkeypatch.setattr(checkpoint, "measure", lambda *args: pytest.fail("measured"))
    with pytest.raises(error, match=message):
        flatlib.measurement_row(net, x, change(y))


def test_samples_that_come_in_batches_are_refused():
    net, x, y = flatlib.toys.running_example()
    with pytest.raises(TypeError, match="x must be a torch.Tensor, got list"):
        flatlib.measurement_row(net, [x], y)
