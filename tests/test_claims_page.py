"""The page "What held": sentences, links, and what becomes of a record that is not whole."""

from __future__ import annotations

import html
import re
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import claims_page
import held
import nbformat
import numpy as np
import pytest
from docutils.nodes import make_id
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.text import Text
from synthetic_archive import SEED_SHIFT, write

from flatlib.lab import associations, claims, figures, verdicts
from flatlib.lab.figures import verdicts as drawing

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "book" / "claims.md").read_text(encoding="utf-8")
CITED = re.findall(r"\{claim\}`([\w.\-]+): ([\w ]+)`", PAGE)
SETTINGS = ((0.05, 20), (0.1, 20), (0.2, 20), (0.1, 8), (0.1, 32))
WHOLE = [(lr, batch, seed, 60_000) for lr, batch in SETTINGS for seed in SEED_SHIFT]


@cache
def decided():
    return verdicts.decide(verdicts.read(ROOT / "results"))


def test_the_page_cites_claims():
    assert len(CITED) == PAGE.count("{claim}`") > 5


@pytest.mark.parametrize(("key", "word"), CITED)
def test_a_sentence_has_the_word_that_the_runs_have(key, word):
    assert decided()[key].word == word


def test_rules_are_said_as_they_are():
    assert f"training accuracy {claims.FITTED}" in PAGE
    assert f"{claims.FITTED_FIXED.day} November {claims.FITTED_FIXED.year}" in PAGE
    assert f"{claims.RULES_FIXED.day} November {claims.RULES_FIXED.year}" in PAGE
    assert f"{claims.AMENDED.day} November {claims.AMENDED.year}" in PAGE
    amended = claims.COMPLETED
    assert f"The fifth and the sixth are from {amended.day} November {amended.year}" in PAGE
    later = {one.statistic for one in claims.CLAIMS if one.fixed == claims.AMENDED}
    assert later == {claims.MISCLASSIFIED, claims.SLOWING, claims.CORRELATION}
    last = [one for one in claims.CLAIMS if one.fixed == amended]
    assert {(one.network, one.quantity) for one in last} == {("vgg10", claims.D)}
    assert f"These {len(last)} claims were added" in PAGE
    dates = {claims.RULES_FIXED, claims.AMENDED, amended}
    assert {one.fixed for one in claims.CLAIMS} == dates
    assert claims.SEEDS == 3 and "At least three seeds" in PAGE
    assert claims.NETWORKS == 20 and "at least 20 are needed" in PAGE
    assert claims.FIVE_PERCENT.size == 0.05 and claims.WEAK.size == 0.3
    assert claims.LEVEL == 0.05 and claims.SCALES == ("paper", "laptop")


def test_the_page_says_what_the_rule_on_scales_changes():
    """Claims that the paper's scale has the seeds for and not the fits."""
    archive = verdicts.read(ROOT / "results")
    strict = verdicts.decide(archive, claims.at_scale("paper"))
    spared = [
        key
        for key, one in strict.items()
        if one.reason == verdicts.CONDITION_UNMET and not decided()[key].reason
    ]
    assert {key.split(".")[0] for key in spared} == {"relu"}
    assert {key.split(".")[1] for key in spared} == {"late", "rate-step", "batch-step"}
    assert f"the {len(spared)} claims on this network late in training and at one step" in PAGE


def test_the_page_says_what_a_looser_fit_makes_of_late_training():
    assert "at training accuracy 0.995 rate 0.05 is among the settings" in PAGE
    words = verdicts.by_threshold(verdicts.read(ROOT / "results"))
    for key in ("relu.late.mls", "relu.late.D"):
        assert words[0.995][key] == "against"
        assert {words[t][key] for t in claims.THRESHOLDS[1:]} == {decided()[key].word}


def test_the_page_names_the_word_that_shared_settings_decide(monkeypatch):
    def over_what_each_seed_has(effects, begin=None):
        defined = np.isfinite(effects)
        seeds = defined.any(axis=0)
        means = np.nanmean(effects[:, seeds], axis=0)
        start = np.nan if begin is None else np.abs(begin[defined & np.isfinite(begin)]).mean()
        return verdicts.Effects(means, start, int(defined.sum()), effects.size)

    now = decided()
    monkeypatch.setattr(verdicts, "_averaged", over_what_each_seed_has)
    before = verdicts.decide(verdicts.read(ROOT / "results"))
    changed = {key for key, one in before.items() if one.word != now[key].word}
    (said,) = (line for line in PAGE.splitlines() if "settings that all seeds share" in line)
    assert set(re.findall(r"\{claim\}`([\w.\-]+):", said)) == changed


def test_the_page_lists_the_words_that_the_cut_of_rank_correlations_decides(monkeypatch):
    now = decided()
    monkeypatch.setattr(associations, "_nearest_one", lambda n: 1 - 1e-9)
    before = verdicts.decide(verdicts.read(ROOT / "results"))
    changed = {key for key, one in before.items() if one.word != now[key].word}
    (said,) = (line for line in PAGE.splitlines() if line.startswith("This change decides"))
    assert set(re.findall(r"\{claim\}`([\w.\-]+):", said)) == changed


def test_three_words_on_vgg10_hung_on_the_cut_while_there_were_20_networks(tmp_path, monkeypatch):
    for folder in ROOT.glob("results/*/*/"):
        if folder != ROOT / "results" / "populations" / "vgg10":
            there = tmp_path / folder.relative_to(ROOT / "results")
            there.parent.mkdir(exist_ok=True)
            there.symlink_to(folder)
    fewer = tmp_path / "populations" / "vgg10"
    fewer.mkdir()
    for index in range(20):
        name = f"network-{index:02d}"
        (fewer / name).symlink_to(ROOT / "results" / "populations" / "vgg10" / name)
    archive = verdicts.read(tmp_path)
    now = verdicts.decide(archive)
    monkeypatch.setattr(associations, "_nearest_one", lambda n: 1 - 1e-9)
    before = verdicts.decide(archive)
    changed = [key for key, one in before.items() if one.word != now[key].word]
    assert len(changed) == 3 and all(key.startswith("vgg10.correlation.") for key in changed)
    assert "three on VGG10 hung on it while there were 20 networks" in PAGE


def test_the_page_sets_the_scales_side_by_side(tmp_path):
    data = held.gather(ROOT / "results")
    found = data["other_scale"]
    assert 0 < found["opposite"] < len(found["differing"]) < found["claims"]
    for one in found["differing"]:
        assert len({at["word"] for at in one["scales"]}) == 2
    page = claims_page.Scales.text(None, data)
    assert f"Of {found['claims']} claims that both scales can test" in page
    assert page.count("<tr>") == 1 + len(found["differing"])
    nothing = claims_page.Scales.text(None, held.gather(tmp_path))
    assert "Of 0 claims" in nothing and "<table" not in nothing


def test_every_claim_leads_to_a_section_of_a_chapter():
    for link in {held.section(one.network, one.group) for one in claims.CLAIMS}:
        chapter, section = re.fullmatch(r"chapters/([\w-]+)\.html#([\w-]+)", link).groups()
        notebook = nbformat.read(ROOT / "notebooks" / f"{chapter}.ipynb", as_version=4)
        text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
        headings = [make_id(heading) for heading in re.findall(r"^#+ (.+)$", text, re.M)]
        assert headings.count(section) == 1, f"{chapter} has no {section!r}"


def test_a_claim_leads_to_the_runs_that_decide_it():
    for one in decided().values():
        link = held.entry(one)["link"]
        if (one.claim.network, one.scale) == ("relu", "paper"):
            assert link.endswith("#all-60-000-images")
        elif (one.claim.network, one.scale) == ("relu", "laptop"):
            assert not link.endswith("#all-60-000-images")


def test_keys_are_unique_and_every_group_has_a_title():
    keys = [one.key for one in claims.CLAIMS]
    assert len(set(keys)) == len(keys)
    assert {one.group for one in claims.CLAIMS} <= set(held.GROUPS)
    assert {one.network for one in claims.CLAIMS} == set(held.NETWORKS)
    assert set(claims_page.SHAPES) == set(verdicts.WORDS)


def test_a_record_that_is_not_whole_is_refused_by_name(tmp_path):
    write(tmp_path, "correlations-mlp-relu", WHOLE)
    runs = sorted((tmp_path / "laptop").iterdir())
    with open(runs[0] / "measurements.csv", "r+") as file:
        file.write("broken")
    (runs[1] / "manifest.json").write_text("{")
    archive = verdicts.read(tmp_path)
    assert len(archive.runs) == len(runs) - 2 and len(archive.refused) == 2
    assert runs[0].name in archive.refused[0] and "altered" in archive.refused[0]
    assert runs[1].name in archive.refused[1]
    data = held.gather(tmp_path)
    assert data["refused"] == list(archive.refused)
    words = {one["key"]: one["word"] for one in data["claims"]}
    assert words["relu.late.mls"] == "not tested"
    shown = claims_page.Refused.text(None, data)
    assert runs[0].name in shown and "left out" in shown
    assert claims_page.Refused.text(None, data | {"refused": []}) == ""


def test_an_empty_archive_tests_nothing(tmp_path):
    data = held.gather(tmp_path)
    assert {one["word"] for one in data["claims"]} == {"not tested"}
    assert data["tested"] == 0 and data["line"] == {} and data["checks"] == []


def test_the_picture_has_room_for_every_claims_name():
    at = dict(word="held", p=0.5, value=0.0, low=-1.0, high=1.0, margin=1.0)
    decided = [SimpleNamespace(claim=claim, **at) for claim in claims.CLAIMS]
    links = {claim.key: "#" for claim in claims.CLAIMS}
    figure = drawing.chart(
        decided, links, {claim.network: claim.network for claim in claims.CLAIMS}
    )
    figure.draw_without_rendering()
    names = figure.axes[0].texts
    assert len(names) > len(decided)
    assert [name.get_text() for name in names if name.get_window_extent().x0 < 0] == []


def test_the_picture_has_a_link_and_a_shape_for_each_claim_with_an_interval(tmp_path):
    write(tmp_path, "correlations-mlp-relu", WHOLE)
    data = held.gather(tmp_path)
    links = {one["link"] for one in data["claims"] if one["uncorrected"] != "not tested"}
    drawn = re.findall(r'xlink:href="(chapters/[^"]+)"', data["picture"])
    # A dot and a name, in the picture for a screen and in that for a telephone.
    assert data["tested"] > 0 and len(drawn) == 4 * data["tested"] and set(drawn) <= links
    ids = re.findall(r' id="([^"]+)"', data["picture"])
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', data["picture"])) <= set(ids)
    label = html.unescape(re.search(r'aria-label="([^"]+)"', data["picture"]).group(1))
    assert label.startswith(f"{data['tested']} claims with their intervals")
    assert not re.search(r"#[0-9a-f]{6}[;\"]", data["picture"].split("<svg")[1])


def texts(figure) -> list[Text]:
    """What is written on a figure, laid out."""
    FigureCanvasAgg(figure).draw()
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]


@pytest.mark.parametrize("narrow", [False, True])
def test_no_name_in_the_picture_is_cut_off(narrow):
    links = {key: "" for key in decided()}
    figure = drawing.chart(list(decided().values()), links, held.NETWORKS, narrow)
    written = texts(figure)
    for text in written:
        box = text.get_window_extent()
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, text.get_text()
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, text.get_text()
    names = [text.get_text() for text in written if text.get_url() is not None]
    assert len(names) == sum(one.p == one.p for one in decided().values())
    assert sum(text.get_text().startswith("change in margins") for text in written) == 2
    ticks = [text for text in written if re.fullmatch("−?10*|0", text.get_text())]
    assert len(ticks) == 2 * len({text.get_text() for text in ticks}) >= 10
    boxes = [text.get_window_extent() for text in ticks]
    assert not any(box.count_overlaps(boxes[:i]) for i, box in enumerate(boxes))


@pytest.mark.parametrize("group", ["fall", "misclassified"])
def test_no_band_and_no_line_stands_behind_a_title(group):
    own = verdicts.of_group(decided(), "vgg10", group)
    figure, _, _ = figures.intervals({"First title": own, "Second title": own[:2]})
    (ax,) = figure.axes
    titles = [text for text in texts(figure) if "title" in text.get_text()]
    spans = [each for each in ax.collections if not isinstance(each, PathCollection)]  # no dots
    behind = [path.vertices[:, 1] for each in spans for path in each.get_paths()]
    assert len(titles) == 2 and not [line for line in ax.lines if len(set(line.get_xdata())) == 1]
    for title in titles:
        row = title.get_position()[1]
        assert not [rows for rows in behind if rows.min() < row < rows.max()], title.get_text()
    assert len(behind) == 4  # a band and a line for each of two groups


def test_legends_name_the_words_in_one_order():
    figure, ax = figures.canvas()
    drawing.legend(figure, ax, [verdicts.NOT_DECIDED, verdicts.AGAINST, verdicts.HELD])
    (legend,) = figure.legends
    words = [text.get_text() for text in legend.get_texts()]
    assert words == [verdicts.HELD, verdicts.AGAINST, verdicts.NOT_DECIDED]
