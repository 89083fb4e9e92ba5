"""Every chapter: parameters that papermill can read, short cells, assertions, and another seed."""

from __future__ import annotations

import ast
import os
import re
import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import papermill
import pytest
from cells import run
from chapters import SCALES, ChapterError, check_parameters
from folding import SHOWN, assertions, kind
from nbclient import NotebookClient
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from refuse_outputs import faults

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TYPES = {"str", "int", "float", "bool", "tuple", "list"}
OTHER_SEED = 2

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path: Path, kind: str) -> list:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def code(path: Path) -> list[str]:
    return [cell.source for cell in cells(path, "code")]


def test_there_are_notebooks():
    assert NOTEBOOKS


@each_notebook
def test_parameters_are_declared_with_names_types_and_known_values(path):
    declared = papermill.inspect_notebook(str(path))
    assert {"scale", "seed"} <= set(declared), f"{path.name} declares {sorted(declared)}"
    for name, found in declared.items():
        kind = found["inferred_type_name"].partition("[")[0]
        assert kind in TYPES, f"{path.name}: parameter {name} is annotated {kind!r}"
        default = ast.literal_eval(found["default"])
        assert type(default).__name__ == kind, f"{path.name}: {name}: {kind} = {default!r}"
    assert declared["scale"]["inferred_type_name"] == "str"
    assert declared["seed"]["inferred_type_name"] == "int"
    assert ast.literal_eval(declared["scale"]["default"]) == "smoke"
    assert ast.literal_eval(declared["seed"]["default"]) == 1


@each_notebook
def test_first_code_cell_holds_the_parameters_and_nothing_else(path):
    first = cells(path, "code")[0]
    assert "parameters" in first.metadata.get("tags", [])
    statements = ast.parse(first.source).body
    assert all(isinstance(statement, ast.AnnAssign) for statement in statements)


@each_notebook
def test_unknown_parameters_and_scales_are_refused(path):
    with pytest.raises(ChapterError, match="declares no parameter 'sede'"):
        check_parameters(path, {"sede": 1})
    with pytest.raises(ChapterError, match="unknown scale"):
        check_parameters(path, {"scale": "tiny"})
    for scale in SCALES:
        check_parameters(path, {"scale": scale, "seed": 3})


@each_notebook
def test_no_outputs_are_committed(path):
    assert faults(path) == []


@each_notebook
def test_the_kernel_is_python3(path):
    spec = nbformat.read(path, as_version=4).metadata.kernelspec
    assert (spec.name, spec.language) == ("python3", "python")


@each_notebook
def test_cells_are_short(path):
    lengths = sorted(len(source.splitlines()) for source in code(path))
    assert statistics.median(lengths) <= 8
    within = sum(length <= 20 for length in lengths) / len(lengths)
    assert within >= 0.9, f"{within:.0%} of the cells have 20 lines or fewer; {lengths[-5:]}"


@each_notebook
def test_code_lines_fit_the_page(path):
    lines = [line for source in code(path) for line in source.splitlines()]
    assert [line for line in lines if len(line) > 75] == []


@each_notebook
def test_a_cell_asserts_something(path):
    trees = [ast.walk(ast.parse(source)) for source in code(path) if not source.startswith("%")]
    assert any(isinstance(node, ast.Assert) for tree in trees for node in tree)


@each_notebook
def test_it_starts_with_its_title_and_a_chapter_card(path):
    words = [cell.source for cell in cells(path, "markdown")]
    assert words[0].startswith("# ")
    assert "chapter-card" in "\n".join(words[:2])


BAD_PARAMETERS = {
    "none": ({}, None),
    "scale": ({"scale": "huge"}, "scale must be one of smoke, laptop, paper, got 'huge'"),
    "type": ({"seed": "x"}, "seed must be a whole number from 0 to 4294967295, got 'x'"),
    "unknown": ({"seed": 2, "sede": 1}, "this chapter has no parameter 'sede'; it has "),
}


def first_cells(path: Path, parameters: dict) -> list:
    """The cells up to the first that imports the library, with papermill's own cell of values."""
    notebook = load_notebook_node(str(path))
    if parameters:
        notebook = parameterize_notebook(notebook, parameters)
    found = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return found[: 3 if parameters else 2]


@pytest.fixture(scope="module")
def refusals():
    """What the first cells of each notebook raise with each of the bad parameters.

    All run in one kernel, which forgets in between what it has run.
    """
    whole, lasts = nbformat.v4.new_notebook(), {}
    for path in NOTEBOOKS:
        for fault, (parameters, _) in BAD_PARAMETERS.items():
            whole.cells.append(nbformat.v4.new_code_cell("In[:] = ['']"))
            whole.cells += first_cells(path, parameters)
            lasts[path, fault] = len(whole.cells) - 1
    with ThreadPoolExecutor(1) as fresh_event_loop:
        client = NotebookClient(whole, kernel_name="python3", allow_errors=True)
        fresh_event_loop.submit(client.execute, env=os.environ | {"PYTHONPATH": str(ROOT)}).result()
    return {
        case: [
            f"{out.ename}: {out.evalue}"
            for out in whole.cells[last].outputs
            if out.output_type == "error"
        ]
        for case, last in lasts.items()
    }


@pytest.mark.parametrize("fault", BAD_PARAMETERS)
@each_notebook
def test_bad_parameters_are_refused_by_the_first_cells(path, fault, refusals):
    parameters, message = BAD_PARAMETERS[fault]
    found = refusals[path, fault]
    assert len(found) == len(parameters and [message])
    if message:
        assert found[0].startswith("ValueError: ") and message in found[0]


def test_the_digits_refuse_a_network_without_a_hidden_layer():
    """At the chapter's learning rates it would diverge; at an exercise's it does not."""
    parameters, imports = code(ROOT / "notebooks" / "10-digits.ipynb")[:2]
    names = {"In": [parameters]}
    exec(parameters, names)
    names["widths"] = [64, 10]
    with pytest.raises(ValueError, match=r"64 pixels through a hidden layer to 10.*\[64, 10\]"):
        exec(imports, names)
    names |= {"lr": 0.1, "lr_low": 0.05}
    exec(imports, names)


@pytest.mark.slow
@each_notebook
def test_it_holds_for_another_seed(path):
    """Its assertions are true of more than the seed that they were written with."""
    notebook = parameterize_notebook(load_notebook_node(str(path)), {"seed": OTHER_SEED})
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert f"seed = {OTHER_SEED}" in sources[1]
    ran, fault = run(sources, ROOT)
    assert ran == len(sources), fault


def test_a_cell_that_raises_ends_its_run_and_leaves_nothing_to_the_next():
    ran, fault = run(["x = 1", "assert x == 2", "x = 3"], ROOT)
    assert ran == 1 and "AssertionError" in fault
    assert run(["assert 'x' not in globals()"], ROOT) == (1, "")


def test_a_cell_that_shows_an_object_by_its_address_fails():
    ran, fault = run(["x = object()", "x;", "x"], ROOT)
    assert ran == 2 and "would show <object object at 0x" in fault


@each_notebook
def test_the_page_shows_at_most_eight_short_cells_of_code(path):
    found = [cell.source for cell in cells(path, "code") if kind(cell) is None]
    assert len(found) <= 8
    assert max(map(len, map(str.splitlines, found))) <= 20
    assert sum(map(assertions, found)) == 0, "what is checked stands in a cell tagged 'check'"


@each_notebook
def test_no_exercise_stands_after_the_summary(path):
    texts = [cell.source for cell in cells(path, "markdown")]
    told = "\n".join(texts).partition("## Summary")
    assert "{exercise" not in told[2]
    if path.stem != "00-one-hour":  # a page of its own kind, without a summary
        assert told[1], "a chapter has a summary"


@each_notebook
def test_folded_cells_are_folded_in_jupyterlab_too(path):
    for cell in cells(path, "code"):
        folded = kind(cell) not in (None, "parameters", *SHOWN)
        assert cell.metadata.get("jupyter", {}).get("source_hidden", False) == folded, cell.source


@each_notebook
def test_cells_are_of_the_kind_that_their_tag_says(path):
    for cell in cells(path, "code"):
        if kind(cell) == "check":
            assert assertions(cell.source), cell.source
        if kind(cell) == "numbers":
            assert re.search(r"\b(say|answer|show_table)\(", cell.source), cell.source
        if kind(cell) == "setup":
            assert not re.search(r"figures\.show\(|\bsay\(", cell.source), cell.source


@each_notebook
def test_no_takeaway_is_typed_beside_the_run_that_it_speaks_of(path):
    """Takeaways give numbers of the run, so a cell displays them."""
    assert [cell.source for cell in cells(path, "markdown") if "**Takeaway" in cell.source] == []


@each_notebook
def test_no_whole_number_that_ends_a_sentence_starts_a_line(path):
    """Markdown takes "1. The" at the start of a line for a list."""
    whole = re.compile(r"^\s*\{[^{}]*:(?:,|,?\.0f|d)\}[.)] ", re.M)
    said = [cell.source for cell in cells(path, "code") if kind(cell) == "numbers"]
    assert [found[0] for source in said for found in whole.finditer(source)] == []


def calls(path: Path, *names: str) -> list[ast.Call]:
    """Calls of functions by these names, in the order in which they stand in the notebook."""
    return [
        node
        for source in code(path)
        if not source.startswith("%")
        for node in sorted(
            (found for found in ast.walk(ast.parse(source)) if isinstance(found, ast.Call)),
            key=lambda call: (call.lineno, call.col_offset),
        )
        if ast.unparse(node.func).rpartition(".")[2] in names
    ]


def figure_numbers(path: Path) -> list[str | None]:
    shown = [{k.arg: k.value for k in call.keywords} for call in calls(path, "show")]
    return [ast.literal_eval(found["number"]) if "number" in found else None for found in shown]


def text(path: Path) -> str:
    """What the chapter says, in its text and in the sentences that its cells display."""
    said = [
        node.value
        for call in calls(path, "say", "answer")
        for node in ast.walk(call)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    return " ".join("\n".join([cell.source for cell in cells(path, "markdown")] + said).split())


@each_notebook
def test_figures_are_numbered_in_order_and_the_text_refers_to_each(path):
    """A chapter numbers all of its figures, or none."""
    numbers = figure_numbers(path)
    if not any(numbers):
        return
    chapter = path.name.partition("-")[0].lstrip("0") or "0"
    assert numbers == [f"{chapter}.{place}" for place in range(1, len(numbers) + 1)]
    one = rf"{chapter}\.\d+"
    mentioned = re.findall(rf"\bFigures? {one}(?:(?:,| and| to) {one})*", text(path))
    assert set(re.findall(one, " ".join(mentioned))) == set(numbers)
