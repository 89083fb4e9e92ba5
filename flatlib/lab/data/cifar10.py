"""CIFAR-10, or some of its classes, cached as one array file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from flatlib.files import array_hash, read_arrays, write_atomically

from . import vision
from .folder import DataError, altered, data_folder, download_into, remove_abandoned
from .record import Data, check_classes, from_labels

IMAGES = {"train": 5_000, "test": 1_000}  # of each class
CONTENT = (  # hash of each class's arrays: images, labels, and their positions in the full set
    "1a906eb2fd4482749c10a73724d7ae6c779d6fd0189c15afe7175bb93eb80947",
    "6029aa9c1e45863e1325f7c88ab4b5c53abf0e9369ac273f56425f51b1a44b9a",
    "6f4e689e33c988258a57e9ef0bb1b4f8bc225f1ce3d77658eb8e510b09327fa7",
    "bfcc9fa6f198e94f5f26a872869d6ce628b03423f55fe89f93b72dfa0a1056da",
    "da25ec364257e3af4e676e1c0d86389914e96ad3616101969c9dde9e127bd4d3",
    "b0b58d3ebaa628772f6025953cb9a04b75090117993e836f7836e5b0cf715271",
    "f6ab24ee0f9d9f07bebf8529b4b0636d11821b4dac016d4cd2c6b9e28fc8461b",
    "ca445a761aff1280cbe36690eed82f6349f475d433d212e83011471ee5afdd4e",
    "aec337c72956d1888f18cb3b5e6a1d1e2e6880808574aa96e7623817a61d2741",
    "a9bc771cf538cc34773a356eeba3eb29a6e593a520686894d2a47ecfa15cba08",
)
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
    for part in IMAGES:
        pixels = arrays[f"{part}_images"].transpose(0, 3, 1, 2).astype(np.float32) / 255
        parts += [pixels, arrays[f"{part}_labels"]]
    return from_labels("cifar10", classes, 10, *parts)


def _cache_name(classes: tuple[int, ...]) -> str:
    if classes == (0, 1):
        return "cifar10_2class.npz"
    return f"cifar10_classes_{'_'.join(map(str, classes))}.npz"


def _forms(n_classes: int) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and type of each array in a cache."""
    forms = {}
    for part, n in IMAGES.items():
        n_images = n_classes * n
        forms[f"{part}_images"] = ((n_images, 32, 32, 3), np.dtype(np.uint8))
        forms[f"{part}_labels"] = ((n_images,), np.dtype(np.uint8))
        forms[f"{part}_index"] = ((n_images,), np.dtype(np.int32))  # positions in the full set
    return forms


def _read_cache(path: Path, classes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The arrays of a cache file, each class checked by its content, and all by their order."""
    try:
        arrays = read_arrays(path, _forms(len(classes)))
    except (OSError, ValueError) as fault:
        raise altered(path, f"the arrays of {len(classes)} classes", f"{fault}") from fault
    for label in classes:
        found = array_hash(_of_class(arrays, label))
        if found != CONTENT[label]:
            raise altered(path, f"class {label} with SHA-256 {CONTENT[label]}", found)
    for part in IMAGES:
        if (np.diff(arrays[f"{part}_index"]) <= 0).any():
            raise altered(path, f"{part}_index in the original order", "another order")
    return arrays


def _of_class(arrays: Mapping[str, np.ndarray], label: int) -> dict[str, np.ndarray]:
    """The rows of one class."""
    chosen = {part: arrays[f"{part}_labels"] == label for part in IMAGES}
    return {name: array[chosen[name.split("_")[0]]] for name, array in arrays.items()}


def _write_cache(path: Path, classes: tuple[int, ...]) -> None:
    """Take the classes out of torchvision's CIFAR-10 and store them whole."""
    remove_abandoned(path.parent)
    arrays = {}
    for part in IMAGES:
        full = _torchvision_cifar10(path.parent, train=part == "train")
        labels = np.asarray(full.targets, dtype=np.uint8)
        index = np.flatnonzero(np.isin(labels, classes)).astype(np.int32)
        arrays[f"{part}_images"] = full.data[index]
        arrays[f"{part}_labels"] = labels[index]
        arrays[f"{part}_index"] = index
    write_atomically(path, lambda file: np.savez_compressed(file, **arrays))


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
        if path.is_dir():
            raise DataError(
                f"{path} is a folder, not a file. Delete the folder {batches} and load again, "
                "which downloads a fresh copy."
            )
        found = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        if found != expected:
            raise DataError(
                f"{path} is truncated or altered: expected MD5 {expected}, found {found}. "
                f"Delete the folder {batches} and load again, which downloads a fresh copy."
            )
    return dataset(folder, train=train)
