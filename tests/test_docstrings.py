"""The examples in the library's docstrings run and give what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import flatlib

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(flatlib.__path__, "flatlib.")
    if not module.name.endswith("__main__")
)
MUST_HAVE_EXAMPLES = {
    f"flatlib.{room}"
    for room in ("bounds", "derivatives", "geometry", "measurement", "nets", "sharpness")
}


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0
    assert result.attempted > 0 or name not in MUST_HAVE_EXAMPLES
