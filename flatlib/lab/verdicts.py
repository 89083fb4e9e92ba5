"""What archived runs say of each claim of the paper: statistics alone, no words for readers.

The unit is the seed. A seed fixes the initial weights and the order of the samples, so runs that
share one are not independent: their effects are averaged within the seed first, and a test sees
one number a seed. Correlations over networks are decided by populations whose settings were drawn
at random, where the unit is the network. Holm's correction is over all claims that are decided
together.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

from flatlib.lab import claims, drawn, experiments, statistics
from flatlib.lab.associations import PEARSON, Association
from flatlib.lab.claims import Claim, Margin
from flatlib.lab.drawn import Archived, Drawn
from flatlib.lab.records import Record, RecordError, default_results

HELD, AGAINST = "held", "against"
NO_DIFFERENCE = "no difference beyond the margin"
NOT_DECIDED, NOT_TESTED = "not decided", "not tested"
WORDS = (HELD, AGAINST, NO_DIFFERENCE, NOT_DECIDED, NOT_TESTED)

# Why a claim is not tested.
NO_EXPERIMENT = "no experiment"
TOO_FEW_SEEDS = "too few seeds"
CONDITION_UNMET = "condition unmet"
DESIGNED_SETTINGS = "waits for settings drawn at random"
TOO_FEW_NETWORKS = "too few networks"
NOT_MEASURED = "not measured"

ARCHIVED_DIGITS = 1e-9  # tables hold ten significant digits
FEWEST_DIFFERENCES = 4  # of one run, for a correlation of first differences
DERIVED = {  # quantities that are functions of archived columns
    claims.S: (("sharpness",), np.sqrt),
    claims.TEST_ERROR: (("test_accuracy",), lambda accuracy: 1 - accuracy),
    claims.GAP: (("test_loss", "train_loss"), np.subtract),
    "lead_as_factor": (
        tuple("ABCD"),
        lambda a, b, c, d: np.log(d / c) - np.maximum(np.log(b / a), np.log(c / b)),
    ),
    "lead_as_difference": (
        tuple("ABCD"),
        lambda a, b, c, d: ((d - c) - np.maximum(b - a, c - b)) / a,
    ),
}
NEEDED = ("step", "samples", "n", "train_loss", "train_accuracy")


@dataclass(frozen=True)
class ArchivedRun:
    """One whole record."""

    scale: str
    manifest: dict
    table: pd.DataFrame


@dataclass(frozen=True)
class Archive:
    """All whole records of an archive, and those that were refused."""

    runs: tuple[ArchivedRun, ...]
    refused: tuple[str, ...] = ()  # the reason for each, with its name
    populations: Mapping[str, Drawn] = field(default_factory=dict)  # by name
    _grids: dict = field(default_factory=dict, compare=False, repr=False)

    def grid(
        self, name: str, scale: str, settings: tuple[tuple[float, int], ...] = ()
    ) -> Grid | None:
        """The finished runs of an experiment at a scale; None where there are none.

        Args:
            name: of the experiment.
            scale: whose runs.
            settings: in the order wanted; by default all of the experiment's. A seed without a
                finished run at one of them is left out: means over other settings are another
                number.
        """
        key = (name, scale, settings or experiments.EXPERIMENTS[name].settings)
        if key not in self._grids:
            self._grids[key] = self._gather(*key)
        return self._grids[key]

    def _gather(self, name: str, scale: str, settings) -> Grid | None:
        first = experiments.configurations(name, scale)[0]
        asked = first.identity
        found = []
        for run in self.runs:
            made = run.manifest["configuration"]
            same = all(made[key] == asked[key] for key in ("net", "data", "loss"))
            finished = (
                run.manifest["status"] == "complete" and run.table["step"].max() >= first.steps
            )
            setting = (made["lr"], made["batch_size"])
            if run.scale == scale and same and finished and setting in settings:
                found.append((setting, made["seed"], run.table))
        by_seed = Counter(seed for _, seed, _ in found)
        found = [one for one in found if by_seed[one[1]] == len(settings)]
        return Grid.of(settings, found, first.steps) if found else None


def read(results: Path | None = None, populations: Archived | None = None) -> Archive:
    """Read every record of an archive; one that is not whole is refused by name, not guessed.

    Args:
        results: the archive; by default that of the checkout.
        populations: those drawn at random, if they have been read already.
    """
    folder = Path(results or default_results())
    runs, refused = [], []
    for scale in claims.SCALES:
        for path in sorted(folder.glob(f"{scale}/*/manifest.json")):
            record = Record(folder, scale, path.parent.name)
            try:
                manifest, table = record.read_manifest(), record.read_table()
                made = manifest["configuration"]
                _ = [made[key] for key in ("net", "data", "loss", "lr", "batch_size", "seed")]
                _ = manifest["status"]
                absent = [name for name in NEEDED if name not in table.columns]
                if absent:
                    raise RecordError(f"{record.table_path} has no column {absent[0]!r}")
            except RecordError as fault:
                refused.append(f"{scale}/{record.run}: {fault}".replace(f"{folder}/", ""))
            except (KeyError, TypeError) as fault:
                refused.append(f"{scale}/{record.run}: its manifest lacks {fault}")
            else:
                runs.append(ArchivedRun(scale, manifest, table))
    random = drawn.read(folder) if populations is None else populations
    return Archive(tuple(runs), (*refused, *random.refused), random.found)


@dataclass(frozen=True)
class Grid:
    """Finished runs of one experiment as arrays ``(settings, seeds, steps)``."""

    settings: tuple[tuple[float, int], ...]
    seeds: tuple[int, ...]
    steps: np.ndarray
    _tables: dict  # by samples: index into the flat array, and the columns

    @classmethod
    def of(cls, settings, found: Sequence[tuple], length: int) -> Grid:
        """From ``(setting, seed, table)``, up to a number of steps."""
        seeds = tuple(sorted({seed for _, seed, _ in found}))
        table = pd.concat([table for *_, table in found], ignore_index=True)
        sizes = [len(table) for *_, table in found]
        row = np.repeat([settings.index(setting) for setting, *_ in found], sizes)
        column = np.repeat([seeds.index(seed) for _, seed, _ in found], sizes)
        kept = (table["step"] <= length).to_numpy()
        table, row, column = table[kept], row[kept], column[kept]
        steps = np.unique(table["step"].to_numpy())
        shape = (len(settings), len(seeds), len(steps))
        place = np.ravel_multi_index(
            (row, column, np.searchsorted(steps, table["step"].to_numpy())), shape
        )
        samples = table["samples"].to_numpy()
        parts = {name: (place[samples == name], table[samples == name]) for name in set(samples)}
        return cls(tuple(settings), seeds, steps, parts)

    def values(self, quantity: str, samples: str = "train") -> np.ndarray:
        """A quantity at every setting, seed and step; what is not finite counts as undefined."""
        columns, formula = DERIVED.get(quantity, ((quantity,), lambda column: column))
        with np.errstate(all="ignore"):
            result = formula(*(self._column(name, samples) for name in columns))
        return np.where(np.isfinite(result), result, np.nan)

    def _column(self, name: str, samples: str) -> np.ndarray:
        array = np.full((len(self.settings), len(self.seeds), len(self.steps)), np.nan)
        if samples in self._tables:
            place, table = self._tables[samples]
            if name in table.columns:
                array.flat[place] = table[name].to_numpy(dtype=float)
        return array

    @cached_property
    def accuracy(self) -> np.ndarray:
        """Training accuracy."""
        return self.values("train_accuracy")

    def fits(self, threshold: float) -> np.ndarray:
        """The index of the step at which each run first has this training accuracy, else -1."""
        return _first(self.accuracy >= threshold)


def _first(true: np.ndarray) -> np.ndarray:
    """Index of the first true entry on the last axis, or -1."""
    return np.where(true.any(axis=-1), true.argmax(axis=-1), -1)


def _at(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Entries of the last axis; NaN where the index is -1."""
    taken = np.take_along_axis(values, np.maximum(index, 0)[..., None], axis=-1)[..., 0]
    return np.where(index >= 0, taken, np.nan)


@dataclass(frozen=True)
class Effects:
    """What a claim's statistic sees."""

    seeds: np.ndarray  # one number a seed that has any
    start: float  # mean of what the change starts from
    used: int  # runs that met the condition
    runs: int  # runs that there are
    in_order: tuple[int, int] | None = None  # seeds that move from setting to setting; seeds


@dataclass(frozen=True)
class Verdict:
    """What the runs say of one claim."""

    claim: Claim
    scale: str = ""  # whose runs decided; empty where there are none
    steps: int = 0  # length of those runs
    seeds: tuple[float, ...] = ()  # the effect of each seed
    value: float = math.nan  # their mean; of a trend or correlation the correlation
    low: float = math.nan  # 95 % interval
    high: float = math.nan
    margin: float = math.nan  # in the value's unit
    p: float = math.nan
    adjusted: float = math.nan  # p after Holm
    used: int = 0  # runs that met the condition
    runs: int = 0
    in_order: tuple[int, int] | None = None
    counted: tuple[int, int] | None = None  # measurements that agree; all
    rival: float = math.nan  # the correlation that should be the smaller
    association: Association | None = None  # over networks drawn at random
    compared: tuple[float, float] | None = None  # correlations: the value is their difference in z
    uncorrected: str = NOT_TESTED
    word: str = NOT_TESTED  # after Holm
    reason: str = ""  # why it is not tested

    @property
    def n(self) -> int:
        """Independent numbers behind it."""
        return self.association.n if self.association else len(self.seeds)


def decide(
    archive: Archive,
    table: Sequence[Claim] = claims.CLAIMS,
    threshold: float = claims.FITTED,
    share: float = 1.0,
) -> dict[str, Verdict]:
    """Every claim's verdict by key.

    Holm's correction is over all of them.

    Args:
        archive: from `read`.
        table: the claims that are decided together.
        threshold: training accuracy from which on a run has fitted.
        share: of the level that these claims have, where others that are decided apart have the
            rest.
    """
    found = [_uncorrected(claim, archive, threshold) for claim in table]
    return {verdict.claim.key: verdict for verdict in _holm(found, share)}


def of_group(decided: Mapping[str, Verdict], network: str, group: str) -> list[Verdict]:
    """The verdicts on the claims that are read together.

    Args:
        decided: from `decide`.
        network: ``"vgg10"``, ``"relu"`` or ``"tanh"``.
        group: of the network's claims, such as ``"rate-step"``.

    Raises:
        ValueError: a group that the network has no claims on.
    """
    found = [
        one for one in decided.values() if (one.claim.network, one.claim.group) == (network, group)
    ]
    if not found:
        raise ValueError(f"there is no claim on {group!r} of {network!r}")
    return found


def by_threshold(
    archive: Archive, table: Sequence[Claim] = claims.CLAIMS
) -> dict[float, dict[str, str]]:
    """The words after Holm at each threshold of fitting, by claim, each from one scale's runs."""
    usual = decide(archive, table)
    held = [
        replace(claim, scales=(usual[claim.key].scale,))
        if usual[claim.key].scale in claim.scales
        else claim
        for claim in table
    ]
    return {
        threshold: {key: one.word for key, one in decide(archive, held, threshold).items()}
        for threshold in claims.THRESHOLDS
    }


def at_other_scales(archive: Archive, table: Sequence[Claim] = claims.CLAIMS) -> dict[str, Verdict]:
    """What the other scale says of the claims that both can test.

    The other claims stay in the table, so Holm's correction is over as many as in `decide`.

    Returns:
        The other scale's verdicts, by claim.
    """
    usual = decide(archive, table)
    left = [
        replace(claim, scales=others)
        for claim in table
        for others in [tuple(s for s in claim.scales if s != usual[claim.key].scale)]
        if usual[claim.key].scale in claim.scales and others
    ]
    tested = {one.claim.key: one.claim for one in decide(archive, left).values() if not one.reason}
    swapped = decide(archive, [tested.get(claim.key, claim) for claim in table])
    return {key: swapped[key] for key in tested if not usual[key].reason}


def _holm(found: Sequence[Verdict], share: float = 1.0) -> list[Verdict]:
    """Words after Holm: directions by its adjusted p, equivalence by intervals that all cover."""
    tested = [verdict for verdict in found if not math.isnan(verdict.p)]
    if not tested:
        return list(found)
    adjusted = multipletests([verdict.p for verdict in tested], method="holm")[1]
    adjusted = np.minimum(1.0, adjusted / share)
    by_key = {v.claim.key: float(p) for v, p in zip(tested, adjusted, strict=True)}
    strict = share * claims.LEVEL / len(tested)
    result = []
    for verdict in found:
        if verdict.claim.key not in by_key:
            result.append(verdict)
            continue
        adjusted_p = by_key[verdict.claim.key]
        if verdict.association:
            mean, (low, high) = verdict.value, verdict.association.interval(strict)
        else:
            mean = float(np.mean(verdict.seeds))
            low, high, _ = _interval(np.array(verdict.seeds), strict)
        margin = _in_z(verdict.claim, verdict.margin)
        word = _word(verdict.claim, adjusted_p, mean, low, high, margin)
        result.append(replace(verdict, adjusted=adjusted_p, word=word))
    return result


def _word(claim: Claim, p: float, mean: float, low: float, high: float, margin: float) -> str:
    """What a p value and an interval of the same strictness say."""
    inside = -margin < low and high < margin
    if claim.direction == claims.LEVEL_OFF:
        if p >= claims.LEVEL:
            return NOT_DECIDED
        return HELD if abs(mean) < margin else AGAINST
    if p < claims.LEVEL:
        return HELD if mean * claim.direction > 0 else AGAINST
    return NO_DIFFERENCE if inside else NOT_DECIDED


def _uncorrected(claim: Claim, archive: Archive, threshold: float) -> Verdict:
    if claim.population in archive.populations:
        population = archive.populations[claim.population]
        decided_by = _over_pairs if claim.statistic == claims.PAIRED else _over_networks
        return decided_by(claim, population)
    if not claim.experiment:
        return Verdict(claim, reason=NO_EXPERIMENT)
    untested = None
    for scale, grid, enough in _grids(claim, archive):
        found = _on_grid(Verdict(claim, scale, int(grid.steps[-1])), grid, enough, threshold)
        if not found.reason:
            return found
        untested = untested or found
    return untested or Verdict(claim, reason=TOO_FEW_SEEDS)


def _on_grid(empty: Verdict, grid: Grid, enough: bool, threshold: float) -> Verdict:
    """What one scale's runs say; ``enough`` tells whether there are runs of enough seeds."""
    claim = empty.claim
    if claim.statistic == claims.CORRELATION:
        return _correlation(empty, grid)
    if claim.statistic == claims.COUNT:
        return _count(empty, grid) if enough else replace(empty, reason=TOO_FEW_SEEDS)
    return _over_seeds(empty, EFFECTS[claim.statistic](claim, grid, threshold), enough)


def _over_seeds(empty: Verdict, effects: Effects, enough: bool) -> Verdict:
    """What one number a seed says; ``enough`` tells whether there are runs of enough seeds."""
    claim, effects = empty.claim, _to_archived_digits(effects)
    verdict = replace(
        empty,
        seeds=tuple(effects.seeds.tolist()),
        value=_out_of_z(claim, float(effects.seeds.mean())) if effects.seeds.size else math.nan,
        margin=_size(claim.margin, effects.start),
        used=effects.used,
        runs=effects.runs,
        in_order=effects.in_order,
    )
    if not enough:
        return replace(verdict, reason=TOO_FEW_SEEDS)
    if verdict.n < claims.SEEDS:
        return replace(verdict, reason=CONDITION_UNMET)
    low, high, p = _interval(effects.seeds, claims.LEVEL)
    margin, mean = _in_z(claim, verdict.margin), float(effects.seeds.mean())
    if claim.direction == claims.LEVEL_OFF:
        p = _equivalence(effects.seeds, margin)
    return replace(
        verdict,
        low=_out_of_z(claim, low),
        high=_out_of_z(claim, high),
        p=p,
        uncorrected=_word(claim, p, mean, low, high, margin),
    )


def _grids(claim: Claim, archive: Archive) -> list[tuple[str, Grid, bool]]:
    """The scales that a claim may be decided at, those with enough seeds first."""
    grids = [
        (scale, archive.grid(claim.experiment, scale, claim.settings)) for scale in claim.scales
    ]
    found = [(s, grid, len(grid.seeds) >= claims.SEEDS) for s, grid in grids if grid is not None]
    return sorted(found, key=lambda one: not one[2])


def _size(margin: Margin, start: float) -> float:
    return margin.size * abs(start) if margin.relative else margin.size


def _in_z(claim: Claim, value: float) -> float:
    """A correlation as Fisher's z; any other effect as it is."""
    return math.atanh(value) if claim.statistic == claims.TREND else value


def _out_of_z(claim: Claim, value: float) -> float:
    return math.tanh(value) if claim.statistic == claims.TREND else value


def _interval(effects: np.ndarray, level: float) -> tuple[float, float, float]:
    """Student's interval of the mean, and p of a mean of 0; of equal numbers it is a point."""
    if np.ptp(effects) == 0:
        value = float(effects[0])
        return value, value, float(value == 0)
    test = stats.ttest_1samp(effects, 0.0)
    interval = test.confidence_interval(1 - level)
    return float(interval.low), float(interval.high), float(test.pvalue)


def _equivalence(effects: np.ndarray, margin: float) -> float:
    """p of two one-sided tests; where the mean is beyond the margin, p of being at its edge."""
    mean = float(effects.mean())
    if np.ptp(effects) == 0:
        return 0.0
    if abs(mean) < margin:
        return float(ttost_paired(effects, np.zeros_like(effects), -margin, margin)[0])
    return float(stats.ttest_1samp(effects, math.copysign(margin, mean)).pvalue)


def _to_archived_digits(effects: Effects) -> Effects:
    """An effect that is within rounding of what it is a change of is none."""
    rounding = 0.0 if math.isnan(effects.start) else ARCHIVED_DIGITS * effects.start
    seeds = np.where(np.abs(effects.seeds) > rounding, effects.seeds, 0.0)
    return replace(effects, seeds=seeds)


def _mean(values: np.ndarray, where: np.ndarray) -> float:
    known = where & np.isfinite(values)
    return float(values[known].mean()) if known.any() else math.nan


def _averaged(effects: np.ndarray, begin: np.ndarray | None = None) -> Effects:
    """The effects of runs, ``(settings, seeds)``, as means over the settings that all seeds share.

    A seed without any defined effect is left out, and then a setting that some other seed lacks:
    means over other settings are another number. ``begin`` is what each effect is a change of, if
    it is one.
    """
    defined = np.isfinite(effects)
    seeds = defined.any(axis=0)
    settings = defined[:, seeds].all(axis=1)
    used = settings[:, None] & seeds
    means = effects[settings][:, seeds].mean(axis=0) if used.any() else np.empty(0)
    start = math.nan if begin is None else _mean(np.abs(begin), used)
    return Effects(means, start, int(used.sum()), effects.size)


def _window(condition: str, grid: Grid, fits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the first and last step of a claim's part of training; -1 where there is none."""
    last = np.full(fits.shape, len(grid.steps) - 1)
    if condition == claims.FROM_START:
        first = np.zeros_like(fits)
    elif condition == claims.TO_FIT:
        first, last = np.where(fits >= 0, 0, -1), fits
    elif condition == claims.ONCE_FITTED:
        first = fits
    else:
        begin = {claims.LATE: grid.steps[-1] / 2, claims.AFTER_50_000: 50_000}[condition]
        later = _first(grid.steps >= begin)
        first = np.where((fits >= 0) & (fits <= later), later, -1)
    there = (first >= 0) & (first < last)
    return np.where(there, first, -1), np.where(there, last, -1)


def _change(claim: Claim, grid: Grid, threshold: float) -> Effects:
    values = grid.values(claim.quantity, claim.samples)
    first, last = _window(claim.condition, grid, grid.fits(threshold))
    begin = _at(values, first)
    return _averaged(_at(values, last) - begin, begin)


def _slowing(claim: Claim, grid: Grid, threshold: float) -> Effects:
    """Change over the second half of a claim's part of training minus that over the first.

    Where no checkpoint stands at the half, each change is taken in proportion to its steps.
    """
    values = grid.values(claim.quantity, claim.samples)
    first, last = _window(claim.condition, grid, grid.fits(threshold))
    middle = _first(grid.steps >= (grid.steps[first] + grid.steps[last])[..., None] / 2)
    begin, half, end = (
        _at(values, np.where(first >= 0, index, -1)) for index in (first, middle, last)
    )
    steps = [grid.steps[index] for index in (first, middle, last)]
    with np.errstate(divide="ignore", invalid="ignore"):
        before, after = (
            change / length * (steps[2] - steps[0]) / 2
            for change, length in (
                (half - begin, steps[1] - steps[0]),
                (end - half, steps[2] - steps[1]),
            )
        )
    return _averaged(after - before, before)


def _trend(claim: Claim, grid: Grid, threshold: float) -> Effects:
    one, other = (grid.values(name, claim.samples) for name in (claim.quantity, claim.other))
    first, last = _window(claim.condition, grid, grid.fits(threshold))
    z = np.full(first.shape, np.nan)
    for run in zip(*np.nonzero(first >= 0), strict=True):
        part = slice(first[run], last[run] + 1)
        rho = statistics.pearson(np.diff(one[run][part]), np.diff(other[run][part]))
        if rho.n >= FEWEST_DIFFERENCES:
            z[run] = np.arctanh(np.clip(rho.value, -1 + 1e-12, 1 - 1e-12))
    return _averaged(z)


def _compared(claim: Claim, grid: Grid, threshold: float) -> np.ndarray:
    """The index at which each run is compared, -1 where it did not meet the condition."""
    last = len(grid.steps) - 1
    if claim.condition == claims.AT_ONE_STEP:
        return np.where(grid.fits(threshold) >= 0, last, -1)
    if claim.condition == claims.AT_EQUAL_LOSS:
        loss = grid.values("train_loss")
        level = loss[..., -1].max(axis=0)
        return _first(loss <= level[None, :, None])
    return np.full((len(grid.settings), len(grid.seeds)), last)


def _difference(claim: Claim, grid: Grid, threshold: float) -> Effects:
    values = grid.values(claim.quantity, claim.samples)
    index = _compared(claim, grid, threshold)
    there = _at(values, index)
    effects = there[-1] - there[0]
    defined = np.isfinite(effects)
    whole = np.isfinite(there).all(axis=0)
    ordered = (np.diff(there[:, whole], axis=0) * claim.direction > 0).all(axis=0)
    return Effects(
        effects[defined],
        _mean(np.abs(there[0]), defined),
        int(np.isfinite(there).sum()),
        there.size,
        (int(ordered.sum()), int(whole.sum())),
    )


def _value(claim: Claim, grid: Grid, threshold: float) -> Effects:
    values = grid.values(claim.quantity, claim.samples)[..., -1]
    return _averaged(values)


def _misclassified(claim: Claim, grid: Grid, threshold: float) -> Effects:
    """Against the whole test set where it was measured, else against the sample of it."""
    wrong, sample, test_set = (
        grid.values(claim.quantity, name) for name in ("misclassified", "test", "test-set")
    )
    everyone = np.where(np.isfinite(test_set), test_set, sample)
    known = np.isfinite(wrong) & np.isfinite(everyone)
    known &= grid.values("n", "misclassified") > 0
    from_last = known[..., ::-1].cumsum(axis=-1)[..., ::-1]  # checkpoints from here on that count
    last = known & (from_last <= claims.LAST_CHECKPOINTS)
    return _averaged(_mean_over(wrong - everyone, last), _mean_over(everyone, last))


def _mean_over(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Means over the chosen entries of the last axis, NaN where there are none."""
    counts = chosen.sum(axis=-1)
    sums = np.where(chosen, values, 0.0).sum(axis=-1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


EFFECTS = {
    claims.CHANGE: _change,
    claims.DIFFERENCE: _difference,
    claims.MISCLASSIFIED: _misclassified,
    claims.VALUE: _value,
    claims.SLOWING: _slowing,
    claims.TREND: _trend,
}


def holds(grid: Grid, inequality: str, samples: Sequence[str] = ("train", "test")) -> np.ndarray:
    """Whether an archived inequality holds, ``(samples, settings, seeds, steps)``; NaN unknown."""
    parts = []
    for name in samples:
        left, right = (grid._column(f"{side}_{inequality}", name) for side in ("lhs", "rhs"))
        size = np.maximum(np.abs(left), np.abs(right))
        slack = ARCHIVED_DIGITS * np.where(np.isfinite(size), size, 0.0)
        known = ~np.isnan(left) & ~np.isnan(right)
        parts.append(np.where(known, left <= right + slack, np.nan))
    return np.stack(parts)


def _count(verdict: Verdict, grid: Grid) -> Verdict:
    """Held if the inequality always holds; against if every seed's runs all break it somewhere."""
    found = holds(grid, verdict.claim.quantity)
    known = np.isfinite(found)
    broken = (found == 0).any(axis=(0, -1))
    counted = (int(np.nansum(found)), int(known.sum()))
    if not known.any():
        return replace(verdict, reason=CONDITION_UNMET)
    word = HELD if counted[0] == counted[1] else AGAINST if broken.all() else NOT_DECIDED
    runs = broken.size
    return replace(verdict, counted=counted, used=runs, runs=runs, uncorrected=word, word=word)


def _correlation(verdict: Verdict, grid: Grid) -> Verdict:
    """The descriptive numbers; designed settings decide nothing."""
    claim, end = verdict.claim, {}
    for name in filter(None, (verdict.claim.quantity, verdict.claim.other, verdict.claim.rival)):
        end[name] = grid.values(name)[..., -1]

    def between(name: str) -> float:
        known = np.isfinite(end[name]) & np.isfinite(end[claim.other])
        means = [
            [values[row][known[row]].mean() for row in range(len(known)) if known[row].any()]
            for values in (end[name], end[claim.other])
        ]
        return statistics.pearson(*means).value

    return replace(
        verdict,
        value=between(claim.quantity),
        rival=between(claim.rival) if claim.rival else math.nan,
        used=end[claim.quantity].size,
        runs=end[claim.quantity].size,
        reason=DESIGNED_SETTINGS,
    )


def _over_pairs(claim: Claim, population: Drawn) -> Verdict:
    """Networks of one seed compared at one train loss, as a share of the baseline's mean."""
    table = population.by_seed(drawn.LOSS, claim.quantity)
    table = table.reindex(columns=[claim.rival, claim.other])
    pairs = table[np.isfinite(table).all(axis=1)]
    before, after = pairs[claim.rival], pairs[claim.other]
    shares = ((after - before) / abs(before.mean())).to_numpy(dtype=float)
    effects = Effects(shares, 1.0, len(pairs), len(table))
    return _over_seeds(Verdict(claim, population.name), effects, enough=True)


def _over_networks(claim: Claim, population: Drawn) -> Verdict:
    """A correlation over networks drawn at random, or a difference of two, as Fisher's z."""
    condition = drawn.STEP if claim.condition == claims.AT_ONE_STEP else drawn.LOSS
    networks = population.networks

    def pair(name: str, where: str = condition) -> tuple[str, str]:
        return drawn.at(where, name), drawn.at(where, claim.other)

    given = tuple(
        name if name in population.recipe else drawn.at(condition, name) for name in claim.given
    )
    first, second = pair(claim.quantity), None
    if claim.statistic == claims.SHIFT:
        first, second = pair(claim.quantity, drawn.LOSS), pair(claim.quantity, drawn.STEP)
    elif claim.rival:
        second = pair(claim.rival)
    if second is None:
        found, compared = networks.correlation(*first, given), None
    else:
        found = networks.difference(first, second, given)
        compared = tuple(networks.correlation(*one, given).value for one in (first, second))
    verdict = Verdict(
        claim,
        population.name,
        value=found.value,
        margin=claim.margin.size,
        used=found.n,
        runs=population.n,
        association=found,
        compared=compared,
    )
    if found.n == 0:
        return replace(verdict, reason=NOT_MEASURED)
    if found.n < claims.NETWORKS or math.isnan(found.error):
        return replace(verdict, reason=TOO_FEW_NETWORKS)
    low, high = found.interval(claims.LEVEL)
    p = found.p()
    if claim.direction == claims.LEVEL_OFF:
        edge = claim.margin.size if found.is_difference else math.atanh(claim.margin.size)
        beyond = abs(found.z) >= edge
        p = found.p(math.copysign(edge, found.z)) if beyond else found.equivalence(edge)
    word = _word(claim, p, found.value, low, high, claim.margin.size)
    return replace(verdict, low=low, high=high, p=p, uncorrected=word)


def along_the_line(archive: Archive, experiment: str) -> tuple[str, float]:
    """How nearly the five settings lie on one line: correlation of log(lr/batch) with root S.

    Returns:
        The scale, and the correlation over the settings' means at the end; NaN without runs.
    """
    claim = next(
        claim
        for claim in claims.CLAIMS
        if claim.experiment == experiment and claim.statistic == claims.CORRELATION
    )
    found = _grids(claim, archive)
    if not found:
        return "", math.nan
    scale, grid, _ = found[0]
    noise = [math.log(lr / batch_size) for lr, batch_size in grid.settings]
    ends = grid.values(claims.S)[..., -1]
    means = [float(np.nanmean(row)) if np.isfinite(row).any() else math.nan for row in ends]
    return scale, statistics.pearson(noise, means).value


def along_the_ratio(population: Drawn) -> float:
    """How nearly drawn networks lie on one line: correlation of log(lr/batch) with root S.

    Returns:
        Pearson's correlation at one train loss; NaN where rate and batch size do not both vary.
    """
    if drawn.RATIO not in population.recipe:
        return math.nan
    return population.networks.correlation(
        drawn.RATIO, drawn.at(drawn.LOSS, claims.S), how=PEARSON
    ).value


def checks(archive: Archive) -> list[tuple[claims.Check, str, int, int]]:
    """Of each theorem the scale, how often it held and how often it was measured."""
    found = []
    for check in claims.CHECKS:
        for scale in claims.SCALES:
            grid = archive.grid(check.experiment, scale)
            if grid is not None:
                held = holds(grid, check.inequality)
                counts = int(np.nansum(held)), int(np.isfinite(held).sum())
                found.append((check, scale, *counts))
    return found
