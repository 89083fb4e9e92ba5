"""A run at work: resumed or begun, measured at its checkpoints, recorded on the way."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from flatlib.bounds import evaluate as evaluate_bounds
from flatlib.checkpoint import empty_row, measurement_row
from flatlib.files import array_hash
from flatlib.gap import lemma_gap
from flatlib.lab.records import Record, RecordError
from flatlib.lab.training import Trainer
from flatlib.lab.training.loss import evaluate
from flatlib.measurement import measure

from .catalog import command
from .config import MeasuredSamples, RunConfig, load_data
from .provenance import environment

LARGEST_ARCHIVED_NET = 200_000  # parameters; of larger networks the archive keeps seed 0's weights


def ending(record: Record, config: RunConfig) -> str | None:
    """How the run ended, or None if there is something left to do."""
    manifest = record.read_manifest()
    if manifest is None:
        return None
    require_same(record, manifest, config.identity)
    record.read_table_text(manifest)
    if manifest["status"] == "diverged":
        return "diverged"
    return "complete" if manifest["steps"] >= config.steps else None


def require_same(record: Record, manifest: dict, asked: dict) -> None:
    """Raise a ``RecordError`` where the archive holds another configuration than is asked for."""
    archived = manifest["configuration"]
    differing = [
        f"{name} is {archived.get(name)!r} there and {asked.get(name)!r} here"
        for name in sorted({*archived, *asked})
        if archived.get(name) != asked.get(name)
    ]
    if differing:
        raise RecordError(
            f"{record.folder} was made by another configuration: {'; '.join(differing)}. "
            "Use another results folder, or delete that one."
        )


class Work:
    """A run at work: trainer, rows so far and clocks.

    Args:
        config: the run.
        record: its place in the archive, whose lock the caller holds.
        workers: how many runs share the machine, for the manifest.
        device: where to train and measure.

    Raises:
        RecordError: the archive was made otherwise, or state and final weights are missing.
    """

    def __init__(self, config: RunConfig, record: Record, workers: int = 1, device: str = "cpu"):
        self.config, self.record = config, record
        manifest = record.read_manifest()
        self.data_hash = load_data(config.data).content_hash
        self.data = load_data(config.data, device)
        self._require_same_data(manifest)
        self.samples = MeasuredSamples.draw(self.data, config.measure_samples)
        self.net = config.network().to(device)
        self.trainer = Trainer(
            self.net,
            self.data.train_x,
            self.data.train_y,
            config.lr,
            config.batch_size,
            config.loss,
            config.seed,
        )
        first = self.data.train_x[self.samples.train[:1]]
        self.bounds = evaluate_bounds(measure(self.net, first))
        self.rows: list[dict] = []
        self.sessions: list[dict] = []
        self.measured = -1  # the last checkpoint in the rows
        self.weights: dict | None = None  # of the archived weights: step, file, hash
        self._resume(manifest)
        session = environment(device) | {"workers": workers, "stacked": 1}
        session |= {"from_step": self.trainer.step, "to_step": self.trainer.step}
        session |= {"training_seconds": 0.0, "measuring_seconds": 0.0, "seconds_by_step": {}}
        self.sessions.append(session)
        if self.rows:
            self.archive()  # a crash may have come between state and archive

    def _require_same_data(self, manifest: dict | None) -> None:
        archived = manifest["data"]["sha256"] if manifest else self.data_hash
        if archived != self.data_hash:
            raise RecordError(
                f"{self.record.folder} was made with other data: {self.data.name} has SHA-256 "
                f"{archived} there and {self.data_hash} here. "
                "Use another results folder, or delete that one."
            )

    def _resume(self, manifest: dict | None) -> None:
        state = self.record.read_state()
        if state is None:
            if manifest is not None:
                self._resume_from_archive(manifest)
            return
        found = (state["identity"], state["data"])
        if found != (self.config.identity_hash, self.data_hash):
            raise RecordError(
                f"{self.record.state_path} was made by another configuration or with other data; "
                "use another results folder, or delete it to start again"
            )
        self._require_same_state(state, manifest)
        self.trainer.restore(state["trainer"])
        self.rows, self.sessions = state["rows"], state["sessions"]
        self.weights = state["weights"]
        self.measured = self.trainer.step

    def _require_same_state(self, state: dict, manifest: dict | None) -> None:
        """The state is where its own rows end, with the weights that the archive has there."""
        path, step = self.record.state_path, state["trainer"]["step"]
        measured = state["rows"][-1]["step"]
        if step != measured:
            raise RecordError(
                f"{path} is altered: it is at step {step}, its last measurement at {measured}; "
                f"delete it and {self.record.folder} to start the run again"
            )
        if manifest is None or step != manifest["steps"]:
            return
        weights = {name: tensor.numpy() for name, tensor in state["trainer"]["net"].items()}
        found = array_hash(weights)
        if found != manifest["weights_sha256"]:
            raise RecordError(
                f"{path} is altered: its weights at step {step} have SHA-256 {found}, those of "
                f"the archive {manifest['weights_sha256']}; "
                f"delete it and {self.record.folder} to start the run again"
            )

    def _resume_from_archive(self, manifest: dict) -> None:
        """Without a state, as in another checkout, the archived weights will do."""
        step = manifest["steps"]
        if manifest["weights"] is None or manifest["weights"]["step"] != step:
            raise RecordError(
                f"{self.record.folder} reaches step {step}, and the state to go on from, "
                f"{self.record.state_path}, is missing. Run it in another results "
                "folder, or delete that one to start again."
            )
        self.trainer.restore_weights(step, self.record.read_weights(self.net))
        self.rows = self.record.read_rows(manifest)
        self.sessions, self.weights = manifest["sessions"], manifest["weights"]
        self.measured = step

    def todo(self) -> list[int]:
        """The checkpoints that are left."""
        return [step for step in self.config.checkpoints() if step > self.measured]

    @contextmanager
    def clock(self, name: str) -> Iterator[None]:
        """Count the seconds spent inside as the session's ``name``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.sessions[-1][name] += time.perf_counter() - start

    def checkpoint(self) -> None:
        """Measure the network as it is now, and record it."""
        with self.clock("measuring_seconds"):
            self.rows.extend(self._measured_rows())
        session = self.sessions[-1]
        by_step = session["seconds_by_step"]
        spent = session["training_seconds"] + session["measuring_seconds"]
        by_step[str(self.trainer.step)] = spent - sum(by_step.values())
        self._save()

    def _measured_rows(self) -> Iterator[dict]:
        """The rows of this moment: training, test and misclassified samples, the whole test set."""
        data, config, net = self.data, self.config, self.net
        test_loss, correct = evaluate(net, data.test_x, data.test_y, config.loss)
        train_loss, train_correct = evaluate(net, data.train_x, data.train_y, config.loss)
        shared = {
            "step": self.trainer.step,
            "epoch": self.trainer.batches.epoch,
            "train_loss": train_loss,
            "train_accuracy": float(train_correct.double().mean()),
            "test_loss": test_loss,
            "test_accuracy": float(correct.double().mean()),
        }
        order = self.samples.test_order
        wrong = order[~correct.cpu()[order]][: config.measure_samples]
        sets = {
            "train": (data.train_x, data.train_y, self.samples.train),
            "test": (data.test_x, data.test_y, self.samples.test),
            "misclassified": (data.test_x, data.test_y, wrong),
        }
        if config.measures_test_set(self.trainer.step):
            sets["test-set"] = (data.test_x, data.test_y, order)
        names: list[str] = []
        for samples, (x, y, index) in sets.items():
            if len(index):
                row = self._measured_row(x[index], y[index], samples)
            else:
                row = empty_row(names)
            names = names or list(row)
            yield shared | {"samples": samples} | row

    def _measured_row(self, x: torch.Tensor, y: torch.Tensor, samples: str) -> dict:
        loss, correct = evaluate(self.net, x, y, self.config.loss)
        return {
            "samples_loss": loss,
            "samples_accuracy": float(correct.double().mean()),
            "hessian_gap": lemma_gap(self.net, x, y) if samples == "train" else math.nan,
        } | measurement_row(self.net, x, y)

    def _save(self) -> None:
        """State first: table and manifest can be made again from it."""
        step = self.trainer.step
        self.sessions[-1]["to_step"] = step
        if step >= self.config.steps and self._weights_are_archived():
            self.weights = self.record.write_weights(step, self.net.state_dict())
        self.record.write_state(
            {
                "identity": self.config.identity_hash,
                "data": self.data_hash,
                "trainer": self.trainer.state(),
                "rows": self.rows,
                "sessions": self.sessions,
                "weights": self.weights,
            }
        )
        self.archive()
        self.measured = step

    def _weights_are_archived(self) -> bool:
        n_parameters = sum(p.numel() for p in self.net.parameters())
        return n_parameters <= LARGEST_ARCHIVED_NET or self.config.seed == 0

    def archive(self, diverged: str = "") -> None:
        """Write table and manifest; ``diverged`` says how training ended, if it did."""
        reached = "complete" if self.trainer.step >= self.config.steps else "running"
        weights = {name: t.cpu().numpy() for name, t in self.net.state_dict().items()}
        manifest = {
            "run": self.config.name,
            "scale": self.record.scale,
            "status": "diverged" if diverged else reached,
            "note": diverged,
            "steps": self.trainer.step,
            "steps_asked": self.config.steps,
            "configuration": self.config.identity,
            "configuration_sha256": self.config.identity_hash,
            "data": {
                "name": self.data.name,
                "sha256": self.data_hash,
                "n_train": len(self.data.train_x),
                "n_test": len(self.data.test_x),
            },
            "weights_sha256": array_hash(weights),
            "weights": self.weights,
            "losses_and_accuracies_over": "all training and all test samples",
            "bounds": {
                b.key: {"label": b.label, "name": b.name, "proven": b.proven} for b in self.bounds
            },
            "sessions": self.sessions,
        }
        again = None if self._weights_are_archived() else command(self.config, self.record.scale)
        if again:
            manifest["weights_command"] = again
        self.record.write(self.rows, manifest)
