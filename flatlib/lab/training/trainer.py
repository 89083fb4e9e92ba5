"""Plain stochastic gradient descent on one network, which can stop and go on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from .batches import Batches
from .layout import contiguous_for, pooled_first
from .loss import loss_function


class DivergenceError(ArithmeticError):
    """The loss became NaN or infinite; ``table`` holds what was measured before."""

    table = None  # DataFrame of the checkpoints before, where there is one
    member = None  # which network of a stack it was, counted from 0


def check_settings(lr: float, batch_size: int, steps: int, n: int) -> None:
    """Raise a ``ValueError`` for settings that no training can use."""
    if not (math.isfinite(lr) and lr > 0):
        raise ValueError(f"lr must be a positive number, got {lr}")
    if not 1 <= batch_size <= n:
        raise ValueError(f"batch_size must be from 1 to the {n} training samples, got {batch_size}")
    if steps < 0:
        raise ValueError(f"steps must be at least 0, got {steps}")


class Trainer:
    r"""Stochastic gradient descent, :math:`\theta\leftarrow\theta-\eta\nabla_\theta L_B(\theta)`.

    No momentum, no weight decay, a constant learning rate. The network is trained in place.

    Args:
        net: the network; parameters that are frozen stay.
        x: training inputs, ``(n, *input_shape)``, in the network's dtype and on its device.
        y: targets, ``(n, N)``.
        lr: learning rate.
        batch_size: samples a step.
        loss: ``"mse"`` or ``"half-squared"``.
        seed: of the order of the samples.
    """

    def __init__(
        self,
        net: nn.Module,
        x: Tensor,
        y: Tensor,
        lr: float,
        batch_size: int,
        loss: str = "mse",
        seed: int = 0,
    ):
        check_settings(lr, batch_size, 0, len(x))
        self.net = net
        self.forward = pooled_first(net)
        self.x, self.y = contiguous_for(x), y
        self.lr = lr
        self.loss = loss_function(loss)
        self.batches = Batches(len(x), batch_size, seed)
        self.parameters = [p for p in net.parameters() if p.requires_grad]
        self.step = 0
        if not self.parameters:
            raise ValueError("every parameter is frozen; set requires_grad on those to train")

    def advance(self, until: int, after_step: Callable[[], object] | None = None) -> None:
        """Take steps until ``step`` is ``until``.

        Raises:
            DivergenceError: the loss is NaN or infinite; the parameters are those before it.
        """
        while self.step < until:
            self._one_step()
            if after_step is not None:
                after_step()

    def _one_step(self) -> None:
        index = self.batches.next()
        x, y = self.x[index], self.targets(index)
        loss = self.loss(self.forward(x), y)
        if not math.isfinite(loss.item()):
            raise DivergenceError(
                f"the loss is {loss.item()} at step {self.step}: training with lr {self.lr:g} "
                "diverged; choose a smaller one"
            )
        gradients = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
        with torch.no_grad():
            self.update(gradients, x, y)
        self.step += 1

    def targets(self, index: Tensor) -> Tensor:
        """What a step fits the samples of a batch to."""
        return self.y[index]

    def update(self, gradients: Sequence[Tensor], x: Tensor, y: Tensor) -> None:
        """Move the parameters, without recording, along the loss's gradients on the batch."""
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.add_(gradient, alpha=-self.lr)

    def state(self) -> dict:
        """All that the coming steps depend on: step, weights, buffers, order of the samples."""
        return {
            "step": self.step,
            "net": {name: t.detach().cpu().clone() for name, t in self.net.state_dict().items()},
            "batches": self.batches.state(),
        }

    def restore(self, state: dict) -> None:
        """Go on from ``state``, to the same numbers as without the stop."""
        self.net.load_state_dict(state["net"])
        self.batches.restore(state["batches"])
        self.step = state["step"]

    def restore_weights(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """Go on from the weights after ``step`` steps: all that a new trainer does not know."""
        self.net.load_state_dict(weights)
        self.batches.skip(step)
        self.step = step
