"""Files are whole or absent, and hashes see all of an array."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from flatlib import files


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "file"
    files.write_atomically(path, lambda file: file.write(b"old"))

    def fail(file):
        file.write(b"new, half of it")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        files.write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_an_error_names_the_file_that_was_asked_for(tmp_path, monkeypatch):
    def refused(prefix, suffix, dir):
        raise PermissionError(errno.EACCES, "Permission denied", f"{dir}/{prefix}t6bw{suffix}")

    taken = tmp_path / "folder"
    (taken / "inside").mkdir(parents=True)
    with pytest.raises(IsADirectoryError) as caught:
        files.write_atomically(taken, lambda file: file.write(b"new"))
    assert caught.value.filename == str(taken) and caught.value.filename2 is None
    monkeypatch.setattr(files.tempfile, "mkstemp", refused)
    with pytest.raises(PermissionError) as caught:
        files.write_atomically(tmp_path / "x.ipynb", lambda file: file.write(b"new"))
    assert str(caught.value) == f"[Errno 13] Permission denied: '{tmp_path / 'x.ipynb'}'"
    assert os.listdir(tmp_path) == ["folder"]


def test_hash_of_arrays_sees_names_types_shapes_and_entries():
    base = {"a": np.arange(6)}
    others = [
        {"b": np.arange(6)},
        {"a": np.arange(6).astype(np.int32)},
        {"a": np.arange(6).reshape(2, 3)},
        {"a": np.arange(1, 7)},
    ]
    hashes = {files.array_hash(arrays) for arrays in [base, *others]}
    assert len(hashes) == 5
    assert files.array_hash({"a": np.arange(12)[::2] // 2}) == files.array_hash(base)
