"""A forward pass that notes every call of every linear and convolutional layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from flatlib.checks import all_finite, first_not_finite
from flatlib.patches import one_an_axis

from .float64 import Float64Network, LayerFault

UNBATCHED_DIMENSIONS = {"Linear": 1, "Conv1d": 2, "Conv2d": 3}


@dataclass
class Call:
    """One call of a layer during a forward pass."""

    value: Tensor
    version: int
    input_edge: GradientEdge
    output_edge: GradientEdge | None = None
    output_shape: torch.Size | None = None


@dataclass
class Forward:
    """One recorded forward pass."""

    x: Tensor
    output: Tensor
    calls: dict[str, list[Call]]
    weights: dict[str, Tensor]  # what each called layer multiplies by


def in_company(x: Tensor) -> Tensor:
    """``x``, a single sample twice: networks that squeeze, and some of PyTorch's own backward
    passes in odd memory layouts, take one row for another thing than a batch.
    """
    return torch.cat([x, x]) if len(x) == 1 else x


def _recording_hooks(
    name: str, kind: str, calls: dict[str, list[Call]], weights: dict[str, Tensor]
) -> tuple[Callable, Callable]:
    """The hooks that note one layer's calls; the layer reads an alias made for it alone."""

    def before(module, args, kwargs):
        value = args[0] if args else kwargs["input"]
        if value.dim() == UNBATCHED_DIMENSIONS[kind]:
            raise LayerFault(
                f"layer {name!r} ({kind}) got an input of shape {tuple(value.shape)} without a "
                "batch axis; pass x as (n, *input_shape)"
            )
        if value.numel() == 0:
            raise LayerFault(
                f"layer {name!r} ({kind}) got an input of shape {tuple(value.shape)}, which holds "
                "no numbers; do not call it then"
            )
        if not torch.is_grad_enabled():
            raise LayerFault(
                f"layer {name!r} runs with gradients switched off, so its part of the "
                "derivatives is lost; remove torch.no_grad() (or reentrant checkpointing) around it"
            )
        alias = value.view_as(value)
        if not alias.requires_grad:
            alias.requires_grad_()
        edge = get_gradient_edge(alias)
        calls.setdefault(name, []).append(Call(alias, alias._version, edge))
        return ((alias, *args[1:]), kwargs) if args else (args, {**kwargs, "input": alias})

    def after(module, args, kwargs, output):
        weights[name] = module.weight.detach()
        kernel = tuple(weights[name].shape[2:])
        if kind != "Linear" and kernel != one_an_axis(module, module.kernel_size):
            raise LayerFault(
                f"layer {name!r} ({kind}) has a kernel of shape {kernel} but "
                f"kernel_size={module.kernel_size}; set it (and the padding) to what the weight has"
            )
        # A later in-place operation would move a view's history off the edge taken here.
        viewed = output._is_view()
        output = output.clone() if viewed else output
        calls[name][-1].output_edge = get_gradient_edge(output)
        calls[name][-1].output_shape = output.shape
        return output if viewed else None

    return before, after


def run_recorded(network: Float64Network, x: Tensor, samples: Sequence[int]) -> Forward:
    """Run ``network`` on ``x`` and record every call of every layer.

    ``samples`` are the indices of the first rows of ``x`` in the user's batch; rows beyond them
    are company, whose outputs nobody reads.
    """
    x = x.detach().to(torch.float64, copy=True).requires_grad_()
    calls: dict[str, list[Call]] = {}
    weights: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for name, module in network.layers.items():
            before, after = _recording_hooks(name, network.kinds[name], calls, weights)
            # Ours run closest to the layer: after the user's pre-hooks, before their hooks.
            handle = module.register_forward_pre_hook(before, with_kwargs=True)
            stack.callback(handle.remove)
            handle = module.register_forward_hook(after, with_kwargs=True, prepend=True)
            stack.callback(handle.remove)
        output = network(x)
    if not all_finite(output[: len(samples)]):
        row = first_not_finite(output[: len(samples)])
        broken = [
            name
            for name, made in calls.items()
            if not all(bool(torch.isfinite(call.value[row]).all()) for call in made)
        ]
        where = f"; the first layer to read such values is {broken[0]!r}" if broken else ""
        raise ValueError(
            f"the output for sample {samples[row]} holds NaN or infinite values{where}"
        )
    for name, made in calls.items():
        _check_rows(name, made, len(x))
        if any(call.value._version != call.version for call in made):
            raise ValueError(
                f"what layer {name!r} read is overwritten in place later in the forward pass, so "
                "its gradient is lost; replace the in-place operation after it"
            )
    return Forward(x, output, calls, weights)


def _check_rows(name: str, made: list[Call], n_samples: int) -> None:
    """Refuse a layer whose rows are not the samples, one each."""
    for call in made:
        if call.value.shape[0] != n_samples:
            raise ValueError(
                f"layer {name!r} reads shape {tuple(call.value.shape)} for {n_samples} samples, so "
                "its rows are not the samples; keep the batch as the first axis there, as in "
                "(n, T, d) instead of (n * T, d) or (T, n, d)"
            )


def weight_uses(output: Tensor, parameters: dict[str, Tensor]) -> tuple[Counter[str], set]:
    """How often the graph behind ``output`` uses each parameter, and the graph's nodes."""
    names = {id(parameter): name for name, parameter in parameters.items()}
    leaves: dict[str, object] = {}
    readers: dict[object, list] = {}  # for a node those that read its value, one entry a use
    stack, seen = [output.grad_fn], {output.grad_fn}
    while stack:
        reader = stack.pop()
        for node, _ in reader.next_functions:
            if node is None:
                continue
            readers.setdefault(node, []).append(reader)
            variable = getattr(node, "variable", None)
            if variable is not None and id(variable) in names:
                leaves[names[id(variable)]] = node
            elif node not in seen:
                seen.add(node)
                stack.append(node)
    uses: Counter[str] = Counter()
    for name, leaf in leaves.items():
        for reader in readers[leaf]:
            # A gradient taken inside forward reads the transposed weight that the layer made.
            only_this = sum(node is not None for node, _ in reader.next_functions) == 1
            uses[name] += max(1, len(readers.get(reader, ()))) if only_this else 1
    return uses, seen
