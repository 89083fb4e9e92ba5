"""Gradients of single samples, of any parameter: by `torch.func.vmap`, or one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor
from torch.func import functional_call, vjp, vmap

from flatlib.checks import SAME_OUTPUT_TOLERANCE, is_out_of_memory

from .float64 import Float64Network, in_full
from .recording import twice_if_single
from .rows import gaussian

BYTES_AT_ONCE = 2**26  # bytes of gradients that `vmap` makes of one output


def sample_parameter_gradients(
    network: Float64Network, x: Tensor, names: tuple[str, ...]
) -> Iterator[Iterator[tuple[Tensor, ...]]]:
    """One sample and one output at a time: the plain way, exact for any parameter.

    Yields:
        for each sample an iterator over its outputs' gradients with respect to the parameters
        ``names``, in that order.
    """
    for sample in in_full(x.detach()).split(1):
        yield _plainly(network, sample, names, lambda output: output[0])


def _plainly(
    network: Float64Network,
    x: Tensor,
    names: tuple[str, ...],
    values: Callable[[Tensor], Iterable[Tensor]],
) -> Iterator[tuple[Tensor, ...]]:
    """Gradients with respect to ``names`` of each of the ``values`` of the outputs ``(n, N)``."""
    parameters = [network.parameters[name] for name in names]
    rows_in = twice_if_single(x.detach())
    along = [rows_in.requires_grad_()] if rows_in.is_floating_point() else []
    output = network(rows_in)[: len(x)]
    # The input's gradient is asked for since group_norm's backward in the channels_last
    # layout ends the process where it is not needed: seen in torch 2.13 on the CPU, and no
    # issue is known. tests/test_guards.py tells when it does not.
    return (
        torch.autograd.grad(
            value, [*along, *parameters], retain_graph=True, materialize_grads=True
        )[len(along) :]
        for value in values(output)
    )


def sample_energies(
    network: Float64Network, x: Tensor, names: tuple[str, ...], output: Tensor
) -> tuple[Tensor, bool]:
    """Squared norms ``(n,)`` of the gradients of all outputs with respect to ``names``.

    ``output`` is the network's ``(n, N)`` for ``x``. Tells whether `vmap` was good for it, or
    each sample and output needed a backward pass of its own.
    """
    x = in_full(x.detach())
    found = _by_vmap(network, x, names, output)
    if found is not None:
        return found, True
    energies = [
        sum(part.square().sum() for gradient in gradients for part in gradient)
        for gradients in sample_parameter_gradients(network, x, names)
    ]
    return torch.stack(energies), False


def _by_vmap(
    network: Float64Network, x: Tensor, names: tuple[str, ...], output: Tensor
) -> Tensor | None:
    """The same for all samples at once; None where an operation does not allow for it."""
    chosen = {name: network.parameters[name].detach() for name in names}
    units = torch.eye(output.shape[1], dtype=output.dtype, device=output.device)
    generator = torch.Generator().manual_seed(0)

    def random(like: Tensor) -> Tensor:
        return gaussian(like.shape, like, generator)

    # Gradients of all samples are compared with plain ones along one direction.
    combination, direction = random(output), {name: random(chosen[name]) for name in names}

    def pulled_back(sample: Tensor) -> tuple[Tensor, Callable]:
        def outputs(parameters: dict[str, Tensor]) -> Tensor:
            network.at_rest.put_back()  # what another chunk's parameters made
            return functional_call(network.net, parameters, (sample[None],)).reshape(-1)

        return vjp(outputs, chosen)

    def along_direction(gradients: Iterable[Tensor]) -> Tensor:
        pairs = zip(gradients, direction.values(), strict=True)
        return sum((part * along).sum() for part, along in pairs)

    def sample_energy(sample: Tensor, combined: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        again, pull_back = pulled_back(sample)
        gradients = (pull_back(unit)[0].values() for unit in units)
        energy = sum(part.square().sum() for row in gradients for part in row)
        whole = pull_back(combined)[0]
        return energy, again, along_direction(whole[name] for name in names)

    size = sum(parameter.nbytes for parameter in chosen.values())
    try:
        with network.mode:
            at_once = vmap(sample_energy, chunk_size=max(1, BYTES_AT_ONCE // size))
            energy, again, along = at_once(x, combination)
    except Exception as error:  # whatever the network's forward does there
        if is_out_of_memory(error):
            raise
        return None
    if network.at_rest.untried():  # a cache for single samples
        return None
    same = (again.detach() - output).abs() <= SAME_OUTPUT_TOLERANCE * output.abs().amax()
    # `functional_call` does not reach what the forward has by another name, such as in a list.
    plain = next(_plainly(network, x, names, lambda output: [(output * combination).sum()]))
    off = along_direction(plain) - along.sum()
    reached = bool(off.abs() <= SAME_OUTPUT_TOLERANCE * along.abs().sum())
    return energy.detach() if reached and bool(same.all()) else None
