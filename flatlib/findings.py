"""Sentences about archived runs: what the paper says, what the runs say, whether they agree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from flatlib import statistics
from flatlib.archive import FITTED, Runs, label

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
SIGNS = {"falls": -1, "rises": 1}
VERDICTS = {True: "as the paper says", False: "against the paper", None: "not decided"}


@dataclass(frozen=True)
class Finding:
    """What runs say on one claim."""

    sentence: str  # with its numbers
    agrees: bool | None  # with the paper; None if the runs are divided, too few or in doubt
    reservation: str = ""  # what the claim asks for and not all runs have

    @property
    def verdict(self) -> str:
        """Whether the runs agree with the paper, in words."""
        but = f", but {self.reservation}" if self.reservation and self.agrees is not None else ""
        return f"{VERDICTS[self.agrees]}{but}"

    def __str__(self) -> str:
        return f"{self.sentence} [{self.verdict}]"


def _verdict(changes: Sequence[float], sign: int) -> bool | None:
    """Yes if all changes have the sign, no if all have the other; else, or in doubt, None.

    In doubt are fewer than `DECISIVE` changes, and a mean whose 95 % interval includes 0.

    >>> _verdict([2.0, 2.1, 2.2], 1), _verdict([2.0, 2.1, 2.2], -1)
    (True, False)
    >>> _verdict([2.0, 2.1], 1), _verdict([2.0, 2.1, -2.0], 1), _verdict([0.01, 9.0, 0.1], 1)
    (None, None, None)
    """
    signs = np.sign(np.asarray(changes, dtype=float))
    mean = statistics.paired_difference(np.zeros(len(signs)), changes)
    if len(signs) < DECISIVE or not mean.excludes_zero or len(set(signs)) > 1:
        return None
    return bool(signs[0] == sign)


def _with_interval(change: statistics.Estimate) -> str:
    """A mean change, and its interval where it has one."""
    known = not math.isnan(change.low)
    interval = f" (95 % interval {change.low:.3g} to {change.high:.3g})" if known else ""
    return f"{change.value:.3g}{interval}"


def fit_steps(runs: Runs) -> pd.Series:
    """The checkpoint at which each run first has training accuracy `FITTED`; NaN if it never had.

    Returns:
        Steps by run.
    """
    return runs.fit_steps()


def how_far(runs: Runs) -> str:
    """How near to interpolation the runs are, in a sentence."""
    last, fitted = runs.last, fit_steps(runs)
    gap = (last["hessian_gap"] / last["sharpness"]).abs().max()
    return (
        f"{int(fitted.notna().sum())} of {len(last)} runs have reached training accuracy {FITTED}; "
        f"at the end the accuracy is {last['train_accuracy'].min():.3g} or more, the train loss "
        f"{last['train_loss'].min():.1e} to {last['train_loss'].max():.1e}, and Eq. (3) differs "
        f"from the Hessian's trace by at most {100 * gap:.2g} % of itself."
    )


def moved(
    runs: Runs, column: str, expected: str, samples: str = "train", since: str = "fit"
) -> Finding:
    """How a quantity moves up to the last checkpoint.

    Args:
        runs: archived runs.
        column: of their table.
        expected: ``"falls"`` or ``"rises"``, the paper's claim.
        samples: measured on which.
        since: ``"fit"``, the checkpoint where a run has fitted its data, or ``"start"``.

    Returns:
        `Finding` on the runs that have fitted their data, or on all: the verdict is that of their
        changes together.

    Raises:
        ValueError: another expectation or another beginning.
    """
    if expected not in SIGNS:
        raise ValueError(f"expected must be 'falls' or 'rises', got {expected!r}")
    if since not in ("fit", "start"):
        raise ValueError(f"since must be 'fit' or 'start', got {since!r}")
    table = runs.on(samples).dropna(subset=[column]).sort_values("step")
    if since == "fit":
        table = table[table["step"] >= table["run"].map(fit_steps(runs))]
    ends = table.groupby(["lr", "batch_size", "run"])[column].agg(["first", "last", "size"])
    ends = ends[ends["size"] > 1]
    changes, words = ends["last"] - ends["first"], []
    present = set(zip(runs.table["lr"], runs.table["batch_size"], strict=True))
    for setting in (setting for setting in runs.settings if setting in present):
        if setting not in ends.index:
            words.append(f"{label(setting)}: no run long enough")
            continue
        own, change = ends.loc[setting], changes.loc[setting]
        difference = statistics.paired_difference(own["first"], own["last"])
        words.append(
            f"{label(setting)}: from {own['first'].mean():.3g} to {own['last'].mean():.3g}, change "
            f"{_with_interval(difference)}, {expected} in "
            f"{int((SIGNS[expected] * change > 0).sum())} of {len(own)}"
        )
    start = "once fitted" if since == "fit" else "from the start of training"
    whole = statistics.paired_difference(ends["first"], ends["last"])
    if len(words) > 1 and len(ends):
        words.append(f"all {len(ends)} runs: change {_with_interval(whole)}")
    sentence = f"{WORDS[column]} on {samples} samples, {start}: " + "; ".join(words) + "."
    count = runs.table["run"].nunique()
    out = count - len(ends) if since == "fit" else 0
    reservation = f"{out} of {count} runs had not fitted their data before their end" if out else ""
    return Finding(sentence, _verdict(changes, SIGNS[expected]), reservation)


def order(
    runs: Runs, column: str, settings: Sequence[tuple[float, int]], at: str = "step"
) -> Finding:
    """Whether a quantity falls from one setting to the next, seed by seed.

    Args:
        runs: archived runs.
        column: of their table.
        settings: ``(lr, batch_size)``, from the largest value of the quantity to the least as
            the paper claims.
        at: ``"step"`` compares the runs at one step, as the paper's figures do, however far each
            has fitted its data by then; ``"loss"`` compares those of a seed, each at its first
            checkpoint with at most the train loss that the slowest of them ends at.

    Returns:
        `Finding` on the seeds that have all settings that are archived: agrees if the quantity
        falls at every step from setting to setting in all of them, contradicts if in all of them
        it is greater at the last setting than at the first, and either only if the interval of
        last minus first excludes 0.

    Raises:
        ValueError: another ``at``.
    """
    if at not in ("step", "loss"):
        raise ValueError(f"at must be 'step' or 'loss', got {at!r}")
    rows, step, _ = runs.at_one_step()
    if at == "loss":
        rows = runs.at_one_loss(settings)
    rows = rows.assign(setting=list(zip(rows["lr"], rows["batch_size"], strict=True)))
    there = [setting for setting in settings if setting in set(rows["setting"])]
    absent = [label(setting) for setting in settings if setting not in there]
    gone = f" None long enough: {'; '.join(absent)}." if absent else ""
    wide = rows.pivot(index="seed", columns="setting", values=column)
    means = "; ".join(f"{label(setting)}: {wide[[setting]].mean().item():.3g}" for setting in there)
    where = f"step {step:,}" if at == "step" else "equal train loss"
    sentence = f"{WORDS[column]} at {where}: {means}.{gone}"
    wide = wide[there].dropna()
    if len(there) < 2 or wide.empty:
        return Finding(f"{sentence} Nothing to compare.", None)
    in_order = (np.diff(wide.to_numpy(), axis=1) < 0).all(axis=1)
    verdict = _verdict(wide[there[-1]] - wide[there[0]], -1)
    change = statistics.paired_difference(wide[there[0]], wide[there[-1]])
    compared = rows[rows["setting"].isin(there) & rows["seed"].isin(wide.index)]
    short = int((~(compared["run"].map(fit_steps(runs)) <= compared["step"])).sum())
    return Finding(
        f"{sentence} It falls in this order in {int(in_order.sum())} of {len(wide)} seeds; "
        f"last minus first {_with_interval(change)}.",
        None if verdict and not in_order.all() else verdict,
        f"{short} of {len(compared)} runs had not fitted their data" if short else "",
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
    change = statistics.paired_difference(everyone, last[column])
    sentence = (
        f"{WORDS[column]}, misclassified against all test samples, at the last checkpoint with any "
        f"({int(last['n'].min())} or more): "
        f"{last[column].mean():.3g} against {everyone.mean():.3g}, difference "
        f"{_with_interval(change)}; higher in {int((last[column] > everyone).sum())} of "
        f"{len(last)} runs."
    )
    return Finding(sentence, _verdict(last[column] - everyone, 1))


def correlated(numbers: pd.DataFrame, first: str, second: str, sign: int) -> Finding:
    """Whether two quantities correlate over networks with the paper's sign.

    Networks of one setting are alike, so the verdict is that of the settings' means.

    Args:
        numbers: of a figure made by `flatlib.figures.archived.correlations`.
        first: a column's name.
        second: another's.
        sign: 1 or -1, the paper's.

    Returns:
        `Finding`: decided only if the 95 % interval over the settings' means excludes 0.

    Raises:
        ValueError: a pair that the figure does not have.
    """
    pair = numbers[
        ((numbers["first"] == first) & (numbers["second"] == second))
        | ((numbers["first"] == second) & (numbers["second"] == first))
    ]
    if pair.empty:
        raise ValueError(f"the figure has no pair {first!r} and {second!r}")
    found = pair.iloc[0]
    between, low, high = (float(found[name]) for name in ("between", "low", "high"))
    name = " with ".join(WORDS.get(column, f"bound {column}") for column in (first, second))
    sentence = f"{name}: correlation {found.rho:.2f} over {int(found.n)} networks"
    if math.isnan(low):
        return Finding(f"{sentence}; the means of the settings are too few for an interval.", None)
    known = not math.isnan(found.within)
    within = f"{found.within:.2f}" if known else "unknown, one network each,"
    return Finding(
        f"{sentence}, {between:.2f} ({low:.2f} to {high:.2f}) over the means of "
        f"{int(found.settings)} settings, {within} within settings.",
        sign * between > 0 if low > 0 or high < 0 else None,
    )


def largest_gap(runs: Runs) -> Finding:
    """Which step of the chain A to D is the largest, at each run's end; the paper's is C to D.

    A gap is read as a factor and as a difference; a verdict needs both to agree.
    """
    last, words, verdicts = runs.last, [], []
    steps = {f"{low} to {high}": (last[low], last[high]) for low, high in ("AB", "BC", "CD")}
    factors = pd.DataFrame({step: high / low for step, (low, high) in steps.items()})
    differences = pd.DataFrame({step: high - low for step, (low, high) in steps.items()})
    for name, gaps in (("factors", factors), ("differences", differences)):
        medians = ", ".join(f"{step} {gaps[step].median():.3g}" for step in gaps)
        lead = gaps["C to D"] - gaps[["A to B", "B to C"]].max(axis=1)
        verdicts.append(_verdict(lead, 1))
        words.append(
            f"as {name} {medians}, C to D the largest in {int((lead > 0).sum())} of "
            f"{len(last)} runs"
        )
    return Finding(
        f"Gaps at the end, medians over runs: {'; '.join(words)}.",
        verdicts[0] if verdicts[0] == verdicts[1] else None,
    )
