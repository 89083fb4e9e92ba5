"""A manifest bears a seal: no edit of it passes, and no other content takes its place."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import random
import re
import shutil
from pathlib import Path

import pytest
from synthetic_archive import manifest_of, write

from flatlib.lab import cli, verdicts
from flatlib.lab.experiments import RunConfig, execute, load, records
from flatlib.lab.manifest import RecordError, canonical, decode, encode
from flatlib.lab.records import Record, default_results

COMMITTED = sorted(default_results().glob("*/*/manifest.json"))
TINY = RunConfig(
    "mlp-small", "digits", 0.5, 20, seed=3, steps=20, measure_every=20, measure_samples=4
)
NET = TINY.network()
BASE = [(0.1, 20, seed, 60_000) for seed in (0, 1)]


def read(path: Path, content: bytes) -> dict:
    return decode(content, path, path.parent.parent.name, path.parent.name)


def unsealed(content: bytes) -> bytes:
    """The same manifest as it was before there was a seal."""
    lines = content.splitlines(keepends=True)
    return lines[0] + lines[2].replace(b"2", b"1") + b"".join(lines[3:])


def another(byte: int, rng: random.Random) -> int:
    """A byte that a parser may take as well: of the same kind where there is such a kind."""
    for kind in (b"0123456789", b" \n\t\r", b"abcdefghijklmnopqrstuvwxyz"):
        if byte in kind:
            return rng.choice([other for other in kind if other != byte])
    return byte ^ rng.randrange(1, 256)


@pytest.fixture
def path(tmp_path) -> Path:
    """The manifest of one of two archived runs."""
    write(tmp_path, "mlp-bounds", BASE)
    return sorted(tmp_path.glob("laptop/*/manifest.json"))[0]


class TestCommitted:
    def test_every_manifest_bears_its_seal(self):
        assert len(COMMITTED) >= 40
        for path in COMMITTED:
            manifest = read(path, path.read_bytes())
            config = RunConfig(**manifest["configuration"], steps=manifest["steps_asked"])
            assert (config.name, config.identity_hash) == (
                path.parent.name,
                manifest["configuration_sha256"],
            )

    def test_a_seal_is_the_hash_of_the_other_lines(self):
        lines = COMMITTED[0].read_bytes().splitlines(keepends=True)
        rest = hashlib.sha256(lines[0] + b"".join(lines[2:])).hexdigest()
        assert lines[1] == f' "seal": "{rest}",\n'.encode()

    def test_no_byte_of_one_manifest_can_be_another(self):
        path = min(COMMITTED, key=lambda path: path.stat().st_size)
        content, rng = bytearray(path.read_bytes()), random.Random(0)
        for i, byte in enumerate(content):
            content[i] = another(byte, rng)
            with pytest.raises(RecordError):
                read(path, bytes(content))
            content[i] = byte

    def test_no_byte_drawn_from_the_others_can_be_another(self):
        rng = random.Random(1)
        for path in COMMITTED:
            original = path.read_bytes()
            for _ in range(20):
                content, i = bytearray(original), rng.randrange(len(original))
                content[i] = another(content[i], rng)
                with pytest.raises(RecordError):
                    read(path, bytes(content))


class TestEdits:
    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ('"steps": 60000', '"steps": 90000'),
            ('"lr": 0.1', '"lr": 0.2'),
            ('"lr": 0.1', '"lr": 0.10'),
            ('"batch_size": 20', '"batch_size": 32'),
            ('"seed": 0', '"seed": 5'),
            ('"complete"', '"diverged"'),
            ('"proven": true', '"proven": false'),
            ('"note": ""', '"note": "", "note": ""'),
            ("\n", "\r\n"),
            ("\n", ""),
        ],
    )
    def test_by_hand_are_refused_by_name(self, path, old, new):
        text = path.read_bytes().decode()
        assert old in text
        path.write_bytes(text.replace(old, new, 1).encode())
        record = Record(path.parents[2], "laptop", path.parent.name)
        for use in (record.read_manifest, record.read_table, lambda: record.read_weights(NET)):
            with pytest.raises(RecordError, match=f"{path} is altered.* Restore it, or delete"):
                use()
        for use in (records, load):
            with pytest.raises(RecordError, match=str(path)):
                use("mlp-bounds", "laptop", path.parents[2])

    @pytest.mark.parametrize(
        "content",
        [b"", b"[]", b"3", b"null", b'"text"', b"{", b"\xff\xfe", b"{}", b'{"format":1}',
         b'{"format":2}', b'{"format":{}}', b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000,
         b'{"format":2,"a":NaN}', b'{"format":2,"a":1e999}'],
    )  # fmt: skip
    def test_other_content_is_refused_by_name(self, path, content):
        path.write_bytes(content)
        with pytest.raises(RecordError, match=str(path)):
            Record(path.parents[2], "laptop", path.parent.name).read_manifest()

    def test_two_folders_cannot_be_swapped(self, path):
        first, second = sorted(path.parent.parent.iterdir())
        first.rename(first.parent / "between")
        second.rename(first)
        (first.parent / "between").rename(second)
        for folder, other in ((first, second), (second, first)):
            says = f"names the run '{other.name}', its folder '{folder.name}'"
            with pytest.raises(RecordError, match=says):
                Record(folder.parents[1], "laptop", folder.name).read_manifest()

    def test_a_scale_cannot_be_another(self, path):
        path.parent.parent.rename(path.parents[2] / "paper")
        with pytest.raises(RecordError, match="names the scale 'laptop', its folder 'paper'"):
            Record(path.parents[2], "paper", path.parent.name).read_manifest()

    def test_one_altered_manifest_hides_no_other(self, path, capsys):
        path.write_text("[]")
        assert cli.main(["status", "--results", str(path.parents[2])]) == 1
        out, err = capsys.readouterr()
        statuses = [line.split()[1] for line in out.splitlines()]
        assert statuses == ["altered", "complete"]
        assert path.parent.name in out.splitlines()[0]
        assert f"{path} is altered" in err

    @pytest.mark.parametrize("name", ["measurements.csv", "manifest.json"])
    @pytest.mark.parametrize("spoil", ["digit", "folder"])
    def test_one_damaged_file_hides_no_other_run(self, path, capsys, name, spoil):
        results, damaged = path.parents[2], path.parent / name
        content = damaged.read_bytes()
        damaged.unlink()
        if spoil == "folder":
            damaged.mkdir()
        else:
            damaged.write_bytes(content.replace(b"6", b"7", 1))
        assert cli.main(["status", "--results", str(results)]) == 1
        out, err = capsys.readouterr()
        assert [line.split()[1] for line in out.splitlines()] == ["altered", "complete"]
        assert path.parent.name in out.splitlines()[0]
        assert f"{damaged} " in err
        archive = verdicts.read(results)
        assert len(archive.runs) == len(archive.refused) == 1
        assert f"{path.parent.name}/{name} " in archive.refused[0]


class TestContradictions:
    """What contradicts itself is refused even where the seal was made anew."""

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"steps": 90_000}, "the table ends at step 60000, the manifest says 90000"),
            ({"steps": 30_000}, "its status is complete at step 30000 of 60000"),
            ({"status": "running"}, "its status is running at step 60000 of 60000"),
            ({"status": "done"}, r"manifest\['status'\] is 'done'"),
            ({"steps": True}, r"manifest\['steps'\] is True"),
            ({"steps": -1}, r"manifest\['steps'\] is -1"),
            ({"note": None}, r"manifest\['note'\] is None"),
            ({"sessions": {}}, r"manifest\['sessions'\] is \{\}"),
            ({"sessions": [{}]}, r"manifest\['sessions'\]\[0\]\['python'\] is missing"),
            ({"data": []}, r"manifest\['data'\] is \[\]"),
            ({"weights_sha256": 64 * "x"}, r"manifest\['weights_sha256'\] is 'xxx"),
            ({"configuration_sha256": 64 * "1"}, "is not the hash of the configuration"),
            ({"bounds": {"1": {"label": "1", "name": "", "proven": 1}}}, r"\['proven'\] is 1"),
            ({"weights": {}}, r"manifest\['weights'\]\['step'\] is missing"),
        ],
    )
    def test_are_refused(self, path, changes, says):
        manifest = json.loads(path.read_bytes())
        del manifest["seal"], manifest["format"]
        path.write_bytes(encode(manifest | changes))
        with pytest.raises(RecordError, match=says):
            Record(path.parents[2], "laptop", path.parent.name).read_table()

    @pytest.mark.parametrize("key", list(manifest_of(TINY, "smoke", 20)) + ["table"])
    def test_no_field_can_be_missing(self, path, key):
        manifest = json.loads(path.read_bytes())
        del manifest["seal"], manifest["format"], manifest[key]
        path.write_bytes(encode(manifest))
        with pytest.raises(RecordError, match=rf"manifest\['{key}'\] is missing"):
            Record(path.parents[2], "laptop", path.parent.name).read_manifest()

    @pytest.mark.parametrize(
        ("weights", "says"),
        [
            ({"step": 60_000, "file": "weights-60000.npz", "sha256": 64 * "1"}, "hash of its weig"),
            ({"step": 70_000, "file": "weights-70000.npz", "sha256": 64 * "0"}, "reaches step 600"),
            ({"step": 60_000, "file": "../weights-60000.npz", "sha256": 64 * "0"}, "cannot be in"),
            ({"step": 60_000, "file": "/tmp/weights-60000.npz", "sha256": 64 * "0"}, "cannot be"),
        ],
    )
    def test_of_the_archived_weights_are_refused(self, path, weights, says):
        manifest = json.loads(path.read_bytes())
        del manifest["seal"], manifest["format"]
        path.write_bytes(encode(manifest | {"weights": weights}))
        with pytest.raises(RecordError, match=says):
            Record(path.parents[2], "laptop", path.parent.name).read_weights(NET)

    def test_are_not_written_in_the_first_place(self, path):
        record = Record(path.parents[2], "laptop", path.parent.name)
        before = path.read_bytes()
        with pytest.raises(ValueError, match="would be refused when it is read: .*'note'"):
            record.write([{"step": 60_000}], record.read_manifest() | {"note": 3})
        assert path.read_bytes() == before


@pytest.fixture(scope="module")
def sealing():
    """The script that seals older records."""
    spec = importlib.util.spec_from_file_location("seal", COMMITTED[0].parents[2] / "seal.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TestSealing:
    @pytest.fixture(scope="class")
    def made(self, tmp_path_factory) -> Path:
        """An archive with one run and its weights."""
        results = tmp_path_factory.mktemp("made")
        execute(TINY, "smoke", results)
        return results

    @pytest.fixture
    def old(self, made, tmp_path) -> Path:
        """The same run's manifest from before there was a seal."""
        shutil.copytree(made / "smoke", tmp_path / "smoke")
        path = tmp_path / "smoke" / TINY.name / "manifest.json"
        path.write_bytes(unsealed(path.read_bytes()))
        return path

    def test_an_unsealed_record_is_refused_with_the_remedy(self, old):
        with pytest.raises(RecordError, match="before manifests were sealed.*results/seal.py"):
            Record(old.parents[2], "smoke", TINY.name).read_manifest()

    def test_seals_what_holds_and_changes_nothing_else(self, old, made, sealing, capsys):
        assert sealing.main([old.parents[2]]) == 0
        assert old.read_bytes() == (made / "smoke" / TINY.name / "manifest.json").read_bytes()
        assert sealing.main([old.parents[2]]) == 0
        assert capsys.readouterr().out == f"sealed: {old}\n"

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"steps": 0}, "complete at step 0 of 20"),
            ({"steps": 40, "steps_asked": 40}, "table ends at step 20"),
            ({"run": "another"}, "names the run 'another'"),
            ({"configuration": {"lr": 0.25}}, "not the hash of the configuration"),
            ({"configuration": {"seed": 3.0}}, r"\['seed'\] is 3.0"),
            ({"data": {"n_test": 1}}, "made with other data"),
            ({"weights_sha256": 64 * "0"}, "hash of its weights is not weights_sha256"),
            ({"bounds": {"99": {"label": "", "name": "", "proven": True}}}, "lacks an inequality"),
            ({"sessions": []}, "sessions do not end"),
        ],
    )
    def test_refuses_what_does_not_hold(self, old, sealing, capsys, changes, says):
        manifest = json.loads(old.read_bytes())
        for key, value in changes.items():
            if isinstance(value, dict):
                manifest[key] |= value
            else:
                manifest[key] = value
        content = canonical(manifest)
        old.write_bytes(content)
        assert sealing.main([old.parents[2]]) == 1
        assert re.search(says, capsys.readouterr().err)
        assert old.read_bytes() == content

    def test_refuses_a_run_under_the_name_of_another(self, old, sealing, capsys):
        """Its own hash of the configuration may have been made anew."""
        manifest = json.loads(old.read_bytes())
        other = RunConfig(**(manifest["configuration"] | {"lr": 0.25}), steps=20)
        manifest |= {"configuration": other.identity, "configuration_sha256": other.identity_hash}
        old.write_bytes(canonical(manifest))
        assert sealing.main([old.parents[2]]) == 1
        assert f"a run of this configuration is called {other.name}" in capsys.readouterr().err

    def test_refuses_weights_that_do_not_give_the_last_row(self, old, sealing, capsys):
        table = old.parent / "measurements.csv"
        rows = [line.split(",") for line in table.read_text().splitlines()]
        column = rows[0].index("test_loss")
        rows[-1][column] = str(1.01 * float(rows[-1][column]))
        content = "".join(",".join(row) + "\n" for row in rows).encode()
        table.write_bytes(content)
        manifest = json.loads(old.read_bytes())
        manifest["table"] |= {
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        old.write_bytes(canonical(manifest))
        assert sealing.main([old.parents[2]]) == 1
        assert "its weights have test loss" in capsys.readouterr().err
