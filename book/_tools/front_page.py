"""The README's picture of the site: the first screen of the front page, as Chromium shows it.

python book/_tools/front_page.py    # after `make book`; writes .github/front-page.png
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import chromium
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "book" / "_build" / "html"
PICTURE = ROOT / ".github" / "front-page.png"
SCREEN = {"width": 1440, "height": 900}


def take(site: Path, picture: Path, browser) -> None:
    """Write the picture in 256 colours, which keeps it small."""
    context = browser.new_context(viewport=SCREEN, color_scheme="light")
    page = context.new_page()
    page.goto((site / "intro.html").as_uri())
    page.wait_for_selector(".explorable.is-live")
    page.evaluate("document.fonts.ready.then(() => true)")
    seen = Image.open(io.BytesIO(page.screenshot()))
    context.close()
    few = seen.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE)
    few.save(picture, optimize=True)


def main() -> int:
    if not (SITE / "intro.html").exists():
        print("front_page.py: the site is not built; run 'make book' first", file=sys.stderr)
        return 1
    with chromium.started() as browser:
        take(SITE, PICTURE, browser)
    print(f"{PICTURE.stat().st_size:,} bytes: {PICTURE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
