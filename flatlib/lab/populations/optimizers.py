"""The optimizers of the populations: trainers that differ in one step alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from flatlib.lab.training import Trainer

MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4
SAM_RADIUS = 0.05  # of the ascent in the space of all parameters, L2
LABEL_NOISE = 0.1  # standard deviation of what is added to each target
NOISE_STREAM = 0x1ABE1  # the label noise's own random stream


class WithOptimizer(Trainer):
    """Steps by one of `torch.optim`'s optimizers.

    Args:
        make: an optimizer of these parameters at this rate.
        others: what `flatlib.lab.training.Trainer` takes.
    """

    def __init__(self, *others, make: Callable[..., torch.optim.Optimizer], **named):
        super().__init__(*others, **named)
        self.optimizer = make(self.parameters, lr=self.lr)

    def update(self, gradients: Sequence[Tensor], x: Tensor, y: Tensor) -> None:
        """One step of the optimizer along these gradients."""
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad()

    def state(self) -> dict:
        """All that the coming steps depend on."""
        return super().state() | {"optimizer": self.optimizer.state_dict()}

    def restore(self, state: dict) -> None:
        """Go on from ``state``, to the same numbers as without the stop."""
        super().restore(state)
        self.optimizer.load_state_dict(state["optimizer"])


class SAM(Trainer):
    r"""Sharpness-aware minimization: the gradient is taken where the loss is about worst nearby.

    .. math:: \theta\leftarrow\theta-\eta\,\nabla L_B(\theta+\rho\,
       \nabla L_B(\theta)/\lVert\nabla L_B(\theta)\rVert_2)

    Source: Foret et al. (2021).
    """

    def update(self, gradients: Sequence[Tensor], x: Tensor, y: Tensor) -> None:
        """One step along the gradients at the perturbed parameters."""
        length = torch.sqrt(sum(gradient.square().sum() for gradient in gradients))
        at = [parameter.clone() for parameter in self.parameters]
        scale = float(SAM_RADIUS / length.clamp_min(1e-30))
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.add_(gradient, alpha=scale)
        with torch.enable_grad():
            there = torch.autograd.grad(
                self.loss(self.forward(x), y), self.parameters, materialize_grads=True
            )
        for parameter, own in zip(self.parameters, at, strict=True):
            parameter.copy_(own)
        super().update(there, x, y)


class LabelNoise(Trainer):
    """Plain gradient descent on targets with fresh Gaussian noise at each step.

    Source: Blanc et al. (2020).
    """

    def __init__(self, *others, seed: int = 0, **named):
        super().__init__(*others, seed=seed, **named)
        self.noise = torch.Generator().manual_seed(seed ^ NOISE_STREAM)

    def targets(self, index: Tensor) -> Tensor:
        """The targets of these samples, with noise."""
        y = super().targets(index)
        return y + LABEL_NOISE * torch.randn(y.shape, generator=self.noise, dtype=y.dtype)

    def state(self) -> dict:
        """All that the coming steps depend on."""
        return super().state() | {"noise": self.noise.get_state()}

    def restore(self, state: dict) -> None:
        """Go on from ``state``, to the same numbers as without the stop."""
        super().restore(state)
        self.noise.set_state(state["noise"])


@dataclass(frozen=True)
class Optimizer:
    """One way to take steps."""

    trainer: Callable[..., Trainer]
    rate: float = 1.0  # what the drawn learning rate is multiplied by
    settings: dict | None = None


def _with(optimizer: type[torch.optim.Optimizer], **settings) -> Callable[..., Trainer]:
    return partial(WithOptimizer, make=partial(optimizer, **settings))


OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": Optimizer(Trainer),
    # The rate is that of the same effective step, lr / (1 - momentum).
    "momentum": Optimizer(_with(torch.optim.SGD, momentum=MOMENTUM), rate=1 - MOMENTUM),
    "weight-decay": Optimizer(_with(torch.optim.SGD, weight_decay=WEIGHT_DECAY)),
    "adam": Optimizer(_with(torch.optim.Adam), rate=1e-3),
    "sam": Optimizer(SAM),
    "label-noise": Optimizer(LabelNoise),
}
