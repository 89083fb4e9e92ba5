"""The rendered site: from disk and under a sub-path, with no network, in a real browser."""

from __future__ import annotations

import functools
import os
import re
import shutil
import threading
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

import pytest

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "book" / "_build" / "html"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()

WIDTHS = (1440, 1280, 820, 390)
# A script that a page waits for before it shows anything; the theme's own are smaller.
BLOCKING_KB = 30
# A page of text; the largest chapter had 5,500 while its figures stood in it.
HEAVY_KB = 500
# Faults that keep some reader from reading or using a page.
GRAVE = ("serious", "critical")
# MathJax's own markup, and code in the colours that the theme names as accessible: long to check.
UNASKED = [["mjx-container"], ["div.highlight"]]
KINDS = [
    "intro",
    "claims",
    "register",
    "bibliography",
    "search",
    "genindex",
    "py-modindex",
    "prf-prf",
]
KINDS = [f"{kind}.html" for kind in [*KINDS, "chapters/12-vgg10-cifar10"]]

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
        self.links, self.loads, self.ids, self.images = [], [], set(), []
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
            self.ids.add(found["id"])
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        if tag == "img":
            self.images.append(found)
        source = found.get("src") or (found.get("href") if tag == "link" else None)
        if source:
            self.loads.append(source)


@pytest.fixture(scope="module")
def pages() -> dict[Path, Page]:
    if not (SITE / "index.html").exists():
        pytest.fail("the site is not built: run 'make book' first ('make test' does)")
    files = [path for path in SITE.rglob("*.html") if "_static" not in path.parts]
    return {path: Page(path) for path in sorted(files)}


def articles(pages) -> list[str]:
    """The pages that a reader reads, chapters and prose."""
    index = {"index.html", "genindex.html", "search.html", "prf-prf.html", "py-modindex.html"}
    return [path.relative_to(SITE).as_posix() for path in pages if path.name not in index]


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


# From here on: in a browser.


@pytest.fixture(scope="module")
def browser():
    """Chromium, found on this machine."""
    names = [os.environ.get("FLATLIB_BROWSER"), *BROWSERS]
    path = next(filter(None, (shutil.which(name) for name in names if name)), None)
    if path is None:
        pytest.skip("no Chromium on this machine: install it (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield running
        running.close()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *words):
        """Say nothing of each request."""


@pytest.fixture(scope="module", params=["from disk", "under a sub-path"])
def address(request, pages, tmp_path_factory):
    """Where the site's pages begin: a file address, or a server's sub-path."""
    if request.param == "from disk":
        yield SITE.as_uri() + "/"
        return
    folder = tmp_path_factory.mktemp("host")
    (folder / "some").mkdir()
    (folder / "some" / "course").symlink_to(SITE)
    handler = functools.partial(Quiet, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/some/course/"
    server.shutdown()


class Reader:
    """A browser window that is let nowhere but to the site, and remembers what went wrong."""

    def __init__(self, browser, address: str, **options):
        self.address, self.complaints = address, []
        self.context = browser.new_context(**options)
        self.context.route("**/*", self.guard)
        self.page = self.context.new_page()
        self.page.on("console", self.hear)
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("requestfailed", self.miss)

    def miss(self, request):
        # What the browser was still fetching when the reader left the page is broken off, not lost.
        if request.failure != "net::ERR_ABORTED":
            self.complaints.append(f"failed: {request.url}: {request.failure}")

    def guard(self, route):
        if route.request.url.startswith(self.address):
            route.continue_()
        else:
            self.complaints.append(f"asked for {route.request.url}")
            route.abort()

    def hear(self, message):
        if message.type == "error":
            self.complaints.append(f"{message.type}: {message.text}")

    def open(self, name: str):
        self.page.goto(urljoin(self.address, name))
        self.page.wait_for_load_state("load")
        self.page.evaluate("window.MathJax ? MathJax.startup.promise.then(() => true) : true")
        return self.page


@pytest.fixture
def reader(browser, address):
    one = Reader(browser, address, viewport={"width": 1280, "height": 900}, color_scheme="light")
    yield one
    one.context.close()
    assert not one.complaints, "\n".join(one.complaints)


def chapter_with_equation(pages) -> str:
    found = [name for name in articles(pages) if "chapters/" in name]
    return next(name for name in found if "equation-badge" in (SITE / name).read_text())


@pytest.mark.slow
def test_every_page_renders_its_maths_and_images(pages, reader):
    wrong = []
    for name in articles(pages):
        page = reader.open(name)
        bare = page.locator(".math.notranslate:not(:has(mjx-container))").count()
        if bare:
            wrong.append(f"{name}: {bare} formulas are not rendered")
        for fault in page.locator("mjx-merror").evaluate_all("all => all.map(e => e.title)"):
            wrong.append(f"{name}: MathJax says {fault}")
        raw = re.findall(
            r"\\[\[\](]|\$\$|\\(?:frac|lVert|sum|nabla|theta)\b", page.evaluate(READ_TEXT)
        )
        if raw:
            wrong.append(f"{name}: raw TeX {raw[:3]}")
        empty = page.locator("article img").evaluate_all(EMPTY_IMAGES)
        wrong += [f"{name}: an image shows nothing: {alt}" for alt in empty]
    assert not wrong, "\n".join(wrong)


def test_mathjax_uses_the_sites_own_fonts(pages, reader):
    page = reader.open(chapter_with_equation(pages))
    loaded = page.evaluate(
        "document.fonts.ready.then(all => [...all].filter(f => f.status == 'loaded')"
        ".map(f => f.family))"
    )
    assert any("MJX" in family for family in loaded)
    assert any("Font Awesome" in family for family in loaded)


def test_the_first_page_leads_to_the_front_page_and_shows_the_tally(reader):
    page = reader.page
    page.goto(urljoin(reader.address, "index.html"))
    page.wait_for_url("**/intro.html")
    page.wait_for_load_state("load")
    tally = page.locator(".equation-tally").inner_text()
    good, total = re.match(r"(\d+) of (\d+) equations checked on [\d,]+ cases", tally).groups()
    assert good == total != "0"


def test_search_finds_a_word_and_leads_to_its_page(reader):
    page = reader.open("search.html?q=sharpness")
    page.wait_for_selector("#search-results li a")
    links = page.locator("#search-results li a").evaluate_all("all => all.map(e => e.href)")
    chapter = next(link for link in links if "/chapters/" in link)
    page.goto(chapter)
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


def test_the_theme_switch_goes_dark_and_back(pages, reader):
    page = reader.open(chapter_with_equation(pages))
    background = "getComputedStyle(document.body).backgroundColor"
    seen = {}
    for _ in range(3):
        theme = page.evaluate("document.documentElement.dataset.theme")
        seen[theme] = page.evaluate(background)
        page.locator("button.theme-switch-button").first.click()
    assert set(seen) == {"light", "dark"}
    light, dark = (
        sum(map(int, re.findall(r"\d+", seen[theme])[:3])) for theme in ("light", "dark")
    )
    assert dark < 200 < 600 < light


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_badge_can_be_read(browser, address, pages, scheme):
    """The badge's text stands out from the page by 4.5 to 1 or more."""
    one = Reader(browser, address, color_scheme=scheme)
    page = one.open(chapter_with_equation(pages))
    colors = page.evaluate(
        "[getComputedStyle(document.querySelector('.equation-badge')).color,"
        " getComputedStyle(document.body).backgroundColor]"
    )
    one.context.close()
    bright, faint = sorted(map(luminance, colors), reverse=True)
    assert (bright + 0.05) / (faint + 0.05) >= 4.5


def luminance(color: str) -> float:
    """Relative luminance of ``rgb(r, g, b)``."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.slow
def test_pages_fit_a_telephone(browser, address, pages):
    one = Reader(browser, address, viewport={"width": 390, "height": 844})
    wide = []
    for name in articles(pages):
        page = one.open(name)
        width = page.evaluate("document.documentElement.scrollWidth")
        if width > 391:
            wide.append(f"{name} is {width} pixels wide on a screen of 390")
    one.context.close()
    assert not wide, "\n".join(wide)


@pytest.mark.slow
def test_every_displayed_formula_can_be_seen_whole(browser, pages):
    """Its left edge at once, the rest by scrolling to the right, at every width."""
    one = Reader(browser, SITE.as_uri() + "/")
    wrong, formulas = [], 0
    for path in (path for path, page in pages.items() if page.has_mathematics):
        name = path.relative_to(SITE).as_posix()
        page = one.open(name)
        formulas += page.locator("article mjx-container[display=true]").count()
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            wrong += [f"{name}, {width} pixels: {fault}" for fault in page.evaluate(CUT_FORMULAS)]
    one.context.close()
    assert not wrong, "\n".join(wrong)
    assert formulas > 45


@pytest.mark.slow
def test_no_kind_of_page_shuts_a_reader_out(browser, pages):
    """axe-core finds nothing serious, in light and in dark colours."""
    from axe_playwright_python.sync_playwright import Axe

    one = Reader(browser, SITE.as_uri() + "/", viewport={"width": 1280, "height": 900})
    wrong = []
    for name in KINDS:
        page = one.open(name)
        for theme, rules in (("light", {}), ("dark", {"runOnly": ["color-contrast"]})):
            page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
            # Colours fade from one theme to the other: halfway they have too little contrast.
            page.evaluate("Promise.all(document.getAnimations().map(fade => fade.finished))")
            options = {"resultTypes": ["violations"], **rules}
            found = Axe().run(page, context={"exclude": UNASKED}, options=options).response
            wrong += [
                f"{name}, {theme}: {fault['id']}: {fault['nodes'][0]['html'][:200]}"
                for fault in found["violations"]
                if fault["impact"] in GRAVE
            ]
    one.context.close()
    assert not wrong, "\n".join(wrong)
