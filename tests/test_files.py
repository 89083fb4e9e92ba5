"""Files are whole or absent, and hashes see all of an array."""

from __future__ import annotations

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
