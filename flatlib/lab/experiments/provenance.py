"""What a run's numbers may depend on besides its configuration."""

from __future__ import annotations

import platform
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import torch

PACKAGES = ("torch", "numpy", "scipy")
HOME = Path(__file__).resolve().parents[3]  # above the library: a checkout or site-packages


def environment(device: str) -> dict:
    """Versions, commit, processor, device and threads of this session of a run."""
    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in PACKAGES},
        "commit": commit(),
        "system": platform.system(),
        "processor": processor(),
        "device": device if device == "cpu" else torch.cuda.get_device_name(device),
        "threads": torch.get_num_threads(),
    }


def commit() -> str | None:
    """The commit of flatlib's own checkout, marked ``+`` if the files differ from it.

    None outside a checkout, so also where flatlib is installed or copied inside another project.
    """

    def git(*arguments: str) -> str:
        # The repository is named, for git would go up to one that is not flatlib's.
        own = ["git", "-C", str(HOME), f"--git-dir={HOME / '.git'}", f"--work-tree={HOME}"]
        return subprocess.run(
            [*own, *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        project = tomllib.loads((HOME / "pyproject.toml").read_text())["project"]["name"]
        if project != "flatlib-sharpness":
            return None
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".")
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, KeyError, ValueError, subprocess.CalledProcessError):
        return None


def processor() -> str:
    """The processor's name, as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
