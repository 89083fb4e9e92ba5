"""Runs: what they are, that they go on to the same bits, and that many arrive whole."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from flatlib import nets, sides
from flatlib.bounds import chain, evaluate
from flatlib.inequalities import COLUMNS
from flatlib.lab import commands, experiments
from flatlib.lab.experiments import (
    EXPERIMENTS,
    SCALES,
    LockedError,
    Record,
    RecordError,
    RunConfig,
    configurations,
    execute,
    execute_stacked,
    load,
    manifests,
    records,
    run_many,
)
from flatlib.lab.experiments.catalog import command
from flatlib.lab.experiments.config import MeasuredSamples, load_data
from flatlib.lab.experiments.stacked import stacks
from flatlib.lab.experiments.work import ending
from flatlib.measurement import measure

TINY = RunConfig(
    "mlp-small", "digits", 0.5, 20, seed=3, steps=60, measure_every=20, measure_samples=4
)


def record_of(run: RunConfig, results: Path) -> Record:
    return Record(results, "smoke", run.name)


def outcome(run: RunConfig, results: Path) -> tuple[bytes, str, bytes]:
    """All numbers of a run: its table, its weights' hash and its archived weights."""
    record = record_of(run, results)
    manifest = record.read_manifest()
    weights = record.folder / manifest["weights"]["file"]
    return record.table_path.read_bytes(), manifest["weights_sha256"], weights.read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """An archive with the tiny run, made without a stop."""
    results = tmp_path_factory.mktemp("whole")
    assert execute(TINY, "smoke", results) == "complete"
    return results


class TestConfiguration:
    def test_is_immutable(self):
        with pytest.raises(FrozenInstanceError):
            TINY.lr = 0.2

    def test_name_tells_runs_apart(self):
        others = [
            replace(TINY, lr=0.25),
            replace(TINY, batch_size=8),
            replace(TINY, seed=4),
            replace(TINY, loss="half-squared"),
            replace(TINY, data="digit-images-0-1"),
        ]
        assert len({run.name for run in [TINY, *others]}) == 6

    def test_length_is_no_part_of_the_identity(self):
        assert replace(TINY, steps=120).identity_hash == TINY.identity_hash
        assert replace(TINY, measure_samples=5).identity_hash != TINY.identity_hash

    @pytest.mark.parametrize("every", [20, 100, 1250, 12500])
    def test_longer_runs_begin_with_the_same_checkpoints(self, every):
        short = replace(TINY, steps=2 * every, measure_every=every).checkpoints()
        long = replace(TINY, steps=6 * every, measure_every=every).checkpoints()
        assert long[: len(short)] == short
        assert short[0] == 0
        assert short[-1] == 2 * every

    def test_about_sixty_checkpoints_at_the_published_lengths(self):
        for name, scale in (("vgg10-learning-rate", "laptop"), ("mlp-batch-size", "paper")):
            run = configurations(name, scale)[0]
            assert 55 <= len(run.checkpoints()) <= 85

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"net": "vgg"}, "net must be one of"),
            ({"data": "mnist"}, "data must be one of"),
            ({"lr": -1}, "lr must be a positive number"),
            ({"steps": 50}, "steps must be a multiple of measure_every"),
            ({"measure_samples": 0}, "must be at least 1"),
            ({"loss": "l1"}, "loss must be one of"),
        ],
    )
    def test_nonsense_is_refused(self, change, says):
        with pytest.raises(ValueError, match=says):
            replace(TINY, **change)

    def test_measured_samples_are_the_same_for_every_run(self):
        before = torch.random.get_rng_state()
        data = load_data("digits")
        first, again = MeasuredSamples.draw(data, 100), MeasuredSamples.draw(data, 50)
        assert torch.equal(first.train[:50], again.train)
        assert torch.equal(first.test_order, again.test_order)
        assert len(first.train.unique()) == 100
        assert torch.equal(torch.random.get_rng_state(), before)


class TestCatalog:
    def test_settings_are_the_protocols(self):
        rates = {(r.lr, r.batch_size) for r in configurations("vgg10-learning-rate", "paper")}
        sizes = {(r.lr, r.batch_size) for r in configurations("mlp-batch-size", "paper")}
        assert rates == {(0.05, 20), (0.1, 20), (0.2, 20)}
        assert sizes == {(0.1, 8), (0.1, 20), (0.1, 32)}

    def test_paper_scale_is_the_published_one(self):
        vgg, mlp = (configurations(f"correlations-{net}", "paper") for net in ("vgg10", "mlp"))
        assert len(vgg) == len(mlp) == 25
        assert {run.steps for run in vgg} == {150_000}
        assert {run.steps for run in mlp} == {750_000}
        assert {(run.net, run.data) for run in vgg} == {("vgg10", "cifar10-0-1")}
        assert {(run.net, run.data) for run in mlp} == {("mlp", "fashion-mnist")}
        assert {run.loss for run in vgg + mlp} == {"mse"}

    def test_figures_share_runs(self):
        for net in ("vgg10", "mlp", "mlp-relu"):
            whole = set(configurations(f"correlations-{net}", "laptop"))
            protocol = SCALES["laptop"][net]
            names = [
                name
                for name, experiment in EXPERIMENTS.items()
                if SCALES["laptop"][experiment.net] == protocol
            ]
            assert len(names) >= 4
            for name in names:
                assert set(configurations(name, "laptop")) <= whole

    def test_one_set_of_settings_comes_first(self):
        seeds = [run.seed for run in configurations("correlations-vgg10", "laptop")]
        assert seeds == sorted(seeds)

    def test_unknown_names_are_refused(self):
        with pytest.raises(ValueError, match="no experiment is called 'fig1'; there are vgg10"):
            configurations("fig1")
        with pytest.raises(ValueError, match="scale must be one of smoke, laptop, paper"):
            configurations("mlp-bounds", "huge")


class TestOneRun:
    def test_rows_are_measurements_of_the_network(self, whole):
        """The archived weights, measured again, give the last rows."""
        record = record_of(TINY, whole)
        table, data = record.read_table(), load_data("digits")
        net = TINY.network()
        net.load_state_dict(record.read_weights(net))
        samples = MeasuredSamples.draw(data, 4)
        last = table[table.step == 60].set_index("samples")
        outputs = net(data.test_x)
        correct = outputs.argmax(1) == data.test_y.argmax(1)
        wrong = [i for i in samples.test_order.tolist() if not correct[i]][:4]
        for name, x in (
            ("train", data.train_x[samples.train]),
            ("test", data.test_x[samples.test]),
            ("misclassified", data.test_x[wrong]),
        ):
            m = measure(net, x)
            expected = m.summary() | {"A": chain(m).A, "D": chain(m).D, "n": len(x)}
            for column, value in expected.items():
                assert last.loc[name, column] == pytest.approx(value, rel=1e-9)
        mean_square = float((outputs - data.test_y).square().mean().detach())
        assert last.test_loss.tolist() == pytest.approx([mean_square] * 3, rel=1e-5)
        assert last.loc["misclassified", "samples_accuracy"] == 0
        assert last.hessian_gap.notna().tolist() == [True, False, False]

    def test_every_checkpoint_has_three_sets_of_samples(self, whole):
        table = record_of(TINY, whole).read_table()
        assert table.step.drop_duplicates().tolist() == TINY.checkpoints()
        assert table.samples.tolist() == ["train", "test", "misclassified"] * len(
            TINY.checkpoints()
        )

    def test_the_last_checkpoints_measure_the_whole_test_set_as_well(self, whole, tmp_path):
        """Other rows stay as they are; a run that was made without such rows is complete."""
        asked = replace(TINY, test_set_checkpoints=2)
        execute(asked, "smoke", tmp_path)
        record = record_of(asked, tmp_path)
        table = record.read_table()
        found = table[table.samples == "test-set"]
        assert found.step.tolist() == TINY.checkpoints()[-2:]
        others = table[table.samples != "test-set"].reset_index(drop=True)
        pd.testing.assert_frame_equal(others, record_of(TINY, whole).read_table())
        net = asked.network()
        net.load_state_dict(record.read_weights(net))
        data = load_data("digits")
        m = measure(net, data.test_x)
        last = found.iloc[-1]
        assert (last.n, last.samples_accuracy) == (len(data.test_x), last.test_accuracy)
        assert last.mls == pytest.approx(m.summary()["mls"], rel=1e-9)
        assert ending(record_of(TINY, whole), asked) == "complete"

    def test_manifest_says_where_the_numbers_come_from(self, whole):
        manifest = record_of(TINY, whole).read_manifest()
        assert manifest["status"] == "complete"
        assert manifest["steps"] == manifest["steps_asked"] == 60
        assert manifest["configuration"] == TINY.identity
        assert manifest["data"]["sha256"] == load_data("digits").content_hash
        session = manifest["sessions"][-1]
        assert session["torch"].split("+")[0] == torch.__version__.split("+")[0]
        assert {"commit", "processor", "python", "threads", "device"} <= set(session)
        assert session["training_seconds"] > 0
        assert session["measuring_seconds"] > 0
        seconds = session["seconds_by_step"]
        assert [int(step) for step in seconds] == list(TINY.checkpoints())
        assert all(spent > 0 for spent in seconds.values())
        total = session["training_seconds"] + session["measuring_seconds"]
        assert sum(seconds.values()) == pytest.approx(total)
        assert manifest["bounds"]["13"] == {"label": "13", "name": "A <= D", "proven": True}
        table = record_of(TINY, whole).read_table()
        assert {f"lhs_{key}" for key in manifest["bounds"]} <= set(table.columns)

    def test_proven_bounds_hold_in_every_row(self, whole):
        record = record_of(TINY, whole)
        table = record.read_table()
        for key, bound in record.read_manifest()["bounds"].items():
            if bound["proven"]:
                lhs, rhs = table[f"lhs_{key}"], table[f"rhs_{key}"]
                assert (lhs <= rhs + 1e-8 * rhs.abs()).all(), bound["name"]

    def test_done_is_done(self, whole, monkeypatch):
        before = outcome(TINY, whole)
        monkeypatch.setattr(
            "flatlib.lab.experiments.work.load_data", lambda name: pytest.fail("ran again")
        )
        assert execute(TINY, "smoke", whole) == "complete"
        assert execute(replace(TINY, steps=20), "smoke", whole) == "complete"
        assert outcome(TINY, whole) == before

    def test_crash_between_state_and_manifest_is_made_good(self, whole, tmp_path):
        execute(TINY, "smoke", tmp_path)
        record_of(TINY, tmp_path).manifest_path.unlink()
        assert execute(TINY, "smoke", tmp_path) == "complete"
        assert record_of(TINY, tmp_path).read_manifest()["status"] == "complete"
        assert outcome(TINY, tmp_path) == outcome(TINY, whole)

    def test_extended_run_is_the_long_run(self, whole, tmp_path):
        for steps in (20, 60):
            execute(replace(TINY, steps=steps), "smoke", tmp_path)
        assert outcome(TINY, tmp_path) == outcome(TINY, whole)
        spans = [(s["from_step"], s["to_step"]) for s in manifest_sessions(tmp_path)]
        assert spans == [(0, 20), (20, 60)]
        assert {p.name for p in record_of(TINY, tmp_path).folder.glob("weights*")} >= {
            "weights-60.npz"
        }

    def test_archive_without_its_state_is_extended_too(self, whole, tmp_path):
        """As in a fresh clone: weights and table are there, the state is not."""
        execute(replace(TINY, steps=20), "smoke", tmp_path)
        record_of(TINY, tmp_path).state_path.unlink()
        execute(replace(TINY, steps=40), "smoke", tmp_path)
        execute(TINY, "smoke", tmp_path)
        assert outcome(TINY, tmp_path) == outcome(TINY, whole)
        spans = [(s["from_step"], s["to_step"]) for s in manifest_sessions(tmp_path)]
        assert spans == [(0, 20), (20, 40), (40, 60)]

    def test_a_run_without_archived_weights_says_how_to_make_them(self, tmp_path, monkeypatch):
        monkeypatch.setattr("flatlib.lab.experiments.work.LARGEST_ARCHIVED_NET", 0)
        for seed, steps, length in ((2, 600, ""), (2, 100, " --steps 100"), (0, 100, "")):
            run = replace(configurations("mlp-relu-bounds")[0], seed=seed, steps=steps)
            results = tmp_path / f"{seed}-{steps}"
            execute(run, "smoke", results)
            manifest = record_of(run, results).read_manifest()
            if seed == 0:
                assert manifest["weights"]["step"] == steps
                assert "weights_command" not in manifest
                continue
            assert manifest["weights"] is None
            words = manifest["weights_command"]
            assert words == f"flatlib run mlp-relu-bounds --scale smoke --seeds 2{length}"
            options = commands.parser().parse_args(words.split()[1:])
            made = configurations(options.name, options.scale, options.seeds, options.steps)
            assert run in made
        execute(replace(TINY, steps=20), "smoke", tmp_path)  # no experiment has this run
        assert "weights_command" not in record_of(TINY, tmp_path).read_manifest()

    @pytest.mark.parametrize("scale", list(SCALES))
    def test_every_experiments_runs_have_a_command_that_makes_them(self, scale):
        for name in EXPERIMENTS:
            for run in configurations(name, scale):
                options = commands.parser().parse_args(command(run, scale).split()[1:])
                made = configurations(options.name, options.scale, options.seeds, options.steps)
                assert run in made
                assert options.scale == scale

    def test_threads_come_back(self, tmp_path):
        threads = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            execute(replace(TINY, steps=20), "smoke", tmp_path)
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(threads)

    def test_nothing_misclassified_leaves_an_empty_row(self, tmp_path, monkeypatch):
        data = load_data("digits").first(40)
        perfect = replace_test(data)
        monkeypatch.setattr("flatlib.lab.experiments.work.load_data", lambda *name: perfect)
        easy = replace(TINY, lr=2.0, batch_size=2, steps=600, measure_every=300)
        execute(easy, "smoke", tmp_path)
        last = record_of(easy, tmp_path).read_table().iloc[-1]
        assert last.test_accuracy == 1
        assert (last.samples, last.n) == ("misclassified", 0)
        assert np.isnan(last.sharpness)

    def test_divergence_is_recorded_and_loses_nothing(self, tmp_path):
        wild = replace(TINY, lr=1e30)
        assert execute(wild, "smoke", tmp_path) == "diverged"
        manifest = record_of(wild, tmp_path).read_manifest()
        assert manifest["status"] == "diverged"
        assert "choose a smaller one" in manifest["note"]
        assert 0 < manifest["steps"] < 60
        assert record_of(wild, tmp_path).read_table().step.tolist()[:3] == [0, 0, 0]
        assert execute(wild, "smoke", tmp_path) == "diverged"


def replace_test(data):
    """The same data tested on two of its training samples, one a class."""
    labels = data.train_y.argmax(1)
    chosen = torch.stack([(labels == label).nonzero()[0, 0] for label in (0, 1)])
    keep = labels <= 1
    return replace(
        data,
        train_x=data.train_x[keep],
        train_y=data.train_y[keep],
        test_x=data.train_x[chosen],
        test_y=data.train_y[chosen],
    )


def manifest_sessions(results: Path) -> list[dict]:
    return record_of(TINY, results).read_manifest()["sessions"]


class TestStacked:
    def test_members_agree_with_runs_alone(self, whole, tmp_path):
        runs = [TINY, replace(TINY, seed=5, lr=0.25)]
        execute(replace(TINY, steps=20), "smoke", tmp_path)  # one is ahead, and waits
        assert set(execute_stacked(runs, "smoke", tmp_path).values()) == {"complete"}
        expected, found = (record_of(TINY, path).read_table() for path in (whole, tmp_path))
        assert found.columns.tolist() == expected.columns.tolist()
        for column in ("train_loss", "sharpness", "mls", "D", "log_volume_top3"):
            assert np.allclose(found[column], expected[column], rtol=1e-4, equal_nan=True)
        execute(replace(runs[1]), "smoke", tmp_path / "alone")
        alone = record_of(runs[1], tmp_path / "alone").read_table()
        assert np.allclose(record_of(runs[1], tmp_path).read_table().D, alone.D, rtol=1e-4)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
    def test_a_gpu_agrees_with_runs_alone_and_goes_on_from_them(self, whole, tmp_path):
        execute(replace(TINY, steps=20), "smoke", tmp_path)
        runs = [TINY, replace(TINY, seed=5)]
        assert set(execute_stacked(runs, "smoke", tmp_path, device="cuda").values()) == {"complete"}
        expected, found = (record_of(TINY, path).read_table() for path in (whole, tmp_path))
        for column in ("train_loss", "sharpness", "mls", "D", "log_volume_top3", "hessian_gap"):
            assert np.allclose(found[column], expected[column], rtol=1e-3, equal_nan=True)
        devices = [session["device"] for session in manifest_sessions(tmp_path)]
        assert devices[0] == "cpu" and devices[1] != "cpu"

    def test_a_stack_resumes_and_tells_its_size(self, tmp_path):
        runs = [replace(TINY, seed=seed) for seed in range(3)]
        execute_stacked([replace(run, steps=20) for run in runs], "smoke", tmp_path / "parts")
        execute_stacked(runs, "smoke", tmp_path / "parts")
        execute_stacked(runs, "smoke", tmp_path / "whole")
        for run in runs:
            assert outcome(run, tmp_path / "parts") == outcome(run, tmp_path / "whole")
            sessions = record_of(run, tmp_path / "parts").read_manifest()["sessions"]
            assert [(s["from_step"], s["to_step"], s["stacked"]) for s in sessions] == [
                (0, 20, 3),
                (20, 60, 3),
            ]
        assert execute_stacked(runs, "smoke", tmp_path / "whole") == dict.fromkeys(runs, "complete")

    def test_a_stack_that_was_torn_apart_is_one_again(self, tmp_path):
        runs = [replace(TINY, seed=seed) for seed in range(3)]
        execute_stacked([replace(runs[0], steps=20)], "smoke", tmp_path)
        execute_stacked(runs, "smoke", tmp_path)
        for run, alone in zip(runs, (1, 2, 2), strict=True):
            sessions = record_of(run, tmp_path).read_manifest()["sessions"]
            spans = [(s["from_step"], s["to_step"], s["stacked"]) for s in sessions]
            assert [span for span in spans if span[0] < span[1]] == [(0, 20, alone), (20, 60, 3)]

    def test_a_diverging_member_leaves_the_others_going(self, tmp_path):
        runs = [TINY, replace(TINY, lr=1e30), replace(TINY, seed=5)]
        found = execute_stacked(runs, "smoke", tmp_path)
        assert [found[run] for run in runs] == ["complete", "diverged", "complete"]
        manifest = record_of(runs[1], tmp_path).read_manifest()
        assert manifest["status"] == "diverged"
        assert "network 1 of the stack" in manifest["note"]

    def test_images_are_stacked_too(self, tmp_path):
        short = {"steps": 20, "measure_every": 20, "measure_samples": 2}
        runs = [replace(run, **short) for run in configurations("vgg10-learning-rate")[:2]]
        outcomes = run_many(runs, "smoke", tmp_path, device="meta", progress=False)
        assert {o.status for o in outcomes} == {"failed"}  # not a device that computes
        execute_stacked(runs, "smoke", tmp_path)
        execute(runs[0], "smoke", tmp_path / "alone")
        found, alone = (record_of(runs[0], path).read_table() for path in
                        (tmp_path, tmp_path / "alone"))  # fmt: skip
        assert np.allclose(found.D, alone.D, rtol=1e-3)

    def test_a_device_needs_no_scheduler(self, tmp_path):
        with pytest.raises(ValueError, match="choose no device, got 'cuda'; leave one out"):
            run_many([TINY], "smoke", tmp_path, scheduler="tcp://a:1", device="cuda")

    def test_groups_differ_in_rate_and_seed_alone(self):
        groups = stacks(configurations("correlations-vgg10", "paper"))
        assert [len(group) for group in groups] == [15, 5, 5]
        assert all(len({run.batch_size for run in group}) == 1 for group in groups)


class TestRefusals:
    def test_another_configuration_is_named(self, whole):
        other = replace(TINY, measure_samples=5)
        with pytest.raises(RecordError, match="measure_samples is 4 there and 5 here"):
            execute(other, "smoke", whole)

    def test_other_data_are_named(self, tmp_path, monkeypatch):
        execute(replace(TINY, steps=20), "smoke", tmp_path)
        data = load_data("digits")
        changed = replace(data, train_x=data.train_x + 0.001)
        monkeypatch.setattr("flatlib.lab.experiments.work.load_data", lambda *name: changed)
        with pytest.raises(RecordError, match=f"has SHA-256 {data.content_hash} there and"):
            execute(TINY, "smoke", tmp_path)

    def test_lost_state_without_weights_is_named(self, tmp_path, monkeypatch):
        monkeypatch.setattr("flatlib.lab.experiments.work.LARGEST_ARCHIVED_NET", 0)
        execute(replace(TINY, steps=20), "smoke", tmp_path)
        record = record_of(TINY, tmp_path)
        record.state_path.unlink()
        before = record.table_path.read_bytes()
        with pytest.raises(RecordError, match="reaches step 20, and the state to go on from"):
            execute(TINY, "smoke", tmp_path)
        assert record.table_path.read_bytes() == before

    def test_altered_weights_are_named(self, tmp_path):
        execute(replace(TINY, steps=20), "smoke", tmp_path)
        record = record_of(TINY, tmp_path)
        record.state_path.unlink()
        weights = record.folder / "weights-20.npz"
        content = weights.read_bytes()
        for altered in (content[: len(content) // 2], b""):
            weights.write_bytes(altered)
            with pytest.raises(RecordError, match="weights-20.npz is missing or altered"):
                execute(TINY, "smoke", tmp_path)
        assert not record.state_path.exists()

    def test_state_of_another_run_is_named(self, tmp_path):
        other = replace(TINY, steps=20, seed=9)
        execute(other, "smoke", tmp_path)
        target = record_of(TINY, tmp_path)
        target.state_folder.mkdir(parents=True)
        target.state_path.write_bytes(record_of(other, tmp_path).state_path.read_bytes())
        with pytest.raises(RecordError, match="state.pt was made by another configuration"):
            execute(TINY, "smoke", tmp_path)

    def test_state_with_other_weights_or_step_is_named(self, tmp_path):
        """Its own hash may be right: the archive knows the weights."""
        execute(replace(TINY, steps=20), "smoke", tmp_path)
        record = record_of(TINY, tmp_path)
        state = record.read_state()
        before = record.table_path.read_bytes()
        for name in state["trainer"]["net"]:
            changed = record.read_state()
            changed["trainer"]["net"][name].view(-1)[0] += 1e-3
            record.write_state(changed)
            with pytest.raises(RecordError, match="state.pt is altered: its weights at step 20"):
                execute(TINY, "smoke", tmp_path)
        for step in (15, 40):
            record.write_state({**state, "trainer": {**state["trainer"], "step": step}})
            with pytest.raises(RecordError, match=f"is at step {step}, its last measurement at 20"):
                execute(TINY, "smoke", tmp_path)
        assert record.table_path.read_bytes() == before

    def test_altered_table_is_named(self, tmp_path):
        execute(replace(TINY, steps=20), "smoke", tmp_path)
        path = record_of(TINY, tmp_path).table_path
        path.write_bytes(path.read_bytes().replace(b"train", b"Train"))
        for steps in (20, 60):
            with pytest.raises(RecordError, match="measurements.csv is altered"):
                execute(replace(TINY, steps=steps), "smoke", tmp_path)

    def test_second_process_is_turned_away(self, tmp_path):
        with record_of(TINY, tmp_path).lock():
            with pytest.raises(LockedError):
                execute(TINY, "smoke", tmp_path)
        assert record_of(TINY, tmp_path).read_manifest() is None


EXECUTE = """
import resource, sys
from pathlib import Path
from flatlib.lab.experiments import RunConfig, execute
from flatlib.lab.experiments.config import load_data
limit = int(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
run = RunConfig("mlp-small", "digits", 0.5, 20, seed=3, steps=60, measure_every=20,
                measure_samples=4)
load_data(run.data)
print("ready", flush=True)
execute(run, "smoke", Path(sys.argv[1]))
"""


def start(results: Path, largest_file: int = 0) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", EXECUTE, str(results), str(largest_file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def assert_whole(results: Path) -> None:
    """Whatever is archived can be read, and is the beginning of a run."""
    record = record_of(TINY, results)
    manifest = record.read_manifest()
    if manifest is not None:
        steps = record.read_table().step.drop_duplicates().tolist()
        assert steps == TINY.checkpoints()[: len(steps)]
        assert steps[-1] == manifest["steps"]


def steps_of(results: Path, run: RunConfig = TINY) -> int:
    """How far the archive says the run is; -1 before its first checkpoint."""
    manifest = record_of(run, results).read_manifest()
    return -1 if manifest is None else manifest["steps"]


def at_work(group: int) -> list[str]:
    """The processes of a group that have not ended; one that nobody collected yet has."""
    listed = subprocess.run(
        ["ps", "-eo", "pgid=,stat=,args="], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    found = [line.split(maxsplit=2) for line in listed]
    return [
        " ".join(line) for line in found if int(line[0]) == group and not line[1].startswith("Z")
    ]


def wait_until(there, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.02)


@pytest.mark.slow
class TestCrashes:
    def test_kill_at_random_instants_ends_at_the_same_bits(self, whole, tmp_path):
        moments, amid = random.Random(0), 0
        for reached in (-1, 0, 15, 40):  # past this step, kill at any instant of what follows
            process = start(tmp_path)
            assert process.stdout.readline() == "ready\n"
            while process.poll() is None and steps_of(tmp_path) < reached:
                time.sleep(0.002)
            time.sleep(moments.uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
            process.communicate()
            assert_whole(tmp_path)
            amid += 0 <= steps_of(tmp_path) < 60
        assert amid >= 1
        execute(TINY, "smoke", tmp_path)
        assert outcome(TINY, tmp_path) == outcome(TINY, whole)
        found = {path.name for path in record_of(TINY, tmp_path).folder.iterdir()}
        assert found == {"manifest.json", "measurements.csv", "weights-60.npz"}
        assert not list(tmp_path.rglob("*.part"))

    def test_full_disk_stops_a_run_that_then_goes_on(self, whole, tmp_path):
        table = len(outcome(TINY, whole)[0])
        state = record_of(TINY, whole).state_path.stat().st_size
        failures = 0
        for limit in (table // 4, (table + state) // 2, state - 100):
            process = start(tmp_path, largest_file=limit)
            errors = process.communicate()[1]
            failures += process.returncode != 0
            assert process.returncode == 0 or "File too large" in errors
            assert_whole(tmp_path)
        assert failures >= 2
        execute(TINY, "smoke", tmp_path)
        assert outcome(TINY, tmp_path) == outcome(TINY, whole)

    def test_two_processes_on_one_folder(self, whole, tmp_path):
        both = [start(tmp_path), start(tmp_path)]
        errors = [process.communicate()[1] for process in both]
        codes = sorted(process.returncode for process in both)
        assert codes[0] == 0
        assert codes[1] == 0 or any("LockedError" in text for text in errors)
        assert outcome(TINY, tmp_path) == outcome(TINY, whole)


class TestArchive:
    def test_runs_of_one_experiment_as_one_table(self, tmp_path):
        runs = [replace(r, steps=100) for r in configurations("mlp-learning-rate")]
        for run in runs[1:]:
            execute(run, "smoke", tmp_path)
        table = load("mlp-learning-rate", "smoke", tmp_path)
        assert table.columns[:4].tolist() == ["run", "lr", "batch_size", "seed"]
        assert sorted(table.lr.unique()) == [0.1, 0.2]
        assert len(records("mlp-batch-size", "smoke", tmp_path)) == 1
        assert [m["steps"] for m in manifests("mlp-bounds", "smoke", tmp_path)] == [100]
        assert isinstance(table, pd.DataFrame)

    def test_empty_archive_says_how_to_fill_it(self, tmp_path):
        with pytest.raises(RecordError, match="flatlib run mlp-bounds --scale smoke"):
            load("mlp-bounds", "smoke", tmp_path)

    def test_committed_records_are_whole(self):
        """Every archived table is the one that its manifest was written with."""
        results = experiments.default_results()
        paths = list(results.glob("*/*/manifest.json"))
        assert len(paths) >= 40
        for path in paths:
            record = Record(results, path.parent.parent.name, path.parent.name)
            manifest, table = record.read_manifest(), record.read_table()
            assert table.step.max() == manifest["steps"] or manifest["status"] == "diverged"
            assert not table.duplicated(["step", "samples"]).any()

    @pytest.mark.parametrize("kind", ["mlp", "vgg10"])
    def test_committed_records_name_the_bounds_as_the_library_does(self, kind):
        net = {"mlp": nets.mlp((784, 500, 500, 500, 10)), "vgg10": nets.vgg10()}[kind]
        x = torch.rand(1, *{"mlp": (784,), "vgg10": (3, 32, 32)}[kind])
        expected = {
            bound.key: {"label": bound.label, "name": bound.name, "proven": bound.proven}
            for bound in evaluate(measure(net, x))
        }
        paths = list(experiments.default_results().glob(f"laptop/{kind}_*/manifest.json"))
        assert len(paths) >= 5
        for path in paths:
            archived = json.loads(path.read_text())["bounds"]
            assert {key: expected.get(key) for key in archived} == archived, path
            assert len(archived) >= 25

    def test_committed_columns_hold_what_the_table_of_inequalities_says(self):
        """Sides that are one function, and the chain's terms, have one number in every record."""
        results = experiments.default_results()
        paths = sorted(results.glob("laptop/*/manifest.json"))[::4]
        terms = {(getattr(sides, name), 1): name for name in ("A", "B", "C", "C_prime", "D")}
        compared = set()
        for path in paths:
            record = Record(results, path.parent.parent.name, path.parent.name)
            table, seen = record.read_table(), dict(terms)
            keys = [name.removeprefix("lhs_") for name in table if name.startswith("lhs_")]
            assert set(keys) == set(record.read_manifest()["bounds"]) <= set(COLUMNS)
            for key in keys:
                column = COLUMNS[key]
                if column.inequality.per_sample:
                    continue  # each at the sample where it is tightest
                for side in ("lhs", "rhs"):
                    name, which = f"{side}_{key}", (getattr(column.step, side), column.k)
                    first = seen.setdefault(which, name)
                    compared.add((first, name))
                    assert table[name].equals(table[first]), (path, first, name)
        pairs = {pair for pair in compared if pair[0] != pair[1]}
        assert {("A", "lhs_13"), ("D", "rhs_13"), ("C", "rhs_28"), ("rhs_6.3", "lhs_6.4")} <= pairs
        assert len(pairs) >= 16


class TestMany:
    @pytest.mark.slow
    def test_pool_runs_each_once_and_survives_a_bad_one(self, tmp_path, capsys):
        short = replace(TINY, steps=20)
        bad = replace(short, seed=7)
        execute(bad, "smoke", tmp_path)
        other = replace(bad, measure_samples=3)
        outcomes = run_many([short, other, short, replace(short, seed=5)], "smoke", tmp_path)
        assert [o.status for o in outcomes] == ["complete", "failed", "complete"]
        assert "measure_samples is 4 there and 3 here" in outcomes[1].message
        assert len(manifest_sessions(tmp_path)) == 1
        assert "3/3" in capsys.readouterr().err

    @pytest.mark.slow
    def test_pool_that_loses_a_process_goes_on_in_another(self, tmp_path):
        runs = [replace(TINY, seed=seed, steps=1600, measure_every=200) for seed in range(3)]

        def kill_one():
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline and steps_of(tmp_path, runs[0]) < 200:
                time.sleep(0.05)
            multiprocessing.active_children()[0].kill()

        killer = threading.Thread(target=kill_one)
        killer.start()
        outcomes = run_many(runs, "smoke", tmp_path, progress=False)
        killer.join()
        assert [o.status for o in outcomes] == ["complete"] * 3, outcomes
        sessions = [record_of(run, tmp_path).read_manifest()["sessions"] for run in runs]
        assert max(len(spans) for spans in sessions) >= 2

    @pytest.mark.slow
    def test_interrupting_the_pool_stops_its_processes_at_once(self, tmp_path):
        code = (
            "if __name__ == '__main__':\n"
            "    from test_experiments import TINY; from dataclasses import replace\n"
            "    from pathlib import Path; import signal\n"
            "    from flatlib.lab.experiments import run_many\n"
            # A shell's background jobs ignore it, and their children with them.
            "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "    runs = [replace(TINY, seed=s, steps=10**7, measure_every=200) for s in range(4)]\n"
            f"    run_many(runs, 'smoke', Path({str(tmp_path)!r}), progress=False)\n"
        )
        script = tmp_path / "script.py"
        script.write_text(code)
        path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        environment = os.environ | {"PYTHONPATH": path}
        process = subprocess.Popen(
            [sys.executable, str(script)], env=environment, start_new_session=True
        )
        first = replace(TINY, seed=0, steps=10**7, measure_every=200)
        try:
            wait_until(lambda: process.poll() is not None or steps_of(tmp_path, first) >= 200)
            assert process.poll() is None
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) != 0
        except BaseException:  # a pool that goes on must not outlive its test
            os.killpg(process.pid, signal.SIGKILL)
            raise
        for seed in range(4):  # nobody holds a run's lock any more
            with record_of(replace(first, seed=seed), tmp_path).lock():
                pass

    def test_what_killed_runs_left_goes_and_a_running_ones_files_stay(self, tmp_path):
        record, other = (record_of(replace(TINY, seed=seed), tmp_path) for seed in (3, 4))
        left = [
            folder / ".manifest.json-x.part"
            for r in (record, other)
            for folder in (r.folder, r.state_folder)
        ]
        with other.lock():
            for path in left:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"half")
            execute(replace(TINY, steps=20), "smoke", tmp_path)
            with pytest.raises(LockedError):
                execute(replace(TINY, steps=20, seed=4), "smoke", tmp_path)
            assert [path.exists() for path in left] == [False, False, True, True]
        execute(replace(TINY, steps=20, seed=4), "smoke", tmp_path)
        assert not list(tmp_path.rglob("*.part"))

    def test_a_run_at_work_elsewhere_is_busy(self, tmp_path):
        with record_of(TINY, tmp_path).lock():
            outcomes = run_many([TINY], "smoke", tmp_path, progress=False, workers=1)
        assert [o.status for o in outcomes] == ["busy"]
        assert "another process is at work on smoke/" in outcomes[0].message

    def test_a_lost_scheduler_keeps_the_outcomes_of_finished_runs(self, tmp_path, monkeypatch):
        from concurrent.futures import Future
        from contextlib import contextmanager

        from flatlib.lab.experiments import many

        @contextmanager
        def dying(address):
            def submit(run, *others):
                future = Future()
                if run == TINY:
                    future.set_result("complete")
                else:
                    future.cancel()
                    future.set_running_or_notify_cancel()
                return future

            yield submit

        monkeypatch.setattr(many, "_dask", dying)
        runs = [TINY, replace(TINY, seed=4)]
        outcomes = run_many(runs, "smoke", tmp_path, scheduler="tcp://a:1", progress=False)
        assert [o.status for o in outcomes] == ["complete", "lost"]
        assert outcomes[1].message == "scheduler lost; the same command goes on"

    @pytest.mark.slow
    def test_a_scheduler_that_is_killed_ends_the_command_in_plain_words(self, tmp_path):
        pytest.importorskip("distributed")
        runs = configurations("mlp-batch-size", steps=1000)
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(sys.path),
            "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "2s",
        }
        started = []

        def start(*words) -> subprocess.Popen:
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", *words],
                    env=environment,
                    start_new_session=True,
                    **pipes if words[0] == "flatlib.lab.cli" else {"stderr": subprocess.DEVNULL},
                )
            )
            return started[-1]

        try:
            contact = tmp_path / "contact.json"
            here = ["--host", "127.0.0.1", "--no-dashboard"]
            scheduler = start("distributed.cli.dask_scheduler", *here, "--port", "0",
                              "--scheduler-file", str(contact))  # fmt: skip
            wait_until(contact.exists)
            address = json.loads(contact.read_text())["address"]
            worker = start("distributed.cli.dask_worker", address, *here, "--no-nanny",
                           "--nthreads", "1")  # fmt: skip
            command = start("flatlib.lab.cli", "run", "mlp-batch-size", "--steps", "1000",
                            "--scheduler", address, "--results", str(tmp_path))  # fmt: skip
            wait_until(lambda: steps_of(tmp_path, runs[1]) >= 0)
            scheduler.send_signal(signal.SIGKILL)
            out, errors = command.communicate(timeout=60)
            assert out.splitlines() == [
                f"complete  {runs[0].name}",
                *(
                    f"lost      {run.name} scheduler lost; the same command goes on"
                    for run in runs[1:]
                ),
            ]
            assert command.returncode == 1
            assert "Traceback" not in errors and "Error" not in errors
            worker.wait(timeout=60)
            assert not [line for process in started for line in at_work(process.pid)]
        finally:
            for process in started:
                if at_work(process.pid):
                    os.killpg(process.pid, signal.SIGKILL)
        assert steps_of(tmp_path, runs[0]) == 1000
        steps = record_of(runs[1], tmp_path).read_table().step.drop_duplicates().tolist()
        assert steps == runs[1].checkpoints()[: len(steps)]
        with record_of(runs[1], tmp_path).lock():
            pass

    def test_no_workers_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
            run_many([TINY], "smoke", tmp_path, workers=0)

    @pytest.mark.slow
    def test_cluster_that_loses_a_worker(self, tmp_path):
        distributed = pytest.importorskip("distributed")
        runs = [
            replace(TINY, seed=seed, steps=2000, measure_every=200, measure_samples=20)
            for seed in range(3)
        ]
        with distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster:
            killer = threading.Thread(target=kill_a_busy_worker, args=(cluster, runs, tmp_path))
            killer.start()
            outcomes = run_many(
                runs, "smoke", tmp_path, scheduler=cluster.scheduler_address, progress=False
            )
            killer.join()
        assert [o.status for o in outcomes] == ["complete"] * 3, outcomes
        sessions = {}
        for run in runs:
            manifest = record_of(run, tmp_path).read_manifest()
            table = record_of(run, tmp_path).read_table()
            assert not table.duplicated(["step", "samples"]).any()
            assert table.step.drop_duplicates().tolist() == run.checkpoints()
            sessions[run.seed] = [(s["from_step"], s["to_step"]) for s in manifest["sessions"]]
        killed = json.loads((tmp_path / "killed").read_text())
        assert killed["steps"] > 0
        # Every session went on where the one before stopped, and one run needed two.
        for spans in sessions.values():
            assert spans[0][0] == 0
            assert spans[-1][1] == 2000
            assert all(a[1] == b[0] for a, b in zip(spans, spans[1:], strict=False))
        assert max(len(spans) for spans in sessions.values()) >= 2


def kill_a_busy_worker(cluster, runs: list[RunConfig], results: Path) -> None:
    """Kill -9 the process of a worker once the run it works on is under way."""
    from distributed import Client

    with Client(cluster.scheduler_address) as client:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            time.sleep(0.1)
            manifest = record_of(runs[0], results).read_manifest()
            if manifest is None or manifest["steps"] < 15:
                continue
            busy = [worker for worker, keys in client.processing().items() if keys]
            pids = client.run(os.getpid, workers=busy[:1])
            os.kill(next(iter(pids.values())), signal.SIGKILL)
            (results / "killed").write_text(json.dumps({"steps": manifest["steps"]}))
            return
