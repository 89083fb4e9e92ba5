"""Where data sets live on disk, and how a bad file there is reported."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flatlib.files import file_hash

ABANDONED = 24 * 3600  # seconds after which nobody is at work on a partial file any more


class DataError(RuntimeError):
    """A data file is missing, truncated or altered, or a download failed."""


def data_folder() -> Path:
    """The folder of the data sets: ``FLATLIB_DATA`` if it is set, else the user's cache folder."""
    chosen = os.environ.get("FLATLIB_DATA")
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        cache = Path(os.environ.get("LOCALAPPDATA", "~/AppData/Local"))
    elif sys.platform == "darwin":
        cache = Path("~/Library/Caches")
    else:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return cache.expanduser() / "flatlib"


def require_hash(path: Path, expected: str) -> None:
    """Raise a ``DataError`` unless the file has this SHA-256."""
    if path.is_dir():
        raise altered(path, "a file", "a folder")
    found = file_hash(path)
    if found != expected:
        raise altered(path, f"SHA-256 {expected}", f"{found} ({path.stat().st_size} bytes)")


def altered(path: Path, expected: str, found: str) -> DataError:
    """The error for a file whose content is not what it must be."""
    return DataError(
        f"{path} is truncated or altered: expected {expected}, found {found}. "
        "Delete it and load again, which downloads a fresh copy."
    )


def remove_abandoned(folder: Path) -> None:
    """Remove what killed downloads and writers left in the data folder more than a day ago.

    A younger file may be one that another process is writing.
    """
    for path in [*folder.glob(".download-*"), *folder.glob(".*.part")]:
        with suppress(OSError):  # another process was first, or it is not ours to remove
            if time.time() - path.lstat().st_mtime < ABANDONED:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


@contextmanager
def download_into(folder: Path, what: str) -> Iterator[Path]:
    """A temporary folder beside the data; whatever a broken download leaves there is removed.

    Args:
        folder: the data folder, on whose disk the temporary one is made.
        what: the data set's name, for the error message.

    Raises:
        DataError: the folder cannot be written, or the download failed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_abandoned(folder)
        temporary = Path(tempfile.mkdtemp(prefix=".download-", dir=folder))
    except OSError as fault:
        raise DataError(
            f"{what} is not in {folder}, and nothing can be written there ({fault}); "
            "set FLATLIB_DATA to a folder that has it or that you may write"
        ) from fault
    try:
        yield temporary
    except (OSError, RuntimeError, EOFError) as fault:
        raise DataError(
            f"{what} is not in {folder}, and downloading it failed: {fault}. "
            "Try again with a network, or set FLATLIB_DATA to a folder that has it."
        ) from fault
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
