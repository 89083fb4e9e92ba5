"""Data in batches, memory that is counted beforehand, and a bar."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import tqdm.auto
from compare import assert_matches_oracle, smallest_limit
from inputs import gaussian
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

import flatlib
from flatlib import streaming
from flatlib.derivatives import memory


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 4)
        ).eval()


class Endless(IterableDataset):
    """A data set that does not know how long it is."""

    def __init__(self, x: Tensor):
        self.x = x

    def __iter__(self):
        return iter(self.x)


def assert_equal(a: flatlib.Measurement, b: flatlib.Measurement) -> None:
    pairs = [(a, b), *zip(a.layers, b.layers, strict=True)]
    for one, other in pairs:
        for name, value in vars(one).items():
            if isinstance(value, Tensor):
                torch.testing.assert_close(value, vars(other)[name], rtol=1e-12, atol=0)


# --- batches -----------------------------------------------------------------------------------

SOURCES = {
    "a list": lambda x: list(x.split(4)),
    "a tuple": lambda x: x.split(3),
    "a generator": lambda x: (rows for rows in x.split(4)),
    "pairs": lambda x: [(rows, torch.zeros(len(rows))) for rows in x.split(5)],
    "a DataLoader": lambda x: DataLoader(TensorDataset(x, torch.arange(len(x))), batch_size=4),
    "a DataLoader without a length": lambda x: DataLoader(Endless(x), batch_size=4),
    "a DataLoader of inputs": lambda x: DataLoader(x, batch_size=1),
}


@pytest.mark.parametrize("source", SOURCES)
def test_batches_are_measured_as_one(source):
    net, x = network(), gaussian(11, 2, 6)
    assert_equal(flatlib.measure(net, SOURCES[source](x)), flatlib.measure(net, x))


@pytest.mark.parametrize("empty", [[], (), iter([])])
def test_data_that_yields_nothing(empty):
    with pytest.raises(ValueError, match="data yields no batch.*not been used up"):
        flatlib.measure(network(), empty)


@pytest.mark.parametrize(
    "batch, message",
    [
        ({"x": torch.ones(1, 2, 6)}, "batch 0 of data is of type dict; a batch must be"),
        ([1.0, 2.0], "batch 0 of data is of type list whose first entry is of type float"),
        ((), "batch 0 of data is of type tuple; a batch"),
        ("x", "batch 0 of data is of type str"),
    ],
)
def test_batches_of_the_wrong_kind(batch, message):
    with pytest.raises(TypeError, match=message):
        flatlib.measure(network(), [batch])


class Named(Dataset):
    """Samples under names, of which the default collation makes batches under names."""

    def __init__(self, x: Tensor):
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict:
        return {"label": index, "image": self.x[index]}


def remedied(data: object) -> object:
    """What the refusal of ``data`` says to pass, as it stands there."""
    with pytest.raises(TypeError) as refusal:
        flatlib.measure(network(), data)
    code = re.search(r"\(torch.*\)|torch\.(utils|as_tensor).*\)", str(refusal.value))
    return eval(code[0], {"torch": torch, "numpy": np, "data": data})


@pytest.mark.parametrize(
    "data",
    [
        lambda x: TensorDataset(x, torch.arange(5)),
        lambda x: Subset(TensorDataset(x, torch.arange(5)), range(5)),
        lambda x: DataLoader(Named(x), batch_size=2),
        lambda x: [({"pixels": rows.numpy()}, 1) for rows in x.split(2)],
        lambda x: x.numpy(),
    ],
)
def test_the_remedy_for_data_of_the_wrong_kind_works(data):
    x = gaussian(5, 2, 6)
    assert_equal(flatlib.measure(network(), remedied(data(x))), flatlib.measure(network(), x))


def test_the_remedy_for_a_data_set_of_dictionaries_leads_to_one_that_works():
    x = gaussian(5, 2, 6)
    loader = remedied(Named(x))
    assert_equal(flatlib.measure(network(), remedied(loader)), flatlib.measure(network(), x))


def test_a_pair_within_a_list_is_one_batch():
    x = gaussian(5, 2, 6)
    assert flatlib.measure(network(), [(x, torch.ones(5))]) == flatlib.measure(network(), x)


def test_a_dictionary_is_not_taken_for_batches():
    with pytest.raises(
        TypeError, match="data is a dict of 'image', 'label'; pass the tensor in it"
    ):
        flatlib.measure(network(), {"image": gaussian(2, 2, 6), "label": torch.ones(2)})


def test_a_pair_of_inputs_and_targets_is_not_taken_for_batches():
    message = r"^batch 1 of data has samples of shape \(\), those .*pass the inputs alone"
    with pytest.raises(flatlib.IncompleteError, match=message):
        flatlib.measure(network(), (gaussian(2, 2, 6), torch.ones(2)))


def fails_after(batches: list, error: BaseException):
    yield from batches
    raise error


@pytest.mark.parametrize(
    "source, message",
    [
        (
            lambda x: [*x.split(4)[:2], gaussian(2, 2, 7)],
            r"samples of shape \(2, 7\), those before",
        ),
        (lambda x: fails_after(x.split(4)[:2], OSError("the disk is gone")), "the disk is gone"),
        (lambda x: [*x.split(4)[:2], "more"], "batch 2 of data is of type str"),
        (lambda x: [*x.split(4)[:2], x[:0]], "the batch is empty"),
        (lambda x: [*x.split(4)[:2], x[:3] * math.nan], "sample 8 of x holds NaN"),
    ],
)
def test_what_was_measured_before_a_fault_is_not_lost(source, message):
    net, x = network(), gaussian(12, 2, 6)
    with pytest.raises(flatlib.IncompleteError, match="batch 2 of data.*8 samples before") as fault:
        flatlib.measure(net, source(x))
    fault.match(message)
    assert_equal(fault.value.measured, flatlib.measure(net, x[:8]))
    assert isinstance(fault.value, ValueError) and fault.value.__cause__ is not None


def test_a_fault_in_the_first_batch_is_told_as_it_is():
    with pytest.raises(OSError, match="the disk"):
        flatlib.measure(network(), fails_after([], OSError("the disk is gone")))


def test_an_interruption_passes_through_and_leaves_nothing():
    net, x = network(), gaussian(4, 2, 6)
    with pytest.raises(KeyboardInterrupt):
        flatlib.measure(net, fails_after([x], KeyboardInterrupt()), progress=True)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert not torch.overrides._get_current_function_mode_stack()
    flatlib.measure(net, x)


def test_batches_that_take_another_way_are_told_with_what_was_measured():
    class TwoWays(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 2), nn.Linear(2, 2)

        def forward(self, x):
            h = self.first(x)
            return self.second(h) if float(x[0, 0]) > 50 else h

    x = gaussian(6, 3)
    far = x.clone()
    far[:, 0] = 99.0
    with pytest.raises(flatlib.IncompleteError, match="another way for samples 6 to 11") as fault:
        flatlib.measure(TwoWays(), [x, far])
    assert fault.value.measured.n == 6


# --- layers=False ------------------------------------------------------------------------------


@pytest.mark.parametrize("dense", [True, False])
def test_without_layers_everything_else_is_the_same(dense):
    net = flatlib.nets.mlp((12, 5, 4, 3)) if dense else network()
    x = gaussian(5, 12) if dense else gaussian(5, 2, 6)
    whole, bare = assert_matches_oracle(net, x), flatlib.measure(net, x, layers=False)
    for name, value in vars(whole).items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(value, vars(bare)[name], rtol=1e-12, atol=0)
    assert bare.input_layer_is_dense == whole.input_layer_is_dense == dense
    for mine, its in zip(bare.layers, whole.layers, strict=True):
        assert mine.mls is None and mine.log_volume is None
        assert torch.equal(mine.weight_gradient_energy, its.weight_gradient_energy)
        assert mine.input_dimension == its.input_dimension
    summary = whole.summary()
    del summary["nmls"], summary["nvr"]
    assert bare.summary() == pytest.approx(summary, rel=1e-12)
    labels = {bound.label for bound in flatlib.bounds.evaluate(bare)}
    for bound in flatlib.bounds.evaluate(whole):
        if bound.label in labels:
            twin = [b for b in flatlib.bounds.evaluate(bare) if b.name == bound.name]
            assert twin[0].lhs == pytest.approx(bound.lhs, rel=1e-11)
            assert twin[0].proven == bound.proven
    assert {"5", "13", "28"} <= labels and not labels & {"N.9", "N.10", "N.11", "N.12"}
    with pytest.raises(ValueError, match="measure again with layers=True"):
        flatlib.bounds.normalized_nmls(bare)


def test_measurements_with_and_without_layers_are_not_joined():
    net, x = network(), gaussian(3, 2, 6)
    parts = [flatlib.measure(net, x), flatlib.measure(net, x, layers=False)]
    with pytest.raises(ValueError, match="another way.*without the layers' MLS"):
        flatlib.Measurement.join(parts)
    with pytest.raises(ValueError, match="no measurement to join"):
        flatlib.Measurement.join([])


LIMITED = """
import resource, torch, flatlib
from torch import nn
net = nn.Sequential(nn.Conv2d(1, 128, 1), nn.ReLU(), nn.Conv2d(128, 2, 1), nn.AvgPool2d(8),
                    nn.Flatten(), nn.Linear(50, 50)).eval()
x = torch.rand(1, 1, 40, 40)
small = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2))
flatlib.measure(small, torch.rand(1, 1, 4, 4))  # libraries load
try:
    flatlib.measure(net, x, max_memory=2e8)
except MemoryError as error:
    print(error)
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + int(2e8), taken + int(2e8)))
print(flatlib.measure(net, x, layers=False).n_outputs)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory by Linux's means")
def test_without_layers_less_memory_is_enough():
    """Jacobians at the second convolution's input alone take 82 MB, three times."""
    command = [sys.executable, "-c", LIMITED]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    told, outputs = ended.stdout.splitlines() or ["", ended.stderr[-500:]]
    assert "max_memory is 200,000,000;" in told and "layers=False (which needs" in told
    assert outputs == "50"


# --- memory ------------------------------------------------------------------------------------


def test_one_sample_too_large_is_told_before_anything_is_differentiated(monkeypatch):
    net, x = network(), gaussian(3, 2, 6)
    limit = smallest_limit(net, x)
    taken = []
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: taken.append(a))
    with pytest.raises(MemoryError) as refusal:
        flatlib.measure(net, x, max_memory=limit - 1)
    assert not taken
    message = str(refusal.value)
    assert f"need about {limit:,} bytes and max_memory is {limit - 1:,}" in message
    assert "pass a larger max_memory, layers=False (which needs" in message
    monkeypatch.undo()
    assert flatlib.measure(net, x, max_memory=limit).n == 3
    less = smallest_limit(net, x, layers=False)
    assert less < limit and flatlib.measure(net, x, layers=False, max_memory=less).n == 3


def test_the_default_limit_is_what_the_device_has_free(monkeypatch):
    net, x = network(), gaussian(3, 2, 6)
    limit = smallest_limit(net, x)
    monkeypatch.setattr(memory, "free_memory", lambda device: limit - 1)
    with pytest.raises(MemoryError, match=f"cpu has {limit - 1:,} bytes free; layers=False"):
        flatlib.measure(net, x)
    monkeypatch.setattr(memory, "free_memory", lambda device: limit)
    assert flatlib.measure(net, x).n == 3


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads what Linux tells")
def test_free_memory_is_below_what_there_is():
    free = memory.free_memory(torch.device("cpu"))
    words = Path("/proc/meminfo").read_text().split()
    assert 2**20 < free <= 1024 * int(words[words.index("MemTotal:") + 1])


def test_a_limit_of_the_container_counts(monkeypatch, tmp_path):
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert memory.free_memory(torch.device("cpu")) == 2_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_memory(torch.device("cpu")) > 2_000_000


# --- the bar -----------------------------------------------------------------------------------


@pytest.fixture
def eager_bar(monkeypatch):
    """A bar that shows at once, and every step."""
    monkeypatch.setattr(streaming, "DELAY", 0.0)
    monkeypatch.setattr(tqdm.auto, "tqdm", partial(tqdm.auto.tqdm, mininterval=0, miniters=1))


@pytest.mark.parametrize("progress, shown", [(True, True), (False, False), (None, False)])
@pytest.mark.parametrize("batched", [True, False])
def test_a_bar_shows_when_asked(progress, shown, batched, eager_bar, capsys):
    x = gaussian(6, 2, 6)
    flatlib.measure(network(), x.split(2) if batched else x, progress=progress)
    captured = capsys.readouterr()
    assert ("24.0/24.0" in captured.err) == shown  # 6 samples, 4 outputs
    assert captured.out == ""


@pytest.mark.parametrize(
    "work, shown",
    [
        (flatlib.hessian_trace, "8.00/8.00"),
        (flatlib.sharpness.sharpness_gap, "8.00/8.00"),
        (partial(flatlib.hessian_trace, method="hutchinson", max_probes=9), "9.00 products"),
    ],
)
def test_products_with_the_hessian_are_counted_on_a_bar(work, shown, eager_bar, capsys):
    net, x, y = flatlib.nets.linear(4, 2), gaussian(3, 4), gaussian(3, 2, seed=1)
    work(net, x, y, progress=True)
    assert shown in capsys.readouterr().err
    work(net, x, y)
    assert capsys.readouterr().err == ""


def test_a_notebooks_widget_is_as_long_as_what_is_counted(monkeypatch):
    pytest.importorskip("ipywidgets")
    from tqdm.notebook import tqdm as in_notebook

    made = []

    def make(**options):
        made.append(in_notebook(**options))
        return made[-1]

    monkeypatch.setattr(tqdm.auto, "tqdm", make)
    flatlib.measure(network(), gaussian(6, 2, 6), progress=True)
    _, widget, numbers = made[0].container.children
    assert (widget.max, widget.value, widget.layout.width) == (24, 24, None)
    assert "/24.0" in numbers.value


def test_a_total_that_is_known_late_keeps_what_was_counted(eager_bar, capsys):
    with streaming.progress_bar(True) as bar:
        bar.expect(0)
        bar.done(3)
        bar.expect(10)
        bar.done(2)
        bar.expect(99)
    shown = capsys.readouterr().err
    assert "3.00 gradients" in shown and "5.00/10.0" in shown and "/99" not in shown


def test_a_quick_measurement_shows_no_bar(capsys):
    flatlib.measure(network(), gaussian(6, 2, 6), progress=True)
    assert capsys.readouterr().err.strip() == ""


def test_a_terminal_shows_a_bar_by_default(eager_bar, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    flatlib.measure(network(), gaussian(6, 2, 6))
    assert "/24.0" in capsys.readouterr().err


def test_without_tqdm_there_is_no_bar_and_who_asks_for_one_is_told_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    net, x = flatlib.nets.mlp([3, 4, 2], seed=0), torch.eye(3)
    assert flatlib.measure(net, x) == flatlib.measure(net, x, progress=False)
    with pytest.raises(ImportError, match="pip install tqdm"):
        flatlib.measure(net, x, progress=True)
