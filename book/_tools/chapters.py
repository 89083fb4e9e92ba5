"""Run the notebooks through papermill, each at most once for the same source, library,
parameters and data.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.metadata import distributions
from multiprocessing import get_context
from pathlib import Path

import nbformat
import papermill
from folding import fold
from kernels import KernelManager, end_with_parent, import_once
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from flatlib.lab.directives import without_solutions

SCALES = ("smoke", "laptop", "paper")
WORKERS = 2
TRACEBACK_ENDS = 15  # lines of a long traceback shown at its begin and at its end
PYTHON_TYPES = {"str": str, "int": int, "float": float, "bool": bool}


class ChapterError(Exception):
    """A notebook that cannot be run, or failed; the message names it, the cell and the remedy."""


@dataclass(frozen=True)
class Run:
    """One executed notebook in the cache."""

    notebook: nbformat.NotebookNode  # with outputs
    scale: str
    seed: int
    seconds: float  # that the run took, whenever that was
    fresh: bool  # whether it ran just now


BAR = "application/vnd.jupyter.widget-view+json"  # a bar of progress, in a live notebook


def digest(*parts: bytes) -> str:
    """SHA-256 over parts, each with its length, so that no two lists of parts collide."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "big") + part)
    return total.hexdigest()


def tree_digest(folder: Path) -> str:
    """SHA-256 of every file's name and content under a folder, compiled and hidden files aside."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    names = sorted((path.relative_to(folder).as_posix(), path) for path in files)
    # A hidden folder holds what unfinished work needs to go on, which no page reads.
    names = [(name, path) for name, path in names if not re.search(r"(^|/)\.", name)]
    return digest(*(part for name, path in names for part in (name.encode(), path.read_bytes())))


def environment_digest() -> str:
    """SHA-256 of Python's version and of every installed package's: embedded data come with
    them.
    """
    packages = {f"{found.name}=={found.version}" for found in distributions()}
    return digest(sys.version.encode(), "\n".join(sorted(packages)).encode())


def data_digest(scale: str) -> str:
    """Identity of the data folder's files; smoke runs use embedded data alone."""
    folder = os.environ.get("FLATLIB_DATA")
    if scale == "smoke" or not folder:
        return digest(b"embedded")
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return digest(
        *(f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}".encode() for path in files)
    )


def declared_parameters(path: Path) -> dict[str, dict]:
    """The notebook's parameters as papermill reads them: name to type and default.

    Raises:
        ChapterError: the notebook has no cell tagged ``parameters``.
    """
    declared = papermill.inspect_notebook(str(path))
    if not declared:
        raise ChapterError(f"{path.name} has no cell tagged 'parameters'; tag its first code cell")
    return declared


def check_parameters(path: Path, parameters: dict) -> None:
    """Refuse a parameter that the notebook does not declare, or of another type.

    Raises:
        ChapterError: names the notebook, the parameter and what the notebook does declare.
    """
    declared = declared_parameters(path)
    for name, value in parameters.items():
        if name not in declared:
            raise ChapterError(
                f"{path.name} declares no parameter {name!r}; "
                f"it declares {', '.join(sorted(declared))}"
            )
        expected = PYTHON_TYPES.get(declared[name]["inferred_type_name"])
        if expected is not None and type(value) is not expected:
            raise ChapterError(
                f"{path.name}: parameter {name} must be {expected.__name__}, got {value!r}"
            )
    if parameters.get("scale", "smoke") not in SCALES:
        raise ChapterError(
            f"unknown scale {parameters['scale']!r}; choose from {', '.join(SCALES)}"
        )


def changed_parameters(path: Path, parameters: dict) -> dict:
    """Those parameters whose value is not the notebook's own default."""
    defaults = {name: found["default"] for name, found in declared_parameters(path).items()}
    return {
        name: value for name, value in parameters.items() if repr(value) != _plain(defaults[name])
    }


def _plain(source: str) -> str:
    """A default's source as ``repr`` writes its value; the source itself where it is no literal."""
    try:
        return repr(ast.literal_eval(source))
    except (ValueError, SyntaxError):
        return source


def reads_results(path: Path) -> bool:
    """Whether a notebook's code speaks of archived results."""
    code = [
        cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"
    ]
    return bool(re.search(r"results|records|archive", "\n".join(code)))


def cache_key(path: Path, parameters: dict, root: Path, library: str, environment: str) -> str:
    """What decides a notebook's outputs: if none of it changed, it is not run again."""
    results = tree_digest(root / "results") if reads_results(path) else ""
    parts = (
        path.read_bytes(),
        json.dumps(parameters, sort_keys=True).encode(),
        library.encode(),
        environment.encode(),
        data_digest(parameters.get("scale", "smoke")).encode(),
        results.encode(),
    )
    return digest(*parts)


def execute(path: Path, parameters: dict, root: Path) -> nbformat.NotebookNode:
    """Run one notebook in a fresh kernel and return it with its outputs.

    Raises:
        ChapterError: an undeclared parameter, or a failed cell, by name and number.
    """
    check_parameters(path, parameters)
    source = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as scratch:
        # The reader's own IPython start-up files have no say in what a chapter shows.
        os.environ["IPYTHONDIR"] = scratch
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        os.environ["PYTHONPATH"] = os.pathsep.join(
            filter(None, [str(root), os.environ.get("PYTHONPATH", "")])
        )
        try:
            return papermill.execute_notebook(
                str(path),
                None,
                parameters=changed_parameters(path, parameters),
                kernel_name="python3",
                kernel_manager_class=KernelManager,
                progress_bar=False,
                cwd=str(root),
            )
        except PapermillExecutionError as error:
            raise ChapterError(failure(path, source, error)) from None
        except DeadKernelError:
            raise ChapterError(
                f"{path.name}: its kernel died, most often for want of memory; "
                "run it by itself to see"
            ) from None


def failure(path: Path, source: nbformat.NotebookNode, error: PapermillExecutionError) -> str:
    """One message with the notebook, the failed cell as the reader counts it, and its traceback."""
    cells = [cell.source for cell in source.cells]
    number = cells.index(error.source) + 1 if error.source in cells else error.cell_index + 1
    lines = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback)).splitlines()
    if len(lines) > 2 * TRACEBACK_ENDS:
        lines[TRACEBACK_ENDS:-TRACEBACK_ENDS] = ["    ..."]
    named = f"{path.name} failed in cell {number} of {len(cells)}: {error.ename}: {error.evalue}"
    return "\n".join([named, *lines])


def _start_worker(log: Path, many: bool) -> None:
    """End with the build, send what kernels and their libraries write to this process's stderr to a
    file, and have the libraries of many notebooks imported once.
    """
    end_with_parent()
    # A kernel would otherwise run the main program's script, as any child of a process does.
    vars(sys.modules["__main__"]).pop("__file__", None)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as stream:
        os.dup2(stream.fileno(), 2)
    if many:
        import_once()


def _timed(path: Path, parameters: dict, root: Path) -> tuple[str, float]:
    start = time.perf_counter()
    notebook = execute(path, parameters, root)
    return nbformat.writes(notebook), time.perf_counter() - start


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is either whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def run_all(
    paths: list[Path], parameters: dict, root: Path, cache: Path, workers: int = WORKERS
) -> dict[str, Run]:
    """Every notebook's run, from the cache where nothing it depends on changed, else made now.

    Args:
        paths: the notebooks.
        parameters: handed to each one; each must declare them.
        root: the folder that notebooks run in, above ``flatlib`` and ``results``.
        cache: where runs are kept, one file each.
        workers: how many notebooks run at once, each in a process of its own.

    Raises:
        ChapterError: one or more failed; the message tells all of them. Those that passed are kept.
    """
    library, environment = tree_digest(root / "flatlib"), environment_digest()
    entries = {}
    for path in paths:
        check_parameters(path, parameters)
        key = cache_key(path, parameters, root, library, environment)
        entries[path] = cache / f"{path.stem}-{key[:32]}.json"
    missing = [path for path in paths if not entries[path].exists()]
    failures = _run_missing(missing, parameters, root, entries, workers)
    if failures:
        raise ChapterError("\n\n".join(failures))
    runs = {}
    for path, entry in entries.items():
        kept = json.loads(entry.read_text(encoding="utf-8"))
        notebook = nbformat.reads(json.dumps(kept["notebook"]), as_version=4)
        scale, seed = parameters.get("scale", "smoke"), parameters.get("seed", 1)
        runs[path.stem] = Run(notebook, scale, seed, kept["seconds"], path in missing)
    return runs


def _run_missing(missing, parameters, root, entries, workers) -> list[str]:
    """Run what the cache lacks, keep what passes, return what failed as messages."""
    failures = []
    if not missing:
        return failures
    log = next(iter(entries.values())).parent / "kernels.log"
    many = len(missing) > 2 * workers
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_start_worker, initargs=(log, many)
    ) as pool:
        # The experiments come last by name and take longest: start them first, and no core idles.
        jobs = {pool.submit(_timed, path, parameters, root): path for path in reversed(missing)}
        for done, job in enumerate(as_completed(jobs), 1):
            path = jobs[job]
            try:
                text, seconds = job.result()
            except ChapterError as error:
                failures.append(str(error))
                print(f"  [{done}/{len(jobs)}] {path.stem}: FAILED", file=sys.stderr, flush=True)
                continue
            kept = {"seconds": seconds, "notebook": json.loads(text)}
            write_whole(entries[path], json.dumps(kept))
            for old in entries[path].parent.glob(f"{path.stem}-*.json"):
                if old != entries[path] and time.time() - old.stat().st_mtime > 7 * 86400:
                    old.unlink()
            print(
                f"  [{done}/{len(jobs)}] {path.stem}: {seconds:.1f} s", file=sys.stderr, flush=True
            )
    return failures


def page(run: Run, solutions: bool = True) -> nbformat.NotebookNode:
    """The run as the site shows it: a note of scale and seconds, code folded by its kind, no kernel
    chatter, no bars, no time stamps; without ``solutions`` those of its exercises are left out.
    """
    notebook = nbformat.from_dict(json.loads(json.dumps(run.notebook)))
    if not solutions:
        notebook.cells = [nbformat.from_dict(cell) for cell in without_solutions(notebook.cells)]
    notebook.metadata.pop("papermill", None)
    notebook.metadata.pop("widgets", None)  # bars, whose scripts the site would have to fetch
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            fold(cell)
            cell.outputs = [
                out
                for out in cell.outputs
                if out.get("name") != "stderr" and BAR not in out.get("data", {})
            ]
    first = next(cell for cell in notebook.cells if cell.cell_type == "markdown")
    title, _, rest = first.source.partition("\n")
    note = (
        f"This page's cells ran at scale *{run.scale}* with seed {run.seed} "
        f"in {run.seconds:.1f} seconds."
    )
    first.source = f"{title}\n\n```{{div}} run-note\n{note}\n```\n{rest}"
    return notebook
