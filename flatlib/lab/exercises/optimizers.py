"""Exercises on optimizers."""

from __future__ import annotations

from itertools import count

import numpy as np
from scipy import stats

from flatlib.lab.exercises.exercise import COUNTS, FROM_1_TO_9, Exercise, between, each, times


def _worst(r: float, g: list[float], rho: float, k: int) -> float:
    """The largest over the two ends that the output reaches within the distance."""
    reach = k * rho * float(np.sqrt(np.sum(np.square(g))))
    return max((r + reach) ** 2, (r - reach) ** 2) / 2


def _worst_says(k: int) -> tuple[str, ...]:
    rho = rf"{times(k)}\rho"
    return (
        rf"$\lVert\varepsilon\rVert_2\le{rho}$",
        rf"between $-{rho}\lVert g\rVert_2$ and ${rho}\lVert g\rVert_2$",
        f"(abs(r) + {'' if k == 1 else f'{k} * '}rho * math",
    )


def _factor(w1: float, w2: float, eta: float, rho: float, target: int) -> float:
    """By one step, where the imbalance is not 0; where it is, from the limit of steps beside it."""
    if w1 == w2:
        return sum(_factor(w1 + step, w2, eta, rho, target) for step in (1e-4, -1e-4)) / 2
    w = np.array([w1, w2])
    uphill = (w1 * w2 - target) * w[::-1]
    end = w + rho * uphill / np.linalg.norm(uphill)
    after = w - eta * (end.prod() - target) * end[::-1]
    return float((after[0] ** 2 - after[1] ** 2) / (w1**2 - w2**2))


def _factor_says(target: int) -> tuple[str, ...]:
    return f"the residual $r=w_1w_2-{target}>0$", f"w1 * w2 - {target} + rho"


def _seeds(alpha: float, m: int, spared: int) -> int:
    """From the distribution of the number of seeds in which the optimizer is worse."""
    return next(n for n in count(1) if 2 * stats.binom.cdf(spared, n, 0.5) < alpha / m)


def _seeds_say(spared: int) -> tuple[str, ...]:
    if spared == 0:
        return (
            "in each of $n$ seeds",
            "$2^{-n}$",
            r"The condition is $2^{1-n}<\alpha/m$, that is $n>1+\log_2(m/\alpha)$.",
            "while 2.0 ** (1 - n) >=",
            "that all n signs are the same, whichever",
            "all better or all worse has the probability 2 times 2^-n,",
        )
    but = f"but for at most {COUNTS[spared]}"
    return (
        f"in each of $n$ seeds {but}",
        rf"$2^{{-n}}\sum_{{i\le{spared}}}\binom ni$",
        rf"The condition is $2^{{1-n}}\sum_{{i\le{spared}}}\binom ni<\alpha/m$, and the numbers "
        "$n$ are tried one after the other.",
        f"while 2.0 ** (1 - n) * sum(math.comb(n, i) for i in range({spared + 1})) >=",
        f"that all n signs {but} are the same, whichever",
        f"all better or all worse {but} has the probability 2 times 2^-n times the number of ways "
        f"to choose at most {COUNTS[spared]} of n seeds,",
    )


def _samples(seed: int, k: int) -> list[tuple]:
    """Residuals of either sign and 0."""
    random = np.random.default_rng(seed)
    residuals = (random.uniform(0.1, 1), -random.uniform(0.1, 1), 0.0)
    return [(r, random.normal(size=3).tolist(), random.uniform(0.05, 0.5)) for r in residuals]


def _steps(seed: int, target: int) -> list[tuple]:
    """Of either imbalance, and of none, each with a positive residual."""
    random = np.random.default_rng(seed)
    low, high, same = random.uniform((0.5, 2.1, 1.05), (0.7, 2.6, 1.4)) * target**0.5
    pairs = ((high, low), (low, high), (same, same))
    return [(*pair, random.uniform(0.02, 0.1), random.uniform(0.05, 0.2)) for pair in pairs]


EXERCISES = (
    Exercise(
        "optim-worst",
        stars=1,
        minutes=10,
        hints=(
            "between which two values does g times epsilon lie, by the Cauchy-Schwarz inequality?",
            "the square is largest where r + g times epsilon is farthest from 0: which of the two "
            "values has the sign of r?",
        ),
        asked=each(_samples, _worst),
        numbers=FROM_1_TO_9,
        says=_worst_says,
    ),
    Exercise(
        "optim-imbalance",
        stars=3,
        minutes=20,
        hints=(
            "write the walk as w plus rho (w_2, w_1) over the root of S, and find the residual "
            "at its end",
            "in the new imbalance both the term in eta and that in eta squared are multiples of "
            "the old imbalance",
        ),
        asked=each(_steps, _factor),
        tolerance=1e-6,
        numbers=FROM_1_TO_9,
        says=_factor_says,
    ),
    Exercise(
        "optim-seeds",
        stars=2,
        minutes=10,
        hints=(
            "how likely is it that all n signs are the same, whichever it is?",
            "all better or all worse has the probability 2 times 2^-n, and this has to be below "
            "alpha / m",
        ),
        asked=each(lambda seed, spared: between((0.01, 0.1), (1, 30))(seed), _seeds),
        numbers=tuple((spared,) for spared in range(9)),
        says=_seeds_say,
    ),
)
