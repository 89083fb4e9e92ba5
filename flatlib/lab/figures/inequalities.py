"""Both sides of every recorded inequality, drawn through training and counted in a table."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flatlib.inequalities import COLUMNS, TABLE
from flatlib.lab import statistics
from flatlib.lab.archive import Runs, label

from .curves import ArchiveFigure, axis, curve, handles, here
from .style import COLORS, SETTINGS, Look, canvas
from .views import GAP, views

# Inequalities that one figure shows together.
GROUPS = tuple(dict.fromkeys(each.group for each in TABLE.values() if each.group))
ARCHIVED_DIGITS = 1e-9  # tables hold ten significant digits
LEFT = Look("ink", "o", "-")
LINES_OF = {"right side": "--", "gap": "-"}  # in the setting's colour


def inequalities(group: str, runs: Runs, setting: tuple[float, int] = (0.1, 20)) -> ArchiveFigure:
    """Both sides of each inequality of a group, and under them the gap, at every checkpoint.

    The gap is drawn in decades, ``log10(right / left)``, so that 0 is equality and below 0 the
    inequality fails; of inequalities between logarithms, whose sides are drawn on a linear axis,
    it is the difference over ``ln 10``.

    Args:
        group: one of ``GROUPS``.
        runs: archived runs.
        setting: ``(lr, batch_size)`` of the runs that are drawn.

    Returns:
        `ArchiveFigure`; its numbers have, for each inequality's ``key`` and each ``step``, mean,
        spread and n of ``left``, ``right``, ``gap`` (right minus left) and ``decades``; those of
        the sides are geometric where their axis is logarithmic.

    Raises:
        ValueError: an unknown group, or one that was not recorded for this network.
    """
    if group not in GROUPS:
        raise ValueError(f"group must be one of {', '.join(GROUPS)}, got {group!r}")
    names = {k: b for k, b in _recorded(runs).items() if COLUMNS[k].inequality.group == group}
    if not names:
        raise ValueError(f"no inequality on {group!r} was recorded for {runs.name}")
    sides = both_sides_of(runs, names)
    sides = sides[(sides["lr"] == setting[0]) & (sides["batch_size"] == setting[1])]
    if sides.empty:
        raise ValueError(f"no run of {runs.name} at {runs.scale} scale has {label(setting)}")
    figure, axes = _blocks(len(names))
    color, marker = SETTINGS[setting].color, SETTINGS[setting].marker
    looks = {name: Look(color, marker, line) for name, line in LINES_OF.items()}
    looks = {"left side": LEFT} | looks
    parts, said, fits = [], [], runs.fit_steps()
    for (top, low), (key, bound) in zip(axes, names.items(), strict=True):
        own = sides[sides["key"] == key]
        logarithmic = not COLUMNS[key].inequality.logarithmic and _spans_decades(own)
        columns = ["left", "right", "gap", "decades"]
        geometric = columns[:2] if logarithmic else []
        parts.append(statistics.mean_and_spread(own, ["key", "step"], columns, geometric))
        axis(top, heading(key, bound["proven"]), logarithmic)
        axis(low, "", False)
        for side in ("left", "right"):
            curve(top, own, side, looks[f"{side} side"], f"{side} side", fits)
        curve(low, own, "decades", looks["gap"], "gap", fits)
        low.axhline(0, color=COLORS["muted"], lw=1, linestyle="-")
        if np.isinf(own["right"]).all():
            _say_infinite(low)
        for ax in (top, low):
            ax.set(xlabel="", ylabel="")
        top.title.set_fontsize(8)
        said.append(f"({key}) gap {_span(parts[-1]['decades.mean'])} decades")
    numbers = pd.concat(parts, ignore_index=True)
    figure.legend(handles=handles(looks), loc="outside lower center", ncols=3)
    axes[0][1].set_ylabel("gap, decades", fontsize=7)
    alt = f"Both sides of {len(names)} inequalities against steps, gaps below: {'; '.join(said)}."
    caption = f"{here(runs, numbers, settings=[setting])} Drawn are the inequalities on {group} "
    caption += f"at {label(setting)}. {_how(names)}"
    links = views(runs, {f"{GAP}{key}": f"gap of ({key})" for key in names}, [setting])
    return ArchiveFigure(figure, runs, numbers, alt, caption, links)


def inequality_table(runs: Runs) -> pd.DataFrame:
    """Every recorded inequality over all runs and checkpoints, training and test samples.

    Args:
        runs: archived runs.

    Returns:
        One row an inequality: ``key``, ``label``, ``name``, ``proven``, ``measured`` (how often),
        ``held`` (how often the left side was at most the right one, to the nine digits that
        every table holds), ``least`` and ``last`` gap in decades, the latter the median over
        runs at their last step on training samples.
    """
    names = _recorded(runs)
    sides = both_sides_of(runs, names, ("train", "test"))
    final = sides["step"] == sides.groupby("run")["step"].transform("max")
    rows = []
    for key, bound in names.items():
        own = sides[(sides["key"] == key) & sides["holds"].notna()]
        last = own[final.loc[own.index] & (own["samples"] == "train")]["decades"].median()
        rows.append(
            {"key": key, "label": bound["label"], "name": bound["name"]}
            | {"proven": bound["proven"], "measured": len(own), "held": int(own["holds"].sum())}
            | {"least": own["decades"].min(), "last": last}
        )
    return pd.DataFrame(rows)


def both_sides_of(
    runs: Runs, keys: Sequence[str], samples: Sequence[str] = ("train",)
) -> pd.DataFrame:
    """Both sides and the gap of some inequalities, one row a run, step, set of samples and key.

    Returns:
        Columns ``run``, ``lr``, ``batch_size``, ``seed``, ``step``, ``samples``, ``key``,
        ``left``, ``right``, ``gap`` (right minus left), ``decades`` and ``holds``.
    """
    table = runs.table[runs.table["samples"].isin(samples)]
    parts = []
    for key in keys:
        left, right = table[f"lhs_{key}"], table[f"rhs_{key}"]
        with np.errstate(divide="ignore", invalid="ignore"):
            if COLUMNS[key].inequality.logarithmic:
                decades = (right - left) / math.log(10)
            else:
                decades = np.log10(right / left)
            size = np.maximum(left.abs(), right.abs())
            rounding = ARCHIVED_DIGITS * size.where(np.isfinite(size), 0.0)
        known = left.notna() & right.notna()
        part = table[["run", "lr", "batch_size", "seed", "step", "samples"]].assign(
            key=key,
            left=left,
            right=right,
            gap=right - left,
            decades=decades,
            holds=(left <= right + rounding).astype(float).where(known),
        )
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def heading(key: str, proven: bool) -> str:
    """The title of an inequality's panel: equation, which of its inequalities, both sides.

    >>> heading("6.3", proven=True).splitlines()[0]
    '(6), part 3, $k=2$:'
    >>> heading("13", proven=False)
    '(13), not proven here:\\n$A\\\\leq D$'
    """
    column, part = COLUMNS[key], _part(key)
    labels = [f"({column.label})", f"part {part}" if part else ""]
    labels.append(f"$k={column.k}$" if column.inequality.powers else "")
    apart = "\n" if column.inequality.powers else " "  # a panel is not wide enough for all four
    where = "" if proven else f",{apart}not proven here"
    left, by, right = in_symbols(column.step.name).partition(" by ")
    lines = [f"{', '.join(filter(None, labels))}{where}:", left, by.lstrip() + right]
    return "\n".join(filter(None, lines))


def _part(key: str) -> int:
    """Which of the inequalities of its label a key is, from 1; 0 where it is the only one.

    >>> _part("6.3"), _part("13")
    (3, 0)
    """
    same = [each.key for each in COLUMNS.values() if each.label == COLUMNS[key].label]
    return same.index(key) + 1 if len(same) > 1 else 0


def in_symbols(name: str) -> str:
    r"""An inequality's name as a figure writes it, its formulas in mathematical type.

    >>> in_symbols("||grad_x f||_2 by ||T_W||_2 ||delta||_F")
    '$\\Vert\\nabla_x f\\Vert_2$ by $\\Vert T_W\\Vert_2$ $\\Vert\\delta\\Vert_F$'
    >>> in_symbols("B <= C'"), in_symbols("log NVR by sharpness")
    ("$B\\leq C'$", 'log NVR by sharpness')
    """
    for pattern, symbols in _SYMBOLS.items():
        name = re.sub(pattern, symbols, name)
    return name


_SYMBOLS = {  # in this order
    r"\bgrad_theta\b": r"\\nabla_\\theta",
    r"\bgrad_(x\^l|W_l|x|W)(?= f)": r"\\nabla_{\1}",
    r"\bdelta\b": r"\\delta",
    r" \(untied\)": r"\\,\\mathrm{(untied)}",
    r"\|\|(.+?)\|\|((?:[_^]\w)*)": r"$\\Vert \1\\Vert\2$",
    r"\\nabla_\{(\w)\}": r"\\nabla_\1",
    r"Vert \\": r"Vert\\",
    r"N\^\(N/2\)": r"$N^{N/2}$",
    r"D_PR": r"$D_\\mathrm{PR}$",
    r"MLS\^2": r"MLS$^2$",
    r"min_p ": r"$\\min_p$",
    r"([A-D]'?) <= ([A-D]'?)": r"$\1\\leq \2$",
}


def _how(keys: Sequence[str]) -> str:
    """How a group is drawn, and what its titles mean."""
    columns = [COLUMNS[key] for key in keys]
    sentences = ["Below each, the gap in decades."]
    if part := next((each for each in columns if _part(each.key)), None):
        sentences.append(
            f"Part {_part(part.key)} of ({part.label}) is the inequality that the tables call "
            f"{part.key}."
        )
    moved = [
        f"panel ({each.label}) shows the step {each.step.name.replace('<=', '≤')} of "
        f"Eq. ({each.inequality.label})"
        for each in columns
        if each.label != each.inequality.label
    ]
    if moved:
        sentences.append(f"As in the archive, {' and '.join(moved)}.")
    if any(each.inequality.per_sample for each in columns):
        sentences.append(
            "Where an inequality is one of each sample, those of the tightest are drawn."
        )
    logarithms = dict.fromkeys(each.label for each in columns if each.inequality.logarithmic)
    if logarithms:
        which = ", ".join(f"({label})" for label in logarithms)
        sentences.append(f"The sides of {which} are logarithms already.")
    return " ".join(sentences)


def _recorded(runs: Runs) -> dict[str, dict]:
    """The inequalities that these runs recorded, by key."""
    return runs.manifests[0]["bounds"]


def _blocks(count: int) -> tuple[Figure, list[tuple[Axes, Axes]]]:
    """Pairs of axes, both sides above and the gap below, three pairs a row."""
    rows = -(-count // 3)
    ratios = [2.2, 1.0] * rows
    figure, axes = canvas(2 * rows, 3, height=205 * rows, height_ratios=ratios, squeeze=False)
    pairs = [(axes[2 * (i // 3), i % 3], axes[2 * (i // 3) + 1, i % 3]) for i in range(3 * rows)]
    for top, low in pairs[count:]:
        top.remove()
        low.remove()
    return figure, pairs[:count]


def _spans_decades(sides: pd.DataFrame) -> bool:
    """Whether both sides are above 0, so that a logarithmic axis shows them."""
    values = pd.concat([sides["left"], sides["right"]])
    return bool((values[np.isfinite(values)] > 0).all()) and bool(np.isfinite(values).any())


def _say_infinite(ax: Axes) -> None:
    ax.set_axis_off()
    ax.text(
        0.5,
        0.5,
        "right side infinite: no bound",
        ha="center",
        va="center",
        fontsize=7,
        transform=ax.transAxes,
        in_layout=False,
    )


def _span(values: pd.Series) -> str:
    finite = values[np.isfinite(values)]
    return f"{finite.min():.2g} to {finite.max():.2g}" if len(finite) else "undefined"
