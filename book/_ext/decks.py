"""Slides: a page with ``template: deck`` in its front matter is shown by reveal.js, one heading of
the second level a slide.

``{chapter-figure} NUMBER`` takes a figure and its alternative text from the chapter that shows it,
``{chapter-formula} LABEL`` a numbered formula, so a deck cannot say other than the book.
``{notes} MINUTES`` holds what the speaker says; ``{deck-schedule} DECK`` lists the minutes of a
deck's slides. reveal.js comes from a pinned package at build time and needs no network.
"""

from __future__ import annotations

import json
import re
import shutil
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

FOLDER = "deck"  # in _static: of the styles and the script, and later of reveal.js
PACKAGE = "sphinx-revealjs"
TAKEN = ("LICENSE", "dist/reset.css", "dist/reveal.css", "dist/reveal.js", "plugin/notes/notes.js")
DISPLAY = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)
FIGURE = re.compile(r'<figure class="flatlib-figure"[^>]*>.*?</figure>', re.DOTALL)
LIGHT = re.compile(r'<img class="only-light"[^>]*>')
TAG = re.compile(r"\s*\\tag\{[^{}]*\}")
SLIDE = re.compile(r"^## (.+)$", re.MULTILINE)
MINUTES = re.compile(r"^```\{notes\} (\d+)$", re.MULTILINE)


def figure(notebook: dict, number: str) -> str:
    """A figure of an executed chapter, in light colours and without its caption.

    Raises:
        ValueError: the chapter shows no figure of that number.
    """
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            page = "".join(output.get("data", {}).get("text/html", ""))
            for found in FIGURE.findall(page):
                if f"<b>Figure {number}.</b>" in found:
                    return f"<figure>{LIGHT.search(found)[0]}</figure>"
    raise ValueError(f"no figure {number} is shown")


def formula(text: str, label: str) -> str:
    r"""TeX of a chapter's numbered display, without its number.

    >>> formula(r"Hence $$a=b\tag{2}$$ and $$b=c \tag{3}$$", "3")
    'b=c'

    Raises:
        ValueError: no display has that number.
    """
    for found in DISPLAY.findall(text):
        if rf"\tag{{{label}}}" in found:
            return TAG.sub("", found).strip()
    raise ValueError(f"no formula ({label}) is shown")


def schedule(text: str) -> list[tuple[str, int]]:
    """Each slide of a deck with its minutes.

    >>> schedule("# T\\n\\n## One\\n\\n```{notes} 4\\nSay.\\n```\\n")
    [('One', 4)]

    Raises:
        ValueError: a slide without minutes, or with notes twice.
    """
    parts = SLIDE.split(text)
    found = []
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        minutes = MINUTES.findall(body)
        if len(minutes) != 1:
            raise ValueError(f"the slide {title!r} needs notes with minutes, once")
        found.append((title, int(minutes[0])))
    return found


def apart(body: str) -> str:
    """The page with its title as a slide of its own, before the slides that it held.

    >>> apart('<section id="a"><h1>A</h1><section id="b">B</section></section>')
    '<section id="a"><h1>A</h1></section><section id="b">B</section>'
    """
    begins = body.index("<section", body.index("<section") + 1)
    ends = body.rindex("</section>")
    return body[:begins] + "</section>" + body[begins:ends] + body[ends + len("</section>") :]


class speaker_notes(nodes.General, nodes.Element):
    """What the speaker says, which the audience does not see."""


class Notes(SphinxDirective):
    """Minutes of a slide, and what the speaker says meanwhile."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        self.assert_has_content()
        counted = nodes.paragraph("", f"{self.arguments[0]} minutes.")
        node = speaker_notes("", counted)
        self.state.nested_parse(self.content, self.content_offset, node)
        return [node]


class OfChapter(SphinxDirective):
    """A piece of a chapter that has a number."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        folder = Path(self.env.srcdir) / "chapters"
        for path in sorted(folder.glob("*.ipynb")):
            notebook = json.loads(path.read_text(encoding="utf-8"))
            try:
                made = self.piece(notebook, self.arguments[0])
            except ValueError:
                continue
            self.env.note_dependency(str(path))
            return [made]
        raise self.error(f"no chapter in {folder.name}/ shows {self.what} {self.arguments[0]}")


class ChapterFigure(OfChapter):
    what = "figure"

    def piece(self, notebook: dict, number: str) -> nodes.Node:
        return nodes.raw("", figure(notebook, number), format="html")


class ChapterFormula(OfChapter):
    what = "formula"

    def piece(self, notebook: dict, label: str) -> nodes.Node:
        cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
        tex = formula("\n\n".join("".join(cell["source"]) for cell in cells), label)
        # Without blank lines, and split into lines where the chapter's display has several.
        tex = "\n".join(filter(str.strip, tex.splitlines()))
        return nodes.math_block(tex, tex, nowrap=False, number=None)


class Schedule(SphinxDirective):
    """The slides of a deck and their minutes, as a table."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        path = Path(self.env.srcdir) / f"{self.arguments[0]}.md"
        self.env.note_dependency(str(path))
        try:
            slides = schedule(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as fault:
            raise self.error(f"{self.arguments[0]}: {fault}") from None
        lines = ["| slide | minutes |", "|---|---|"]
        lines += [f"| {title} | {minutes} |" for title, minutes in slides]
        lines.append(f"| **together** | **{sum(minutes for _, minutes in slides)}** |")
        node = nodes.Element()
        self.state.nested_parse(StringList(lines, path.name), self.content_offset, node)
        return node.children


def show(app: Sphinx, pagename, templatename, context, doctree) -> str | None:
    """Have a deck shown as slides."""
    if app.env.metadata.get(pagename, {}).get("template") != "deck":
        return None
    context["slides"] = apart(re.sub(r'<a class="headerlink".*?</a>', "", context["body"]))
    return "deck.html"


def leave_to_pages(app: Sphinx, config) -> None:
    """Take a deck's script and styles out of the list that every page loads."""
    for setting in ("html_js_files", "html_css_files"):
        config[setting] = [one for one in config[setting] if not one.startswith(f"{FOLDER}/")]


def add_reveal(app: Sphinx, error: Exception | None) -> None:
    """Copy what is needed of reveal.js, with its licence, out of the package that ships it."""
    if error is not None or app.builder.format != "html":
        return
    try:
        shipped = files(PACKAGE) or []
    except PackageNotFoundError:
        raise ExtensionError(
            f"{PACKAGE} is not installed, and its reveal.js shows the slides: "
            "'make env' installs it"
        ) from None
    for wanted in TAKEN:
        found = [one for one in shipped if one.as_posix().endswith(f"/revealjs/{wanted}")]
        if len(found) != 1:
            raise ExtensionError(f"{PACKAGE} ships {len(found)} files called {wanted}, not one")
        target = Path(app.outdir) / "_static" / FOLDER / "reveal" / Path(wanted).name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(found[0].locate(), target)


def setup(app: Sphinx) -> dict:
    app.add_node(
        speaker_notes,
        html=(
            lambda writer, node: writer.body.append('<aside class="notes">'),
            lambda writer, node: writer.body.append("</aside>"),
        ),
    )
    app.add_directive("notes", Notes)
    app.add_directive("chapter-figure", ChapterFigure)
    app.add_directive("chapter-formula", ChapterFormula)
    app.add_directive("deck-schedule", Schedule)
    app.connect("config-inited", leave_to_pages)
    app.connect("html-page-context", show)
    app.connect("build-finished", add_reveal)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
