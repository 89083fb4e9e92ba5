"""Exercises on convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flatlib import measure
from flatlib.lab.exercises.exercise import FROM_1_TO_9, Exercise, each, once, power, times


def _cases(seed: int, m: int) -> list[tuple]:
    c, pixels = torch.randn(2, 4, generator=torch.Generator().manual_seed(seed)).double()
    return [(c, pixels), (c.abs(), pixels), (c, pixels + 1)]


def _ratio(c: Tensor, x: Tensor, m: int) -> float:
    """By autograd, at a weight of 0.7."""
    w, pixels = torch.tensor(0.7).double().requires_grad_(), x.clone().requires_grad_()
    by_x, by_w = torch.autograd.grad((c * w**m * pixels).sum(), (pixels, w))
    return float(by_x.norm() * x.norm() / (len(x) ** 0.5 * w.detach() * by_w.abs()))


def _ratio_says(m: int) -> tuple[str, ...]:
    w, fewer, one = power(m, "w"), power(m - 1, "w"), m == 1
    product = rf"{times(m)}\sqrt P"
    return (
        rf"c_p\,{w}\,x_p$",
        f"a weight $w$, {'' if one else f'that {m} such layers in a row share, '}and a readout",
        rf"$\nabla_xf={w}\,c$ and $\nabla_wf={'' if one else rf'{m}{fewer}'}c^\top x$",
        rf"/({product}\,\lvert c",
        f"product of ${product}$",
        f"never below $1/{product if one else f'({product})'}$",
        f"1 / ({'' if one else f'{m} * '}math.sqrt(len(c))",
        f"is {'' if one else f'{m} {fewer} times '}an inner product",
        f"gradient by x is {w} c",
    )


def _quotient(patches: int | None) -> float:
    """Of the spectral norms, or of the Frobenius norms for a number of patches."""
    if patches is None:
        convolution = nn.Conv2d(1, 3, 2, stride=2)
        disjoint = nn.Sequential(convolution, nn.Flatten(), nn.Linear(12, 1)).double()
        first = measure(disjoint, torch.ones(1, 1, 4, 4)).layers[0]
        return first.operator_norm / first.weight_norm
    convolution = nn.Conv2d(1, 3, 2, stride=2).double()
    row = torch.zeros(1, 1, 2, 2 * patches).double()
    T = torch.autograd.functional.jacobian(convolution, row)
    return float(T.norm() / convolution.weight.detach().norm())


def _quotient_says(patches: int | None) -> tuple[str, ...]:
    if patches is None:
        return (
            "cuts the image into $P$ disjoint patches",
            "with $P$ copies",
            r"$\lVert T_W\rVert_2/\lVert W\rVert_2$",
            "are those of its blocks, so the quotient is 1.",
            "lambda: 1.0",
            "and every block here is W",
        )
    return (
        f"cuts an image into {patches} disjoint patches",
        f"with {patches} copies",
        r"$\lVert T_W\rVert_F/\lVert W\rVert_F$",
        f"are those of its blocks, so each value of $W$ stands {patches} times and the quotient is "
        rf"$\sqrt{patches}$.",
        f"lambda: math.sqrt({patches})",
        f"and every one of the {patches} blocks is W; the Frobenius norm is the root of the sum of "
        "squared singular values",
    )


EXERCISES = (
    Exercise(
        "convolution-1x1",
        stars=2,
        minutes=15,
        hints=(
            "the gradient by w is an inner product of c and x",
            "the gradient by x is w c, so w cancels from the ratio",
        ),
        asked=each(_cases, _ratio),
        numbers=FROM_1_TO_9,
        says=_ratio_says,
    ),
    Exercise(
        "convolution-stride",
        stars=1,
        minutes=10,
        hints=(
            "which singular values does a block-diagonal matrix have?",
            "those of its blocks, and every block here is W",
        ),
        asked=once(_quotient),
        numbers=((None,), *((patches,) for patches in range(2, 10))),
        says=_quotient_says,
    ),
)
