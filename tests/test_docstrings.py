"""The rooms that readers compute with have examples in their docstrings.

pytest runs every example of the library itself, see ``--doctest-modules`` in pyproject.toml.
"""

from __future__ import annotations

import doctest
import importlib

import pytest

MUST_HAVE_EXAMPLES = (
    "bounds",
    "comparisons",
    "derivatives",
    "geometry",
    "lanczos",
    "matrix_free",
    "measurement",
    "nets",
    "sharpness",
    "traces",
)


@pytest.mark.parametrize("room", MUST_HAVE_EXAMPLES)
def test_there_are_examples(room):
    module = importlib.import_module(f"flatlib.{room}")
    assert any(test.examples for test in doctest.DocTestFinder().find(module))


def test_every_example_of_the_library_is_run(pytestconfig):
    assert pytestconfig.getoption("doctestmodules")
    assert "flatlib" in pytestconfig.getini("testpaths")
