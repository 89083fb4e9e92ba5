"""Data that need no download: scikit-learn's digits and Gaussian clusters."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .record import Data, from_labels, select_classes

TEST_EVERY = 5  # of each class's samples, every fifth is a test sample
IMAGE_REPEAT = 4  # each of a digit's 8 x 8 pixels becomes a block of 4 x 4


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Pixels from 0 to 16 and labels, from the table that is installed with scikit-learn.

    scikit-learn itself takes a second and a half to import, in every process that trains.
    """
    package = find_spec("sklearn")
    if package is None:
        raise ModuleNotFoundError(
            "the digits come with scikit-learn, which is not installed: "
            "pip install 'flatlib-sharpness[lab]'",
            name="sklearn",
        )
    folder = Path(package.origin).parent / "datasets" / "data"
    table = np.loadtxt(folder / "digits.csv.gz", delimiter=",")
    return table[:, :-1], table[:, -1].astype(int)


def _digit_split(classes: tuple[int, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pixels in [0, 1] and labels of the training and the test samples, in the original order."""
    pixels, labels = _digits()
    pixels = (pixels / 16).astype(np.float32)
    position = np.zeros(len(labels), dtype=int)  # of a sample within its own class
    for label in range(10):
        position[labels == label] = np.arange((labels == label).sum())
    is_test = position % TEST_EVERY == TEST_EVERY - 1
    return [select_classes(pixels[mask], labels[mask], classes) for mask in (~is_test, is_test)]


def digits(classes: tuple[int, ...] = tuple(range(10))) -> Data:
    """scikit-learn's 1,797 handwritten digits: 8 x 8 pixels in [0, 1], flattened to 64.

    Every fifth sample of a class is a test sample, so both parts hold the classes in the same
    proportions, and the split is the same everywhere.
    """
    (train_x, train_labels), (test_x, test_labels) = _digit_split(classes)
    return from_labels("digits", classes, 10, train_x, train_labels, test_x, test_labels)


def digit_images(classes: tuple[int, ...] = tuple(range(10))) -> Data:
    """The digits as one-channel images of 32 x 32, for networks that need room to convolve."""
    parts = []
    for pixels, labels in _digit_split(classes):
        images = pixels.reshape(-1, 1, 8, 8)
        parts += [images.repeat(IMAGE_REPEAT, axis=2).repeat(IMAGE_REPEAT, axis=3), labels]
    return from_labels("digit-images", classes, 10, *parts)


def gaussian(n: int = 100, M: int = 10, N: int = 3, noise: float = 0.3, seed: int = 0) -> Data:
    """Gaussian clusters: class k is drawn around a center of its own.

    The centers are standard normal in ``R^M``; a sample is its center plus ``noise`` times a
    standard normal vector. Classes take turns, so they are balanced to within one sample.

    Args:
        n: number of training samples, and of test samples.
        M: input dimension.
        N: number of classes, and of outputs.
        noise: standard deviation around a center.
        seed: seed of centers and samples.

    Raises:
        ValueError: a number below 1, or a negative noise.
    """
    if min(n, M, N) < 1 or not noise >= 0:
        raise ValueError(
            f"n, M and N must be at least 1, noise at least 0; got {n=} {M=} {N=} {noise=}"
        )
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    centers = draw(N, M)
    labels = torch.arange(n) % N
    train_x, test_x = (centers[labels] + noise * draw(n, M) for _ in range(2))
    return from_labels(
        "gaussian",
        tuple(range(N)),
        N,
        train_x.float().numpy(),
        labels.numpy(),
        test_x.float().numpy(),
        labels.numpy(),
    )
