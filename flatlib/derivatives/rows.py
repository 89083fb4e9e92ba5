"""How the rows of a tensor on the way belong to the samples of the batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MIXED_ROWS = 1e-12  # of the largest gradient: what sums in another order may change, on a GPU
FACTORS = 251  # different factors of samples, the largest 2^250


@dataclass(frozen=True)
class Rows:
    """Where the samples are: along axis 0, along axis 1, or along axis 0 with k rows each."""

    n: int
    place: str  # "first", "second" or "folded"

    def arranged(self, tensor: Tensor) -> Tensor:
        """A view whose axis 0 is the samples, ``(n, ...)``."""
        if self.place == "second":
            return tensor.transpose(0, 1)
        return tensor.unflatten(0, (self.n, -1)) if self.place == "folded" else tensor

    def flat(self, tensor: Tensor) -> Tensor:
        """The rows of each sample as one row, ``(n, m)``."""
        return self.arranged(tensor).reshape(self.n, -1)

    def outputs(self, gradients: Tensor) -> Tensor:
        """Gradients of K outputs, ``(K, *shape)``, with the samples in front: ``(n, K, ...)``."""
        if self.place == "first":
            return gradients.transpose(0, 1)
        if len(gradients) == 1:  # a view
            return self.arranged(gradients[0]).unsqueeze(1)
        return torch.stack([self.arranged(gradient) for gradient in gradients], dim=1)

    def shape(self, shape: torch.Size) -> torch.Size:
        """The shape of a tensor of ``shape`` once it is arranged."""
        return self.arranged(torch.empty(shape, device="meta")).shape

    def shared_axes(self, shape: torch.Size) -> list[int]:
        """The arranged axes, axis 0 apart, along which something of ``shape`` is repeated."""
        arranged = Rows(1, self.place).shape(shape)
        return [axis for axis in range(1, len(arranged)) if arranged[axis] == 1]

    def fits(self, shape: torch.Size) -> bool:
        """Whether something of ``shape``, repeated along axes of 1, is the same for all samples."""
        return shape[1 if self.place == "second" else 0] == 1


def gaussian(shape: Sequence[int], like: Tensor, generator: torch.Generator) -> Tensor:
    """Normal numbers, drawn on the CPU whatever the default device, where and as ``like`` is."""
    return torch.randn(shape, generator=generator, device="cpu", dtype=torch.float64).to(like)


def factors(n: int, like: Tensor) -> Tensor:
    """A power of two for each sample, ``(n,)``.

    Where powers must be used again, they come in another order, or samples `FACTORS` apart could
    be exchanged unseen.
    """
    generator = torch.Generator().manual_seed(0)
    orders = [torch.arange(FACTORS, device="cpu")]
    while len(orders) * FACTORS < n:
        orders.append(torch.randperm(FACTORS, generator=generator, device="cpu"))
    return (2.0 ** torch.cat(orders)[:n].double()).to(like)


def weights(n: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """A different random number from 0 to 1.5 for each sample, ``(n,)``, of which one is 0."""
    apart = torch.randperm(n, generator=generator, device="cpu").double()
    jitter = 0.5 * torch.rand(n, generator=generator, device="cpu", dtype=torch.float64)
    return ((apart + jitter * (apart > 0)) / n).to(like)


def belonging(
    one: Tensor, other: Tensor, factor: Tensor, foldable: bool, likely: str | None = None
) -> Rows | None:
    """How rows belong to samples, from gradients of all outputs and of weighted outputs.

    ``other`` is the gradient with each sample's output multiplied by its ``factor``. A row of one
    sample has that sample's factor. Powers of two change nothing else, no rounding either, so
    that a gradient which is all rounding is not taken for a mixture. Of several places that the
    gradients allow, as gradients of 0 allow any, it is the ``likely`` one.
    """
    for rows in _candidates(one.shape, len(factor), foldable, likely):
        mine, its = rows.flat(one), rows.flat(other)
        off = (its / factor[:, None] - mine).abs().nan_to_num(nan=0.0, posinf=math.inf).amax()
        # What is NaN is refused later, or is of the company.
        if not off > MIXED_ROWS * mine.abs().nan_to_num(nan=0.0, posinf=math.inf).amax():
            return rows
    return None


def unweighted(
    gradient: Tensor, weight: Tensor, foldable: bool, likely: str | None = None
) -> Rows | None:
    """Where the rows of samples can be, if the sample of weight 0 has none but zeros."""
    last = int(weight.argmin())
    for rows in _candidates(gradient.shape, len(weight), foldable, likely):
        off = rows.arranged(gradient)[last].abs().amax()
        # Where rows are apart, off is 0, and the largest of all gradients is not looked for.
        if not off > 0 or not off > MIXED_ROWS * gradient.abs().amax():
            return rows
    return None


def _candidates(shape: torch.Size, n: int, foldable: bool, likely: str | None) -> list[Rows]:
    """Where the samples can be, the likely place first."""
    found = []
    if len(shape) and shape[0] == n:
        found.append(Rows(n, "first"))
    if foldable and len(shape) > 2 and shape[1] == n:
        found.append(Rows(n, "second"))
    if foldable and len(shape) > 1 and shape[0] > n and shape[0] % n == 0:
        found.append(Rows(n, "folded"))
    return sorted(found, key=lambda rows: rows.place != likely)
