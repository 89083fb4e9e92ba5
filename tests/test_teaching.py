"""The pages for teachers say of the chapters what the chapters say of themselves."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from pybtex.database import parse_string
from teaching import citation, read_chapter, read_chapters

import flatlib
from flatlib.lab.exercises import EXERCISES

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"
NOTEBOOKS = ROOT / "notebooks"
CHAPTERS = read_chapters(NOTEBOOKS)
GUIDE = (BOOK / "instructors.md").read_text()
TERM = re.compile(r"\{term\}`(?:[^`<]*<)?([^`<>]+)>?`")

ASKED = r"^\*\*They think that\*\* .+\n\*Ask\*: .+\?(?: .+)?$"

each_chapter = pytest.mark.parametrize("name", CHAPTERS)


def text(name: str) -> str:
    cells = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def in_guide(name: str) -> str:
    """A chapter's section of the instructor's guide."""
    parts = re.split(r"^### (.+)$", GUIDE, flags=re.M)
    titles = dict(zip(parts[1::2], parts[2::2], strict=True))
    return titles[CHAPTERS[name].title]


def test_the_guide_has_the_chapters_in_their_order():
    _, _, by_chapter = GUIDE.partition("## Chapter by chapter")
    titles = re.findall(r"^### (.+)$", by_chapter, re.M)
    assert titles == [chapter.title for chapter in CHAPTERS.values()]


@each_chapter
def test_a_chapter_has_objectives_and_two_misunderstandings_each_with_a_question(name):
    section = in_guide(name)
    assert f"```{{chapter-facts}} {name}\n```" in section
    objectives = section.partition("**Objectives.**")[2].partition("**They")[0]
    assert len(re.findall(r"^- ", objectives, re.M)) == 3
    assert len(re.findall(ASKED, section, re.M)) == 2


@each_chapter
def test_minutes_and_exercises_are_those_of_the_chapter(name):
    """Counted here in another way than there: by labels and by the words in brackets."""
    chapter, words = CHAPTERS[name], text(name)
    keys = re.findall(r"\{exercise(?:-start)?\}.*\n:label: (.+)", words)
    assert [task.key for task in chapter.tasks] == keys
    graded = re.findall(r"\((★+), (\d+) minutes", words)
    assert [(task.stars, task.minutes) for task in chapter.tasks] == [
        (len(stars), int(minutes)) for stars, minutes in graded
    ]
    records = [task for task in chapter.tasks if task.key in EXERCISES]
    assert sum(task.minutes for task in records) == sum(
        EXERCISES[task.key].minutes for task in records
    )
    card = words.partition("Minutes to read**: ")[2].partition("\n")[0]
    assert card.startswith(str(chapter.reading))
    told = re.search(r"and (\d+) for", card)
    assert not told or int(told[1]) == chapter.minutes


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["A text."], "none.ipynb has no title or no minutes to read on its card"),
        (
            ["# T\n\n**Minutes to read**: 5", ":::{exercise}\n:label: own\n\n(hard) Go.\n:::"],
            "none.ipynb: exercise own tells no stars and minutes",
        ),
    ],
)
def test_a_chapter_that_does_not_say_is_named(cells, message, tmp_path):
    made = [{"cell_type": "markdown", "source": [source]} for source in cells]
    (tmp_path / "none.ipynb").write_text(json.dumps({"cells": made}))
    with pytest.raises(ValueError, match=re.escape(message)):
        read_chapter(tmp_path / "none.ipynb")


def test_plans_name_exercises_of_the_chapters_that_they_read():
    plans = re.findall(r"```\{course-plan\}\n(.*?)```", GUIDE, re.S)
    assert len(plans) == 3
    for line in "".join(plans).splitlines():
        _, names, keys = (part.strip() for part in line.split("|"))
        own = {task.key for name in names.split(", ") for task in CHAPTERS[name].tasks}
        assert set(keys.split(", ")) <= own


def glossary() -> dict[str, str]:
    """Term to definition."""
    lines = (BOOK / "glossary.md").read_text().partition("{glossary}\n")[2].partition("```")[0]
    found = re.findall(r"^(\S.*)\n((?:  .*\n)+)", lines, re.M)
    return dict(found)


def test_each_term_is_used_defined_in_order_and_leads_to_a_page():
    terms = glossary()
    assert len(terms) > 40 and list(terms) == sorted(terms, key=str.lower)
    used = set()
    for path in BOOK.glob("*.md"):
        if path.name != "glossary.md":
            used |= set(TERM.findall(path.read_text()))
    for term, definition in terms.items():
        others = set(TERM.findall(definition))
        assert term not in others, f"{term} is defined by itself"
        used |= others
        assert re.search(r"\]\((?:chapters/)?[\w-]+\.(?:md|ipynb)\)", definition), term
    assert set(terms) - used == set()
    assert used - set(terms) == set()


def test_letters_of_a_chapter_stand_in_it():
    _, _, table = (BOOK / "notation.md").read_text().partition("## Letters of single chapters")
    rows = re.findall(r"^\| (\$.+?) \| .+ \| \[.+?\]\(chapters/(.+?)\.ipynb\) \|$", table, re.M)
    assert len(rows) > 20
    for letters, name in rows:
        formulas = " ".join(re.findall(r"\$\$?([^$]+)\$\$?", text(name)))
        for letter in re.findall(r"\$(.+?)\$", letters):
            alone = rf"(?<![a-zA-Z\\]){re.escape(letter)}(?![a-zA-Z])"
            assert re.search(alone, formulas), f"{letter} in {name}"


def test_each_chapter_can_be_cited():
    """The entries are BibTeX, and nothing in them is invented."""
    book = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert book["version"] == flatlib.__version__ and "doi" not in book
    told = {"author": "Z", "title": "B", "year": "2026", "version": "flatlib 1", "doi": "10.1/x"}
    entries = "\n".join(citation(chapter, told)[1] for chapter in CHAPTERS.values())
    parsed = parse_string(entries, "bibtex").entries
    assert [parsed[f"flatlib-{name}"].fields["title"] for name in CHAPTERS] == [
        chapter.title for chapter in CHAPTERS.values()
    ]
    assert {entry.fields["doi"] for entry in parsed.values()} == {"10.1/x"}
    bare = citation(CHAPTERS["03-volume"], told | {"doi": None})
    assert "doi" not in bare[1] and bare[0].endswith("flatlib 1.")
