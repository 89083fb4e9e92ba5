"""The README and the front page: their numbers, their picture and their example are true."""

from __future__ import annotations

import contextlib
import io
import json
import re
import runpy
import tomllib
from pathlib import Path

import front_page
import pytest
from PIL import Image

from flatlib.lab import equations, figures, hypotheses
from flatlib.lab.populations import POPULATIONS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FRONT = (ROOT / "book" / "intro.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def picture() -> dict:
    return runpy.run_path(str(ROOT / "book" / "_tools" / "picture.py"))


@pytest.fixture(scope="module")
def measurements(picture):
    return picture["measurements"]()


def promised(what: str) -> int:
    """The number before ``what`` in the README's list of the strongest things."""
    return int(re.search(rf"\*\*(\d+) {what}\*\*", README)[1])


def test_the_readme_promises_no_more_checked_equations_than_there_are():
    (least,) = re.findall(r"\*\*More than (\d+) checked equations\*\*", README)
    assert 40 <= int(least) < len(equations.register)


def test_the_readme_counts_the_archived_runs():
    assert promised("archived runs") == len(list(ROOT.glob("results/*/*/manifest.json")))


def test_the_readme_counts_the_networks_drawn_at_random_and_those_of_the_optimizers():
    made = [place.parts[-3] for place in ROOT.glob("results/populations/*/*/manifest.json")]
    of_optimizers = made.count(hypotheses.OPTIMIZERS)
    assert promised("networks trained by six optimizers") == of_optimizers
    assert promised("networks drawn at random") == len(made) - of_optimizers
    assert len(POPULATIONS[hypotheses.OPTIMIZERS].optimizers) == 6


def test_the_readme_counts_the_errata():
    cells = json.loads((ROOT / "notebooks" / "09-errata.ipynb").read_text())["cells"]
    headings = [
        line
        for cell in cells
        if cell["cell_type"] == "markdown"
        for line in "".join(cell["source"]).splitlines()
        if line.startswith("### ")
    ]
    assert promised("errata") == len(headings)


def test_the_example_prints_what_the_readme_says():
    source, printed = re.search(
        r"```python\n(.*?)```\n\nprints\n\n```text\n(.*?)```", README, re.DOTALL
    ).groups()
    heard = io.StringIO()
    with contextlib.redirect_stdout(heard):
        exec(compile(source, "README.md", "exec"), {})
    assert heard.getvalue() == printed


def test_the_picture_of_the_site_is_the_first_screen_and_small():
    ((said, place),) = re.findall(r"!\[([^\]]+)\]\(([^)]+\.png)\)", README)
    assert "first screen" in said
    file = ROOT / place
    assert Image.open(file).size == (front_page.SCREEN["width"], front_page.SCREEN["height"])
    assert file == front_page.PICTURE and file.stat().st_size < 150_000


def test_the_readmes_wheel_is_the_distribution():
    name = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"]
    assert f"dist/{name.replace('-', '_')}-*.whl\n" in README
    assert "pip wheel --no-deps --wheel-dir dist .\n" in README


def test_readme_and_front_page_begin_with_what_is_a_theorem_and_what_is_not():
    first = README.split("\n")[2:5]
    assert FRONT.split("\n")[2:5] == first
    theorem, rest, after = first
    assert all(each.count(".") == 1 and each.endswith(".") for each in (theorem, rest))
    assert after == ""
    assert "is a theorem" in theorem and "no theorem" in rest and "flat network" in rest
    assert "first layer is dense" in theorem and "sharpness" in theorem
    assert "norm of that layer's weights" in theorem and "limit" in theorem


def test_the_first_door_is_the_hour_from_the_theorem_to_what_is_not_true():
    (target,) = re.findall(r"\[\*\*Read in one hour\*\*\]\(([^)]*)\)", FRONT)
    notebook = ROOT / "notebooks" / Path(target).name
    assert target == f"chapters/{notebook.name}"
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    words = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    assert "theorem" in words[0].split("\n")[2].partition(";")[0]
    headings = [line for text in words for line in text.splitlines() if line.startswith("#")]
    assert headings[-2:] == ["## What is not true", "## Quiz"]
    assert not any(r"\tag" in text for text in words), "the chapters give equations their numbers"


def test_the_picture_is_drawn_from_the_archive(picture, measurements):
    figures.use_style()
    figure = picture["draw"](measurements)
    for theme in picture["THEMES"]:
        drawn = picture["drawn"](figure, theme)
        kept = (picture["STATIC"] / f"limit-{theme}.svg").read_text(encoding="utf-8")
        assert drawn == kept, f"run book/_tools/picture.py: limit-{theme}.svg is not the archive's"


def test_the_pictures_alternative_text_says_what_the_archive_holds(picture, measurements):
    said = picture["alternative_text"](measurements)
    assert f'alt="{said}"' in README
    assert FRONT.count(f":alt: {said}\n") == 2


def test_a_response_above_its_limit_is_refused(picture, measurements, monkeypatch):
    table = next(iter(measurements.values())).copy()
    table.loc[table.index[3], "A"] = 2 * table.loc[table.index[3], "D"]
    monkeypatch.setattr("flatlib.lab.experiments.load", lambda *asked: table)
    with pytest.raises(ValueError, match=f"step {table.iloc[3]['step']}: .* above its limit"):
        picture["measurements"]()
