"""book/_tools/chapters.py: notebooks run once, failures are named, nothing half-written stays."""

from __future__ import annotations

import json
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import chapters
import nbformat
import psutil
import pytest
from chapters import ChapterError, cache_key, check_parameters, page, run_all
from kernels import import_once
from nbformat import v4

TOOLS = Path(chapters.__file__).parent


def make_root(folder: Path) -> Path:
    for name in ("flatlib", "notebooks"):
        (folder / name).mkdir()
    (folder / "flatlib" / "__init__.py").write_text("answer = 42\n")
    return folder


@pytest.fixture
def root(tmp_path) -> Path:
    return make_root(tmp_path)


def write(root: Path, name: str, *cells: str, parameters='scale: str = "smoke"\nseed: int = 1'):
    """A notebook with a parameters cell and the given code cells."""
    first = v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    notebook = v4.new_notebook(cells=[v4.new_markdown_cell("# A title\n\nText."), first])
    notebook.cells += [v4.new_code_cell(cell) for cell in cells]
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata["kernelspec"] = spec
    path = root / "notebooks" / f"{name}.ipynb"
    nbformat.write(notebook, path)
    return path


def run(root: Path, *paths: Path, **parameters):
    return run_all(list(paths), parameters, root, root / "cache")


def printed(one: chapters.Run) -> str:
    outputs = [out for cell in one.notebook.cells for out in cell.get("outputs", [])]
    return "".join(out["text"] for out in outputs if out.get("name") == "stdout")


@dataclass(frozen=True)
class Passed:
    """Two notebooks that ran together, with parameters that are their defaults."""

    root: Path
    paths: list[Path]
    runs: dict[str, chapters.Run]


@pytest.fixture(scope="module")
def passed(tmp_path_factory) -> Passed:
    root = make_root(tmp_path_factory.mktemp("passed"))
    chatter = "import sys\nprint('shown')\nprint('chatter', file=sys.stderr)"
    paths = [
        write(root, "one", "import flatlib\nprint(flatlib.answer, scale, seed)"),
        write(root, "chatter", chatter),
    ]
    return Passed(root, paths, run(root, *paths, scale="smoke", seed=1))


@dataclass(frozen=True)
class Failed:
    """What came of a notebook that passes, one that fails and one whose kernel dies."""

    root: Path
    message: str
    good: Path
    parameters: dict


@pytest.fixture(scope="module")
def failed(tmp_path_factory) -> Failed:
    root, parameters = make_root(tmp_path_factory.mktemp("failed")), {"scale": "laptop", "seed": 7}
    good = write(root, "good", "print(scale, seed)")
    bad = write(root, "bad", "x = 1", "assert x == 2, 'x is one'")
    dies = write(root, "dies", "import os\nos._exit(1)")
    with pytest.raises(ChapterError) as caught:
        run(root, bad, good, dies, **parameters)
    return Failed(root, str(caught.value), good, parameters)


def test_a_notebook_runs_once_and_its_output_is_kept(passed):
    first, again = passed.runs, run(passed.root, *passed.paths, scale="smoke", seed=1)
    for name in ("one", "chatter"):
        assert (first[name].fresh, again[name].fresh) == (True, False)
        assert first[name].seconds == again[name].seconds > 0
    assert printed(first["one"]) == printed(again["one"]) == "42 smoke 1\n"


def test_parameters_reach_the_notebook(failed):
    kept = run(failed.root, failed.good, **failed.parameters)["good"]
    assert not kept.fresh, "a notebook that passed is kept where another failed"
    assert printed(kept) == "laptop 7\n"


def test_the_notebooks_own_defaults_inject_no_cell(passed):
    assert len(passed.runs["one"].notebook.cells) == 3


def test_a_failing_cell_is_named_and_leaves_nothing_in_the_cache(failed):
    assert "bad.ipynb failed in cell 4 of 4: AssertionError: x is one" in failed.message
    kept = sorted(path.name.partition("-")[0] for path in (failed.root / "cache").glob("*.json"))
    assert kept == ["good"]
    assert not list((failed.root / "cache").glob(".*"))


def test_a_dying_kernel_is_named(failed):
    assert "dies.ipynb: its kernel died" in failed.message
    assert not list((failed.root / "cache").glob("dies-*.json"))


def test_kernels_share_imports_and_nothing_else(root):
    """Both are copies of one server, which has imported a module and run no notebook."""
    marks = "import builtins, os, sys\nassert 'colorsys' in sys.modules\nprint(os.getppid())"
    bare = "assert not hasattr(builtins, 'left') and not {'chapters', 'flatlib'} & {*sys.modules}"
    place = "assert os.getcwd() == ROOT and ROOT in sys.path and TOOLS not in sys.path"
    place = place.replace("ROOT", repr(str(root))).replace("TOOLS", repr(str(TOOLS)))
    cells = (marks, bare, place, "builtins.left = True\nimport flatlib\nprint(flatlib.answer)")
    paths = [write(root, name, *cells) for name in ("first", "second")]
    with ProcessPoolExecutor(
        1, get_context("spawn"), initializer=import_once, initargs=(("colorsys",),)
    ) as pool:
        ran = [pool.submit(chapters._timed, path, {}, root).result() for path in paths]
    servers = []
    for text, _ in ran:
        outputs = [cell.outputs for cell in nbformat.reads(text, 4).cells if cell.get("outputs")]
        (server,), (answer,) = outputs
        assert answer.text == "42\n"
        servers.append(server.text)
    assert servers[0] == servers[1]


def test_a_kernel_ends_with_the_process_that_asked_for_it(root):
    told = root / "kernel"
    sleep = f"from pathlib import Path\nPath({str(told)!r}).write_text(str(os.getpid()))"
    path = write(root, "sleeps", f"import os, time\n{sleep}\ntime.sleep(600)")
    worker = get_context("spawn").Process(target=chapters._timed, args=(path, {}, root))
    worker.start()
    wait_for(lambda: told.exists() and told.read_text())
    kernel = psutil.Process(int(told.read_text()))
    worker.kill()
    wait_for(lambda: not is_at_work(kernel))


def test_a_build_that_is_ended_leaves_no_process(root):
    told = root / "kernel"
    path = write(root, "sleeps", f"import time\nopen({str(told)!r}, 'w').close()\ntime.sleep(600)")
    asked = ([path], {}, root, root / "cache")
    build = get_context("spawn").Process(target=chapters.run_all, args=asked)
    build.start()
    wait_for(told.exists)
    others = psutil.Process(build.pid).children(recursive=True)
    assert len(others) > 2  # the worker and its kernel among them
    build.terminate()
    wait_for(lambda: not [one for one in others if is_at_work(one)])


def is_at_work(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"width": 3}, "declares no parameter 'width'; it declares scale, seed"),
        ({"seed": "1"}, "parameter seed must be int, got '1'"),
        ({"seed": True}, "parameter seed must be int, got True"),
        ({"scale": "huge"}, "unknown scale 'huge'; choose from smoke, laptop, paper"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_runs(root, parameters, message):
    path = write(root, "one", "print(1)")
    with pytest.raises(ChapterError) as caught:
        run(root, path, **parameters)
    assert message in str(caught.value)
    assert not (root / "cache").exists()


def test_a_notebook_without_parameters_is_refused(root):
    path = write(root, "none")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].metadata.pop("tags")
    nbformat.write(notebook, path)
    with pytest.raises(ChapterError, match="no cell tagged 'parameters'"):
        check_parameters(path, {})


def test_the_key_changes_with_each_thing_that_decides_the_output(root, monkeypatch):
    path = write(root, "one", "print(1)")
    reader = write(root, "reader", "table = 'results/table.csv'")
    (root / "results").mkdir()

    def keys():
        library, environment = chapters.tree_digest(root / "flatlib"), "e"
        arguments = (root, library, environment)
        return (
            cache_key(path, {"scale": "smoke"}, *arguments),
            cache_key(path, {"scale": "laptop"}, *arguments),
            cache_key(reader, {"scale": "smoke"}, *arguments),
        )

    before = keys()
    assert len(set(before)) == 3
    assert keys() == before

    (root / "flatlib" / "more.py").write_text("")
    library_changed = keys()
    assert not set(before) & set(library_changed)

    (root / "results" / "table.csv").write_text("1")
    results_changed = keys()
    assert results_changed[:2] == library_changed[:2]
    assert results_changed[2] != library_changed[2]

    (root / "data").mkdir()
    (root / "data" / "images").write_text("1")
    monkeypatch.setenv("FLATLIB_DATA", str(root / "data"))
    data_changed = keys()
    assert data_changed[0] == results_changed[0], "smoke runs use embedded data alone"
    assert data_changed[1] != results_changed[1]

    write(root, "one", "print(2)")
    assert keys()[0] != data_changed[0]


def test_compiled_files_do_not_count_as_library(root):
    before = chapters.tree_digest(root / "flatlib")
    (root / "flatlib" / "__init__.cpython-311.pyc").write_bytes(b"x")
    assert chapters.tree_digest(root / "flatlib") == before


def test_the_page_says_how_it_ran_and_shows_no_kernel_chatter(passed):
    one = passed.runs["chatter"]
    rendered = page(one)
    text = json.dumps(rendered)
    assert "shown" in text
    outputs = [out for cell in rendered.cells for out in cell.get("outputs", [])]
    assert [out.get("name") for out in outputs] == ["stdout"]
    lines = rendered.cells[0].source.splitlines()
    assert lines[0] == "# A title"
    assert f"ran at scale *smoke* with seed 1 in {one.seconds:.1f} seconds" in lines[3]
    assert "papermill" not in text
    assert "Text." in lines


def test_solutions_can_be_withheld_from_the_page():
    """Every chapter's, and nothing else goes with them."""
    for path in sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb")):
        one = chapters.Run(nbformat.read(path, 4), "smoke", 1, 0.0, True)
        shown, withheld = page(one), page(one, solutions=False)
        assert "{solution" in json.dumps(shown) and "{solution" not in json.dumps(withheld)
        kept = {cell.id for cell in withheld.cells}
        gone = [cell for cell in one.notebook.cells if cell.id not in kept]
        assert all("{solution" in cell.source for cell in gone if cell.cell_type == "markdown")
        assert all(cell.metadata.tags == ["solution"] for cell in gone if cell.cell_type == "code")
        for part in ("{exercise", "\n## ", "{admonition"):
            counts = [sum(cell.source.count(part) for cell in n.cells) for n in (shown, withheld)]
            assert counts[0] == counts[1]
