"""A chapter's exercises and solutions, read from the MyST directives that hold them.

A directive opens with at least three backticks or colons and its name in braces, and as many of the
same character close it. ``exercise-start`` and ``solution-start`` hold all that follows up to their
ends, code cells included.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

FENCED = re.compile(
    r"^(?P<fence>(?P<mark>[`:])(?P=mark){2,})(?:\{(?P<name>[\w:-]+)\}(?P<title>.*)|[^`\n]*)\n"
    r"(?P<options>(?::[\w-]+:.*\n)*)(?P<text>(?s:.*?))^(?P=fence)(?P=mark)*[ \t]*$\n?",
    re.MULTILINE,
)
LABEL = re.compile(r"^:label:[ \t]*(\S+)", re.MULTILINE)
MARKS = re.compile(r"""exercises\.mark\(\s*["']([^"']*)["']""")
UNKNOWN = re.compile(r"^.*\{\s*(exercise|solution).*", re.MULTILINE)
KINDS = {"exercise": "an exercise", "solution": "a solution"}
BOXES = ("admonition", "prf")

Cell = Mapping[str, Any]  # of a notebook, with its source as one string


@dataclass(frozen=True)
class Part:
    """A directive of a cell, the text between two directives, or the code of a cell."""

    source: str
    name: str = ""  # of the directive
    title: str = ""  # what stands behind its name
    text: str = ""  # what the directive holds, without its options
    label: str = ""

    @property
    def kind(self) -> str:
        """The name without start and end."""
        return self.name.partition("-")[0]


OUTSIDE = Part("")  # of every exercise and solution


@dataclass
class Task:
    """One exercise of a chapter."""

    label: str
    title: str
    text: str = ""  # the statement
    stub: str = ""  # the function that a student completes; empty if there is none
    words: str = ""  # the solution in words
    code: list[str] = field(default_factory=list)  # the solution's cells


def read_notebook(path: Path) -> dict[str, Any]:
    """A notebook, each cell's source as one string.

    Raises:
        ValueError: none is there, or the file holds something else.
    """
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        joined = [{**cell, "source": "".join(cell["source"])} for cell in notebook["cells"]]
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise ValueError(f"{path} is no notebook: {type(fault).__name__}: {fault}") from fault
    return {**notebook, "cells": joined}


def parts(source: str) -> list[Part]:
    r"""A cell's Markdown, cut into its directives and the text between them.

    >>> [part.name or part.source for part in parts("Now:\n:::{exercise} One\nWhy?\n:::\n")]
    ['Now:\n', 'exercise']

    Raises:
        ValueError: an exercise or a solution in a form not known here, or inside another directive.
    """
    source, found, end = source.replace("\r\n", "\n"), [], 0
    for one in FENCED.finditer(source):
        if one["name"]:  # a fence without one holds code, which is text
            label = LABEL.search(one["options"])
            own = (one["name"], one["title"].strip(), one["text"], label[1] if label else "")
            found += [Part(source[end : one.start()]), Part(one[0], *own)]
            end = one.end()
    found.append(Part(source[end:]))
    for part in found:
        if odd := UNKNOWN.search(part.text if part.name else part.source):
            raise ValueError(f"{KINDS[odd[1]]} in a form not known here: {odd[0]!r}")
    return [part for part in found if part.source]


def placed(cells: Iterable[Cell]) -> Iterator[tuple[Cell, list[tuple[Part, Part]]]]:
    """Every cell with its parts, and with each the exercise or solution in which the part stands.

    Raises:
        ValueError: as `parts`, or an exercise or a solution without its end or its start.
    """
    within = OUTSIDE
    for cell in cells:
        own = []
        code = cell["cell_type"] != "markdown"
        for part in [Part(cell["source"])] if code else parts(cell["source"]):
            edge = part.name.removeprefix(part.kind)
            if part.kind in KINDS and edge != "-end":
                _refuse_open(within)
                within = part
            elif part.kind in KINDS and within.name != f"{part.kind}-start":
                raise ValueError(
                    f"{KINDS[part.kind]} without a start; open it with {part.kind}-start"
                )
            own.append((part, within))
            if part.kind in KINDS and edge != "-start":
                within = OUTSIDE
        yield cell, own
    _refuse_open(within)


def _refuse_open(part: Part) -> None:
    if part is not OUTSIDE:
        raise ValueError(f"{KINDS[part.kind]} without an end; close it with {part.kind}-end")


def without_solutions(
    cells: Iterable[Cell], write: Callable[[Part], str] = attrgetter("source")
) -> list[dict[str, Any]]:
    """A notebook's cells, each with its source as one string, without solutions.

    Args:
        cells: the notebook's.
        write: what becomes of each part of a Markdown cell.

    Raises:
        ValueError: as `placed`.
    """
    kept = []
    for cell, own in placed(cells):
        left = [part for part, within in own if within.kind != "solution"]
        if cell["cell_type"] == "markdown":
            cell = {**cell, "source": "".join(map(write, left))}
        if left and (cell["cell_type"] != "markdown" or cell["source"].strip()):
            kept.append(cell)
    return kept


def tasks_of(cells: Iterable[Cell]) -> list[Task]:
    """The exercises of a chapter with their solutions, in the order of the chapter.

    Raises:
        ValueError: as `placed`, an exercise without a label, or a solution of none.
    """
    tasks: dict[str, Task] = {}
    task = Task("", "")  # the last exercise
    for cell, own in placed(cells):
        for part, within in own:
            cut = "\n\n" if part is own[-1][0] else ""  # where a cell ends, a paragraph ends
            if part.kind == "exercise" and part is within:
                if not part.label:
                    raise ValueError(f"an exercise without a label: {part.source[:60]!r}")
                task = tasks[part.label] = Task(part.label, part.title)
            if within.kind == "solution" and within.title not in tasks:
                raise ValueError(f"a solution of {within.title!r}, and no exercise is called so")
            markdown = cell["cell_type"] == "markdown"
            if markdown and within.kind == "exercise":
                task.text += shown(part) + cut
            elif markdown and within.kind == "solution":
                tasks[within.title].words += shown(part) + cut
            elif not markdown and within.kind == "solution":
                tasks[within.title].code.append(part.source)
            elif not markdown and "exercise" in cell["metadata"].get("tags", []):
                task.stub = part.source
    for task in tasks.values():
        task.text, task.words = task.text.strip(), task.words.strip()
    return list(tasks.values())


def refuse_unmarked(cells: Iterable[Cell], known: Container[str]) -> None:
    """Refuse a chapter whose functions would be handed out with nothing that marks them.

    Args:
        cells: the notebook's.
        known: the labels of the exercises whose right answers are known.

    Raises:
        ValueError: as `placed`, an exercise of the book or one with a function whose label no cell
            outside of the solutions marks, or a cell that marks a label that is not known.
    """
    asked, marked, label = {}, {}, ""
    for cell, own in placed(cells):
        for part, within in own:
            if part.kind == "exercise" and part is within:
                label = part.label
                asked[label] = label in known
            elif cell["cell_type"] != "markdown" and within.kind != "solution":
                marked |= dict.fromkeys(MARKS.findall(part.source))
                if label and "exercise" in cell["metadata"].get("tags", []):
                    asked[label] = True
    for label in marked:
        if label not in known:
            raise ValueError(f"a cell that marks {label!r}, and no exercise is known by that label")
    for label, needs in asked.items():
        if needs and label not in marked:
            raise ValueError(f"the exercise {label!r}, and no cell that marks it")


def shown(part: Part) -> str:
    """Markdown without directives, for any editor: what an exercise or a solution holds, the title
    and the text of a box, nothing of a quiz.
    """
    if part.name == "quiz":
        return ""
    name, _, proof = part.name.partition(":")
    if part.kind not in KINDS and name not in (*BOXES, "explorable"):
        return part.source
    title = f"{proof.capitalize()} {part.title}".strip() if name in BOXES else ""
    return f"**{title}**\n\n" * bool(title) + "".join(map(shown, parts(part.text)))
