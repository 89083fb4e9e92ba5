"""Build the book: run its notebooks, the register's checks and the claims' verdicts, then render
the site, and say where it is.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from importlib.metadata import files
from pathlib import Path

import nbformat
import publishing
from chapters import ChapterError, digest, page, run_all, tree_digest, write_whole

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"
CACHE = BOOK / "_build" / "cache"
SITE = BOOK / "_build" / "html"
STAMP = BOOK / "_build" / "site-made-from"
REGISTER = BOOK / "_generated" / "register.json"
CLAIMS = BOOK / "_generated" / "claims.json"
MATHJAX = BOOK / "_vendor" / "mathjax"


def vendor_mathjax() -> None:
    """Put MathJax's one script, its TeX extensions and its fonts where the site takes them from."""
    wanted = ("/mathjax/tex-chtml-full.js", "/chtml/fonts/woff-v2/")
    for packed in files("sphinx-mathjax-offline") or []:
        name = packed.as_posix()
        if not any(part in name for part in wanted):
            continue
        target = MATHJAX / name.partition("/mathjax/")[2]
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(packed.locate(), target)


def start_tool(tool: str, *more: bytes) -> tuple[Path, subprocess.Popen | None]:
    """A tool's cached result, and the process that makes it where what it depends on changed."""
    script = BOOK / "_tools" / f"{tool}.py"
    key = digest(
        tree_digest(ROOT / "flatlib").encode(),
        (ROOT / "constraints.txt").read_bytes(),
        script.read_bytes(),
        *more,
    )
    entry = CACHE / f"{tool}-{key[:32]}.json"
    if entry.exists():
        return entry, None
    return entry, subprocess.Popen([sys.executable, str(script), str(entry)], cwd=ROOT)


def write_pages(runs: dict, solutions: bool) -> None:
    """Put the executed notebooks where Sphinx reads them, and remove those that are no more."""
    folder = BOOK / "chapters"
    folder.mkdir(exist_ok=True)
    for name, run in runs.items():
        write_whole(folder / f"{name}.ipynb", nbformat.writes(page(run, solutions)) + "\n")
    for old in folder.glob("*.ipynb"):
        if old.stem not in runs:
            old.unlink()


def site_digest(results: Path) -> str:
    """SHA-256 of all that the site is rendered from."""
    folders = [path for path in sorted(BOOK.iterdir()) if path.is_dir() and path.name != "_build"]
    pages = [path for path in sorted(BOOK.iterdir()) if path.is_file()]
    return digest(
        *(tree_digest(folder).encode() for folder in [*folders, ROOT / "flatlib", results]),
        *(path.name.encode() + path.read_bytes() for path in pages),
        (ROOT / "constraints.txt").read_bytes(),
        str(publishing.repository()).encode(),
    )


def render(results: Path) -> None:
    """Render the whole site unless it was rendered from just these sources already.

    It is all or nothing: an incremental run would not repeat the warnings of unchanged pages.
    """
    # Each process of the pool imports this file, and none of them needs Sphinx.
    from jupyter_book.sphinx import build_sphinx

    source = site_digest(results)
    if STAMP.exists() and STAMP.read_text() == source and (SITE / "index.html").exists():
        print("site: nothing changed")
        return
    STAMP.unlink(missing_ok=True)
    for folder in (SITE, SITE.parent / ".doctrees"):
        shutil.rmtree(folder, ignore_errors=True)
    result = build_sphinx(
        str(BOOK),
        str(SITE),
        noconfig=True,
        path_config=str(BOOK / "_config.yml"),
        confoverrides={"nitpicky": True, "latex_individualpages": False},
        warningiserror=True,
        keep_going=True,
        quiet=True,
    )
    if result:
        raise ChapterError("the site was not built: each fault is named above")
    write_whole(STAMP, source)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="smoke", choices=("smoke", "laptop", "paper"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--without-solutions", dest="solutions", action="store_false")
    asked = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        publishing.repository()
    except ValueError as error:
        print(f"make book: {error}", file=sys.stderr)
        return 1
    start = time.perf_counter()
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    vendor_mathjax()
    results = Path(os.environ.get("FLATLIB_RESULTS") or ROOT / "results")
    register, checking = start_tool("register")
    held, deciding = start_tool("held", tree_digest(results).encode())
    try:
        runs = run_all(notebooks, {"scale": asked.scale, "seed": asked.seed}, ROOT, CACHE)
        for process, name in ((checking, "register's checks"), (deciding, "claims' verdicts")):
            if process is not None and process.wait():
                raise ChapterError(f"the {name} did not run: see the error above")
        write_whole(REGISTER, register.read_text(encoding="utf-8"))
        write_whole(CLAIMS, held.read_text(encoding="utf-8"))
        write_pages(runs, asked.solutions)
        render(results)
    except ChapterError as error:
        print(f"\nmake book: {error}", file=sys.stderr)
        return 1
    finally:
        for process in filter(None, (checking, deciding)):
            if process.poll() is None:
                process.terminate()
                process.wait()
    report(runs, time.perf_counter() - start)
    return 0


def report(runs: dict, seconds: float) -> None:
    """Print what each notebook took and where the site's first page is."""
    width = max((len(name) for name in runs), default=0)
    for name, run in runs.items():
        kept = "" if run.fresh else "  (kept from an earlier run)"
        print(f"  {name:<{width}}  {run.seconds:6.1f} s{kept}")
    print(f"built in {seconds:.1f} s; first page: {SITE / 'index.html'}")


if __name__ == "__main__":
    sys.exit(main())
