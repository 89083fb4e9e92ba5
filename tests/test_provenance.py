"""Which commit a run's manifest names: flatlib's own, or none."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from flatlib.lab.experiments import provenance

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def git(folder: Path, *arguments: str) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    who = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    return subprocess.run(
        ["git", "-C", str(folder), *who, *arguments],
        env=clean,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def repository(folder: Path, project: str) -> str:
    """A repository with a library and its project's description; its commit."""
    (folder / "flatlib").mkdir(parents=True)
    (folder / "flatlib" / "__init__.py").write_text("")
    (folder / "pyproject.toml").write_text(project)
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "start")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def own(tmp_path, monkeypatch) -> tuple[Path, str]:
    """A checkout of flatlib and its commit; the library is taken to lie there."""
    folder = tmp_path / "flatlib-checkout"
    head = repository(folder, PROJECT.read_text())
    monkeypatch.setattr(provenance, "HOME", folder)
    return folder, head


def test_home_is_the_folder_above_the_library():
    assert provenance.HOME == PROJECT.parent


def test_a_checkout_names_its_commit_and_marks_changes(own):
    folder, head = own
    assert provenance.commit() == head
    (folder / "untracked").write_text("")
    assert provenance.commit() == head
    (folder / "flatlib" / "__init__.py").write_text("changed = True\n")
    assert provenance.commit() == head + "+"


def test_a_worktree_of_the_checkout_names_its_commit(own, tmp_path, monkeypatch):
    folder, head = own
    git(folder, "worktree", "add", "-q", str(tmp_path / "tree"), "HEAD")
    monkeypatch.setattr(provenance, "HOME", tmp_path / "tree")
    assert provenance.commit() == head


def test_an_environment_inside_another_project_has_no_commit(tmp_path, monkeypatch):
    repository(tmp_path, '[project]\nname = "theirs"\n')
    packages = tmp_path / ".venv" / "lib" / "site-packages"
    shutil.copytree(tmp_path / "flatlib", packages / "flatlib")
    monkeypatch.setattr(provenance, "HOME", packages)
    assert provenance.commit() is None


@pytest.mark.parametrize("project", ['[project]\nname = "theirs"\n', "[tool.x]\n", "no toml ["])
def test_a_copy_at_the_top_of_another_project_has_no_commit(tmp_path, monkeypatch, project):
    repository(tmp_path, project)
    monkeypatch.setattr(provenance, "HOME", tmp_path)
    assert provenance.commit() is None


def test_flatlibs_files_below_another_repository_have_no_commit(tmp_path, monkeypatch):
    """As with a subtree, or an unpacked archive of the sources."""
    repository(tmp_path, '[project]\nname = "theirs"\n')
    unpacked = tmp_path / "vendored"
    (unpacked / "flatlib").mkdir(parents=True)
    shutil.copy(PROJECT, unpacked)
    monkeypatch.setattr(provenance, "HOME", unpacked)
    assert provenance.commit() is None


def test_a_repository_in_the_environment_is_not_asked(own, tmp_path, monkeypatch):
    """git hooks run their commands with GIT_DIR set to their own repository."""
    _, head = own
    repository(tmp_path / "theirs", '[project]\nname = "theirs"\n')
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "theirs" / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path / "theirs"))
    assert provenance.commit() == head
