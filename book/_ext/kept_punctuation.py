"""A punctuation mark stays on the line of the formula before it.

A browser may break a line on either side of a formula, and a line that begins with a comma reads
badly.
"""

from __future__ import annotations

import re

from docutils import nodes
from sphinx.application import Sphinx

MARKS = re.compile(r"[,.;:!?)\]]+(?=\s|$)")


def keep(_app: Sphinx, tree: nodes.document, _page: str) -> None:
    """Put each formula and the mark behind it into one element that is never broken."""
    for formula in list(tree.findall(nodes.math)):
        parent = formula.parent
        place = parent.index(formula)
        after = next(iter(parent[place + 1 : place + 2]), None)
        if isinstance(after, nodes.Text) and (mark := MARKS.match(after)):
            kept = nodes.inline("", "", formula, nodes.Text(mark[0]), classes=["kept"])
            parent[place : place + 2] = [kept, nodes.Text(after[mark.end() :])]


def setup(app: Sphinx) -> dict:
    app.connect("doctree-resolved", keep)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
