"""What the suite shares: one thread, and property tests that draw the same cases every time.

``pytest --hypothesis-profile=nightly`` draws other cases each time and prints how to draw a failing
one again.
"""

from __future__ import annotations

import gc
import os

import chromium
import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

# The tests start some hundred processes: what one compiled of the library, the next one reads.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

settings.register_profile(
    "reproducible",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
settings.register_profile(
    "nightly", settings.get_profile("reproducible"), derandomize=False, print_blob=True
)
settings.load_profile("reproducible")


def pytest_collection_modifyitems(items):
    """What takes long comes first: no worker is left with it while the others have ended.

    One that takes minutes says ``slow(first=True)``. The longest of the others, the site's pages
    and the last chapters, come last by name.
    """
    first, slow, quick = [], [], []
    for item in items:
        mark = item.get_closest_marker("slow")
        (quick if mark is None else first if mark.kwargs.get("first") else slow).append(item)
    items[:] = [*first, *reversed(slow), *quick]


def pytest_collection_finish():
    """What is imported by now stays: no collection of garbage looks through it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def nothing_of_before():
    """Nor through what the tests of other modules have left, such as what they imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def little_garbage():
    """Holm's correction in statsmodels collects garbage each time: spare it what is here."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def browser():
    """Chromium, found on this machine."""
    if chromium.path() is None:
        pytest.skip("no Chromium on this machine: `make browser` installs it, or says how")
    with chromium.started() as running:
        yield running
