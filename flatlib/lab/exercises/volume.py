"""Exercises on volume."""

from __future__ import annotations

import math

import scipy.optimize
import torch
from torch import Tensor, nn

from flatlib import measure, nets, toys
from flatlib.lab.exercises.exercise import (
    FROM_1_TO_9,
    Exercise,
    Scaled,
    between,
    each,
    grouped,
    once,
    power,
    times,
)
from flatlib.measurement import Measurement


def _gaussian(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def _by_hand(a: int, b: int) -> list[float]:
    J = torch.tensor([[a, 0, 0], [0, b, b]]).double()
    m = measure(toys.from_weights([J]), torch.ones(1, 3).double())
    return [float(m.log_volume[0].exp()), float(m.gradient_energy[0]) / 2]


def _by_hand_says(a: int, b: int) -> tuple[str, ...]:
    return (
        rf"\begin{{pmatrix}}{a}&0&0\\0&{b}&{b}\end{{pmatrix}}",
        rf"\operatorname{{diag}}({a**2},{2 * b**2})",
        rf"d\mathrm{{Vol}}=\sqrt{grouped(2 * a**2 * b**2)}",
        rf"\operatorname{{Tr}}/2={a**2 / 2 + b**2:g}",
        f"return {a} * math.sqrt({2 * b**2}), {a**2 / 2 + b**2:g}",
    )


def _log_bound(m: Measurement, norm: float) -> float:
    """Logarithm of the right side of Eq. (12), with one norm or another of W."""
    N = m.n_outputs
    far = N * math.log(norm / float(m.input_norm.min())) - N / 2 * math.log(N)
    return far + max(N / 2 - 1, 0) * math.log(m.n) + N / 2 * math.log(m.sharpness)


def _exponents(N: int, p: int) -> list[float]:
    def logs(net: nn.Module) -> Tensor:
        m = measure(net, _gaussian(0, 6, 7))
        right = _log_bound(m, m.layers[0].weight_frobenius_norm)
        dimensionality = math.log(float(m.local_dimensionality.mean()))
        volume = float(m.log_volume.mean())
        return torch.tensor([volume, math.log(m.sharpness), right, dimensionality]).double()

    net = nets.mlp([7, 8, N], "tanh", seed=0).double()
    exponents = (logs(Scaled(net, 3.0**p)) - logs(net)) / math.log(3)
    return exponents.tolist()


def _exponents_say(p: int) -> tuple[str, ...]:
    c, to_N = power(p), "c^N" if p == 1 else f"c^{{{p}N}}"
    return (
        rf"$f\to {c}f$",
        f"every gradient of $f$ gets the factor ${c}$",
        f"Each singular value gets a factor ${c}$, so the volume gets ${to_N}$",
        rf"The gradient $\nabla_\theta f$ gets a factor ${c}$, so $S$ gets ${power(2 * p)}$ and "
        rf"$S^{{N/2}}$ gets ${to_N}$",
        f"all get ${power(4 * p)}$",
        f"between 1 and ${power(2 * p)}$",
        f"return [{p} * N, {2 * p}, {p} * N, 0]" if p > 1 else "return [N, 2, N, 0]",
        f"gets {p} factors c" if p > 1 else "gets one factor c",
    )


def _weights(seed: int, base: float) -> list[tuple]:
    networks = [nets.mlp([7, 8, N], "tanh", seed=seed).double() for N in (2, 3, 5)]
    values = [torch.linalg.svdvals(net.linear1.weight.detach()) for net in networks]
    return list(zip(values, (2, 3, 5), strict=True))


def _log_gain(values: Tensor, N: int, base: float) -> float:
    """From the two bounds themselves, of a network whose first layer has these values."""
    turn = toys.orthonormal_rows(len(values), len(values), seed=1)
    net = toys.from_weights([torch.diag(values) @ turn, _gaussian(2, N, len(values))])
    m = measure(net, _gaussian(3, 4, len(values)))
    first = m.layers[0]
    gain = _log_bound(m, first.weight_frobenius_norm) - _log_bound(m, first.weight_norm)
    return gain / math.log(base)


def _log_gain_says(base: float) -> tuple[str, ...]:
    if base == math.e:
        return "the logarithm of the factor gained", "math.log(values.norm() / values.max())"
    return (
        f"the logarithm to the base {base} of the factor gained",
        f"math.log(values.norm() / values.max(), {base})",
    )


def _dimensionalities(seed: int, m: int) -> list[tuple]:
    pairs = torch.tensor(between((0.2, 3.0), (0.2, 3.0))(seed)).double()
    return [(m * float(s.square().sum() ** 2 / (s**4).sum()),) for s in pairs]


def _ratio_at(D_PR: float, m: int) -> float:
    """Searched: two singular values, each m times, of the dimensionality asked for."""

    def fault(ratio: float) -> float:
        return m * (1 + ratio**2) ** 2 / (1 + ratio**4) - D_PR

    ratio = scipy.optimize.brentq(fault, 0.0, 1.0, xtol=1e-14)
    return (ratio / ((1 + ratio**2) / 2)) ** m


def _ratio_says(m: int) -> tuple[str, ...]:
    own = (
        rf"{times(m)}(\sigma_1^2+\sigma_2^2)^2/",
        rf"From ${times(m)}(a+b)^2=D_{{\mathrm{{PR}}}}",
        rf"\frac{m}{{D_{{\mathrm{{PR}}}}}}",
        f"and {times(m)}{' ' * (m > 1)}(a + b)^2 = D_PR",
    )
    if m == 1:
        return (
            *own,
            "Let $N=2$ and let",
            "With two outputs the dimensionality",
            r"nothing at $D_{\mathrm{PR}}=2$ and everything at $D_{\mathrm{PR}}=1$",
            "return math.sqrt(2 * (1 - 1 / D_PR))",
        )
    return (
        *own,
        rf"Let $N={2 * m}$, let $\sigma_1$ and $\sigma_2$ be the singular values, each of them {m} "
        "times, and let",
        f"The ratio asked for is this number to the power {m}, because both values stand {m} times "
        f"in the volume and the bound is the mean to the power $N/2={m}$.\nThe dimensionality",
        rf"nothing at $D_{{\mathrm{{PR}}}}={2 * m}$ and everything at "
        rf"$D_{{\mathrm{{PR}}}}={m}$",
        f"return math.sqrt(2 * (1 - {m} / D_PR)) ** {m}",
    )


def _singular_values(seed: int, base: float) -> list[tuple]:
    lists = [_gaussian(seed + count, count).abs() + 0.1 for count in (3, 2, 4)]
    return [(values.sort(descending=True).values,) for values in lists]


def _costs_say(base: float) -> tuple[str, ...]:
    found = "float((sigma[0] / sigma).log().sum())"
    if base == math.e:
        return "in natural logarithms", found
    return f"in logarithms to the base {base}", f"{found} / math.log({base})"


def _costs(sigma: Tensor, base: float) -> list[float]:
    """Jensen's step, and the two others of the middle of (N.3), on five inputs."""
    linear, inputs = toys.with_singular_values(sigma, inputs=4, seed=0), _gaussian(1, 5, 4)

    def middle(m: Measurement) -> float:
        first, N = m.layers[0], m.n_outputs
        inside = (first.weight_gradient_energy / m.input_norm**2).mean()
        return N / 2 * math.log(first.weight_norm**2 / N * float(inside))

    m = measure(linear, inputs)
    mean_of_logs = sum(middle(measure(linear, one[None])) for one in inputs) / len(inputs)
    costs = middle(m) - mean_of_logs, mean_of_logs - float(m.log_volume.mean())
    return [cost / math.log(base) for cost in costs]


PAIRS = tuple(  # volume and bound of (7, 5) are the same to two decimals
    (9 if (a, b) == (7, 5) else a, b) for a in range(3, 9) for b in (2, 3, 5)
)
BASES = ((math.e,), *((base,) for base in range(2, 13)))


EXERCISES = (
    Exercise(
        "volume-by-hand",
        stars=1,
        minutes=5,
        hints=(
            "J J^T is diagonal: read its determinant and its trace",
            "the volume is the root of the determinant; the bound is the trace over N, to the "
            "power N/2",
        ),
        asked=once(_by_hand),
        decimals=2,
        numbers=((2, 1), *PAIRS),
        says=_by_hand_says,
    ),
    Exercise(
        "volume-scaling",
        stars=2,
        minutes=10,
        hints=(
            "each singular value and each gradient gets one factor c",
            "the volume multiplies N singular values; S is a square; (12) contains S to the power "
            "N/2; D_PR is a ratio",
        ),
        asked=each(between((2, 7)), _exponents),
        numbers=FROM_1_TO_9,
        says=_exponents_say,
    ),
    Exercise(
        "volume-spectral",
        stars=2,
        minutes=15,
        hints=(
            "compare the two norms of W, then count how often the norm enters (12)",
            "the Frobenius norm is the root of the sum of squared singular values, the spectral "
            "norm the largest one; the power is N",
        ),
        asked=each(_weights, _log_gain),
        numbers=BASES,
        says=_log_gain_says,
    ),
    Exercise(
        "volume-loss-of-means",
        stars=2,
        minutes=15,
        hints=(
            "square the sum of the squared values and look at the mixed term",
            "with a and b for the squared values, (a + b)^2 = a^2 + b^2 + 2ab and "
            "(a + b)^2 = D_PR (a^2 + b^2)",
        ),
        asked=each(_dimensionalities, _ratio_at),
        numbers=FROM_1_TO_9,
        says=_ratio_says,
    ),
    Exercise(
        "volume-jensen",
        stars=2,
        minutes=15,
        hints=(
            "the gradient over the length is the same for every input: what does a mean of "
            "equals cost?",
            "work out the middle of (N.3) with the root of N for the gradient over the length, and "
            "write the log volume in the singular values: how far are the two apart?",
        ),
        asked=each(_singular_values, _costs),
        numbers=BASES,
        says=_costs_say,
    ),
)
