"""The examples in the library's docstrings run and give what they say."""

from __future__ import annotations

import doctest

import pytest

from flatlib import bounds, checks, derivatives, geometry, measurement, nets, sharpness

WITHOUT_EXAMPLES = {checks}


@pytest.mark.parametrize(
    "module", [bounds, checks, derivatives, geometry, measurement, nets, sharpness],
    ids=lambda module: module.__name__,
)
def test_examples(module):
    result = doctest.testmod(module, raise_on_error=False)
    assert result.failed == 0
    assert (result.attempted == 0) == (module in WITHOUT_EXAMPLES)
