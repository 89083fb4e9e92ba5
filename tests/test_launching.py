"""Launch buttons: each leads to a file of the repository, and what Colab runs first works."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import launch_buttons
import published_pages
import publishing
import pytest
import yaml
from bs4 import BeautifulSoup
from PIL import Image
from sphinx.cmd.build import build_main

import flatlib
from flatlib import toys

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SETTING = "someone/flat.lib"
CONFIG = """
extensions = ["myst_parser", "launch_buttons", "published_pages"]
html_title = "A book"
root_doc = "intro"
html_theme = "sphinx_book_theme"
myst_enable_extensions = ["colon_fence"]
"""
CHAPTER = (
    "---\norphan: true\n---\n\n# A chapter\n\n:::{container} run-note\nIt ran.\n:::\n\nText.\n"
)


@pytest.fixture(scope="module")
def sites(tmp_path_factory) -> dict[str | None, Path]:
    """A page for each notebook, and one besides, built with the setting and without."""
    source = tmp_path_factory.mktemp("launching")
    (source / "chapters").mkdir()
    (source / "conf.py").write_text(CONFIG)
    (source / "intro.md").write_text("# A front\n\nText.\n")
    for notebook in NOTEBOOKS:
        (source / "chapters" / f"{notebook.stem}.md").write_text(CHAPTER)
    folders = {}
    for setting in (SETTING, None):
        folders[setting] = source / f"html-{setting is None}"
        arguments = ["-q", "-E", "-W", "-b", "html", str(source), str(folders[setting])]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(publishing.SETTING, setting or "")
            assert build_main(arguments) == 0
    return folders


def hosts(page: Path) -> list[str]:
    """The links of a page that lead to a host where code runs."""
    parsed = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    links = [link["href"] for link in parsed.select("a[href]")]
    return [link for link in links if re.match("https://(mybinder|colab)", link)]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_chapters_buttons_lead_to_its_file_of_the_repository(sites, notebook):
    on_binder, on_colab = map(urlsplit, hosts(sites[SETTING] / f"chapters/{notebook.stem}.html"))
    assert (on_binder.netloc, on_binder.path) == ("mybinder.org", f"/v2/gh/{SETTING}/main")
    (opened,) = parse_qs(on_binder.query)["urlpath"]
    place = re.fullmatch("lab/tree/(.*)", opened)[1]
    assert on_colab.netloc == "colab.research.google.com"
    also = re.fullmatch(f"/github/{SETTING}/blob/main/(.*)", on_colab.path)[1]
    assert ROOT / place == ROOT / also == notebook


def test_no_other_page_has_buttons_and_no_page_of_a_site_without_the_setting(sites):
    pages = [path for path in sites[None].rglob("*.html") if "_static" not in path.parts]
    assert len(pages) > len(NOTEBOOKS)
    assert hosts(sites[SETTING] / "intro.html") == []
    assert not [path for path in pages if hosts(path) or "colab-lines" in path.read_text()]


def test_a_chapter_shows_the_lines_for_colab(sites):
    page = BeautifulSoup((sites[SETTING] / "chapters/03-volume.html").read_text(), "html.parser")
    assert page.select_one(".colab-lines pre").get_text() == publishing.preamble(SETTING)
    assert page.select_one(".run-note").find_next_sibling()["class"] == ["colab-lines"]


PUBLISHED = {"404.html", "sitemap.xml", "_static/card.png"}
ADDRESS = "https://someone.github.io/flat.lib/"


def test_a_site_without_the_setting_names_no_address_of_its_own(sites):
    assert not [name for name in PUBLISHED if (sites[None] / name).exists()]
    named = ("og:url", "og:image", "twitter:", "github.io")
    for path in sites[None].rglob("*.html"):
        assert not [name for name in named if name in path.read_text()], path


def test_the_sitemap_lists_each_page_at_the_sites_address(sites):
    listed = re.findall("<loc>(.*)</loc>", (sites[SETTING] / "sitemap.xml").read_text())
    assert len(set(listed)) == len(listed) == len(NOTEBOOKS) + 1
    for address in listed:
        assert (sites[SETTING] / address.removeprefix(ADDRESS)).is_file(), address
    ElementTree.parse(sites[SETTING] / "sitemap.xml")


def test_a_shared_link_has_the_pages_address_and_a_card_of_the_size_that_it_says(sites):
    page = BeautifulSoup((sites[SETTING] / "chapters/03-volume.html").read_text(), "html.parser")
    tags = {tag["property"]: tag["content"] for tag in page.select("meta[property^=og]")}
    assert tags["og:url"] == f"{ADDRESS}chapters/03-volume.html"
    first = BeautifulSoup((sites[SETTING] / "index.html").read_text(), "html.parser")
    assert first.select_one("meta[property='og:url']")["content"] == ADDRESS
    assert first.select_one("meta[property='og:image']")["content"] == tags["og:image"]
    picture = sites[SETTING] / tags["og:image"].removeprefix(ADDRESS)
    size = (int(tags["og:image:width"]), int(tags["og:image:height"]))
    assert Image.open(picture).size == size == (1200, 630)
    assert picture.stat().st_size < 150_000


def test_the_cards_alternative_text_has_the_running_examples_half_axes():
    net, x, _ = toys.running_example()
    for value in flatlib.measure(net, x[:1]).singular_values[0].tolist():
        assert f"{value:.2f}" in published_pages.CARD_ALT


def test_the_page_for_lost_readers_works_at_any_depth(sites):
    """It loads nothing, and each link is a whole address of a page of the book."""
    page = BeautifulSoup((sites[SETTING] / "404.html").read_text(), "html.parser")
    assert not page.select("[src], link[href]")
    links = [tag.get("href") or tag["action"] for tag in page.select("a, form")]
    assert len(links) == 3
    for link in links:
        assert link.startswith(ADDRESS), link
        assert (sites[SETTING] / link.removeprefix(ADDRESS)).is_file(), link


@pytest.mark.parametrize("wrong", ["someone", "a/b/c", "https://github.com/a/b", "a b/c", "/x"])
def test_a_setting_that_is_no_repository_is_refused(monkeypatch, wrong):
    monkeypatch.setenv(publishing.SETTING, wrong)
    with pytest.raises(
        ValueError, match=re.escape(f"owner/name, such as someone/flatlib; got {wrong!r}")
    ):
        publishing.repository()


def test_the_workflow_makes_the_setting_for_the_step_that_builds():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "book.yml").read_text())
    build = workflow["jobs"]["build"]
    assert "github.repository " in build["env"][publishing.SETTING]
    assert ".ci/run" in [step.get("run") for step in build["steps"]]


def test_binder_finds_its_environment_and_every_file_that_it_names():
    """Binder reads the file at the top unless a folder `binder` or `.binder` hides it."""
    assert not (ROOT / "binder").exists() and not (ROOT / ".binder").exists()
    parts = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    lines = next(part["pip"] for part in parts if isinstance(part, dict))
    named = [line.partition(" ")[2] for line in lines if line.startswith("--constraint ")]
    assert named and all((ROOT / name).is_file() for name in named)
    # It copies the repository before pip runs just where a line begins like this.
    assert any(line.startswith(("--constraint", "-c", "-r")) for line in lines)


AFTER = """
import json
from flatlib.lab import data, experiments
found = [
    len(experiments.load("mlp-all-images", "laptop")),
    len(data.load("digits").train_x),
]
print("FOUND", json.dumps(found))
"""


@pytest.mark.slow
def test_the_lines_for_colab_install_the_library_and_fetch_the_archive(tmp_path):
    """In an environment that lacks the library, with the checkout's last commit for a host."""
    if not (ROOT / ".git").exists():
        pytest.skip("no git repository to fetch from")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    # The packages of this environment, without what makes an editable install importable.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    (tmp_path / "first.ipy").write_text(publishing.preamble(SETTING) + AFTER)
    here = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{ROOT}.insteadOf",
        "GIT_CONFIG_VALUE_0": f"https://github.com/{SETTING}",
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip's way to say that there is none
        "IPYTHONDIR": str(tmp_path / "ipython"),
    }
    unset = ("PYTHONPATH", "FLATLIB_RESULTS", "FLATLIB_DATA", "VIRTUAL_ENV")
    env = {name: value for name, value in os.environ.items() if name not in unset} | here
    python = tmp_path / "venv" / "bin" / "python"
    absent = subprocess.run([python, "-c", "import flatlib"], env=env, cwd=tmp_path)
    assert absent.returncode != 0
    finished = subprocess.run(
        [python, "-m", "IPython", "first.ipy"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
    )
    said = re.search("^FOUND (.*)$", finished.stdout, re.MULTILINE)
    assert said, finished.stdout[-2000:] + finished.stderr[-2000:]
    rows, images = json.loads(said[1])
    assert (packages / "flatlib" / "__init__.py").exists()
    assert len(list(packages.glob("flatlib_sharpness-*.dist-info"))) == 1
    assert rows > 100 and images > 1000
    assert (tmp_path / "flat.lib" / launch_buttons.notebook("chapters/03-volume")).exists()
