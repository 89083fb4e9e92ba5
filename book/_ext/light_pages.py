"""What makes a page appear soon: figures are files that load when the reader comes to them, icons
come from their font alone, only a page with mathematics loads MathJax, and scripts stand after the
text.

A notebook's figure stands in its output twice, light and dark, as text. The page names two files
in its place, of which a browser fetches the one that it shows.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from sphinx.application import Sphinx

FIGURE = re.compile(r'src="data:image/svg\+xml;base64,([^"]+)"')
SIZE = re.compile(r'<svg\b[^>]*?\swidth="([\d.]+)pt"\s+height="([\d.]+)pt"|<svg\b')
PIXELS_PER_POINT = 96 / 72
# The theme's style sheet draws the same icons from a font.
ICON_SCRIPT = re.compile(r'\s*<script[^>]*src="[^"]*fontawesome[^"]*\.js[^"]*"[^>]*></script>')
MATHJAX = re.compile(
    r"\s*<script>window\.MathJax = .*?</script>"
    r'|\s*<script[^>]*src="[^"]*mathjax/[^"]*"[^>]*></script>',
    re.DOTALL,
)
# The first script of a page sets light or dark, before anything is seen.
THEME = "localStorage.getItem("
SCRIPT = re.compile(r"\s*<script\b[^>]*>.*?</script>", re.DOTALL)
LATE_SCRIPTS = re.compile(r'\s*<script src="[^"]*scripts/bootstrap\.js')
# Cards, grids and tabs, which few pages have.
DESIGN = re.compile(
    r'\s*<link[^>]*href="[^"]*sphinx-design[^"]*"[^>]*>'
    r'|\s*<script[^>]*src="[^"]*design-tabs[^"]*"[^>]*></script>'
)
DESIGNED = re.compile(r'class="(?:[^"]* )?sd-')
# Of a picture for light pages and one for dark pages a reader sees one.
ONE_OF_TWO = re.compile(r'<img (?=[^>]*class="[^"]*\bonly-(?:light|dark)\b)(?![^>]*loading=)')
FORMULA = re.compile(r'class="[^"]*\bmath\b')


def with_figure_files(page: str, folder: Path, address: str) -> str:
    """The page with each inlined SVG figure written to a file of its own.

    Args:
        page: HTML.
        folder: where the files go; a figure's name is a hash of its content.
        address: of that folder, as the page links to it.

    Returns:
        HTML whose images load when they are needed, with their size known before.

    >>> with_figure_files('<img alt="none">', Path("nowhere"), "_images")
    '<img alt="none">'
    >>> with_figure_files('<img class="only-dark" src="a.svg">', Path("nowhere"), "_images")
    '<img loading="lazy" class="only-dark" src="a.svg">'
    """

    def name(found: re.Match) -> str:
        drawing = base64.b64decode(found[1])
        file = f"figure-{hashlib.sha256(drawing).hexdigest()[:16]}.svg"
        folder.mkdir(exist_ok=True)
        (folder / file).write_bytes(drawing)
        size = SIZE.search(drawing.decode())
        pixels = [round(float(points) * PIXELS_PER_POINT) for points in size.groups() if points]
        fixed = ' width="{}" height="{}"'.format(*pixels) if pixels else ""
        return f'src="{address}/{file}" loading="lazy"{fixed}'

    return ONE_OF_TWO.sub('<img loading="lazy" ', FIGURE.sub(name, page))


def without_needless_scripts(page: str) -> str:
    """The page without the script that draws icons, without MathJax where no formula stands, and
    without the styles of cards where no card stands.

    >>> page = '<script defer src="_static/mathjax/tex.js"></script><p class="{}">a</p>'
    >>> without_needless_scripts(page.format("plain"))
    '<p class="plain">a</p>'
    >>> without_needless_scripts(page.format("math")) == page.format("math")
    True
    """
    page = ICON_SCRIPT.sub("", page)
    page = page if DESIGNED.search(page) else DESIGN.sub("", page)
    return page if FORMULA.search(page) else MATHJAX.sub("", page)


def with_late_scripts(page: str) -> str:
    """The page with the scripts of its head after its text, in their order.

    They stand before the theme's own late scripts, so all of them run in the order that they had.

    >>> head = '<head><script src="a.js"></script><title>t</title></head>'
    >>> with_late_scripts(head + '<body>text<script src="scripts/bootstrap.js"></script></body>')
    '<head><title>t</title></head><body>text<script src="a.js"></script>\
<script src="scripts/bootstrap.js"></script></body>'
    """
    head, ends, body = page.partition("</head>")
    late = LATE_SCRIPTS.search(body)
    if late is None:
        return page
    moved = [script for script in SCRIPT.findall(head) if THEME not in script]
    for script in moved:
        head = head.replace(script, "", 1)
    return head + ends + body[: late.start()] + "".join(moved) + body[late.start() :]


def lighten_pages(app: Sphinx, error: Exception | None) -> None:
    """Rewrite every page that was just rendered."""
    if error is not None or app.builder.format != "html":
        return
    site = Path(app.outdir)
    for path in site.rglob("*.html"):
        parts = path.relative_to(site).parts
        if "_static" in parts:
            continue
        address = "../" * (len(parts) - 1) + "_images"
        # Figures first: without them a page is a hundredth as long to look through.
        page = with_figure_files(path.read_text(encoding="utf-8"), site / "_images", address)
        page = with_late_scripts(without_needless_scripts(page))
        path.write_text(page, encoding="utf-8")


def setup(app: Sphinx) -> dict:
    app.connect("build-finished", lighten_pages)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
