"""The order of the samples: shuffled epochs without replacement."""

from __future__ import annotations

import torch
from torch import Tensor

# The batches' own random stream: the seed of a run must not give its batches the very numbers
# that its weights were drawn from.
BATCH_STREAM = 0x0BA7C4E5


class Batches:
    """Indices of one batch after another; every epoch visits each sample once.

    The last batch of an epoch is smaller where the batch size does not divide the number of
    samples. The order depends on the seed alone, and PyTorch's global stream is not touched.

    >>> batches = Batches(n=5, batch_size=2, seed=0)
    >>> [len(batches.next()) for _ in range(4)]
    [2, 2, 1, 2]
    """

    def __init__(self, n: int, batch_size: int, seed: int):
        self.n = n
        self.batch_size = batch_size
        self.generator = torch.Generator().manual_seed(seed ^ BATCH_STREAM)
        self.epoch = 0
        self._shuffle()

    def _shuffle(self) -> None:
        self.order = torch.randperm(self.n, generator=self.generator)
        self.position = 0

    def next(self) -> Tensor:
        """Indices of the next batch, at most ``batch_size`` of them."""
        if self.position >= self.n:
            self.epoch += 1
            self._shuffle()
        start, self.position = self.position, self.position + self.batch_size
        return self.order[start : self.position]

    def skip(self, steps: int) -> None:
        """Pass over ``steps`` batches."""
        for _ in range(steps):
            self.next()

    def state(self) -> dict:
        """All that the order of the coming batches depends on."""
        return {
            "epoch": self.epoch,
            "position": self.position,
            "order": self.order.clone(),
            "generator": self.generator.get_state(),
        }

    def restore(self, state: dict) -> None:
        """Go on from where ``state`` was taken."""
        self.epoch = state["epoch"]
        self.position = state["position"]
        self.order = state["order"].clone()
        self.generator.set_state(state["generator"])
