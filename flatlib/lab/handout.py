"""A chapter as homework: the notebook without its solutions, in Markdown that any editor shows."""

from __future__ import annotations

import json
import re
from pathlib import Path

from flatlib.files import write_atomically
from flatlib.lab.directives import Part, read_notebook, refuse_unmarked, shown, without_solutions
from flatlib.lab.exercises import EXERCISES


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
            unknown form, an exercise that nothing marks (`directives.refuse_unmarked`), or
            ``target`` exists. Nothing is written then.
    """
    source, target = Path(source), Path(target)
    if target.exists():
        raise ValueError(f"{target} exists; remove it or choose another name")
    notebook, n_exercises = read_notebook(source), 0

    def write(part: Part) -> str:
        nonlocal n_exercises
        if part.name not in ("exercise", "exercise-start"):
            return shown(part)
        n_exercises += 1
        return f"### Exercise {n_exercises}{'. ' * bool(part.title)}{part.title}\n{shown(part)}"

    try:
        kept = without_solutions(notebook["cells"], write)
        refuse_unmarked(notebook["cells"], EXERCISES)
    except ValueError as fault:
        raise ValueError(f"{source} has {fault}") from fault
    for cell in kept:
        if cell["cell_type"] == "markdown":
            cell["source"] = re.sub(r"\n{3,}", "\n\n", cell["source"]).strip()
    if n_exercises == 0:
        raise ValueError(f"{source} has no exercises; chapters with exercises are in notebooks/")
    text = json.dumps({**notebook, "cells": kept}, indent=1, ensure_ascii=False) + "\n"
    write_atomically(target, lambda file: file.write(text.encode()))
    return n_exercises
