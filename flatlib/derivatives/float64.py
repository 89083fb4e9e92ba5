"""The private copy of a network that is differentiated, and how it is run in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from threading import Lock
from typing import Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from flatlib.checks import check_network, check_output, is_out_of_memory

from .at_rest import AtRest
from .attention import Part, multi_head_attention, plain_attention, projections
from .copying import float64_copy
from .hooks import let_hooks_look, looking
from .plain import is_plain_sequence

CONVOLUTIONS = ("Conv1d", "Conv2d", "Conv3d")
TRANSPOSED = ("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")
FORWARD_PARTS = ("forward", "_conv_forward")


def _forward_of(kind: type) -> tuple:
    return tuple(getattr(kind, part, None) for part in FORWARD_PARTS)


# As they are when the library is imported: somebody may replace them afterwards.
LAYER_FORWARDS = {
    _forward_of(getattr(nn, kind)): kind for kind in ("Linear", *CONVOLUTIONS, *TRANSPOSED)
}
NORMALIZATIONS = (F.batch_norm, F.instance_norm, torch.batch_norm, torch.instance_norm)
IN_FULL = {
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float32: torch.float64,
    torch.complex32: torch.complex128,
    torch.complex64: torch.complex128,
}
SAMPLES_AT_ONCE = 64  # samples whose outputs are made together where nothing is differentiated
CASTS = (Tensor.float, Tensor.half, Tensor.bfloat16)
MAKERS = (  # of tensors whose precision is PyTorch's default unless it is given
    *(torch.zeros, torch.ones, torch.empty, torch.full, torch.eye, torch.tensor),
    *(torch.as_tensor, torch.scalar_tensor, torch.arange, torch.linspace, torch.logspace),
)
Made = TypeVar("Made")


def in_full(x: Tensor) -> Tensor:
    """What a network is run on: float64 numbers, or indices to look up."""
    return x.double() if x.is_floating_point() else x.long()


class LayerFault(Exception):
    """What was found wrong in a forward pass; reaches the caller as ValueError."""


class OutOfMemory(MemoryError):
    """Memory ran out; says while what, and what to do."""


@contextmanager
def out_of_memory_told(task: str, remedy: str) -> Iterator[None]:
    """Tell an error that says that memory ran out as such, unless it is told already."""
    try:
        yield
    except OutOfMemory:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        said = str(error).partition("\n")[0]
        raise OutOfMemory(
            f"memory ran out while {task}: {remedy} ({type(error).__name__}: {said})"
        ) from error


@contextmanager
def autograd_faults_told(fault: str, remedy: str) -> Iterator[None]:
    """Tell an error of autograd as ``fault``, unless it says that memory ran out."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(f"{fault} ({error}); {remedy}") from error


class Recorder(Protocol):
    """Runs functions of a forward pass in the place of the mode, and notes some."""

    def call(self, function: Callable, args: tuple, kwargs: dict) -> object:
        """``function(*args, **kwargs)``."""


class InFloat64(TorchFunctionMode):
    """Runs a forward pass in float64 whatever precision its author asks for, in this thread.

    Casts to a lower precision, and tensors made in the default one, come out in float64.
    What batch and instance normalization read and the gradients they get are laid out anew, see
    `_normalized`. Attention is PyTorch's plain one, and that of `torch.nn.MultiheadAttention` calls
    its linear maps one by one. The gradient of a table that is looked up in is dense, and not
    divided by how often a row is looked up.
    """

    def __init__(self, user: dict[int, str], at_rest: AtRest):
        super().__init__()
        self.user = user  # names of the user's own parameters, by id
        self.at_rest = at_rest
        self.recorder: Recorder | None = None
        self.input: Tensor | None = None  # what the network is called with
        self.has_lifted = False  # whether a precision was asked for that is not float64
        self.has_replaced = False  # whether a function ran that is not PyTorch's own

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for value in (*args, *kwargs.values()):
            if id(value) in self.user:
                raise LayerFault(
                    f"the forward reads {self.user[id(value)]!r} of the network itself, where a "
                    "private copy of the network runs: a function that the network holds refers "
                    "to the network; make it a method of the module, or let it use its arguments"
                )
            self.at_rest.note_read(value)
        if function is Tensor.register_hook:
            return function(args[0], looking(*args[1:], "a tensor in forward", **kwargs))
        if function in CASTS:
            function, self.has_lifted = Tensor.double, True
        elif function is not Tensor.view:  # which reads the same bits as another type
            args = tuple(map(self._in_full, args))
            kwargs = {name: self._in_full(value) for name, value in kwargs.items()}
        if function is F.scaled_dot_product_attention:
            # The fused one cannot be differentiated twice: pytorch/pytorch issue 116350, open, in
            # torch up to 2.13 at least. tests/test_guards.py tells when it can.
            self.has_replaced = True
            return plain_attention(*args, **kwargs)
        if function is torch.fake_quantize_per_channel_affine and len(args) > 1:
            args = (args[0], args[1].float(), *args[2:])  # it takes no scale of another type
        if function is F.multi_head_attention_forward:
            with self:
                attended = multi_head_attention(args, kwargs)
            self.has_replaced |= attended is not None
            return function(*args, **kwargs) if attended is None else attended
        if function is torch._weight_norm:
            self.has_replaced = True
            return _weight_normalized(*args, **kwargs)
        if function in (F.embedding, F.embedding_bag):
            kwargs = {**kwargs, "sparse": False, "scale_grad_by_freq": False}
        if function in NORMALIZATIONS:
            return self._normalized(function, args, kwargs)
        output = self._call(function, args, kwargs)
        if function in MAKERS and kwargs.get("dtype") is None and output.dtype in IN_FULL:
            self.has_lifted |= output.numel() > 0
            return function(*args, **{**kwargs, "dtype": IN_FULL[output.dtype]})
        return output

    def _in_full(self, value: object) -> object:
        """float64 (or complex128) for a lower precision, anything else as it is."""
        if not isinstance(value, torch.dtype) or value not in IN_FULL:
            return value
        self.has_lifted = True
        return IN_FULL[value]

    def _call(self, function: Callable, args: tuple, kwargs: dict) -> object:
        if self.recorder is None:
            return function(*args, **kwargs)
        return self.recorder.call(function, args, kwargs)

    def _normalized(self, function: Callable, args: tuple, kwargs: dict) -> Tensor:
        """What a batch or instance normalization returns, in plain memory layouts.

        On the CPU their backward takes a gradient whose positions lie in front of its samples and
        channels, as attention leaves it, for one whose channels lie last, and mixes up the axes.
        Seen in torch 2.13; of the forward pass the same was mended in 1.10 (pytorch/pytorch issue
        63224), of the backward pass no issue is known. tests/test_guards.py has the fault in its
        smallest form, and tells when it is gone.
        """
        if args:
            args = (_plain_layout(args[0]), *args[1:])
        else:
            kwargs = {**kwargs, "input": _plain_layout(kwargs["input"])}
        output = self._call(function, args, kwargs)
        if output.requires_grad:
            output.register_hook(_plain_layout)
        return output


def _weight_normalized(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """What `torch.nn.utils.parametrizations.weight_norm` makes of direction and length.

    On the CPU the fused one has a wrong second derivative: seen in torch 2.13, no issue is known.
    tests/test_guards.py tells when it is right.
    """
    return v * (g / torch.norm_except_dim(v, 2, dim))


def _plain_layout(tensor: Tensor) -> Tensor:
    """A copy in row-major order; ``contiguous`` would keep odd strides of axes of length 1."""
    return tensor.clone(memory_format=torch.contiguous_format)


@dataclass(frozen=True)
class Float64Network:
    """A private float64 copy of a network; use as ``with float64_network(net) as network``."""

    net: nn.Module  # the copy
    parameters: dict[str, Tensor]  # its leaves that require a gradient, by name
    layers: dict[str, nn.Module]  # its linear and convolutional layers, by name
    kinds: dict[str, str]
    owned: dict[str, dict[str, Part]]  # the parameters that are a layer's "weight" and "bias"
    outside: dict[str, Tensor]  # leaves no output may rest on: see `check_graph` in `probing`
    trainable: frozenset[str]  # names of parameters that are not frozen
    plain: bool  # see `is_plain_sequence`
    mode: InFloat64
    at_rest: AtRest

    def __call__(self, x: Tensor) -> Tensor:
        """The output ``(n, N)`` of the network at rest for ``x`` as `in_full` makes it, checked."""
        return self.anew(x, lambda: self.carry_on(x))

    def outputs(self, x: Tensor) -> Tensor:
        """The outputs ``(n, N)`` for samples of any precision, a few at a time, as numbers alone.

        Raises:
            ValueError: the forward fails, or returns something else than a row a sample.
        """
        parts = x.detach().split(SAMPLES_AT_ONCE)
        return torch.cat([self(in_full(rows)).detach() for rows in parts])

    def anew(self, x: Tensor, run: Callable[[], Made]) -> Made:
        """What ``run`` makes of ``x`` with the network at rest, caches of parameters emptied."""
        while True:
            self.at_rest.put_back()
            made = run()
            if not self.at_rest.emptied(lambda: self.carry_on(x)):
                return made

    def carry_on(self, x: Tensor, as_written: bool = False) -> Tensor:
        """The output ``(n, N)`` for ``x``, with what earlier passes may have left.

        ``as_written`` leaves the functions that the mode replaces as they are.
        """
        self.mode.input = x.clone()
        mode = nullcontext() if as_written else self.mode
        with torch.autocast(x.device.type, enabled=False), mode:
            try:
                output = self.net(self.mode.input)
            except LayerFault as fault:
                raise ValueError(str(fault)) from None
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                raise ValueError(
                    f"the network's forward fails with {type(error).__name__}: {error} (on samples "
                    f"of shape {tuple(x.shape[1:])} in float64; {_remedy(error)})"
                ) from error
        return check_output(output, x.shape[0])


def _remedy(error: Exception) -> str:
    """What may help against an error of a network's forward."""
    said = str(error)
    if isinstance(error, TypeError) and "argument" in said:
        return "a network is called with x alone: wrap it in a module that adds the rest"
    if any(word in said for word in ("dtype", "Float", "Double", "Half")):
        return "does it keep float32 tensors inside? make them of x's dtype, as in x.new_zeros(...)"
    return "is the batch axis missing, or are the samples of another size than the layers expect?"


def _kind(module: nn.Module) -> str | None:
    """ "Linear", "Conv1d", ... for a layer that computes what these do, else None."""
    own = any(part in vars(module) for part in FORWARD_PARTS)
    # A parameter of another class may compute with other numbers than it holds.
    parameters = [type(each) for each in module._parameters.values() if each is not None]
    if own or any(kind is not nn.Parameter for kind in parameters):
        return None
    return LAYER_FORWARDS.get(_forward_of(type(module)))


@dataclass(frozen=True)
class _Layers:
    """The linear and convolutional layers of a network, by name."""

    modules: dict[str, nn.Module]
    kinds: dict[str, str]
    owned: dict[str, dict[str, Part]]  # the parameters that are a layer's "weight" and "bias"


def _layers(net: nn.Module) -> _Layers:
    """Each linear and convolutional layer; at least one."""
    layers, kinds, owned = {}, {}, {}
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    for path, module in net.named_modules():
        found = {}
        if kind := _kind(module):
            own = {key: (module._parameters.get(key), 0, 1) for key in ("weight", "bias")}
            found[path] = (module, kind, own)
        elif isinstance(module, nn.MultiheadAttention):
            for name, (projection, own) in projections(module).items():
                found[f"{path}.{name}".lstrip(".")] = (projection, "Linear", own)
        for name, (layer, kind, own) in found.items():
            layers[name], kinds[name] = layer, kind
            owned[name] = {
                key: Part(names[id(parameter)], index, count)
                for key, (parameter, index, count) in own.items()
                if id(parameter) in names
            }
    if not kinds:
        raise ValueError(
            f"{type(net).__name__} has no linear or convolutional layer that it calls; there is "
            "no weight matrix to bound its sensitivity with (if it is quantized or exported, pass "
            "the network that it was made from)"
        )
    for name, parameter in net.named_parameters():
        layer, _, own = name.rpartition(".")
        if layer in kinds and own == "weight" and parameter.numel() == 0:
            raise ValueError(
                f"the weight of layer {layer!r} has shape {tuple(parameter.shape)}, so no "
                "numbers; remove the layer or give it a width"
            )
    return _Layers(layers, kinds, owned)


class _WholeProcess:
    """A setting of the whole process, on as long as any thread is within it."""

    def __init__(self, make: Callable[[], AbstractContextManager]):
        self.make, self.lock, self.inside = make, Lock(), 0

    def __enter__(self) -> None:
        with self.lock:
            if not self.inside:
                self.setting = self.make()
                self.setting.__enter__()
            self.inside += 1

    def __exit__(self, *_) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                self.setting.__exit__(None, None, None)


EAGER = _WholeProcess(lambda: torch.compiler.set_stance("force_eager"))
CUDNN_OFF = _WholeProcess(lambda: torch.backends.cudnn.flags(enabled=False))


@contextmanager
def _uncompiled(net: nn.Module) -> Iterator[None]:
    """Within it, modules that `torch.compile` made run as they were written.

    What was compiled was compiled in the precision of the user, and is not followed inside.
    """
    if any(type(module).__name__ == "OptimizedModule" for module in net.modules()):
        with EAGER:
            yield
    else:
        yield


@contextmanager
def _without_cudnn(net: nn.Module) -> Iterator[None]:
    """Within it, recurrent layers run PyTorch's own operations on a GPU.

    cuDNN's have no gradient in eval mode, and no second one in any.
    """
    recurrent = (module for module in net.modules() if isinstance(module, nn.RNNBase))
    if any(parameter.is_cuda for module in recurrent for parameter in module.parameters()):
        with CUDNN_OFF:
            yield
    else:
        yield


@contextmanager
def float64_network(net: nn.Module) -> Iterator[Float64Network]:
    """Check ``net`` and copy it in float64; see `Float64Network`. The user's is only read."""
    check_network(net)
    _layers(net)
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        _uncompiled(net),
        _without_cudnn(net),
        out_of_memory_told("the network was differentiated", "pass fewer samples"),
    ):
        twin, computed = float64_copy(net)
        plain = is_plain_sequence(twin)
        let_hooks_look(twin)
        at_rest = AtRest(nn.Module(), nn.Module()) if plain else AtRest(twin, net)
        layers = _layers(twin)
        user = dict(net.named_parameters())
        yield Float64Network(
            net=twin,
            parameters={
                name: parameter.requires_grad_()
                for name, parameter in twin.named_parameters()
                if parameter.is_floating_point()
            },
            layers=layers.modules,
            kinds=layers.kinds,
            owned=layers.owned,
            outside={**user, **computed},
            trainable=frozenset(name for name, p in user.items() if p.requires_grad),
            plain=plain,
            mode=InFloat64({id(parameter): name for name, parameter in user.items()}, at_rest),
            at_rest=at_rest,
        )
