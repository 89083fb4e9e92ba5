"""Both sides of every inequality that a measurement decides; nothing is differentiated here."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flatlib.measurement import LayerMeasurement, Measurement

# Both sides are sums of some thousands of float64 products; a true inequality that is attained
# may miss by this much and no more, relative to the larger side.
ROUNDING = 1e-11
SMALLEST_SQUARED = 1e-130  # norms whose square float64 holds to rounding, parts of it included
SMALLEST_NORMAL = sys.float_info.min  # below it float64 rounds to multiples of 5e-324


@dataclass(frozen=True)
class Chain:
    """The terms of Eq. (28), ``A <= B <= C <= D``, and ours, ``B <= C_prime``."""

    A: float  # mean MLS
    B: float  # ||W||_2 times the mean of ||grad_W f|| / ||x||
    C: float  # ||W||_2 times root mean of ||x||^-2 times root mean of ||grad_W f||^2
    C_prime: float  # ||W||_2 times root mean of ||grad_W f||^2 / ||x||^2
    D: float  # C with the sharpness in place of the mean of ||grad_W f||^2


@dataclass(frozen=True)
class Bound:
    """One inequality, ``lhs <= rhs``, of the paper or of ours."""

    label: str  # its number: the paper's, or N.1, N.2, ... for ours
    name: str  # what is bounded by what
    lhs: float
    rhs: float
    holds: bool  # lhs <= rhs, up to rounding
    slack: float  # rhs - lhs
    proven: bool  # whether this network meets the assumptions of the proof


def _product(*factors: float) -> float:
    """Their product; no part of it overflows or underflows where the whole does not."""
    mantissa, exponent = 1.0, 0
    for factor in factors:
        part, shift = math.frexp(factor)
        mantissa, more = math.frexp(mantissa * part)
        exponent += shift + more
    try:
        return math.ldexp(mantissa, exponent)
    except OverflowError:
        return math.inf


def _mean_product(*factors: Tensor) -> float:
    """Mean over samples of the product of non-negative factors."""
    largest = [float(factor.max()) for factor in factors]
    if 0.0 in largest:
        return 0.0
    shares = [factor / size for factor, size in zip(factors, largest, strict=True)]
    return _product(*largest, float(math.prod(shares[1:], start=shares[0]).mean()))


def _root_mean(*factors: Tensor) -> float:
    """Root of the mean over samples of the squared product of non-negative factors."""
    largest = [float(factor.max()) for factor in factors]
    if 0.0 in largest:
        return 0.0
    shares = [factor / size for factor, size in zip(factors, largest, strict=True)]
    product = math.prod(shares[1:], start=shares[0])
    return _product(*largest, math.sqrt(float(product.square().mean())))


def _refuse_zero_input(m: Measurement) -> None:
    zero = (m.input_norm == 0).nonzero()
    if len(zero):
        raise ValueError(
            f"sample {int(zero[0])} has input norm 0, and the bounds divide by it (Eq. 5); leave "
            "the sample out"
        )


def chain(m: Measurement) -> Chain:
    r"""The chain of bounds on the mean maximum local sensitivity.

    .. math:: A=\overline{\mathrm{MLS}},\quad
       B=\frac{\lVert W\rVert_2}n\sum_i\frac{\lVert\nabla_W f_i\rVert_F}{\lVert x_i\rVert_2},\quad
       C=\lVert W\rVert_2\sqrt{\tfrac1n\sum_i\lVert x_i\rVert_2^{-2}}
       \sqrt{\tfrac1n\sum_i\lVert\nabla_W f_i\rVert_F^2}

    and D, which has S in place of the last mean. W is the first layer's weight; where that is a
    convolution the numbers are had with the reshaped weight and prove nothing.

    Args:
        m: from `flatlib.measure`.

    Returns:
        `Chain` of floats, in units of output per unit of input.

    Raises:
        ValueError: a sample has input norm 0.

    Source: Eqs. (13), (25)-(28); C_prime is ours.

    >>> import flatlib
    >>> net = flatlib.nets.linear(2, 1)
    >>> c = chain(flatlib.measure(net, torch.eye(2)))
    >>> abs(c.A - c.B) < 1e-15 and abs(c.C - c.D) < 1e-15  # rank one, one layer
    True
    """
    _refuse_zero_input(m)
    first = m.layers[0]
    gradient_norm = first.weight_gradient_energy.sqrt()
    inverse_norm = 1 / m.input_norm
    rms_inverse = _root_mean(inverse_norm)
    return Chain(
        A=float(m.mls.mean()),
        B=_product(first.weight_norm, _mean_product(gradient_norm, inverse_norm)),
        C=_product(first.weight_norm, rms_inverse, _root_mean(gradient_norm)),
        C_prime=_product(first.weight_norm, _root_mean(gradient_norm, inverse_norm)),
        D=_product(first.weight_norm, rms_inverse, math.sqrt(m.sharpness)),
    )


def relative_sharpness(m: Measurement) -> float:
    r"""Sharpness relative to the weights, unchanged when layers are rescaled against each other.

    .. math:: \frac1n\sum_i\sum_l\lVert W_l\rVert_2^2\lVert\nabla_{W_l} f(x_i)\rVert_F^2

    Args:
        m: from `flatlib.measure`.

    Returns:
        A float.

    Source: the paper's later versions; compare the relative flatness of Petzka et al.

    >>> import flatlib
    >>> net = flatlib.nets.linear(2, 1)
    >>> m = flatlib.measure(net, torch.eye(2))
    >>> abs(relative_sharpness(m) - m.layers[0].weight_norm ** 2) < 1e-15
    True
    """
    return sum(
        float((layer.weight_norm * layer.weight_gradient_energy.sqrt()).square().mean())
        for layer in m.layers
    )


def normalized_nmls(m: Measurement) -> float:
    r"""Network MLS with each layer's MLS times the norm of what the layer reads.

    .. math:: \frac1n\sum_i\sum_l\lVert x_i^l\rVert_2\lVert\nabla_{x^l} f(x_i)\rVert_2

    Args:
        m: from `flatlib.measure`, with its layers.

    Returns:
        A float.

    Raises:
        ValueError: not measured with ``layers=True``.

    Source: the paper's later versions.

    >>> import flatlib
    >>> m = flatlib.measure(flatlib.nets.linear(2, 1), torch.eye(2))  # ||x|| = 1, MLS = ||W||_2
    >>> abs(normalized_nmls(m) - m.layers[0].weight_norm) < 1e-15
    True
    """
    if not m.has_layer_mls:
        raise ValueError("not every layer has an MLS; measure again with layers=True")
    return sum(float((layer.input_norm * layer.mls).mean()) for layer in m.layers)


def _bound(
    label: str, name: str, lhs: float, rhs: float, proven: bool, smallest_size: float = 0.0
) -> Bound:
    size = max(abs(lhs), abs(rhs), smallest_size)
    # Infinite sides (a volume of 0, a zero input) compare as they are.
    rounding = max(ROUNDING * size, SMALLEST_NORMAL) if math.isfinite(size) else 0.0
    slack = 0.0 if lhs == rhs else rhs - lhs
    return Bound(label, name, lhs, rhs, lhs <= rhs + rounding, slack, proven)


def _log_bound(label: str, name: str, lhs: float, rhs: float, proven: bool) -> Bound:
    """An inequality of logarithms, where a relative error of either side is an absolute one."""
    return _bound(label, name, lhs, rhs, proven, smallest_size=1.0)


def _worst(label: str, name: str, lhs: Tensor, rhs: Tensor, proven: bool) -> Bound:
    """The sample (and layer) where the left side is largest relative to the right."""
    lhs, rhs = lhs.flatten(), rhs.flatten()
    ratio = torch.where(lhs > 0, lhs / rhs, torch.zeros_like(lhs))
    worst = int(ratio.argmax())
    return _bound(label, name, float(lhs[worst]), float(rhs[worst]), proven)


def _worst_log(label: str, name: str, lhs: Tensor, rhs: Tensor, proven: bool) -> Bound:
    gap = torch.where(lhs == -math.inf, torch.full_like(lhs, -math.inf), lhs - rhs)
    worst = int(gap.argmax())
    return _log_bound(label, name, float(lhs[worst]), float(rhs[worst]), proven)


def _log_mean_exp(values: Tensor) -> float:
    return float(values.logsumexp(dim=0)) - math.log(len(values))


def _exp(value: float) -> float:
    return math.exp(value) if value < math.log(sys.float_info.max) else math.inf


def _mean_power(values: Tensor, k: int, log_factor: float = 0.0) -> float:
    """Mean over samples of ``(exp(log_factor) values)^k``, in logarithms."""
    return _exp(_log_mean_exp(k * (log_factor + values.log())))


def _frobenius(m: Measurement) -> Tensor:
    """``||grad_x f||_F``, whose square may overflow or underflow where it does not."""
    top = m.singular_values[:, :1]
    relative = torch.where(top > 0, m.singular_values / top, 0.0)
    return top[:, 0] * torch.linalg.vector_norm(relative, dim=1)


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def evaluate(m: Measurement) -> tuple[Bound, ...]:
    """Every inequality of the paper, and ours, that a measurement decides.

    An inequality that holds for each sample is reported at the sample where it is tightest;
    volumes are compared as logarithms. ``holds`` allows for rounding (1e-11 of the larger side)
    and nothing else. ``proven`` is False where the network does not meet the assumptions: from
    the input's gradient to the weight's takes a dense linear map in front, from the weight's to
    the parameters' that it is trainable and used nowhere else; the bounds over layers need both
    of every layer, and N.5 a sample whose Jacobian is not zero. An MLS below 1e-130 counts
    as 0 here: float64 loses its square. Where it loses that of a weight's gradient alone, what
    rests on the gradient is not proven.

    Args:
        m: from `flatlib.measure`.

    Returns:
        `Bound` for each, in the order of the paper; N.6 and N.7 only for a convolution in
        front; N.6, N.7 and N.9 to N.12 only if ``m`` was measured with all its layers.

    Raises:
        ValueError: a sample has input norm 0.

    Source: Eqs. (5)-(7), (11)-(13), (21), (24)-(28); N.2 to N.12 are ours or the paper's later
    versions'.

    >>> import flatlib
    >>> m = flatlib.measure(flatlib.nets.mlp((3, 4, 2)), torch.ones(2, 3))
    >>> all(bound.holds and bound.proven for bound in evaluate(m))
    True
    """
    _refuse_zero_input(m)
    m = _without_tiny_gradients(m)
    return (
        *_weights_to_inputs(m),
        *_volume(m),
        *_mls(m),
        *_dimensionality(m),
        *(_over_layers(m) + _convolution(m) if m.has_layer_mls else []),
    )


def _is_resolved(layer: LayerMeasurement, mls: Tensor) -> bool:
    """Whether float64 holds the square of W's gradient at every sample of some MLS."""
    lost = layer.weight_gradient_energy < SMALLEST_SQUARED**2
    return not bool((lost & (mls > 0) & (layer.input_norm > 0)).any())


def _without_tiny_gradients(m: Measurement) -> Measurement:
    """``m``, with 0 for each derivative whose square float64 cannot hold."""
    tiny = m.mls < SMALLEST_SQUARED
    # A weight's gradient is at least of the size of what its layer reads times its MLS.
    by_layer = [
        (layer.mls < SMALLEST_SQUARED)
        | ((layer.input_norm > 0) & (layer.input_norm * layer.mls < SMALLEST_SQUARED))
        for layer in m.layers
        if m.has_layer_mls
    ]
    moved = [m.mls > 0, *(layer.mls > 0 for layer in m.layers if m.has_layer_mls)]
    pairs = zip([tiny, *by_layer], moved, strict=True)
    if not any(bool((small & moves).any()) for small, moves in pairs):
        return m
    layers = (
        tuple(
            replace(
                layer,
                mls=layer.mls.masked_fill(here, 0.0),
                log_volume=layer.log_volume.masked_fill(here, -math.inf),
            )
            for layer, here in zip(m.layers, by_layer, strict=True)
        )
        if m.has_layer_mls
        else m.layers
    )
    return replace(
        m,
        singular_values=m.singular_values.masked_fill(tiny[:, None], 0.0),
        mls=m.mls.masked_fill(tiny, 0.0),
        gradient_energy=m.gradient_energy.masked_fill(tiny, 0.0),
        log_volume=m.log_volume.masked_fill(tiny, -math.inf),
        local_dimensionality=m.local_dimensionality.masked_fill(tiny, math.nan),
        layers=layers,
    )


def _weights_to_inputs(m: Measurement) -> list[Bound]:
    first = m.layers[0]
    dense = m.input_layer_is_dense and _is_resolved(first, m.mls)
    counted = first.in_sharpness
    gradient = first.weight_gradient_energy.sqrt()
    whole = m.parameter_gradient_energy.sqrt()
    frobenius = _frobenius(m)
    F2, F = first.weight_norm, first.weight_frobenius_norm
    log_smallest = math.log(float(m.input_norm.min()))
    by_F, by_F2 = _log(F) - log_smallest, _log(F2) - log_smallest
    log_ratio = gradient.log() - m.input_norm.log()
    bounds = [
        _worst(
            "5",
            "||grad_x f||_F by ||W||_F ||grad_W f||_F / ||x||",
            frobenius,
            (_log(F) + log_ratio).exp(),
            dense,
        ),
        _worst(
            "5",
            "||grad_x f||_2 by ||W||_2 ||grad_W f||_F / ||x||",
            m.mls,
            (_log(F2) + log_ratio).exp(),
            dense,
        ),
        _worst(
            "N.2",
            "||grad_x f||_F by ||W||_2 ||grad_W f||_F / ||x||",
            frobenius,
            (_log(F2) + log_ratio).exp(),
            dense,
        ),
    ]
    for k in (1, 2):
        middle = _mean_power(gradient, k, by_F)
        last = _mean_power(whole, k, by_F)
        bounds += [
            _bound(
                "6",
                f"k={k}: mean of ||grad_x f||_F^k by that of ||grad_W f||_F^k",
                _mean_power(frobenius, k),
                middle,
                dense,
            ),
            _bound(
                "6",
                f"k={k}: mean of ||grad_W f||_F^k by that of ||grad_theta f||_F^k",
                middle,
                last,
                counted,
            ),
            _bound(
                "7",
                f"k={k}: mean of ||grad_x f||_2^k by that of ||grad_theta f||_F^k",
                _mean_power(m.mls, k),
                _mean_power(whole, k, by_F2),
                dense and counted,
            ),
        ]
    return bounds


def _volume(m: Measurement) -> list[Bound]:
    first, N, n = m.layers[0], m.n_outputs, m.n
    dense = m.input_layer_is_dense and _is_resolved(first, m.mls)
    counted = first.in_sharpness
    log_mean_square = 2 * _frobenius(m).log() - math.log(N)
    log_F, log_F2 = _log(first.weight_frobenius_norm), _log(first.weight_norm)
    log_smallest = math.log(float(m.input_norm.min()))
    energies = (N / 2) * log_mean_square
    power = max(N / 2 - 1, 0) * math.log(n) + N * (log_F - log_smallest)
    by_sharpness = power + (N / 2) * _log(m.sharpness / N)
    log_norms = (N / 2) * m.parameter_gradient_energy.log()
    by_norms = N * (log_F - log_smallest) + _log_mean_exp(log_norms)
    log_weighted = _log_mean_exp(first.weight_gradient_energy.log() - 2 * m.input_norm.log())
    by_weights = (N / 2) * (2 * log_F2 + log_weighted - math.log(N))
    last = (N / 2) * (2 * (log_F2 - log_smallest) + _log(m.sharpness / N))
    mean_log = float(m.log_volume.mean())
    return [
        _worst_log(
            "11", "log volume by log of ||grad_x f||_F^N / N^(N/2)", m.log_volume, energies, True
        ),
        _log_bound(
            "12",
            "log mean volume by log mean of ||grad_x f||_F^N / N^(N/2)",
            _log_mean_exp(m.log_volume),
            _log_mean_exp(energies),
            True,
        ),
        _log_bound(
            "12",
            "log mean of ||grad_x f||_F^N / N^(N/2) by sharpness",
            _log_mean_exp(energies),
            by_sharpness,
            dense and counted,
        ),
        _log_bound(
            "21" if N >= 2 else "24",
            "log mean of ||grad_theta f||_F^N by sharpness",
            by_norms,
            by_sharpness + (N / 2) * math.log(N),
            True,
        ),
        _log_bound("N.3", "mean log volume by ||grad_W f||_F / ||x||", mean_log, by_weights, dense),
        _log_bound("N.3", "||grad_W f||_F / ||x|| by sharpness", by_weights, last, counted),
    ]


def _mls(m: Measurement) -> list[Bound]:
    c = chain(m)
    dense = m.input_layer_is_dense and _is_resolved(m.layers[0], m.mls)
    counted = m.layers[0].in_sharpness
    return [
        _bound("13", "A <= D", c.A, c.D, dense and counted),
        _bound("25", "A <= B", c.A, c.B, dense),
        _bound("26", "B <= C", c.B, c.C, True),
        _bound("27", "C <= D", c.C, c.D, counted),
        _bound("28", "A <= C", c.A, c.C, dense),
        _bound("N.4", "B <= C'", c.B, c.C_prime, True),
    ]


def _dimensionality(m: Measurement) -> list[Bound]:
    moving = m.mls > 0
    some = moving if moving.any() else ~moving
    energy, top = m.gradient_energy[some], m.mls[some].square()
    # A zero Jacobian has no D_PR; 0 over any number from 1 to N is 0, and proves nothing.
    D_PR, proven = m.local_dimensionality[some].nan_to_num(nan=1.0), bool(moving.any())
    return [
        _worst("N.5", "||grad_x f||_F^2 / D_PR by MLS^2", energy / D_PR, top, proven),
        _worst("N.5", "MLS^2 by ||grad_x f||_F^2", top, energy, True),
    ]


def _stacked(layers: tuple[LayerMeasurement, ...], name: str) -> Tensor:
    return torch.stack([getattr(layer, name) for layer in layers])


def _over_layers(m: Measurement) -> list[Bound]:
    layers = m.layers
    # A convolution with one position is no dense map either: it may read a part of its input.
    dense = all(
        layer.kind == "Linear" and layer.n_positions == 1 and _is_resolved(layer, layer.mls)
        for layer in layers
    )
    counted = dense and all(layer.in_sharpness for layer in layers)
    norms = m.mls.new_tensor([layer.weight_norm for layer in layers]).unsqueeze(1)
    mls, x = _stacked(layers, "mls"), _stacked(layers, "input_norm")
    gradient = _stacked(layers, "weight_gradient_energy").sqrt()
    zero = (x == 0).nonzero()
    note = ""
    if len(zero):
        layer, sample = zero[0].tolist()
        note = f" (infinite: what {layers[layer].name!r} reads of sample {sample} has norm 0)"
    log_share = _log_mean_exp((2 * (norms.log() - x.log())).logsumexp(dim=0))
    by_sharpness = math.inf if note else _exp((log_share + _log(m.sharpness)) / 2)
    volumes = _stacked(layers, "log_volume").flatten().logsumexp(dim=0)
    return [
        _bound(
            "N.9",
            f"NMLS by sharpness{note}",
            float(mls.sum(dim=0).mean()),
            by_sharpness,
            counted and not note,
        ),
        _log_bound(
            "N.10",
            f"log NVR by sharpness{note}",
            float(volumes) - math.log(m.n),
            math.inf if note else _nvr_bound(m, log_share),
            counted and not note,
        ),
        _worst(
            "N.11",
            "||x^l|| ||grad_x^l f||_2 by ||W_l||_2 ||grad_W_l f||_F",
            x * mls,
            norms * gradient,
            dense,
        ),
        _bound(
            "N.12",
            "normalized NMLS by relative sharpness",
            normalized_nmls(m),
            _root_mean_square(norms * gradient),
            dense,
        ),
    ]


def _root_mean_square(products: Tensor) -> float:
    """Root of #layers times the mean over samples of the sum of squares, ``(layers, n)``."""
    layers, _ = products.shape
    return layers * _root_mean(products.flatten())


def _nvr_bound(m: Measurement, log_share: float) -> float:
    """Logarithm of ``n^(N-1) (mean_i sum_l ||W_l||^2 / ||x_i^l||^2)^(N/2) (S / N)^(N/2)``."""
    N = m.n_outputs
    return (N - 1) * math.log(m.n) + (N / 2) * (log_share + _log(m.sharpness / N))


def _convolution(m: Measurement) -> list[Bound]:
    first = m.layers[0]
    if first.kind == "Linear" or first.input_dimension != m.input_dimension:
        return []
    alone = bool(torch.equal(first.mls, m.mls))
    delta, untied = first.output_gradient_energy.sqrt(), first.untied_gradient_energy.sqrt()
    patch = first.smallest_patch_norm
    by_untied = torch.where(patch > 0, first.operator_norm * untied / patch, math.inf)
    return [
        _worst(
            "N.6",
            "||grad_x f||_2 by ||T_W||_2 ||delta||_F",
            m.mls,
            first.operator_norm * delta,
            alone,
        ),
        _worst(
            "N.7",
            "||grad_x f||_2 by ||T_W||_2 ||grad_W f (untied)||_F / min_p ||x_p||",
            m.mls,
            by_untied,
            alone,
        ),
    ]
