"""Which code a page shows, which it folds to one line, and what that line says.

The tag of a cell says what kind of cell it is. A page shows the code that carries the idea, which
has no tag; the notebook holds everything.
"""

from __future__ import annotations

import ast

from nbformat import NotebookNode

FOLDED = {  # tag: the line that stands for the code on the page
    "parameters": "Parameters",
    "injected-parameters": "Parameters of this run",
    "setup": "Set-up",
    "check": "Checked: {assertions}",
    "figure": "Code of this figure",
    "marking": "Code that checks your answer",
}
REMOVED = ("numbers",)  # sentences with their numbers: the page shows what they say
SHOWN = ("exercise", "solution")  # shown, and not counted among the cells that tell the story
KINDS = (*FOLDED, *REMOVED, *SHOWN)


def kind(cell: NotebookNode) -> str | None:
    """The cell's kind; None for code that carries the idea.

    Raises:
        ValueError: two kinds at once, or a tag that is no kind.
    """
    tags = cell.metadata.get("tags", [])
    unknown = sorted(set(tags) - set(KINDS))
    if unknown or len(tags) > 1:
        raise ValueError(
            f"a cell has one tag of {', '.join(KINDS)}, or none: got {', '.join(tags)} on\n"
            f"{cell.source[:200]}"
        )
    return tags[0] if tags else None


def assertions(source: str) -> int:
    """How many assertions a cell makes."""
    return sum(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(source)))


def fold(cell: NotebookNode) -> None:
    """Tell the site how much of a code cell to show."""
    found = kind(cell)
    if found in REMOVED:
        cell.metadata["tags"] = ["remove-input"]
    elif found in FOLDED:
        number = assertions(cell.source)
        counted = f"{number} assertion{'s' * (number != 1)}"
        line = FOLDED[found].format(assertions=counted)
        cell.metadata["tags"] = ["hide-input"]
        cell.metadata["mystnb"] = {"code_prompt_show": line, "code_prompt_hide": line}
