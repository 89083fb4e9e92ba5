"""The archive's curves as the page shows them: means and spreads over seeds, one file a network.

A file is a script that hands its data over: a browser loads a script from a site that was opened
from disk, which it refuses to do with JSON.
"""

from __future__ import annotations

import json
import math

import pandas as pd

from flatlib.inequalities import COLUMNS
from flatlib.lab import archive, experiments, statistics
from flatlib.lab.archive import Runs, label
from flatlib.lab.figures.inequalities import both_sides_of
from flatlib.lab.figures.style import SAMPLES, SETTINGS
from flatlib.lab.figures.views import GAP, ON, QUANTITIES, network_of, setting_key

FACTORS = ("B/A", "C/B", "D/C")
DIGITS, SPREAD_DIGITS = 5, 3  # significant ones that a file holds; a page shows three
GAPS_ON = ("train",)  # samples that an inequality's gap is shown on, as in the figures
LARGEST = 80  # checkpoints that a file holds, beside those at which a run fits
SEPARATE = ("lr", "batch_size", "samples", "step")  # what a point of a curve is


def networks() -> dict[str, list[str]]:
    """The experiments of each archived network, data and scale; that with most settings first."""
    found: dict[str, list[str]] = {}
    for scale in reversed(archive.SCALES):
        for name in experiments.EXPERIMENTS:
            if scale != "smoke" and experiments.records(name, scale):
                found.setdefault(network_of(name, scale), []).append(name)
    settings = {name: len(each.settings) for name, each in experiments.EXPERIMENTS.items()}
    return {key: sorted(names, key=lambda n: -settings[n]) for key, names in found.items()}


def table_of(runs: Runs) -> pd.DataFrame:
    """The runs' table with every quantity that the page draws as a column."""
    table = runs.table
    n_test = runs.manifests[0]["data"]["n_test"]
    derived = {name: table[name[0]] / table[name[2]] for name in FACTORS}
    derived["n_wrong"] = (1 - table["test_accuracy"]) * n_test
    table = table.drop(columns="n_wrong", errors="ignore").assign(**derived)
    table = table[table["samples"].isin(SAMPLES)]
    keys = list(runs.manifests[0]["bounds"])
    sides = both_sides_of(runs, keys, GAPS_ON)
    gaps = sides.pivot(index=["run", "step", "samples"], columns="key", values="decades")
    gaps.columns = [f"{GAP}{key}" for key in gaps.columns]
    return table.merge(gaps.reset_index(), on=["run", "step", "samples"], how="left")


def quantities(runs: Runs) -> dict[str, dict]:
    """Title, kind of axis and group of every quantity that these runs have."""
    found = {
        name: {"title": title, "logarithmic": logarithmic, "group": _group(name)}
        for name, (title, logarithmic) in QUANTITIES.items()
        if name in FACTORS or name == "n_wrong" or name in runs.table.columns
    }
    for key, bound in runs.manifests[0]["bounds"].items():
        title = f"gap of ({key}) in decades: {_plain(bound['name'])}"
        proven = "" if bound["proven"] else ", not proven here"
        group = f"Gaps of inequalities: {COLUMNS[key].inequality.group}"
        found[f"{GAP}{key}"] = {"title": title + proven, "logarithmic": False, "group": group}
    return found


def _group(quantity: str) -> str:
    if quantity in ON:
        return "Progress"
    chain = quantity in FACTORS or "Eq. (28)" in QUANTITIES[quantity][0] or quantity == "C_prime"
    return "The chain of Eq. (28)" if chain else "Sharpness and compression"


def _plain(name: str) -> str:
    """An inequality's name without mathematical type.

    >>> _plain("||grad_x f||_2 by ||grad_theta f||_F")
    '‖∇_x f‖_2 by ‖∇_θ f‖_F'
    """
    for words, sign in {"||": "‖", "grad_theta": "∇_θ", "grad_": "∇_", "<=": "≤"}.items():
        name = name.replace(words, sign)
    return name


def means(runs: Runs) -> pd.DataFrame:
    """Mean, spread and count of every quantity, one row a setting, set of samples and step."""
    known = quantities(runs)
    logarithmic = [name for name, each in known.items() if each["logarithmic"]]
    table = table_of(runs).replace([math.inf, -math.inf], math.nan)
    return statistics.mean_and_spread(table, SEPARATE, list(known), logarithmic)


def curves(runs: Runs) -> dict:
    """What the file of a network holds.

    Returns:
        ``steps``, see `shown_steps`; ``quantities``; ``fits``, for each setting the steps at which
        its runs fit; ``curves``, for each quantity, setting and set of samples the means, the
        spreads and the counts at those steps, None where nothing finite was measured.
    """
    table, known, steps = means(runs), quantities(runs), shown_steps(runs)
    drawn: dict = {name: {} for name in known}
    for (lr, batch_size, samples), own in table.groupby(["lr", "batch_size", "samples"]):
        own = own.set_index("step").reindex(steps)
        for name in known:
            count = own[f"{name}.n"].fillna(0).astype(int)
            if samples in ON.get(name, SAMPLES) and count.any():
                curve = {
                    "mean": _short(own[f"{name}.mean"], DIGITS),
                    "spread": _short(own[f"{name}.spread"], SPREAD_DIGITS),
                    "n": int(count.iloc[0]) if count.nunique() == 1 else count.tolist(),
                }
                drawn[name].setdefault(setting_key((lr, batch_size)), {})[samples] = curve
    return {
        "steps": steps,
        "quantities": {name: each for name, each in known.items() if drawn[name]},
        "fits": _fits(runs),
        "curves": {name: each for name, each in drawn.items() if each},
    }


def shown_steps(runs: Runs) -> list[int]:
    """The checkpoints that a file holds: all, or of long runs every second, say, of the later ones.

    All of the logarithmic beginning stay, and those at which a run fits.
    """
    every = runs.manifests[0]["configuration"]["measure_every"]
    steps = sorted(int(step) for step in runs.table["step"].unique())
    early = [step for step in steps if step == 0 or step % every]
    later = sorted(set(steps) - set(early), reverse=True)
    apart = max(1, -(-len(later) // (LARGEST - len(early))))
    fits = {step for found in _fits(runs).values() for step in found}
    return sorted({*early, *later[::apart], *fits})


def _short(values: pd.Series, digits: int) -> list[float | None]:
    """Numbers rounded to significant digits; what is not finite is None."""
    return [float(f"{v:.{digits - 1}e}") if math.isfinite(v) else None for v in values]


def _fits(runs: Runs) -> dict[str, list[int]]:
    """The fit step of each run that fits, by setting."""
    first = runs.table.groupby("run")[["lr", "batch_size"]].first()
    found: dict[str, list[int]] = {}
    for run, step in runs.fit_steps().dropna().items():
        setting = float(first.loc[run, "lr"]), int(first.loc[run, "batch_size"])
        found.setdefault(setting_key(setting), []).append(int(step))
    return found


def commands(runs: Runs, names: list[str]) -> list[dict]:
    """For each experiment, that with fewest settings first, the command that makes its runs."""
    seeds = sorted(runs.reached.index.unique("seed"))
    given = "" if seeds == list(runs.seeds_planned) else f" --seeds {','.join(map(str, seeds))}"
    longest = int(runs.reached.max())
    length = "" if longest == runs.steps_planned else f" --steps {longest}"
    return [
        {
            "settings": [setting_key(s) for s in experiments.EXPERIMENTS[name].settings],
            "command": f"flatlib run {name} --scale {runs.scale}{given}{length}",
        }
        for name in reversed(names)
    ]


def head(key: str, runs: Runs, names: list[str]) -> dict:
    """What the page says of a network before its file is loaded."""
    made, data = runs.manifests[0]["configuration"], runs.manifests[0]["data"]
    there = [setting for setting in runs.settings if setting not in runs.missing]
    reached, net = runs.reached, archive.NETS[made["net"]]
    shown, measured = len(shown_steps(runs)), runs.table["step"].nunique()
    drawn = "" if shown == measured else f"; {shown} of {measured} checkpoints are drawn"
    return {
        "key": key,
        "title": f"{net}, on {archive.DATA[made['data']]}, {runs.scale} scale",
        "says": f"{data['n_train']:,} training images; {len(reached)} runs to step "
        f"{reached.max():,}; everything but losses and accuracies measured on "
        f"{int(runs.on('train')['n'].iloc[0])} samples of a set{drawn}.",
        "settings": [setting_key(setting) for setting in there],
        "commands": commands(runs, names),
    }


def looks() -> dict:
    """Name, colour and marker of each setting, and the line of each set of samples."""
    return {
        "settings": {
            setting_key(setting): {
                "title": label(setting),
                "color": look.color,
                "marker": look.marker,
            }
            for setting, look in SETTINGS.items()
        },
        "samples": {name: look.line for name, look in SAMPLES.items()},
    }


def script(key: str, runs: Runs) -> str:
    """The file of a network."""
    data = json.dumps(curves(runs), separators=(",", ":"), ensure_ascii=False)
    return f"explorables.receive({json.dumps(key)}, {data});\n"
