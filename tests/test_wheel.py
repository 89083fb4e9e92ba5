"""The wheel holds the library and no more, and measures where only PyTorch, NumPy, SciPy are."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Stands for an environment without the laboratory's packages: their import fails there.
ABSENT = """
import sys
for name in ("matplotlib", "pandas", "seaborn", "sklearn", "statsmodels", "torchvision", "tqdm"):
    sys.modules[name] = None
"""
MEASURE = """
import json
import flatlib
net, x, y = flatlib.toys.running_example()
m = flatlib.measure(net, x)
print(json.dumps([flatlib.__file__, flatlib.__version__, m.sharpness, flatlib.bounds.chain(m).C]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of what git tracks, so that nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    for name in ("flatlib", "pyproject.toml", "README.md", "LICENSE"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    finished = subprocess.run(
        [*command, "--wheel-dir", str(folder), str(copy)], capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    subprocess.run([*command, str(target), str(wheel)], check=True, capture_output=True)
    return target


def run(code: str, installed: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", ABSENT + code],
        cwd=installed,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_it_holds_every_module_and_the_mark_of_types(wheel):
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "flatlib").rglob("*.py")}
    assert held == modules | {"flatlib/py.typed"}


@pytest.mark.slow
def test_it_measures_without_the_laboratorys_packages(installed):
    finished = run(MEASURE, installed)
    assert finished.returncode == 0, finished.stderr
    file, version, sharpness, C = json.loads(finished.stdout)
    assert Path(file).is_relative_to(installed)
    assert f"flatlib_sharpness-{version}" in {path.stem for path in installed.glob("*.dist-info")}
    assert (sharpness, C) == (pytest.approx(594, rel=1e-12), pytest.approx(5, rel=1e-12))


@pytest.mark.slow
def test_the_command_says_what_to_install(installed):
    finished = run("from flatlib.lab.cli import main; sys.exit(main(['list']))", installed)
    assert finished.returncode == 2
    assert "pip install 'flatlib-sharpness[lab]'" in finished.stderr
    assert "Traceback" not in finished.stderr
