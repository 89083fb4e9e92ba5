"""The runs behind one figure: read from the archive, with what is missing said plainly."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from flatlib.lab import experiments, populations
from flatlib.lab.claims import FITTED

NETS = {
    "vgg10": "VGG10",
    "vgg10-gray": "VGG10 with one input channel",
    "mlp": "MLP 784-500-500-500-10, tanh",
    "mlp-small": "MLP 64-32-32-32-10, tanh",
    "mlp-relu": "MLP 784-500-500-500-10, ReLU",
    "mlp-relu-small": "MLP 64-32-32-32-10, ReLU",
}
DATA = {
    "cifar10-0-1": "CIFAR-10, classes 0 and 1",
    "fashion-mnist": "FashionMNIST",
    "fashion-mnist-first-2000": "FashionMNIST, the first 2,000 images",
    "digits": "scikit-learn's digits",
    "digit-images-0-1": "scikit-learn's digits 0 and 1 as 32 x 32 images",
}
SCALES = tuple(experiments.SCALES)  # the smallest first
LOSSES = {
    "mse": "mean over samples and outputs, whose gradient is 2/N of the paper's formula",
    "half-squared": "as the paper writes it, half the squared error, mean over samples",
}


@dataclass(frozen=True)
class Runs:
    """Archived runs of one experiment."""

    name: str  # of the experiment
    asked: str  # scale that was asked for
    scale: str  # scale that the numbers have
    table: pd.DataFrame  # as `flatlib.lab.experiments.load` gives it, with ``root_sharpness``
    manifests: tuple[dict, ...]  # one a run

    @property
    def settings(self) -> tuple[tuple[float, int], ...]:
        """``(lr, batch_size)`` that the figure asks for, in its order."""
        return experiments.EXPERIMENTS[self.name].settings

    @property
    def missing(self) -> tuple[tuple[float, int], ...]:
        """Settings that the figure asks for and no run has."""
        there = set(zip(self.table["lr"], self.table["batch_size"], strict=True))
        return tuple(setting for setting in self.settings if setting not in there)

    @property
    def reached(self) -> pd.Series:
        """The last archived step of each run, by ``(lr, batch_size, seed)``."""
        return self.table.groupby(["lr", "batch_size", "seed"])["step"].max()

    @property
    def last(self) -> pd.DataFrame:
        """Each run's last archived row on training samples, by ``(lr, batch_size, seed)``."""
        rows = self.on("train")
        last = rows.loc[rows.groupby("run")["step"].idxmax()]
        return last.set_index(["lr", "batch_size", "seed"]).sort_index()

    @property
    def steps_planned(self) -> int:
        """Length of a run at this scale."""
        return experiments.configurations(self.name, self.scale)[0].steps

    @property
    def seeds_planned(self) -> tuple[int, ...]:
        """Seeds of this scale."""
        runs = experiments.configurations(self.name, self.scale)
        return tuple(dict.fromkeys(run.seed for run in runs))

    def on(self, samples: str) -> pd.DataFrame:
        """The rows of these samples, see `flatlib.lab.experiments.load`."""
        return self.table[self.table["samples"] == samples]

    def fit_steps(self, threshold: float = FITTED) -> pd.Series:
        """The checkpoint at which each run first has this training accuracy, by run, or NaN.

        Args:
            threshold: from which on a run counts as having fitted its data.
        """
        table = self.on("train")
        fitted = table[table["train_accuracy"] >= threshold].groupby("run")["step"].min()
        return fitted.reindex(table["run"].unique())

    def at_one_step(self) -> tuple[pd.DataFrame, int, list[str]]:
        """Rows on training samples at the last step that all runs have.

        Returns:
            The rows, the step, and the runs left out: those that diverged or are shorter than
            half of the longest.
        """
        table = self.on("train")
        reached = table.groupby("run")["step"].max()
        diverged = {m["run"] for m in self.manifests if m["status"] == "diverged"}
        out = sorted(set(reached.index[reached < reached.max() / 2]) | diverged)
        kept = reached.drop(out)
        if kept.empty:
            raise ValueError(f"every long run of {self.name} at {self.scale} scale diverged")
        step = int(kept.min())
        rows = table[(table["step"] == step) & table["run"].isin(kept.index)]
        return rows, step, out

    def at_one_loss(self, settings: Sequence[tuple[float, int]]) -> pd.DataFrame:
        """The training rows of the given settings where the runs of a seed have come equally far.

        Args:
            settings: ``(lr, batch_size)``.

        Returns:
            For each run its first checkpoint with at most the train loss that the slowest run of
            its seed ends at; those that `at_one_step` leaves out are left out here too.
        """
        _, _, out = self.at_one_step()
        table = self.on("train").sort_values("step")
        setting = pd.Series(list(zip(table["lr"], table["batch_size"], strict=True)), table.index)
        table = table[setting.isin(list(settings)) & ~table["run"].isin(out)]
        ends = table.groupby(["seed", "run"])["train_loss"].last()
        level = table["seed"].map(ends.groupby("seed").max())
        return table[table["train_loss"] <= level].groupby("run").head(1)

    def caption(self) -> str:
        """The protocol: data, scale, loss, seeds, steps and what is missing, each said once."""
        made = self.manifests[0]["configuration"]
        n_train = self.manifests[0]["data"]["n_train"]
        measured = int(self.on("train")["n"].iloc[0])
        drawn = [setting for setting in self.settings if setting not in self.missing]
        ends = {s: self.last.loc[s]["train_loss"].mean() for s in drawn}
        losses = "; ".join(f"{label(setting)} {loss:.1e}" for setting, loss in ends.items())
        sentences = [
            *self._fallback(),
            f"{NETS[made['net']]} on {DATA[made['data']]} ({n_train:,} training images), "
            f"{self.scale} scale, measured on {measured} samples of a set; "
            f"loss: {LOSSES[made['loss']]}.",
            *self._lengths(drawn),
            f"Mean train loss at the end: {losses}.",
            *self._absences(self.settings),
        ]
        return " ".join(sentences)

    def summary(self, settings: Sequence[tuple[float, int]] | None = None) -> str:
        """Network, data, scale, steps and seeds in one clause, for the caption of a figure.

        Args:
            settings: those that are drawn; by default all that the figure asks for.
        """
        made = self.manifests[0]["configuration"]
        wanted = self.settings if settings is None else settings
        reached = pd.concat([self.reached.loc[s] for s in wanted if s not in self.missing])
        steps = f"{reached.max():,} steps" if reached.nunique() == 1 else f"{_range(reached)} steps"
        return (
            f"{NETS[made['net']]} on {DATA[made['data']]}, {self.scale} scale, {steps}, "
            f"{self._seeds_of([s for s in wanted if s not in self.missing])}"
        )

    def _seeds_of(self, settings: Sequence[tuple[float, int]]) -> str:
        """The seeds that most settings have, and those of the settings that have others."""
        seeds = {label(setting): _seeds(self.reached.loc[setting].index) for setting in settings}
        usual = max(seeds.values(), key=list(seeds.values()).count)
        others = [f"{words} at {name}" for name, words in seeds.items() if words != usual]
        return ", and ".join([usual, *others])

    def reservations(self, settings: Sequence[tuple[float, int]] | None = None) -> str:
        """What a figure of some settings lacks, in sentences; empty if it lacks nothing."""
        settings = self.settings if settings is None else settings
        return " ".join([*self._fallback(), *self._absences(settings)])

    def _fallback(self) -> list[str]:
        if self.scale == self.asked:
            return []
        sentence = f"No run at {self.asked} scale is archived, so this is the {self.scale} scale"
        if self.scale != "smoke":
            return [f"{sentence}."]
        return [f"{sentence}, computed just now on embedded data: not the paper's experiment."]

    def _lengths(self, settings: Sequence[tuple[float, int]]) -> list[str]:
        """Seeds and last steps: one sentence for all settings that have the same."""
        alike: dict[str, list[str]] = {}
        for setting in settings:
            reached = self.reached.loc[setting]
            steps = [f"{step:,}" for step in dict.fromkeys(reached)]
            words = f"{_seeds(reached.index)} to step {', '.join(steps)}"
            alike.setdefault(words, []).append(label(setting))
        if len(alike) == 1:
            (words,) = alike
            return [f"{words[0].upper()}{words[1:]}."]
        return [f"{'; '.join(names)}: {words}." for words, names in alike.items()]

    def _absences(self, settings: Sequence[tuple[float, int]]) -> list[str]:
        sentences = []
        absent = [label(setting) for setting in settings if setting in self.missing]
        if absent:
            sentences.append(f"Missing, no run archived: {'; '.join(absent)}.")
        there = {s: self.reached[s] for s in settings if s not in self.missing}
        planned = len(self.seeds_planned)
        few = [label(setting) for setting, reached in there.items() if len(reached) < planned]
        if few and self.scale == self.asked != "smoke":
            sentences.append(f"Fewer than the {planned} seeds planned: {'; '.join(few)}.")
        short = sum(int((reached < self.steps_planned).sum()) for reached in there.values())
        if short and self.scale != "smoke":
            runs = sum(len(reached) for reached in there.values())
            sentences.append(f"{short} of {runs} runs are short of {self.steps_planned:,} steps.")
        for manifest in self.manifests:
            if manifest["status"] == "diverged":
                sentences.append(f"{manifest['run']} diverged: {manifest['note']}")
        return sentences


def _seeds(seeds: Sequence[int]) -> str:
    """Seeds in words.

    >>> _seeds([1]), _seeds([2, 0, 1, 0]), _seeds([0, 2])
    ('seed 1', 'seeds 0 to 2', 'seeds 0, 2')
    """
    there = sorted(set(seeds))
    if len(there) == 1:
        return f"seed {there[0]}"
    if len(there) > 2 and there == list(range(there[0], there[-1] + 1)):
        return f"seeds {there[0]} to {there[-1]}"
    return f"seeds {', '.join(map(str, there))}"


def _range(steps: pd.Series) -> str:
    return f"{steps.min():,} to {steps.max():,}"


def label(setting: tuple[float, int]) -> str:
    """A setting as figures name it.

    >>> label((0.05, 20))
    'lr 0.05, batch 20'
    """
    lr, batch_size = setting
    return f"lr {lr:g}, batch {batch_size}"


def read(
    name: str, scale: str = "laptop", results: Path | None = None, seeds: Sequence[int] = (1,)
) -> Runs:
    """The archived runs of one experiment, at the scale asked for or the next smaller archived.

    Where none is archived, smoke runs are computed now.

    Args:
        name: of the experiment, a key of ``flatlib.lab.experiments.EXPERIMENTS``.
        scale: ``"smoke"``, ``"laptop"`` or ``"paper"``. Without ``results``, ``"smoke"`` is
            always computed: seconds, on embedded data.
        results: the archive; by default that of the checkout.
        seeds: of the runs that are computed.

    Returns:
        `Runs`; its caption says if the scale is not the one asked for.

    Raises:
        ValueError: an unknown experiment or scale.
        RecordError: an archived record was altered.
    """
    asked, scale = scale, _largest_archived(name, scale, results)
    if scale == "smoke" and not (results and experiments.records(name, "smoke", results)):
        results = _computed(name, tuple(seeds))
    table = experiments.load(name, scale, results)
    table = table.copy().assign(root_sharpness=np.sqrt(table["sharpness"]))
    manifests = tuple(experiments.manifests(name, scale, results))
    return Runs(name, asked, scale, table, manifests)


def population(name: str, results: Path | None = None) -> pd.DataFrame:
    """The networks of a population that are archived today, see `flatlib.lab.populations.load`."""
    return populations.load(name, results)


def _largest_archived(name: str, scale: str, results: Path | None) -> str:
    """The scale asked for, or the next smaller one of which there are archived runs."""
    if experiments.records(name, scale, results):
        return scale
    smaller = SCALES[: SCALES.index(scale)]
    return next((s for s in reversed(smaller) if experiments.records(name, s, results)), "smoke")


@lru_cache
def _folder(seeds: tuple[int, ...]) -> tempfile.TemporaryDirectory:
    """One folder a process for what it computes, gone when the process ends."""
    return tempfile.TemporaryDirectory(prefix="flatlib-smoke-")


def _computed(name: str, seeds: tuple[int, ...]) -> Path:
    """Smoke runs of these seeds; what this process has computed before is not run again."""
    folder = Path(_folder(seeds).name)
    for configuration in experiments.configurations(name, "smoke", seeds):
        experiments.execute(configuration, "smoke", folder)
    return folder
