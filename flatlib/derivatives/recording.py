"""A forward pass that notes every call of a layer, and where other parameters act on the batch."""

from __future__ import annotations

import inspect
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from flatlib.checks import EMBED_FIRST, all_finite, first_not_finite
from flatlib.patches import one_an_axis

from .attention import Part
from .float64 import Float64Network, LayerFault, in_full
from .rows import Rows

UNBATCHED_DIMENSIONS = {
    name + kind: dimensions
    for name in ("Conv", "ConvTranspose")
    for kind, dimensions in (("1d", 2), ("2d", 3), ("3d", 4))
}
ELEMENTWISE = frozenset(
    getattr(holder, name + ending)
    for name in ("add", "sub", "mul", "div")
    for holder, ending in ((torch, ""), (Tensor, ""), (Tensor, "_"))
)
# What the layers' own forwards compute with, as it is when the library is imported.
LAYER_FUNCTIONS = (
    *(F.linear, F.conv1d, F.conv2d, F.conv3d),
    *(F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d),
)
SETTINGS = ("stride", "padding", "dilation", "groups", "padding_mode", "output_padding")
REPEATS = (Tensor.expand, Tensor.expand_as, Tensor.repeat, Tensor.broadcast_to, torch.broadcast_to)
FUSED_NORMS = (F.layer_norm, F.group_norm, F.batch_norm)  # their own backward knows scale and shift
OTHER_NORMS = (F.rms_norm, F.instance_norm)
SIGNATURES = {norm: inspect.signature(norm) for norm in (*FUSED_NORMS, *OTHER_NORMS)}


@dataclass
class Call:
    """One call of a layer during a forward pass."""

    value: Tensor
    version: int
    input_edge: GradientEdge
    by_module: bool  # or by a function that is given the layer's weight
    owns: frozenset[str]  # "weight", "bias": which are the layer's parameters as they are
    output_edge: GradientEdge | None = None
    output_shape: torch.Size | None = None
    rows: Rows | None = None  # how its rows belong to the samples

    def read(self, n: int) -> Tensor:
        """What it read of the first n samples, ``(n, ...)``."""
        return self.rows.arranged(self.value)[:n].detach()


@dataclass(eq=False)
class Use:
    """One place where parameters scale or shift the rows of a batch."""

    edge: GradientEdge
    shape: torch.Size  # of what the edge leads to
    # Each parameter's name, its shape among these axes, and what it scales (None: it shifts).
    terms: list[tuple[str, torch.Size, Tensor | None]]
    rows: Rows | None = None

    def gradients(self, delta: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Each parameter's gradients ``(n, k, m)``, from ``(n, k, ...)`` of k outputs here."""
        n, k = delta.shape[:2]
        for name, shape, factor in self.terms:
            product = delta if factor is None else delta * self.rows.arranged(factor)[:n, None]
            axes = [axis + 1 for axis in self.rows.shared_axes(shape)]
            yield name, (product.sum(dim=axes) if axes else product).reshape(n, k, -1)


@dataclass
class Forward:
    """One recorded forward pass."""

    x: Tensor  # what it is differentiated along: the input, or what is looked up for it
    source: Tensor | GradientEdge | None  # where gradients along x are taken; None for bare indices
    output: Tensor
    calls: dict[str, list[Call]]
    weights: dict[str, Tensor]  # what each called layer multiplies by
    last: str | None = None  # the layer that is called last
    uses: list[Use] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)  # looked up in with other indices than x
    tables_of_x: list[str] = field(default_factory=list)

    def check_source(self) -> None:
        """Refuse indices that not one table alone is looked up in with."""
        if self.source is not None:
            return
        if self.tables_of_x:
            tables = " and ".join(map(repr, self.tables_of_x))
            fault = f"is looked up in {tables}, so no one vector stands for it"
        else:
            fault = "is not itself what an embedding of the network looks up"
            if self.tables:
                tables = " and ".join(map(repr, self.tables))
                fault += f" ({tables} look up other indices)"
        raise TypeError(f"x holds indices ({self.x.dtype}) and {fault}; {EMBED_FIRST}")


@dataclass(eq=False)
class Lookup(Use):
    """One place where rows of a table are looked up, which is the only place of this table."""

    indices: Tensor = field(kw_only=True)  # of shape ``shape[:-1]``
    padding: int | None = field(kw_only=True)  # the row that is not trained

    def gradients(self, delta: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The table's gradients ``(n, k, m)``, rows that are not looked up left out."""
        ((name, _, _),) = self.terms
        n, k = delta.shape[:2]
        indices = self.rows.arranged(self.indices)[:n].reshape(n, -1)
        delta = delta.reshape(n, k, indices.shape[1], -1)
        if self.padding is not None:
            delta = delta.masked_fill((indices == self.padding)[:, None, :, None], 0.0)
        # Places that look up the same row add up: number the different rows of each sample.
        ordered, order = indices.sort(dim=1)
        new = torch.nn.functional.pad(ordered.diff(dim=1) != 0, (1, 0))
        number = torch.empty_like(indices).scatter_(1, order, new.cumsum(dim=1))
        number = number[:, None, :, None].expand_as(delta)
        yield name, torch.zeros_like(delta).scatter_add_(2, number, delta).flatten(2)


def twice_if_single(x: Tensor) -> Tensor:
    """``x``, a single sample twice: networks that squeeze, and some of PyTorch's own backward
    passes in odd memory layouts, take one row for another thing than a batch.
    """
    return torch.cat([x, x]) if len(x) == 1 else x


class Recorder:
    """Notes calls of layers, by hooks, and what parameters do otherwise, as the mode shows it."""

    def __init__(self, network: Float64Network):
        self.network = network
        self.calls: dict[str, list[Call]] = {}
        self.weights: dict[str, Tensor] = {}
        self.settings: list[tuple[str, tuple]] = []  # of each call of a layer
        self.last: str | None = None
        self.uses: list[Use] = []
        self.tables: dict[bool, list[str]] = {True: [], False: []}  # whether looked up in with x
        self.source: GradientEdge | None = None  # of what was looked up for x
        self.looked_up: Tensor | None = None
        # Layers whose forwards run, one in another where a parametrization of a weight calls one:
        # its name, what its own function made, and the version of that.
        self.at_work: list[tuple[str, Tensor | None, int]] = []
        self.names = {id(p): name for name, p in network.parameters.items()}
        self.layer_of = {
            self._key(own["weight"]): name
            for name, own in reversed(network.owned.items())
            if "weight" in own
        }

    def _key(self, part: Part) -> tuple[int, int, int]:
        """What `_part_of` says of this part of a parameter."""
        return (id(self.network.parameters[part.name]), part.index, part.count)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Within it, the network's forward passes are recorded."""
        with ExitStack() as stack:
            for name, module in self.network.layers.items():
                before, after = self._hooks(name)
                # Ours run closest to the layer: after the user's pre-hooks, before their hooks.
                handle = module.register_forward_pre_hook(before, with_kwargs=True)
                stack.callback(handle.remove)
                handle = module.register_forward_hook(
                    after, with_kwargs=True, prepend=True, always_call=True
                )
                stack.callback(handle.remove)
            self.network.mode.recorder = self
            try:
                yield
            finally:
                self.network.mode.recorder = None

    def _hooks(self, name: str) -> tuple[Callable, Callable]:
        kind = self.network.kinds[name]

        def before(module, args, kwargs):
            value = args[0] if args else kwargs["input"]
            if value.numel() == 0:  # it adds nothing, such as an expert that no sample goes to
                return None
            owns = (
                key
                for key, part in self.network.owned[name].items()
                if getattr(module, key) is self.network.parameters[part.name]
                if key == "weight" or kind != "Linear" or _is_one_a_channel(module)
            )
            alias = self._read(name, value, True, frozenset(owns))
            self.at_work.append((name, None, 0))
            return ((alias, *args[1:]), kwargs) if args else (args, {**kwargs, "input": alias})

        def after(module, args, kwargs, output):
            if (args[0] if args else kwargs["input"]).numel() == 0:
                return output
            if output is None:  # it or a hook before it has raised, and somebody may catch that
                if self.at_work and self.at_work[-1][0] == name:
                    self.at_work.pop()
                    self.calls[name].pop()
                return None
            _, made, version = self.at_work.pop()
            if output is not made or output._version != version:
                raise LayerFault(
                    f"layer {name!r} returns something else than its own forward makes, by a hook "
                    "on all modules or a function of PyTorch's that was replaced; take it away "
                    "before measuring"
                )
            return self._returned(name, output)

        return before, after

    def _read(self, name: str, value: Tensor, by_module: bool, owns: frozenset[str]) -> Tensor:
        """Note what a layer reads; it reads an alias made for it alone."""
        kind = self.network.kinds[name]
        if value.dim() == UNBATCHED_DIMENSIONS.get(kind):
            raise LayerFault(
                f"layer {name!r} ({kind}) got an input of shape {tuple(value.shape)} without a "
                "batch axis; pass x as (n, *input_shape)"
            )
        if not torch.is_grad_enabled():
            raise LayerFault(
                f"layer {name!r} runs with gradients switched off, so its part of the "
                "derivatives is lost; remove torch.no_grad() (or reentrant checkpointing) around "
                "it, or detach() what it returns if its derivatives shall not count"
            )
        alias = value.view_as(value)
        if not alias.requires_grad:
            try:
                alias.requires_grad_()
            except RuntimeError as error:
                if not alias.is_floating_point():  # the layer's own error says more
                    raise
                raise LayerFault(
                    f"layer {name!r} runs inside torch.func.vmap, jvp or jacfwd, where what it "
                    "reads cannot be followed; call it on the whole batch instead of by vmap, and "
                    "take derivatives by torch.autograd.grad, torch.func.vjp or jacrev"
                ) from error
        call = Call(alias, alias._version, get_gradient_edge(alias), by_module, owns)
        self.calls.setdefault(name, []).append(call)
        return alias

    def _returned(self, name: str, output: Tensor) -> Tensor:
        """Note what a layer returns."""
        module, kind = self.network.layers[name], self.network.kinds[name]
        weight, before = module.weight.detach(), self.weights.get(name)
        same = before is None or before.data_ptr() == weight.data_ptr()
        if not same and not torch.equal(before, weight):
            raise LayerFault(
                f"layer {name!r} is called with different weights in one forward pass, so it has "
                "no one norm; make a layer of its own for each"
            )
        self.weights[name], self.last = weight, name
        self.settings.append((name, _settings(module)))
        kernel = tuple(self.weights[name].shape[2:])
        if kind != "Linear" and kernel != one_an_axis(module, module.kernel_size):
            raise LayerFault(
                f"layer {name!r} ({kind}) has a kernel of shape {kernel} but "
                f"kernel_size={module.kernel_size}; set it (and the padding) to what the weight has"
            )
        # A later in-place operation would move a view's history off the edge taken here.
        output = output.clone() if output._is_view() else output
        call = self.calls[name][-1]
        call.output_edge, call.output_shape = get_gradient_edge(output), output.shape
        return output

    def call(self, function: Callable, args: tuple, kwargs: dict) -> object:
        """``function(*args, **kwargs)``, recorded if a layer or a parameter takes part."""
        output = self._recorded(function, args, kwargs)
        if self.at_work and function in LAYER_FUNCTIONS:
            self.at_work[-1] = (self.at_work[-1][0], output, output._version)
        return output

    def _recorded(self, function: Callable, args: tuple, kwargs: dict) -> object:
        if function is F.linear:
            return self._linear(function, *_linear_arguments(args, kwargs))
        if function is F.embedding:
            return self._embedding(function(*args, **kwargs), *args[:2], kwargs["padding_idx"])
        if function in SIGNATURES:
            given = SIGNATURES[function].bind(*args, **kwargs).arguments
            return self._normalized(function, given)
        if function in ELEMENTWISE and len(args) == 2 and not kwargs:
            return function(*self._spread_out(args))
        output = function(*args, **kwargs)
        if function in REPEATS and id(args[0]) in self.names:
            self._spread(args[0], output)
        return output

    def _linear(
        self, function: Callable, input: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        """A linear map that is given its weight: a call of the layer that has it."""
        name = None if self.at_work else self.layer_of.get(_part_of(weight))
        if name is None or input.numel() == 0:
            return function(input, weight, bias)
        own = self.network.owned[name].get("bias")
        with_bias = bias is not None and own is not None and _part_of(bias) == self._key(own)
        with_bias = with_bias and bias.shape == weight.shape[:1]
        owns = frozenset(("weight", "bias") if with_bias else ("weight",))
        alias = self._read(name, input, False, owns)
        return self._returned(name, function(alias, weight, bias))

    def _embedding(
        self, output: Tensor, indices: Tensor, weight: Tensor, padding: int | None
    ) -> Tensor:
        """Rows of a table that are looked up, be it for the input itself."""
        name = self.names.get(id(weight), "a table that is no parameter")
        if id(weight) in self.names and output.requires_grad and output.numel():
            terms = [(name, torch.Size((1,) * output.dim()), None)]
            edge, shape = get_gradient_edge(output), output.shape
            row = None if padding is None else padding % len(weight)
            kept = indices.detach().clone()  # the forward may overwrite them
            self.uses.append(Lookup(edge, shape, terms, indices=kept, padding=row))
        x = self.network.mode.input
        own = indices.data_ptr() == x.data_ptr() and indices.shape == x.shape
        self.tables[own].append(name)
        if not own:
            return output
        self.looked_up, output = output.detach(), output.clone()
        if not output.requires_grad:
            output.requires_grad_()
        self.source = get_gradient_edge(output)
        return output

    def _normalized(self, function: Callable, given: dict) -> Tensor:
        """A normalization; its scale and shift, if they are parameters, act on the rows."""
        affine = {key: given[key] for key in ("weight", "bias") if given.get(key) is not None}
        plain = {key: None if key in affine else value for key, value in given.items()}
        own = {key: value for key, value in affine.items() if id(value) in self.names}
        if function in FUSED_NORMS:
            output = function(**given)
            # Where one of the two is made of the other, no gradient belongs to it alone.
            if own and len(own) == len(affine) and output.requires_grad and output.numel():
                with torch.no_grad():
                    factor = function(**plain) if "weight" in own else None
                terms = [
                    (self.names[id(value)], shape, factor if key == "weight" else None)
                    for key, value in own.items()
                    for shape in [_norm_shape(function, output, value)]
                ]
                self.uses.append(Use(get_gradient_edge(output), output.shape, terms))
            return output
        if len(own) < len(affine):
            return function(**given)
        output = function(**plain)
        for key, value in affine.items():
            shape = _norm_shape(function, output, value)
            spread = self._spread(value, value.view(shape).expand(output.shape), shape)
            output = output * spread if key == "weight" else output + spread
        return output

    def _spread_out(self, args: tuple) -> tuple:
        """The two arguments of an operation between numbers, a parameter of them spread out."""
        own = [id(value) in self.names for value in args]
        if sum(own) != 1 or not all(isinstance(value, Tensor) for value in args):
            return args
        shape = torch.broadcast_shapes(*(value.shape for value in args))
        return tuple(
            self._spread(value, value.expand(shape)) if mine else value
            for mine, value in zip(own, args, strict=True)
        )

    def _spread(self, parameter: Tensor, spread: Tensor, shape: torch.Size | None = None) -> Tensor:
        """Note that a parameter, seen in ``shape``, is repeated; return the repetition."""
        if shape is None:
            shape = (1,) * (spread.dim() - parameter.dim()) + parameter.shape
        whole = all(old in (1, new) for old, new in zip(shape, spread.shape, strict=True))
        noted = whole and spread.dim() and spread.numel() and spread.requires_grad
        if noted and torch.is_grad_enabled():
            terms = [(self.names[id(parameter)], torch.Size(shape), None)]
            self.uses.append(Use(get_gradient_edge(spread), spread.shape, terms))
        return spread


def _part_of(tensor: Tensor) -> tuple[int, int, int]:
    """Which of how many equal parts of the rows of which tensor, by its id, a tensor is."""
    base = tensor._base if tensor._is_view() else tensor
    parts, rest = divmod(base.numel(), max(tensor.numel(), 1))
    part, off = divmod(tensor.storage_offset() - base.storage_offset(), max(tensor.numel(), 1))
    whole = tensor.shape[1:] == base.shape[1:] and tensor.is_contiguous() and not rest + off
    return (id(base), part, parts) if whole else (id(tensor), 0, 1)


def _is_one_a_channel(linear: nn.Linear) -> bool:
    """Whether its bias has a number for each channel, none shared nor any for one position."""
    return linear.bias.shape == linear.weight.shape[:1]


def _linear_arguments(args: tuple, kwargs: dict) -> tuple[Tensor, Tensor, Tensor | None]:
    """Input, weight and bias of a call of `torch.nn.functional.linear`."""
    given = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
    return given["input"], given["weight"], given.get("bias")


def _norm_shape(function: Callable, output: Tensor, parameter: Tensor) -> torch.Size:
    """The shape of a normalization's scale or shift among the axes of what it returns."""
    if function in (F.layer_norm, F.rms_norm):
        return torch.Size((1,) * (output.dim() - parameter.dim()) + parameter.shape)
    return torch.Size((1, len(parameter)) + (1,) * (output.dim() - 2))


def run_recorded(network: Float64Network, x: Tensor, samples: Sequence[int]) -> Forward:
    """Run ``network`` on ``x`` and record every call of every layer.

    ``samples`` are the indices of the first rows of ``x`` in the user's batch; rows beyond them
    are company, whose outputs nobody reads.
    """
    x = in_full(x.detach()).clone()
    source = x.requires_grad_() if x.is_floating_point() else None

    def run() -> tuple[Recorder, Tensor]:
        recorder = Recorder(network)
        with recorder.recording():
            return recorder, network.carry_on(x)

    newest = _newest_node()
    recorder, output = network.anew(x, run)
    if any(node._sequence_nr() <= newest for node in graph_behind(output, {}).nodes):
        _refuse_older(network, x)
    # A weight that is multiplied outside its layer as well is no call of the layer.
    calls = {
        name: [call for call in made if call.by_module] or made
        for name, made in recorder.calls.items()
        if made
    }
    if not all_finite(output[: len(samples)]):
        row = first_not_finite(output[: len(samples)])
        broken = [
            name
            for name, made in calls.items()
            if not all(bool(torch.isfinite(call.value).all()) for call in made)
        ]
        where = f"; the first layer to read such values is {broken[0]!r}" if broken else ""
        raise ValueError(
            f"the output for sample {samples[row]} holds NaN or infinite values{where}"
        )
    for name, settings in recorder.settings:
        if settings != _settings(network.layers[name]):
            raise ValueError(
                f"the forward changes the settings of layer {name!r} (stride, padding, dilation) "
                "after it has called it, so they are lost; make a layer of its own for each"
            )
    for name, made in calls.items():
        if any(call.value._version != call.version for call in made):
            raise ValueError(
                f"what layer {name!r} read is overwritten in place later in the forward pass, so "
                "its gradient is lost; replace the in-place operation after it"
            )
    if source is None and len(recorder.tables[True]) == 1:
        x, source = recorder.looked_up, recorder.source
    return Forward(
        *(x, source, output, calls, recorder.weights, recorder.last, recorder.uses),
        tables=recorder.tables[False],
        tables_of_x=recorder.tables[True],
    )


def _settings(module: nn.Module) -> tuple:
    """How a convolution moves its kernel; of a linear layer nothing."""
    return tuple(getattr(module, name, None) for name in SETTINGS)


def _newest_node() -> int:
    """The number that autograd has given to the newest operation of this thread."""
    return torch.ones((), requires_grad=True).clone().grad_fn._sequence_nr()


def _refuse_older(network: Float64Network, x: Tensor) -> None:
    """Refuse an output that rests on a tensor which another forward has made.

    Another thread numbers its operations by itself, such as a GPU's when a forward differentiates,
    so the numbers leave it open. In anomaly mode autograd notes where an operation was made.
    """
    with torch.autograd.set_detect_anomaly(True, check_nan=False):
        output = network.anew(x, lambda: network.carry_on(x))
    for node in graph_behind(output, {}).nodes:
        if "traceback_" not in node.metadata and not hasattr(node, "variable"):  # no leaf
            raise ValueError(
                f"the forward reads a tensor that an earlier forward has made ({node.name()}) and "
                "keeps where it cannot be emptied, such as in a global variable, "
                "functools.lru_cache or an object with __slots__, so the gradients of the "
                "parameters behind it are lost; keep it as an attribute of the module or in a "
                "dictionary or list there, or make it in each forward"
            )


@dataclass(frozen=True)
class Graph:
    """What autograd keeps of a forward pass."""

    nodes: frozenset  # all of them, leaves apart
    uses: Counter[str]  # how often each parameter is used
    readers: dict[str, list]  # the nodes that read each parameter, one entry a use
    readers_of: dict  # the nodes that read what a node returns

    def between(self, node: object) -> set:
        """The nodes on a way from ``node``, itself left out, to the output."""
        found, stack = set(), [node]
        while stack:
            new = set(self.readers_of.get(stack.pop(), ())) - found
            found |= new
            stack += new
        return found

    def used_alone_by(self, name: str, nodes: set) -> bool:
        """Whether no other than ``nodes`` read a parameter, be it through a view of it."""
        return all(
            reader in nodes
            or (
                reader.name() == "ViewBackward0"
                and nodes.issuperset(self.readers_of.get(reader) or [reader])
            )
            for reader in self.readers.get(name, ())
        )


def graph_behind(output: Tensor, parameters: dict[str, Tensor]) -> Graph:
    """The graph behind ``output``, and what of it uses each parameter."""
    names = {id(parameter): name for name, parameter in parameters.items()}
    leaves: dict[str, object] = {}
    readers: dict[object, list] = defaultdict(list)
    stack, seen = [output.grad_fn], {output.grad_fn}
    while stack:
        reader = stack.pop()
        for node, _ in reader.next_functions:
            if node is None:
                continue
            readers[node].append(reader)
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
    by_name = {name: readers[leaf] for name, leaf in leaves.items()}
    return Graph(frozenset(seen), uses, by_name, readers)
