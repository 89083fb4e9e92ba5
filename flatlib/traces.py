r"""Traces of matrices that are known by their products only, from random probes, and their errors.

For random signs z (Hutchinson's probes) the mean of :math:`z^\top A z` is the trace of A. How many
probes a wanted error takes is found from a few first ones, the pilot, which then are thrown away:
the estimate is the mean of a number of fresh probes that was fixed before they were drawn. It is
therefore unbiased, and its standard error an ordinary one. To stop at the first moment when the
standard error looks small enough would be cheaper and wrong, since the moment comes early just
when the error looks smaller than it is.

Source: Hutchinson (1990); a first sample that sets the size of the second is due to Stein (1945).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

PILOT = 16  # probes that only tell how many others are needed; there are never fewer others
CAUTION = 0.9  # how surely the number suffices, were the values of probes normal
LEVEL = 0.95  # of intervals


@dataclass(frozen=True)
class Estimate:
    """A mean of random values.

    >>> [round(end, 3) for end in Estimate(0.0, 1.0, 15).interval]  # Student's t
    [-2.131, 2.131]
    """

    value: float
    standard_error: float
    degrees_of_freedom: float  # of the standard error

    @property
    def interval(self) -> tuple[float, float]:
        """Bounds that hold the true value in 95 % of runs, for probes that are nearly normal."""
        from scipy.special import stdtrit  # takes a moment

        if self.standard_error == 0.0:
            return self.value, self.value
        half = stdtrit(self.degrees_of_freedom, (1 + LEVEL) / 2) * self.standard_error
        return float(self.value - half), float(self.value + half)


def signs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Random signs, float64: -1.0 or 1.0."""
    return 2.0 * torch.randint(0, 2, shape, generator=generator, device="cpu").double() - 1.0


def mean_of(values: Tensor) -> Estimate:
    """The mean of independent values ``(P,)``, P at least 2.

    >>> mean_of(torch.tensor([1.0, 3.0, 1.0, 3.0, 2.0]))
    Estimate(value=2.0, standard_error=0.4472135954999579, degrees_of_freedom=4)
    """
    P = len(values)
    return Estimate(float(values.mean()), math.sqrt(float(values.var()) / P), P - 1)


def mean_of_estimates(values: Tensor, errors: Tensor, degrees_of_freedom: int) -> Estimate:
    """The mean of independent estimates ``(n,)`` with their standard errors.

    The degrees of freedom are those of Welch and Satterthwaite.

    >>> mean_of_estimates(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 2.0]), 4)
    Estimate(value=2.0, standard_error=1.4142135623730951, degrees_of_freedom=8.0)
    """
    n, largest = len(values), float(errors.max())
    if largest == 0.0:
        return Estimate(float(values.mean()), 0.0, n * degrees_of_freedom)
    variance = (errors / largest).double().square()
    shared = variance.sum().square() / variance.square().sum()
    error = largest * math.sqrt(float(variance.sum())) / n
    return Estimate(float(values.mean()), error, degrees_of_freedom * float(shared))


def probes_needed(variance: float, degrees_of_freedom: int, target: float) -> int:
    """How many probes bring the standard error of their mean to ``target`` or below.

    Args:
        variance: of one probe, as a pilot has found it.
        degrees_of_freedom: of the variance; the fewer, the larger the true one may be.
        target: the standard error that is wanted; 0 if none is small enough.

    >>> probes_needed(4.0, 10**9, 0.2)
    101
    """
    from scipy.special import chdtri

    if variance == 0.0:
        return 1
    upper = variance * degrees_of_freedom / chdtri(degrees_of_freedom, CAUTION)
    needed = upper / target**2 if target**2 > 0.0 else math.inf
    return max(1, math.ceil(min(needed, 2.0**62)))


def draw(
    probe: Callable[[], float], target: Callable[[float], float], max_probes: int
) -> tuple[Tensor, int]:
    """Values of as many probes as a wanted error takes, by a pilot.

    Args:
        probe: draws one value.
        target: the standard error that is wanted for a trace of this size.
        max_probes: how many probes are drawn at most, the pilot's among them.

    Returns:
        The values ``(P,)``, and how many the pilot took: none where there is no room for it.
    """

    def values(number: int) -> Tensor:
        return torch.tensor([probe() for _ in range(number)], dtype=torch.float64, device="cpu")

    if max_probes <= 2 * PILOT:
        return values(max_probes), 0
    pilot = values(PILOT)
    needed = probes_needed(float(pilot.var()), PILOT - 1, target(float(pilot.mean())))
    return values(min(max(needed, PILOT), max_probes - PILOT)), PILOT
