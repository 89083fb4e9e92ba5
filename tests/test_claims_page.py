"""The page "What held" says what the archived runs say, and leads to the chapters that show it."""

from __future__ import annotations

import math
import re
from functools import cache, partial
from pathlib import Path

import nbformat
import pytest
from docutils.nodes import make_id

from flatlib import archive, figures, findings, statistics

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "book" / "claims.md").read_text(encoding="utf-8").replace("−", "-")
NETS = ("MLP", "VGG10")
TABLE = {
    int(cells[0]): dict(zip(("claim", *NETS, "numbers"), cells[1:], strict=True))
    for line in PAGE.splitlines()
    if (cells := re.split(r" *\| *", line.strip("| ")))[0].isdigit()
}
RATES = ((0.05, 20), (0.1, 20), (0.2, 20))
BATCHES = ((0.1, 32), (0.1, 20), (0.1, 8))
S, V, G, MLS = "root_sharpness", "log_volume", "gradient_energy", "mls"
WORDS = {True: "held", False: "against", None: "not decided"}
SAME_ORDER = "same order"
INTERVAL = re.compile(r"(-?[\d.]+) \((?:95 % interval )?(-?[\d.]+) to (-?[\d.]+)\)")


@cache
def runs(name):
    return archive.read(name, "laptop", ROOT / "results")


def said(finding, when=""):
    """A finding in the page's words: its change or correlation, the interval, the verdict."""
    name = re.match(r".+?(?= on | at |, mis|: corr)", finding.sentence).group()
    value, low, high = INTERVAL.findall(finding.sentence)[-1]
    # `order` compares runs that had not fitted, `moved` leaves them out.
    unmet = finding.agrees and finding.reservation.endswith("had not fitted their data")
    word = SAME_ORDER if unmet else WORDS[finding.agrees]
    return f"{when}{name} {value} ({low} to {high}), {word}"


def unfitted(finding):
    count, left_out = re.match(r"(.+ runs) had not .+ data(.*)", finding.reservation).groups()
    return f"{count} not fitted" + " and left out" * bool(left_out)


def verdict(phrases):
    """The word that the phrases end in, and the phrases, without it unless their words differ."""
    ends = {phrase.rpartition(", ")[2] for phrase in phrases} & {*WORDS.values(), SAME_ORDER}
    if not ends:
        return "*no claim*", phrases
    word = ends.pop() if len(ends) == 1 else "partly"
    unmet = ", before the claim's condition is met" if word == SAME_ORDER else ""
    return f"**{word}{unmet}**", [phrase.removesuffix(f", {word}") for phrase in phrases]


def falls_since_fit(name, *columns):
    found = [findings.moved(runs(name), column, "falls") for column in columns]
    return [*map(said, found), unfitted(found[0])]


def ordered(name, settings, *columns, at="step", when=""):
    found = [findings.order(runs(name), column, settings, at) for column in columns]
    phrases = [said(finding, when if finding is found[0] else "") for finding in found]
    return phrases + [unfitted(finding) for finding in found[:1] if finding.reservation]


def plateau():
    rows = runs("vgg10-batch-size").on("train").sort_values("step")
    assert rows["step"].max() < 150_000, "the runs are long enough to decide this"
    late = rows[(rows["batch_size"] == 32) & (rows["step"] >= 50_000)].groupby("run")
    s, v = (late[column].first() - late[column].last() for column in (S, V))
    return [
        f"in the last {(late['step'].last() - late['step'].first()).max():,} steps "
        f"√S still falls by {s.min():.2g} to {s.max():.2g}",
        f"log volume by {v.min():.2g} to {v.max():.2g}, not decided",
    ]


def on_test_images(column, expected, *others):
    name = "vgg10-test-set"
    moved = partial(findings.moved, runs(name), samples="test")
    return [
        said(moved(column, expected, since="start"), "from the start "),
        said(moved(column, expected), "once fitted "),
        said(findings.higher_on_misclassified(runs(name), column), "misclassified against all "),
        *(said(moved(other, expected, since="start"), "from the start ") for other in others),
    ]


def with_sharpness(rows, column):
    """Each run's correlation."""
    return [statistics.pearson(run[S], run[column]).value for _, run in rows.groupby("run")]


def dimensionality():
    found = runs("vgg10-learning-rate")
    fall = findings.moved(found, "local_dimensionality", "falls", since="start")
    rows = found.on("train")
    later = rows[rows["step"] >= rows["run"].map(findings.fit_steps(found))]
    rho = with_sharpness(later, "local_dimensionality")
    span = f"{min(rho):.2f} to {max(rho):.2f} in {len(rho)} runs"
    return [said(fall), f"once fitted, its correlation with √S is {span}, not decided"]


def late_in_training():
    rows = runs("correlations-mlp").on("train")
    second_half = rows["step"] >= rows.groupby("run")["step"].transform("max") / 2
    rho = with_sharpness(rows[second_half], G)
    together = sum(value > 0.9 for value in rho)
    phrase = f"√S goes with G in {together} of {len(rho)} runs"
    return [*falls_since_fit("mlp-learning-rate", S, V), phrase]


def chain_of_mlp():
    table = figures.inequality_table(runs("correlations-mlp")).set_index("key")
    held, measured = table["held"][["25", "26", "27"]].min(), table["measured"]["25"]
    gap = findings.largest_gap(runs("correlations-mlp"))
    factor, difference = re.findall(r"C to D the largest in (\d+ of \d+)", gap.sentence)
    return [
        f"the order in {held:,} of {measured:,} measurements, {WORDS[bool(held == measured)]}",
        f"C to D the largest difference in {difference} runs",
        f"the largest factor in {factor}, {WORDS[gap.agrees]}",
    ]


def chain_of_vgg10():
    table = figures.inequality_table(runs("vgg10-learning-rate")).set_index("key")
    held, measured = table["held"], table["measured"]["25"]
    return [f"A ≤ B in {held['25']:,} of {measured:,} measurements", f"A ≤ D in {held['13']:,}"]


@cache
def pairs(net):
    return figures.pairs(runs(f"correlations-{net}"), figures.WITH_BOUNDS)


def correlated(net, *claims):
    return [said(findings.correlated(pairs(net), *claim)) for claim in claims]


def one_quantity(net):
    """Across settings by findings; within them by Fisher's interval, five means less in freedom."""
    pair = pairs(net).set_index(["first", "second"]).loc[(G, MLS)]
    excluded = math.atanh(pair["within"]) > 1.96 / math.sqrt(pair["n"] - pair["settings"] - 2)
    within = f"{pair['within']:.2f} within a setting, {WORDS[True if excluded else None]}"
    return [*correlated(net, (G, MLS, 1)), within]


def with_test_loss(net):
    """Findings has no verdict on which of two correlations is the stronger."""
    rho = pairs(net).set_index(["second", "first"]).loc["test_loss", "between"]
    mls, v, dimension = (f"{rho[column]:.2f}" for column in (MLS, V, "local_dimensionality"))
    return [
        *correlated(net, (S, "test_loss", 1)),
        f"MLS {mls} against {v} and {dimension}, no interval of the difference, not decided",
    ]


CELLS = {
    (1, "VGG10"): lambda: falls_since_fit("vgg10-learning-rate", S, V, G),
    (2, "VGG10"): lambda: [
        *ordered("vgg10-learning-rate", RATES, S, V),
        *ordered("vgg10-learning-rate", RATES, V, at="loss", when="at equal loss "),
    ],
    (3, "VGG10"): lambda: ordered("vgg10-batch-size", BATCHES, S, V),
    (4, "VGG10"): plateau,
    (5, "VGG10"): lambda: on_test_images(S, "rises", G),
    (6, "VGG10"): lambda: on_test_images(V, "falls"),
    (7, "VGG10"): dimensionality,
    (8, "MLP"): late_in_training,
    (9, "MLP"): lambda: [
        *ordered("mlp-learning-rate", RATES, S, V, when="by rate "),
        *ordered("mlp-batch-size", BATCHES, S, V, when="by batch "),
    ],
    (10, "MLP"): chain_of_mlp,
    (10, "VGG10"): chain_of_vgg10,
    (11, "MLP"): lambda: correlated("mlp", ("C", MLS, 1), ("D", MLS, -1)),
    (12, "MLP"): lambda: one_quantity("mlp"),
    (12, "VGG10"): lambda: one_quantity("vgg10"),
    (13, "MLP"): lambda: correlated("mlp", (V, S, 1), (V, MLS, 1)),
    (13, "VGG10"): lambda: correlated("vgg10", (V, S, 1), (V, MLS, 1)),
    (14, "MLP"): lambda: with_test_loss("mlp"),
    (14, "VGG10"): lambda: with_test_loss("vgg10"),
}


def test_rows_are_the_sixteen_claims():
    assert list(TABLE) == list(range(1, 17))


@pytest.mark.parametrize("row", sorted({row for row, _ in CELLS}))
def test_a_row_says_what_the_runs_say(row):
    decided = {net: verdict(CELLS[row, net]()) for net in NETS if (row, net) in CELLS}
    lines = [
        f"{net}: {'; '.join(phrases)}." if len(decided) > 1 else f"{'; '.join(phrases)}."
        for net, (_, phrases) in decided.items()
    ]
    assert {net: TABLE[row][net] for net in decided} == {net: v for net, (v, _) in decided.items()}
    assert TABLE[row]["numbers"].partition("<br><a")[0] == "<br>".join(lines)


def test_what_no_run_decides_has_no_verdict():
    for row, cells in TABLE.items():
        for net in NETS:
            if (row, net) not in CELLS:
                silent = r"\*\*not tested\*\*" if row > 14 else r"\*no claim\*|see rows? \d(, \d)?"
                assert re.fullmatch(silent, cells[net]), (row, net)


def test_sentences_around_the_table_count_the_archive():
    many = {net: runs(f"correlations-{net}") for net in ("mlp", "vgg10")}
    whole = runs("mlp-all-images")
    everything = [*many.values(), whole]
    assert f"All {sum(len(found.manifests) for found in everything)} runs" in PAGE
    assert {found.last["step"].min() for found in everything} == {60_000}
    assert "stop at 60,000 steps" in PAGE and "with three seeds each" in PAGE
    for name, found in many.items():
        assert set(found.reached.groupby(["lr", "batch_size"]).size()) == {3}
        fitted = int(findings.fit_steps(found).notna().sum())
        assert f"{fitted} of the {len(found.last)} {name.upper()}s" in PAGE
    assert not findings.fit_steps(whole).notna().any() and "none of those runs fitted" in PAGE
    assert f"training accuracy of {findings.FITTED}" in PAGE


def test_every_row_leads_to_a_section_of_a_chapter():
    for row, cells in TABLE.items():
        links = re.findall(r'href="chapters/([\w-]+)\.html#([\w-]+)"', cells["numbers"])
        assert links, f"row {row} leads nowhere"
        for chapter, section in links:
            notebook = nbformat.read(ROOT / "notebooks" / f"{chapter}.ipynb", as_version=4)
            text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
            headings = [make_id(heading) for heading in re.findall(r"^#+ (.+)$", text, re.M)]
            assert headings.count(section) == 1, f"row {row}: {chapter} has no {section!r}"
