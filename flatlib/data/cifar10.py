"""CIFAR-10, or some of its classes, cached as one array file."""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path

import numpy as np

from ..files import array_hash, write_atomically
from . import vision
from .folder import DataError, altered, data_folder, download_into
from .record import Data, check_classes, from_labels

ARRAYS = (
    "train_images",  # (n, 32, 32, 3) uint8, in the original order
    "train_labels",  # (n,)
    "train_index",  # (n,) positions in the full set
    "test_images",
    "test_labels",
    "test_index",
)
KNOWN_CONTENT = {  # hash of the arrays of a choice of classes
    (0, 1): "782e74e7bc2dbb5d447cfba52a6d97744d242a2dc8c0b0d38992844e533bf072",
}
HASH = "content_sha256"  # name under which a cache file carries the hash of its own arrays
BATCHES = "cifar-10-batches-py"  # torchvision's folder


def cifar10(classes: tuple[int, ...] = tuple(range(10))) -> Data:
    """CIFAR-10: 5,000 training and 1,000 test images a class, (3, 32, 32) pixels in [0, 1].

    Targets have ten entries whatever classes are chosen, as in the paper.

    Args:
        classes: labels to keep; the paper keeps ``(0, 1)``, airplane and automobile.

    Raises:
        DataError: a file is truncated or altered, or missing and cannot be downloaded.
        ValueError: labels that CIFAR-10 does not have.
    """
    classes = check_classes(classes, 10)
    path = data_folder() / _cache_name(classes)
    if not path.exists():
        _write_cache(path, classes)
    arrays = _read_cache(path, classes)
    parts = []
    for part in ("train", "test"):
        pixels = arrays[f"{part}_images"].transpose(0, 3, 1, 2).astype(np.float32) / 255
        parts += [pixels, arrays[f"{part}_labels"]]
    return from_labels("cifar10", classes, 10, *parts)


def _cache_name(classes: tuple[int, ...]) -> str:
    if classes == (0, 1):
        return "cifar10_2class.npz"
    return f"cifar10_classes_{'_'.join(map(str, classes))}.npz"


def _read_cache(path: Path, classes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The arrays of a cache file, checked by their content: zip headers may differ."""
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in ARRAYS}
            own = str(file[HASH]) if HASH in file else "none inside the file"
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as fault:
        raise altered(path, f"the arrays {', '.join(ARRAYS)}", f"{fault}") from fault
    expected = KNOWN_CONTENT.get(classes, own)
    found = array_hash(arrays)
    if found != expected:
        raise altered(path, f"arrays of SHA-256 {expected}", found)
    return arrays


def _write_cache(path: Path, classes: tuple[int, ...]) -> None:
    """Take the classes out of torchvision's CIFAR-10 and store them whole."""
    arrays = {}
    for part in ("train", "test"):
        full = _torchvision_cifar10(path.parent, train=part == "train")
        labels = np.asarray(full.targets, dtype=np.uint8)
        index = np.flatnonzero(np.isin(labels, classes)).astype(np.int32)
        arrays[f"{part}_images"] = full.data[index]
        arrays[f"{part}_labels"] = labels[index]
        arrays[f"{part}_index"] = index
    stored = {**arrays, HASH: np.array(array_hash(arrays))}
    write_atomically(path, lambda file: np.savez_compressed(file, **stored))


def _torchvision_cifar10(folder: Path, train: bool):
    """torchvision's data set in this folder, downloaded on first use and checked file by file."""
    dataset = vision.datasets().CIFAR10
    batches = folder / BATCHES
    if not batches.exists():
        with download_into(folder, "CIFAR-10") as temporary:
            dataset(temporary, download=True)
            try:
                os.replace(temporary / BATCHES, batches)
            except OSError:
                if not batches.exists():  # else another process was first
                    raise
    meta = (dataset.meta["filename"], dataset.meta["md5"])
    for name, expected in [*dataset.train_list, *dataset.test_list, meta]:
        path = batches / name
        if not path.exists():
            raise DataError(
                f"{path} is missing. Delete the folder {batches} and load again, "
                "which downloads a fresh copy."
            )
        found = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        if found != expected:
            raise DataError(
                f"{path} is truncated or altered: expected MD5 {expected}, found {found}. "
                f"Delete the folder {batches} and load again, which downloads a fresh copy."
            )
    return dataset(folder, train=train)
