"""Stochastic gradient descent, measured on a schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from flatlib.checkpoint import measurement_row
from flatlib.gap import lemma_gap

from .loss import evaluate, loss_function
from .replay import exact_convolutions
from .trainer import DivergenceError, Trainer, check_settings

if TYPE_CHECKING:
    from flatlib.lab.data import Data

__all__ = ["DivergenceError", "Trainer", "train"]


def train(
    net: nn.Module,
    data: Data,
    lr: float = 0.1,
    batch_size: int = 20,
    steps: int = 2000,
    seed: int = 0,
    measure_every: int = 200,
    measure_samples: int = 100,
    *,
    loss: str = "mse",
    progress: bool = True,
) -> pd.DataFrame:
    r"""Train a network in place by plain stochastic gradient descent, and measure it on the way.

    .. math:: \theta\leftarrow\theta-\eta\,\nabla_\theta L_B(\theta)

    with shuffled epochs without replacement. Loss and accuracy are those of all training and
    all test samples; everything else is measured on the first ``measure_samples`` training
    samples. Global random state and thread settings are left alone.

    Args:
        net: a network that :func:`flatlib.measure` can measure. Each module trains in the mode
            that it is in: after ``net.eval()`` batch norms keep their statistics, and dropout
            drops nothing.
        data: from :func:`flatlib.lab.data.load`.
        lr: learning rate eta.
        batch_size: samples a step.
        steps: number of steps.
        seed: of the order of the samples.
        measure_every: steps between two rows.
        measure_samples: training samples to measure on, fewer if there are fewer.
        loss: ``"mse"``, mean over samples and outputs as the authors ran it, or
            ``"half-squared"``, as the paper writes it. A rate for the one is N / 2 times that
            for the other.
        progress: whether to draw a progress bar.

    Returns:
        One row for step 0, every ``measure_every`` steps and the last step, with the columns
        ``step``, ``train_loss``, ``train_accuracy``, ``test_loss``, ``test_accuracy``,
        ``hessian_gap`` (Lemma A.1's, NaN where unaffordable), those of ``summary()``, ``A``
        ... ``D``, both sides of each inequality, and each layer's.

    Raises:
        ValueError: settings out of range, a network that cannot be measured, or whose outputs
            and targets are not ``(n, N)`` both.
        DivergenceError: the loss became NaN or infinite; its ``table`` holds the rows so far,
            and the network the parameters before.

    Source: the protocol of the paper's Sec. 4.

    >>> import flatlib
    >>> data = flatlib.lab.data.load("gaussian", n=40, M=5, N=2)
    >>> table = train(flatlib.nets.linear(5, 2), data, steps=100, progress=False)
    >>> list(table.step)
    [0, 100]
    >>> bool(table.train_loss.iloc[1] < table.train_loss.iloc[0])
    True
    """
    check_settings(lr, batch_size, steps, len(data.train_x))
    loss_function(loss)
    if measure_every < 1 or measure_samples < 1:
        raise ValueError(
            f"measure_every and measure_samples must be at least 1, got {measure_every} and "
            f"{measure_samples}"
        )
    like = next(net.parameters(), None)
    if like is None:
        raise ValueError(f"{type(net).__name__} has no parameters; there is nothing to train")
    with torch.inference_mode(False), torch.enable_grad(), exact_convolutions():
        parts = (data.train_x, data.train_y, data.test_x, data.test_y)
        parts = tuple(part.to(like) for part in parts)
        trainer = Trainer(net, *parts[:2], lr, batch_size, loss, seed)
        checkpoints = sorted({*range(0, steps, measure_every), steps})
        with tqdm(total=steps, unit="step", disable=not progress) as bar:
            return _table(trainer, checkpoints, parts, measure_samples, loss, bar)


def _table(
    trainer: Trainer,
    checkpoints: list[int],
    parts: tuple[torch.Tensor, ...],
    measure_samples: int,
    loss: str,
    bar: tqdm,
) -> pd.DataFrame:
    """Train to each checkpoint, measure there, and leave each module in its own mode."""
    net = trainer.net
    x, y = (part[:measure_samples] for part in parts[:2])
    rows: list[dict[str, float]] = []
    modes = [(module, module.training) for module in net.modules()]
    try:
        net.eval()
        _check_one_target_an_output(net, x[:2], y[:2])
        for until in checkpoints:
            _set_modes(modes)
            trainer.advance(until, bar.update)
            net.eval()
            row = {"step": until, **losses(net, *parts, loss)}
            row["hessian_gap"] = lemma_gap(net, x, y)
            rows.append(row | measurement_row(net, x, y))
            bar.set_postfix(loss=f"{row['train_loss']:.2g}")
    except DivergenceError as fault:
        fault.table = pd.DataFrame(rows)
        raise
    finally:
        _set_modes(modes)
    return pd.DataFrame(rows)


def _check_one_target_an_output(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    """Refuse targets that would be broadcast against the outputs."""
    with torch.no_grad():
        shape = getattr(net(x), "shape", None)
    if shape != y.shape:
        raise ValueError(
            f"the network returns shape {tuple(shape or ())} for {len(x)} samples whose targets "
            f"have shape {tuple(y.shape)}; both must be (n, N)"
        )


def _set_modes(modes: list[tuple[nn.Module, bool]]) -> None:
    """Each module's own mode: ``net.train()`` would wake up those that are frozen in eval mode."""
    for module, training in modes:
        module.training = training


def losses(
    net: nn.Module,
    train_x: torch.Tensor,
    train_y: torch.Tensor,
    test_x: torch.Tensor,
    test_y: torch.Tensor,
    loss: str,
) -> dict[str, float]:
    """Loss and accuracy over all training and all test samples, ``net`` being in eval mode."""
    row = {}
    for name, x, y in (("train", train_x, train_y), ("test", test_x, test_y)):
        row[f"{name}_loss"], correct = evaluate(net, x, y, loss)
        row[f"{name}_accuracy"] = float(correct.double().mean())
    return row
