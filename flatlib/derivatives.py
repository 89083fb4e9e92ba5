"""One forward pass and N backward passes, for all samples at once, in float64.

The network is differentiated through float64 copies of its parameters and buffers; the
user's own are never written to. Hooks on each linear and convolutional layer record what the
layer reads and the gradients there. Those at what it returns are handed on, one output's at a
time, and not kept. No gradient of a parameter is formed: `flatlib.sharpness` gets their norms
from these.
"""

from __future__ import annotations

import copy
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import parametrize

from flatlib.checks import (
    all_finite,
    check_batch,
    check_network,
    check_output,
    check_same,
    first_not_finite,
)

LAYER_FORWARDS = {
    nn.Linear.forward: "Linear",
    nn.Conv1d.forward: "Conv1d",
    nn.Conv2d.forward: "Conv2d",
}
UNBATCHED_DIMENSIONS = {"Linear": 1, "Conv1d": 2, "Conv2d": 3}
PROBE_SAMPLES = 4
FLOAT64_BYTES = 8


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
    module: nn.Module  # the user's layer, read for stride, padding, groups; its weights are not
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


class _LayerFault(Exception):
    """What a hook found wrong with one call of a layer; reaches the caller as ValueError."""


@dataclass
class _Call:
    """One call of a layer during a forward pass."""

    value: Tensor
    version: int
    input_edge: GradientEdge
    output_edge: GradientEdge | None = None
    output_shape: torch.Size | None = None


@dataclass
class _Forward:
    """One recorded forward pass."""

    x: Tensor
    output: Tensor
    calls: dict[str, list[_Call]]
    weights: dict[str, Tensor]  # what each called layer multiplies by


@dataclass
class Float64Network:
    """A network seen through float64 copies of its parameters and buffers.

    Use as ``with float64_network(net) as network``; leaving the block restores whatever the
    network's forward changed about itself.
    """

    net: nn.Module
    parameters: dict[str, Tensor]  # float64 leaves that require a gradient, by name
    buffers: dict[str, Tensor]
    layers: dict[str, nn.Module]  # the linear and convolutional layers, by name
    kinds: dict[str, str]
    outside: dict[str, Tensor]  # leaves no output may rest on: see `_check_graph`
    trainable: frozenset[str] = field(default_factory=frozenset)  # names of unfrozen parameters

    def __call__(self, x: Tensor) -> Tensor:
        """The output ``(n, N)`` for float64 ``x``, checked."""
        state = {**self.parameters, **self.buffers}
        with torch.autocast(x.device.type, enabled=False):
            try:
                output = functional_call(self.net, state, (x.clone(),))
            except _LayerFault as fault:
                raise ValueError(str(fault)) from None
            except Exception as error:
                raise ValueError(
                    f"the network cannot be run in float64 on input of shape {tuple(x.shape)} "
                    f"(is the batch axis missing, or does it cast or keep float32 tensors "
                    f"inside?): {type(error).__name__}: {error}"
                ) from error
        return check_output(output, x.shape[0])


def _kind(module: nn.Module) -> str | None:
    """ "Linear", "Conv1d" or "Conv2d" for a layer that computes what these do, else None."""
    kind = LAYER_FORWARDS.get(getattr(type(module), "forward", None))
    plain = getattr(nn, kind) if kind else None
    own = any(
        name in vars(module) or getattr(type(module), name, None) is not getattr(plain, name, None)
        for name in ("forward", "_conv_forward")
    )
    return None if own else kind


def _containers(value: object, seen: set[int]) -> Iterator[list | dict | set | deque]:
    """The plain containers in ``value``, itself and those within it."""
    if type(value) not in (list, dict, set, deque, OrderedDict, defaultdict) or id(value) in seen:
        return
    seen.add(id(value))
    yield value
    for item in value.values() if isinstance(value, dict) else value:
        yield from _containers(item, seen)


@contextmanager
def float64_network(net: nn.Module) -> Iterator[Float64Network]:
    """Check ``net`` and view it in float64; see `Float64Network`."""
    check_network(net)
    kinds = {name: kind for name, module in net.named_modules() if (kind := _kind(module))}
    if not kinds:
        raise ValueError(
            f"{type(net).__name__} has no Linear, Conv1d or Conv2d layer that it calls; there is "
            "no weight matrix to bound its sensitivity with"
        )
    for name, parameter in net.named_parameters():
        layer, _, own = name.rpartition(".")
        if layer in kinds and own == "weight" and parameter.numel() == 0:
            raise ValueError(
                f"the weight of layer {layer!r} has shape {tuple(parameter.shape)}, so no "
                "numbers; remove the layer or give it a width"
            )
    attributes = [(name, module, dict(vars(module))) for name, module in net.named_modules()]
    containers = [
        (value, copy.copy(value))
        for value in _containers([before for _, _, before in attributes], set())
    ]
    contained = [
        (item, item.detach().clone(), item._version)
        for value, _ in containers
        for item in (value.values() if isinstance(value, dict) else value)
        if isinstance(item, Tensor) and not item.is_inference()
    ]
    cuda = {parameter.device for parameter in net.parameters() if parameter.is_cuda}
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.random.fork_rng(devices=cuda))
        stack.enter_context(_no_cached_parametrizations())
        stack.enter_context(_float64_by_default())
        stack.enter_context(_plain_layouts(net))
        try:
            outside = dict(net.named_parameters())  # the user's own
            for path, module, before in attributes:
                for name, value in before.items():
                    if isinstance(value, Tensor):
                        dtype = torch.float64 if value.is_floating_point() else value.dtype
                        vars(module)[name] = value.detach().to(dtype, copy=True)
                        if value.grad_fn is not None:
                            outside[f"{path}.{name}"] = vars(module)[name].requires_grad_()
            yield _float64_copies(net, kinds, outside)
        finally:
            for _, module, before in attributes:
                vars(module).clear()
                vars(module).update(before)
            for value, before in containers:
                value.clear()
                (value.extend if isinstance(value, (list, deque)) else value.update)(before)
            for item, before, version in contained:
                if item._version != version:
                    item.data.copy_(before)


@contextmanager
def _no_cached_parametrizations() -> Iterator[None]:
    """Within ``parametrize.cached()`` a layer would go on reading the user's own weight."""
    enabled = parametrize._cache_enabled
    parametrize._cache_enabled = 0
    try:
        yield
    finally:
        parametrize._cache_enabled = enabled


@contextmanager
def _float64_by_default() -> Iterator[None]:
    """Tensors that a forward makes from nothing, such as a first hidden state, fit in."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _plain_layout(tensor: Tensor) -> Tensor:
    """A copy in row-major order; ``contiguous`` would keep odd strides of axes of length 1."""
    return tensor.clone(memory_format=torch.contiguous_format)


@contextmanager
def _plain_layouts(net: nn.Module) -> Iterator[None]:
    """PyTorch's backward of batch and instance normalization confuses the axes of some memory
    layouts (seen in 2.13 on CPU), so what these read and the gradients they get are laid out anew.
    """

    def before(module, args):
        return tuple(_plain_layout(value) for value in args)

    def after(module, args, output):
        if output.requires_grad:
            output.register_hook(_plain_layout)

    with ExitStack() as stack:
        for module in net.modules():
            if isinstance(module, _NormBase):
                for handle in (
                    module.register_forward_pre_hook(before),
                    module.register_forward_hook(after, prepend=True),
                ):
                    stack.callback(handle.remove)
        yield


def _float64_copies(
    net: nn.Module, kinds: dict[str, str], outside: dict[str, Tensor]
) -> Float64Network:
    """``net`` with float64 copies of its parameters and buffers beside it."""
    modules = dict(net.named_modules())
    return Float64Network(
        net=net,
        parameters={
            name: p.detach().to(torch.float64, copy=True).requires_grad_()
            for name, p in net.named_parameters()
            if p.is_floating_point()
        },
        buffers={
            name: b.detach().to(torch.float64 if b.is_floating_point() else b.dtype, copy=True)
            for name, b in net.named_buffers()
        },
        layers={name: modules[name] for name in kinds},
        kinds=kinds,
        outside=outside,
        trainable=frozenset(name for name, p in net.named_parameters() if p.requires_grad),
    )


def _recording_hooks(
    name: str, kind: str, calls: dict[str, list[_Call]], weights: dict[str, Tensor]
) -> tuple[Callable, Callable]:
    """The hooks that note one layer's calls; the layer reads an alias made for it alone."""

    def before(module, args, kwargs):
        value = args[0] if args else kwargs["input"]
        if value.dim() == UNBATCHED_DIMENSIONS[kind]:
            raise _LayerFault(
                f"layer {name!r} ({kind}) got an input of shape {tuple(value.shape)} without a "
                "batch axis; pass x as (n, *input_shape)"
            )
        if value.numel() == 0:
            raise _LayerFault(
                f"layer {name!r} ({kind}) got an input of shape {tuple(value.shape)}, which holds "
                "no numbers; do not call it then"
            )
        if not torch.is_grad_enabled():
            raise _LayerFault(
                f"layer {name!r} runs with gradients switched off, so its part of the "
                "derivatives is lost; remove torch.no_grad() (or reentrant checkpointing) around it"
            )
        alias = value.view_as(value)
        if not alias.requires_grad:
            alias.requires_grad_()
        edge = get_gradient_edge(alias)
        calls.setdefault(name, []).append(_Call(alias, alias._version, edge))
        return ((alias, *args[1:]), kwargs) if args else (args, {**kwargs, "input": alias})

    def after(module, args, kwargs, output):
        weights[name] = module.weight.detach()
        kernel = tuple(weights[name].shape[2:])
        if kernel != getattr(module, "kernel_size", ()):
            raise _LayerFault(
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


def _forward(network: Float64Network, x: Tensor, samples: Sequence[int]) -> _Forward:
    """Run ``network`` on ``x`` and record every call of every layer.

    ``samples`` are the indices of the first rows of ``x`` in the user's batch; rows beyond them
    are company, whose outputs nobody reads.
    """
    x = x.detach().to(torch.float64, copy=True).requires_grad_()
    calls: dict[str, list[_Call]] = {}
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
    return _Forward(x, output, calls, weights)


def _check_rows(name: str, made: list[_Call], n_samples: int) -> None:
    """Refuse a layer whose rows are not the samples, one each."""
    for call in made:
        if call.value.shape[0] != n_samples:
            raise ValueError(
                f"layer {name!r} reads shape {tuple(call.value.shape)} for {n_samples} samples, so "
                "its rows are not the samples; keep the batch as the first axis there, as in "
                "(n, T, d) instead of (n * T, d) or (T, n, d)"
            )


def _weight_uses(output: Tensor, parameters: dict[str, Tensor]) -> tuple[Counter[str], set]:
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


@dataclass(frozen=True)
class Probe:
    """Outputs for a few samples, in other company than in the user's batch."""

    samples: tuple[int, ...]  # which ones
    output: Tensor  # (len(samples), N)
    inputs: dict[str, tuple[Tensor, ...]]  # what each layer read, (len(samples), ...) a call

    def check(self, output: Tensor, start: int = 0) -> None:
        """Refuse another ``output``, of samples ``start``, ``start + 1``, ..., that differs."""
        self._check(
            self.output,
            output,
            start,
            "samples influence each other: the output for sample {sample} depends on which other "
            "samples are in the batch (batch statistics? attention over the batch? or a network so "
            "sensitive that rounding alone changes its output?)",
        )

    def check_inputs(self, layer: LayerDerivatives, start: int) -> None:
        """Refuse a layer whose rows are not the samples ``start``, ``start + 1``, ... in order."""
        for mine, its in zip(self.inputs.get(layer.name, ()), layer.inputs, strict=False):
            self._check(
                mine.flatten(1),
                its.flatten(1),
                start,
                f"layer {layer.name!r} reads other numbers for sample {{sample}} in another batch, "
                "so its rows are not the samples in their order (sorted or permuted in forward? "
                "batch statistics?); keep the batch's order",
            )

    def _check(self, mine: Tensor, its: Tensor, start: int, message: str) -> None:
        pairs = [
            (row, sample)
            for row, sample in enumerate(self.samples)
            if start <= sample < start + len(its)
        ]
        if pairs:
            rows, samples = [list(column) for column in zip(*pairs, strict=True)]
            others = its[[sample - start for sample in samples]].detach()
            check_same(mine[rows], others, samples, message)


def _random_state(device: torch.device) -> Tensor:
    """The global random state that operations on ``device`` draw from."""
    state = torch.get_rng_state()
    if device.type == "cuda":
        state = torch.cat([state, torch.cuda.get_rng_state(device)])
    return state


def _probe(network: Float64Network, x: Tensor) -> tuple[Probe, _Forward]:
    """Run ``network`` twice on a few samples of ``x`` and on one that is not among them."""
    check_batch(network.net, x)
    samples = tuple(range(x.shape[0] - 1, -1, -2)[:PROBE_SAMPLES])
    rows = x[list(samples)].detach()
    n_others = 2 if len(rows) + 1 == len(x) else 1  # so that the batch sizes differ
    other = 0.5 * rows[:1] + 0.5 * rows.abs().max() + 1.0  # unlike any sample
    company = torch.cat([rows, *[other] * n_others])
    state = _random_state(x.device)
    try:
        first = _forward(network, company, samples)
    except ValueError:  # a network for some inputs only, such as numbers of a category
        others = [i for i in range(len(x)) if i not in samples]
        other = x[others[:1]].detach() if others else rows[:1] * (1 - 1e-3)
        company = torch.cat([rows, *[other] * n_others])
        first = _forward(network, company, samples)
    again = _forward(network, company, samples)
    _check_graph(network, first.output)
    output = first.output[: len(samples)].detach()
    check_same(
        output,
        again.output[: len(samples)].detach(),
        samples,
        "the network is not deterministic: two runs on sample {sample} differ; switch off its "
        "randomness (net.eval())",
    )
    if not torch.equal(state, _random_state(x.device)):
        raise ValueError(
            "the network draws random numbers in its forward, so it is not deterministic, be it "
            "rarely; switch off its randomness (net.eval())"
        )
    inputs = {
        name: tuple(call.value[: len(samples)].detach() for call in made)
        for name, made in first.calls.items()
    }
    return Probe(samples, output, inputs), first


def checked_output(network: Float64Network, x: Tensor) -> Tensor:
    """The output ``(n, N)`` for ``x``, from a network held to be deterministic, sample by sample.

    Raises:
        TypeError, ValueError: as `plan`; samples influence each other.
    """
    probe, _ = _probe(network, x)
    output = network(x.double())
    probe.check(output)
    return output


def _check_graph(network: Float64Network, output: Tensor) -> None:
    """Refuse an output that rests on single precision, or on numbers made of parameters before."""
    uses, graph = _weight_uses(output, network.outside)
    if uses:
        raise ValueError(
            f"the forward uses {next(iter(uses)).lstrip('.')!r} by way of a tensor that was "
            "computed from parameters before, so their part in the derivatives is lost; compute "
            "it in forward"
        )
    for node in graph:
        for made in node._input_metadata:
            if made.dtype.is_floating_point and made.dtype != torch.float64:
                raise ValueError(
                    f"the forward works in {made.dtype} on the way ({node.name()}) though input "
                    "and weights are float64; remove the cast, measurements are made in float64"
                )


@dataclass(frozen=True)
class Plan:
    """What a probe of the network on a few samples found out."""

    probe: Probe
    bytes_per_sample: int  # memory that one sample's derivatives take


def plan(network: Float64Network, x: Tensor) -> Plan:
    """Probe ``network`` on a few samples of ``x``, in other company than in the batch.

    Raises:
        ValueError: the network is not deterministic, calls no layer, or calls one on rows that
            are not the samples.
    """
    probe, first = _probe(network, x)
    if not first.calls:
        raise ValueError("no Linear, Conv1d or Conv2d layer is called in the forward pass")
    return Plan(probe, _bytes_per_sample(first, _is_batched(network, first)))


def _owners(network: Float64Network, forward: _Forward) -> tuple[frozenset[str], tuple[str, ...]]:
    """The trainable parameters that one layer's calls alone use, and those used otherwise.

    Raises:
        ValueError: the weight of a layer is used without calling the layer.
    """
    uses, graph = _weight_uses(forward.output, network.parameters)
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


def _is_batched(network: Float64Network, forward: _Forward) -> bool:
    """Whether the N backward passes are run as one."""
    # Measured: matrix products gain from batching, convolutions lose to memory traffic.
    return all(network.kinds[name] == "Linear" for name in forward.calls)


def _bytes_per_sample(forward: _Forward, batched: bool) -> int:
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
    try:
        found = torch.autograd.grad(
            output[:, k].sum(), targets, retain_graph=True, allow_unused=True
        )
    except RuntimeError as error:
        raise ValueError(
            "the network cannot be differentiated (does an in-place operation overwrite what an "
            "earlier layer returned? use its out-of-place form; is a part recomputed by "
            f"checkpointing? switch that off): {error}"
        ) from error
    return [
        output.new_zeros(shape) if gradient is None else gradient
        for gradient, shape in zip(found, shapes, strict=True)
    ]


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
        with suppress(RuntimeError):  # an operation that cannot be batched, a hook that looks
            found = _all_at_once(output, targets, shapes)
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
    forward = _forward(network, _in_company(x), range(start, start + n))
    own, others = _owners(network, forward)
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
    return Derivatives(forward.output[:n].detach(), jacobian, layers, own, others)


def _in_company(x: Tensor) -> Tensor:
    """``x``, a single sample twice: networks that squeeze, and some of PyTorch's own backward
    passes in odd memory layouts, take one row for another thing than a batch.
    """
    return torch.cat([x, x]) if len(x) == 1 else x


def differentiate(
    network: Float64Network,
    x: Tensor,
    planned: Plan,
    max_memory: int,
    collect: Collect | None = None,
) -> Iterator[Derivatives]:
    """The derivatives of ``network`` at ``x``, part by part.

    Args:
        network: from `float64_network`.
        x: ``(n, *input_shape)``, any floating dtype.
        planned: from `plan`.
        max_memory: bytes that one part's derivatives may take; at least one sample at a time
            is always taken.
        collect: sees the gradients at each layer's output; without it they are not taken.

    Yields:
        `Derivatives` of consecutive parts of the batch.

    Raises:
        ValueError: samples influence each other; output or gradient not finite.
    """
    at_once = max(1, int(min(max_memory / planned.bytes_per_sample, len(x))))
    start = 0
    for part in x.split(at_once):
        derivatives = _backward(network, part, start, collect)
        planned.probe.check(derivatives.output, start)
        for layer in derivatives.layers:
            planned.probe.check_inputs(layer, start)
        yield derivatives
        start += len(part)


def input_jacobian(net: nn.Module, x: Tensor, max_memory: int = 2**28) -> Tensor:
    """Jacobian of the outputs with respect to the inputs, for every sample.

    Args:
        net: a network with at least one Linear, Conv1d or Conv2d layer, in eval mode.
        x: ``(n, *input_shape)``.
        max_memory: bytes that one part of the batch may take while it is differentiated.

    Returns:
        ``(n, N, M)`` float64: entry ``[i, k]`` is the gradient of output k at sample i, which
        is the transpose of the paper's :math:`\\nabla_x f`.

    Raises:
        TypeError, ValueError: as `flatlib.measure`.

    Source: Eq. (4).

    >>> import flatlib
    >>> net = flatlib.nets.linear(3, 2).double()
    >>> torch.equal(input_jacobian(net, torch.ones(1, 3))[0], net.linear1.weight)
    True
    """
    with float64_network(net) as network:
        planned = plan(network, x)
        parts = [part.jacobian for part in differentiate(network, x, planned, max_memory)]
    return torch.cat(parts)


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
        rows_in = _in_company(sample).requires_grad_()
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


def parameter_jacobian(net: nn.Module, x: Tensor) -> Tensor:
    """Jacobian of the outputs with respect to all trainable parameters: slow, for toys.

    Args:
        net: a network with at least one Linear, Conv1d or Conv2d layer, in eval mode.
        x: ``(n, *input_shape)``.

    Returns:
        ``(n, N, m)`` float64, m entries in the order of ``net.parameters()``, frozen ones left
        out. Takes n N m numbers of memory and n N backward passes.

    Raises:
        TypeError, ValueError: as `flatlib.measure`.

    Source: Eq. (3), whose norm is over these entries.

    >>> import flatlib
    >>> net = flatlib.nets.linear(3, 1)
    >>> parameter_jacobian(net, torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([[[1., 2., 3.]]], dtype=torch.float64)
    """
    with float64_network(net) as network:
        checked_output(network, x)
        names = trainable_names(network)
        return torch.stack(list(sample_parameter_gradients(network, x, names)))
