"""Every registered equation with one flaw put in on purpose: its check has to refuse each of them.

A mutant takes an equation's formula to a wrong one. Most are substitutions: one step of the
formula with a named quantity replaced, on the right side unless said otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.linalg import eigvalsh, matrix_norm, svdvals

from flatlib.lab.equations.cases import frobenius, mean, spectral
from flatlib.lab.equations.checking import (
    Equation,
    Formula,
    Link,
    at_equality_cases,
    first_failure,
)
from flatlib.lab.equations.identities import tangent_kernel
from flatlib.sides import C_prime, norm

Mutant = Callable[[Formula], Formula]


class Swapped:
    """A case, or a layer of one, with some of its quantities replaced.

    What the case derives from them stays as it is. A number, or a tensor without axes, stands in
    for every entry of the quantity that it replaces.
    """

    def __init__(self, case: Any, new: dict[str, Any]):
        self._case, self._new = case, new

    def __getattr__(self, name: str) -> Any:
        old = getattr(self._case, name)
        if name not in self._new:
            return old
        new = self._new[name]
        value = new(self._case) if callable(new) else new
        if isinstance(old, Tensor) and (not isinstance(value, Tensor) or value.dim() == 0):
            return torch.as_tensor(value, dtype=old.dtype).expand_as(old)
        return value


def _changed(step: int, change: Callable[[Formula, Any, Link], Link]) -> Mutant:
    """The formula with one of its links changed."""

    def mutant(formula: Formula) -> Formula:
        def wrong(case: Any) -> list[Link]:
            links = list(formula(case))
            links[step] = change(formula, case, links[step])
            return links

        return wrong

    return mutant


def swap(step: int = 0, side: str = "right", **new: Any) -> Mutant:
    """One step with other quantities on one side: constants, or functions of the case."""

    def change(formula: Formula, case: Any, link: Link) -> Link:
        other = formula(Swapped(case, new))[step]
        lhs, rhs = (
            (other[0] if side != "right" else link[0]),
            (other if side != "left" else link)[2],
        )
        return (lhs, link[1], rhs, *link[3:])

    return _changed(step, change)


def in_layers(step: int = 0, **new: Any) -> Mutant:
    """`swap` in every layer, by constants or functions of the layer."""
    return swap(step, "both", layers=lambda c: [Swapped(layer, new) for layer in c.layers])


def turned(step: int = 0) -> Mutant:
    """One step the wrong way round."""
    return _changed(step, lambda formula, case, link: (link[2], link[1], link[0], *link[3:]))


def scaled(factor: Any, step: int = 0) -> Mutant:
    """One step whose right side is multiplied by a constant or a function of the case."""

    def change(formula: Formula, case: Any, link: Link) -> Link:
        times = factor(case) if callable(factor) else factor
        return (link[0], link[1], link[2] * times, *link[3:])

    return _changed(step, change)


def raised(factor: Any, step: int = 0) -> Mutant:
    """`scaled` for a step of logarithms."""

    def change(formula: Formula, case: Any, link: Link) -> Link:
        times = factor(case) if callable(factor) else factor
        return (link[0], link[1], link[2] + math.log(times), *link[3:])

    return _changed(step, change)


def mutants_of(equation: Equation) -> dict[str, Mutant]:
    """Those of the table; of an inequality without any, what breaks every inequality."""
    if equation.label in MUTANTS or equation.kind != "inequality":
        return MUTANTS[equation.label]
    wrong = {}
    multiplied = raised if equation.logarithmic else scaled
    for step, link in enumerate(equation.check(next(equation.cases(0, 1)))):
        if link[1] == "<=":
            wrong |= {
                f"step {step} the wrong way round": turned(step),
                f"step {step}, a factor 2 to spare": multiplied(2.0, step),
                f"step {step}, a millionth to spare": multiplied(1 + 1e-6, step),
                f"step {step}, a millionth too small": multiplied(1 - 1e-6, step),
            }
    return wrong


def holds(equation: Equation, formula: Formula, seed: int, cases: int) -> bool:
    """Whether a formula in place of the equation's own passes its check; stops if it does not."""
    if any(failure for _, failure in at_equality_cases(equation, formula, seed)):
        return False
    return not any(first_failure(formula(case)) for case in equation.cases(seed, cases))


def caught(equation: Equation, seed: int = 0, cases: int = 40) -> dict[str, bool]:
    """The names of an equation's mutants, each with whether the equation's check refuses it."""
    return {
        name: not holds(equation, mutant(equation.check), seed, cases)
        for name, mutant in mutants_of(equation).items()
    }


def smallest_sigma(W: Tensor) -> Tensor:
    return svdvals(W)[-1]


def other_share(c: Any) -> Tensor:
    """Squared norms of all gradients but W's, ``(n,)``."""
    return (c.grad_theta_F**2 - c.grad_W_F**2).clamp(min=0)


def eye(c: Any, rows: int) -> Tensor:
    return torch.eye(rows, c.x.shape[1], dtype=c.x.dtype)


def without_biases(c: Any, last: int = 0, bias: float = 0.0) -> Callable[[Tensor], Tensor]:
    """The network with its biases times a factor, and no activation behind the first layers."""

    def f(x: Tensor) -> Tensor:
        stack = zip(c.weights, c.biases, c.functions, c.pasts, strict=True)
        for depth, (W, b, a, P) in enumerate(stack):
            z = x @ W.T + bias * b
            x = (z if depth < last else a(z)) + x @ P.T
        return x

    return f


def only(value: Tensor) -> Tensor:
    """A vector of one entry, all of whose norms are that entry."""
    return value.reshape(1)


def powers(c: Any, exponent: float) -> Tensor:
    return (c.v.abs() ** exponent).sum()


def rms(values: Tensor) -> Tensor:
    return mean(values**2).sqrt()


def residual_part(c: Any) -> Tensor:
    """The residual of the sample whose residual is smallest."""
    return c.residual[c.residual.norm(dim=1).argmin()][None]


def harmonic(c: Any) -> Tensor:
    """A norm whose square over N is the harmonic mean of sigma^2."""
    return c.N / (c.sigma**-2).sum(dim=1).sqrt()


def epsilon(c: Any) -> Tensor:
    """The largest residual's norm."""
    return c.residual.norm(dim=1).max()


def weight_shares(c: Any) -> Tensor:
    """Mean over samples of the sum over layers of ``(||W_l|| / ||x_i^l||)^2``."""
    return mean(sum((layer.norm_W_2 / layer.norm_x) ** 2 for layer in c.layers))


def along_theta(c: Any) -> Tensor:
    """Inner products of the gradients with theta, spread over the entries of theta."""
    return (c.grad_theta @ c.theta)[..., None] / len(c.theta) ** 0.5


MUTANTS: dict[str, dict[str, Mutant]] = {
    "1": {
        "the biases dropped": swap(f=without_biases),
        "the first activation dropped": swap(f=lambda c: without_biases(c, last=1, bias=1.0)),
        "the sign of the biases": swap(f=lambda c: without_biases(c, bias=-1.0)),
        "every weight halved": swap(f=lambda c: lambda x: c.f_of_theta(c.theta / 2, x)),
    },
    "2": {
        "loss without the half": scaled(2.0, 1),
        "largest eigenvalue for their sum": swap(
            hessian_of_gradient=lambda c: eigvalsh(c.hessian_of_gradient)[-1:].diag()
        ),
        "absolute eigenvalues": swap(
            hessian_of_gradient=lambda c: eigvalsh(c.hessian_of_gradient).abs().diag()
        ),
        "divided by the number of parameters": scaled(lambda c: 1 / len(c.theta), 1),
        "eigenvalues 5 % too large": scaled(1.05),
        "curvatures 5 % too large": scaled(1.05, 1),
    },
    "3": {
        "norms not squared": swap(grad_theta_F=lambda c: c.grad_theta_F**0.5),
        "sum for mean": scaled(lambda c: c.n),
        "spectral for Frobenius norm": swap(grad_theta_F=lambda c: spectral(c.grad_theta)),
        "without the first layer": swap(grad_theta_F=lambda c: other_share(c).sqrt()),
        "away from interpolation": swap(
            side="left",
            hessian_at_targets=lambda c: (
                replace(c, y=c.y + c.normal(*c.y.shape)).hessian_at_targets
            ),
        ),
        "mean over the outputs, as PyTorch's MSELoss": scaled(lambda c: 2 / c.N),
    },
    "4": {
        "spectral norm of J": swap(J_F=lambda c: c.J_2),
        "norm of x squared": swap(norm_x=lambda c: c.norm_x**2),
        "norm of x dropped": swap(norm_x=1.0),
        "sum of entries for the norm of x": swap(norm_x=lambda c: c.x.abs().sum(dim=1)),
        "W's sign": swap(1, W=lambda c: -c.W),
        "J alone": swap(1, W=lambda c: eye(c, len(c.W))),
        "the inequality the wrong way round": turned(2),
    },
    "5": {
        "norm of x not divided by": swap(norm_x=1.0),
        "norm of x multiplied by": swap(1, norm_x=lambda c: 1 / c.norm_x),
        "smallest singular value of W": swap(1, norm_W_2=lambda c: smallest_sigma(c.W)),
        "norm of W dropped": swap(norm_W_F=1.0),
        "the wrong way round": turned(),
        "the spectral line the wrong way round": turned(1),
        "a factor 2 to spare": scaled(2.0, 1),
    },
    "6": {
        "largest input for the smallest": swap(norm_x=lambda c: c.norm_x.max()),
        "mean of the inputs for their minimum": swap(norm_x=lambda c: mean(c.norm_x)),
        "power of the minimum dropped": swap(norm_x=lambda c: c.norm_x ** (1 / c.k)),
        "power of the mean for the mean of powers": swap(grad_W_F=lambda c: mean(c.grad_W_F)),
        "the wrong way round": turned(),
        "all parameters before W": turned(1),
        "sum for mean": scaled(lambda c: c.n),
    },
    "7": {
        "largest input for the smallest": swap(norm_x=lambda c: c.norm_x.max()),
        "power of the minimum dropped": swap(norm_x=lambda c: c.norm_x ** (1 / c.k)),
        "power of W dropped": swap(norm_W_2=lambda c: c.norm_W_2 ** (1 / c.k)),
        "power of the mean for the mean of powers": swap(
            grad_theta_F=lambda c: mean(c.grad_theta_F)
        ),
        "the wrong way round": turned(),
        "a factor 2 to spare": scaled(2.0),
    },
    "8": {
        "the sign": swap(grad_x=lambda c: -c.grad_x),
        "half the slope": scaled(0.5),
        "a slope 5 % too large": scaled(1.05),
        "J in place of W^T J": swap(grad_x=lambda c: c.J @ eye(c, len(c.W))),
        "the mean over samples": swap(grad_x=lambda c: mean(c.grad_x)[None]),
    },
    "9": {
        "as printed, M x M": swap(grad_x=lambda c: eye(c, c.N) @ c.grad_x.mT),
        "standard deviation for variance": swap(
            grad_x=lambda c: c.grad_x / c.grad_x_F[0].sqrt(),
        ),
        "twice the covariance": scaled(2.0),
        "a covariance 5 % too large": scaled(1.05),
        "diagonal only": scaled(lambda c: torch.eye(c.N)),
    },
    "10": {
        "root dropped": swap(1, sigma=lambda c: c.sigma.sqrt()),
        "trace for determinant": swap(1, sigma=lambda c: c.grad_x_F[:, None]),
        "product of the positive singular values": swap(
            1, sigma=lambda c: torch.where(c.sigma > 1e-12 * c.sigma[:, :1], c.sigma, 1.0)
        ),
        "the largest singular value left out": swap(1, sigma=lambda c: c.sigma[:, 1:]),
        "the top three only": swap(1, sigma=lambda c: c.sigma[:, :3]),
    },
    "11": {
        "N^(-N/2) dropped": raised(lambda c: c.N ** (c.N / 2)),
        "N^-N": raised(lambda c: c.N ** (-c.N / 2)),
        "power N for N/2": swap(grad_x_F=lambda c: c.grad_x_F**2 / c.N**0.5),
        "spectral for Frobenius norm": swap(grad_x_F=lambda c: c.grad_x_2),
        "harmonic for arithmetic mean": swap(grad_x_F=harmonic),
        "the wrong way round": turned(),
    },
    "12": {
        "power of n dropped": raised(lambda c: c.n ** -max(c.N / 2 - 1, 0), 1),
        "power N/2 of n": raised(lambda c: c.n ** min(c.N / 2, 1), 1),
        "largest input for the smallest": swap(1, norm_x=lambda c: c.norm_x.max()),
        "1/N not to the power N/2": raised(lambda c: c.N ** (c.N / 2 - 1), 1),
        "power of S dropped": swap(1, sharpness=lambda c: c.N * (c.sharpness / c.N) ** (2 / c.N)),
        "N^(-N/2) dropped from the middle": raised(lambda c: c.N ** (c.N / 2)),
        "the wrong way round": turned(),
        "sharpness before the Jacobians": turned(1),
    },
    "13": {
        "root of S dropped": swap(sharpness=lambda c: c.sharpness**2),
        "power of 1/||x|| dropped": swap(norm_x=lambda c: c.norm_x.sqrt()),
        "mean of ||x|| for the mean of 1/||x||^2": swap(norm_x=lambda c: mean(c.norm_x)),
        "largest ||x|| for the mean": swap(norm_x=lambda c: c.norm_x.max()),
        "smallest ||x|| for the mean": swap(norm_x=lambda c: c.norm_x.min()),
        "norm of W dropped": swap(norm_W_2=1.0),
        "without the first layer's share of S": swap(sharpness=lambda c: mean(other_share(c))),
        "the wrong way round": turned(),
    },
    "14": {
        "singular values for eigenvalues": swap(sigma=lambda c: c.sigma.sqrt()),
        "square dropped": scaled(lambda c: c.D_PR**-0.5),
        "stable rank": scaled(lambda c: (c.grad_x_F[0] / c.grad_x_2[0]) ** 2 / c.D_PR[0], 3),
        "not scale-free": scaled(lambda c: 1 / c.grad_x_F**2),
        "at most 1": turned(1),
        "at least the rank": turned(2),
    },
    "15": {
        "the residual term dropped": swap(residual=0.0),
        "the residual term's sign": swap(residual=lambda c: -c.residual),
        "the residual term's mean not taken": swap(residual=lambda c: c.n * c.residual),
        "gap of second order": scaled(0.5, 1),
        "gap of order zero": scaled(2.0, 1),
    },
    "16": {
        "the printed constant, without m": scaled(lambda c: 1 / len(c.theta), 1),
        "the wrong way round": turned(1),
        "loosened by n + 1": scaled(lambda c: c.n + 1, 1),
        "number of outputs for number of parameters": scaled(lambda c: c.N / len(c.theta), 1),
        "epsilon squared": scaled(epsilon, 1),
        "smallest residual for the largest": swap(1, residual=residual_part),
    },
    "17": {
        "largest input for the smallest": swap(1, norm_x=lambda c: c.norm_x.max()),
        "power of the inputs dropped": swap(norm_x=lambda c: c.norm_x ** (1 / c.k)),
        "norm of W not to the power k": swap(norm_W_F=lambda c: c.norm_W_F ** (1 / c.k)),
        "power of the mean for the mean of powers": swap(
            grad_W_F=lambda c: c.norm_x * mean(c.grad_W_F / c.norm_x)
        ),
        "the wrong way round": turned(),
        "the second step the wrong way round": turned(1),
    },
    "18": {
        "the wrong way round": turned(),
        "means of squares on the right": swap(grad_theta_F=lambda c: c.grad_theta_F ** (2 / c.k)),
        "all parameters but W": swap(grad_theta_F=lambda c: other_share(c).sqrt()),
        "sum for mean": scaled(lambda c: c.n),
        "power k dropped": swap(grad_theta_F=lambda c: c.grad_theta_F ** (1 / c.k)),
    },
    "19": {
        "the wrong way round": turned(1),
        "the mean for the sum": scaled(lambda c: c.n ** (-1 / c.p), 1),
        "power 1/q for 1/p": swap(1, v=lambda c: only(powers(c, c.p) ** (1 / c.q))),
        "root dropped on the right": swap(1, v=lambda c: only(powers(c, c.p))),
        "absolute values dropped": swap(
            2, v=lambda c: only((c.v.sign() * c.v.abs() ** c.p).sum().abs() ** (1 / c.p))
        ),
        "exponents not cancelled": swap(v=lambda c: only(powers(c, c.q) ** (c.p / c.q))),
    },
    "20": {
        "the wrong way round": turned(),
        "mean for sum on the right": scaled(lambda c: 1 / c.n),
        "n to spare": scaled(lambda c: c.n),
        "the root k/2 dropped": swap(
            side="left", grad_theta_F=lambda c: only((c.grad_theta_F**c.k_high).sum().sqrt())
        ),
        "k below 2": swap(side="both", k_high=lambda c: c.k_low),
        "norms for squared norms": swap(grad_theta_F=lambda c: c.grad_theta_F.sqrt()),
    },
    "21": {
        "power of n dropped": raised(lambda c: c.n ** (1 - c.k_high / 2)),
        "power k/2 of n": raised(lambda c: c.n),
        "power of S dropped": swap(sharpness=lambda c: c.sharpness ** (2 / c.k_high)),
        "power k for k/2": swap(sharpness=lambda c: c.sharpness**2),
        "mean squares 5 % too large": raised(1.05, 1),
        "the wrong way round": turned(),
    },
    "22": {
        "power of n dropped": scaled(lambda c: c.n ** (c.p / c.q - 1)),
        "n to the power 1": scaled(lambda c: c.n ** (c.p / c.q)),
        "power p/q dropped": swap(v=lambda c: only(powers(c, c.q) ** (1 / c.p))),
        "q/p for p/q": swap(v=lambda c: only(powers(c, c.q) ** (c.q / c.p**2))),
        "the wrong way round": turned(),
        "p-th power of the norm dropped": swap(1, v=lambda c: only(norm(c.v, c.q) ** (1 / c.p))),
    },
    "23": {
        "power of n dropped": scaled(lambda c: c.n ** (1 / 2 - 1 / c.k_low)),
        "power 1/k of n": scaled(lambda c: c.n**0.5),
        "n for its power": scaled(lambda c: c.n ** (3 / 2 - 1 / c.k_low)),
        "root on the left dropped": swap(
            side="left", grad_theta_F=lambda c: only((c.grad_theta_F**c.k_low).sum())
        ),
        "the wrong way round": turned(),
    },
    "24": {
        "power of n dropped": raised(lambda c: c.n ** (c.k_low / 2 - 1)),
        "division by n dropped": raised(lambda c: c.n),
        "power k for k/2": swap(sharpness=lambda c: c.sharpness**2),
        "n left over": raised(lambda c: c.n ** (1 - c.k_low / 2)),
        "mean squares 5 % too large": raised(1.05, 1),
        "the wrong way round": turned(),
    },
    "25": {
        "largest ||x|| for each": swap(norm_x=lambda c: c.norm_x.max()),
        "smallest ||x|| for each": swap(norm_x=lambda c: c.norm_x.min()),
        "norm of x squared": swap(norm_x=lambda c: c.norm_x**2),
        "norm of W dropped": swap(norm_W_2=1.0),
        "smallest singular value of W": swap(norm_W_2=lambda c: smallest_sigma(c.W)),
        "the wrong way round": turned(),
    },
    "26": {
        "square on the left dropped": swap(
            side="left", grad_W_F=lambda c: c.norm_x * (c.grad_W_F / c.norm_x).sum().sqrt() / c.n
        ),
        "means for sums on the right": scaled(lambda c: c.n**-2),
        "one mean for a sum": scaled(lambda c: 1 / c.n),
        "inverse of the sum for the sum of inverses": swap(norm_x=lambda c: rms(c.norm_x)),
        "sum of the ratios' squares": swap(
            norm_x=lambda c: c.n**0.5, grad_W_F=lambda c: c.grad_W_F / c.norm_x
        ),
        "the wrong way round": turned(),
    },
    "27": {
        "C' for C, which is no upper bound of D": swap(
            1, "left", norm_x=1.0, grad_W_F=lambda c: c.grad_W_F / c.norm_x
        ),
        "sum for mean under the second root": scaled(lambda c: c.n**0.5),
        "norm of W dropped": swap(norm_W_2=1.0),
        "root of the norms dropped": swap(grad_W_F=lambda c: c.grad_W_F * rms(c.grad_W_F)),
        "A and C the wrong way round": turned(),
        "C and D the wrong way round": turned(1),
    },
    "28": {
        "B and C swapped": turned(1),
        "C and D swapped": turned(2),
        "A and B swapped": turned(),
        "B with the mean norm of x": swap(norm_x=lambda c: mean(c.norm_x)),
        "C with the root mean square of x": swap(1, norm_x=lambda c: rms(c.norm_x)),
        "D without the root of S": swap(2, sharpness=lambda c: c.sharpness**2),
        "D without W's own share of S": swap(
            2, sharpness=lambda c: (c.S - mean(c.grad_W_F**2)).clamp(min=0)
        ),
    },
    "A.1": {
        "the printed constant, without m": scaled(lambda c: 1 / len(c.theta), 1),
        "the wrong way round": turned(1),
        "no gap at all": swap(residual=0.0),
        "root of the number of parameters": scaled(lambda c: len(c.theta) ** -0.5, 1),
        "a factor 2 to spare": scaled(2.0, 1),
    },
    "B.1": {
        "the wrong way round": turned(),
        "means for sums": scaled(lambda c: c.n ** (-1 / c.p)),
        "n to spare": scaled(lambda c: c.n),
        "root dropped on the left": swap(
            side="left", v=lambda c: only(norm(c.v, c.q) ** min(c.q, 20))
        ),
        "root dropped on the right": swap(v=lambda c: only(norm(c.v, c.p) ** c.p)),
        "absolute values dropped": swap(v=lambda c: only(c.v.sum())),
    },
    "B.2": {
        "power of n dropped": scaled(lambda c: c.n ** (1 / c.q - 1 / c.p)),
        "power 1/p of n": scaled(lambda c: c.n ** (1 / c.q + 0.01)),
        "power 1/q - 1/p of n": scaled(lambda c: c.n ** (2 / c.q - 2 / c.p)),
        "half the power of n": scaled(lambda c: c.n ** ((1 / c.q - 1 / c.p) / 2)),
        "the wrong way round": turned(),
    },
    "N.1": {
        "mean over samples and outputs": scaled(lambda c: 1 / c.N),
        "sum for mean": scaled(lambda c: c.n, 1),
        "all of the kernel for its trace": scaled(
            lambda c: tangent_kernel(c).sum() / tangent_kernel(c).trace()
        ),
        "largest eigenvalue for the trace": scaled(
            lambda c: eigvalsh(tangent_kernel(c))[-1] / tangent_kernel(c).trace(), 1
        ),
        "Frobenius norm for the trace": scaled(
            lambda c: tangent_kernel(c).norm() / tangent_kernel(c).trace()
        ),
    },
    "N.2": {
        "spectral norm of J as well": swap(J_F=lambda c: c.J_2),
        "Frobenius norm of W, which is looser": swap(norm_W_2=lambda c: c.norm_W_F),
        "smallest singular value of W": swap(norm_W_2=lambda c: smallest_sigma(c.W)),
        "norm of W dropped": swap(1, norm_W_2=1.0),
        "the wrong way round": turned(),
        "n dropped from the last": scaled(lambda c: c.n ** -max(c.N / 2 - 1, 0), 3),
    },
    "N.3": {
        "N dropped under the logarithm": swap(norm_W_2=lambda c: c.norm_W_2 * c.N**0.5),
        "N/2 dropped": scaled(lambda c: 2 / c.N),
        "largest input for the smallest": swap(1, norm_x=lambda c: c.norm_x.max()),
        "root of the mean dropped": swap(
            grad_W_energy=lambda c: c.grad_W_F, norm_x=lambda c: c.norm_x.sqrt()
        ),
        "Frobenius norm of W": swap(norm_W_2=lambda c: c.norm_W_F),
        "the wrong way round": turned(),
        "S before W's share": turned(1),
    },
    "N.4": {
        "C for C', whose equality is another": swap(1, grad_W_F=lambda c: rms(c.grad_W_F)),
        "root dropped": swap(1, norm_W_2=lambda c: c.norm_W_2 * C_prime(c)),
        "norm of x not squared": swap(1, norm_x=lambda c: c.norm_x.sqrt()),
        "smallest ratio for the root mean": swap(
            1, grad_W_F=lambda c: c.norm_x * (c.grad_W_F / c.norm_x).min()
        ),
        "largest ratio for the root mean, in front of A": swap(
            side="left", grad_x_2=lambda c: c.norm_W_2 * (c.grad_W_F / c.norm_x).max()
        ),
        "the wrong way round": turned(1),
    },
    "N.5": {
        "D_PR squared": scaled(lambda c: c.D_PR),
        "D_PR dropped": scaled(lambda c: 1 / c.D_PR),
        "root of D_PR": scaled(lambda c: c.D_PR**-0.5),
        "smallest singular value": swap(grad_x_2=lambda c: c.sigma[:, -1]),
        "mean of the squared singular values": scaled(lambda c: 1 / c.N, 1),
        "the wrong way round": turned(),
        "a factor 2 to spare": scaled(2.0, 1),
    },
    "N.6": {
        "spectral norm of the reshaped weights": swap(1, norm_T_W=lambda c: matrix_norm(c.W, 2)),
        "Frobenius norm of T_W": swap(1, norm_T_W=lambda c: c.T_W.norm()),
        "norm of T_W dropped": swap(1, norm_T_W=1.0),
        "delta summed over the positions": swap(1, delta_F=lambda c: frobenius(c.delta.sum(dim=3))),
        "the sign of delta": swap(delta=lambda c: -c.delta),
        "the wrong way round": turned(1),
    },
    "N.7": {
        "shared for untied weights": swap(1, untied_F=lambda c: c.grad_W_F),
        "shared weights in the identity": swap(side="left", untied_F=lambda c: c.grad_W_F),
        "largest patch for the smallest": swap(1, smallest_patch=lambda c: c.norm_X.amax(dim=1)),
        "the whole image for the patches": swap(1, smallest_patch=lambda c: frobenius(c.x)),
        "product of the sums": swap(norm_X=lambda c: c.norm_X.norm(dim=1, keepdim=True)),
        "norm of the patch not squared": swap(norm_X=lambda c: c.norm_X.sqrt()),
        "the wrong way round": turned(1),
    },
    "N.8": {
        "largest singular value of X": swap(1, smallest_sigma=lambda c: svdvals(c.X)[:, 0]),
        "smallest patch for the singular value": swap(1, smallest_sigma=lambda c: c.smallest_patch),
        "singular value squared": swap(1, smallest_sigma=lambda c: c.smallest_sigma**2),
        "untied for shared weights": swap(1, grad_W_F=lambda c: c.untied_F),
        "one position only": swap(delta=lambda c: c.delta[..., :1], X=lambda c: c.X[:, :1]),
        "the wrong way round": turned(1),
        "a factor 2 to spare": scaled(2.0, 1),
    },
    "N.9": {
        "the first layer alone on the right": swap(layers=lambda c: c.layers[:1]),
        "the last layer missing on the right": swap(
            layers=lambda c: [*c.layers[:-1], Swapped(c.layers[-1], {"norm_W_2": 0.0})]
        ),
        "the network's input for every layer's": swap(
            layers=lambda c: [Swapped(layer, {"norm_x": c.norm_x}) for layer in c.layers]
        ),
        "ratios not squared": in_layers(
            norm_W_2=lambda layer: layer.norm_W_2.sqrt(), norm_x=lambda layer: layer.norm_x.sqrt()
        ),
        "the number of layers to spare": scaled(lambda c: len(c.layers) + 1),
        "the wrong way round": turned(),
    },
    "N.10": {
        "power of n dropped": raised(lambda c: c.n ** (1.0 - c.N)),
        "power N/2-1 of n, as in (12)": raised(lambda c: c.n ** (max(c.N / 2 - 1, 0) - c.N + 1.0)),
        "N dropped under the power": raised(lambda c: c.N ** (c.N / 2)),
        "power N/2 dropped": raised(
            lambda c: (weight_shares(c) * c.sharpness / c.N) ** (1 - c.N / 2)
        ),
        "the first layer alone on the right": swap(layers=lambda c: c.layers[:1]),
        "the wrong way round": turned(),
    },
    "N.11": {
        "norm of x squared": in_layers(norm_x=lambda layer: layer.norm_x**2),
        "norm of W dropped": in_layers(norm_W_2=1.0),
        "the first layer's W everywhere": swap(
            layers=lambda c: [Swapped(layer, {"norm_W_2": c.norm_W_2}) for layer in c.layers]
        ),
        "the layer before": swap(layers=lambda c: [*c.layers[-1:], *c.layers[:-1]]),
        "the wrong way round": turned(),
        "a factor 2 to spare": scaled(2.0),
    },
    "N.12": {
        "number of layers dropped": scaled(lambda c: len(c.layers) ** -0.5),
        "root of the number of layers to spare": scaled(lambda c: len(c.layers) ** 0.5),
        "products not squared": in_layers(
            norm_W_2=lambda layer: layer.norm_W_2.sqrt(),
            grad_W_F=lambda layer: layer.grad_W_F.sqrt(),
        ),
        "norms of W dropped": in_layers(norm_W_2=1.0),
        "the first layer alone": swap(layers=lambda c: c.layers[:1]),
        "the wrong way round": turned(),
    },
    "N.13": {
        "the half dropped": scaled(2.0),
        "theta dropped": swap(theta=1.0),
        "norm of theta for its entries": swap(theta=lambda c: c.theta.norm()),
        "theta not squared": swap(theta=lambda c: c.theta.abs().sqrt()),
        "inner product for the elementwise one": swap(theta=1.0, grad_theta=along_theta),
        "a rise twice as large": scaled(2.0, 1),
        "a rise 5 % too large": scaled(1.05, 1),
    },
    "N.14": {
        "H dropped": scaled(lambda c: 1 / len(c.W)),
        "root of H": scaled(lambda c: len(c.W) ** -0.5),
        "input dimension for H": scaled(lambda c: c.W.shape[1] / c.W.shape[0]),
        "number of outputs for H": scaled(lambda c: c.N / len(c.W)),
        "x dropped": swap(side="left", x=1.0),
        "W dropped": swap(W=1.0),
        "the wrong way round": turned(),
    },
}
