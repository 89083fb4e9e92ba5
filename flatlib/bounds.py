"""Both sides of every inequality that a measurement decides; nothing is differentiated here."""

from __future__ import annotations

import math
import sys
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace

import torch
from torch import Tensor

from flatlib import inequalities as given
from flatlib import sides
from flatlib.inequalities import COLUMNS, Column
from flatlib.measurement import Measurement

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
    proven: bool  # whether A <= B holds for this network by proof: its first layer is dense

    @property
    def terms(self) -> dict[str, float]:
        """The five numbers by name."""
        return {name: value for name, value in vars(self).items() if name != "proven"}


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
    key: str  # of its two columns in the archive


def _check_measured(m: Measurement) -> None:
    if not isinstance(m, Measurement):
        raise TypeError(
            f"m must be a Measurement, got {type(m).__name__}; pass flatlib.measure(net, x), with "
            'method="exact"'
        )


def _refuse_zero_input(m: Measurement) -> None:
    _check_measured(m)
    zero = (m.input_norm == 0).nonzero()
    if len(zero):
        raise ValueError(
            f"sample {int(zero[0])} has input norm 0, and the bounds divide by it (Eq. 5); leave "
            "the sample out"
        )


class Measured:
    """What `flatlib.inequalities` calls by name, taken from a measurement."""

    def __init__(self, m: Measurement):
        first, self.m = m.layers[0], m
        self.n, self.N, self.k = m.n, m.n_outputs, 1
        self.k_high = self.k_low = m.n_outputs  # the power that Eq. (12) takes of Eqs. (21), (24)
        self.norm_x, self.grad_x_2, self.gradient_energy = m.input_norm, m.mls, m.gradient_energy
        self.norm_W_2, self.norm_W_F = first.weight_norm, first.weight_frobenius_norm
        self.grad_W_energy = first.weight_gradient_energy
        self.grad_theta_energy = m.parameter_gradient_energy
        self.sharpness, self.log_volume, self.sigma = m.sharpness, m.log_volume, m.singular_values
        self.D_PR, self.has_layer_mls = m.local_dimensionality, m.has_layer_mls
        self.delta_F = first.output_gradient_energy.sqrt()
        self.untied_F = first.untied_gradient_energy.sqrt()
        self.smallest_patch = first.smallest_patch_norm
        self.grad_W_F, self.grad_theta_F = self.grad_W_energy.sqrt(), self.grad_theta_energy.sqrt()
        self.layers = tuple(
            SimpleNamespace(
                norm_x=layer.input_norm,
                norm_W_2=layer.weight_norm,
                grad_x_2=layer.mls,
                grad_W_energy=layer.weight_gradient_energy,
                grad_W_F=layer.weight_gradient_energy.sqrt(),
                log_volume=layer.log_volume,
            )
            for layer in m.layers
        )

    def at(self, k: int) -> Measured:
        """The same with another power."""
        other = copy(self)
        other.k = k
        return other

    def drop_tiny_gradients(self) -> None:
        """Put 0 for each derivative whose square float64 cannot hold."""
        tiny = self.grad_x_2 < SMALLEST_SQUARED
        self.grad_x_2 = self.grad_x_2.masked_fill(tiny, 0.0)
        self.sigma = self.sigma.masked_fill(tiny[:, None], 0.0)
        self.gradient_energy = self.gradient_energy.masked_fill(tiny, 0.0)
        self.log_volume = self.log_volume.masked_fill(tiny, -math.inf)
        self.D_PR = self.D_PR.masked_fill(tiny, math.nan)
        for layer in self.layers if self.has_layer_mls else ():
            # A weight's gradient is at least of the size of what its layer reads times its MLS.
            reads = torch.where(layer.norm_x > 0, layer.norm_x, 1.0).clamp(max=1.0)
            tiny = reads * layer.grad_x_2 < SMALLEST_SQUARED
            layer.grad_x_2 = layer.grad_x_2.masked_fill(tiny, 0.0)
            layer.log_volume = layer.log_volume.masked_fill(tiny, -math.inf)

    @cached_property
    def grad_x_F(self) -> Tensor:
        """``||grad_x f||_F``, whose square may overflow or underflow where it does not."""
        top = self.sigma[:, :1]
        relative = torch.where(top > 0, self.sigma / top, 0.0)
        return top[:, 0] * torch.linalg.vector_norm(relative, dim=1)

    @property
    def norm_T_W(self) -> float:
        return self.m.layers[0].operator_norm

    @property
    def convolution_in_front(self) -> bool:
        first = self.m.layers[0]
        whole = first.input_dimension == self.m.input_dimension
        return self.has_layer_mls and first.kind != "Linear" and whole

    @cached_property
    def dark(self) -> str:
        """Which layer reads only zeros of which sample, in words, if one does."""
        zero = (torch.stack([layer.norm_x for layer in self.layers]) == 0).nonzero()
        if not len(zero):
            return ""
        layer, sample = zero[0].tolist()
        return f"what {self.m.layers[layer].name!r} reads of sample {sample} has norm 0"

    def meets(self, assumption: str) -> bool:
        """Whether an assumption is met; one that no measurement decides counts as met."""
        first, layers = self.layers[0], self.m.layers
        if assumption == given.DENSE:
            return self.m.input_layer_is_dense and _is_resolved(first, self.grad_x_2)
        if assumption == given.TRAINABLE:
            return layers[0].in_sharpness
        if assumption == given.DENSE_LAYERS:
            # A convolution with one position is no dense map: it may read a part of its input.
            dense = all(layer.kind == "Linear" and layer.n_positions == 1 for layer in layers)
            return dense and all(_is_resolved(each, each.grad_x_2) for each in self.layers)
        if assumption == given.TRAINABLE_LAYERS:
            return all(layer.in_sharpness for layer in layers)
        if assumption == given.LIVE_LAYERS:
            return not self.dark
        if assumption == given.CONVOLUTION:
            return bool(torch.equal(first.grad_x_2, self.grad_x_2))
        return assumption != given.MOVING or bool((self.grad_x_2 > 0).any())


def chain(m: Measurement) -> Chain:
    r"""The chain of bounds on the mean maximum local sensitivity.

    .. math:: A=\overline{\mathrm{MLS}},\quad
       B=\frac{\lVert W\rVert_2}n\sum_i\frac{\lVert\nabla_W f_i\rVert_F}{\lVert x_i\rVert_2},\quad
       C=\lVert W\rVert_2\sqrt{\tfrac1n\sum_i\lVert x_i\rVert_2^{-2}}
       \sqrt{\tfrac1n\sum_i\lVert\nabla_W f_i\rVert_F^2}

    and D, which has S in place of the last mean. W is the first layer's weight. Where that is a
    convolution, the numbers are had with the reshaped weight, A may be above B, and ``proven`` is
    false. Which other inequalities are proven of a network, `evaluate` tells.

    Args:
        m: from `flatlib.measure`.

    Returns:
        `Chain` of floats, in units of output per unit of input, and whether A <= B is proven.

    Raises:
        TypeError: ``m`` is no `Measurement`.
        ValueError: a sample has input norm 0.

    Source: Eqs. (13), (25)-(28); C_prime is ours.

    >>> import flatlib
    >>> net = flatlib.nets.linear(2, 1)
    >>> c = chain(flatlib.measure(net, torch.eye(2)))
    >>> abs(c.A - c.B) < 1e-15 and abs(c.C - c.D) < 1e-15  # rank one, one layer
    True
    >>> c.proven
    True
    """
    _refuse_zero_input(m)
    q = Measured(m)
    terms = (side(q) for side in (sides.A, sides.B, sides.C, sides.C_prime, sides.D))
    return Chain(*terms, proven=q.meets(given.DENSE))


def relative_sharpness(m: Measurement) -> float:
    r"""Sharpness relative to the weights, unchanged when layers are rescaled against each other.

    .. math:: \frac1n\sum_i\sum_l\lVert W_l\rVert_2^2\lVert\nabla_{W_l} f(x_i)\rVert_F^2

    Args:
        m: from `flatlib.measure`.

    Returns:
        A float.

    Raises:
        TypeError: ``m`` is no `Measurement`.

    Source: the paper's later versions; compare the relative flatness of Petzka et al.

    >>> import flatlib
    >>> net = flatlib.nets.linear(2, 1)
    >>> m = flatlib.measure(net, torch.eye(2))
    >>> abs(relative_sharpness(m) - m.layers[0].weight_norm ** 2) < 1e-15
    True
    """
    _check_measured(m)
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
        TypeError: ``m`` is no `Measurement`.
        ValueError: not measured with ``layers=True``.

    Source: the paper's later versions.

    >>> import flatlib
    >>> m = flatlib.measure(flatlib.nets.linear(2, 1), torch.eye(2))  # ||x|| = 1, MLS = ||W||_2
    >>> abs(normalized_nmls(m) - m.layers[0].weight_norm) < 1e-15
    True
    """
    _check_measured(m)
    if not m.has_layer_mls:
        raise ValueError("not every layer has an MLS; measure again with layers=True")
    return sides.normalized_nmls(Measured(m))


def evaluate(m: Measurement) -> tuple[Bound, ...]:
    """Every inequality of the paper, and ours, that a measurement decides.

    An inequality that holds for each sample is reported at the sample where it is tightest;
    volumes are compared as logarithms. ``holds`` allows for rounding (1e-11 of the larger side)
    and nothing else. ``proven`` is False where the network does not meet the assumptions: from
    the input's gradient to the weight's takes a dense linear map in front, from the weight's to
    the parameters' that it is trainable and used nowhere else; the bounds over layers need both
    of every layer, and N.5 a sample whose Jacobian is not zero. An MLS below 1e-130 counts
    as 0 here: float64 loses its square. Where it loses that of a weight's gradient alone, what
    rests on the gradient is not proven. What they are stands in `flatlib.inequalities.TABLE`.

    Args:
        m: from `flatlib.measure`.

    Returns:
        `Bound` for each, in the order of the paper; N.6 and N.7 only for a convolution in
        front; N.6, N.7 and N.9 to N.12 only if ``m`` was measured with all its layers.

    Raises:
        TypeError: ``m`` is no `Measurement`.
        ValueError: a sample has input norm 0.

    Source: Eqs. (5)-(7), (11)-(13), (21), (24)-(28); the others are ours or the paper's
    later versions'.

    >>> import flatlib
    >>> m = flatlib.measure(flatlib.nets.mlp((3, 4, 2)), torch.ones(2, 3))
    >>> all(bound.holds and bound.proven for bound in evaluate(m))
    True
    """
    _refuse_zero_input(m)
    q = Measured(m)
    q.drop_tiny_gradients()
    return tuple(
        _decided(column, q.at(column.k))
        for column in COLUMNS.values()
        if column.inequality.is_recorded(q)
    )


def _decided(column: Column, q: Measured) -> Bound:
    """One inequality at a measurement, at the sample where it is tightest if it is of samples."""
    inequality, step = column.inequality, column.step
    lhs, rhs = step.lhs(q), step.rhs(q)
    if inequality.per_sample:
        lhs, rhs = _tightest(lhs.flatten(), rhs.flatten(), inequality.logarithmic)
    assumptions = inequality.assumptions if step.needs is None else step.needs
    proven = all(map(q.meets, assumptions))
    note = f" (infinite: {q.dark})" if given.LIVE_LAYERS in assumptions and q.dark else ""
    # A relative error is an absolute one of the logarithm.
    size = max(abs(lhs), abs(rhs), 1.0 if inequality.logarithmic else 0.0)
    # Infinite sides (a volume of 0, a zero input) compare as they are.
    rounding = max(ROUNDING * size, SMALLEST_NORMAL) if math.isfinite(size) else 0.0
    slack = 0.0 if lhs == rhs else rhs - lhs
    holds = lhs <= rhs + rounding
    return Bound(column.label, column.name + note, lhs, rhs, holds, slack, proven, column.key)


def _tightest(lhs: Tensor, rhs: Tensor, logarithmic: bool) -> tuple[float, float]:
    """The sides where the left one is largest relative to the right one."""
    if logarithmic:
        gap = torch.where(lhs == -math.inf, torch.full_like(lhs, -math.inf), lhs - rhs)
    else:
        gap = torch.where(lhs > 0, lhs / rhs, torch.zeros_like(lhs))
    worst = int(gap.argmax())
    return float(lhs[worst]), float(rhs[worst])


def _is_resolved(layer: SimpleNamespace, mls: Tensor) -> bool:
    """Whether float64 holds the square of W's gradient at every sample of some MLS."""
    lost = layer.grad_W_energy < SMALLEST_SQUARED**2
    return not bool((lost & (mls > 0) & (layer.norm_x > 0)).any())
