"""The names of ``flatlib`` itself: all there, and imported when they are first used."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import flatlib


@pytest.mark.parametrize("package", [flatlib, flatlib.lab])
def test_every_name_is_there_and_listed(package):
    home, names = package.__name__, {}
    exec(f"from {home} import *", names)
    assert set(package.__all__) <= set(names)
    assert set(package.__all__) <= set(dir(package))
    for room in package.ROOMS:
        assert names[room].__name__ == f"{home}.{room}"
    for name, room in package.HOMES.items():
        assert names[name] is getattr(sys.modules[f"{home}.{room}"], name)
        assert names[name].__module__ == f"{home}.{room}"


@pytest.mark.parametrize("package", [flatlib, flatlib.lab])
def test_nothing_else_is_listed(package):
    assert {name for name in dir(package) if not name.startswith("__")} == set(package.__all__)
    assert {"__doc__", "__all__"} <= set(dir(package))


@pytest.mark.parametrize("package, page", [(flatlib, "api"), (flatlib.lab, "api-laboratory")])
def test_every_room_with_a_section_of_the_documentation_is_there(package, page):
    text = (Path(__file__).parents[1] / "book" / f"{page}.md").read_text(encoding="utf-8")
    rooms = re.findall(rf"automodule:: {package.__name__}\.(\w+)$", text, re.MULTILINE)
    assert len(rooms) > 5 and set(rooms) <= set(package.ROOMS)


@pytest.mark.parametrize("package", [flatlib, flatlib.lab])
def test_a_name_that_is_not_there_is_named(package):
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'flat"):
        package.flatness  # noqa: B018


def test_the_measuring_storey_needs_torch_numpy_and_scipy_alone():
    """Everything in ``flatlib`` but ``flatlib.lab`` imports where no other package is."""
    code = """
import importlib, pkgutil, sys
import torch, numpy, scipy.sparse.linalg

before = set(sys.modules)
import flatlib
OURS = {"flatlib", "torch", "numpy", "scipy", "sympy", "mpmath"}  # the last two are PyTorch's own

rooms = [room.name for room in pkgutil.iter_modules(flatlib.__path__) if room.name != "lab"]
for room in rooms:
    importlib.import_module(f"flatlib.{room}")
flatlib.measure(flatlib.nets.mlp([3, 4, 2], seed=0), torch.eye(3), progress=False).rows()
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(new - set(sys.stdlib_module_names) - OURS))
print(*sorted(name for name in sys.modules if name.startswith("flatlib.lab")))
print(len(rooms))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *others, number = found.stdout.split()
    assert others == [] and int(number) > 10


def test_what_takes_seconds_waits_until_it_is_used():
    """The command line handles signals first, and neither it nor its workers draw anything."""
    code = (
        "import sys, flatlib, flatlib.lab.cli; print('torch' in sys.modules); "
        "import flatlib.lab.commands; print('matplotlib' in sys.modules); "
        "print(flatlib.measure.__name__)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False", "measure"]
