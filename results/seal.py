"""Seal records from before manifests were sealed, each after a check of all that can be checked.

Run:  python results/seal.py [RESULTS ...]

Without arguments the script takes the folder that it lies in. A manifest of format 1 gets format 2
and its seal; nothing else changes, and a record that fails a check stays as it is and is named.
Sealed records are left alone.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

from flatlib.files import write_atomically
from flatlib.lab.data import DataError
from flatlib.lab.experiments import RunConfig
from flatlib.lab.experiments.config import load_data
from flatlib.lab.manifest import (
    FORMAT,
    UNSEALED_FORMAT,
    RecordError,
    UnsealedError,
    canonical,
    encode,
)
from flatlib.lab.records import Record
from flatlib.lab.training.loss import evaluate

# The weights measured again give the last row to rounding, which depends on the machine.
REMEASURED = 1e-4


def sealed(path: Path) -> bytes:
    """What shall stand in place of an unsealed manifest.

    Raises:
        RecordError: something about the run does not hold.
    """
    content = path.read_bytes()
    manifest = json.loads(content)
    require(canonical(manifest) == content, "its bytes are not as flatlib writes them")
    del manifest["format"]
    after = encode(manifest)
    lines = after.splitlines(keepends=True)
    lines[2] = lines[2].replace(str(FORMAT).encode(), str(UNSEALED_FORMAT).encode())
    require(lines[0] + b"".join(lines[2:]) == content, "more than the seal would change")
    with tempfile.TemporaryDirectory() as folder:
        record = Record(Path(folder), path.parent.parent.name, path.parent.name)
        shutil.copytree(path.parent, record.folder, copy_function=shutil.copyfile)
        record.manifest_path.write_bytes(after)
        check(record)
    return after


def check(record: Record) -> None:
    """Everything that a sealed record says of its run and that can be found out without it.

    Raises:
        RecordError: something does not hold.
    """
    manifest, table = record.read_manifest(), record.read_table()
    config = RunConfig(**manifest["configuration"], steps=manifest["steps_asked"])
    require(config.identity == manifest["configuration"], "its configuration has other types")
    require(config.name == record.run, f"a run of this configuration is called {config.name}")

    checkpoints = [step for step in config.checkpoints() if step <= manifest["steps"]]
    require(list(table["step"].unique()) == checkpoints, "its table has other checkpoints")
    sets = ["train", "test", "misclassified"] * len(checkpoints)
    require(list(table["samples"]) == sets, "its table has other sets of samples")
    columns = {f"{side}_{key}" for key in manifest["bounds"] for side in ("lhs", "rhs")}
    require(columns <= set(table.columns), "its table lacks an inequality")

    ends = [0, *(session["to_step"] for session in manifest["sessions"])]
    starts = [session["from_step"] for session in manifest["sessions"]]
    require(starts == ends[:-1], "its sessions do not follow one another")
    require(manifest["status"] == "diverged" or ends[-1] == manifest["steps"],
            "its sessions do not end at its last step")  # fmt: skip

    data = load_data(config.data)
    said = {"name": data.name, "sha256": data.content_hash,
            "n_train": len(data.train_x), "n_test": len(data.test_x)}  # fmt: skip
    require(manifest["data"] == said, "it was made with other data")
    if manifest["weights"] is None or manifest["weights"]["step"] != manifest["steps"]:
        return
    net = config.network()
    net.load_state_dict(record.read_weights(net))
    last = table.iloc[-1]
    for part, x, y in (("train", data.train_x, data.train_y), ("test", data.test_x, data.test_y)):
        loss, correct = evaluate(net, x, y, config.loss)
        found = {"loss": loss, "accuracy": float(correct.double().mean())}
        for name, value in found.items():
            archived = last[f"{part}_{name}"]
            require(abs(value - archived) <= REMEASURED * abs(archived),
                    f"its weights have {part} {name} {value}, its last row {archived}")  # fmt: skip


def require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise RecordError(otherwise)


def seal(path: Path) -> bool:
    """Seal one manifest, or say why not."""
    try:
        content = sealed(path)
    except (RecordError, DataError, OSError, ValueError, TypeError) as fault:
        print(f"refused: {path}: {fault}", file=sys.stderr)
        return False
    write_atomically(path, lambda file: file.write(content))
    print(f"sealed: {path}")
    return True


def main(folders: list[Path]) -> int:
    """Seal the records of some results folders.

    Returns:
        0 if every record there is sealed now, else 1.
    """
    refused = 0
    for path in sorted(path for folder in folders for path in folder.glob("*/*/manifest.json")):
        try:
            Record(path.parents[2], path.parent.parent.name, path.parent.name).read_manifest()
        except UnsealedError:
            refused += not seal(path)
        except (RecordError, OSError) as fault:
            print(f"refused: {fault}", file=sys.stderr)
            refused += 1
    return int(refused > 0)


if __name__ == "__main__":
    sys.exit(main([Path(name) for name in sys.argv[1:]] or [Path(__file__).parent]))
