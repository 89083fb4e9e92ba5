"""The drawing of rooms in ARCHITECTURE.md is the one of the imports, and no import leads back."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import rooms

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")


def test_the_drawing_is_todays():
    assert rooms.page_with_drawing(PAGE) == PAGE, "run python book/_tools/rooms.py"
    assert rooms.main(["--check"]) == 0


def test_the_measuring_storey_imports_nothing_of_the_laboratory():
    graph = rooms.arrows()
    upwards = {
        name: [to for to in into if to.startswith("lab/")]
        for name, into in graph.items()
        if not name.startswith("lab/")
    }
    assert upwards and not any(upwards.values()), upwards


def test_arrows_are_those_that_python_follows():
    """What a fresh interpreter imports for a room are the rooms that the arrows lead to."""
    graph = rooms.arrows()
    code = (
        "import sys, flatlib.bounds; print(*[m for m in sys.modules if m.startswith('flatlib.')])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {rooms.room(name.split(".")) for name in found.stdout.split()} - {"bounds"}
    reached, last = set(), {"bounds"}
    while last:
        last = set().union(*(graph[name] for name in last)) - reached
        reached |= last
    assert loaded <= reached and len(loaded) > 5


def test_every_room_has_its_line_in_the_table():
    table = PAGE.partition("| room |")[2].partition("\n## ")[0]
    firsts = re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE)
    named = set(re.findall(r"`([a-z_/]+)`", " ".join(firsts)))
    assert set(rooms.arrows()) == named


def test_a_circle_is_refused(tmp_path):
    package = tmp_path / "flatlib"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "one.py").write_text("from flatlib.two import x\n")
    (package / "two.py").write_text("def f():\n    from flatlib import one\n")
    assert rooms.arrows(tmp_path) == {"one": {"two"}, "two": {"one"}}
    with pytest.raises(ValueError, match=r"in a circle among \['one', 'two'\]"):
        rooms.drawing(tmp_path)


def test_arrows_that_a_longer_way_replaces_are_left_out():
    graph = {"a": set(), "b": {"a"}, "c": {"a", "b"}}
    assert rooms.direct(graph) == {"a": set(), "b": {"a"}, "c": {"b"}}
    assert rooms.layers(graph) == [["a"], ["b"], ["c"]]
