"""The whole book as one document for print, made by Chromium from the built site.

python book/_tools/pdf.py    # after `make book`; writes book/_build/book.pdf
"""

from __future__ import annotations

import copy
import html
import math
import re
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urldefrag

import chromium
from bs4 import BeautifulSoup, SoupStrainer, Tag
from pypdf import PdfReader

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "book" / "_build" / "html"
PDF = ROOT / "book" / "_build" / "book.pdf"
FRONT = "intro.html"

PAPER = {
    "format": "A4",
    "margin": {"top": "18mm", "bottom": "20mm", "left": "18mm", "right": "18mm"},
    # A line of code of 75 characters fits the column.
    "scale": 0.8,
    "print_background": True,
    "outline": True,
    "tagged": True,
    "display_header_footer": True,
    "header_template": "<span></span>",
    "footer_template": (
        '<div style="width: 100%; font: 9px sans-serif; text-align: center">'
        '<span class="pageNumber"></span></div>'
    ),
}
# What a page of the site has for a screen: dark pictures, and code that the page folds.
SCREEN_ONLY = ".only-dark, .headerlink, .colab-lines, details.hide.above-input, script"
TALL = 1.2  # how many times as high as wide a picture may be, to fit a page with its caption
FOLDED_CODE = "details:not([class]):has(> div[class^=highlight-])"  # of the register's checks
STYLE = """
article { break-before: page; max-width: none !important; padding: 0 !important; }
body, html { background: #fff !important; display: block !important; overflow: visible !important; }
h1, h2, h3, h4, summary, caption, p:has(+ table, + ul, + ol), p:has(+ div > table) {
  break-after: avoid; }
figure, img, svg, div.math, mjx-container[display=true], .equation-box, tr {
  break-inside: avoid; }
.bd-article pre, .bd-content div.cell_output pre {
  white-space: pre-wrap !important; overflow: visible !important; overflow-wrap: anywhere; }
.card-table, .bd-article div.math, span.math, .output, .claims-picture {
  overflow: visible !important; }
img, svg { max-width: 100%; height: auto; }
.claims-picture svg { min-width: 0; display: block; }
.title-page { break-after: page; padding-top: 30vh; }
.contents { padding: 0 !important; border: 0 !important; background: none !important;
  box-shadow: none !important; }
.contents p { margin: 0.7em 0 0.1em; font-weight: 700; }
.contents a { display: flex; gap: 1em; color: inherit; text-decoration: none; line-height: 1.55; }
.contents .number { margin-left: auto; min-width: 3em; text-align: right; }
"""
# A formula or a table that is wider than the column becomes as small as the column asks for.
FIT = r"""() => {
  const shrink = (box, inner) => {
    const room = box.parentElement.clientWidth, wide = inner.scrollWidth;
    // Letters of the smaller size do not shrink by the very same factor.
    if (room && wide > room) box.style.zoom = 0.99 * room / wide;
  };
  for (const box of document.querySelectorAll("mjx-container[display=true]")) shrink(box, box);
  for (const box of document.querySelectorAll("article table")) shrink(box, box);
}"""
# What of the document is wider than the place that shows it, images that show nothing, and formulas
# that MathJax left alone or has no words for, which it writes in red.
FAULTS = r"""() => [...document.querySelectorAll("article pre, article table, article img, "
    + "article .math.notranslate, mjx-container[display=true], mjx-merror, "
    + "mjx-mtext[style*='color: red']")]
  .filter(box => {
    if (box.matches("img") && !box.naturalWidth) return true;
    if (box.matches("mjx-merror, mjx-mtext")) return true;
    if (box.matches(".math") && !box.querySelector("mjx-container")) return true;
    const right = document.querySelector("article").getBoundingClientRect().right;
    const cuts = getComputedStyle(box).overflowX !== "visible";
    const hidden = cuts && box.scrollWidth > box.clientWidth;
    return hidden || box.getBoundingClientRect().right > right + 1
      || (box.matches("pre") && box.scrollWidth > box.clientWidth + 1);
  })
  .map(box => (box.closest("mjx-container") ?? box).textContent.slice(0, 80) || box.outerHTML
    .slice(0, 160))"""


@dataclass(frozen=True)
class Entry:
    """A line of the table of contents."""

    part: str  # the heading that it stands under; empty for the front page
    title: str
    page: str  # of the site, such as chapters/03-volume.html


def entries(site: Path) -> list[Entry]:
    """The site's pages in the order of its navigation, the front page first."""
    front = BeautifulSoup((site / FRONT).read_text(encoding="utf-8"), "html.parser")
    found, part = [Entry("", front.title.get_text(), FRONT)], ""
    for one in front.select("nav.bd-links p.caption, nav.bd-links li > a"):
        if one.name == "p":
            part = one.get_text(strip=True)
        else:
            found.append(Entry(part, one.get_text(" ", strip=True), one["href"]))
    return found


def anchor(page: str, fragment: str = "") -> str:
    """The id in the document of a page, or of a place on it.

    >>> anchor("chapters/03-volume.html"), anchor("claims.html", "vgg10")
    ('chapters-03-volume', 'claims--vgg10')
    """
    name = page.removesuffix(".html").replace("/", "-")
    return f"{name}--{fragment}" if fragment else name


def article(site: Path, page: str, pages: set[str]) -> Tag:
    """A page's text for the document: ids and links lead within it, folded text is open."""
    parsed = BeautifulSoup((site / page).read_text(encoding="utf-8"), "html.parser")
    text = parsed.select_one("article.bd-article")
    for one in text.select(f"{SCREEN_ONLY}, {FOLDED_CODE}"):
        one.decompose()
    for one in text.select("div.cell"):
        if not one.find(True):  # its code was folded; between a heading and what it heads
            one.decompose()
    for one in text.select(".claims-picture svg.narrow"):  # for a telephone
        one.decompose()
    for one in text.select(".claims-picture svg"):
        one.replace_with(*slices(one))
    for one in text.select("details"):
        one["open"] = ""
    for one in text.select("[id]"):
        if one.find_parent("svg") is None:
            one["id"] = anchor(page, one["id"])
    for one in text.select("[data-numbers]"):
        del one["data-numbers"]
    folder = (site / page).parent
    for one in text.select("img"):
        one["src"] = (folder / unquote(one["src"])).resolve().as_uri()
        del one["loading"]
    for one in text.select("a"):
        for name in {"href", "xlink:href"} & set(one.attrs):
            link(one, name, site, page, pages)
    text["id"] = anchor(page)
    return text


def slices(picture: Tag) -> list[Tag]:
    """A picture of many lines of text, cut between two lines wherever a page would end."""
    left, top, width, height = map(float, picture["viewbox"].split())
    count = math.ceil(height / (TALL * width))
    lines = sorted({float(one["y"]) for one in picture.select("text")})
    cuts = [top]
    for k in range(1, count):
        even = top + k * height / count
        above = max(y for y in lines if y <= even)
        below = min(y for y in lines if y > even)
        cuts.append(above + 0.35 * (below - above))  # a line stands on its y, and is mostly above
    found = []
    for begin, end in pairwise([*cuts, top + height]):
        one = copy.copy(picture)
        one["viewbox"] = f"{left} {begin} {width} {end - begin}"
        del one["width"], one["height"]
        found.append(one)
    return found


def link(one: Tag, name: str, site: Path, page: str, pages: set[str]) -> None:
    """Lead a link to its place in the document, or nowhere if the document lacks the page."""
    if re.match(r"[a-z][a-z0-9+.-]*:", one[name]):
        return
    target, fragment = urldefrag(one[name])
    file = ((site / page).parent / unquote(target)).resolve() if target else site / page
    known = file.relative_to(site).as_posix() if file.is_relative_to(site) else ""
    if known in pages:
        one[name] = "#" + anchor(known, unquote(fragment))
    else:
        del one[name]


def stylesheets(site: Path, page: str) -> list[str]:
    """The style sheets of a page of the site; a quiz and an explorable have their own."""
    source = (site / page).read_text(encoding="utf-8")
    links = BeautifulSoup(source, "html.parser", parse_only=SoupStrainer("link"))
    hrefs = [one["href"].partition("?")[0] for one in links.select("[rel=stylesheet]")]
    return [((site / page).parent / href).resolve().as_uri() for href in hrefs]


def document(site: Path, chosen: list[Entry]) -> str:
    """HTML of the whole document: title, contents, and every chosen page after the other."""
    pages = {one.page for one in chosen}
    front = BeautifulSoup((site / FRONT).read_text(encoding="utf-8"), "html.parser")
    title = html.escape(front.title.get_text())
    sheets = dict.fromkeys(sheet for one in chosen for sheet in stylesheets(site, one.page))
    styles = "".join(f'<link rel="stylesheet" href="{sheet}">' for sheet in sheets)
    mathjax = (site / "_static" / "mathjax" / "tex-chtml-full.js").as_uri()
    texts = [str(article(site, one.page, pages)) for one in chosen]
    return f"""<!DOCTYPE html><html lang="en" data-theme="light" data-mode="light"><head>
<meta charset="utf-8"><title>{title}</title>{styles}<style>{STYLE}</style>
<script>window.MathJax = {{"options": {{"enableMenu": false, "processHtmlClass":
"tex2jax_process|mathjax_process|math|output_area"}}}}</script>
<script defer src="{mathjax}"></script></head><body><main class="bd-content">
<div class="title-page"><h1>{title}</h1><p>The site on paper: every page in the order of its
navigation. Code that the site folds stands in the notebooks.</p></div>
<nav class="contents"><h1>Contents</h1>{contents(chosen)}</nav>{"".join(texts)}
</main></body></html>"""


def contents(chosen: list[Entry]) -> str:
    """The table of contents, with places for the numbers of pages."""
    lines, part = [], ""
    for one in chosen:
        if one.part != part:
            part = one.part
            lines.append(f"<p>{html.escape(part)}</p>")
        target = anchor(one.page)
        lines.append(
            f'<a href="#{target}"><span>{html.escape(one.title)}</span>'
            f'<span class="number" data-of="{target}"></span></a>'
        )
    return "".join(lines)


def numbers(pdf: Path, chosen: list[Entry]) -> dict[str, int]:
    """The number of the page that each entry begins on, as its destination in the document says."""
    reader = PdfReader(pdf)
    found = reader.named_destinations
    names = [anchor(one.page) for one in chosen]
    return {name: reader.get_destination_page_number(found[f"/{name}"]) + 1 for name in names}


def make(site: Path, chosen: list[Entry], pdf: Path, browser) -> list[str]:
    """Write the document, twice: the first one tells the contents which page each entry is on.

    Args:
        site: the built site.
        chosen: the pages that the document has, in order.
        pdf: the file to write.
        browser: a running Chromium.

    Returns:
        What is wider than the paper, images that show nothing, and formulas that are not typeset;
        empty where all is well.
    """
    pdf.parent.mkdir(parents=True, exist_ok=True)
    source = pdf.with_suffix(".html")
    source.write_text(document(site, chosen), encoding="utf-8")
    # The width of the column on paper, so that what is measured here is what is printed.
    width = round((210 - 2 * 18) / 25.4 * 96 / PAPER["scale"])
    context = browser.new_context(viewport={"width": width, "height": 1000}, color_scheme="light")
    try:
        page = context.new_page()
        page.set_default_timeout(0)
        page.emulate_media(media="print")
        page.goto(source.as_uri())
        page.evaluate("MathJax.startup.promise.then(() => true)")
        page.evaluate(FIT)
        faults = page.evaluate(FAULTS)
        page.pdf(path=pdf, **PAPER)
        of = numbers(pdf, chosen)
        page.evaluate(
            "of => { for (const box of document.querySelectorAll('[data-of]'))"
            " box.textContent = of[box.dataset.of]; }",
            of,
        )
        page.pdf(path=pdf, **PAPER)
    finally:
        context.close()
        source.unlink()
    if numbers(pdf, chosen) != of:
        raise RuntimeError(f"the contents of {pdf} name other pages than their entries begin on")
    return faults


def main() -> int:
    if not (SITE / FRONT).exists():
        print("make pdf: the site is not built; run 'make book' first", file=sys.stderr)
        return 1
    start = time.perf_counter()
    try:
        with chromium.started() as browser:
            faults = make(SITE, entries(SITE), PDF, browser)
    except FileNotFoundError as error:
        print(f"make pdf: {error}", file=sys.stderr)
        return 1
    for one in faults:
        print(f"wider than the paper, empty, or not typeset: {one}", file=sys.stderr)
    count = len(PdfReader(PDF).pages)
    print(f"{count} pages in {time.perf_counter() - start:.0f} s: {PDF}")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
