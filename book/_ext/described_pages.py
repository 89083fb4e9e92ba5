"""What a page says of itself to search engines, to a link that is shared and to the site's own
search: a description of its own, a title that names the book once, and chapters before names.
"""

from __future__ import annotations

import html
import re
import textwrap
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

SHORTEST, LONGEST = 40, 200  # characters of a description
CITATION = re.compile(r" ?\[[A-Za-z+]+\d\d\w?\]")

# Pages that Sphinx writes from no text, or that hold no sentence.
WITHOUT_SENTENCES = {
    "bibliography": "The papers that the book on flat minima and compressed representations cites.",
    "genindex": "Names of the library flatlib and terms of the book, in alphabetical order.",
    "py-modindex": "The modules of the library flatlib, in alphabetical order.",
    "search": "Search the chapters on flat minima and the documentation of the library flatlib.",
}

FIRST_PAGE = """<!DOCTYPE html>
<html lang="en">
  <head>
    <meta charset="utf-8" />
    <title>{title}</title>
    <meta name="description" content="{description}" />
    <link rel="icon" href="_static/icon.svg" />
    <meta http-equiv="refresh" content="0; url={page}.html" />
  </head>
  <body><main><a href="{page}.html">{title}</a></main></body>
</html>
"""


def description(doctree: nodes.document) -> str:
    """The beginning of the first paragraph that a reader can read without formulas.

    Args:
        doctree: a page.

    Returns:
        At most `LONGEST` characters, cut between words; nothing where no paragraph without
        formulas has `SHORTEST` characters.

    >>> from docutils.core import publish_doctree
    >>> description(publish_doctree("A heading\\n=========\\n\\n" + "A page about minima. " * 3))
    'A page about minima. A page about minima. A page about minima.'
    """
    for paragraph in doctree.findall(nodes.paragraph):
        note = "run-note" in paragraph.parent.get("classes", [])
        formula = any(paragraph.findall(lambda node: isinstance(node, nodes.math | nodes.raw)))
        text = CITATION.sub("", " ".join(paragraph.astext().split()))
        if len(text) >= SHORTEST and not note and not formula:
            return textwrap.shorten(text, LONGEST, placeholder=" …")
    return ""


def describe(app: Sphinx, pagename, templatename, context, doctree) -> None:
    """Give a page its description, for search engines and for links that are shared."""
    text = WITHOUT_SENTENCES.get(pagename) or description(doctree)
    known = {
        'name="description"': text,
        'property="og:title"': html.unescape(context.get("title") or app.config.html_title),
        'property="og:description"': text,
        'property="og:type"': "article",
    }
    tags = [f'<meta {name} content="{html.escape(value)}" />' for name, value in known.items()]
    context["metatags"] = "\n".join([context.get("metatags", ""), *tags])


def mend_front(app: Sphinx, error: Exception | None) -> None:
    """Name the book once in the front page's title, and write the page at the site's address,
    which leads on to the front page.
    """
    if error is not None or app.builder.format != "html":
        return
    front, title = app.config.root_doc, html.escape(app.config.html_title)
    text = html.escape(description(app.env.get_doctree(front)))
    path = Path(app.outdir) / f"{front}.html"
    page = re.sub("<title>.*?</title>", f"<title>{title}</title>", path.read_text("utf-8"), count=1)
    path.write_text(page, encoding="utf-8")
    path.with_name("index.html").write_text(
        FIRST_PAGE.format(title=title, description=text, page=front), encoding="utf-8"
    )


def explain_first(app: Sphinx, config) -> None:
    """Have the site's search put the chapters before the library's names."""
    config.html_search_scorer = str(Path(__file__).with_name("search_order.js"))


def setup(app: Sphinx) -> dict:
    app.connect("config-inited", explain_first)
    app.connect("html-page-context", describe)
    app.connect("build-finished", mend_front)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
