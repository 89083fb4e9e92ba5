"""The questions at the end of each chapter: complete, encoded, and answered by keyboard."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from pathlib import Path

import nbformat
import pytest
import yaml
from browsing import JUDGE, Reader
from quizzes import read_quiz
from sphinx.cmd.build import build_main

ROOT = Path(__file__).resolve().parents[1]
QUIZZES = ROOT / "book" / "quizzes"
STATIC = ROOT / "book" / "_static"
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
EACH = 3  # questions of a chapter
CONFIG = f"""
extensions = ["myst_parser", "quizzes", "light_pages", "offline_site"]
myst_enable_extensions = ["dollarmath"]
html_theme = "sphinx_book_theme"
html_static_path = [{str(STATIC)!r}]
html_css_files = ["book.css", "quizzes/quiz.css"]
html_js_files = ["quizzes/quiz.js"]
mathjax_path = "mathjax/none.js"
"""
SUMS = """
- question: What is $1+1$?
  choices:
    - wrong: Three.
      feedback: That counts the *plus* sign.
    - right: Two.
      feedback: One more than one.
    - wrong: Eleven.
      feedback: That writes $1$ beside $1$.
- question: Which is even?
  choices:
    - right: Four.
      feedback: Twice two.
    - wrong: Five.
      feedback: That is odd.
    - wrong: Seven.
      feedback: That is prime.
"""


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_chapter_ends_with_its_three_questions(name):
    assert len(read_quiz(QUIZZES / f"{name}.yml")) == EACH
    cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4).cells
    asking = [place for place, cell in enumerate(cells) if "{quiz}" in cell.source]
    assert len(asking) == 1
    (place,) = asking
    assert re.search(rf"^```{{quiz}} {name}\n```$", cells[place].source, re.M)
    assert cells[place + 1 :] == []


def test_no_file_of_questions_is_left_over():
    assert {path.stem for path in QUIZZES.iterdir()} <= set(NOTEBOOKS)


def test_neither_place_nor_length_gives_the_answer_away():
    """No place and no rank of length holds more than half of the right choices."""
    asked = [question for path in QUIZZES.iterdir() for question in read_quiz(path)]
    places, longest = Counter(), 0
    for question in asked:
        lengths = [len(choice.text) for choice in question.choices]
        place = [choice.right for choice in question.choices].index(True)
        places[place] += 1
        longest += lengths[place] == max(lengths)
    assert max(*places.values(), longest) <= len(asked) / 2
    assert len(places) == 4


def changed(change) -> str:
    """The two sums with a change made to the second."""
    questions = yaml.safe_load(SUMS)
    change(questions[1])
    return yaml.safe_dump(questions)


def first(question) -> dict:
    return question["choices"][0]


FAULTS = {
    "no list": ("question: one\n", "sums.yml must be a list of questions"),
    "no YAML": ("- [", "sums.yml is no YAML"),
    "no question": (
        changed(lambda one: one.pop("question")),
        "sums.yml, question 2 has choices; give choices and question",
    ),
    "a key too many": (
        changed(lambda one: one.update(hint="Look.")),
        "sums.yml, question 2 has choices, hint, question; give choices and question",
    ),
    "two choices": (
        changed(lambda one: one["choices"].pop()),
        "sums.yml, question 2: give 3 or 4 choices, got 2",
    ),
    "no right one": (
        changed(lambda one: first(one).update(wrong=first(one).pop("right"))),
        "sums.yml, question 2: exactly one choice is right, got 0",
    ),
    "two right ones": (
        changed(lambda one: one["choices"][1].update(right=one["choices"][1].pop("wrong"))),
        "sums.yml, question 2: exactly one choice is right, got 2",
    ),
    "no feedback": (
        changed(lambda one: one["choices"][2].pop("feedback")),
        "sums.yml, question 2, choice 3 has wrong; give feedback and wrong",
    ),
    "empty feedback": (
        changed(lambda one: one["choices"][1].update(feedback=" ")),
        "sums.yml, question 2, choice 2: feedback must be a text",
    ),
    "a number": (
        changed(lambda one: first(one).update(right=4)),
        "sums.yml, question 2, choice 1: right must be a text, got 4",
    ),
    "one feedback for two": (
        changed(lambda one: first(one).update(feedback="That is odd.")),
        "sums.yml, question 2: two choices have the same feedback",
    ),
    "right and wrong": (
        changed(lambda one: first(one).update(wrong="Four.")),
        "sums.yml, question 2, choice 1: begin it with 'right:' or 'wrong:'",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_incomplete_question_is_refused_by_file_and_number(fault, tmp_path):
    text, message = FAULTS[fault]
    path = tmp_path / "sums.yml"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        read_quiz(path)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The two sums in the book's theme, on paper and screen; and what a page gets wrong."""
    folder = tmp_path_factory.mktemp("quizzes")
    (folder / "_vendor" / "mathjax").mkdir(parents=True)
    (folder / "quizzes").mkdir()
    (folder / "conf.py").write_text(CONFIG)
    (folder / "quizzes" / "sums.yml").write_text(SUMS)
    (folder / "index.md").write_text("# Front\n\nA front.\n")
    (folder / "sums.md").write_text("---\norphan: true\n---\n\n# Sums\n\n```{quiz} sums\n```\n")
    assert build_main(["-q", "-E", "-W", "-b", "html", str(folder), str(folder / "html")]) == 0
    return folder / "html"


def test_a_page_that_asks_wrongly_stops_the_build(site, capfd):
    folder = site.parent
    asks = {"nobody": "nobody", "again": "sums\n```\n\n```{quiz} sums"}
    for name, text in asks.items():
        page = f"---\norphan: true\n---\n\n# Title\n\n```{{quiz}} {text}\n```\n"
        (folder / f"{name}.md").write_text(page)
    status = build_main(["-q", "-W", "--keep-going", "-b", "dummy", str(folder), str(folder / "d")])
    heard = "".join(capfd.readouterr())
    assert status != 0
    assert re.search(r"nobody\.md:\d+: [^\n]*there is no file nobody\.yml in quizzes/", heard)
    assert re.search(r"again\.md:\d+: [^\n]*the questions of 'sums' twice", heard)


def test_nothing_of_an_answer_is_in_the_page_or_in_the_search(site):
    page = (site / "sums.html").read_text()
    told = [json.loads(base64.b64decode(one)) for one in re.findall(r'data-told="(.*?)"', page)]
    assert [one["right"] for one in told] == [False, True, False, True, False, False]
    assert "<em>plus</em>" in told[0]["feedback"] and 'class="math' in told[2]["feedback"]
    sources = [path.read_text() for path in (site / "_sources").rglob("*.*")]
    index = (site / "searchindex.js").read_text()
    for text in (page, *sources, index):
        for secret in ("One more", "plus", "beside", "prime", "feedback"):
            assert secret not in text
    assert re.search(r"\beleven\b", index)


def test_the_script_is_only_where_questions_are(site):
    assert "quizzes/quiz.js" in (site / "sums.html").read_text()
    assert "quizzes/" not in (site / "index.html").read_text()


def test_a_reader_answers_by_keyboard_and_hears_of_it(browser, site):
    """Without the site's mathematics; in both themes nobody is shut out; paper has no answers."""
    from axe_playwright_python.base import AXE_FILE_PATH

    one = Reader(browser, site.as_uri() + "/", mathjax=False)
    page = one.open("sums.html")
    question = page.locator("fieldset").first
    word = question.locator("[role=status]")
    question.locator("input").first.focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert word.inner_text() == "Choose an answer first."
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Space")
    assert question.locator("input:checked").get_attribute("value") == "a"
    assert word.inner_text() == ""
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert word.inner_text() == "✗ Not this one. That counts the plus sign."
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("ArrowDown")
    assert question.locator("input:checked").get_attribute("value") == "b"
    assert word.inner_text() == ""
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert word.inner_text() == "✓ Right. One more than one."
    assert page.locator("fieldset").nth(1).locator("[role=status]").inner_text() == ""

    page.evaluate(AXE_FILE_PATH.read_text(encoding="utf-8"))
    _, faults = page.evaluate(JUDGE, [{"include": [[".quiz"]]}, {}, 9])
    assert not [fault for fault in faults if "quiz" in fault], faults
    page.emulate_media(media="print")
    printed = question.inner_text()
    assert "Three." in printed and "Right." not in printed and "Check" not in printed
    one.close()
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{site.as_uri()}/sums.html")
    assert "Eleven." in page.locator("fieldset").first.inner_text()
    assert page.locator("fieldset button").count() == 0
    context.close()
