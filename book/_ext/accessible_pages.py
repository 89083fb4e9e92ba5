"""What a reader without a mouse, or with a screen reader, needs of the rendered pages: a formula
that scrolls can be reached by the keyboard, and no list holds what is no list's item.
"""

from __future__ import annotations

from pathlib import Path

from sphinx.application import Sphinx

MENDED = {
    '<div class="math notranslate': '<div tabindex="0" class="math notranslate',
    '<div role="list" class="citation-list">': '<div class="citation-list">',
}


def accessible(page: str) -> str:
    """The page with its formulas reachable and its bibliography's role removed.

    >>> accessible('<div role="list" class="citation-list">')
    '<div class="citation-list">'
    """
    for found, mended in MENDED.items():
        page = page.replace(found, mended)
    return page


def mend_pages(app: Sphinx, error: Exception | None) -> None:
    """Rewrite every page that was just rendered."""
    if error is not None or app.builder.format != "html":
        return
    for path in Path(app.outdir).rglob("*.html"):
        if "_static" not in path.relative_to(app.outdir).parts:
            path.write_text(accessible(path.read_text(encoding="utf-8")), encoding="utf-8")


def setup(app: Sphinx) -> dict:
    app.connect("build-finished", mend_pages)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
