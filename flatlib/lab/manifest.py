"""A run's manifest: what it must say, and the seal that shows an edit.

The seal stands in the second line of the file. It is the SHA-256 of all the other lines, so
``sed 2d manifest.json | sha256sum`` gives it. The file has one form to the byte, and a reader
accepts no other, so every change of a byte shows.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

FORMAT = 2  # of a record's files; a reader refuses others
UNSEALED_FORMAT = 1  # of records from before there was a seal
STATUSES = ("running", "complete", "diverged")


class RecordError(RuntimeError):
    """A record that contradicts what is asked for, or that was altered."""


class UnsealedError(RecordError):
    """A record from before manifests were sealed."""


def configuration_hash(configuration: Mapping) -> str:
    """SHA-256 of a run's configuration, whatever the order of its entries."""
    return hashlib.sha256(json.dumps(configuration, sort_keys=True).encode()).hexdigest()


def canonical(manifest: Mapping) -> bytes:
    """The one form that a manifest has on disk.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    return (json.dumps(manifest, indent=1, allow_nan=False) + "\n").encode()


def encode(manifest: Mapping) -> bytes:
    """The sealed file of a manifest without format and seal.

    >>> print(encode({"run": "a"}).decode(), end="")
    {
     "seal": "e11cb142d3ac1e7ad437b7cec5be4269f62fb6ac5c5a8fa8a83cc88f889dc6d2",
     "format": 2,
     "run": "a"
    }
    """
    rest = canonical({"format": FORMAT, **manifest})
    seal = f' "seal": "{hashlib.sha256(rest).hexdigest()}",\n'
    opening, others = rest[:2], rest[2:]
    return opening + seal.encode() + others


def decode(content: bytes, path: Path, scale: str, run: str) -> dict:
    """The manifest in a file's bytes, without format and seal.

    Args:
        content: the bytes.
        path: of the file, for the messages.
        scale: the folder that the run's folder is in.
        run: the name of the run's folder.

    Raises:
        RecordError: the bytes are no manifest, are of another format, do not bear their seal,
            or contradict themselves or the names of the folders.
    """
    _refuse_faulty(content, path, scale, run)
    return _without_seal(json.loads(content))


REMEDY = "Restore it, or delete the run's folder and run it again."


@lru_cache(maxsize=512)
def _refuse_faulty(content: bytes, path: Path, scale: str, run: str) -> None:
    """Look through a file's bytes once, as a page reads the same files often."""
    for fault in faults(_sealed(content, path), scale, run):
        raise RecordError(f"{path} is not of this run: {fault}. {REMEDY}")


def _without_seal(manifest: Mapping) -> dict:
    return {name: value for name, value in manifest.items() if name not in ("seal", "format")}


def _sealed(content: bytes, path: Path) -> dict:
    try:
        manifest = json.loads(content)
    except (ValueError, RecursionError) as fault:
        raise RecordError(f"{path} is altered: {fault}. {REMEDY}") from fault
    if not isinstance(manifest, dict):
        raise RecordError(f"{path} is altered: it holds no manifest. {REMEDY}")
    found = manifest.get("format")
    if found == UNSEALED_FORMAT and "seal" not in manifest:
        raise UnsealedError(
            f"{path} has format {found}, from before manifests were sealed. "
            "results/seal.py checks such a record and seals it."
        )
    if found != FORMAT:
        raise RecordError(
            f"{path} has format {found!r:.40}, this version of flatlib reads {FORMAT}. {REMEDY}"
        )
    manifest = _without_seal(manifest)
    try:
        whole = content == encode(manifest)
    except (ValueError, RecursionError) as fault:
        raise RecordError(f"{path} is altered: {fault}. {REMEDY}") from fault
    if not whole:
        raise RecordError(f"{path} is altered: its content does not bear its seal. {REMEDY}")
    return manifest


def faults(manifest: Mapping, scale: str, run: str) -> Iterator[str]:
    """What is wrong with a manifest in the folder ``scale/run``, one sentence each.

    Contradictions are looked for only where every field is there and of its type.
    """
    wrong = list(_misfits(manifest, FIELDS, "manifest"))
    yield from wrong or _contradictions(manifest, scale, run)


def _contradictions(manifest: Mapping, scale: str, run: str) -> Iterator[str]:
    for name, said, folder in (("run", manifest["run"], run), ("scale", manifest["scale"], scale)):
        if said != folder:
            yield f"it names the {name} {said!r}, its folder {folder!r}"
    if manifest["configuration_sha256"] != configuration_hash(manifest["configuration"]):
        yield "configuration_sha256 is not the hash of the configuration"
    reached = manifest["steps"] >= manifest["steps_asked"]
    if (manifest["status"] == "complete") != reached and manifest["status"] != "diverged":
        yield (
            f"its status is {manifest['status']} at step {manifest['steps']} "
            f"of {manifest['steps_asked']}"
        )
    weights = manifest["weights"]
    if weights is None:
        return
    if weights["file"] != f"weights-{weights['step']}.npz":
        yield f"weights of step {weights['step']} cannot be in a file {weights['file']!r}"
    if weights["step"] > manifest["steps"]:
        yield f"it has weights of step {weights['step']} and reaches step {manifest['steps']}"
    same = weights["sha256"] == manifest["weights_sha256"]
    if weights["step"] == manifest["steps"] and not same:
        yield "the hash of its weights is not weights_sha256"


def _misfits(value: object, form: object, name: str) -> Iterator[str]:
    """Where a value is not of its form.

    A form is a test of the value, ``[form]`` for a list, ``(form,)`` for null or the form,
    ``{"*": form}`` for an object with any names, or an object with the form of each field; a
    field whose name ends in ``?`` may be missing.
    """
    if isinstance(form, tuple):
        if value is not None:
            yield from _misfits(value, form[0], name)
    elif isinstance(form, list) and isinstance(value, list):
        for i, item in enumerate(value):
            yield from _misfits(item, form[0], f"{name}[{i}]")
    elif isinstance(form, dict) and isinstance(value, dict):
        fields = dict.fromkeys(value, form["*"]) if "*" in form else form
        for key, inner in fields.items():
            plain = key.removesuffix("?")
            if plain in value:
                yield from _misfits(value[plain], inner, f"{name}[{plain!r}]")
            elif key == plain:
                yield f"{name}[{plain!r}] is missing"
    elif not (callable(form) and form(value)):
        yield f"{name} is {value!r:.60}"


def _text(value: object) -> bool:
    return type(value) is str


def _count(value: object) -> bool:
    return type(value) is int and value >= 0


def _number(value: object) -> bool:
    return type(value) in (int, float)


def _flag(value: object) -> bool:
    return type(value) is bool


def _hash(value: object) -> bool:
    return _text(value) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _status(value: object) -> bool:
    return _text(value) and value in STATUSES


FIELDS = {
    "run": _text,
    "scale": _text,
    "status": _status,
    "note": _text,  # how training diverged, if it did
    "steps": _count,  # reached
    "steps_asked": _count,
    "configuration": {
        "net": _text,
        "data": _text,
        "lr": _number,
        "batch_size": _count,
        "seed": _count,
        "measure_every": _count,
        "measure_samples": _count,
        "loss": _text,
    },
    "configuration_sha256": _hash,
    "data": {"name": _text, "sha256": _hash, "n_train": _count, "n_test": _count},
    "weights_sha256": _hash,  # of the weights at the step reached
    "weights": ({"step": _count, "file": _text, "sha256": _hash},),  # of those archived
    "weights_command?": _text,  # makes the weights again, where the archive leaves them out
    "losses_and_accuracies_over": _text,
    "bounds": {"*": {"label": _text, "name": _text, "proven": _flag}},
    "sessions": [
        {
            "python": _text,
            "torch": _text,
            "numpy": _text,
            "scipy": _text,
            "commit": (_text,),
            "system": _text,
            "processor": _text,
            "device": _text,
            "threads": _count,
            "workers": _count,
            "stacked?": _count,
            "from_step": _count,
            "to_step": _count,
            "training_seconds": _number,
            "measuring_seconds": _number,
            "seconds_by_step?": {"*": _number},
        }
    ],
    "table": {"rows": _count, "bytes": _count, "sha256": _hash},
}
