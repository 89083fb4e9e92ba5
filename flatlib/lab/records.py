"""One run on disk: its configuration, where it came from, its measurements.

::

    results/<scale>/<run>/measurements.csv    one row a checkpoint and set of samples
    results/<scale>/<run>/manifest.json       configuration, seeds, versions, seconds, hashes
    results/<scale>/<run>/weights-<step>.npz  at the end, of networks that are small enough
    results/.state/<scale>/<run>/             what a run needs to go on; stays out of git

Each file is written whole or not at all. The table only ever grows at its end, and the manifest
says how many of its bytes it vouches for, so the two agree after a crash between them. The
manifest bears a seal over itself, see `flatlib.lab.manifest`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout
from torch import nn

from flatlib.files import array_hash, read_arrays, remove_partial_files, write_atomically

from .manifest import REMEDY, RecordError, decode, encode, faults

DIGITS = 10  # significant digits in the table; the state keeps every bit


class LockedError(RuntimeError):
    """Another process is at work on this run."""


def default_results() -> Path:
    """``FLATLIB_RESULTS`` if it is set, else ``results`` of the checkout, else of this folder."""
    chosen = os.environ.get("FLATLIB_RESULTS")
    if chosen:
        return Path(chosen)
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").exists():
        return checkout / "results"
    return Path("results")


def records_of(results: Path, scale: str | None = None) -> Iterator[Record]:
    """Every record of an archive, or of one scale, be it that files of it are missing.

    Raises:
        OSError: a folder cannot be read.
    """

    def refuse(fault: OSError) -> None:
        if not isinstance(fault, FileNotFoundError):  # which has no records
            raise fault

    for name, inside, files in os.walk(Path(results) / (scale or ""), onerror=refuse):
        inside[:] = sorted(each for each in inside if not each.startswith("."))
        if {"manifest.json", "measurements.csv"}.intersection(files):
            folder = Path(name)
            where = folder.parent.relative_to(results).as_posix()
            yield Record(Path(results), where, folder.name)


@dataclass(frozen=True)
class Record:
    """The files of one run."""

    results: Path  # folder of all records
    scale: str  # smoke, laptop or paper
    run: str  # the run's name

    @property
    def folder(self) -> Path:
        """Where table and manifest are."""
        return self.results / self.scale / self.run

    @property
    def table_path(self) -> Path:
        """The measurements."""
        return self.folder / "measurements.csv"

    @property
    def manifest_path(self) -> Path:
        """The run's provenance."""
        return self.folder / "manifest.json"

    @property
    def state_folder(self) -> Path:
        """What the run needs to go on, and its lock."""
        return self.results / ".state" / self.scale / self.run

    @property
    def state_path(self) -> Path:
        """Weights, order of the samples and rows so far."""
        return self.state_folder / "state.pt"

    def read_manifest(self) -> dict | None:
        """The manifest, or None where there is none.

        Raises:
            RecordError: it cannot be read, was altered, contradicts itself or its folder, or is of
                another format.
        """
        content = _content_of(self.manifest_path)
        if content is None:
            return None
        return decode(content, self.manifest_path, self.scale, self.run)

    def read_table_text(self, manifest: Mapping) -> str:
        """The part of the table that the manifest vouches for.

        Raises:
            RecordError: the table is missing or cannot be read, is not the one that the manifest
                was made with, or ends at another step than the manifest says.
        """
        expected = manifest["table"]
        content = _content_of(self.table_path)
        if content is None:
            raise RecordError(f"{self.table_path} is missing, its manifest is there. {REMEDY}")
        content = content[: expected["bytes"]]
        found = hashlib.sha256(content).hexdigest()
        if found != expected["sha256"]:
            raise RecordError(
                f"{self.table_path} is altered: its manifest says SHA-256 {expected['sha256']} "
                f"of the first {expected['bytes']} bytes, found {found}. {REMEDY}"
            )
        text = content.decode()
        for fault in _table_faults(text, manifest):
            raise RecordError(f"{self.table_path} and its manifest differ: {fault}. {REMEDY}")
        return text

    def read_table(self) -> pd.DataFrame:
        """The measurements as a table, one row a checkpoint and set of samples.

        Raises:
            RecordError: there is no such record, or it was altered.
        """
        manifest = self.read_manifest()
        if manifest is None:
            raise RecordError(f"there is no record {self.folder}")
        return parsed(self.read_table_text(manifest)).copy()

    def read_rows(self, manifest: Mapping) -> list[dict[str, str]]:
        """The rows that the manifest vouches for, each cell the text that `render` made of it.

        Raises:
            RecordError: the table is missing or altered.
        """
        return list(csv.DictReader(io.StringIO(self.read_table_text(manifest))))

    def write(self, rows: Sequence[Mapping], manifest: Mapping) -> None:
        """Put table, then manifest in place.

        Raises:
            ValueError: a manifest that reading would refuse; nothing is written.
            RecordError: the rows do not continue those in place.
            OSError: the disk is full; the record is then as it was, or has the new table with
                the old manifest, which vouches for its beginning.
        """
        text = render(rows)
        content = text.encode()
        table = {
            "rows": len(rows),
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        whole = {**manifest, "table": table}
        for fault in [*faults(whole, self.scale, self.run), *_table_faults(text, whole)]:
            raise ValueError(f"{self.manifest_path} would be refused when it is read: {fault}")
        encoded = encode(whole)
        before = self.read_manifest()
        if before is not None:
            _require_continuation(self.table_path, self.read_table_text(before), text)
        write_atomically(self.table_path, lambda file: file.write(content))
        write_atomically(self.manifest_path, lambda file: file.write(encoded))

    def write_weights(self, step: int, weights: Mapping[str, torch.Tensor]) -> dict:
        """Put the weights of this step in place.

        Returns:
            What the manifest says of them: step, file and hash.
        """
        arrays = {name: tensor.cpu().numpy() for name, tensor in weights.items()}
        path = self.folder / f"weights-{step}.npz"
        write_atomically(path, lambda file: np.savez(file, **arrays))
        return {"step": step, "file": path.name, "sha256": array_hash(arrays)}

    def read_weights(self, net: nn.Module) -> dict[str, torch.Tensor]:
        """The weights archived last, for ``net.load_state_dict``.

        Args:
            net: the network of the run's configuration. No memory is taken for weights of other
                shapes than it has.

        Raises:
            RecordError: the run archives none, or the file is missing, altered or of another
                network.
        """
        manifest = self.read_manifest()
        if manifest is None or manifest["weights"] is None:
            raise RecordError(f"{self.folder} holds no weights: none, or not yet")
        path = self.folder / manifest["weights"]["file"]
        expected = manifest["weights"]["sha256"]
        own = {name: tensor.cpu().numpy() for name, tensor in net.state_dict().items()}
        forms = {name: (array.shape, array.dtype) for name, array in own.items()}
        try:
            arrays = read_arrays(path, forms)
        except (OSError, ValueError) as fault:
            raise RecordError(f"{path} is missing or altered: {fault}. {REMEDY}") from fault
        found = array_hash(arrays)
        if found != expected:
            raise RecordError(
                f"{path} is altered: its manifest says {expected}, found {found}. {REMEDY}"
            )
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def check_weights(self, manifest: Mapping) -> None:
        """Refuse archived weights whose file is missing or damaged; `read_weights` says if altered.

        Raises:
            RecordError: there is no such file, or its check sums are not those of its content.
        """
        if manifest["weights"] is None:
            return
        path = self.folder / manifest["weights"]["file"]
        try:
            with zipfile.ZipFile(path) as file:
                damaged = file.testzip()
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as fault:
            raise RecordError(f"{path} is missing or damaged: {fault}. {REMEDY}") from fault
        if damaged:
            raise RecordError(f"{path} is damaged in {damaged}. {REMEDY}")

    def write_state(self, state: Mapping) -> None:
        """Put the state in place, after its own hash."""
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        content = buffer.getvalue()
        digest = hashlib.sha256(content).hexdigest().encode()
        write_atomically(self.state_path, lambda file: file.write(digest + content))

    def read_state(self) -> dict | None:
        """The state, or None where there is none.

        Raises:
            RecordError: it cannot be read or was altered.
        """
        content = _content_of(self.state_path)
        if content is None:
            return None
        if hashlib.sha256(content[64:]).hexdigest().encode() != content[:64]:
            raise RecordError(
                f"{self.state_path} is altered; delete it and {self.folder} to start the run again"
            )
        return torch.load(io.BytesIO(content[64:]), weights_only=True)

    def at_work(self) -> bool:
        """Whether a process has the run's lock; to ask leaves no trace."""
        path = self.state_folder / "lock"
        if not path.exists():
            return False
        try:
            with FileLock(path, blocking=False):
                return False
        except Timeout:
            return True

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from this run; the system frees the lock of a killed process.

        Raises:
            LockedError: another process has it.
        """
        self.state_folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.state_folder / "lock", blocking=False)
        try:
            lock.acquire()
        except Timeout:
            raise LockedError(
                f"another process is at work on {self.scale}/{self.run} in {self.results}"
            ) from None
        try:
            for folder in (self.folder, self.state_folder):
                remove_partial_files(folder)
            yield
        finally:
            lock.release()


def _content_of(path: Path) -> bytes | None:
    """The bytes of a record's file, or None where there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except NotADirectoryError as fault:
        raise RecordError(
            f"{path} cannot be there: a part of its path is a file; name a folder for the results"
        ) from fault
    except OSError as fault:  # one record that cannot be read shall hide no other
        raise RecordError(f"{path} cannot be read: {fault.strerror}. {REMEDY}") from fault


def render(rows: Sequence[Mapping]) -> str:
    """Rows as comma-separated text; undefined numbers are empty.

    >>> print(render([{"step": 0, "loss": 0.1}, {"step": 5, "loss": math.nan}]), end="")
    step,loss
    0,0.1
    5,
    """
    if not rows:
        return ""
    names = list(rows[0])
    lines = [",".join(names)]
    for row in rows:
        if list(row) != names:
            odd = sorted(set(row) ^ set(names))
            raise ValueError(f"rows of one table need the same columns; these differ: {odd}")
        lines.append(",".join(_cell(row[name]) for name in names))
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.{DIGITS}g}"
    return str(value)


@lru_cache(maxsize=256)  # more than there are runs, as a page reads all of them several times
def parsed(*texts: str) -> pd.DataFrame:
    """The rows of tables of the same columns, one table below the other.

    Tables of few rows are parsed thirty times faster together than one by one.
    """
    columns = texts[0][: texts[0].find("\n") + 1]
    rows = "".join(text[len(columns) :] for text in texts)
    return pd.read_csv(io.StringIO(columns + rows), low_memory=False).copy()  # in one piece


def _table_faults(text: str, manifest: Mapping) -> Iterator[str]:
    """What the manifest says of a table and the table does not bear out."""
    lines = text.splitlines()
    n_rows, said = len(lines) - 1, manifest["table"]["rows"]
    if n_rows != said:
        yield f"the table has {n_rows} rows, the manifest says {said}"
    last = dict(zip(lines[0].split(","), lines[-1].split(","), strict=False)) if lines else {}
    if not last.get("step", "").isdecimal():
        yield "the table names no step in its last row"
        return
    # A run that diverged came further than its last measurement.
    step, reached, diverged = int(last["step"]), manifest["steps"], manifest["status"] == "diverged"
    if step > reached or (step < reached and not diverged):
        yield f"the table ends at step {step}, the manifest says {reached}"


def _require_continuation(path: Path, before: str, after: str) -> None:
    """An archived row may be followed by others; it may not change or go."""
    if after.startswith(before):
        return
    if before.startswith(after):
        lost = before[len(after) :].count("\n")
        raise RecordError(
            f"{path} would lose its last {lost} lines: what is to be written is older than what is "
            "archived. Use another results folder."
        )
    pairs = zip(before.splitlines(), after.splitlines(), strict=False)
    line, (old, new) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
    raise RecordError(
        f"{path} would change in line {line + 1}: archived is {old[:120]!r}, now found "
        f"{new[:120]!r}. Archived rows are never rewritten; use another results folder."
    )
