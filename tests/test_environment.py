"""environment.yml, constraints.txt and pyproject.toml say the same; what they ask for can be
had.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())


def pins() -> dict[str, str]:
    """constraints.txt: canonical name to exact version."""
    lines = [line.strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): exact for name, exact in pairs}


def asked_for() -> list[Requirement]:
    """Every requirement of pyproject.toml, extras included."""
    extras = PROJECT["optional-dependencies"]
    lines = PROJECT["dependencies"] + [one for name in extras for one in extras[name]]
    return [one for one in map(Requirement, lines) if one.name != PROJECT["name"]]


def conda_pip_lines() -> list[str]:
    return next(part["pip"] for part in CONDA["dependencies"] if isinstance(part, dict))


def test_constraints_hold_one_exact_version_of_each_requirement():
    for requirement in asked_for():
        exact = pins().get(canonicalize_name(requirement.name))
        assert exact is not None, f"{requirement.name} is not in constraints.txt"
        assert requirement.specifier.contains(exact), f"{requirement} does not allow {exact}"


def test_constraints_cover_everything_that_is_installed_for_flatlib():
    """Follow the requirements of the installed packages: each one met on the way is pinned.

    Not what a CUDA build of torch brings for itself: another build of that version has none.
    """
    from importlib.metadata import requires

    open_names, seen = [canonicalize_name(one.name) for one in asked_for()], set()
    while open_names:
        name = open_names.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            lines = requires(name) or []
        except PackageNotFoundError:
            continue  # another platform's, or an option that nobody installed
        assert name in pins(), f"{name} is installed and not in constraints.txt"
        for line in lines:
            requirement = Requirement(line)
            if name == "torch" and requirement.name.startswith(("cuda-", "nvidia-", "triton")):
                continue
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                open_names.append(canonicalize_name(requirement.name))
    assert len(seen) > 60


def test_no_constraint_brings_cuda_or_another_machines_folder():
    text = (ROOT / "constraints.txt").read_text()
    assert not re.search(r"nvidia|cuda|triton|file:|://|\+", text)
    assert pins()["torch"] == "2.13.0"


def test_installed_versions_are_the_constraints():
    wrong = []
    for name, exact in pins().items():
        try:
            found = version(name).split("+")[0]
        except PackageNotFoundError:
            continue
        if found != exact:
            wrong.append(f"{name}: {found} is installed, constraints.txt says {exact}")
    assert not wrong, "run 'make env': " + "; ".join(wrong)


def test_every_pinned_version_runs_on_the_oldest_python_that_is_promised():
    """Debian 12 has Python 3.11.2: a pin that asks for 3.11.5 would stop ``make book`` there."""
    oldest = PROJECT["requires-python"].removeprefix(">=") + ".0"
    refused = {}
    for name, exact in pins().items():
        try:
            asked = metadata(name).get("Requires-Python") or ""
        except PackageNotFoundError:
            continue  # not for this platform
        if version(name) == exact and not SpecifierSet(asked).contains(oldest):
            refused[name] = f"{exact} needs Python {asked}"
    assert not refused


def test_conda_environment_has_the_shape_that_conda_and_binder_read():
    assert set(CONDA) == {"name", "channels", "dependencies"}
    assert CONDA["name"] == "flatlib"
    assert CONDA["channels"] == ["conda-forge"]
    plain = [part for part in CONDA["dependencies"] if isinstance(part, str)]
    assert {"pip", "make", "git"} <= set(plain)
    python = next(part for part in plain if part.startswith("python="))
    allowed = Requirement(f"python{PROJECT['requires-python']}").specifier
    assert allowed.contains(python.removeprefix("python=") + ".0")


def test_conda_environment_takes_its_versions_from_constraints_alone():
    assert conda_pip_lines() == [
        "--extra-index-url https://download.pytorch.org/whl/cpu",
        "--constraint constraints.txt",
        "--editable .[all]",
    ]
    assert "all" in PROJECT["optional-dependencies"]


def test_every_extra_is_in_all():
    extras = PROJECT["optional-dependencies"]
    open_names, seen = ["all"], set()
    while open_names:
        name = open_names.pop()
        seen.add(name)
        for one in map(Requirement, extras[name]):
            if one.name == PROJECT["name"]:
                open_names += one.extras - seen
    assert seen == set(extras)


@pytest.mark.slow
def test_conda_environments_pip_section_resolves(tmp_path):
    """pip finds every version that it names, whatever is installed here; nothing is installed."""
    (tmp_path / "requirements.txt").write_text("\n".join(str(one) for one in asked_for()))
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--no-deps"]
    command += ["--ignore-installed"]
    command += ["--constraint", str(ROOT / "constraints.txt"), "-r", "requirements.txt"]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr[-2000:]


def test_the_installed_environment_is_consistent():
    finished = subprocess.run(
        [sys.executable, "-m", "pip", "check"], capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stdout


def test_the_lowest_versions_are_those_that_pyproject_promises():
    lines = (ROOT / "constraints-lowest.txt").read_text().splitlines()
    lowest = dict(line.split("==") for line in lines if not line.startswith("#"))
    wanted = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["progress"]]
    for requirement in map(Requirement, wanted):
        bound = next(part.version for part in requirement.specifier if part.operator == ">=")
        assert Version(lowest.pop(requirement.name)) == Version(bound)
    assert lowest == {}
