"""flatlib/lab/handout.py: chapters without solutions, which still run."""

from __future__ import annotations

import ast
import builtins
import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from flatlib.lab import cli
from flatlib.lab.handout import handout

CHAPTERS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))


def sources(path: Path, kind: str) -> list[str]:
    return [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == kind]


def notebook(path: Path, *cells: str) -> Path:
    """A notebook of markdown cells, and code cells where the text starts with ``code:``."""
    made = nbformat.v4.new_notebook()
    for text in cells:
        new = nbformat.v4.new_markdown_cell
        if text.startswith("code:"):
            new, text = nbformat.v4.new_code_cell, text.removeprefix("code:")
        made.cells.append(new(text))
    nbformat.write(made, path)
    return path


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_loses_its_solutions_and_nothing_else(chapter, tmp_path):
    n_exercises = handout(chapter, tmp_path / "homework.ipynb")
    nbformat.validate(nbformat.read(tmp_path / "homework.ipynb", 4))
    text = "\n\n".join(sources(tmp_path / "homework.ipynb", "markdown"))
    whole = "\n\n".join(sources(chapter, "markdown"))
    assert n_exercises == whole.count("{exercise}") + whole.count("{exercise-start}") > 0
    assert f"### Exercise {n_exercises}" in text and f"### Exercise {n_exercises + 1}" not in text
    assert not {":::", "```"} & set(text.split()) and "{solution" not in text
    code, before = (sources(path, "code") for path in (tmp_path / "homework.ipynb", chapter))
    assert set(code) <= set(before) and len(before) - len(code) >= whole.count("{solution-start}")
    assert sum("raise NotImplementedError" in cell for cell in code) == sum(
        "raise NotImplementedError" in cell for cell in before
    )


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_no_later_cell_needs_a_solution(chapter, tmp_path):
    handout(chapter, tmp_path / "homework.ipynb")
    known = set(dir(builtins))
    for cell in sources(tmp_path / "homework.ipynb", "code"):
        names = [node for node in ast.walk(ast.parse(cell)) if isinstance(node, ast.Name)]
        arguments = {node.arg for node in ast.walk(ast.parse(cell)) if isinstance(node, ast.arg)}
        known |= {name.id for name in names if not isinstance(name.ctx, ast.Load)} | arguments
        for node in ast.walk(ast.parse(cell)):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                known.add(node.name)
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                known |= {(made.asname or made.name).split(".")[0] for made in node.names}
        assert {name.id for name in names} <= known, cell


def test_both_forms_of_exercises_and_solutions(tmp_path):
    source = notebook(
        tmp_path / "chapter.ipynb",
        "# Title\n\n:::{admonition} Card\n:class: card\n\n- first\n\n:::\n\nText.",
        "````{exercise-start} By hand\n:label: one\n````\n\nWork it out.",
        "code:answer = None",
        "````{exercise-end}\n````\n\nBefore it.\n\n````{solution-start} one\n````\n\nIt is 3.",
        "code:assert 3",
        "````{solution-end}\n````\n\nAfter it.",
        ":::{exercise}\n:label: two\n\nAnd this?\n\n:::\n\n:::{solution} two\n\n7\n\n:::\n\nEnd.",
    )
    assert handout(source, tmp_path / "homework.ipynb") == 2
    assert sources(tmp_path / "homework.ipynb", "markdown") == [
        "# Title\n\n**Card**\n\n- first\n\nText.",
        "### Exercise 1. By hand\n\nWork it out.",
        "Before it.",
        "After it.",
        "### Exercise 2\n\nAnd this?\n\nEnd.",
    ]
    assert sources(tmp_path / "homework.ipynb", "code") == ["answer = None"]


@pytest.mark.parametrize(
    "solution",
    [
        ":::{solution} one\n\n7\n\n:::  ",
        ":::{solution} one\n\n7\n\n:::::",
        "```{solution} one\r\n:class: dropdown\r\n\r\n7\r\n```\r\n",
    ],
)
def test_solutions_end_where_markdown_ends_them(solution, tmp_path):
    exercise = ":::{exercise}\n:class: dropdown\n:label: one\n\nHow many?\n\n:::\n\n"
    source = notebook(tmp_path / "chapter.ipynb", exercise + solution + "\n\nAfter it.")
    handout(source, tmp_path / "homework.ipynb")
    left = ["### Exercise 1\n\nHow many?\n\nAfter it."]
    assert sources(tmp_path / "homework.ipynb", "markdown") == left


def test_what_cannot_be_handed_out(tmp_path, capsys):
    there = tmp_path / "there.ipynb"
    there.write_text("mine")
    target = tmp_path / "homework.ipynb"
    with pytest.raises(ValueError, match="there.ipynb exists; remove it"):
        handout(CHAPTERS[0], there)
    assert there.read_text() == "mine"
    with pytest.raises(ValueError, match="there.ipynb is no notebook"):
        handout(there, target)
    with pytest.raises(ValueError, match="absent.ipynb is no notebook: FileNotFoundError"):
        handout(tmp_path / "absent.ipynb", target)
    with pytest.raises(ValueError, match="plain.ipynb has no exercises"):
        handout(notebook(tmp_path / "plain.ipynb", "# Title"), target)
    open_end = notebook(tmp_path / "open.ipynb", "````{solution-start} one\n````", "code:1")
    with pytest.raises(ValueError, match="open.ipynb has a solution without an end"):
        handout(open_end, target)
    odd = notebook(tmp_path / "odd.ipynb", "~~~{solution} one\n\n7\n~~~")
    with pytest.raises(ValueError, match="odd.ipynb has a solution in a form not known here: '~~~"):
        handout(odd, target)
    for damaged in ('{"cells": null}', '{"cells": [{"cell_type": "code"}]}'):
        there.write_text(damaged)
        with pytest.raises(ValueError, match="there.ipynb is no notebook"):
            handout(there, target)
    assert not target.exists()
    assert cli.main(["handout", str(there), str(target)]) == 2
    assert "flatlib: " in capsys.readouterr().err
    assert json.loads(CHAPTERS[0].read_text())["cells"]


def test_an_exercise_that_nothing_marks_is_refused_by_name(tmp_path):
    volume = next(chapter for chapter in CHAPTERS if chapter.stem == "03-volume")
    whole, target = json.loads(volume.read_text()), tmp_path / "homework.ipynb"

    def refused(change, message):
        cells = [{**c, "source": change("".join(c["source"]))} for c in whole["cells"]]
        damaged = tmp_path / "03-volume.ipynb"
        damaged.write_text(json.dumps({**whole, "cells": [c for c in cells if c["source"]]}))
        with pytest.raises(ValueError, match=f"03-volume.ipynb has {message}"):
            handout(damaged, target)
        assert not target.exists()

    by_hand = 'exercises.mark("volume-by-hand", my_volume_and_bound)'
    refused(
        lambda text: "" if text == by_hand else text,
        "the exercise 'volume-by-hand', and no cell that marks it",
    )
    refused(
        lambda text: text.replace("volume-by-hand", "volume-by-hnd"),
        "a cell that marks 'volume-by-hnd', and no exercise is known by that label",
    )
    refused(
        lambda text: text.replace(":label: volume-by-hand", ":label: volume-by-hnd"),
        "the exercise 'volume-by-hnd', and no cell that marks it",
    )
    refused(lambda text: "" if "raise Not" in text or text == by_hand else text, "the exercise 'vo")


def test_a_returned_handout_is_marked_to_its_end(tmp_path):
    """Also with a function that raises, and with a cell that is no Python, by nbconvert."""
    volume = next(chapter for chapter in CHAPTERS if chapter.stem == "03-volume")
    handout(volume, tmp_path / "homework.ipynb")
    made = nbformat.read(tmp_path / "homework.ipynb", 4)
    bodies = {
        "my_volume_and_bound()": "    return 1 / 0",
        "my_ratio(D_PR)": "    return (",
        "my_exponents(N)": "    return [N, 2, N, 0]",
    }
    for cell in made.cells:
        for head, body in bodies.items():
            if cell.source.startswith(f"def {head}"):
                cell.source = f"def {head}:\n{body}"
    tags = ("setup", "parameters", "exercise", "marking")
    made.cells = [c for c in made.cells if set(tags) & {*c.metadata.get("tags", [])}]
    made.cells = [
        c for c in made.cells if "check_parameters" not in c.source or "import" in c.source
    ]
    nbformat.write(made, tmp_path / "homework.ipynb")
    words = "nbconvert --to notebook --execute --allow-errors --output marked homework.ipynb"
    done = subprocess.run(
        [sys.executable, "-m", *words.split()], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    marked = {}
    for cell in nbformat.read(tmp_path / "marked.ipynb", 4).cells:
        if "marking" in cell.metadata.get("tags", []):
            (shown,) = cell.outputs
            marked[cell.source.split('"')[1]] = shown.get("ename") or shown.data["text/plain"]
    said = (
        "not yet; your function raises ZeroDivisionError: division by zero (line 2: return 1 / 0)"
    )
    assert marked == {
        "volume-by-hand": said,
        "volume-loss-of-means": "NameError",
        "volume-spectral": "no answer yet",
        "volume-scaling": "right",
        "volume-jensen": "no answer yet",
    }


def test_the_command(tmp_path, capsys):
    target = tmp_path / "homework.ipynb"
    volume = next(chapter for chapter in CHAPTERS if chapter.stem == "03-volume")
    assert cli.main(["handout", str(volume), str(target)]) == 0
    assert capsys.readouterr().out == f"{target}: 5 exercises, no solutions\n"
    assert target.exists()
