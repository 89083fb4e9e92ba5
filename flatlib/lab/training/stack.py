"""Many networks of one shape trained as one: for devices that a single small one leaves idle."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from .replay import ReplayedStep
from .trainer import DivergenceError, Trainer


class StackedTrainer:
    r"""The steps of several trainers, taken for all of their networks at once.

    Every network takes the steps that its own trainer would, with its own learning rate and
    order of the samples, to rounding: sums run in another order. Meanwhile the weights live in
    one tensor ``(R, ...)`` each; :meth:`unstack` puts them back. On a GPU the step is captured
    as a CUDA graph and replayed.

    Args:
        trainers: R trainers at the same step, with the same samples, batch size and loss, of
            networks of one shape, all parameters trainable, without buffers.

    Raises:
        ValueError: no trainer, or trainers that differ in more than the values of weights, rate
            and order.

    >>> import flatlib
    >>> data = flatlib.lab.data.load("gaussian", n=30, M=4, N=2)
    >>> nets = [flatlib.nets.mlp((4, 5, 2), seed=seed) for seed in range(3)]
    >>> trainers = [Trainer(net, data.train_x, data.train_y, 0.1, 10) for net in nets]
    >>> stack = StackedTrainer(trainers)
    >>> stack.advance(5)
    >>> stack.unstack()
    >>> [trainer.step for trainer in trainers]
    [5, 5, 5]
    """

    def __init__(self, trainers: Sequence[Trainer]):
        _require_alike(trainers)
        first = trainers[0]
        self.trainers = list(trainers)
        self.x, self.y, self.step = first.x, first.y, first.step
        rates = [trainer.lr for trainer in trainers]
        self.rates = torch.tensor(rates, dtype=self.x.dtype, device=self.x.device)
        stacked, _ = stack_module_state([trainer.forward for trainer in trainers])
        self.parameters = {name: parameter.detach() for name, parameter in stacked.items()}
        base = copy.deepcopy(first.forward).to("meta")

        def loss_at(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return first.loss(functional_call(base, parameters, (x,)), y)

        gradients = vmap(grad_and_value(loss_at))
        self._advanced = partial(_step, gradients, self.parameters, self.rates, self.x, self.y)
        if self.x.is_cuda:
            self._advanced = ReplayedStep(self._advanced, list(self.parameters.values()))

    def advance(self, until: int, after_step: Callable[[], object] | None = None) -> None:
        """Take steps until ``step`` is ``until``.

        Raises:
            DivergenceError: the loss of a network is NaN or infinite; ``member`` says which. The
                stack is of no more use, the trainers are where they were last unstacked.
        """
        while self.step < until:
            self._one_step()
            if after_step is not None:
                after_step()

    def _one_step(self) -> None:
        losses = self._advanced(torch.stack([t.batches.next() for t in self.trainers]))
        if not bool(losses.isfinite().all()):
            self._refuse(losses)
        self.step += 1

    def _refuse(self, losses: Tensor) -> None:
        member = int((~losses.isfinite()).nonzero()[0])
        fault = DivergenceError(
            f"the loss of network {member} of the stack is {losses[member].item()} at step "
            f"{self.step}: training with lr {self.rates[member].item():g} diverged; choose a "
            "smaller one"
        )
        fault.member = member
        raise fault

    def unstack(self) -> None:
        """Bring the trainers and their networks to where the stack is."""
        with torch.no_grad():
            for r, trainer in enumerate(self.trainers):
                for name, parameter in trainer.forward.named_parameters():
                    parameter.copy_(self.parameters[name][r])
                trainer.step = self.step


def _step(
    gradients: Callable,
    parameters: dict[str, Tensor],
    all_rates: Tensor,
    x: Tensor,
    y: Tensor,
    index: Tensor,
) -> Tensor:
    """One step of every network on its own row of samples; the losses ``(R,)`` before it."""
    found, losses = gradients(parameters, x[index], y[index])
    for name, parameter in parameters.items():
        rates = all_rates.view(-1, *[1] * (parameter.dim() - 1))
        parameter.sub_(rates * found[name])
    return losses


def _shape(net: nn.Module) -> list[tuple[str, torch.Size]]:
    return [(name, parameter.shape) for name, parameter in net.named_parameters()]


def _require_alike(trainers: Sequence[Trainer]) -> None:
    """Raise a ``ValueError`` unless the trainers can be stacked."""
    if not trainers:
        raise ValueError("a stack needs at least one trainer")
    first = trainers[0]
    for r, trainer in enumerate(trainers):
        if _shape(trainer.forward) != _shape(first.forward):
            raise ValueError(f"network {r} has other parameters than network 0; stack like ones")
        if next(iter(trainer.net.buffers()), None) is not None:
            raise ValueError(f"network {r} has buffers, which a stack does not train; run it alone")
        if not all(p.requires_grad for p in trainer.net.parameters()):
            raise ValueError(f"network {r} has a frozen parameter; run it alone")
        for what, mine, its in (
            ("samples", trainer.x.data_ptr(), first.x.data_ptr()),
            ("batch size", trainer.batches.batch_size, first.batches.batch_size),
            ("loss", trainer.loss, first.loss),
            ("step", trainer.step, first.step),
        ):
            if mine != its:
                raise ValueError(f"trainer {r} has another {what} than trainer 0; stack like ones")
