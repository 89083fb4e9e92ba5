"""The rendered site: from disk and under a sub-path, with no network, in a real browser."""

from __future__ import annotations

import functools
import html
import re
import threading
from collections import Counter
from dataclasses import dataclass
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urldefrag, urljoin

import pytest
from browsing import AT_REST, FOLLOW, JUDGE, Reader
from playwright.sync_api import expect
from quizzes import read_quiz

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "book" / "_build" / "html"

WIDTHS = (1440, 1280, 820, 390)
# A script that a page waits for before it shows anything; the theme's own are smaller.
BLOCKING_KB = 30
# A page of text; the largest chapter had 5,500 while its figures stood in it.
HEAVY_KB = 500
# All that a browser fetches for the front page; a telephone with 1.6 Mbit/s has it in 5 seconds.
FRONT_KB = 1000
# Pages that hold a form, or that lead elsewhere at once.
WORDLESS = {"index.html", "search.html"}

OUTLINED = r"""box => {
  const {outlineStyle, outlineWidth, outlineColor} = getComputedStyle(box);
  const shown = outlineStyle !== "none" && parseFloat(outlineWidth) >= 2;
  return shown && !/, 0\)|transparent/.test(outlineColor);
}"""
# Where the focus is, and whether the reader sees it there.
FOCUSED = f"""() => {{
  const outlined = {OUTLINED};
  const box = document.activeElement;
  return box === document.body ? [null, true] : [box.outerHTML.slice(0, 160), outlined(box)];
}}"""
# What the keyboard reaches and shows no sign of it.
UNSEEN_FOCUS = f"""() => {{
  const outlined = {OUTLINED};
  const all = document.querySelectorAll("a[href], button, input, select, summary, [tabindex]");
  const complaints = [];
  for (const box of all) {{
    if (box.tabIndex < 0 || !box.checkVisibility({{visibilityProperty: true}})) continue;
    box.focus({{preventScroll: true}});
    const focused = document.activeElement === box;
    if (focused && !outlined(box)) complaints.push(box.outerHTML.slice(0, 160));
  }}
  return complaints;
}}"""
# What scrolls sideways, and neither stops the keyboard nor holds anything that does.
OUT_OF_REACH = r"""async () => {
  // The page learns of a new width when the browser paints, which a busy machine puts off; and
  // what was just unfolded may have asked for a font.
  await document.fonts.ready;
  const painted = done => requestAnimationFrame(() => setTimeout(done));
  const outOfReach = box => {
    if (box.scrollWidth <= box.clientWidth || !box.clientWidth) return false;
    if (!/auto|scroll/.test(getComputedStyle(box).overflowX)) return false;
    return !(box.tabIndex >= 0 || box.querySelector("a[href], button, [tabindex='0']"));
  };
  let left = document.querySelectorAll("article :not(mjx-container *)");
  for (let frame = 0; frame < 60 && left.length; frame++) {
    await new Promise(painted);
    left = [...left].filter(outOfReach);
  }
  return left.map(box => "out of the keyboard's reach: " + box.outerHTML.slice(0, 160));
}"""
LOADED_FONTS = r"""async () => {
  const fonts = await document.fonts.ready;
  return [...fonts].filter(font => font.status === "loaded").map(font => font.family);
}"""

# What of each displayed formula a reader cannot see at once or reach by scrolling to the right.
CUT_FORMULAS = r"""() => {
  for (const folded of document.querySelectorAll("details")) folded.open = true;
  const complaints = [];
  for (const formula of document.querySelectorAll("article mjx-container[display=true]")) {
    const ink = [...formula.querySelectorAll("mjx-math, mjx-math *, mjx-labels *")]
      .map(part => part.getBoundingClientRect()).filter(box => box.width);
    if (!ink.length) { complaints.push("not shown: " + formula.textContent); continue; }
    let left = Math.min(...ink.map(box => box.left));
    let right = Math.max(...ink.map(box => box.right));
    const complain = what => complaints.push(`${what}: ${formula.textContent.slice(0, 40)}`);
    for (let box = formula; box; box = box.parentElement) {
      const overflow = getComputedStyle(box).overflowX, edge = box.getBoundingClientRect();
      if (overflow === "visible") continue;
      const scrolls = overflow === "auto" || overflow === "scroll";
      if (box.scrollLeft !== 0) complain(`starts scrolled by ${box.scrollLeft}`);
      if (left < edge.left - 1) complain(`begins ${edge.left - left} pixels out of sight`);
      const reach = edge.left + (scrolls ? box.scrollWidth : edge.width);
      if (right > reach + 1) complain(`ends ${right - reach} pixels out of reach`);
      if (scrolls) { left = edge.left; right = edge.right; }
    }
  }
  return complaints;
}"""

# Images that show nothing even after the reader came to them.
EMPTY_IMAGES = r"""async all => {
  const wait = image => { image.loading = "eager"; return image.decode().catch(() => {}); };
  await Promise.all(all.map(wait));
  return all.filter(image => !image.naturalWidth).map(image => image.alt);
}"""

# Slides whose content is larger than a slide.
SPILLING = r"""all => all.filter(slide => {
  const {width, height} = Reveal.getConfig();
  return slide.scrollHeight > height || slide.scrollWidth > width;
}).map(slide => slide.id)"""

# Text that the reader sees outside of code, where TeX must have become maths.
READ_TEXT = r"""() => {
  const walker = document.createTreeWalker(document.querySelector("article"), NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    const parent = walker.currentNode.parentElement;
    if (parent.closest("pre, code, script, style, mjx-container, svg, title")) continue;
    found.push(walker.currentNode.textContent);
  }
  return found.join(" ");
}"""


class Page(HTMLParser):
    """What a page links to, loads, and calls by an id."""

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.loads, self.ids, self.images = [], [], [], []
        self.title, self.descriptions, self.words, self.within = "", [], 0, []
        self.head_scripts, self.in_head = [], False
        self.has_mathematics = self.has_mathjax = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag in ("head", "body"):
            self.in_head = tag == "head"
        if tag == "script" and found.get("src"):
            self.has_mathjax |= "/mathjax/" in found["src"]
            if self.in_head and not {"defer", "async"} & found.keys():
                self.head_scripts.append(found["src"])
        self.has_mathematics |= "math" in (found.get("class") or "").split()
        if found.get("id"):
            self.ids.append(found["id"])
        if tag == "meta" and found.get("name") == "description":
            self.descriptions.append(found["content"])
        if tag in ("title", "article"):
            self.within.append(tag)
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        if tag == "img":
            self.images.append(found)
        source = found.get("src") or (found.get("href") if tag == "link" else None)
        if source:
            self.loads.append(source)

    def handle_endtag(self, tag):
        if self.within[-1:] == [tag]:
            self.within.pop()

    def handle_data(self, data):
        if "article" in self.within:
            self.words += len(data.split())
        elif "title" in self.within:
            self.title += data


@pytest.fixture(scope="module")
def pages() -> dict[Path, Page]:
    if not (SITE / "index.html").exists():
        pytest.fail("the site is not built: run 'make book' first ('make test' does)")
    files = [path for path in SITE.rglob("*.html") if "_static" not in path.parts]
    return {path: Page(path) for path in sorted(files)}


def articles(pages) -> list[str]:
    """The pages that a reader reads, chapters and prose."""
    index = {"index.html", "genindex.html", "search.html", "py-modindex.html", "404.html"}
    read = [path for path in pages if path.name not in index and path.parent.name != "slides"]
    return [path.relative_to(SITE).as_posix() for path in read]


def test_every_internal_link_and_load_resolves(pages):
    broken = []
    for path, page in pages.items():
        for link in page.links + page.loads:
            if re.match(r"[a-z][a-z0-9+.-]*:", link) or link == "#":
                continue
            target, anchor = urldefrag(unquote(link))
            file = (path.parent / target.partition("?")[0]).resolve() if target else path
            if not file.exists():
                broken.append(f"{path.relative_to(SITE)}: {link} leads nowhere")
            elif anchor.startswith("network="):  # a view, which the page's script reads
                if "explorable-archive" not in pages[file].ids:
                    broken.append(f"{path.relative_to(SITE)}: {link} names no archive there")
            elif anchor and file in pages and anchor not in pages[file].ids:
                broken.append(f"{path.relative_to(SITE)}: {link} names no id there")
    assert not broken, "\n".join(broken)


def test_no_page_loads_anything_from_another_host(pages):
    far = [
        f"{path.relative_to(SITE)}: {load}"
        for path, page in pages.items()
        for load in page.loads
        if re.match(r"(https?:)?//", load)
    ]
    scripts = [
        f"{path.relative_to(SITE)}: a script names {found}"
        for path in pages
        for script in re.findall(r"<script[^>]*>(.*?)</script>", path.read_text(), re.DOTALL)
        for found in re.findall(r"https?://[^\"' ]+", script)
    ]
    styles = [
        f"{path.relative_to(SITE)}: {found}"
        for path in SITE.rglob("*.css")
        for found in re.findall(
            r"(?:url\(|@import)\s*[\"']?(?:https?:)?//[^)\s]+", path.read_text()
        )
    ]
    assert not far + scripts + styles


def test_every_image_has_alternative_text(pages):
    bare = [
        f"{path.relative_to(SITE)}: {image.get('src', '')[:60]}"
        for path, page in pages.items()
        for image in page.images
        if not (image.get("alt") or "").strip()
    ]
    assert not bare, "\n".join(bare)


def test_no_page_gives_an_id_twice(pages):
    twice = [
        f"{path.relative_to(SITE)}: {name}"
        for path, page in pages.items()
        for name, times in Counter(page.ids).items()
        if times > 1
    ]
    assert not twice, "\n".join(twice)


def test_no_page_is_a_stub(pages):
    told = {path: page for path, page in pages.items() if path.name not in WORDLESS}
    assert not [page.title for page in told.values() if page.words < 20]


def test_every_page_has_a_title_and_a_description_of_its_own(pages):
    """The site's first address alone leads on to the front page and speaks for the page."""
    first, front = SITE / "index.html", SITE / "intro.html"
    assert pages[first].title == pages[front].title.strip()
    assert pages[first].descriptions == pages[front].descriptions
    own = {path: page for path, page in pages.items() if path != first}
    for path, page in own.items():
        name = path.relative_to(SITE)
        parts = [part.strip() for part in page.title.split("\N{EM DASH}")]
        assert all(parts) and len(set(parts)) == len(parts), f"{name}: {page.title!r}"
        assert len(page.descriptions) == 1, f"{name}: {page.descriptions}"
        assert 40 <= len(page.descriptions[0]) <= 200, f"{name}: {page.descriptions}"
    assert len({page.title for page in own.values()}) == len(own)
    assert len({page.descriptions[0] for page in own.values()}) == len(own)


def test_no_large_script_delays_the_first_paint(pages):
    large = []
    for path, page in pages.items():
        for script in page.head_scripts:
            if "searchindex.js" in script:  # the search page shows nothing without it
                continue
            size = (path.parent / script.partition("?")[0]).stat().st_size
            if size > BLOCKING_KB * 1000:
                large.append(f"{path.relative_to(SITE)}: {script} has {size:,} bytes")
    assert not large, "\n".join(large)


def test_mathjax_is_loaded_just_where_mathematics_stands(pages):
    named = {path.relative_to(SITE).as_posix(): page for path, page in pages.items()}
    with_mathematics = {name for name, page in named.items() if page.has_mathematics}
    assert with_mathematics
    assert {name for name, page in named.items() if page.has_mathjax} == with_mathematics


def test_figures_are_files_that_load_when_the_reader_comes_to_them(pages):
    faults, figures = [], 0
    for path, page in pages.items():
        for image in page.images:
            name, source = path.relative_to(SITE), image["src"]
            if source.startswith("data:"):
                faults.append(f"{name}: a figure of {len(source):,} characters in the page")
            elif "/figure-" in source:
                figures += 1
                if image.get("loading") != "lazy":
                    faults.append(f"{name}: {source} is fetched at once")
    assert not faults, "\n".join(faults)
    assert figures


def test_no_page_is_heavy(pages):
    """Without its figures, style sheets and scripts, which a browser fetches once or late."""
    heavy = [
        f"{path.relative_to(SITE)} has {path.stat().st_size:,} bytes"
        for path in pages
        if path.stat().st_size > HEAVY_KB * 1000
    ]
    assert not heavy, "\n".join(heavy)


def test_every_chapter_says_how_its_cells_ran(pages):
    names = [path.stem for path in (ROOT / "notebooks").glob("*.ipynb")]
    assert names
    for name in names:
        text = (SITE / "chapters" / f"{name}.html").read_text(encoding="utf-8")
        note = r"ran at scale <em>(smoke|laptop|paper)</em> with seed \d+ in [\d.]+ seconds"
        assert re.search(note, text), f"{name} has no such note"


def test_no_chapter_shows_an_object_by_its_address():
    """A cell that ends in a call shows what the call returns, such as a line of a figure."""
    address = re.compile(r"&lt;[\w.]+ (?:object )?at 0x|&lt;matplotlib\.")
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        text = (SITE / "chapters" / f"{path.stem}.html").read_text(encoding="utf-8")
        assert not address.findall(re.sub(r"<[^>]+>", "", text)), path.stem


def test_no_page_and_no_search_tells_an_answer_of_a_quiz(pages):
    """Nothing of a feedback that stands between formulas and links is in any text of the site."""
    told = [
        words
        for path in (ROOT / "book" / "quizzes").iterdir()
        for question in read_quiz(path)
        for choice in question.choices
        for words in re.split(r"[$*\[\]]", choice.feedback)
        if len(words) > 60
    ]
    assert len(told) > 100  # long enough to stand in the book by no chance
    texts = {path.relative_to(SITE): html.unescape(path.read_text()) for path in pages}
    sources = [path for path in (SITE / "_sources").rglob("*.*") if path.is_file()]
    texts |= {
        path: path.read_text(encoding="utf-8") for path in [*sources, SITE / "searchindex.js"]
    }
    assert not [(name, words) for name, text in texts.items() for words in told if words in text]
    asked = [name for name, text in texts.items() if 'class="quiz-told"' in text]
    assert len(asked) == len(list((ROOT / "notebooks").glob("*.ipynb")))


# From here on: in a browser.


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *words):
        """Say nothing of each request."""


@pytest.fixture(scope="module")
def sub_path(pages, tmp_path_factory):
    """The site as a server gives it under a sub-path."""
    folder = tmp_path_factory.mktemp("host")
    (folder / "some").mkdir()
    (folder / "some" / "course").symlink_to(SITE)
    handler = functools.partial(Quiet, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/some/course/"
    server.shutdown()


@pytest.fixture(scope="module", params=["from disk", "under a sub-path"])
def address(request, pages):
    """Where the site's pages begin: a file address, or a server's sub-path."""
    from_disk = request.param == "from disk"
    return SITE.as_uri() + "/" if from_disk else request.getfixturevalue("sub_path")


@pytest.fixture
def reader(browser, address):
    """A reader who sees no formula typeset: MathJax takes longer than all else on a page."""
    one = Reader(browser, address, mathjax=False)
    yield one
    one.close()


def chapter_with_equation(pages) -> str:
    found = [name for name in articles(pages) if "chapters/" in name]
    return next(name for name in found if "equation-badge" in (SITE / name).read_text())


def faults_of_rendering(page) -> list[str]:
    """Formulas and images of an open page that a reader cannot see."""
    faults = faults_of_images(page)
    bare = page.locator(".math.notranslate:not(:has(mjx-container))").count()
    if bare:
        faults.append(f"{bare} formulas are not rendered")
    unheard = page.locator("mjx-merror, mjx-mtext[style*='color: red']")  # or no command of TeX
    for fault in unheard.evaluate_all("all => all.map(e => e.title || e.parentElement.innerHTML)"):
        faults.append(f"MathJax says {fault[:80]}")
    raw = re.findall(r"\\[\[\](]|\$\$|\\(?:frac|lVert|sum|nabla|theta)\b", page.evaluate(READ_TEXT))
    if raw:
        faults.append(f"raw TeX {raw[:3]}")
    fonts = " ".join(page.evaluate(LOADED_FONTS))
    wanted = ["Font Awesome", "MJX"] if page.locator("mjx-container").count() else ["Font Awesome"]
    return faults + [f"no font of {maker} is loaded" for maker in wanted if maker not in fonts]


def faults_of_images(page) -> list[str]:
    empty = page.locator("article img").evaluate_all(EMPTY_IMAGES)
    return [f"an image shows nothing: {alt}" for alt in empty]


SEEN = r"""id => document.getElementById(id).checkVisibility({visibilityProperty: true})"""


def test_a_link_to_an_equation_in_a_folded_box_opens_the_box(reader):
    """Whether the reader comes from another page or from a link on the same one."""
    page = reader.open("chapters/03-volume.html")
    assert not page.evaluate(SEEN, "eq-22")
    page.evaluate("location.hash = 'eq-22'")
    page.wait_for_function(SEEN, arg="eq-22")
    page = reader.open("chapters/01-sharpness.html#eq-A-1")
    page.wait_for_function(SEEN, arg="eq-A-1")


@pytest.mark.slow
def test_every_page_shows_its_formulas_whole_and_its_images(browser, pages):
    """At every width: nothing is wider than the screen, a formula's left edge is seen at once and
    the rest by scrolling to the right, and the keyboard reaches all that scrolls.
    """
    one = Reader(browser, SITE.as_uri() + "/", width=WIDTHS[0])
    wrong, formulas = [], 0
    for name in articles(pages):
        page = one.open(name)
        page.add_style_tag(content=AT_REST)  # the sidebar slides in where the screen widens
        faults = faults_of_rendering(page)
        formulas += page.locator("article mjx-container[display=true]").count()
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            taken = page.evaluate("document.documentElement.scrollWidth")
            if taken > width + 1:
                faults.append(f"{taken} pixels wide on a screen of {width}")
            found = page.evaluate(CUT_FORMULAS) + page.evaluate(OUT_OF_REACH)
            faults += [f"{width} pixels: {fault}" for fault in found]
        wrong += [f"{name}: {fault}" for fault in faults]
    one.close()
    assert not wrong, "\n".join(wrong)
    assert formulas > 45


def test_a_deck_shows_each_slide_whole_and_hides_the_notes(browser, pages):
    """Formulas typeset, figures there, nothing below the edge; the keys lead to the last slide."""
    decks = [path for path in pages if path.parent.name == "slides"]
    assert decks
    one = Reader(browser, SITE.as_uri() + "/")
    for path in decks:
        page = one.open(path.relative_to(SITE).as_posix())
        page.wait_for_function("document.documentElement.dataset.deck === 'ready'")
        assert page.locator(".math:not(:has(mjx-container))").count() == 0
        assert page.locator("mjx-merror").count() == 0
        assert page.locator("figure img").evaluate_all(EMPTY_IMAGES) == []
        slides = page.locator(".slides > section")
        count = slides.count()
        assert count > 10 and slides.evaluate_all(SPILLING) == []
        assert page.locator("section > aside.notes").count() == count - 1  # all but the title
        assert not page.locator("aside.notes").nth(0).is_visible()
        for place in range(1, count):
            page.keyboard.press("ArrowRight")
            page.wait_for_function("place => Reveal.getIndices().h === place", arg=place)
        assert slides.nth(count - 1).locator("h2").is_visible()
    one.close()


@dataclass
class Visits:
    """What was wrong on the pages of the site, each opened once."""

    complaints: list[str]  # the reader's, of files that are missing and of errors
    images: list[str]  # that show nothing
    shut_out: list[str]  # what keeps some reader from a page
    looks: int  # kinds of text whose contrast was judged


@pytest.fixture(scope="module")
def visits(browser, pages, sub_path) -> Visits:
    """Every page under a sub-path, formulas as TeX, in light and in dark colours."""
    from axe_playwright_python.base import AXE_FILE_PATH

    one = Reader(browser, sub_path, mathjax=False)
    one.page.add_init_script(AXE_FILE_PATH.read_text(encoding="utf-8"))
    images, shut_out, known = [], [], {}
    for path in pages:
        name = path.relative_to(SITE).as_posix()
        page = one.open(name)
        if name == "index.html":
            page.wait_for_url("**/intro.html")
        images += [f"{name}: {fault}" for fault in faults_of_images(page)]
        if name == "index.html":
            continue
        page.add_style_tag(content=AT_REST)
        page.locator("details").evaluate_all("all => all.forEach(folded => folded.open = true)")
        known, faults = page.evaluate(JUDGE, [None, known, 2])
        page.keyboard.press("Tab")  # from now on the browser shows where the focus is
        faults += [f"no sign of focus on {box}" for box in page.evaluate(UNSEEN_FOCUS)]
        shut_out += [f"{name}: {fault}" for fault in faults]
    one.context.close()
    return Visits(one.complaints, images, shut_out, len(known))


@pytest.mark.slow
def test_every_page_finds_its_files_under_a_sub_path(visits):
    """The reader complains of each that is missing."""
    assert not visits.complaints, "\n".join(visits.complaints)
    assert not visits.images, "\n".join(visits.images)


@pytest.mark.slow
def test_no_page_shuts_a_reader_out(visits):
    """axe-core finds nothing serious, in light and in dark colours, and focus is seen."""
    assert not visits.shut_out, "\n".join(visits.shut_out)
    assert visits.looks > 100


def test_mathjax_finds_its_files_under_a_sub_path(browser, pages, sub_path):
    """From each folder of the site, for MathJax's own files are the same on all its pages."""
    one = Reader(browser, sub_path)
    for name in ("notation.html", chapter_with_equation(pages)):
        page = one.open(name)
        assert not faults_of_rendering(page)
        assert page.locator("mjx-container").count()
    one.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_a_reader_who_tabs_sees_every_step(browser, pages, width):
    """From the first stop of the front page to its last, which the theme's buttons are among."""
    one = Reader(browser, SITE.as_uri() + "/", width=width, mathjax=False)
    page = one.open("intro.html")
    page.add_style_tag(content=AT_REST)
    stops, unseen = [], []
    while len(stops) < 500:
        page.keyboard.press("Tab")
        stop, seen = page.evaluate(FOCUSED)
        if stop in (None, *stops[:1]):
            break
        stops.append(stop)
        unseen += [] if seen else [stop]
    one.close()
    assert not unseen, "\n".join(unseen)
    assert 10 < len(stops) < 500
    assert any("theme-switch-button" in stop for stop in stops)


def test_the_first_page_leads_to_the_front_page_and_shows_the_tally(reader):
    page = reader.page
    page.goto(urljoin(reader.address, "index.html"))
    page.wait_for_url("**/intro.html")
    tally = page.locator(".equation-tally").inner_text()
    good, total = re.match(r"(\d+) of (\d+) equations checked on [\d,]+ cases", tally).groups()
    assert good == total != "0"


def test_the_first_screen_has_the_theorem_the_doors_the_ellipse_and_the_tallies(browser, pages):
    one = Reader(browser, SITE.as_uri() + "/", width=1440)
    page = one.open("intro.html")
    parts = ("h1", "h1 ~ p", ".doors", ".explorable-live", ".equation-tally", ".claims-sentence")
    for part in parts:
        box = page.locator(f"article {part}").first.bounding_box()
        assert box and box["y"] >= 0, part
        assert box["y"] + box["height"] <= 900, part
    one.close()


def test_the_doors_of_the_front_page_open(reader):
    doors = reader.open("intro.html").locator(".doors a")
    assert [door.split("\n")[0] for door in doors.all_inner_texts()] == [
        "Read in one hour",
        "Measure your network",
        "Teach",
    ]
    for place in range(3):
        page = reader.open("intro.html")
        # Anywhere on a door, at its lower right corner as well.
        box = page.locator(".doors > li").nth(place).bounding_box()
        target = urljoin(page.url, doors.nth(place).get_attribute("href"))
        page.mouse.click(box["x"] + box["width"] - 6, box["y"] + box["height"] - 6)
        page.wait_for_url(target)


def test_the_front_page_is_light(browser, pages, sub_path):
    one, fetched = Reader(browser, sub_path), []
    one.page.on("response", lambda response: fetched.append(len(response.body())))
    one.open("intro.html").wait_for_load_state("networkidle")
    one.close()
    assert len(fetched) > 10
    assert sum(fetched) <= FRONT_KB * 1000


@pytest.mark.parametrize("name", ["intro.html", "chapters/03-volume.html"])
def test_a_page_can_be_read_before_any_script_has_come(browser, pages, sub_path, name):
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page, held = context.new_page(), []
    page.route("**/*.js*", lambda route: held.append(route))
    page.goto(urljoin(sub_path, name), wait_until="commit")
    page.wait_for_function("performance.getEntriesByName('first-contentful-paint').length")
    parts = ["article h1", "article .run-note"]
    if name == "intro.html":
        parts = ["article h1", "article .doors", ".explorable-still"]
    for part in parts:
        page.locator(part).first.wait_for(state="visible", timeout=10_000)
    assert not page.locator("article .only-dark").first.is_visible()
    assert held
    context.close()


def test_search_lists_chapters_before_names_and_leads_to_a_page(reader):
    page = reader.open("search.html?q=sharpness")
    page.wait_for_selector("#search-results li a[href*='api.html']")
    links = page.locator("#search-results li a").evaluate_all("all => all.map(e => e.href)")
    chapters = [place for place, link in enumerate(links) if "/chapters/" in link]
    names = [place for place, link in enumerate(links) if "/api.html" in link]
    assert len(chapters) > 5 and max(chapters) < min(names)
    page.goto(links[chapters[0]])
    assert "sharpness" in page.locator("article").inner_text().lower()


def test_search_finds_nothing_for_nonsense(reader):
    page = reader.open("search.html?q=qzxqzx")
    page.wait_for_selector("#search-results p.search-summary")
    assert page.locator("#search-results li a").count() == 0


def test_a_badge_leads_to_its_register_entry_and_back(pages, reader):
    name = chapter_with_equation(pages)
    page = reader.open(name)
    badge = page.locator("a.equation-badge").first
    label = re.match(r"Equation ([^,]+),", badge.get_attribute("aria-label")).group(1)
    assert re.match(r"checked · \d+ cases · worst (slack|error) ", badge.inner_text().strip())
    badge.click()
    anchor = "eq-" + label.replace(".", "-")
    page.wait_for_url(f"**/register.html#{anchor}")
    entry = page.locator(f'[id="{anchor}"]')
    assert f"({label})" in entry.locator("h2").inner_text()
    entry.locator("summary").click()
    assert "def " in entry.locator("details, .highlight").first.inner_text()
    entry.locator("p", has_text="Shown in").locator("a").first.click()
    page.wait_for_url(f"**/chapters/**#{anchor}")


def test_the_theme_switch_goes_dark_and_back_and_the_badge_can_be_read(pages, reader):
    """The badge's text stands out from the page by 4.5 to 1 or more in both."""
    page = reader.open(chapter_with_equation(pages))
    page.add_style_tag(content=AT_REST)
    colors = (
        "[getComputedStyle(document.body).backgroundColor,"
        " getComputedStyle(document.querySelector('.equation-badge')).color]"
    )
    seen = {}
    for _ in range(3):
        theme = page.evaluate("document.documentElement.dataset.theme")
        seen[theme] = [luminance(color) for color in page.evaluate(colors)]
        page.locator("button.theme-switch-button").first.click()
    assert set(seen) == {"light", "dark"}
    assert seen["dark"][0] < 0.1 < 0.8 < seen["light"][0]
    for pair in seen.values():
        assert (max(pair) + 0.05) / (min(pair) + 0.05) >= 4.5


# What of an address the page of the archive does not show, or shows beside it.
NOT_AS_ASKED = r"""address => {
  const asked = Object.fromEntries(new URLSearchParams(address));
  const values = boxes => [...document.querySelectorAll(boxes)].map(box => box.value);
  const ticked = of => values(`[data-of=${of}] :checked`);
  const known = values("[data-of=settings] :not(:disabled)");
  const settings = asked.settings.split(",").filter(key => known.includes(key));
  const shown = {
    network: document.getElementById("archive-network").value,
    quantity: document.getElementById("archive-quantity").value,
    settings: ticked("settings").sort().join(),
    samples: ticked("samples").join(),
  };
  const wanted = {...asked, settings: settings.sort().join()};
  const wrong = Object.keys(shown).filter(name => shown[name] !== wanted[name]);
  const curves = document.querySelectorAll(".archive-picture path.curve").length;
  return [...wrong.map(name => `${name} is ${shown[name]}`), ...(curves ? [] : ["no curve"])];
}"""


def test_every_figure_of_the_experiments_leads_to_what_it_draws(pages, reader, address):
    """Under a sub-path one figure a network: a network's file is all that the address decides."""
    views, bare = set(), []
    for path in SITE.glob("chapters/1[12]-*.html"):
        page = path.read_text(encoding="utf-8")
        for figure in re.findall(r'<figure class="flatlib-figure".*?</figure>', page, re.DOTALL):
            found = re.findall(r'href="\.\./archive\.html#([^"]*)"', figure)
            views |= set(map(html.unescape, found))
            if not found:
                bare.append(re.findall("<b>(Figure .*?)</b>", figure))
    assert not bare and len(views) > 50
    page, wrong = reader.open("archive.html"), []
    if not address.startswith("file:"):
        views = {parse_qs(view)["network"][0]: view for view in sorted(views)}.values()
        assert len(views) > 3
    for view in sorted(views):
        page.evaluate(FOLLOW, view)
        (network,) = parse_qs(view)["network"]
        expect(page.locator("#archive-network")).to_have_value(network)
        wrong += [f"{view}: {fault}" for fault in page.evaluate(NOT_AS_ASKED, view)]
    assert not wrong, "\n".join(wrong)


# The archive's page with its scripts, its styles and the first network's file, without the fonts
# that all pages share.
FIRST_PAGE_KB = 1000


def test_the_page_of_the_archive_is_light(pages):
    """The page as any other, and beside it the curves of one network at a time."""
    path = SITE / "archive.html"
    loads = {(path.parent / load.partition("?")[0]).resolve() for load in pages[path].loads}
    page = {file for file in {path, *loads} if file.suffix != ".woff2"}
    assert sum(file.stat().st_size for file in page) < FIRST_PAGE_KB * 1000
    curves = list((SITE / "_static" / "explorables" / "archive").glob("*.js"))
    assert len(curves) >= 5
    assert max(file.stat().st_size for file in curves) < HEAVY_KB * 1000


def luminance(color: str) -> float:
    """Relative luminance of ``rgb(r, g, b)``."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
