"""Records are whole or absent, and never change silently."""

from __future__ import annotations

import io
import json
import math
import resource
import subprocess
import sys
import tracemalloc
import zipfile
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from synthetic_archive import manifest_of

from flatlib.lab.experiments import RunConfig
from flatlib.lab.records import LockedError, Record, RecordError, default_results, render

ROWS = [{"step": step, "loss": 1 / (step + 1), "samples": "train"} for step in range(4)]
RUN = RunConfig("mlp-small", "digits", 0.5, 20, seed=3, steps=60, measure_every=20)


def said(steps: int = 3, **changes) -> dict:
    """A manifest of the run, but for the table."""
    return manifest_of(RUN, "smoke", steps) | changes


@pytest.fixture
def record(tmp_path) -> Record:
    return Record(tmp_path, "smoke", RUN.name)


@contextmanager
def largest_file(n_bytes: int):
    """Files beyond this size cannot be written, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


class TestTable:
    def test_rows_do_not_vanish(self, record):
        record.write(ROWS, said(3))
        before = record.table_path.read_bytes()
        with pytest.raises(RecordError, match="would lose its last 2 lines"):
            record.write(ROWS[:2], said(1))
        assert record.table_path.read_bytes() == before

    def test_comes_back_as_written(self, record):
        record.write(ROWS, said(3))
        table = record.read_table()
        assert table.step.tolist() == [0, 1, 2, 3]
        assert table.loss.tolist() == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4], rel=1e-9)
        assert table.samples.tolist() == ["train"] * 4
        assert record.read_manifest()["steps"] == 3

    def test_undefined_and_infinite_numbers_survive(self, record):
        row = {"step": 3, "a": math.nan, "b": -math.inf, "c": math.inf, "d": 1e-300}
        record.write([row], said())
        row = record.read_table().iloc[0]
        assert math.isnan(row.a)
        assert (row.b, row.c, row.d) == (-math.inf, math.inf, 1e-300)

    def test_rows_of_different_columns_are_refused(self):
        with pytest.raises(ValueError, match=r"these differ: \['b'\]"):
            render([{"a": 1}, {"a": 1, "b": 2}])

    def test_grows(self, record):
        record.write(ROWS[:2], said(1))
        record.write(ROWS, said(3))
        assert len(record.read_table()) == 4

    def test_manifest_vouches_for_the_beginning(self, record):
        """A crash between the two files leaves a longer table with the older manifest."""
        record.write(ROWS[:2], said(1))
        older = record.manifest_path.read_bytes()
        record.write(ROWS, said(3))
        record.manifest_path.write_bytes(older)
        assert record.read_table().step.tolist() == [0, 1]
        record.write(ROWS, said(3))
        assert record.read_table().step.tolist() == [0, 1, 2, 3]

    def test_archived_row_never_changes(self, record):
        record.write(ROWS, said(3))
        changed = [*ROWS[:2], {**ROWS[2], "loss": 0.25}, ROWS[3]]
        with pytest.raises(RecordError, match=r"would change in line 4: archived is '2,0\.333"):
            record.write(changed, said(3))
        assert record.read_table().loss[2] == pytest.approx(1 / 3)

    @pytest.mark.parametrize("spoil", [lambda b: b[:-3], lambda b: b.replace(b"0.5", b"0.6")])
    def test_altered_table_is_refused(self, record, spoil):
        record.write(ROWS, said(3))
        record.table_path.write_bytes(spoil(record.table_path.read_bytes()))
        for use in (record.read_table, lambda: record.write(ROWS, said(3))):
            with pytest.raises(RecordError, match="measurements.csv is altered"):
                use()

    def test_missing_files_are_named(self, record):
        with pytest.raises(RecordError, match="there is no record"):
            record.read_table()
        record.write(ROWS, said())
        record.table_path.unlink()
        with pytest.raises(RecordError, match="measurements.csv is missing"):
            record.read_table()

    def test_a_folder_in_place_of_a_file_is_named(self, record):
        record.write(ROWS, said(3))
        table = record.table_path.read_bytes()
        record.table_path.unlink()
        record.table_path.mkdir()
        with pytest.raises(RecordError, match=f"{record.table_path} cannot be read: Is a direct"):
            record.read_table()
        record.table_path.rmdir()
        record.table_path.write_bytes(table)
        for path, use in (
            (record.manifest_path, record.read_manifest),
            (record.state_path, record.read_state),
        ):
            path.unlink(missing_ok=True)
            path.mkdir(parents=True)
            with pytest.raises(RecordError, match=f"{path} cannot be read: Is a directory. Restor"):
                use()

    def test_foreign_manifest_is_refused(self, record):
        record.write(ROWS, said())
        record.manifest_path.write_text("{ half")
        with pytest.raises(RecordError, match="manifest.json is altered"):
            record.read_manifest()
        record.manifest_path.write_text(json.dumps({"format": 99}))
        with pytest.raises(RecordError, match="has format 99"):
            record.read_manifest()


class TestState:
    def test_comes_back_to_the_bit(self, record):
        weights = torch.randn(50)
        record.write_state({"weights": weights, "rows": [{"x": 0.1, "y": math.nan}]})
        state = record.read_state()
        assert torch.equal(state["weights"], weights)
        assert state["rows"][0]["x"] == 0.1
        assert Record(record.results, "smoke", "other").read_state() is None

    def test_altered_state_is_refused(self, record):
        record.write_state({"weights": torch.randn(50)})
        content = bytearray(record.state_path.read_bytes())
        content[len(content) // 2] ^= 1
        record.state_path.write_bytes(content)
        with pytest.raises(RecordError, match="state.pt is altered; delete it"):
            record.read_state()

    def test_weights(self, record):
        net = torch.nn.Linear(4, 3)
        weights = net.state_dict()
        with pytest.raises(RecordError, match="holds no weights"):
            record.read_weights(net)
        described = record.write_weights(3, weights)
        record.write(ROWS, said(weights=described, weights_sha256=described["sha256"]))
        found = record.read_weights(net)
        assert set(found) == set(weights)
        assert all(torch.equal(found[name], weights[name]) for name in weights)
        record.write_weights(3, {**weights, "weight": torch.zeros(3, 4)})
        with pytest.raises(RecordError, match="weights-3.npz is altered"):
            record.read_weights(net)
        (record.folder / "weights-3.npz").write_bytes(b"PK half")
        with pytest.raises(RecordError, match="missing or altered"):
            record.read_weights(net)

    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    def test_weights_take_no_more_memory_than_the_network_has(self, record, save):
        """That a file asks for more is seen before memory is taken."""
        net = torch.nn.Linear(4, 3)
        described = record.write_weights(3, net.state_dict())
        record.write(ROWS, said(weights=described, weights_sha256=described["sha256"]))
        path = record.folder / "weights-3.npz"
        large = np.zeros((2**11, 2**11), np.float32)
        save(path, bias=net.bias.detach().numpy(), weight=large)
        tracemalloc.start()
        says = r"weight is said to be float32 of shape \(2048, 2048\), not .* \(3, 4\)"
        with pytest.raises(RecordError, match=says):
            record.read_weights(net)
        assert tracemalloc.get_traced_memory()[1] < large.nbytes / 10
        tracemalloc.stop()

    def test_weights_whose_header_alone_is_large_are_refused(self, record):
        net = torch.nn.Linear(4, 3)
        described = record.write_weights(3, net.state_dict())
        record.write(ROWS, said(weights=described, weights_sha256=described["sha256"]))
        header = io.BytesIO()
        form = {"descr": "<f4", "fortran_order": False, "shape": (2**40,)}
        np.lib.format.write_array_header_1_0(header, form)
        with zipfile.ZipFile(record.folder / "weights-3.npz", "w") as file:
            file.writestr("weight.npy", header.getvalue() + b"few")
        with pytest.raises(RecordError, match=rf"weight is said .* shape \({2**40},\)"):
            record.read_weights(net)


class TestFullDisk:
    def test_what_was_there_stays_whole(self, record):
        record.write(ROWS[:2], said(1))
        record.write_state({"step": 1})
        before = sorted(p.name for p in record.results.rglob("*"))
        with largest_file(40):
            with pytest.raises(OSError):
                record.write(ROWS, said(3))
            with pytest.raises(OSError):
                record.write_state({"step": 3})
        assert record.read_manifest()["steps"] == 1
        assert record.read_table().step.tolist() == [0, 1]
        assert record.read_state() == {"step": 1}
        assert sorted(p.name for p in record.results.rglob("*")) == before

    def test_room_for_the_table_alone(self, record):
        record.write(ROWS[:1], said(0))
        long = said(note="x" * 1000)
        with largest_file(1500), pytest.raises(OSError):
            record.write(ROWS, long)
        assert record.read_table().step.tolist() == [0]
        record.write(ROWS, long)
        assert record.read_table().step.tolist() == [0, 1, 2, 3]


HOLD = """
import sys, time
from pathlib import Path
from flatlib.lab.records import Record
with Record(Path(sys.argv[1]), "smoke", sys.argv[2]).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def test_lock_keeps_others_out_and_dies_with_its_process(record):
    with record.lock():
        with pytest.raises(LockedError, match=f"another process is at work on smoke/{RUN.name}"):
            with record.lock():
                pass
        assert record.at_work()
        assert not Record(record.results, "smoke", "other-run").at_work()
        with Record(record.results, "smoke", "other-run").lock():
            pass
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(record.results), record.run],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LockedError), record.lock():
            pass
        assert record.at_work()
    finally:
        holder.kill()
        holder.communicate()
    assert not record.at_work()
    with record.lock():
        pass


def test_archive_is_the_checkouts_unless_chosen(monkeypatch, tmp_path):
    monkeypatch.delenv("FLATLIB_RESULTS", raising=False)
    assert default_results().name == "results"
    assert (default_results().parent / "pyproject.toml").exists()
    monkeypatch.setenv("FLATLIB_RESULTS", str(tmp_path))
    assert default_results() == tmp_path
