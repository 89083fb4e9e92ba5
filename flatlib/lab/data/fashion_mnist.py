"""FashionMNIST, read from the four original files."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np

from . import vision
from .folder import data_folder, download_into, require_hash
from .record import Data, from_labels

FILES = {  # name: SHA-256
    "train-images-idx3-ubyte.gz": (
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"
    ),
    "train-labels-idx1-ubyte.gz": (
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"
    ),
    "t10k-images-idx3-ubyte.gz": (
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"
    ),
}


def fashion_mnist() -> Data:
    """FashionMNIST: 60,000 training and 10,000 test images, 784 pixels in [0, 1], ten classes.

    Raises:
        DataError: a file is truncated or altered, or missing and cannot be downloaded.
    """
    raw = data_folder() / "FashionMNIST" / "raw"
    missing = [name for name in FILES if not (raw / name).exists()]
    if missing:
        _download(raw, f"FashionMNIST ({', '.join(missing)} in {raw})")
    for name, expected in FILES.items():
        require_hash(raw / name, expected)
    train_x, train_labels, test_x, test_labels = (_read(raw / name) for name in FILES)
    pixels = [x.reshape(len(x), -1).astype(np.float32) / 255 for x in (train_x, test_x)]
    return from_labels(
        "fashion-mnist", tuple(range(10)), 10, pixels[0], train_labels, pixels[1], test_labels
    )


def _download(raw: Path, what: str) -> None:
    """Let torchvision fetch and check the files; put those that lack in place, each at once."""
    with download_into(data_folder(), what) as temporary:
        vision.datasets().FashionMNIST(temporary, download=True)
        raw.mkdir(parents=True, exist_ok=True)
        for name, expected in FILES.items():
            fresh = temporary / "FashionMNIST" / "raw" / name
            require_hash(fresh, expected)
            if not (raw / name).exists():
                os.replace(fresh, raw / name)


def _read(path: Path) -> np.ndarray:
    """An IDX file: its fourth byte counts the axes, four bytes give each axis's length."""
    with gzip.open(path) as file:
        content = file.read()
    n_axes = content[3]
    shape = np.frombuffer(content, ">i4", count=n_axes, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * n_axes).reshape(shape)
