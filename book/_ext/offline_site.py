"""What keeps the rendered pages whole without a network: no preloads, no script from another host.

The theme preloads its icon fonts in a mode that a browser refuses for pages opened from disk (the
style sheet then loads the same fonts well), and sphinx-thebe names a host for live cells on every
page, though this site has none. The first is pydata/pydata-sphinx-theme issue 1613, in 0.15.4,
which constraints.txt names; of the second, in sphinx-thebe 0.3.1, no issue is known.
tests/test_guards.py tells when either is mended.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from sphinx.application import Sphinx

NO_SUMMARY_FROM_DISK = (
    'if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;'
)
UNWANTED = re.compile(
    r'<link rel="preload"[^>]*>\s*'
    r"|<script>const THEBE_JS_URL = .*?</script>\s*"
    r'|<script[^>]*src="[^"]*sphinx-thebe\.js[^"]*"[^>]*></script>\s*'
    r'|<script type="text/x-thebe-config">.*?</script>\s*',
    re.DOTALL,
)


def without_unwanted(page: str) -> str:
    """The page less its preloads and live-cell scripts.

    >>> without_unwanted('<link rel="preload" href="a.woff2" /><p>text</p>')
    '<p>text</p>'
    """
    return UNWANTED.sub("", page)


def clean_pages(app: Sphinx, error: Exception | None) -> None:
    """Rewrite every page that was just rendered."""
    if error is not None or app.builder.format != "html":
        return
    for path in Path(app.outdir).rglob("*.html"):
        if "_static" not in path.relative_to(app.outdir).parts:
            path.write_text(without_unwanted(path.read_text(encoding="utf-8")), encoding="utf-8")


def add_mathjax(app: Sphinx, error: Exception | None) -> None:
    """Copy MathJax into the site late: scripts that stand there early are loaded by every
    page, twice.
    """
    if error is None and app.builder.format == "html":
        source = Path(app.srcdir) / "_vendor" / "mathjax"
        shutil.copytree(source, Path(app.outdir) / "_static" / "mathjax", dirs_exist_ok=True)


def follow_the_reader(app: Sphinx, pagename, templatename, context, doctree) -> None:
    """Light or dark as the reader's system is, until the reader chooses."""
    context["default_mode"] = "auto"


def setup(app: Sphinx) -> dict:
    app.connect("html-page-context", follow_the_reader)
    app.connect("build-finished", clean_pages)
    app.connect("build-finished", add_mathjax)
    # A page from disk may not fetch others, which the lines of context under a search's
    # results would need.
    app.add_js_file(None, body=NO_SUMMARY_FROM_DISK)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
