"""What is measured of a network of a population at one moment, as one flat row."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from flatlib.checkpoint import MLS_COLUMN, measurement_row
from flatlib.comparisons import (
    adaptive_sharpness_by_noise,
    iimls,
    largest_hessian_eigenvalue,
    relative_flatness,
)
from flatlib.lab.data import Data
from flatlib.lab.experiments.config import MeasuredSamples
from flatlib.lab.training.loss import evaluate

from . import protocol
from .adaptive import adaptive
from .catalog import Network, Population
from .robustness import calibration_error, margin, outputs, robustness_row

HYPERPARAMETERS = ("optimizer", "lr", "batch_size", "seed", "width", "depth", "heads")


@dataclass(frozen=True)
class Samples:
    """The fixed samples that every network on the same data is measured on."""

    x: Tensor  # of the training set
    y: Tensor
    test_x: Tensor
    test_y: Tensor

    @classmethod
    def of(cls, data: Data) -> Samples:
        """Those of a data set."""
        drawn = MeasuredSamples.draw(data, protocol.TRAIN_SAMPLES)
        test = drawn.test_order[: protocol.TEST_SAMPLES]
        return cls(
            data.train_x[drawn.train],
            data.train_y[drawn.train],
            data.test_x[test],
            data.test_y[test],
        )


def front(network: Network, condition: str, step: int, status: str, reached: bool) -> dict:
    """The columns that say which network a row is of, and what became of it.

    ==============  ===========================================================================
    column          what
    ==============  ===========================================================================
    population      its name
    index           of the network; with the population it determines the network
    condition       ``loss``: when the train loss first is at or below the level at a check;
                    ``step``: at the fixed step
    status          ``complete`` or ``diverged``
    reached         1 if the condition was met, 0 if not: then what is measured is empty
    step            at which the row was measured; where the condition was not met, the last one
    optimizer ...   the hyper-parameters, empty where a network has no such thing
    n_parameters    trainable numbers of the network
    ==============  ===========================================================================
    """
    own = network.hyperparameters
    net = network.net()
    return {
        "population": network.population.name,
        "index": network.index,
        "condition": condition,
        "status": status,
        "reached": int(reached),
        "step": step,
        **{name: own.get(name, math.nan) for name in HYPERPARAMETERS},
        "n_parameters": sum(p.numel() for p in net.parameters() if p.requires_grad),
    }


def losses(net: nn.Module, data: Data) -> dict[str, float]:
    """Train loss and error over all training samples."""
    loss, correct = evaluate(net, data.train_x, data.train_y, "mse")
    return {"train_loss": loss, "train_error": 1 - float(correct.double().mean())}


def measured(
    net: nn.Module, population: Population, samples: Samples, train: dict[str, float]
) -> dict[str, float]:
    """The columns of what is measured.

    =========================  ================================================================
    column                     what
    =========================  ================================================================
    train_loss train_error     mean squared error and share of wrong classes over all training
                               images
    test_loss test_error       the same over 1,000 test images
    loss_gap error_gap         test minus train
    margin test_margin         mean over images of the right class's output minus the largest
                               other one: over the measured training images, over the test images
    calibration_error          expected calibration error over the test images
    accuracy_pgd_0.25 ...      accuracy over the test images under an L2 attack of this radius
    accuracy_noise_0.1 ...     under Gaussian noise of this standard deviation
    accuracy_blur ...          under corruptions: blur, contrast, brightness, shot and impulse noise
    n ... rhs_N.12             `flatlib.checkpoint.measurement_row` on 100 training images
    lhs_N.14 rhs_N.14          both sides of Eq. N.14 at the image where it is tightest; empty
                               where the first layer is not dense
    share.LAYER                part of the sharpness that a layer's weight has; empty where the
                               network has no such layer
    relative_flatness          of the last layer
    adaptive_sharpness         elementwise-adaptive, closed form
    adaptive_sharpness_noise   the same by noise, and its standard error
    adaptive_sharpness_error
    iimls                      mean over the images
    hessian_eigenvalue         the largest one of the loss of Eq. (2); empty where not affordable
    =========================  ================================================================
    """
    x, y, test_x, test_y = samples.x, samples.y, samples.test_x, samples.test_y
    test_loss, _ = evaluate(net, test_x, test_y, "mse")
    test_output = outputs(net, test_x)
    test_error = float((test_output.argmax(1) != test_y.argmax(1)).double().mean())
    row = {
        **train,
        "test_loss": test_loss,
        "test_error": test_error,
        "loss_gap": test_loss - train["train_loss"],
        "error_gap": test_error - train["train_error"],
        "margin": float(margin(outputs(net, x), y).double().mean()),
        "test_margin": float(margin(test_output, test_y).double().mean()),
        "calibration_error": calibration_error(test_output, test_y),
        **robustness_row(net, test_x, test_y),
    }
    found = measurement_row(net, x, y)
    layers = {name.rpartition(".")[0] for name in found if name.endswith(f".{MLS_COLUMN}")}
    row |= {name: value for name, value in found.items() if name.rpartition(".")[0] not in layers}
    close = adaptive(net, x)
    row["lhs_N.14"], row["rhs_N.14"] = close.sides()
    for layer in population.layers():
        energy = found.get(f"{layer}.weight_gradient_energy", math.nan)
        row[f"share.{layer}"] = energy / found["sharpness"]
    row["relative_flatness"] = relative_flatness(net, x, y)
    row["adaptive_sharpness"] = float(close.parameters.mean())
    noisy = adaptive_sharpness_by_noise(
        net, x, y, protocol.ADAPTIVE_RHO, n_draws=protocol.ADAPTIVE_DRAWS
    )
    row["adaptive_sharpness_noise"] = noisy.estimate
    row["adaptive_sharpness_error"] = noisy.standard_error
    row["iimls"] = float(iimls(net, x).mean())
    row["hessian_eigenvalue"] = (
        largest_hessian_eigenvalue(net, x, y, tolerance=protocol.HESSIAN_TOLERANCE).value
        if population.hessian
        else math.nan
    )
    return row


def columns(population: Population, data: Data) -> list[str]:
    """The names of what is measured, from a network that has not been trained."""
    samples = Samples.of(data)
    few = Samples(samples.x[:2], samples.y[:2], samples.test_x[:2], samples.test_y[:2])
    net = population.network(0).net()
    return list(measured(net, population, few, losses(net, data)))
