"""Every work in the bibliography is cited, and every work that is cited is in the bibliography."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "book").glob("*.md"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def text(path: Path) -> str:
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    return "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)


@pytest.fixture(scope="module")
def cited() -> set[str]:
    roles = re.findall(r"\{cite[a-z:]*\}`([^`]+)`", "\n".join(map(text, PAGES + NOTEBOOKS)))
    return {key.strip() for keys in roles for key in keys.split(",")}


def test_the_bibliography_holds_the_works_that_are_cited_and_no_other(cited):
    entries = re.findall(
        r"^@\w+\{(\w+),", (ROOT / "book" / "references.bib").read_text(encoding="utf-8"), re.M
    )
    assert len(entries) == len(set(entries))
    assert set(entries) == cited
