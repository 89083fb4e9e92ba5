"""What a reader without a mouse, or with a screen reader, needs of the rendered pages: no list
holds what is no list's item, no id stands twice, and a button is called by the words on it.
"""

from __future__ import annotations

from pathlib import Path

from sphinx.application import Sphinx

# Each entry stands for a fault of the versions that constraints.txt names; none has an issue that
# we know of. tests/test_guards.py tells when a package writes something else, and the entry can go.
MENDED = {
    # docutils: the entries are paragraphs between anchors, which no list may hold.
    '<div role="list" class="citation-list">': '<div class="citation-list">',
    ' role="doc-biblioentry"': "",
    # pydata-sphinx-theme: a button's own words are its name, "Search Ctrl+K". The narrow one has
    # none, only its label.
    'search-button-field search-button__button" title="Search" aria-label="Search"': (
        'search-button-field search-button__button" title="Search"'
    ),
    # MyST-NB: the same holds of a folded cell.
    '<summary aria-label="Toggle hidden content">': "<summary>",
    # sphinx-exercise, sphinx-proof, pydata-sphinx-theme: every exercise, solution and proof of a
    # page has the same ids, and so have both fields of the search.
    ' id="exercise-content"': "",
    ' id="solution-content"': "",
    ' id="proof-content"': "",
    ' id="search-input"': "",
}


def accessible(page: str) -> str:
    """The page with the theme's and the extensions' misleading markup exchanged.

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
