"""The front door: make's verbs, the continuous-integration script, the check of committed
outputs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from refuse_outputs import faults, main

ROOT = Path(__file__).resolve().parents[1]
VERBS = {"help", "env", "book", "pdf", "test", "lowest", "bench", "lint", "browser", "clean"}


def test_help_prints_every_verb_with_a_sentence():
    text = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True).stdout
    described = dict(re.findall(r"^  make (\w+) +(\S.*)$", text, re.MULTILINE))
    assert set(described) == VERBS
    assert all(len(sentence.split()) >= 4 for sentence in described.values())


def test_old_python_is_refused_with_the_remedy(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("constraints.txt", "pyproject.toml"):
        (tmp_path / name).write_text("")
    old = tmp_path / "old-python"
    old.write_text(
        f"#!/bin/sh\nshift\nexec {sys.executable} -c "
        "'import sys; sys.version_info = (3, 9); exec(sys.argv[1])' \"$@\"\n"
    )
    old.chmod(0o755)
    finished = subprocess.run(
        ["make", "env", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True
    )
    assert finished.returncode != 0
    assert "needs Python 3.11 or newer" in finished.stderr
    assert "make PYTHON=" in finished.stderr
    assert not (tmp_path / ".venv").exists()


def test_ci_calls_the_two_commands_and_nothing_that_they_do_not():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111, ".ci/run is not executable"
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    lines = [line.strip() for line in script.read_text().splitlines()]
    assert "set -euo pipefail" in lines
    closing = max(number for number, line in enumerate(lines) if line == "fi")
    assert [line for line in lines[closing + 1 :] if line] == ["make book", "make test"]
    # Before them only the look at the checkout, which installs and builds nothing.
    words = {word for line in lines[1 : closing + 1] for word in line.split()}
    assert not words & {"pip", "pytest", "python", "python3", "make", "apt-get", "npm"}


def test_ci_refuses_a_changed_checkout(tmp_path):
    def git(*words):
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")
    (tmp_path / "Makefile").write_text("book test:\n\t@echo made $@\n")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-q", "-m", "start")
    # As from a shell, also where make itself started these tests.
    shell = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))
    }
    run = lambda: subprocess.run(  # noqa: E731
        [".ci/run"], cwd=tmp_path, capture_output=True, text=True, env=shell
    )
    clean = run()
    assert clean.returncode == 0
    assert clean.stdout.splitlines() == ["made book", "made test"]
    (tmp_path / "Makefile").write_text("book test:\n\t@echo changed\n")
    changed = run()
    assert changed.returncode == 1
    assert "Makefile" in changed.stderr
    assert "made" not in changed.stdout


def test_workflow_builds_tests_and_publishes():
    workflow = yaml.safe_load((ROOT / ".github/workflows/book.yml").read_text())
    steps = workflow["jobs"]["build"]["steps"]
    assert ".ci/run" in [step.get("run") for step in steps]
    upload = next(step for step in steps if "upload-pages-artifact" in step.get("uses", ""))
    assert upload["with"]["path"] == "book/_build/html"
    assert workflow["jobs"]["publish"]["needs"] == "build"
    assert workflow["permissions"] == {"contents": "read"}
    assert "vars.PUBLISH_PAGES == 'true'" in workflow["jobs"]["publish"]["if"]
    for step in steps + workflow["jobs"]["publish"]["steps"]:
        assert "continue-on-error" not in step  # a publication that fails is no success
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", step["uses"])
    # No index of packages but pip's own, and the site's address only where the site is published.
    environment = workflow["jobs"]["build"]["env"]
    assert list(environment) == ["FLATLIB_REPOSITORY"]
    assert "vars.PUBLISH_PAGES == 'true' && github.repository || ''" in environment.popitem()[1]
    assert workflow["jobs"]["publish"]["permissions"] == {"pages": "write", "id-token": "write"}


def notebook(**cell) -> str:
    return json.dumps({"cells": [{"cell_type": "code", "source": "1", **cell}]})


@pytest.mark.parametrize(
    ("cell", "complaint"),
    [
        ({"outputs": [{"output_type": "stream"}], "execution_count": None}, "holds outputs"),
        ({"outputs": [], "execution_count": 3}, "holds an execution count"),
    ],
)
def test_committed_outputs_and_counts_are_refused(tmp_path, capsys, cell, complaint):
    (tmp_path / "bad.ipynb").write_text(notebook(**cell))
    assert main(str(tmp_path)) == 1
    assert f"cell 1 {complaint}" in capsys.readouterr().err


def test_a_clean_notebook_is_not_refused(tmp_path):
    path = tmp_path / "good.ipynb"
    path.write_text(notebook(outputs=[], execution_count=None))
    assert faults(path) == []
    assert main(str(tmp_path)) == 0
