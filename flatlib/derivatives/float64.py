"""A network seen through float64 copies of its parameters, and put back as it was."""

from __future__ import annotations

import copy
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from flatlib.checks import check_network, check_output, is_out_of_memory

LAYER_FORWARDS = {
    nn.Linear.forward: "Linear",
    nn.Conv1d.forward: "Conv1d",
    nn.Conv2d.forward: "Conv2d",
}
NORMALIZATIONS = (F.batch_norm, F.instance_norm, torch.batch_norm, torch.instance_norm)


class LayerFault(Exception):
    """What a hook found wrong with one call of a layer; reaches the caller as ValueError."""


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
    outside: dict[str, Tensor]  # leaves no output may rest on: see `check_graph` in `probing`
    trainable: frozenset[str] = field(default_factory=frozenset)  # names of unfrozen parameters
    task: str = "the network was differentiated"  # told where memory runs out, with the remedy
    remedy: str = "pass fewer samples"

    def __call__(self, x: Tensor) -> Tensor:
        """The output ``(n, N)`` for float64 ``x``, checked."""
        state = {**self.parameters, **self.buffers}
        with torch.autocast(x.device.type, enabled=False), _PlainLayouts():
            try:
                output = functional_call(self.net, state, (x.clone(),))
            except LayerFault as fault:
                raise ValueError(str(fault)) from None
            except Exception as error:
                if is_out_of_memory(error):
                    raise
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


def _held(value: object, seen: set[int]) -> Iterator[list | dict | set | deque | Tensor]:
    """The plain containers and the tensors in ``value``, itself among them."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield value
    elif type(value) in (list, dict, set, tuple, deque, OrderedDict, defaultdict):
        if type(value) is not tuple:
            yield value
        for item in value.values() if isinstance(value, dict) else value:
            yield from _held(item, seen)


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
    own = {id(tensor) for tensor in (*net.parameters(), *net.buffers())}
    held = list(_held([before for _, _, before in attributes], own))
    containers = [(value, copy.copy(value)) for value in held if not isinstance(value, Tensor)]
    tensors = [
        (value, value.detach().clone())
        for value in held
        if isinstance(value, Tensor) and value.layout == torch.strided
    ]
    cuda = {parameter.device for parameter in net.parameters() if parameter.is_cuda}
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.random.fork_rng(devices=cuda))
        stack.enter_context(_no_cached_parametrizations())
        try:
            outside = dict(net.named_parameters())  # the user's own
            for path, module, before in attributes:
                for name, value in before.items():
                    if isinstance(value, Tensor):
                        dtype = torch.float64 if value.is_floating_point() else value.dtype
                        vars(module)[name] = value.detach().to(dtype, copy=True)
                        if value.grad_fn is not None:
                            outside[f"{path}.{name}"] = vars(module)[name].requires_grad_()
            network = _float64_copies(net, kinds, outside)
            try:
                yield network
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                said = str(error).partition("\n")[0]
                raise MemoryError(
                    f"memory ran out while {network.task}: {network.remedy} "
                    f"({type(error).__name__}: {said})"
                ) from error
        finally:
            for _, module, before in attributes:
                vars(module).clear()
                vars(module).update(before)
            for value, before in containers:
                value.clear()
                (value.extend if isinstance(value, (list, deque)) else value.update)(before)
            for tensor, before in tensors:
                if not torch.equal(tensor, before):
                    tensor.data.copy_(before)


@contextmanager
def _no_cached_parametrizations() -> Iterator[None]:
    """Within ``parametrize.cached()`` a layer would go on reading the user's own weight."""
    enabled = parametrize._cache_enabled
    parametrize._cache_enabled = 0
    try:
        yield
    finally:
        parametrize._cache_enabled = enabled


class _PlainLayouts(TorchFunctionMode):
    """PyTorch's backward of batch and instance normalization confuses the axes of some memory
    layouts (seen in 2.13 on CPU), so what these read and the gradients they get are laid out anew.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function not in NORMALIZATIONS:
            return function(*args, **kwargs)
        if args:
            args = (_plain_layout(args[0]), *args[1:])
        else:
            kwargs = {**kwargs, "input": _plain_layout(kwargs["input"])}
        output = function(*args, **kwargs)
        if output.requires_grad:
            output.register_hook(_plain_layout)
        return output


def _plain_layout(tensor: Tensor) -> Tensor:
    """A copy in row-major order; ``contiguous`` would keep odd strides of axes of length 1."""
    return tensor.clone(memory_format=torch.contiguous_format)


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
