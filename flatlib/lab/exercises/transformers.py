"""Exercises on transformers."""

from __future__ import annotations

import numpy as np

from flatlib.lab.exercises.exercise import FROM_1_TO_9, Exercise, each, grouped, power


def _ratio(a: list[float], x: list[float], m: int) -> float:
    """From the two gradients at the weight 3, the one by the weight a difference quotient."""
    w, step = 3.0, 1e-5
    by_tokens = w**m * np.array(a)
    by_weight = float(np.dot(a, x)) * ((w + step) ** m - (w - step) ** m) / (2 * step)
    sides = np.linalg.norm(x) * np.linalg.norm(by_tokens), abs(w * by_weight)
    return float(sides[0] / sides[1])


def _ratio_says(m: int) -> tuple[str, ...]:
    w, one = power(m, "w"), m == 1
    by_weight = "" if one else rf"{m}{power(m - 1, 'w')}\,"
    product = r"|a\cdot x|" if one else rf"({m}|a\cdot x|)"
    return (
        f"{'reads' if one else f'is applied {m} times in a row to'} the tokens",
        rf"$f=\sum_ta_t{w}x_t$",
        f"the tokens is ${w}a$, and",
        rf"the weight is ${by_weight}a\cdot x$.",
        rf"\lVert a\rVert_2/{product}$.",
        f"is at least {'1' if one else f'$1/{m}$'}, while",
        f"/ abs({'' if one else f'{m} * '}dot)",
        "the weight stands on both sides; what is left"
        if one
        else f"w to the power {m} stands on both sides, below with the factor {m}; what else is "
        "left",
    )


def _quotient(sigma: list[float], c: list[float], m: int) -> float:
    """By a rotated diagonal matrix."""
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(len(c), len(c))))[0]
    delta = turn @ c
    moved = np.linalg.matrix_power(turn @ np.diag(sigma) @ turn.T, m) @ delta
    return float(np.linalg.norm(moved) / np.linalg.norm(delta))


def _quotient_says(m: int) -> tuple[str, ...]:
    own = (
        rf"by $c_k{_sigma(m)}$ along",
        rf"$\sqrt{{\sum_kc_k^2{_sigma(2 * m)}}}/\sqrt",
        "(s * k for" if m == 1 else f"(s**{m} * k for",
        "of sigma_k c_k and" if m == 1 else f"of sigma_k^{m} c_k and",
    )
    if m == 1:
        return (
            *own,
            r"A linear network has the singular values $\sigma_1\ge\dots\ge\sigma_N$.",
            r"the left singular vector $u_k$, so",
            r"at most $\sigma_1$, and",
        )
    return (
        *own,
        f"A linear network multiplies its input {m} times by one symmetric matrix, which has the "
        r"singular values $\sigma_1\ge\dots\ge\sigma_N$.",
        r"$v_k$ or $-v_k$, so",
        rf"at most $\sigma_1^{m}$, and",
    )


def _sigma(p: int) -> str:
    """A power of a singular value, as TeX."""
    return r"\sigma_k" if p == 1 else rf"\sigma_k^{grouped(p)}"


def _lists(seed: int, m: int) -> list[tuple]:
    random = np.random.default_rng(seed)
    return [(random.normal(size=k).tolist(), random.normal(size=k).tolist()) for k in (1, 2, 4)]


def _values(seed: int, m: int) -> list[tuple]:
    """Singular values, descending, and coefficients."""
    random = np.random.default_rng(seed)
    sizes = [np.sort(random.uniform(0.2, 4.0, size=k))[::-1].tolist() for k in (1, 2, 4)]
    return [(sigma, random.normal(size=len(sigma)).tolist()) for sigma in sizes]


EXERCISES = (
    Exercise(
        "vit-tokens",
        stars=2,
        minutes=10,
        hints=(
            "the gradient with respect to the tokens has one entry a token, and that with respect "
            "to the weight is one number",
            "the weight stands on both sides; what is left is what the Cauchy-Schwarz inequality "
            "compares",
        ),
        asked=each(_lists, _ratio),
        numbers=FROM_1_TO_9,
        says=_ratio_says,
    ),
    Exercise(
        "vit-quotient",
        stars=1,
        minutes=10,
        hints=(
            "write the output's change in the left singular vectors",
            "both norms are roots of sums of squares, of sigma_k c_k and of c_k",
        ),
        asked=each(_values, _quotient),
        numbers=FROM_1_TO_9,
        says=_quotient_says,
    ),
)
