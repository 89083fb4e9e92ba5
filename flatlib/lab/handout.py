"""A chapter as homework: the notebook without its solutions, in Markdown that any editor shows."""

from __future__ import annotations

import json
import re
from pathlib import Path

from flatlib.files import write_atomically

FENCE = r"^(`{3,}|:{3,})"  # of a directive; at least the same characters close it
CLOSE = r"^\1[`:]*[ \t]*$\n?"
OPTIONS = r"(?::[^\n]*\n)*"
FLAGS = re.MULTILINE | re.DOTALL
SOLUTION = re.compile(FENCE + r"\{solution\}.*?" + CLOSE, FLAGS)
STARTS = re.compile(FENCE + r"\{solution-start\}", FLAGS)
ENDS = re.compile(FENCE + r"\{solution-end\}[ \t]*\n" + CLOSE, FLAGS)
EXERCISE = re.compile(
    FENCE + r"\{exercise(?:-start)?\}(?P<title>[^\n]*)\n" + OPTIONS + r"(?P<text>.*?)" + CLOSE,
    FLAGS,
)
QUIZ = re.compile(FENCE + r"\{quiz\}[^\n]*\n" + CLOSE, FLAGS)
EXERCISE_ENDS = re.compile(FENCE + r"\{exercise-end\}[ \t]*\n" + CLOSE, FLAGS)
BOX = re.compile(
    FENCE
    + r"\{(?:admonition|prf:(?P<kind>\w+)|(?P<moves>explorable))\} (?P<title>[^\n]*)\n"
    + OPTIONS
    + r"(?P<text>.*?)"
    + CLOSE,
    FLAGS,
)


def handout(source: Path, target: Path) -> int:
    """Write a chapter without its solutions, for students.

    Exercises get headings with a number, and their checking cells stay.

    Args:
        source: a chapter's notebook.
        target: the file to write; one that exists is not touched.

    Returns:
        How many exercises it has.

    Raises:
        ValueError: no notebook there, no exercise in it, a solution without an end or in an
            unknown form, or ``target`` exists. Nothing is written then.
    """
    source, target = Path(source), Path(target)
    if target.exists():
        raise ValueError(f"{target} exists; remove it or choose another name")
    try:
        notebook = json.loads(source.read_text(encoding="utf-8"))
        cells = [{**cell, "source": "".join(cell["source"])} for cell in notebook["cells"]]
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise ValueError(f"{source} is no notebook: {type(fault).__name__}: {fault}") from fault
    kept, n_exercises, inside = [], 0, False
    for cell in cells:
        if cell["cell_type"] == "markdown":
            text, inside = _outside_solutions(cell["source"].replace("\r\n", "\n"), inside)
            text, n_exercises = _plain(text, n_exercises)
            if re.search(r"\{\s*solution", text):
                raise ValueError(f"{source} has a solution in a form not known here: {text[:60]!r}")
            if text.strip():
                kept.append({**cell, "source": text.strip()})
        elif not inside:
            kept.append(cell)
    if inside:
        raise ValueError(f"{source} has a solution without an end; close it with solution-end")
    if n_exercises == 0:
        raise ValueError(f"{source} has no exercises; chapters with exercises are in notebooks/")
    text = json.dumps({**notebook, "cells": kept}, indent=1, ensure_ascii=False) + "\n"
    write_atomically(target, lambda file: file.write(text.encode()))
    return n_exercises


def _outside_solutions(text: str, inside: bool) -> tuple[str, bool]:
    """What of a cell lies outside of solutions, and whether the next cell begins in one."""
    kept = ""
    while text:
        mark = (ENDS if inside else STARTS).search(text)
        if not inside:
            kept += text[: mark.start()] if mark else text
        inside, text = (inside, "") if mark is None else (not inside, text[mark.end() :])
    return kept, inside


def _plain(text: str, number: int) -> tuple[str, int]:
    """Markdown without solutions and directives, and the number of its last exercise."""

    def heading(found: re.Match) -> str:
        nonlocal number
        number += 1
        title = found["title"].strip()
        return f"### Exercise {number}{'. ' * bool(title)}{title}\n{found['text']}"

    def box(found: re.Match) -> str:
        if found["moves"]:
            return found["text"]
        title = f"{(found['kind'] or '').capitalize()} {found['title']}".strip()
        return f"**{title}**\n\n{found['text']}"

    text = QUIZ.sub("", SOLUTION.sub("", text))
    text = EXERCISE_ENDS.sub("", EXERCISE.sub(heading, text))
    return re.sub(r"\n{3,}", "\n\n", BOX.sub(box, text)), number
