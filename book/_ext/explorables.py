"""Pictures that a reader moves: ``{explorable} NAME`` with a sentence for who cannot move them.

A page holds a still picture and the sentence, which paper and readers without scripts get, and
what the script of the same name needs: numbers made by the library, as JSON. The script puts the
picture that moves in their place. No other page loads a script of an explorable.
"""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import explorable_stills
import matplotlib
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from flatlib.lab import figures

FOLDER = "explorables"  # in _static
SHARED = "explorable"  # what the scripts and the styles of all of them have in common
DASHES = {"-": "none", "--": "7 3", "-.": "9 3 2 3", (0, (8, 2)): "14 4"}


def colors() -> str:
    """The style sheet that gives the book's colours, and the looks of the chain's terms.

    >>> "html[data-theme=dark] .explorable { --blue: #4a90ff;" in colors()
    True
    """
    light, dark = (
        "".join(f" --{name}: {pair[theme]};" for name, pair in figures.PAIRS.items())
        for theme in (0, 1)
    )
    looks = "".join(
        f"\n.explorable .of-{name} {{ color: var(--{look.color});"
        f" stroke-dasharray: {DASHES[look.line]}; }}"
        for name, look in figures.CHAIN.items()
        if look.line in DASHES
    )
    return (
        f"<style>.explorable {{{light} }}\n"
        f"html[data-theme=dark] .explorable {{{dark} }}{looks}</style>"
    )


class explorable_node(nodes.General, nodes.Element):
    """An explorable's place on a page; its children are the sentence."""


class Explorable(SphinxDirective):
    """The still picture and the sentence, for the script of that name to replace."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        if name not in explorable_stills.MAKERS:
            known = ", ".join(explorable_stills.MAKERS)
            raise self.error(f"no explorable is called {name!r}; there are {known}")
        self.assert_has_content()
        on_page = self.env.temp_data.setdefault("explorables", set())
        if name in on_page:
            raise self.error(f"the page shows the explorable {name!r} twice")
        on_page.add(name)
        node = explorable_node(explorable=name)
        self.state.nested_parse(self.content, self.content_offset, node)
        return [node]


def visit(writer, node: explorable_node) -> None:
    name = node["explorable"]
    with matplotlib.rc_context():  # the book's style does not outlast the drawing
        figures.use_style()
        made = explorable_stills.MAKERS[name]()
        still = figures.to_html(made.figure, made.alt, caption=made.caption)
    for file, text in made.files.items():
        path = Path(writer.builder.outdir) / "_static" / FOLDER / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    numbers = html.escape(json.dumps(made.numbers), quote=True)
    writer.body.append(
        f'{colors()}<div class="explorable" id="explorable-{name}" data-numbers="{numbers}">'
        f'<div class="explorable-still">{still}'
    )


def depart(writer, node: explorable_node) -> None:
    writer.body.append("</div></div>")


VIEWS = re.compile(
    r'(<figure class="flatlib-figure") data-views="([^"]*)"(.*?)</figcaption>', re.DOTALL
)
ARCHIVE = "archive"  # the page that has the views


def with_links(page: str, address: str) -> str:
    """The page with links in a figure's caption to the views that the figure carries.

    Args:
        page: HTML.
        address: of the page of the archive, as the page links to it.

    >>> figure = '<figure class="flatlib-figure" data-views="{}"><figcaption>One.</figcaption>'
    >>> with_links(figure.format('{&quot;MLS&quot;: &quot;quantity=mls&quot;}'), "../archive.html")
    ... # doctest: +NORMALIZE_WHITESPACE
    '<figure class="flatlib-figure"><figcaption>One. <span class="figure-views">Look up
    in the archive: <a href="../archive.html#quantity=mls">MLS</a>.</span></figcaption>'
    """

    def linked(found: re.Match) -> str:
        views = json.loads(html.unescape(found[2]))
        links = "; ".join(
            f'<a href="{html.escape(f"{address}#{view}")}">{html.escape(words)}</a>'
            for words, view in views.items()
        )
        below = f' <span class="figure-views">Look up in the archive: {links}.</span></figcaption>'
        return f"{found[1]}{found[3]}{below}"

    return VIEWS.sub(linked, page)


def link_figures(app: Sphinx, pagename, templatename, context, doctree) -> None:
    """Lead from the figures of a page to the archive, where the book has that page."""
    if "body" in context and ARCHIVE in app.env.found_docs:
        address = app.builder.get_relative_uri(pagename, ARCHIVE)
        context["body"] = with_links(context["body"], address)


def leave_to_pages(app: Sphinx, config) -> None:
    """Take the scripts and styles out of the list that every page loads."""
    for setting in ("html_js_files", "html_css_files"):
        kept = [file for file in config[setting] if not file.startswith(f"{FOLDER}/")]
        config[setting] = kept


def load(app: Sphinx, pagename, templatename, context, doctree) -> None:
    """Have a page load what its explorables need, after its text."""
    found = [node["explorable"] for node in doctree.findall(explorable_node)] if doctree else []
    if found:
        app.add_css_file(f"{FOLDER}/{SHARED}.css")
        for script in (SHARED, *found):
            app.add_js_file(f"{FOLDER}/{script}.js", loading_method="defer")


def setup(app: Sphinx) -> dict:
    app.add_node(explorable_node, html=(visit, depart))
    app.add_directive("explorable", Explorable)
    app.connect("config-inited", leave_to_pages)
    app.connect("html-page-context", load)
    app.connect("html-page-context", link_figures)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
