"""One backward pass, and what it tells of the rows of a batch: whose they are, and mixtures."""

from __future__ import annotations

import torch
from torch import Tensor

from flatlib.checks import is_out_of_memory

from .recording import Call, Forward, Use
from .rows import Rows, belonging, factors


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


def find_rows(
    forward: Forward,
    kinds: dict[str, str],
    calls: dict[str, list[Call]],
    uses: list[Use],
    likely: dict[str, str] | None = None,
) -> str | None:
    """Find out how the rows of each call and use belong to the samples.

    ``likely`` tells where a layer's samples are if the gradients leave it open.

    Where they belong to none, `rows` stays None. Returns what has a row for one sample that
    reaches another's output though it has a row a sample: a layer, the input, or None. Of several
    it is the last, next to the mixture.
    """
    named = [(name, call) for name, made in calls.items() for call in made]
    places = [*(call for _, call in named), *uses]
    inputs = [] if forward.source is None else [forward.source]
    targets = [*inputs, *(call.output_edge for _, call in named), *(use.edge for use in uses)]
    shapes = [
        *(forward.x.shape for _ in inputs),
        *(call.output_shape for _, call in named),
        *(use.shape for use in uses),
    ]
    n, N = forward.output.shape
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(n, N, generator=generator, dtype=torch.float64).to(forward.output)
    factor = factors(n, forward.output)
    plain = [g.clone() for g in pulled_back(forward.output, direction, targets, shapes)]
    weighted = pulled_back(forward.output, factor[:, None] * direction, targets, shapes)
    mixed = None
    for one, other in zip(plain[: len(inputs)], weighted, strict=False):
        mixed = None if belonging(one, other, factor, False) else "x"
    plain, weighted = plain[len(inputs) :], weighted[len(inputs) :]
    hints = {id(call): (likely or {}).get(name) for name, call in named}
    linear = [kinds[name] == "Linear" for name, _ in named] + [True] * len(uses)
    for place, one, other, foldable in zip(places, plain, weighted, linear, strict=True):
        place.rows = belonging(one, other, factor, foldable, hints.get(id(place)))
    for name, call in named:
        if call.output_shape[0] == n and len(call.output_shape) > 1 and call.rows is None:
            mixed, call.rows = f"layer {name!r}", Rows(n, "first")
        elif len(call.output_shape) == 1:
            call.rows = None
    return mixed


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
