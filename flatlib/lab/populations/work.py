"""One network of a population from its draw to its two rows: trained, measured, archived."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from flatlib.bounds import evaluate as evaluate_bounds
from flatlib.checkpoint import empty_row
from flatlib.files import array_hash
from flatlib.lab.experiments.config import load_data
from flatlib.lab.experiments.provenance import environment
from flatlib.lab.experiments.work import require_same
from flatlib.lab.records import Record, RecordError
from flatlib.lab.training import DivergenceError, Trainer
from flatlib.measurement import measure

from .catalog import Network
from .optimizers import OPTIMIZERS
from .rows import Samples, columns, front, losses, measured

CONDITIONS = ("loss", "step")


def trainer(network: Network) -> Trainer:
    """The network at step 0, with its data and its optimizer."""
    data = load_data(network.population.data)
    return OPTIMIZERS[network.optimizer].trainer(
        network.net(), data.train_x, data.train_y, network.lr, network.batch_size, "mse",
        seed=network.seed,
    )  # fmt: skip


def is_made(network: Network, results: Path) -> bool:
    """Whether the archive holds the network.

    Raises:
        RecordError: it holds one of this name made otherwise, or an altered one.
    """
    record = Record(Path(results), network.scale, network.name)
    manifest = record.read_manifest()
    if manifest is None:
        return False
    require_same(record, manifest, network.identity)
    record.read_table_text(manifest)
    return True


def make(network: Network, scale: str, results: Path, workers: int = 1) -> str:
    """Train and measure one network, and archive it whole; one that is archived is left alone.

    The thread count is one while it works. A network that is stopped goes on from its last check.

    Args:
        network: of a population.
        scale: its population's folder in the archive.
        results: the archive.
        workers: how many share the machine, for the manifest.

    Returns:
        ``"complete"`` or ``"diverged"``.

    Raises:
        RecordError: the archive holds a network of this name made otherwise.
        LockedError: another process is at work on this network.
        OSError: the disk is full; nothing of this network is archived then.
    """
    record = Record(Path(results), scale, network.name)
    if not is_made(network, results):
        with record.lock():
            if not is_made(network, results):  # another process may have made it meanwhile
                threads = torch.get_num_threads()
                torch.set_num_threads(1)
                try:
                    _Work(network, record, workers).finish()
                finally:
                    torch.set_num_threads(threads)
                record.state_path.unlink(missing_ok=True)
    return record.read_manifest()["status"]


class _Work:
    """A network at work: its trainer, what was measured so far, and clocks."""

    def __init__(self, network: Network, record: Record, workers: int):
        self.network, self.record = network, record
        self.data = load_data(network.population.data)
        self.samples = Samples.of(self.data)
        self.trainer = trainer(network)
        self.net = self.trainer.net
        self.bounds = evaluate_bounds(measure(self.net, self.samples.x[:1]))
        self.rows: dict[str, dict] = {}  # by condition
        self.sessions: list[dict] = []
        self._resume()
        session = environment("cpu") | {"workers": workers}
        session |= {"from_step": self.trainer.step, "to_step": self.trainer.step}
        self.sessions.append(session | {"training_seconds": 0.0, "measuring_seconds": 0.0})

    def _resume(self) -> None:
        state = self.record.read_state()
        if state is None:
            return
        if (state["identity"], state["data"]) != self._identity():
            raise RecordError(
                f"{self.record.state_path} was made by another configuration or with other data; "
                "use another results folder, or delete it to start again"
            )
        self.trainer.restore(state["trainer"])
        self.rows, self.sessions = state["rows"], state["sessions"]

    def _identity(self) -> tuple[str, str]:
        return self.network.identity_hash, self.data.content_hash

    def finish(self) -> None:
        """Train, check and measure until both conditions are met or the limit is reached."""
        population, note = self.network.population, ""
        try:
            while not self._is_done():
                self._timed("training_seconds", self._advance)
                self._timed("measuring_seconds", self._check)
                self._save()
        except DivergenceError as fault:
            note = str(fault)
        status = "diverged" if note else "complete"
        missing = [condition for condition in CONDITIONS if condition not in self.rows]
        names = columns(population, self.data) if missing else []
        rows = []
        for condition in CONDITIONS:
            row = self.rows.get(condition)
            step = self.trainer.step if row is None else row.pop("step")
            start = front(self.network, condition, step, status, row is not None)
            rows.append(start | (empty_row(names) if row is None else row))
        rows.sort(key=lambda row: row["step"])
        self.record.write(rows, self._manifest(status, note))

    def _is_done(self) -> bool:
        step = self.trainer.step
        return len(self.rows) == len(CONDITIONS) or step >= self.network.steps

    def _advance(self) -> None:
        self.trainer.advance(self.trainer.step + self.network.population.check_every)

    def _check(self) -> None:
        population, step = self.network.population, self.trainer.step
        train = losses(self.net, self.data)
        met = {
            "loss": train["train_loss"] <= population.level,
            "step": step == population.fixed_step,
        }
        new = [name for name, is_met in met.items() if is_met and name not in self.rows]
        if new:
            row = measured(self.net, population, self.samples, train)
            self.rows |= {name: {"step": step} | row for name in new}

    def _timed(self, name: str, work) -> None:
        start = time.perf_counter()
        try:
            work()
        finally:
            self.sessions[-1][name] += time.perf_counter() - start

    def _save(self) -> None:
        self.sessions[-1]["to_step"] = self.trainer.step
        identity, data = self._identity()
        self.record.write_state(
            {
                "identity": identity,
                "data": data,
                "trainer": self.trainer.state(),
                "rows": self.rows,
                "sessions": self.sessions,
            }
        )

    def _manifest(self, status: str, note: str) -> dict:
        weights = {name: t.detach().numpy() for name, t in self.net.state_dict().items()}
        self.sessions[-1]["to_step"] = self.trainer.step
        return {
            "run": self.network.name,
            "scale": self.record.scale,
            "status": status,
            "note": note,
            "steps": self.trainer.step,
            "steps_asked": self.trainer.step,
            "configuration": self.network.identity,
            "configuration_sha256": self.network.identity_hash,
            "data": {
                "name": self.data.name,
                "sha256": self.data.content_hash,
                "n_train": len(self.data.train_x),
                "n_test": len(self.data.test_x),
            },
            "weights_sha256": array_hash(weights),
            "weights": None,
            "losses_and_accuracies_over": (
                f"all training and {len(self.samples.test_x):,} test samples"
            ),
            "bounds": {
                b.key: {"label": b.label, "name": b.name, "proven": b.proven} for b in self.bounds
            },
            "sessions": self.sessions,
        }
