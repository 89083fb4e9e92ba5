"""What is measured of a network at one moment of its training, as one flat row of a table."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from flatlib.bounds import chain, evaluate
from flatlib.checks import check_batch, check_targets
from flatlib.derivatives import float64_network
from flatlib.measurement import Measurement, measure

MLS_COLUMN = "sensitivity"  # what the archive has called a layer's ``mls`` from the first run on


def measurement_row(net: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """Everything that :func:`flatlib.measure` tells of some samples, under flat names.

    ======================================  ==================================================
    column                                  what
    ======================================  ==================================================
    n                                       number of samples
    max_residual                            largest ``||f(x_i) - y_i||``, Lemma A.1's epsilon
    sharpness ... nvr                       ``summary()``
    A B C C_prime D                         the chain of Eq. (28)
    mean_log_sigma_1 ...                    mean of each singular value's logarithm
    lhs_13 rhs_13 ...                       both sides of each inequality, by its key
    conv1.sensitivity ...                   per layer: means over samples, and the norms of W;
                                            ``sensitivity`` is the layer's MLS
    ======================================  ==================================================

    Args:
        net: in eval mode.
        x: ``(n, *input_shape)``.
        y: targets, ``(n, N)``, or as many numbers; checked before anything is measured.

    Returns:
        Name to float, in that order.

    Raises:
        TypeError, ValueError: as `flatlib.measure`; x that comes in batches; targets of another
            kind or shape than the outputs', or not finite.

    >>> import flatlib
    >>> net, x, y = flatlib.toys.running_example()
    >>> row = measurement_row(net, x, y)
    >>> [round(row[name]) for name in ("n", "max_residual", "sharpness", "B", "C")]
    [2, 0, 594, 4, 5]
    """
    with float64_network(net) as network:
        check_batch(net, x)
        output = network.outputs(x)
    if isinstance(y, Tensor) and not y.is_complex():
        y = y.double()  # one-hot labels are integers
    check_targets(y, output)
    m = measure(net, x)
    residual = output - y.reshape(output.shape)
    row = {
        "n": m.n,
        "max_residual": float(torch.linalg.vector_norm(residual, dim=1).max()),
        **m.summary(),
        **chain(m).terms,
    }
    for k, column in enumerate(m.singular_values.log().mean(dim=0), start=1):
        row[f"mean_log_sigma_{k}"] = float(column)
    for bound in evaluate(m):
        row[f"lhs_{bound.key}"], row[f"rhs_{bound.key}"] = bound.lhs, bound.rhs
    return row | _layer_columns(m)


def _layer_columns(m: Measurement) -> dict[str, float]:
    columns = {}
    for layer in m.layers:
        columns |= {
            f"{layer.name}.{MLS_COLUMN}": float(layer.mls.mean()),
            f"{layer.name}.log_volume": float(layer.log_volume.mean()),
            f"{layer.name}.weight_gradient_energy": float(layer.weight_gradient_energy.mean()),
            f"{layer.name}.weight_norm": layer.weight_norm,
            f"{layer.name}.weight_frobenius_norm": layer.weight_frobenius_norm,
            f"{layer.name}.operator_norm": layer.operator_norm,
        }
    return columns


def empty_row(names: list[str]) -> dict[str, float]:
    """The row of no samples: ``n`` is 0, everything else undefined."""
    return {name: 0 if name == "n" else math.nan for name in names}
