"""Exercises on volume."""

from __future__ import annotations

import math

import scipy.optimize
import torch
from torch import Tensor, nn

from flatlib import measure, nets, toys
from flatlib.lab.exercises.exercise import Exercise, each, once
from flatlib.measurement import Measurement


def _gaussian(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def _by_hand() -> list[float]:
    J = torch.tensor([[2.0, 0, 0], [0, 1, 1]]).double()
    m = measure(toys.from_weights([J]), torch.ones(1, 3).double())
    return [float(m.log_volume[0].exp()), float(m.gradient_energy[0]) / 2]


class _Scaled(nn.Module):
    """c times a network."""

    def __init__(self, net: nn.Module, c: float):
        super().__init__()
        self.net, self.c = net, c

    def forward(self, x: Tensor) -> Tensor:
        return self.c * self.net(x)


def _log_bound(m: Measurement, norm: float) -> float:
    """Logarithm of the right side of Eq. (12), with one norm or another of W."""
    N = m.n_outputs
    far = N * math.log(norm / float(m.input_norm.min())) - N / 2 * math.log(N)
    return far + max(N / 2 - 1, 0) * math.log(m.n) + N / 2 * math.log(m.sharpness)


def _exponents(N: int) -> list[float]:
    def logs(net: nn.Module) -> Tensor:
        m = measure(net, _gaussian(0, 6, 7))
        right = _log_bound(m, m.layers[0].weight_frobenius_norm)
        dimensionality = math.log(float(m.local_dimensionality.mean()))
        volume = float(m.log_volume.mean())
        return torch.tensor([volume, math.log(m.sharpness), right, dimensionality]).double()

    net = nets.mlp([7, 8, N], "tanh", seed=0).double()
    exponents = (logs(_Scaled(net, 3.0)) - logs(net)) / math.log(3)
    return exponents.tolist()


def _weights(seed: int) -> list[tuple]:
    networks = [nets.mlp([7, 8, N], "tanh", seed=seed).double() for N in (2, 3, 5)]
    values = [torch.linalg.svdvals(net.linear1.weight.detach()) for net in networks]
    return list(zip(values, (2, 3, 5), strict=True))


def _log_gain(values: Tensor, N: int) -> float:
    """From the two bounds themselves, of a network whose first layer has these values."""
    turn = toys.orthonormal_rows(len(values), len(values), seed=1)
    net = toys.from_weights([torch.diag(values) @ turn, _gaussian(2, N, len(values))])
    m = measure(net, _gaussian(3, 4, len(values)))
    first = m.layers[0]
    return _log_bound(m, first.weight_frobenius_norm) - _log_bound(m, first.weight_norm)


def _dimensionalities(seed: int) -> list[tuple]:
    pairs = torch.tensor([[1.6, 0.5], [1.0, 0.9], [3.0, 0.2]]).double()
    return [(float(s.square().sum() ** 2 / (s**4).sum()),) for s in pairs]


def _ratio_at(D_PR: float) -> float:
    """Searched: two singular values of the dimensionality asked for."""

    def fault(ratio: float) -> float:
        return (1 + ratio**2) ** 2 / (1 + ratio**4) - D_PR

    ratio = scipy.optimize.brentq(fault, 0.0, 1.0, xtol=1e-14)
    return ratio / ((1 + ratio**2) / 2)


def _best_ratio() -> float:
    """Largest left over right side of Eq. (12) that a search over W and two samples finds."""

    def minus_ratio(numbers):
        W, samples = torch.from_numpy(numbers).view(2, 2, 2)
        lengths = samples.square().sum(dim=1)
        gradients = torch.kron(samples, torch.eye(2))
        right = W.square().sum() / lengths.min() * gradients.square().sum() / 4
        return -float(W.det().abs() / right)

    reached = _gaussian(0, 8).numpy()
    for _ in range(4):  # each search goes on where the last one stopped
        found = scipy.optimize.minimize(
            minus_ratio,
            reached,
            method="Nelder-Mead",
            options=dict(maxiter=20_000, maxfev=20_000, fatol=1e-7),
        )
        reached = found.x
    return -found.fun


def _singular_values(seed: int) -> list[tuple]:
    lists = ([2.0, 1.0, 0.5], [3.0, 0.2], [1.5, 1.5, 1.0, 0.1])
    return [(torch.tensor(values).double(),) for values in lists]


def _costs(sigma: Tensor) -> list[float]:
    """Jensen's step, and the two others of the middle of (N.3), on five inputs."""
    linear, inputs = toys.with_singular_values(sigma, inputs=4, seed=0), _gaussian(1, 5, 4)

    def middle(m: Measurement) -> float:
        first, N = m.layers[0], m.n_outputs
        inside = (first.weight_gradient_energy / m.input_norm**2).mean()
        return N / 2 * math.log(first.weight_norm**2 / N * float(inside))

    m = measure(linear, inputs)
    mean_of_logs = sum(middle(measure(linear, one[None])) for one in inputs) / len(inputs)
    return [middle(m) - mean_of_logs, mean_of_logs - float(m.log_volume.mean())]


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
        questions=once(_by_hand),
        tolerance=2e-3,
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
        questions=each(lambda seed: [(2,), (3,), (5,)], _exponents),
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
        questions=each(_weights, _log_gain),
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
        questions=each(_dimensionalities, _ratio_at),
    ),
    Exercise(
        "volume-attain",
        stars=3,
        minutes=20,
        hints=(
            "which of (11), (5), (18) and (21) can be an equality, and which never?",
            "J is the identity, so the Frobenius form of (5) loses the root of 2, and (12) takes "
            "the loss to the power N = 2",
        ),
        questions=once(_best_ratio),
        tolerance=1e-3,
    ),
    Exercise(
        "volume-jensen",
        stars=2,
        minutes=15,
        hints=(
            "the gradient over the length is the same for every input: what does a mean of "
            "equals cost?",
            "the middle of (N.3) is N log of the largest singular value here, and the log volume "
            "is the sum of all logarithms",
        ),
        questions=each(_singular_values, _costs),
    ),
)
