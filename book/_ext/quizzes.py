"""Questions with a word on each choice: ``{quiz} NAME`` reads ``quizzes/NAME.yml``.

A file is a list of questions. Each question has a text and its choices; each choice is marked
right or wrong and has its feedback, all of them one paragraph of Markdown::

    - question: What is $1+1$?
      choices:
        - wrong: Three.
          feedback: That is $1+2$.
        - right: Two.
          feedback: One more than one.

The page holds the questions as a form that needs no kernel. Feedback and marks are encoded, so that
a reader does not meet an answer by accident in the text, in a search or on paper; who decodes them
reads them, for this is a courtesy and no secret.
"""

from __future__ import annotations

import base64
import html
import json
from dataclasses import dataclass
from pathlib import Path

import yaml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

FOLDER = "quizzes"  # of the questions, and in _static of the script and the styles
MARKS = ("right", "wrong")
FEWEST, MOST = 3, 4  # choices of a question


@dataclass(frozen=True)
class Choice:
    """One answer that a reader may choose."""

    text: str
    right: bool
    feedback: str  # for a wrong answer the misunderstanding behind it


@dataclass(frozen=True)
class Question:
    """A question with exactly one right choice."""

    text: str
    choices: tuple[Choice, ...]


def read_quiz(path: Path) -> list[Question]:
    """The questions of a file.

    Raises:
        ValueError: the file is missing, is no YAML or no list of questions, or a question is
            incomplete; the message names the file, the question and the choice.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError:
        raise ValueError(f"there is no file {path.name} in {path.parent.name}/") from None
    except yaml.YAMLError as fault:
        raise ValueError(f"{path.name} is no YAML: {fault}") from None
    if not isinstance(found, list) or not found:
        raise ValueError(f"{path.name} must be a list of questions, got {found!r:.60}")
    return [_question(one, f"{path.name}, question {i}") for i, one in enumerate(found, 1)]


def _question(found, where: str) -> Question:
    _keys(found, {"question", "choices"}, where)
    text, listed = _text(found["question"], f"{where}: question"), found["choices"]
    if not isinstance(listed, list) or not FEWEST <= len(listed) <= MOST:
        count = len(listed) if isinstance(listed, list) else repr(listed)
        raise ValueError(f"{where}: give {FEWEST} or {MOST} choices, got {count}")
    choices = tuple(_choice(one, f"{where}, choice {i}") for i, one in enumerate(listed, 1))
    n_right = sum(choice.right for choice in choices)
    if n_right != 1:
        raise ValueError(f"{where}: exactly one choice is right, got {n_right}")
    for kind in ("text", "feedback"):
        told = [getattr(choice, kind) for choice in choices]
        if len(set(told)) < len(told):
            raise ValueError(f"{where}: two choices have the same {kind}")
    return Question(text, choices)


def _choice(found, where: str) -> Choice:
    marks = [mark for mark in MARKS if isinstance(found, dict) and mark in found]
    if len(marks) != 1:
        raise ValueError(f"{where}: begin it with 'right:' or 'wrong:', got {found!r:.60}")
    _keys(found, {marks[0], "feedback"}, where)
    text = _text(found[marks[0]], f"{where}: {marks[0]}")
    return Choice(text, marks[0] == "right", _text(found["feedback"], f"{where}: feedback"))


def _keys(found, wanted: set[str], where: str) -> None:
    if not isinstance(found, dict) or set(found) != wanted:
        got = ", ".join(map(str, found)) if isinstance(found, dict) else repr(found)[:60]
        raise ValueError(f"{where} has {got or 'nothing'}; give {' and '.join(sorted(wanted))}")


def _text(found, where: str) -> str:
    if not isinstance(found, str) or not found.strip():
        raise ValueError(f"{where} must be a text, got {found!r}")
    return " ".join(found.split())


def encoded(right: bool, feedback: str) -> str:
    """What the script decodes when the reader asks.

    >>> encoded(True, "Yes.")
    'eyJyaWdodCI6IHRydWUsICJmZWVkYmFjayI6ICJZZXMuIn0='
    """
    told = json.dumps({"right": right, "feedback": feedback}, ensure_ascii=False)
    return base64.b64encode(told.encode()).decode()


class quiz_node(nodes.General, nodes.Element):
    """A form of questions."""


class quiz_question(nodes.General, nodes.Element):
    """One question: its text, then its choices."""


class quiz_text(nodes.TextElement):
    """The text of a question."""


class quiz_choice(nodes.General, nodes.Element):
    """One choice: its text, then its feedback."""


class quiz_answer(nodes.TextElement):
    """The text of a choice."""


class quiz_feedback(nodes.comment):
    """The feedback on a choice; as a comment, no search and no outline reads it."""


class Quiz(SphinxDirective):
    """The questions of one file, as a form."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        path = Path(self.env.srcdir) / FOLDER / f"{name}.yml"
        self.env.note_dependency(str(path))
        try:
            questions = read_quiz(path)
        except ValueError as fault:
            raise self.error(str(fault)) from None
        on_page = self.env.temp_data.setdefault("quizzes", set())
        if name in on_page:
            raise self.error(f"the page asks the questions of {name!r} twice")
        on_page.add(name)
        quiz = quiz_node(quiz=name)
        for number, question in enumerate(questions, 1):
            key = f"quiz-{name}-{number}"
            asked = quiz_question("", self.inline(quiz_text(number=number), question.text), key=key)
            for letter, choice in zip("abcd", question.choices, strict=False):
                answer = quiz_answer(key=key, letter=letter)
                feedback = quiz_feedback(right=choice.right)
                asked += quiz_choice(
                    "",
                    self.inline(answer, choice.text),
                    self.inline(feedback, choice.feedback),
                )
            quiz += asked
        return [quiz]

    def inline(self, node: nodes.Element, text: str) -> nodes.Element:
        """The node with a paragraph's Markdown in it."""
        found, messages = self.state.inline_text(text, self.lineno)
        node += [*found, *messages]
        return node


def visit_quiz(writer, node: quiz_node) -> None:
    writer.body.append(f'<div class="quiz" id="quiz-{html.escape(node["quiz"])}">')


def visit_question(writer, node: quiz_question) -> None:
    writer.body.append(f'<fieldset class="quiz-question" id="{node["key"]}">')


def visit_text(writer, node: quiz_text) -> None:
    writer.body.append(f'<legend><b class="quiz-number">Question {node["number"]}.</b> ')


def visit_choice(writer, node: quiz_choice) -> None:
    writer.body.append('<div class="quiz-choice">')


def visit_answer(writer, node: quiz_answer) -> None:
    key = f"{node['key']}-{node['letter']}"
    writer.body.append(
        f'<input type="radio" name="{node["key"]}" id="{key}" value="{node["letter"]}" />'
        f'<label for="{key}">'
    )


def visit_feedback(writer, node: quiz_feedback) -> None:
    node["begins"] = len(writer.body)


def depart_feedback(writer, node: quiz_feedback) -> None:
    """Take the feedback out of the page's text again, and encode it."""
    feedback = "".join(writer.body[node["begins"] :])
    del writer.body[node["begins"] :]
    told = encoded(node["right"], feedback)
    writer.body.append(f'<span class="quiz-told" hidden data-told="{told}"></span>')


def closing(tag: str):
    """A visitor that closes a tag."""
    return lambda writer, node: writer.body.append(f"</{tag}>")


def leave_to_pages(app: Sphinx, config) -> None:
    """Take the script and the styles out of the list that every page loads."""
    for setting in ("html_js_files", "html_css_files"):
        kept = [file for file in config[setting] if not file.startswith(f"{FOLDER}/")]
        config[setting] = kept


def load(app: Sphinx, pagename, templatename, context, doctree) -> None:
    """Have a page with questions load the script, after its text."""
    if doctree and any(doctree.findall(quiz_node)):
        app.add_css_file(f"{FOLDER}/quiz.css")
        app.add_js_file(f"{FOLDER}/quiz.js", loading_method="defer")


def setup(app: Sphinx) -> dict:
    app.add_node(quiz_node, html=(visit_quiz, closing("div")))
    app.add_node(quiz_question, html=(visit_question, closing("fieldset")))
    app.add_node(quiz_text, html=(visit_text, closing("legend")))
    app.add_node(quiz_choice, html=(visit_choice, closing("div")))
    app.add_node(quiz_answer, html=(visit_answer, closing("label")))
    app.add_node(quiz_feedback, html=(visit_feedback, depart_feedback))
    app.add_directive("quiz", Quiz)
    app.connect("config-inited", leave_to_pages)
    app.connect("html-page-context", load)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
