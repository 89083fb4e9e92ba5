"""Where a published site and its repository are: all of it follows from one setting.

The setting is the environment variable FLATLIB_REPOSITORY, ``owner/name`` on GitHub. The workflow
sets it. Without it a site names no host: it has no launch buttons, no social card, no sitemap.
"""

from __future__ import annotations

import os
import re

SETTING = "FLATLIB_REPOSITORY"
BRANCH = "main"


def repository() -> str | None:
    """The setting; None where it is empty or absent.

    Raises:
        ValueError: the setting is not ``owner/name``.
    """
    found = os.environ.get(SETTING, "").strip()
    if not found:
        return None
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9._-]+", found):
        raise ValueError(f"{SETTING} must be owner/name, such as someone/flatlib; got {found!r}")
    return found


def site(repository: str) -> str:
    """The address where GitHub Pages publishes the repository's site.

    >>> site("Someone/flatlib"), site("someone/someone.github.io")
    ('https://someone.github.io/flatlib/', 'https://someone.github.io/')
    """
    owner, _, name = repository.partition("/")
    host = f"{owner.lower()}.github.io"
    return f"https://{host}/" if name.lower() == host else f"https://{host}/{name}/"


def binder(repository: str, path: str) -> str:
    """The address that opens a file of the repository in JupyterLab on Binder.

    >>> binder("someone/flatlib", "notebooks/03-volume.ipynb")
    'https://mybinder.org/v2/gh/someone/flatlib/main?urlpath=lab/tree/notebooks/03-volume.ipynb'
    """
    return f"https://mybinder.org/v2/gh/{repository}/{BRANCH}?urlpath=lab/tree/{path}"


def colab(repository: str, path: str) -> str:
    """The address that opens a notebook of the repository on Colab.

    >>> colab("someone/flatlib", "notebooks/03-volume.ipynb")[:60]
    'https://colab.research.google.com/github/someone/flatlib/blo'
    """
    return f"https://colab.research.google.com/github/{repository}/blob/{BRANCH}/{path}"


def preamble(repository: str) -> str:
    """What a chapter needs before its first cell where nothing of it is installed, as on Colab.

    >>> print(preamble("someone/flatlib"))
    !git clone --quiet --depth 1 https://github.com/someone/flatlib
    %cd flatlib
    %pip install --quiet '.[lab]'
    """
    return (
        f"!git clone --quiet --depth 1 https://github.com/{repository}\n"
        f"%cd {repository.partition('/')[2]}\n"
        "%pip install --quiet '.[lab]'"
    )
