"""The N backward passes, for all samples of a part of the batch at once."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from flatlib.checks import check_gradients
from flatlib.patches import is_transposed

from .attention import are_apart
from .choosing import chosen_layers
from .float64 import Float64Network, out_of_memory_told
from .memory import Cost, keep_freed_memory
from .mixing import Watched, find_rows, refuse_mixed, rows_in_order, weighted_pass
from .outputs import Target, gradients_of_outputs
from .probing import NOWHERE, Probe, probed, run_checked
from .recording import Call, Forward, Graph, Lookup, Use, graph_behind, twice_if_single
from .rows import Rows

FLOAT64_BYTES = 8
FEWER_AT_ONCE = "pass a smaller max_memory, so that fewer samples are taken at once"
ONE_SAMPLE = "no split of the batch helps; pass smaller samples or a network of fewer outputs"
LAYERS_OF_OTHER_KINDS = (
    *(nn.Linear, nn.modules.conv._ConvNd, nn.RNNBase, nn.RNNCellBase, nn.Bilinear),
)
Made = TypeVar("Made")


class Collector(Protocol):
    """What is made of the gradients at a layer's output, which nobody keeps."""

    def add(self, gradients: Sequence[Tensor]) -> None:
        """Take in those of k of the N outputs, ``(n, k, *output_shape)`` for each call."""


# Makes a collector from a layer, what its calls read, and N.
Collect = Callable[[nn.Module, tuple[Tensor, ...], int], Collector]


@dataclass(frozen=True)
class LayerDerivatives:
    """What one linear or convolutional layer read, and the gradients there.

    A layer called several times has one entry a call in each tuple, in forward order. Axis 0 is
    the samples, where the layer had k rows for each, axis 1 is those.
    """

    name: str  # as in net.named_modules()
    kind: str  # "Linear", "Conv1d", ..., "ConvTranspose3d"
    module: nn.Module  # of the copy, read for stride, padding and groups
    weight: Tensor  # what it multiplies with
    inputs: tuple[Tensor, ...]  # each (n, *input_shape)
    # Each (n, N, *input_shape), through this layer alone; () where they are not kept.
    input_gradients: tuple[Tensor, ...]
    collected: Collector  # what saw the gradients at what the layer returned
    written: tuple[torch.Size, ...]  # the shape that each call returned, of all samples
    owns_weight: bool  # its weight is a trainable parameter that only its calls use
    owns_bias: bool


@dataclass(frozen=True)
class Derivatives:
    """The derivatives of one part of a batch."""

    x: Tensor  # (n, *input_shape) float64: the input, or what is looked up for indices
    output: Tensor  # (n, N)
    jacobian: Tensor  # (n, N, M): jacobian[i, k] is the gradient of output k at sample i
    layers: tuple[LayerDerivatives, ...]  # in the order of their first call
    other_energy: Tensor  # (n,) squared norms of gradients of ``other_parameters[True]``
    other_parameters: dict[str, bool]  # trainable, of no layer, used; whether in ``other_energy``
    other_layers: dict[str, str]  # layers that are not among ``layers``, and why
    at_layers: frozenset[str]  # of ``layers``, those at whose inputs gradients were to be kept


@dataclass(frozen=True)
class Plan:
    """What a probe of the network on a few samples found out."""

    probe: Probe
    start: int  # index of the first of x among all samples
    n_outputs: int  # N
    at_layers: bool | tuple[str, ...]  # all layers, none, or these modules' keep gradients
    cost: Cost  # of the derivatives
    cost_without_layers: Cost  # with ``at_layers`` False


def plan(
    network: Float64Network, x: Tensor, start: int = 0, at_layers: bool | Iterable[str] = True
) -> Plan:
    """Probe ``network`` on a few samples of ``x``, in other company than in the batch.

    ``start`` is the index of the first of them among all samples; ``at_layers`` says where
    gradients are kept, at all layers, none or those of these modules.

    Raises:
        ValueError: the network is not deterministic; there is no layer of such a name.
    """
    with out_of_memory_told("the network was tried out on a few samples", ONE_SAMPLE):
        probe, first = probed(network, x, start)
        first.check_source()
    at_layers = at_layers if isinstance(at_layers, bool) else tuple(at_layers)
    called = [name for name in first.calls if name not in probe.excluded]
    # The samples tried out need not reach all layers that the others do.
    chosen = _chosen(network, called, at_layers, maybe=set(network.layers) - probe.excluded)
    cost, without = (_cost(network, first, at) for at in (chosen, frozenset()))
    return Plan(probe, start, first.output.shape[1], at_layers, cost, without)


def _chosen(
    network: Float64Network,
    called: Sequence[str],
    at_layers: bool | tuple[str, ...],
    maybe: Collection[str] = (),
) -> frozenset[str]:
    """Those of the ``called`` layers at whose inputs gradients are kept.

    Raises:
        ValueError: a name is of no layer that is called or ``maybe`` is.
    """
    if isinstance(at_layers, bool):
        return frozenset(called if at_layers else ())
    return chosen_layers(network.net, network.layers, called, at_layers, maybe)


def check_leads_to_input(forward: Forward, graph: Graph) -> None:
    """Refuse an output whose graph does not hold the input."""
    source = forward.source
    leads = any(
        getattr(node, "variable", None) is source
        if isinstance(source, Tensor)
        else node is source.node
        for node in graph.nodes
    )
    if not leads:
        raise ValueError(
            "the output does not depend on x as far as autograd sees: the forward cuts the graph "
            "to x (x.long(), detach(), numpy() or torch.no_grad()?), so every derivative along x "
            "would be 0; keep x in the graph, or measure the rest of the network from the first "
            "differentiable numbers on, such as the embedded tokens"
        )


@dataclass(frozen=True)
class Owners:
    """Whose gradients count which trainable parameters."""

    by_layer: frozenset[tuple[str, str]]  # a layer's name and "weight" or "bias"
    uses: list[Use]  # that count the gradients of others
    others: dict[str, bool]  # parameters of no layer, and whether ``uses`` count them


def _owners(
    network: Float64Network, forward: Forward, calls: dict[str, list[Call]], graph: Graph
) -> Owners:
    """Who counts the trainable parameters behind an output: a layer, a use, or nobody."""
    by_layer, counted = set(), set()
    claims: dict[str, list[tuple[str, str, int]]] = defaultdict(list)
    for layer, made in calls.items():
        there = [call for call in made if call.output_edge.node in graph.nodes]
        for own, part in network.owned[layer].items():
            # Of a call with another weight, such as one that is masked, or without the bias, the
            # gradients at the layer would be counted, too.
            n_counted = len(there) if all(own in call.owns for call in there) else 0
            claims[part.name].append((layer, own, n_counted))
    for name, claimed in claims.items():
        n_counted = sum(number for _, _, number in claimed)
        parts = [network.owned[layer][own] for layer, own, _ in claimed]
        if graph.uses[name] == n_counted > 0 and are_apart(parts):
            counted.add(name)
            if name in network.trainable:
                by_layer |= {(layer, own) for layer, own, _ in claimed}
    places: dict[str, list[Use]] = defaultdict(list)
    for use in forward.uses:
        for name, shape, _ in use.terms:
            if use.edge.node in graph.nodes and use.rows and use.rows.fits(shape):
                places[name].append(use)
    # In the network's own order: a set's would change the last bits from run to run.
    others = {
        name: name in places
        and graph.used_alone_by(name, {use.edge.node for use in places[name]})
        and (len(places[name]) == 1 or not any(isinstance(u, Lookup) for u in places[name]))
        for name in network.parameters
        if name in network.trainable - counted and graph.uses[name] > 0
    }
    uses = [
        replace(use, terms=terms)
        for use in forward.uses
        if (terms := [t for t in use.terms if others.get(t[0]) and use in places[t[0]]])
    ]
    return Owners(frozenset(by_layer), uses, others)


def _other_layers(
    network: Float64Network, forward: Forward, excluded: frozenset[str], graph: Graph
) -> dict[str, str]:
    """Layers that are used and not measured as layers, and why."""
    names = {id(parameter): name for name, parameter in network.parameters.items()}
    weights = {layer: own["weight"] for layer, own in network.owned.items() if "weight" in own}
    called = {weights[layer].name for layer in forward.calls if layer in weights}
    reasons = {}
    for path, module in [*network.net.named_modules(), *network.layers.items()]:
        if path in excluded:
            reasons[path] = "its rows are not the samples"
        elif path in network.layers:
            weight = weights.get(path)
            whole = weight is not None and weight.count == 1
            if whole and graph.uses[weight.name] and weight.name not in called:
                reasons[path] = "its weight is used without calling it"
        elif isinstance(module, LAYERS_OF_OTHER_KINDS):
            own = [names.get(id(p)) for p in module._parameters.values() if p is not None]
            if any(graph.uses[name] for name in own if network.parameters[name].dim() > 1):
                reasons[path] = f"{type(module).__name__} is not among the kinds of layers"
    return reasons


def _kept(
    network: Float64Network, calls: dict[str, list[Call]], at_layers: frozenset[str], n: int
) -> list[Call]:
    """The calls at whose inputs gradients are kept: of these layers, and the first if dense.

    ``n`` is the number of samples that went through the network.
    """
    named = [(name, call) for name, made in calls.items() for call in made]
    kept = [call for name, call in named if name in at_layers]
    for name, call in named[:1]:
        one_vector = call.value.numel() == n * call.value.shape[-1]
        if name not in at_layers and network.kinds[name] == "Linear" and one_vector:
            kept.append(call)
    return kept


def _cost(network: Float64Network, forward: Forward, at_layers: frozenset[str]) -> Cost:
    """Memory that derivatives take, patches of convolutions included."""
    n, N = forward.output.shape
    at_input = forward.x[0].numel()
    passing, each_output = 0, 2 * at_input
    kept = [
        N * at_input,
        *(N * call.value.numel() // n for call in _kept(network, forward.calls, at_layers, n)),
    ]
    for name, made in forward.calls.items():
        weight = forward.weights[name]
        for call in made:
            read, written = call.value.numel() // n, call.output_shape.numel() // n
            # A weight's axis 0 is what is written, or what a transposed convolution reads.
            transposed = is_transposed(network.layers[name])
            n_positions = (read if transposed else written) // weight.shape[0]
            patches = weight[0].numel() * n_positions if weight.dim() > 2 else 0
            passing += 3 * read + 4 * written + 2 * patches
            each_output += 2 * read + 4 * written
    for use in forward.uses:
        passing += 6 * use.shape.numel() // n
        each_output += 3 * use.shape.numel() // n
    return Cost(
        each=FLOAT64_BYTES * (sum(kept) + passing + N * at_input),
        # The largest Jacobian is copied twice when it is decomposed.
        one_sample=FLOAT64_BYTES * (sum(kept) + 2 * max(passing, *kept)),
        each_output=FLOAT64_BYTES * each_output,
    )


@dataclass(frozen=True)
class _Recorded:
    """A checked forward pass of one part of the batch, and whose gradients will be taken."""

    forward: Forward
    graph: Graph
    calls: dict[str, list[Call]]  # of the layers that are measured
    find_rows: Callable[[], str | None]  # tells for sure how rows belong to samples
    watched: list[Watched]  # places where this is still to be held against the N passes

    def rows_are_sure(self) -> bool:
        """Whether, after the N passes, the rows belong where they were taken to belong.

        Raises:
            ValueError: rows are mixed.
        """
        if all(place.holds() for place in self.watched):
            return True
        calls = [call for made in self.calls.values() for call in made]
        places = [*calls, *self.forward.uses]
        rows = [place.rows for place in places]
        refuse_mixed(self.find_rows())
        return rows == [place.rows for place in places]


def _recorded(
    network: Float64Network, x: Tensor, start: int, planned: Plan, with_layers: bool, surely: bool
) -> _Recorded:
    """Run ``network`` on ``x``, layers measured if ``with_layers``, and refuse what is wrong."""
    n = len(x)
    elsewhere = NOWHERE if network.plain else planned.probe.elsewhere(x, start)
    forward = run_checked(network, twice_if_single(x), range(start, start + n))
    output = forward.output[:n].detach()
    if not forward.calls:
        raise ValueError("no linear or convolutional layer is called in the forward pass")
    if not network.plain:
        planned.probe.check(output, elsewhere, start)
    graph = graph_behind(forward.output, network.parameters)
    forward.check_source()
    check_leads_to_input(forward, graph)
    # The gradients at what a layer returns are lost by mixing its rows, the Jacobian is not.
    excluded = planned.probe.excluded
    calls = {k: made for k, made in forward.calls.items() if k not in excluded and with_layers}
    uses = forward.uses if with_layers else []
    how = (forward, network.kinds, calls, uses, planned.probe.places)
    mixed, watched = None, []
    if network.plain:
        rows_in_order(calls, uses, len(forward.x))
    elif surely:
        mixed = find_rows(*how)
    else:
        mixed, watched = weighted_pass(*how)
    for name, made in calls.items():
        if all(call.rows for call in made):
            planned.probe.check_inputs(name, [call.read(n) for call in made], start)
    refuse_mixed(mixed)  # last, since the others say more of why
    measured = {name: made for name, made in calls.items() if all(call.rows for call in made)}
    if with_layers and not measured:
        raise ValueError(
            f"the rows of no layer are the samples (of {', '.join(map(repr, forward.calls))}); "
            "keep the batch as the first axis, as in (n, T, d) instead of (n * T, d)"
        )
    return _Recorded(forward, graph, measured, lambda: find_rows(*how), watched)


class _Seen:
    """What is made of the gradients on the way, which nobody keeps."""

    def __init__(
        self,
        network: Float64Network,
        part: _Recorded,
        uses: list[Use],
        n: int,
        collect: Collect | None,
    ):
        self.calls, self.uses = part.calls, uses
        self.inputs = {
            name: tuple(call.read(n) for call in made) for name, made in part.calls.items()
        }
        N = part.forward.output.shape[1]
        self.collectors = {
            name: collect(network.layers[name], self.inputs[name], N) for name in part.calls
        }
        self.energy = part.forward.output.new_zeros(n)  # of the gradients that uses count

    def targets(self) -> list[Target]:
        """Where `see` shall see them."""
        calls = [call for made in self.calls.values() for call in made]
        return [
            *(Target(call.output_edge, call.output_shape, call.rows) for call in calls),
            *(Target(use.edge, use.shape, use.rows) for use in self.uses),
        ]

    def see(self, gradients: Sequence[Tensor]) -> None:
        """Take in those of k outputs at the targets, ``(n, k, ...)``."""
        gradients = iter(gradients)
        for name, collector in self.collectors.items():
            collector.add([next(gradients) for _ in self.calls[name]])
        # A parameter that is used at several places has the sum for its gradient.
        whole: dict[str, Tensor] = {}
        for use, delta in zip(self.uses, gradients, strict=True):
            for name, gradient in use.gradients(delta):
                whole[name] = whole[name] + gradient if name in whole else gradient
        for gradient in whole.values():
            self.energy += gradient.square().sum(dim=(1, 2))


def _backward(
    network: Float64Network,
    x: Tensor,
    start: int,
    planned: Plan,
    max_memory: float,
    collect: Collect | None,
    done: Callable[[int], object],
    surely: bool = False,
) -> Derivatives | None:
    """One recorded forward pass on ``x`` and the backward passes of its outputs.

    One pass more tells of mixed rows, and two further ones tell a mixture from rounding. None where
    these find the samples elsewhere, so that all must be done again, ``surely``.
    """
    n = len(x)
    part = _recorded(network, x, start, planned, collect is not None, surely)
    forward, calls = part.forward, part.calls
    owners = _owners(network, forward, calls, part.graph)
    seen = _Seen(network, part, owners.uses, n, collect)
    at_layers = _chosen(network, list(calls), planned.at_layers)
    at_calls = _kept(network, calls, at_layers, len(forward.x))
    kept = [
        Target(forward.source, forward.x.shape, Rows(len(forward.x), "first")),
        *(Target(call.input_edge, call.value.shape, call.rows) for call in at_calls),
    ]
    at_once = planned.cost.outputs_at_once(len(forward.x), max_memory)
    how = (kept, seen.targets(), part.watched, seen.see, at_once, done)
    jacobian, *at_inputs = gradients_of_outputs(forward.output, n, *how)
    if not part.rows_are_sure():
        return None
    jacobian = jacobian.flatten(2)
    check_gradients(jacobian, start)
    by_call = {id(call): found for call, found in zip(at_calls, at_inputs, strict=True)}
    return Derivatives(
        forward.x[:n].detach(),
        forward.output[:n].detach(),
        jacobian,
        tuple(
            LayerDerivatives(
                name,
                network.kinds[name],
                network.layers[name],
                forward.weights[name],
                seen.inputs[name],
                tuple(by_call[id(call)] for call in made if id(call) in by_call),
                seen.collectors[name],
                tuple(call.output_shape for call in made),
                (name, "weight") in owners.by_layer,
                (name, "bias") in owners.by_layer,
            )
            for name, made in calls.items()
        ),
        seen.energy,
        owners.others,
        _other_layers(network, forward, frozenset(forward.calls) - frozenset(calls), part.graph),
        at_layers,
    )


def by_parts(
    x: Tensor,
    planned: Plan,
    max_memory: float,
    measure: Callable[[Tensor, int], Made],
) -> list[Made]:
    """``measure(part, start)`` of consecutive parts of the batch, each within ``max_memory``.

    At least one sample, which runs as two, is always taken.
    """
    keep_freed_memory()
    made, start = [], planned.start
    n_parts = math.ceil(len(x) / int(min(planned.cost.samples_at_once(max_memory), len(x))))
    for part in x.tensor_split(n_parts):
        size = len(part) * planned.cost.each
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
    max_memory: float,
    collect: Collect | None = None,
    done: Callable[[int], object] = int,
) -> Derivatives:
    """The derivatives of ``network`` at one part of a batch.

    Args:
        network: from `float64_network`.
        x: ``(n, *input_shape)``, any floating dtype.
        start: the index of its first row among all samples.
        planned: from `plan`.
        max_memory: bytes that the derivatives may take; what is left takes more outputs at once.
        collect: sees the gradients at each layer's output; without it they are not taken.
        done: is told the number of samples whenever one output has its gradients.

    Raises:
        ValueError: samples influence each other, or rows of a layer are mixed; no way back to
            the input; output or gradient not finite; no layer is called, or none of a name that
            gradients shall be kept at; what `plan` refuses, in a part of the network that it did
            not reach.
    """
    how = (network, x, start, planned, max_memory, collect)
    return _backward(*how, done) or _backward(*how, int, surely=True)


def trainable_names(network: Float64Network) -> tuple[str, ...]:
    """The names of the parameters that are not frozen, in the network's order; at least one."""
    names = tuple(name for name in network.parameters if name in network.trainable)
    if not names:
        raise ValueError("every parameter is frozen; set requires_grad on those that count")
    return names
