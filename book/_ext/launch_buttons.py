"""Buttons that open a chapter's notebook on Binder or Colab, where the site knows its repository.

The theme has such buttons for pages whose source is in the repository; a chapter's source here is
a notebook that the build ran, and its file in the repository is another one.
"""

from __future__ import annotations

import html

import publishing
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

CHAPTERS = "chapters/"


def notebook(page: str) -> str:
    """The repository's file of a chapter's page.

    >>> notebook("chapters/03-volume")
    'notebooks/03-volume.ipynb'
    """
    return f"notebooks/{page.removeprefix(CHAPTERS)}.ipynb"


def lines_for_colab(repository: str) -> str:
    """A fold with the lines that a reader puts before a chapter's first cell on Colab."""
    return (
        '<details class="colab-lines"><summary>Lines to run first on Colab</summary>'
        "<p>Colab has neither the library nor the archived runs. Run these lines in a cell of "
        "their own, above the first one:</p>"
        '<div class="highlight-ipython notranslate"><div class="highlight">'
        f"<pre>{html.escape(publishing.preamble(repository))}</pre></div></div></details>"
    )


def add_buttons(app: Sphinx, pagename, templatename, context, doctree) -> None:
    """Give a chapter its buttons, and the lines for Colab under its note."""
    repository = app.config.repository
    if not repository or not pagename.startswith(CHAPTERS):
        return
    path = notebook(pagename)
    places = (
        ("Binder", "logo_binder.svg", publishing.binder(repository, path)),
        ("Colab", "logo_colab.png", publishing.colab(repository, path)),
    )
    buttons = [
        {
            "type": "link",
            "text": name,
            "tooltip": f"Run this chapter on {name}",
            "icon": f"_static/images/{icon}",
            "url": url,
            "label": f"launch-{name.lower()}-button",
        }
        for name, icon, url in places
    ]
    group = {
        "type": "group",
        "tooltip": "Run this chapter on a host",
        "icon": "fas fa-rocket",
        "buttons": buttons,
        "label": "launch-buttons",
    }
    context["header_buttons"].insert(0, group)
    body = context["body"]
    note_ends = body.index("</div>", body.index('class="run-note')) + len("</div>")
    context["body"] = body[:note_ends] + lines_for_colab(repository) + body[note_ends:]


def read_setting(app: Sphinx, config) -> None:
    """Take the repository from the environment, unless the configuration names it."""
    try:
        config.repository = config.repository or publishing.repository()
    except ValueError as error:
        raise ExtensionError(str(error)) from None


def setup(app: Sphinx) -> dict:
    app.add_config_value("repository", None, "html", [str])
    app.connect("config-inited", read_setting)
    # After the theme has put its own buttons there.
    app.connect("html-page-context", add_buttons, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
