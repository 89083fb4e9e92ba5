"""The N backward passes, for all samples of a part of the batch at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from flatlib.checks import all_finite, first_not_finite, is_out_of_memory

from .float64 import Float64Network, out_of_memory_told
from .probing import Probe, probed, run_checked
from .recording import Forward, in_company, weight_uses

FLOAT64_BYTES = 8
FEWER_AT_ONCE = "pass a smaller max_memory, so that fewer samples are taken at once"
ONE_SAMPLE = "no split of the batch helps; pass smaller samples or a network of fewer outputs"
MIXED_ROWS = 1e-12  # of the largest gradient: what sums in another order may change, on a GPU
ROW_FACTORS = 251  # different factors of rows in `_mixed_rows`, the largest 2^250


Made = TypeVar("Made")


class Collector(Protocol):
    """What is made of the gradients at a layer's output, which nobody keeps."""

    def add(self, gradients: Sequence[Tensor]) -> None:
        """Take in those of one of the N outputs, ``(n, *output_shape)`` for each call."""


# Makes a collector from a layer, what its calls read, and N.
Collect = Callable[[nn.Module, tuple[Tensor, ...], int], Collector]


@dataclass(frozen=True)
class LayerDerivatives:
    """What one linear or convolutional layer read, and the gradients there.

    A layer called several times has one entry a call in each tuple, in forward order.
    """

    name: str  # as in net.named_modules()
    kind: str  # "Linear", "Conv1d" or "Conv2d"
    module: nn.Module  # of the copy, read for stride, padding and groups
    weight: Tensor  # what it multiplies with
    inputs: tuple[Tensor, ...]  # each (n, *input_shape)
    input_gradients: tuple[Tensor, ...]  # each (n, N, *input_shape), through this layer alone
    collected: Collector | None  # what saw the gradients at what the layer returned


@dataclass(frozen=True)
class Derivatives:
    """The derivatives of one part of a batch."""

    output: Tensor  # (n, N)
    jacobian: Tensor  # (n, N, M): jacobian[i, k] is the gradient of output k at sample i
    layers: tuple[LayerDerivatives, ...]  # in the order of their first call
    own_parameters: frozenset[str]  # trainable and used by calls of one layer alone
    other_parameters: tuple[str, ...]  # trainable and used in any other way
    mixed: str | None  # whose row for one sample reaches the output for another, if any


@dataclass(frozen=True)
class Plan:
    """What a probe of the network on a few samples found out."""

    probe: Probe
    bytes_per_sample: int  # memory that one sample's derivatives take


def plan(network: Float64Network, x: Tensor) -> Plan:
    """Probe ``network`` on a few samples of ``x``, in other company than in the batch.

    Raises:
        ValueError: the network is not deterministic, or calls a layer on rows that are not the
            samples.
    """
    with out_of_memory_told("the network was tried out on a few samples", ONE_SAMPLE):
        probe, first = probed(network, x)
    return Plan(probe, _bytes_per_sample(first, _is_batched(network, first)))


def _check_leads_to_input(forward: Forward, graph: set) -> None:
    """Refuse an output whose graph does not hold the input."""
    if not any(getattr(node, "variable", None) is forward.x for node in graph):
        raise ValueError(
            "the output does not depend on x as far as autograd sees: the forward cuts the graph "
            "to x (x.long(), detach(), numpy() or torch.no_grad()?), so every derivative along x "
            "would be 0; keep x in the graph, or measure the rest of the network from the first "
            "differentiable numbers on, such as the embedded tokens"
        )


def _owners(
    network: Float64Network, forward: Forward, uses: Counter[str], graph: set
) -> tuple[frozenset[str], tuple[str, ...]]:
    """The trainable parameters that one layer's calls alone use, and those used otherwise.

    ``uses`` and ``graph`` are from `weight_uses`.

    Raises:
        ValueError: the weight of a layer is used without calling the layer.
    """
    called = {
        id(parameter)
        for name in forward.calls
        for parameter in network.layers[name]._parameters.values()
    }
    covered = set()
    for name, module in network.layers.items():
        calls = forward.calls.get(name, ())
        n_counted = sum(call.output_edge.node in graph for call in calls)
        for own in ("weight", "bias"):
            full = f"{name}.{own}" if name else own
            parameter = module._parameters.get(own)
            if parameter is None or full not in network.parameters:
                continue
            if not calls and uses[full] > 0 and id(parameter) not in called:
                raise ValueError(
                    f"{full!r} is used without calling its layer (fused attention does so), so "
                    "what it multiplies is unknown; call the layer itself in forward"
                )
            if uses[full] == n_counted:
                covered.add(full)
    own = frozenset(name for name in covered & network.trainable if uses[name] > 0)
    # In the network's own order: a set's would change the last bits from run to run.
    others = tuple(
        name for name in network.parameters if name in network.trainable - own and uses[name] > 0
    )
    return own, others


def _is_batched(network: Float64Network, forward: Forward) -> bool:
    """Whether the N backward passes are run as one."""
    # Measured: matrix products gain from batching, convolutions lose to memory traffic.
    return all(network.kinds[name] == "Linear" for name in forward.calls)


def _bytes_per_sample(forward: Forward, batched: bool) -> int:
    """Memory that the derivatives of one sample take, patches of convolutions included."""
    N = forward.output.shape[1]
    at_output = N + 3 if batched else 4
    numbers = 2 * N * forward.x[0].numel()
    for name, made in forward.calls.items():
        weight = forward.weights[name]
        for call in made:
            written = call.output_shape[1:].numel()
            n_positions = written // weight.shape[0]
            patches = weight[0].numel() * n_positions if weight.dim() > 2 else 0
            numbers += (N + 3) * call.value[0].numel() + at_output * written + 2 * patches
    return FLOAT64_BYTES * numbers


def _mixed_rows(forward: Forward, layers: Sequence[str]) -> str | None:
    """What has a row for one sample that reaches another's output: a layer, the input, or None.

    A row's gradient must come from its own sample's output alone. So in two backward passes, the
    second with each sample's output multiplied by a factor of its own, the gradients must differ
    by these factors, row by row. Powers of two change nothing else, no rounding either, so that a
    gradient which is all rounding is not taken for a mixture. Of several names it is the last,
    next to the mixture.
    """
    calls = [(f"layer {name!r}", call) for name in layers for call in forward.calls[name]]
    names = ["x", *(name for name, _ in calls)]
    targets = [forward.x, *(call.output_edge for _, call in calls)]
    shapes = [forward.x.shape, *(call.output_shape for _, call in calls)]
    n, N = forward.output.shape
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(n, N, generator=generator, dtype=torch.float64).to(forward.output)
    factor = (2.0 ** (torch.arange(n) % ROW_FACTORS)).to(forward.output)[:, None]
    plain = [g.clone() for g in _pulled_back(forward.output, direction, targets, shapes)]
    weighted = _pulled_back(forward.output, factor * direction, targets, shapes)
    mixed = None
    for name, one, other in zip(names, plain, weighted, strict=True):
        off = (other.flatten(1) / factor - one.flatten(1)).abs().amax()
        if off > MIXED_ROWS * one.abs().amax():
            mixed = name
    return mixed


def _refuse_mixed(rows: str | None) -> None:
    """Raise, if there are such rows."""
    if rows is not None:
        samples = "samples influence each other: " if rows == "x" else ""
        raise ValueError(
            f"{samples}the network mixes the rows of {rows}: one sample's output rests on "
            "another's row "
            "(a row or a mean of the batch, as in layer(x)[:1] or layer(x).mean(0)?), so which "
            "sample a gradient belongs to is lost; let each sample use its own row"
        )


def _pulled_back(
    output: Tensor, direction: Tensor, targets: list, shapes: list[torch.Size]
) -> list[Tensor]:
    """One backward pass of ``output`` along ``direction``: for each target ``(n, *shape)``."""
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


def _all_at_once(output: Tensor, targets: list, shapes: list[torch.Size]) -> list[Tensor]:
    """The N backward passes as one batched pass: for each target ``(N, n, *shape)``."""
    n, N = output.shape
    directions = torch.eye(N, dtype=output.dtype, device=output.device)
    found = torch.autograd.grad(
        output,
        targets,
        directions[:, None, :].expand(N, n, N),
        is_grads_batched=True,
        retain_graph=True,  # for `_one`, should an operation not batch
        allow_unused=True,
    )
    return [
        output.new_zeros((N, n, *shape[1:])) if gradient is None else gradient
        for gradient, shape in zip(found, shapes, strict=True)
    ]


def _one(output: Tensor, k: int, targets: list, shapes: list[torch.Size]) -> list[Tensor]:
    """The backward pass of output k, any operation: for each target ``(n, *shape)``."""
    direction = torch.zeros_like(output)
    direction[:, k] = 1.0
    return _pulled_back(output, direction, targets, shapes)


def _gradients(
    output: Tensor,
    targets: list,
    shapes: list[torch.Size],
    n_kept: int,
    see: Callable[[Sequence[Tensor]], None],
    batched: bool,
) -> list[Tensor]:
    """The N outputs' gradients: ``(n, N, *shape)`` at the first ``n_kept`` targets.

    Those at the other targets are shown to ``see``, one output's at a time, and forgotten.
    """
    n, N = output.shape
    found = None
    if batched:
        try:
            found = _all_at_once(output, targets, shapes)
        except RuntimeError as error:  # an operation that cannot be batched, a hook that looks
            if is_out_of_memory(error):
                raise
    if found is not None:
        for k in range(N):
            see([gradient[k] for gradient in found[n_kept:]])
        return [gradient.transpose(0, 1) for gradient in found[:n_kept]]
    kept = [output.new_empty((n, N, *shape[1:])) for shape in shapes[:n_kept]]
    for k in range(N):
        found = _one(output, k, targets, shapes)
        for own, gradient in zip(kept, found, strict=False):
            own[:, k] = gradient
        see(found[n_kept:])
    return kept


def _backward(
    network: Float64Network, x: Tensor, start: int, collect: Collect | None
) -> Derivatives:
    """One recorded forward pass on ``x`` and one backward pass for each output.

    ``start`` is the index of the first row of ``x`` in the user's batch.
    """
    n = len(x)
    forward = run_checked(network, in_company(x), range(start, start + n))
    if not forward.calls:
        raise ValueError("no Linear, Conv1d or Conv2d layer is called in the forward pass")
    uses, graph = weight_uses(forward.output, network.parameters)
    _check_leads_to_input(forward, graph)
    own, others = _owners(network, forward, uses, graph)
    # The gradients at what a layer returns are lost by mixing its rows, the Jacobian is not.
    mixed = _mixed_rows(forward, list(forward.calls) if collect else [])
    N = forward.output.shape[1]
    calls = [call for made in forward.calls.values() for call in made]
    targets = [forward.x, *(call.input_edge for call in calls)]
    shapes = [forward.x.shape, *(call.value.shape for call in calls)]
    inputs = {
        name: tuple(call.value[:n].detach() for call in made)
        for name, made in forward.calls.items()
    }
    collectors = {}
    n_kept = len(targets)
    if collect is not None:
        targets += [call.output_edge for call in calls]
        shapes += [call.output_shape for call in calls]
        collectors = {name: collect(network.layers[name], inputs[name], N) for name in inputs}

    def see(gradients: Sequence[Tensor]) -> None:
        each = iter(gradients)
        for name, collector in collectors.items():
            collector.add([next(each)[:n] for _ in forward.calls[name]])

    batched = _is_batched(network, forward)
    jacobian, *kept = _gradients(forward.output, targets, shapes, n_kept, see, batched)
    jacobian = jacobian[:n].flatten(2)
    if not all_finite(jacobian):
        raise ValueError(
            f"the gradient for sample {start + first_not_finite(jacobian)} holds NaN or infinite "
            "values, though its output does not; look for a square root or division at 0"
        )
    each = iter(kept)
    layers = tuple(
        LayerDerivatives(
            name,
            network.kinds[name],
            network.layers[name],
            forward.weights[name],
            inputs[name],
            tuple(next(each)[:n] for _ in made),
            collectors.get(name),
        )
        for name, made in forward.calls.items()
    )
    return Derivatives(forward.output[:n].detach(), jacobian, layers, own, others, mixed)


def by_parts(
    x: Tensor, planned: Plan, max_memory: int, measure: Callable[[Tensor, int], Made]
) -> list[Made]:
    """``measure(part, start)`` of consecutive parts of the batch, each within ``max_memory``.

    At least one sample, which runs as two, is always taken.
    """
    at_once = max(1, int(min(max_memory / planned.bytes_per_sample, len(x))))
    made, start = [], 0
    for part in x.split(at_once):
        size = len(part) * planned.bytes_per_sample
        task = (
            f"samples {start} to {start + len(part) - 1} were differentiated at once, planned at "
            f"{size:.3g} bytes of max_memory = {max_memory:.3g}"
        )
        with out_of_memory_told(task, FEWER_AT_ONCE if len(part) > 1 else ONE_SAMPLE):
            made.append(measure(part, start))
        start += len(part)
    return made


def differentiate(
    network: Float64Network,
    x: Tensor,
    start: int,
    planned: Plan,
    collect: Collect | None = None,
) -> Derivatives:
    """The derivatives of ``network`` at one part of a batch.

    Args:
        network: from `float64_network`.
        x: ``(n, *input_shape)``, any floating dtype.
        start: the index of its first row in the user's batch.
        planned: from `plan`.
        collect: sees the gradients at each layer's output; without it they are not taken.

    Raises:
        ValueError: samples influence each other, or rows of a layer are mixed; no way back to
            the input; output or gradient not finite; no layer is called, or the weight of one is
            used without calling it; what `plan` refuses, in a part of the network that it did not
            reach.
    """
    derivatives = _backward(network, x, start, collect)
    planned.probe.check(derivatives.output, start)
    for layer in derivatives.layers:
        planned.probe.check_inputs(layer.name, layer.inputs, start)
    _refuse_mixed(derivatives.mixed)  # last, since the others say more of why
    return derivatives


def sample_parameter_gradients(
    network: Float64Network, x: Tensor, names: tuple[str, ...]
) -> Iterator[Tensor]:
    """One sample and one output at a time: the plain way, exact for any parameter.

    Yields:
        for each sample ``(N, m)`` float64, the gradients of its outputs with respect to the
        parameters ``names``, flattened and joined in that order.
    """
    parameters = [network.parameters[name] for name in names]
    for sample in x.detach().double().split(1):
        rows_in = in_company(sample).requires_grad_()
        output = network(rows_in)[0]
        rows = []
        for k in range(output.shape[0]):
            # The input's gradient is asked for since group_norm's backward in the channels_last
            # layout ends the process where it is not needed.
            _, *found = torch.autograd.grad(
                output[k], [rows_in, *parameters], retain_graph=True, materialize_grads=True
            )
            rows.append(torch.cat([gradient.flatten() for gradient in found]))
        yield torch.stack(rows)


def trainable_names(network: Float64Network) -> tuple[str, ...]:
    """The names of the parameters that are not frozen, in the network's order; at least one."""
    names = tuple(name for name in network.parameters if name in network.trainable)
    if not names:
        raise ValueError("every parameter is frozen; set requires_grad on those that count")
    return names
