"""The N backward passes of all samples, several outputs at once where memory lets them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from flatlib.checks import is_out_of_memory

from .mixing import Watched, pulled_back
from .rows import Rows


@dataclass(frozen=True)
class Target:
    """Where gradients are taken, and how the rows there belong to the samples."""

    edge: Tensor | GradientEdge
    shape: torch.Size
    rows: Rows


def gradients_of_outputs(
    output: Tensor,
    n: int,
    kept: Sequence[Target],
    shown: Sequence[Target],
    watched: Sequence[Watched],
    see: Callable[[Sequence[Tensor]], None],
    at_once: int,
    done: Callable[[int], object],
) -> list[Tensor]:
    """The gradients of the N outputs at the targets ``kept``, each ``(n, N, *shape)``.

    Those at the targets ``shown`` are shown to ``see``, ``(n, K, *shape)`` of K outputs, and
    forgotten, as are those at the places ``watched``. K is ``at_once``, or 1 where an operation
    cannot be batched; ``done`` is told how many samples times outputs each pass was for.
    """
    N = output.shape[1]
    first, last = len(kept), len(kept) + len(shown)
    made: list[Tensor] = []
    for outputs, found in _passes(output, [*kept, *shown, *watched], at_once):
        if outputs == slice(0, N):
            made = [gradient[:n] for gradient in found[:first]]
        else:
            made = made or [
                gradient.new_empty((n, N, *gradient.shape[2:])) for gradient in found[:first]
            ]
            for own, gradient in zip(made, found, strict=False):
                own[:, outputs] = gradient[:n]
        see([gradient[:n] for gradient in found[first:last]])
        for place, gradient in zip(watched, found[last:], strict=True):
            place.add(outputs, gradient)
        done(n * (outputs.stop - outputs.start))
    return made


def _passes(
    output: Tensor, targets: list[Target | Watched], at_once: int
) -> Iterator[tuple[slice, list[Tensor]]]:
    """Which outputs a pass is for, and their gradients ``(n, K, *shape)`` at each target."""
    start, N = 0, output.shape[1]
    while start < N:
        outputs = slice(start, min(start + at_once, N))
        try:
            found = _pass(output, outputs, targets)
        except RuntimeError as error:  # an operation that cannot be batched, a hook that looks
            if at_once == 1 or is_out_of_memory(error):
                raise
            at_once = 1
            continue
        yield outputs, [t.rows.outputs(each) for t, each in zip(targets, found, strict=True)]
        start = outputs.stop


def _pass(output: Tensor, outputs: slice, targets: list[Target | Watched]) -> list[Tensor]:
    """One backward pass of K outputs: for each target ``(K, *shape)``."""
    n, N = output.shape
    edges, shapes = [target.edge for target in targets], [target.shape for target in targets]
    K = outputs.stop - outputs.start
    directions = output.new_zeros((K, n, N))
    directions[:, :, outputs] = torch.eye(K, dtype=output.dtype, device=output.device)[:, None]
    if K == 1:  # any operation
        return [gradient[None] for gradient in pulled_back(output, directions[0], edges, shapes)]
    found = torch.autograd.grad(
        output,
        edges,
        directions,
        is_grads_batched=True,
        retain_graph=True,  # for a pass of each output, should an operation not batch
        allow_unused=True,
    )
    return [
        output.new_zeros((K, *shape)) if gradient is None else gradient
        for gradient, shape in zip(found, shapes, strict=True)
    ]
