"""Read the pages one by one, and write them in several processes.

Sphinx has one number of processes for both. With more than one it warns of extensions that cannot
read in parallel, and ``sphinx_proof`` says that it can and cannot.
"""

from __future__ import annotations

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

PROCESSES = 3  # two that write, and one that hands pages to them


def write_in_parallel(app: Sphinx, env: BuildEnvironment) -> None:
    """All pages are read by now."""
    app.parallel = PROCESSES


def setup(app: Sphinx) -> dict:
    app.connect("env-check-consistency", write_in_parallel)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
