"""Files that are either whole or absent: atomic writes and content hashes."""

from __future__ import annotations

import hashlib
import os
import struct
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Put a file in place whole, or leave what was there.

    The bytes go to a temporary file of the same folder, reach the disk, and only then take the
    name ``path``; a crash, a kill or a full disk at any instant leaves the old file or none.

    Args:
        path: where the file shall be; its folder is made if need be.
        write: called once with a binary file open for writing.

    Raises:
        OSError: the disk is full or the folder cannot be written; ``path`` is then unchanged, and
            the error names ``path``, not the temporary file.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomically(Path(folder) / "note", lambda file: file.write(b"whole"))
    ...     (Path(folder) / "note").read_bytes()
    b'whole'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name}-"
    try:
        handle, temporary = tempfile.mkstemp(prefix=prefix, suffix=".part", dir=path.parent)
    except OSError as fault:
        raise _of(path, fault) from fault
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as fault:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(fault, OSError) and fault.filename == temporary:
            raise _of(path, fault) from fault
        raise
    _sync_folder(path.parent)


def _of(path: Path, fault: OSError) -> OSError:
    """The same error, of a file by the name that was asked for."""
    return OSError(fault.errno, fault.strerror, str(path))


def remove_partial_files(folder: Path) -> None:
    """Remove what killed writers left of files; the caller sees to it that none is writing."""
    for path in folder.glob(".*.part"):
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename in this folder durable, where the system lets a folder be opened."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_arrays(
    path: Path, forms: Mapping[str, tuple[tuple[int, ...], np.dtype]]
) -> dict[str, np.ndarray]:
    """Arrays of an ``.npz`` file whose shapes and types are known.

    Every array's header is looked at before memory is taken for any of them, so a small file
    cannot ask for more than the known shapes need. Other arrays in the file are not read.

    Args:
        path: the file.
        forms: shape and type of each array.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no such arrays; the message says which differs and how.
    """
    broken = (
        *(KeyError, EOFError, SyntaxError, RuntimeError, tokenize.TokenError),
        *(struct.error, zipfile.BadZipFile, zlib.error),
    )
    try:
        with zipfile.ZipFile(path) as file:
            for name, (shape, dtype) in forms.items():
                with file.open(f"{name}.npy") as member:
                    found = _read_form(member)
                if found != (tuple(shape), dtype):
                    raise ValueError(
                        f"{name} is said to be {found[1]} of shape {found[0]}, "
                        f"not {dtype} of shape {tuple(shape)}"
                    )
            arrays = {}
            for name in forms:
                with file.open(f"{name}.npy") as member:
                    arrays[name] = np.lib.format.read_array(member, allow_pickle=False)
    except broken as fault:
        raise ValueError(f"{type(fault).__name__}: {fault}") from fault
    return arrays


def _read_form(member: BinaryIO) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type that an array's header says; version 1.0 has at most 64 KiB of it."""
    version = np.lib.format.read_magic(member)
    if version != (1, 0):
        raise ValueError(f"an array of format {version}, expected (1, 0)")
    shape, _, dtype = np.lib.format.read_array_header_1_0(member)
    return shape, dtype


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def array_hash(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of named arrays: their names, types, shapes and entries, in order of the names.

    >>> first = array_hash({"a": np.zeros(2), "b": np.ones(1)})
    >>> first == array_hash({"b": np.ones(1), "a": np.zeros(2)})
    True
    >>> first == array_hash({"a": np.zeros((2, 1)), "b": np.ones(1)})
    False
    """
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes() if array.size == 0 else array.data)
    return digest.hexdigest()
