"""book/_tools/pdf.py: the site as one document for print, read back."""

from __future__ import annotations

import re
from pathlib import Path

import pdf
import pytest
from bs4 import BeautifulSoup
from pypdf import PdfReader

SITE = Path(__file__).resolve().parents[1] / "book" / "_build" / "html"
LONG = "a line of code that has far more characters than a column has room for, " * 3

PAGE = """<html><head><title>{title}</title></head><body>
<nav class="bd-links"><p class="caption">Part one</p><ul>
<li><a href="chapters/first.html">1. First</a></li>
<li><a href="chapters/second.html">2. Second</a></li></ul></nav>
<article class="bd-article">{text}</article></body></html>"""
FIRST = f"""<h1>First</h1><details class="hide above-input"><summary>Set-up</summary>
<pre>folded code</pre></details><details class="prediction-answer"><summary>Answer</summary>
an answer</details><details><summary>A table</summary><table><tr><td>a cell</td></tr></table>
</details><details><summary>The code of its check</summary><div class="highlight-python">
<pre>folded code</pre></div></details><a id="here"></a><a href="second.html#there">on</a>
<a href="#here">back</a><a href="../search.html">search</a><a href="https://arxiv.org">far</a>
<div class="explorable" data-numbers="1"><div class="explorable-still">a still</div></div>
<pre>{LONG}</pre>"""
SECOND = '<h1>Second</h1><p id="there">there</p>' + '<p style="height: 400px">text</p>' * 6


@pytest.fixture
def site(tmp_path) -> Path:
    """Two chapters and a front page, without MathJax."""
    folder = tmp_path / "site"
    (folder / "chapters").mkdir(parents=True)
    (folder / "_static" / "mathjax").mkdir(parents=True)
    script = folder / "_static" / "mathjax" / "tex-chtml-full.js"
    script.write_text("MathJax.startup = {promise: Promise.resolve()};")
    for name, text in (
        ("intro", "<h1>Front</h1>"),
        ("chapters/first", FIRST),
        ("chapters/second", SECOND),
    ):
        (folder / f"{name}.html").write_text(PAGE.format(title="A book", text=text))
    return folder


def texts(file: Path) -> list[str]:
    return [page.extract_text() for page in PdfReader(file).pages]


def test_entries_follow_the_sites_navigation(site):
    assert pdf.entries(site) == [
        pdf.Entry("", "A book", "intro.html"),
        pdf.Entry("Part one", "1. First", "chapters/first.html"),
        pdf.Entry("Part one", "2. Second", "chapters/second.html"),
    ]


def test_an_article_links_within_the_document_and_shows_answers_not_folded_code(site):
    pages = {entry.page for entry in pdf.entries(site)}
    text = pdf.article(site, "chapters/first.html", pages)
    assert text["id"] == "chapters-first"
    assert [link.get("href") for link in text.select("a")] == [
        None,
        "#chapters-second--there",
        "#chapters-first--here",
        None,
        "https://arxiv.org",
    ]
    assert text.select("#chapters-first--here")
    assert "folded code" not in str(text) and "data-numbers" not in str(text)
    assert [fold.summary.get_text() for fold in text.select("details[open]")] == [
        "Answer",
        "A table",
    ]


def test_the_document_is_numbered_and_its_contents_name_the_pages(browser, site, tmp_path):
    chosen, file = pdf.entries(site), tmp_path / "book.pdf"
    assert pdf.make(site, chosen, file, browser) == []
    assert not file.with_suffix(".html").exists()
    pages = texts(file)
    assert [text.split()[-1] for text in pages] == [str(n + 1) for n in range(len(pages))]
    begins = [n + 1 for n, text in enumerate(pages) if re.match("(Front|First|Second)\n", text)]
    assert len(begins) == 3 and len(pages) > begins[-1]
    (contents,) = [text for text in pages if text.startswith("Contents")]
    listed = re.findall(r"(?:A book|First|Second) ?(\d+)$", contents, re.MULTILINE)
    assert [int(number) for number in listed] == begins
    whole = " ".join(" ".join(pages).split())
    assert "an answer" in whole and "a still" in whole and "folded code" not in whole
    assert whole.count(LONG.split(",")[0]) == 3
    assert [entry.title for entry in PdfReader(file).outline if not isinstance(entry, list)]


def test_pages_keep_their_style_sheets_and_cells_whose_code_was_folded_leave_no_gap(site):
    page = site / "chapters" / "first.html"
    sheets = "".join(
        f'<link rel="stylesheet" href="{s}">' for s in ("../_static/a.css?v=1", "b.css")
    )
    cells = (
        '<div class="cell"><details class="hide above-input">x = 1</details></div>'
        '<div class="cell"><details class="hide above-input">x</details><p>seen</p></div>'
    )
    text = page.read_text().replace("</head>", f"{sheets}</head>")
    page.write_text(text.replace("<h1>First</h1>", f"<h1>First</h1>{cells}"))
    chosen = pdf.entries(site)
    made = BeautifulSoup(pdf.document(site, chosen), "html.parser")
    assert [link["href"] for link in made.select("link[rel=stylesheet]")] == [
        (site / "_static" / "a.css").as_uri(),
        (site / "chapters" / "b.css").as_uri(),
    ]
    assert [cell.get_text() for cell in made.select("div.cell")] == ["seen"]


def test_a_picture_taller_than_a_page_is_cut_between_its_lines(site):
    page = site / "chapters" / "first.html"
    at = [20.0 + 13 * k for k in range(150)]
    lines = "".join(f'<text x="5" y="{y}">line</text>' for y in at)
    svg = f'<svg viewBox="0 0 720 2000" width="720pt" height="2000pt">{lines}</svg>'
    page.write_text(
        page.read_text().replace("a still", f'<figure class="claims-picture">{svg}</figure>')
    )
    text = pdf.article(site, "chapters/first.html", set())
    windows = [list(map(float, one["viewbox"].split())) for one in text.select("svg")]
    assert len(windows) == 3 and all(height <= 1.2 * 720 for _, _, _, height in windows)
    assert all(not one.has_attr("height") and len(one.select("text")) == 150 for one in text("svg"))
    assert windows[0][1] == 0 and sum(height for _, _, _, height in windows) == 2000
    for _, begin, _, height in windows[:-1]:
        end = begin + height
        assert any(y + 3 < end < y + 13 - 7 for y in at)  # below the tails, above the next capitals


@pytest.mark.parametrize(
    "heads",
    [
        '<h2>alone</h2><div class="cell"><details class="hide above-input">x</details></div>',
        "<details><summary>alone</summary>",
        "<p>alone</p><!-- a list follows --><ul><li>",
    ],
)
def test_nothing_that_heads_what_follows_is_left_at_the_foot_of_a_page(
    heads, browser, site, tmp_path
):
    page = site / "chapters" / "first.html"
    tall = '<div style="height: 300px; break-inside: avoid">followed</div>'
    above = '<div style="height: 1050px">above</div>'
    page.write_text(PAGE.format(title="A book", text=f"<h1>First</h1>{above}{heads}{tall}"))
    assert pdf.make(site, pdf.entries(site), tmp_path / "book.pdf", browser) == []
    pages = [text for text in texts(tmp_path / "book.pdf") if "above" in text or "alone" in text]
    assert len(pages) == 2 and "alone" not in pages[0]
    assert re.search(r"alone\s.*followed", pages[1], re.DOTALL)


def test_a_formula_that_is_not_typeset_is_named(browser, site, tmp_path):
    page = site / "chapters" / "first.html"
    formulas = r"""<span class="math notranslate">\(left alone\)</span>
<span class="math notranslate"><mjx-container><mjx-mtext style="color: red;">\unheard</mjx-mtext>
</mjx-container></span>"""
    page.write_text(page.read_text().replace("a still", formulas))
    faults = pdf.make(site, pdf.entries(site), tmp_path / "book.pdf", browser)
    assert [fault.strip() for fault in faults] == [r"\(left alone\)", r"\unheard"]


def test_a_line_of_code_that_the_paper_would_clip_is_named(browser, site, tmp_path):
    page = site / "chapters" / "first.html"
    clipping = '<pre style="white-space: pre !important; overflow: hidden !important">'
    page.write_text(page.read_text().replace(f"<pre>{LONG}", clipping + LONG))
    (fault,) = pdf.make(site, pdf.entries(site), tmp_path / "book.pdf", browser)
    assert "a line of code" in fault


def test_an_image_that_shows_nothing_is_named(browser, site, tmp_path):
    page = site / "chapters" / "first.html"
    page.write_text(page.read_text().replace("a still", '<img src="none.png" alt="a still">'))
    (fault,) = pdf.make(site, pdf.entries(site), tmp_path / "book.pdf", browser)
    assert "none.png" in fault


@pytest.mark.slow
def test_two_chapters_on_paper(browser, tmp_path):
    """No line is clipped, each page has its number, and the explorable is its still picture."""
    if not (SITE / "intro.html").exists():
        pytest.fail("the site is not built: run 'make book' first ('make test' does)")
    names = ("chapters/00-one-hour.html", "chapters/10-digits.html")
    chosen = [entry for entry in pdf.entries(SITE) if entry.page in names]
    assert pdf.make(SITE, chosen, tmp_path / "book.pdf", browser) == []
    pages = texts(tmp_path / "book.pdf")
    assert [text.split()[-1] for text in pages] == [str(n + 1) for n in range(len(pages))]
    whole = " ".join(" ".join(pages).split())
    assert "A, B and C stay, and D rises" in whole, "the caption of the still picture"
    with_front = [pdf.entries(SITE)[0], *chosen]
    (tmp_path / "book.html").write_text(pdf.document(SITE, with_front), encoding="utf-8")
    page = browser.new_page()
    page.goto((tmp_path / "book.html").as_uri(), wait_until="domcontentloaded")
    sizes = [
        page.locator(f"article:last-of-type {one}").first.evaluate(
            "one => parseFloat(getComputedStyle(one).fontSize)"
        )
        for one in ("h1", "h2", "legend", "label")
    ]
    page.close()
    assert sizes[0] > sizes[1] > sizes[2] == sizes[3], (
        "titles, sections, questions of a quiz, its choices"
    )
    stills = BeautifulSoup(pdf.document(SITE, chosen), "html.parser").select(
        ".explorable-still img"
    )
    assert stills, "and the picture itself, which make would name if it showed nothing"
