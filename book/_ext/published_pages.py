"""What a published site has beyond its pages, where the site knows its repository: a card for
links that are shared, a list of its pages for search engines, and a page for lost readers.
"""

from __future__ import annotations

import html
from pathlib import Path

import matplotlib
import numpy as np
import publishing
from matplotlib.figure import Figure
from sphinx.application import Sphinx

from flatlib import toys
from flatlib.lab import figures

CARD = "_static/card.png"
CARD_SIZE = (1200, 630)  # pixels
CARD_ALT = "A disk of inputs becomes an ellipse of outputs with half-axes 2.83 and 1.41."

# A host shows it at any depth of the site, so that each of its links is a whole address.
LOST = """<!DOCTYPE html>
<html lang="en">
  <head>
    <meta charset="utf-8" />
    <meta name="viewport" content="width=device-width, initial-scale=1" />
    <meta name="robots" content="noindex" />
    <meta name="description" content="No page of the book stands here; this is the way on." />
    <title>No such page — {title}</title>
    <style>
      :root {{ color-scheme: light dark; }}
      main {{ max-width: 36rem; margin: 18vh auto 0; padding: 0 1.2rem; }}
      body {{ font: 1.1rem/1.6 sans-serif; }}
      input, button {{ font: inherit; padding: 0.2em 0.6em; max-width: 100%; }}
    </style>
  </head>
  <body><main><article>
    <h1>No such page</h1>
    <p>No page of this book stands at this address. A chapter may have a new name, or the link that
    led you here has a slip.</p>
    <p><a href="{address}intro.html">Go to the front page</a>, read
    <a href="{address}chapters/00-one-hour.html">the book in one hour</a>, or search:</p>
    <form action="{address}search.html" role="search">
      <input type="search" name="q" aria-label="Search the book" />
      <button>Search</button>
    </form>
  </article></main></body>
</html>
"""


def card(title: str) -> Figure:
    """The picture of a shared link: the title over the running example's disk and ellipse."""
    net, _, _ = toys.running_example()
    W_1, W_2 = (parameter.detach().numpy() for parameter in net.parameters())
    angles = np.linspace(0, 2 * np.pi, 361)
    circle, blue = np.stack([np.cos(angles), np.sin(angles)]), figures.PAIRS["blue"][0]
    width, height = CARD_SIZE
    figure = Figure(figsize=(width / 100, height / 100), dpi=100, facecolor="white")
    figure.text(0.06, 0.8, title.replace(" and ", "\nand "), fontsize=36, va="center")
    axes = figure.subplots(1, 2)
    for ax, matrix, name in zip(axes, (np.eye(2), W_2 @ W_1), ("inputs", "outputs"), strict=True):
        points = matrix @ circle
        ax.fill(*points, color=blue, alpha=0.14, linewidth=0)
        ax.plot(*points, color=blue, linewidth=3)
        ax.set(xlim=(-6, 6), ylim=(-2.5, 2.5), aspect="equal")
        ax.axis("off")
        ax.text(-3, 0, name, fontsize=24, ha="right", va="center")
    figure.subplots_adjust(left=0.06, right=0.98, bottom=0.06, top=0.62, wspace=0)
    return figure


def sitemap(address: str, pages: list[str]) -> str:
    """The pages' addresses, as search engines read them.

    >>> print(sitemap("https://a.github.io/b/", ["claims"]).splitlines()[2])
      <url><loc>https://a.github.io/b/claims.html</loc></url>
    """
    lines = [f"  <url><loc>{html.escape(address + page)}.html</loc></url>" for page in pages]
    begin = '<?xml version="1.0" encoding="UTF-8"?>'
    space = "http://www.sitemaps.org/schemas/sitemap/0.9"
    return "\n".join([begin, f'<urlset xmlns="{space}">', *lines, "</urlset>", ""])


def tags(app: Sphinx, page: str) -> str:
    """Where a page is, and which picture goes with a link to it, for its head."""
    address = publishing.site(app.config.repository)
    known = {
        'property="og:site_name"': app.config.html_title,
        'property="og:url"': address + page,
        'property="og:image"': address + CARD,
        'property="og:image:width"': str(CARD_SIZE[0]),
        'property="og:image:height"': str(CARD_SIZE[1]),
        'property="og:image:alt"': CARD_ALT,
        'name="twitter:card"': "summary_large_image",
    }
    return "\n".join(
        f'<meta {name} content="{html.escape(text)}" />' for name, text in known.items()
    )


def add_tags(app: Sphinx, pagename, templatename, context, doctree) -> None:
    """Give a page its tags."""
    if app.config.repository:
        context["metatags"] = context.get("metatags", "") + "\n" + tags(app, f"{pagename}.html")


def write_files(app: Sphinx, error: Exception | None) -> None:
    """Write the card, the list of pages and the page for lost readers; give the page at the site's
    own address its tags, as that address is shared most.
    """
    if error is not None or app.builder.format != "html" or not app.config.repository:
        return
    address, folder = publishing.site(app.config.repository), Path(app.outdir)
    title = app.config.html_title
    with matplotlib.rc_context():
        figures.use_style()
        card(title).savefig(folder / CARD)
    (folder / "sitemap.xml").write_text(sitemap(address, sorted(app.env.found_docs)), "utf-8")
    lost = LOST.format(title=html.escape(title), address=address)
    (folder / "404.html").write_text(lost, encoding="utf-8")
    first = folder / "index.html"
    page = first.read_text(encoding="utf-8")
    first.write_text(page.replace("</head>", tags(app, "") + "\n</head>", 1), encoding="utf-8")


def setup(app: Sphinx) -> dict:
    app.setup_extension("launch_buttons")  # which reads the setting
    app.setup_extension("described_pages")  # which writes the page at the site's own address
    app.connect("html-page-context", add_tags)
    app.connect("build-finished", write_files)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
