"""The record that every data set is handed out as."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from flatlib.files import array_hash


@dataclass(frozen=True)
class Data:
    """Training and test samples with one-hot targets.

    >>> data = from_labels("two", (0, 1), 2, np.eye(2), np.arange(2), np.eye(2), np.arange(2))
    >>> data.train_y
    tensor([[1., 0.],
            [0., 1.]])
    """

    name: str  # of the data set, with its classes where they were chosen
    classes: tuple[int, ...]  # labels that occur; target k is the k-th unit vector
    train_x: Tensor  # (n, *input_shape) float32
    train_y: Tensor  # (n, N) float32, one-hot
    test_x: Tensor  # (n_test, *input_shape) float32
    test_y: Tensor  # (n_test, N) float32, one-hot

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of the four tensors: equal hashes mean equal data."""
        names = ("train_x", "train_y", "test_x", "test_y")
        return array_hash({name: getattr(self, name).numpy() for name in names})

    def first(self, n: int) -> Data:
        """The same data with only the first ``n`` training samples; the test samples stay.

        Raises:
            ValueError: ``n`` below 1 or above the number of training samples.
        """
        if not 1 <= n <= len(self.train_x):
            raise ValueError(
                f"{self.name} has {len(self.train_x)} training samples; asked for the first {n}"
            )
        return replace(
            self,
            name=f"{self.name}-first-{n}",
            train_x=self.train_x[:n].clone(),
            train_y=self.train_y[:n].clone(),
        )


def check_classes(classes: Sequence[int], available: int) -> tuple[int, ...]:
    """The chosen labels, sorted.

    Raises:
        ValueError: none, a repeated one, or one that the data set does not have.
    """
    chosen = tuple(sorted(int(label) for label in classes))
    if not chosen or len(set(chosen)) < len(chosen) or not 0 <= chosen[0] <= chosen[-1] < available:
        raise ValueError(
            f"classes must be different labels from 0 to {available - 1}, got {tuple(classes)}"
        )
    return chosen


def select_classes(
    x: np.ndarray, labels: np.ndarray, classes: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """The samples whose label is among the chosen ones, in their original order."""
    chosen = np.isin(labels, check_classes(classes, 10))
    return x[chosen], labels[chosen]


def from_labels(
    name: str,
    classes: Sequence[int],
    n_outputs: int,
    train_x: np.ndarray,
    train_labels: np.ndarray,
    test_x: np.ndarray,
    test_labels: np.ndarray,
) -> Data:
    """Arrays and integer labels as ``Data`` with ``n_outputs`` one-hot targets."""
    classes = check_classes(classes, n_outputs)
    if len(classes) < n_outputs:
        name = "-".join([name, *map(str, classes)])
    eye = torch.eye(n_outputs)

    def tensor(x: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))

    def targets(labels: np.ndarray) -> Tensor:
        return eye[torch.from_numpy(np.asarray(labels, dtype=np.int64))]

    return Data(
        name, classes, tensor(train_x), targets(train_labels), tensor(test_x), targets(test_labels)
    )
