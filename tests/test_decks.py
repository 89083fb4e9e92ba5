"""The slides: pieces of the chapters, minutes that add up, reveal.js from its package."""

from __future__ import annotations

import json
import re
from importlib.metadata import files
from pathlib import Path

import decks
import pytest
from sphinx.cmd.build import build_main

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"
DECKS = sorted((BOOK / "slides").glob("*.md"))
IMAGES = '<img class="only-light" alt="a line" src="l.svg"><img class="only-dark" src="d.svg">'
OPENED = '<figure class="flatlib-figure" data-views="network=mlp">'
SHOWN = f"{OPENED}<div>{IMAGES}</div><figcaption><b>Figure 1.2.</b> A line."
EXECUTED = {
    "nbformat": 4,
    "nbformat_minor": 5,
    "metadata": {},
    "cells": [
        {"cell_type": "markdown", "source": ["Hence\n\n$$\na\\le b\n\\tag{N.3}\n$$\n\nand so on."]},
        {"cell_type": "code", "outputs": [{"data": {"text/html": [SHOWN, "</figure>"]}}]},
    ],
}


SESSIONS = {"one-lecture": 1, "one-week": 3, "two-weeks": 6, "project": 1}


@pytest.mark.parametrize("deck", DECKS, ids=lambda path: path.stem)
def test_every_session_of_a_deck_has_ninety_minutes(deck):
    slides = decks.schedule(deck.read_text())
    assert len({title for title, _ in slides}) == len(slides)
    starts = [k for k, (title, _) in enumerate(slides) if title.startswith("Session ")] or [0]
    assert starts[0] == 0 and len(starts) == SESSIONS[deck.stem]
    for number, (first, end) in enumerate(zip(starts, [*starts[1:], None], strict=True), 1):
        assert sum(minutes for _, minutes in slides[first:end]) == 90
        assert len(starts) == 1 or slides[first][0].startswith(f"Session {number}: ")
    # A lecturer talks for minutes; a seminar presents a proof, and a class works on an exercise.
    longest = 7 if deck.stem == "one-lecture" else 20
    assert max(minutes for _, minutes in slides) <= longest


def test_every_plan_has_a_deck_and_every_deck_a_schedule():
    plans = (BOOK / "instructors.md").read_text().partition("## Plans")[2].partition("\n## ")[0]
    named = [title.removeprefix("A ").lower() for title in re.findall("^### (.+)$", plans, re.M)]
    assert {name.replace(" ", "-") for name in named} == {deck.stem for deck in DECKS}
    page = (BOOK / "slides.md").read_text()
    for deck in DECKS:
        assert f"](slides/{deck.name})" in page
        assert f"```{{deck-schedule}} slides/{deck.stem}\n```" in page


@pytest.mark.parametrize("deck", DECKS, ids=lambda path: path.stem)
def test_a_deck_takes_its_figures_from_the_chapters_and_needs_no_network(deck):
    text = deck.read_text()
    taken = re.findall(r"^```\{chapter-figure\} (\S+)\n```$", text, re.M)
    assert len(taken) >= 5 and len(set(taken)) == len(taken)
    assert not re.search(r"!\[|<img|\{(?:figure|image)\}|https?://", text)


def test_a_figure_is_taken_in_light_colours_with_its_text():
    assert decks.figure(EXECUTED, "1.2") == (
        '<figure><img class="only-light" alt="a line" src="l.svg"></figure>'
    )
    with pytest.raises(ValueError, match="no figure 1.20 is shown"):
        decks.figure(EXECUTED, "1.20")


@pytest.mark.parametrize(
    "body", ["Text.", "```{notes} 3\nOne.\n```\n\n```{notes} 3\nTwo.\n```", "```{notes} few\n```"]
)
def test_a_slide_without_minutes_is_named(body):
    with pytest.raises(ValueError, match="the slide 'Second' needs notes with minutes, once"):
        decks.schedule(f"# T\n\n## First\n\n```{{notes}} 1\nA.\n```\n\n## Second\n\n{body}\n")


def test_reveal_comes_with_its_licence_and_asks_no_other_host():
    shipped = {
        name: one
        for name in decks.TAKEN
        for one in files(decks.PACKAGE)
        if one.as_posix().endswith(f"/revealjs/{name}")
    }
    assert set(shipped) == set(decks.TAKEN)
    assert "Permission is hereby granted, free of charge" in shipped["LICENSE"].read_text()
    for name, one in shipped.items():
        if name.endswith(".css"):
            assert not re.search(r"url\((?!data:)|@import", one.read_text()), name


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A deck of one slide, and pages that ask for what is not there; what the build said."""
    folder = tmp_path_factory.mktemp("decks")
    (folder / "chapters").mkdir()
    (folder / "chapters" / "01-one.ipynb").write_text(json.dumps(EXECUTED))
    (folder / "conf.py").write_text(
        'extensions = ["myst_parser", "decks"]\nsource_suffix = [".md"]\n'
        'myst_enable_extensions = ["dollarmath"]\n'
        f"templates_path = [{str(BOOK / '_templates')!r}]\n"
    )
    pieces = "```{chapter-figure} 1.2\n```\n\n```{chapter-formula} N.3\n```\n"
    notes = "```{notes} 4\nSay *this*.\n```\n"
    front = "---\ntemplate: deck\norphan: true\n---\n\n"
    pages = {
        "index": "# Front\n\n```{deck-schedule} deck\n```\n",
        "deck": f"{front}# A deck\n\nOf one slide.\n\n## The slide\n\n{pieces}\n{notes}",
        "figure": "---\norphan: true\n---\n\n# F\n\n```{chapter-figure} 9.9\n```\n",
        "formula": "---\norphan: true\n---\n\n# F\n\n```{chapter-formula} 99\n```\n",
        "table": "---\norphan: true\n---\n\n# F\n\n```{deck-schedule} nodeck\n```\n",
    }
    for name, text in pages.items():
        (folder / f"{name}.md").write_text(text)
    log = folder / "log"
    arguments = ["-q", "-E", "-w", str(log), "-b", "html", str(folder), str(folder / "html")]
    assert build_main(arguments) == 0
    return folder / "html", log.read_text()


def test_a_deck_has_a_slide_for_its_title_and_each_heading(site):
    page = (site[0] / "deck.html").read_text()
    slides = re.findall(r'<section[^>]* id="([\w-]+)">(.*?)</section>', page, re.S)
    assert [name for name, _ in slides] == ["a-deck", "the-slide"]
    assert "<h1>A deck</h1>" in slides[0][1] and "<h2>The slide</h2>" in slides[1][1]
    assert (
        'alt="a line"' in slides[1][1] and r"a\le b" in slides[1][1] and "tag" not in slides[1][1]
    )
    notes = re.search(r'<aside class="notes">(.*?)</aside>', slides[1][1], re.S)[1]
    assert "4 minutes." in notes and "Say <em>this</em>." in notes
    assert (site[0] / "_static" / "deck" / "reveal" / "reveal.js").stat().st_size > 50_000
    assert "The slide" in (site[0] / "index.html").read_text()


def test_what_a_deck_gets_wrong_is_named_by_page(site):
    for page, said in {
        "figure": "no chapter in chapters/ shows figure 9.9",
        "formula": "no chapter in chapters/ shows formula 99",
        "table": "nodeck: ",
    }.items():
        assert re.search(rf"{page}\.md:\d+: [^\n]*{re.escape(said)}", site[1]), site[1]
