"""The names of ``flatlib`` itself: all there, and imported when they are first used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import flatlib


def test_every_name_is_there_and_listed():
    names: dict = {}
    exec("from flatlib import *", names)
    assert set(flatlib.__all__) <= set(names)
    assert set(flatlib.__all__) <= set(dir(flatlib))
    for room in flatlib.ROOMS:
        assert names[room].__name__ == f"flatlib.{room}"
    for name, room in flatlib.HOMES.items():
        assert names[name] is getattr(sys.modules[f"flatlib.{room}"], name)
        assert names[name].__module__ == f"flatlib.{room}"


def test_a_name_that_is_not_there_is_named():
    with pytest.raises(AttributeError, match="module 'flatlib' has no attribute 'flatness'"):
        flatlib.flatness  # noqa: B018


def test_what_takes_seconds_waits_until_it_is_used():
    """The command line handles signals first, and its workers draw nothing."""
    code = (
        "import sys, flatlib, flatlib.cli; print('torch' in sys.modules); "
        "import flatlib.experiments; print('matplotlib' in sys.modules); "
        "print(flatlib.measure.__name__)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False", "measure"]
