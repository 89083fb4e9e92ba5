"""What a network and a batch must satisfy before anything is differentiated.

Each function raises ``TypeError`` or ``ValueError`` that names the fault and the remedy, and
changes nothing.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

# Two float64 evaluations of one sample agree far better than this; a different answer does not.
SAME_OUTPUT_TOLERANCE = 1e-9
SEEDS = 2**63  # how many there are
INDICES = (torch.int32, torch.int64)  # what an embedding looks up
EMBED_FIRST = "embed them first and measure the rest of the network from the embedded vectors on"


def all_finite(tensor: Tensor) -> bool:
    """Whether no entry is NaN or infinite; the sum decides unless it overflows."""
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    said = str(error)
    signs = ("not enough memory", "can't allocate memory", "bad_alloc", "out of memory")
    return isinstance(error, RuntimeError) and any(sign in said for sign in signs)


def first_not_finite(tensor: Tensor) -> int:
    """The first sample, along axis 0, that holds NaN or infinite values."""
    return int((~torch.isfinite(tensor).reshape(len(tensor), -1).all(dim=1)).nonzero()[0])


def check_gradients(gradients: Tensor, start: int) -> None:
    """Refuse gradients ``(n, ...)`` of samples from ``start`` on that are not finite."""
    if not all_finite(gradients):
        raise ValueError(
            f"the gradient for sample {start + first_not_finite(gradients)} holds NaN or infinite "
            "values, though its output does not; look for a square root or division at 0"
        )


def check_energies(energies: Tensor, start: int, of: str) -> None:
    """Refuse sums of squares ``(n, ...)`` ``of`` some gradients, as `check_gradients` does."""
    if not all_finite(energies):
        raise ValueError(
            f"the {of} of sample {start + first_not_finite(energies)} are NaN, infinite or too "
            "large to square in float64; look for a square root or division at 0, or a diverged "
            "network"
        )


def check_number(name: str, value: object, whole: bool = False, needed: bool = False) -> None:
    """Refuse an option that is no number, or no whole number.

    None is left to its default, unless the option is ``needed``.
    """
    kind, said = (numbers.Integral, "a whole number") if whole else (numbers.Real, "a number")
    if (needed or value is not None) and (not isinstance(value, kind) or isinstance(value, bool)):
        raise TypeError(f"{name} must be {said}, got {value!r} ({type(value).__name__})")


def check_seed(seed: object) -> None:
    """Refuse a seed that PyTorch or NumPy does not take."""
    check_number("seed", seed, whole=True, needed=True)
    if not 0 <= seed < SEEDS:
        raise ValueError(f"seed must lie between 0 and 2**63 - 1, got {seed}")


def check_max_memory(max_memory: float | None) -> None:
    """Refuse a limit that is no number of bytes, or less than one."""
    check_number("max_memory", max_memory)
    if max_memory is not None and not max_memory >= 1:
        raise ValueError(f"max_memory must be at least 1 byte, got {max_memory}")


def check_network(net: nn.Module) -> None:
    """Refuse what is not a module, has no parameters, is random by design, or is not finite."""
    if not isinstance(net, nn.Module):
        raise TypeError(f"net must be a torch.nn.Module, got {type(net).__name__}")
    for name, module in net.named_modules():
        where = f"layer {name!r}" if name else "the network itself"
        if module.training and (
            isinstance(module, _BatchNorm) or (isinstance(module, _DropoutNd) and module.p > 0)
        ):
            raise ValueError(
                f"{where} ({type(module).__name__}) is in training mode, where samples "
                "influence each other or are dropped at random; call net.eval() first"
            )
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(
                f"{where} is scripted, and what it computes inside cannot be followed; pass "
                "the module that torch.jit.script was given"
            )
    if isinstance(net, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise ValueError(
            f"net is wrapped in {type(net).__name__}, which splits the batch; pass net.module"
        )
    buffers = dict(net.named_buffers())
    for name, tensor in [*net.named_parameters(), *buffers.items()]:
        if isinstance(tensor, nn.parameter.UninitializedTensorMixin):
            raise ValueError(f"{name!r} is not initialized; run the network once on a batch first")
        if tensor.is_complex():
            if name not in buffers:
                raise TypeError(
                    f"parameter {name!r} is complex, and only derivatives along real numbers are "
                    "measured; make its real and imaginary parts one real parameter by "
                    "torch.view_as_real, and use torch.view_as_complex of it in forward"
                )
            tensor = torch.view_as_real(tensor.resolve_conj())
        if not tensor.is_floating_point() or tensor.is_meta or all_finite(tensor):
            continue
        # A mask of minus infinities is a buffer; what comes of it is checked at the output.
        if name not in buffers or not bool((tensor < math.inf).all()):
            layer, _, weight = name.rpartition(".")
            where = f"layer {layer!r}" if layer else "the network itself"
            raise ValueError(
                f"{weight!r} of {where} holds NaN or infinite values; the network has "
                "diverged or was loaded from a damaged file"
            )


def check_batch(net: nn.Module, x: Tensor, start: int = 0) -> None:
    """Refuse an input that is not a finite, real, non-empty batch on the network's device.

    ``start`` is the index of its first sample among all samples.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor, got {type(x).__name__}; use torch.as_tensor(x)")
    if x.is_nested or isinstance(x, torch.masked.MaskedTensor):
        raise TypeError(
            "x is a nested or masked tensor; pass a plain one, samples of one shape, and let the "
            "network find out what is padded"
        )
    if x.layout != torch.strided:
        raise TypeError(f"x is sparse ({x.layout}); pass x.to_dense()")
    if x.is_complex():
        raise TypeError(f"x is complex ({x.dtype}); pass real numbers")
    looks_up = any(isinstance(module, nn.Embedding) for module in net.modules())
    if not x.is_floating_point() and not (x.dtype in INDICES and looks_up):
        raise TypeError(
            f"x holds integers ({x.dtype}), along which nothing can be differentiated; pass "
            "x.double() if they are numbers such as pixels; if they are indices of tokens, as "
            f"int64 for a torch.nn.Embedding of the network, {EMBED_FIRST}"
        )
    if x.dim() < 2:
        raise ValueError(
            f"x has shape {tuple(x.shape)} and so no batch axis; pass (n, *input_shape), for one "
            "sample x.unsqueeze(0)"
        )
    if x.shape[0] == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}: the batch is empty; pass n >= 1 samples")
    if x[0].numel() == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}: its samples hold no numbers")
    for name, parameter in net.named_parameters():
        if parameter.device != x.device:
            raise ValueError(
                f"x is on {x.device} and parameter {name!r} on {parameter.device}; move one of "
                f"them, for example x.to({str(parameter.device)!r})"
            )
    if x.is_meta:
        raise ValueError("x is on the meta device, where tensors hold no numbers; load it first")
    if not all_finite(x):
        sample = start + first_not_finite(x)
        raise ValueError(f"sample {sample} of x holds NaN or infinite values; clean the input")


def check_targets(y: Tensor, output: Tensor) -> None:
    """Refuse targets that do not match the outputs one to one."""
    if not isinstance(y, Tensor):
        raise TypeError(f"y must be a torch.Tensor, got {type(y).__name__}; use torch.as_tensor(y)")
    if y.is_complex() or not y.is_floating_point():
        raise TypeError(f"y must hold real floating-point targets, got {y.dtype}; one-hot labels?")
    n = len(output)
    if y.dim() == 0 or len(y) != n or y.numel() != output.numel():
        raise ValueError(
            f"y has shape {tuple(y.shape)} but the network's outputs {tuple(output.shape)}; "
            "one-hot encode class labels"
        )
    if y.device != output.device:
        raise ValueError(f"y is on {y.device} and the network's outputs on {output.device}")
    if not all_finite(y):
        sample = first_not_finite(y.reshape(n, -1))
        raise ValueError(f"sample {sample} of y holds NaN or infinite values; clean the targets")


def check_loss(loss: Callable[[Tensor, Tensor], Tensor], output: Tensor, y: Tensor) -> Tensor:
    """``loss(output, y)``, refused unless it is one finite number that depends on ``output``.

    Targets that are no integers are float64, in the shape that they have.
    """
    if isinstance(y, Tensor) and not y.is_floating_point() and not y.is_complex():
        if y.dim() == 0 or len(y) != len(output) or y.device != output.device:
            raise ValueError(
                f"y has shape {tuple(y.shape)} on {y.device} and the network's outputs "
                f"{tuple(output.shape)} on {output.device}; pass a label for each sample"
            )
    else:
        check_targets(y, output)
        y = y.double()
    value = loss(output, y)
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(
            f"the loss returned {got}; it must return one number, a sum or mean over samples"
        )
    if not all_finite(value.detach()):
        raise ValueError(f"the loss is {value.item()} on these outputs; clean outputs or targets")
    if not value.requires_grad:
        raise ValueError(
            "the loss does not depend on the outputs as far as autograd sees; remove detach() or "
            "torch.no_grad() from it"
        )
    return value.reshape(())


def check_output(output: object, n_samples: int) -> Tensor:
    """Refuse an output that is not float64, one row a sample, differentiable; make it (n, N)."""
    if not isinstance(output, Tensor):
        raise TypeError(
            f"the network returned {type(output).__name__}; wrap it so that it returns one tensor "
            "(n, N)"
        )
    if output.is_complex() or not output.is_floating_point():
        raise TypeError(f"the network returned {output.dtype}; it must return real numbers")
    if output.dtype != torch.float64:
        raise ValueError(
            f"the network returned {output.dtype} for float64 input and weights: it casts inside "
            "its forward; remove the cast, measurements are made in float64"
        )
    if output.dim() == 0 or output.shape[0] != n_samples:
        raise ValueError(
            f"the network returned shape {tuple(output.shape)} for {n_samples} samples; the first "
            "axis of x and of the output must be the batch"
        )
    if output.numel() == 0:
        raise ValueError(f"the network returned shape {tuple(output.shape)}, so no outputs at all")
    if not output.requires_grad:
        raise ValueError(
            "the output does not depend on input or parameters as far as autograd sees; remove "
            "torch.no_grad() or detach() from the network's forward"
        )
    return output.reshape(n_samples, -1)


def check_same(
    reference: Tensor, again: Tensor, samples: Sequence[int], message: str, size: float = 0.0
) -> None:
    """Raise ``message`` with the first sample for which two evaluations ``(n, N)`` differ.

    They may differ by rounding of the largest number, or of numbers of another ``size``.
    """
    scale = torch.maximum(reference.abs().amax(), again.abs().amax()).clamp(min=size)
    differs = ~((reference - again).abs() <= SAME_OUTPUT_TOLERANCE * scale).all(dim=1)
    if differs.any():
        raise ValueError(message.format(sample=samples[int(differs.nonzero()[0, 0])]))
