"""Many networks of one shape trained as one: for devices that a single small one leaves idle."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from .batches import Batches
from .loss import loss_function
from .trainer import DivergenceError, check_settings, contiguous_for, pooled_first


class StackedTrainer:
    r"""Stochastic gradient descent on R networks at once, each with its own rate and order.

    Every network takes the steps that a :class:`~flatlib.training.Trainer` of its own would,
    to rounding: sums run in another order. Weights live in one tensor ``(R, ...)`` each; call
    :meth:`unstack` to put them back into the networks.

    Args:
        nets: R networks of one shape, all parameters trainable, no buffers that training moves.
        x: training inputs, ``(n, *input_shape)``, in the networks' dtype and on their device.
        y: targets, ``(n, N)``.
        lrs: learning rate of each network.
        batch_size: samples a step, the same for all.
        loss: ``"mse"`` or ``"half-squared"``.
        seeds: of each network's order of the samples.

    Raises:
        ValueError: no network; networks, rates and seeds of different numbers; other shapes; a
            frozen parameter; a buffer.

    >>> import flatlib
    >>> data = flatlib.data.load("gaussian", n=30, M=4, N=2)
    >>> nets = [flatlib.nets.mlp((4, 5, 2), seed=seed) for seed in range(3)]
    >>> stack = StackedTrainer(nets, data.train_x, data.train_y, (0.1, 0.2, 0.4), 10)
    >>> stack.advance(5)
    >>> stack.unstack()
    """

    def __init__(
        self,
        nets: Sequence[nn.Module],
        x: Tensor,
        y: Tensor,
        lrs: Sequence[float],
        batch_size: int,
        loss: str = "mse",
        seeds: Sequence[int] | None = None,
    ):
        seeds = range(len(nets)) if seeds is None else seeds
        if not nets or not len(nets) == len(lrs) == len(seeds):
            raise ValueError(
                "a stack needs at least one network and one rate and seed for each, got "
                f"{len(nets)}, {len(lrs)} and {len(seeds)}"
            )
        for lr in lrs:
            check_settings(lr, batch_size, 0, len(x))
        _require_one_shape(nets)
        self.nets = list(nets)
        self.x, self.y = contiguous_for(x), y
        self.batches = [Batches(len(x), batch_size, seed) for seed in seeds]
        self.lrs = torch.tensor(list(lrs), dtype=x.dtype, device=x.device)
        self.parameters, _ = stack_module_state([pooled_first(net) for net in nets])
        self.step = 0
        loss_of = loss_function(loss)
        base = copy.deepcopy(pooled_first(nets[0])).to("meta")

        def loss_at(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return loss_of(functional_call(base, parameters, (x,)), y)

        self._gradients = vmap(grad_and_value(loss_at))

    def advance(self, until: int) -> None:
        """Take steps until ``step`` is ``until``.

        Raises:
            DivergenceError: the loss of a network is NaN or infinite; which one is said.
        """
        while self.step < until:
            index = torch.stack([batches.next() for batches in self.batches]).to(self.x.device)
            gradients, losses = self._gradients(self.parameters, self.x[index], self.y[index])
            if not bool(losses.isfinite().all()):
                bad = int((~losses.isfinite()).nonzero()[0])
                raise DivergenceError(
                    f"the loss of network {bad} of the stack is {losses[bad].item()} at step "
                    f"{self.step}: training with lr {self.lrs[bad].item():g} diverged; choose a "
                    "smaller one"
                )
            with torch.no_grad():
                for name, parameter in self.parameters.items():
                    rate = self.lrs.view(-1, *[1] * (parameter.dim() - 1))
                    parameter.sub_(rate * gradients[name])
            self.step += 1

    def unstack(self) -> None:
        """Copy the weights into the networks that the stack was made of."""
        with torch.no_grad():
            for r, net in enumerate(self.nets):
                for name, parameter in pooled_first(net).named_parameters():
                    parameter.copy_(self.parameters[name][r])


def _require_one_shape(nets: Sequence[nn.Module]) -> None:
    """Raise a ``ValueError`` unless the networks differ in the values of their weights alone."""
    first = [(name, p.shape) for name, p in nets[0].named_parameters()]
    for r, net in enumerate(nets):
        if [(name, p.shape) for name, p in net.named_parameters()] != first:
            raise ValueError(f"network {r} has other parameters than network 0; stack like ones")
        if next(iter(net.buffers()), None) is not None:
            raise ValueError(f"network {r} has buffers, which a stack does not train; run it alone")
        if not all(p.requires_grad for p in net.parameters()):
            raise ValueError(f"network {r} has a frozen parameter; run it alone")
