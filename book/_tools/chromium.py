"""Chromium on this machine, for the tools and the tests that open the site."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

NAMES = (  # without windows and toolbars, a page opens in half the time
    *("chromium-headless-shell", "chrome-headless-shell"),
    *("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"),
)
FLAGS = [
    *"--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync".split(),
    *"--disable-background-networking --disable-component-update".split(),
    # No host but a test's own server has an address.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


def path() -> str | None:
    """The browser that FLATLIB_BROWSER names, or the first one found; None where there is none."""
    names = [os.environ.get("FLATLIB_BROWSER"), *NAMES]
    return next(filter(None, (shutil.which(name) for name in names if name)), None)


@contextmanager
def started() -> Iterator:
    """A running browser, as Playwright hands it out.

    Raises:
        FileNotFoundError: no Chromium on this machine.
    """
    from playwright.sync_api import sync_playwright

    found = path()
    if found is None:
        raise FileNotFoundError(
            "no Chromium on this machine: install it (Debian: apt-get install "
            "chromium-headless-shell, or chromium), or set FLATLIB_BROWSER to a browser's path"
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()
