"""Backward passes, and what they tell of the rows of a batch: whose they are, and mixtures.

`find_rows` takes two passes and is sure. `weighted_pass` takes one, for where the N plain passes
follow: these complete the comparison, see `Watched`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from flatlib.checks import is_out_of_memory

from .recording import Call, Forward, Use
from .rows import MIXED_ROWS, Rows, belonging, factors, gaussian, unweighted, weights


def pulled_back(
    output: Tensor, direction: Tensor, targets: list, shapes: list[torch.Size]
) -> list[Tensor]:
    """One backward pass of ``output`` along ``direction``: for each target ``shape``."""
    try:
        found = torch.autograd.grad(
            output, targets, direction, retain_graph=True, allow_unused=True
        )
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(
            "the network cannot be differentiated (does an in-place operation overwrite what an "
            "earlier layer returned? use its out-of-place form; is a part recomputed by "
            f"checkpointing? switch that off): {error}"
        ) from error
    return [
        output.new_zeros(shape) if gradient is None else gradient
        for gradient, shape in zip(found, shapes, strict=True)
    ]


@dataclass(frozen=True)
class Place:
    """The input, what a call returns, or where a use acts."""

    edge: Tensor | GradientEdge
    shape: torch.Size
    foldable: bool  # whether the samples may be elsewhere than along axis 0
    likely: str | None = None  # where they are if the gradients leave it open
    of: Call | Use | None = None  # None for the input
    name: str = ""  # of the layer that is called


def _places(
    forward: Forward,
    kinds: dict[str, str],
    calls: dict[str, list[Call]],
    uses: list[Use],
    likely: dict[str, str] | None,
) -> list[Place]:
    """Where the rows shall be found."""
    found = [] if forward.source is None else [Place(forward.source, forward.x.shape, False)]
    for name, made in calls.items():
        how = (kinds[name] == "Linear", (likely or {}).get(name))
        found += [Place(call.output_edge, call.output_shape, *how, call, name) for call in made]
    return found + [Place(use.edge, use.shape, True, None, use) for use in uses]


def _settled(found: list[tuple[Place, Rows | None]], n: int) -> str | None:
    """Note the rows of each place; return the last mixture, which is next to the output."""
    mixed = None
    for place, rows in found:
        if place.of is None:
            mixed = None if rows else "x"
            continue
        place.of.rows = rows
        if isinstance(place.of, Use):
            continue
        if len(place.shape) == 1:
            place.of.rows = None
        elif rows is None and place.shape[0] == n:
            mixed, place.of.rows = f"layer {place.name!r}", Rows(n, "first")
    return mixed


def find_rows(
    forward: Forward,
    kinds: dict[str, str],
    calls: dict[str, list[Call]],
    uses: list[Use],
    likely: dict[str, str] | None = None,
) -> str | None:
    """Find out how the rows of each call and use belong to the samples, by two backward passes.

    ``likely`` tells where a layer's samples are if the gradients leave it open.

    Where they belong to none, `rows` stays None. Returns what has a row for one sample that
    reaches another's output though it has a row a sample: a layer, the input, or None. Of several
    it is the last, next to the mixture.
    """
    places = _places(forward, kinds, calls, uses, likely)
    edges, shapes = [place.edge for place in places], [place.shape for place in places]
    n, N = forward.output.shape
    generator = torch.Generator().manual_seed(0)
    direction = gaussian((n, N), forward.output, generator)
    factor = factors(n, forward.output)
    plain = [g.clone() for g in pulled_back(forward.output, direction, edges, shapes)]
    weighted = pulled_back(forward.output, factor[:, None] * direction, edges, shapes)
    found = [
        (place, belonging(one, other, factor, place.foldable, place.likely))
        for place, one, other in zip(places, plain, weighted, strict=True)
    ]
    return _settled(found, n)


@dataclass
class Watched:
    """A place where one pass of all outputs, each sample weighted, has been taken.

    A row that holds one sample alone has that sample's weight times what the plain passes of the
    N outputs sum to in the row, taken ``outputs`` times each. Both are compared along one random
    direction, which leaves a number for each sample.
    """

    edge: Tensor | GradientEdge
    shape: torch.Size
    rows: Rows
    weight: Tensor  # (n,)
    outputs: Tensor  # (N,)
    along: Tensor  # of the length that the rows of one sample have
    weighted: Tensor  # (n,)
    plain: Tensor  # (N, n), of each output's pass

    def add(self, outputs: slice, gradients: Tensor) -> None:
        """Take in the plain passes of K outputs, ``(n, K, ...)``."""
        # Seen from the outputs, which lie in front in memory, the product needs no copy.
        self.plain[outputs] = (
            gradients.transpose(0, 1).reshape(*gradients.shape[1::-1], -1) @ self.along
        )

    def holds(self) -> bool:
        """Whether every row holds one sample alone, after all N passes."""
        terms = self.plain * self.outputs[:, None]
        off = (self.weighted - self.weight * terms.sum(dim=0)).abs().amax()
        size = terms.abs().sum(dim=0).amax()
        return not off > MIXED_ROWS * size  # what is NaN is refused elsewhere


def rows_in_order(calls: dict[str, list[Call]], uses: list[Use], n: int) -> None:
    """Note that the rows of each call and use are the n samples, where that is known."""
    for place in (*(call for made in calls.values() for call in made), *uses):
        place.rows = Rows(n, "first")


def weighted_pass(
    forward: Forward,
    kinds: dict[str, str],
    calls: dict[str, list[Call]],
    uses: list[Use],
    likely: dict[str, str] | None = None,
) -> tuple[str | None, list[Watched]]:
    """What `find_rows` finds out, by one backward pass, and the places that are still to be held
    against the passes of the N outputs.

    Where one of them does not hold, a mixture or rounding is the cause, and `find_rows` is sure.
    """
    places = _places(forward, kinds, calls, uses, likely)
    edges, shapes = [place.edge for place in places], [place.shape for place in places]
    n, N = forward.output.shape
    generator = torch.Generator().manual_seed(0)

    def random(size: int) -> Tensor:
        return gaussian((size,), forward.output, generator)

    weight, outputs = weights(n, forward.output, generator), random(N)
    gradients = pulled_back(forward.output, torch.outer(weight, outputs), edges, shapes)
    found, watched = [], []
    for place, gradient in zip(places, gradients, strict=True):
        rows = unweighted(gradient, weight, place.foldable, place.likely)
        found.append((place, rows))
        if rows is not None:
            flat = rows.flat(gradient)
            along = random(flat.shape[1])
            seen = (place.edge, place.shape, rows, weight, outputs, along)
            watched.append(Watched(*seen, flat.mv(along), flat.new_zeros((N, n))))
    return _settled(found, n), watched


def refuse_mixed(rows: str | None) -> None:
    """Raise, if there are such rows."""
    if rows is not None:
        samples = "samples influence each other: " if rows == "x" else ""
        raise ValueError(
            f"{samples}the network mixes the rows of {rows}: one sample's output rests on "
            "another's row "
            "(a row or a mean of the batch, as in layer(x)[:1] or layer(x).mean(0)?), so which "
            "sample a gradient belongs to is lost; let each sample use its own row"
        )
