"""Sides of inequalities, as functions of the named quantities that `inequalities` lists.

None of them overflows or underflows where the result does not.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

# Quantities that are a side on their own.
grad_x_F, grad_x_2, delta_F, log_volume, sharpness = map(
    attrgetter, ("grad_x_F", "grad_x_2", "delta_F", "log_volume", "sharpness")
)


def product(*factors: float) -> float:
    """Their product; no part of it overflows or underflows where the whole does not.

    >>> product(1e200, 1e200, 1e-300)
    1e+100
    """
    mantissa, exponent = 1.0, 0
    for factor in factors:
        part, shift = math.frexp(factor)
        mantissa, more = math.frexp(mantissa * part)
        exponent += shift + more
    try:
        return math.ldexp(mantissa, exponent)
    except OverflowError:
        return math.inf


def _averaged(factors: tuple[Tensor, ...], average: Callable[[Tensor], float]) -> float:
    """An average over samples of the product of non-negative factors, as shares of the largest."""
    largest = [float(factor.max()) for factor in factors]
    if 0.0 in largest:
        return 0.0
    shares = [factor / size for factor, size in zip(factors, largest, strict=True)]
    return product(*largest, average(math.prod(shares[1:], start=shares[0])))


def mean_product(*factors: Tensor) -> float:
    """Mean over samples of the product of non-negative factors."""
    return _averaged(factors, lambda shares: float(shares.mean()))


def root_mean(*factors: Tensor) -> float:
    """Root of the mean over samples of the squared product of non-negative factors."""
    return _averaged(factors, lambda shares: math.sqrt(float(shares.square().mean())))


def log_mean_exp(values: Tensor) -> float:
    """Logarithm of the mean over samples of ``exp(values)``."""
    return float(values.logsumexp(dim=0)) - math.log(len(values))


def mean_power(values: Tensor, k: float, log_factor: float = 0.0) -> float:
    """Mean over samples of ``(exp(log_factor) values)^k``, in logarithms."""
    return _exp(log_mean_exp(k * (log_factor + values.log())))


def _exp(value: float) -> float:
    return math.inf if value >= math.log(sys.float_info.max) else math.exp(value)


def log(value: float) -> float:
    """Natural logarithm, minus infinity of 0."""
    return math.log(value) if value > 0 else -math.inf


def A(q: Any) -> float:
    """The mean MLS; A to D are the terms of Eq. (28), see `flatlib.bounds.Chain`."""
    return float(q.grad_x_2.mean())


def B(q: Any) -> float:
    """``||W||_2`` times the mean of ``||grad_W f|| / ||x||``, Eq. (25)."""
    return product(q.norm_W_2, mean_product(q.grad_W_F, 1 / q.norm_x))


def C(q: Any) -> float:
    """``||W||_2`` times root means of ``||x||^-2`` and of ``||grad_W f||^2``, Eq. (26)."""
    return product(q.norm_W_2, root_mean(1 / q.norm_x), root_mean(q.grad_W_F))


def C_prime(q: Any) -> float:
    """``||W||_2`` times root mean of ``||grad_W f||^2 / ||x||^2``, Eq. (N.4)."""
    return product(q.norm_W_2, root_mean(q.grad_W_F, 1 / q.norm_x))


def D(q: Any) -> float:
    """C with the sharpness in place of the mean of ``||grad_W f||^2``, Eq. (27)."""
    return product(q.norm_W_2, root_mean(1 / q.norm_x), math.sqrt(q.sharpness))


def _ratio(q: Any, norm_W: float) -> Tensor:
    """``norm_W ||grad_W f||_F / ||x||``."""
    return (log(norm_W) + (q.grad_W_F.log() - q.norm_x.log())).exp()


def ratio_F(q: Any) -> Tensor:
    """``||W||_F ||grad_W f||_F / ||x||`` of each sample, Eq. (5)."""
    return _ratio(q, q.norm_W_F)


def ratio_2(q: Any) -> Tensor:
    """``||W||_2 ||grad_W f||_F / ||x||`` of each sample, Eqs. (5) and (N.2)."""
    return _ratio(q, q.norm_W_2)


def _log_factor(q: Any, norm_W: float) -> float:
    """Logarithm of ``norm_W / min_i ||x_i||``."""
    return log(norm_W) - log(float(q.norm_x.min()))


def by_ratio(q: Any) -> float:
    """``||W||_F^k`` times the mean of ``(||grad_W f||_F / ||x||)^k``, Eq. (6)."""
    return mean_power(q.grad_W_F / q.norm_x, q.k, log(q.norm_W_F))


def by_W(q: Any) -> float:
    """``(||W||_F / min ||x||)^k`` times the mean of ``||grad_W f||_F^k``, Eq. (6)."""
    return mean_power(q.grad_W_F, q.k, _log_factor(q, q.norm_W_F))


def by_theta(q: Any) -> float:
    """``(||W||_F / min ||x||)^k`` times the mean of ``||grad_theta f||_F^k``, Eq. (6)."""
    return mean_power(q.grad_theta_F, q.k, _log_factor(q, q.norm_W_F))


def by_theta_2(q: Any) -> float:
    """``(||W||_2 / min ||x||)^k`` times the mean of ``||grad_theta f||_F^k``, Eq. (7)."""
    return mean_power(q.grad_theta_F, q.k, _log_factor(q, q.norm_W_2))


def powers_of_x(q: Any) -> float:
    """Mean over samples of ``||grad_x f||_F^k``, Eq. (6)."""
    return mean_power(q.grad_x_F, q.k)


def log_energies(q: Any) -> Tensor:
    """Logarithm of ``||grad_x f||_F^N / N^(N/2)``."""
    return (q.N / 2) * (2 * q.grad_x_F.log() - math.log(q.N))


def log_mean_energy(q: Any) -> float:
    """Logarithm of the mean over samples of ``||grad_x f||_F^N / N^(N/2)``, Eq. (12)."""
    return log_mean_exp(log_energies(q))


def mean_log_volume(q: Any) -> float:
    """Mean over samples of the logarithm of the volume, Eq. (N.3)."""
    return float(q.log_volume.mean())


def log_by_sharpness(q: Any, k: float) -> float:
    """Logarithm of ``n^max(k/2-1, 0) (||W||_F / min ||x||)^k (S / N)^(k/2)``."""
    power = max(k / 2 - 1, 0) * math.log(q.n) + k * _log_factor(q, q.norm_W_F)
    return power + (k / 2) * log(q.sharpness / q.N)


def log_powers(q: Any, k: float) -> float:
    """Logarithm of ``(||W||_F / min ||x||)^k`` times the mean of ``||grad_theta f||_F^k``."""
    return k * _log_factor(q, q.norm_W_F) + log_mean_exp((k / 2) * q.grad_theta_energy.log())


def log_powers_bound(q: Any, k: float) -> float:
    """Logarithm of ``n^max(k/2-1, 0) (||W||_F / min ||x||)^k S^(k/2)``."""
    return log_by_sharpness(q, k) + (k / 2) * math.log(q.N)


def log_by_weights(q: Any) -> float:
    """``N/2`` times the logarithm of ``||W||_2^2 / N`` times the mean of
    ``||grad_W f||_F^2 / ||x||^2``, Eq. (N.3).
    """
    log_weighted = log_mean_exp(q.grad_W_energy.log() - 2 * q.norm_x.log())
    return (q.N / 2) * (2 * log(q.norm_W_2) + log_weighted - math.log(q.N))


def log_by_S(q: Any) -> float:
    """``N/2`` times the logarithm of ``(||W||_2 / min ||x||)^2 S / N``, Eq. (N.3)."""
    return (q.N / 2) * (2 * _log_factor(q, q.norm_W_2) + log(q.sharpness / q.N))


def moving(q: Any) -> Tensor:
    """The samples whose Jacobian is not zero; all where each is."""
    moving = q.grad_x_2 > 0
    return moving if moving.any() else ~moving


def energy_over_dimension(q: Any) -> Tensor:
    """``||grad_x f||_F^2 / D_PR`` of each sample that moves, Eq. (N.5)."""
    # A zero Jacobian has no D_PR; 0 over any number from 1 to N is 0.
    return q.gradient_energy[moving(q)] / q.D_PR[moving(q)].nan_to_num(nan=1.0)


def squared_mls(q: Any) -> Tensor:
    """``||grad_x f||_2^2`` of each sample that moves, Eq. (N.5)."""
    return q.grad_x_2[moving(q)].square()


def _in_layers(q: Any, name: str) -> Tensor:
    """A quantity of every layer, ``(layers, n)`` or, where it is of none of the samples, 1."""
    like = {"dtype": q.norm_x.dtype, "device": q.norm_x.device}
    parts = [torch.as_tensor(getattr(layer, name), **like) for layer in q.layers]
    return torch.stack(parts).reshape(len(parts), -1)


def inputs_times_sensitivities(q: Any) -> Tensor:
    """``||x^l|| ||grad_x^l f||_2``, ``(layers, n)``, Eq. (N.11)."""
    return _in_layers(q, "norm_x") * _in_layers(q, "grad_x_2")


def weights_times_gradients(q: Any) -> Tensor:
    """``||W_l||_2 ||grad_W_l f||_F``, ``(layers, n)``, Eq. (N.11)."""
    return _in_layers(q, "norm_W_2") * _in_layers(q, "grad_W_F")


def _log_share(q: Any) -> float:
    """Logarithm of the mean over samples of the sum of ``||W_l||^2 / ||x^l||^2``."""
    ratios = _in_layers(q, "norm_W_2").log() - _in_layers(q, "norm_x").log()
    return log_mean_exp((2 * ratios).logsumexp(dim=0))


def nmls(q: Any) -> float:
    """Mean over samples of the sum over layers of ``||grad_x^l f||_2``, Eq. (N.9)."""
    return float(_in_layers(q, "grad_x_2").sum(dim=0).mean())


def normalized_nmls(q: Any) -> float:
    """Sum over layers of the mean of ``||x^l|| ||grad_x^l f||_2``, Eq. (N.12)."""
    return sum(float((layer.norm_x * layer.grad_x_2).mean()) for layer in q.layers)


def nmls_bound(q: Any) -> float:
    """Root of S times the mean of the sum over layers of ``||W_l||_2^2 / ||x^l||^2``, Eq. (N.9)."""
    share = _log_share(q)
    return math.inf if share == math.inf else _exp((share + log(q.sharpness)) / 2)


def log_nvr(q: Any) -> float:
    """Logarithm of the mean over samples of the sum over layers of the volume, Eq. (N.10)."""
    volumes = _in_layers(q, "log_volume").flatten().logsumexp(dim=0)
    return float(volumes) - math.log(q.n)


def log_nvr_bound(q: Any) -> float:
    """Logarithm of ``n^(N-1)`` times the ``N/2`` power of ``S / N`` times the mean of Eq. (N.9)."""
    share = _log_share(q)
    if share == math.inf:
        return math.inf
    return (q.N - 1) * math.log(q.n) + (q.N / 2) * (share + log(q.sharpness / q.N))


def relative_bound(q: Any) -> float:
    """``L`` times the root mean of ``||W_l||_2^2 ||grad_W_l f||_F^2`` over layers and samples."""
    return len(q.layers) * root_mean(weights_times_gradients(q).flatten())


def norm(v: Tensor, p: float) -> Tensor:
    """``(sum |v_i|^p)^(1/p)``, written out; the largest entry for infinite p."""
    return v.abs().max() if math.isinf(p) else (v.abs() ** p).sum() ** (1 / p)


def norm_p(q: Any) -> Tensor:
    return norm(q.v, q.p)


def norm_q(q: Any) -> Tensor:
    return norm(q.v, q.q)


def by_terms(q: Any) -> Tensor:
    return ((q.v.abs() ** q.q) ** (q.p / q.q)).sum() ** (1 / q.p)


def hoelder(q: Any) -> Tensor:
    return (q.v.abs() ** q.q).sum() ** (q.p / q.q) * q.n ** (1 - q.p / q.q)


def gap(q: Any) -> Tensor:
    return q.hessian_at_targets.trace() - q.S


def gap_bound(q: Any) -> Tensor:
    """``m M2 epsilon``."""
    largest = q.second_derivatives.norm(dim=1).max()
    return len(q.theta) * largest * q.residual.norm(dim=1).max()


def gap_terms(q: Any) -> Tensor:
    terms = torch.einsum("ik,ikj->ij", q.residual, q.second_derivatives)
    return terms.abs().sum(dim=1).mean()


def residual_term(q: Any) -> Tensor:
    """What Lemma A.1 neglects: mean over i, sum over j of (f_i - y_i) . d2 f_i / d theta_j^2."""
    return torch.einsum("ik,ikj->i", q.residual, q.second_derivatives).mean()


def untied_bound(q: Any) -> Tensor:
    by_patch = q.norm_T_W * q.untied_F / q.smallest_patch
    return torch.where(q.smallest_patch > 0, by_patch, math.inf)


def effective_rank(q: Any) -> Tensor:
    """The exponential of the entropy of ``sigma_k^2 / sum sigma^2``."""
    shares = (q.sigma / q.sigma[:, :1]).square()
    shares = shares / shares.sum(dim=1, keepdim=True)
    return torch.special.entr(shares).sum(dim=1).exp().nan_to_num(nan=1.0)
