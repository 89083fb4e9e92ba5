"""Sentences about archived runs: what the paper says, what the runs say, whether they agree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from flatlib import statistics
from flatlib.archive import Runs, label

FITTED = 0.999  # training accuracy from which on a run counts as having fitted its data
DECISIVE = 3  # runs or seeds, fewer decide nothing
WORDS = {
    "root_sharpness": "√S",
    "log_volume": "log volume",
    "log_volume_top3": "log volume of the largest 3",
    "gradient_energy": "G",
    "local_dimensionality": "local dimensionality",
    "mls": "MLS",
    "test_loss": "test loss",
}
VERDICTS = {True: "as the paper says", False: "against the paper", None: "not decided"}


@dataclass(frozen=True)
class Finding:
    """What runs say on one claim."""

    sentence: str  # with its numbers
    agrees: bool | None  # with the paper; None if the runs are divided or too few

    def __str__(self) -> str:
        return f"{self.sentence} [{VERDICTS[self.agrees]}]"


def _verdict(agreeing: int, runs: int) -> bool | None:
    """Yes if all agree, no if none does, of at least `DECISIVE` runs.

    >>> _verdict(3, 3), _verdict(0, 3), _verdict(2, 3), _verdict(2, 2)
    (True, False, None, None)
    """
    if runs < DECISIVE or 0 < agreeing < runs:
        return None
    return agreeing == runs


def fit_steps(runs: Runs) -> pd.Series:
    """The checkpoint at which each run first has training accuracy `FITTED`; NaN if it never had.

    Returns:
        Steps by run.
    """
    table = runs.on("train")
    fitted = table[table["train_accuracy"] >= FITTED].groupby("run")["step"].min()
    return fitted.reindex(table["run"].unique())


def how_far(runs: Runs) -> str:
    """How near to interpolation the runs are, in a sentence."""
    last, fitted = runs.last, fit_steps(runs)
    gap = (last["hessian_gap"] / last["sharpness"]).abs().max()
    return (
        f"{int(fitted.notna().sum())} of {len(last)} runs have reached training accuracy {FITTED}; "
        f"at the end the train loss is {last['train_loss'].min():.1e} to "
        f"{last['train_loss'].max():.1e}, and Eq. (3) differs from the Hessian's trace by at most "
        f"{100 * gap:.2g} % of itself."
    )


def after_fit(runs: Runs, column: str, expected: str, samples: str = "train") -> Finding:
    """How a quantity moves from the checkpoint where the data are fitted to the last one.

    Args:
        runs: archived runs.
        column: of their table.
        expected: ``"falls"`` or ``"rises"``, the paper's claim.
        samples: measured on which.

    Returns:
        `Finding`: agrees if every run that has fitted its data moves as expected.

    Raises:
        ValueError: another expectation.
    """
    if expected not in ("falls", "rises"):
        raise ValueError(f"expected must be 'falls' or 'rises', got {expected!r}")
    fitted, words, agreeing, counted = fit_steps(runs), [], 0, 0
    table = runs.on(samples).dropna(subset=[column]).sort_values("step")
    for (lr, batch_size), own in table.groupby(["lr", "batch_size"]):
        start = own["run"].map(fitted)
        own = own[own["step"] >= start]
        ends = own.groupby("run")[column].agg(["first", "last", "size"])
        ends = ends[ends["size"] > 1]
        if ends.empty:
            words.append(f"{label((lr, batch_size))}: no run long enough")
            continue
        moved = ends["last"] - ends["first"]
        right = int((moved < 0).sum() if expected == "falls" else (moved > 0).sum())
        agreeing, counted = agreeing + right, counted + len(ends)
        words.append(
            f"{label((lr, batch_size))}: from {ends['first'].mean():.3g} to "
            f"{ends['last'].mean():.3g}, {expected} in {right} of {len(ends)}"
        )
    sentence = f"{WORDS[column]} on {samples} samples once fitted: " + "; ".join(words) + "."
    return Finding(sentence, _verdict(agreeing, counted))


def order(runs: Runs, column: str, settings: Sequence[tuple[float, int]]) -> Finding:
    """Whether a quantity falls from one setting to the next, seed by seed, at one step.

    Args:
        runs: archived runs.
        column: of their table.
        settings: ``(lr, batch_size)``, from the largest value of the quantity to the least as
            the paper claims.

    Returns:
        `Finding` on the seeds that have all settings that are archived; undecided while one of
        their runs has not fitted its data, since the paper's claims begin there.
    """
    rows, step, _ = runs.at_one_step()
    rows = rows.assign(setting=list(zip(rows["lr"], rows["batch_size"], strict=True)))
    there = [setting for setting in settings if setting in set(rows["setting"])]
    absent = [label(setting) for setting in settings if setting not in there]
    gone = f" None long enough: {'; '.join(absent)}." if absent else ""
    wide = rows.pivot(index="seed", columns="setting", values=column)
    means = "; ".join(f"{label(setting)}: {wide[[setting]].mean().item():.3g}" for setting in there)
    sentence = f"{WORDS[column]} at step {step:,}: {means}."
    wide = wide[there].dropna()
    if len(there) < 2 or wide.empty:
        return Finding(f"{sentence}{gone} Nothing to compare.", None)
    falls = int((np.diff(wide.to_numpy(), axis=1) < 0).all(axis=1).sum())
    change = statistics.paired_difference(wide[there[0]], wide[there[-1]])
    known = not math.isnan(change.low)
    interval = f" (95 % interval {change.low:.3g} to {change.high:.3g})" if known else ""
    compared = rows[rows["setting"].isin(there) & rows["seed"].isin(wide.index)]
    short = int((~(compared["run"].map(fit_steps(runs)) <= step)).sum())
    unfitted = (
        f" Of the {len(compared)} runs {short} had not fitted their data, which the claim asks for."
        if short
        else ""
    )
    return Finding(
        f"{sentence}{gone} It falls in this order in {falls} of {len(wide)} seeds; "
        f"last minus first {change.value:.3g}{interval}.{unfitted}",
        None if short else _verdict(falls, len(wide)),
    )


def higher_on_misclassified(runs: Runs, column: str) -> Finding:
    """Whether misclassified test samples have more of a quantity than all test samples.

    Args:
        runs: archived runs.
        column: of their table.

    Returns:
        `Finding` at each run's last checkpoint with a misclassified sample.
    """
    sides = runs.table.set_index(["run", "step"])
    wrong = sides[(sides["samples"] == "misclassified") & (sides["n"] > 0)]
    if wrong.empty:
        return Finding(f"{WORDS[column]}: no test sample was misclassified.", None)
    last = wrong.groupby("run").tail(1)
    everyone = sides[sides["samples"] == "test"].loc[last.index, column]
    higher = int((last[column] > everyone).sum())
    sentence = (
        f"{WORDS[column]}, misclassified against all test samples, at the last checkpoint with any "
        f"({int(last['n'].min())} or more): "
        f"{last[column].mean():.3g} against {everyone.mean():.3g}; higher in {higher} of "
        f"{len(last)} runs."
    )
    return Finding(sentence, _verdict(higher, len(last)))


def correlated(numbers: pd.DataFrame, first: str, second: str, sign: int) -> Finding:
    """Whether two quantities correlate over networks with the paper's sign.

    Args:
        numbers: of a figure made by `flatlib.figures.archived.correlations`.
        first: a column's name.
        second: another's.
        sign: 1 or -1, the paper's.

    Returns:
        `Finding`: decided only if the 95 % interval excludes 0.

    Raises:
        ValueError: a pair that the figure does not have.
    """
    pair = numbers[
        ((numbers["first"] == first) & (numbers["second"] == second))
        | ((numbers["first"] == second) & (numbers["second"] == first))
    ]
    if pair.empty:
        raise ValueError(f"the figure has no pair {first!r} and {second!r}")
    rho, low, high, n = (pair.iloc[0][name] for name in ("rho", "low", "high", "n"))
    name = " with ".join(WORDS.get(column, f"bound {column}") for column in (first, second))
    if math.isnan(low):
        return Finding(f"{name}: {int(n)} networks are too few for an interval.", None)
    agrees = sign * rho > 0 if low > 0 or high < 0 else None
    sentence = f"{name}: correlation {rho:.2f} ({low:.2f} to {high:.2f}) over {int(n)} networks."
    return Finding(sentence, None if agrees is None else bool(agrees))


def largest_gap(runs: Runs) -> Finding:
    """Which step of the chain A to D is the largest, at each run's end; the paper's is C to D."""
    last = runs.last
    factors = pd.DataFrame({f"{b}/{a}": last[b] / last[a] for a, b in ("AB", "BC", "CD")})
    words = ", ".join(f"{name} {factors[name].median():.3g}" for name in factors)
    right = int((factors.idxmax(axis=1) == "D/C").sum())
    return Finding(
        f"Gaps at the end, medians over runs as factors: {words}; that from C to D is the largest "
        f"in {right} of {len(last)} runs.",
        _verdict(right, len(last)),
    )
