"""A deep float64 copy of a network, which shares no tensor with it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode


class _CopiesInFloat64(TorchFunctionMode):
    """Within it, `copy.deepcopy` makes float64 of floating-point numbers, complex128 of complex.

    Tensors that were computed from parameters are copied as numbers without a past, which
    ``computed`` notes.
    """

    def __init__(self):
        super().__init__()
        self.computed: list[tuple[Tensor, Tensor]] = []  # each original with its copy

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is Tensor.__deepcopy__:
            original = args[0]
            made = _in_float64(original.detach())
            if original.grad_fn is not None:
                self.computed.append((original, made.requires_grad_()))
            return made
        if function is Tensor.clone:  # how parameters are copied
            return _in_float64(args[0])
        return function(*args, **(kwargs or {}))


def _in_float64(tensor: Tensor) -> Tensor:
    """A copy, in float64 if it holds floating-point numbers, complex128 if complex ones."""
    return tensor.to(_wide(tensor), copy=True)


def _wide(tensor: Tensor) -> torch.dtype:
    if tensor.is_complex():
        return torch.complex128
    return torch.float64 if tensor.is_floating_point() else tensor.dtype


def float64_copy(net: nn.Module) -> tuple[nn.Module, dict[str, Tensor]]:
    """A deep float64 copy of ``net``, and those of its tensors that were computed before.

    The latter are leaves of the copy, under their names: an output that rests on one of them has
    lost the parameters behind it.

    Raises:
        ValueError: something that the network holds cannot be copied.
    """
    copying = _CopiesInFloat64()
    try:
        with copying:
            twin = copy.deepcopy(net)
    except Exception as error:
        raise _cannot_be_copied(net, error) from error
    own = {id(tensor) for tensor in (*net.parameters(), *net.buffers())}
    for name, tensor in (*twin.named_parameters(), *twin.named_buffers()):
        if id(tensor) in own:
            raise ValueError(
                f"a deep copy of the network still shares {name!r} with it, and what is measured "
                "is a copy; mend the __deepcopy__ of the module that holds it"
            )
        if tensor.dtype != _wide(tensor):  # a __deepcopy__ of the user's own may leave that
            tensor.data = tensor.data.to(_wide(tensor))
    for module in twin.modules():
        if parametrize.is_parametrized(module):
            _compute_anew(module)
    names = {
        id(value): f"{path}.{name}".lstrip(".")
        for path, module in net.named_modules()
        for name, value in vars(module).items()
    }
    computed = {
        names.get(id(original), f"tensor {index} that it holds"): made
        for index, (original, made) in enumerate(copying.computed)
    }
    return twin, computed


def _compute_anew(module: nn.Module) -> None:
    """Let a parametrized copy compute its weights whenever they are read.

    Within ``parametrize.cached()`` PyTorch would give it those of the module it is a copy of: the
    cache knows a weight by the module whose class was made for it, and a copy is of that class.
    Seen in torch 2.13, and no issue is known. tests/test_guards.py tells when it is gone.
    """
    made = {
        name: property(lambda self, name=name: self.parametrizations[name]())
        for name in module.parametrizations
    }
    module.__class__ = type(type(module).__name__, (type(module),), made)


def _cannot_be_copied(net: nn.Module, error: Exception) -> ValueError:
    """What to say, with the attribute at fault."""
    where = type(net).__name__
    for path, module in net.named_modules():
        for name, value in vars(module).items():
            if name == "_modules":
                continue
            try:
                with _CopiesInFloat64():
                    copy.deepcopy(value)
            except Exception as fault:
                error, where = fault, f"{path}.{name}".lstrip(".")
    return ValueError(
        f"{where!r} cannot be copied, and what is measured is a private copy of the network: "
        f"{type(error).__name__}: {error}; delete it before measuring (it can be set again "
        "afterwards), or give its class a __deepcopy__"
    )
