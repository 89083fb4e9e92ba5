"""Exercises as homework: the source of an assignment, and nbgrader from handing out to marks."""

from __future__ import annotations

import csv
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
import torch

import flatlib
from flatlib import toys
from flatlib.lab import cli
from flatlib.lab.directives import read_notebook, tasks_of
from flatlib.lab.exercises import EXERCISES, mark
from flatlib.lab.homework import HIDDEN, _function, _solved, homework, variant_of

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NBGRADER = [sys.executable, "-m", "nbgrader"]


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, nbformat.NotebookNode]:
    """Each chapter's homework."""
    folder = tmp_path_factory.mktemp("source")
    for chapter in CHAPTERS:
        homework([chapter], folder / chapter.name, seed=7)
    return {chapter.stem: nbformat.read(folder / chapter.name, 4) for chapter in CHAPTERS}


def role(cell) -> dict:
    return cell.metadata.get("nbgrader", {})


def released(notebook) -> nbformat.NotebookNode:
    """What students get, by nbgrader's own preprocessors."""
    from nbgrader.preprocessors import (
        CheckCellMetadata,
        ClearHiddenTests,
        ClearMarkScheme,
        ClearSolutions,
        LockCells,
    )

    for step in (LockCells, ClearSolutions, CheckCellMetadata, ClearHiddenTests, ClearMarkScheme):
        notebook, _ = step().preprocess(notebook, {})
    return notebook


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_every_exercise_is_there_and_no_answer_is_handed_out(chapter, sources):
    source = sources[chapter.stem]
    text = "\n".join(cell.source for cell in source.cells)
    tasks = [variant_of(task, 7) for task in tasks_of(nbformat.read(chapter, 4).cells)]
    assert len(tasks) == len(re.findall(r"^## Exercise \d+", text, re.MULTILINE)) > 0
    given = released(nbformat.from_dict(source))
    shown = "\n".join(cell.source for cell in given.cells)
    for task in tasks:
        # What a solution says first, and each of its lines of code, unless the statement says so.
        secrets = [task.words.splitlines()[0]]
        secrets += [line for cell in source.cells for line in _secret_lines(cell)]
        for secret in secrets:
            assert secret.strip() not in shown
    assert "BEGIN" not in shown and str(HIDDEN + 7) not in shown
    assert all(f"exercises.mark({t.label!r}" in shown for t in tasks if t.stub)


def _secret_lines(cell) -> list[str]:
    """The lines of a solution and of hidden tests."""
    found = re.findall(r"### BEGIN (?:SOLUTION|HIDDEN TESTS)\n(.*?)### END", cell.source, re.DOTALL)
    return [line for part in found for line in part.splitlines() if line.strip()]


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_every_equation_is_stated_and_no_link_is_dead(chapter, sources):
    text = "\n".join(c.source for c in sources[chapter.stem].cells if c.cell_type == "markdown")
    assert "](#" not in text and ".ipynb)" not in text
    tags = set(re.findall(r"\\tag\{([^}]+)\}", text))
    tasks = tasks_of(nbformat.read(chapter, 4).cells)
    linked = {e for t in tasks for e in re.findall(r"\[\(([^)\]]+)\)\]\(#eq-", t.text)}
    assert linked <= tags
    # Also where a docstring, a hint or another cell that students get names one by its number.
    own = [t.stub for t in tasks]
    own += [hint for t in tasks if t.stub for hint in EXERCISES[t.label].hints]
    given = [cell.source for cell in released(nbformat.from_dict(sources[chapter.stem])).cells]
    named = re.findall(r"(?<![\w$])\(((?:N\.)?\d+)\)", "\n".join([*own, *given]))
    assert set(named) <= tags


LETTERS = {  # of statements, that a reader without the book has to be told
    "00-one-hour": ["S", "A", "D"],
    "02-weights-to-inputs": ["J", r"\nabla_xf", r"\lVert W_l\rVert_2"],
    "03-volume": [r"d\mathrm{Vol}(x_i)", "M", "N", r"D_{\mathrm{PR}}", "S", "J_x", "H"],
    "04-maximum-local-sensitivity": ["A", "C'", "D", r"\mathrm{MLS}(x_i)", "S", r"\rho"],
    "08-tightness": ["W", "S", "n", "N", "dV"],  # also those of the equations
    "11-mlp-fashion-mnist": ["C", "D", "L", "N"],
}


@pytest.mark.parametrize("chapter", LETTERS)
def test_the_letters_of_the_statements_are_said_at_the_end(chapter, sources):
    (end,) = [c.source for c in sources[chapter].cells if c.source.startswith("## Letters")]
    for letter in LETTERS[chapter]:
        line = [one for one in end.splitlines() if f"${letter}$" in one.partition(": ")[0]]
        assert len(line) == 1 and line[0].startswith("- $"), letter
    assert "{term}" not in end and "](" not in end
    assert role(next(c for c in sources[chapter].cells if c.source == end))["locked"]


def test_letters_of_other_chapters_are_left_out_and_shared_ones_say_whose_they_are(tmp_path):
    ends = {}
    for names in (("04-",), ("14-",), ("04-", "14-"), ("17-",)):
        target = tmp_path / f"{''.join(names)}.ipynb"
        homework([c for c in CHAPTERS if c.name.startswith(names)], target)
        ends[names] = nbformat.read(target, 4).cells[-1].source.splitlines()
    rho = {n: [one for one in end if one.startswith(r"- $\rho$")] for n, end in ends.items()}
    reach = r"- $\rho$: largest length of a change of the input (in *One hour* and *Maximum local "
    walk = r"- $\rho$: length of SAM's walk uphill before each step (in *Optimizers*)"
    assert rho["04-",] == [f"{reach}sensitivity*)"] and rho["14-",] == [walk]
    assert rho["04-", "14-"] == [f"{reach}sensitivity*)", walk] and rho["17-",] == []
    assert [one for one in ends["17-",] if "$K$" in one.partition(":")[0]] == [
        r"- $K$, $s$, $Q$: number of classes, share of $\lVert\nabla_xf\rVert_F^2$ across all "
        r"differences of targets, and $\nabla_xf^\top\nabla_xf$ over its trace (in *Ten classes*)"
    ]


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_every_exercise_has_a_title_and_shows_no_stars(chapter, sources):
    statements = [c.source for c in sources[chapter.stem].cells if "## Exercise" in c.source]
    assert statements and "★" not in "".join(statements) and " minutes)" not in "".join(statements)
    for statement in statements:
        assert re.match(r"## Exercise \d+\. [A-Z0-9][^\n(]+\n\n\S", statement), statement


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_every_question_is_answered_by_the_function_or_in_words(chapter, sources):
    """What a statement asks after it has said what to return, it asks in words."""
    cells = sources[chapter.stem].cells
    tasks = tasks_of(nbformat.read(chapter, 4).cells)
    for number, task in enumerate(tasks, 1):
        worded = [c for c in cells if role(c).get("grade_id") == f"exercise-{number}-words"]
        assert len(worded) == bool(task.stub and "in words" in task.text)
        returned = re.split(r"\breturn\b", task.text, flags=re.IGNORECASE)
        if task.stub and len(returned) > 1 and not worded:
            rest = returned[-1].partition(".\n")[2]
            assert "?" not in rest and not re.search(r"\b(say|show|compare|then)\b", rest.lower())


def test_a_neighbour_that_is_no_notebook_is_passed_over(tmp_path):
    here = tmp_path / "notebooks"
    here.mkdir()
    for chapter in CHAPTERS:
        shutil.copy(chapter, here)
    (here / "Untitled.ipynb").touch()
    (here / "half.ipynb").write_text('{"cells": [{"cell')
    assert homework([here / CHAPTERS[4].name], tmp_path / "h.ipynb") == 5
    with pytest.raises(ValueError, match="Untitled.ipynb is no notebook"):
        homework([here / "Untitled.ipynb"], tmp_path / "other.ipynb")


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_the_solutions_pass_the_shown_and_the_hidden_checks(chapter, sources, capsys):
    names: dict = {}
    for cell in sources[chapter.stem].cells:
        if cell.cell_type == "code":
            exec(cell.source, names)
    n_marked = sum(role(cell).get("grade", False) for cell in sources[chapter.stem].cells)
    assert capsys.readouterr().out.split() == ["right"] * n_marked


TASKS = {task.label: task for path in CHAPTERS for task in tasks_of(read_notebook(path)["cells"])}


@pytest.mark.parametrize("key", EXERCISES)
def test_another_seed_draws_other_cases_where_there_are_cases(key):
    one = EXERCISES[key]
    questions = [one.questions(seed) for seed in (7, 7, 7 + HIDDEN, 8)]
    first, again, hidden, other = ([answer for _, answer in each] for each in questions)
    if questions[0][0][0]:  # the first question's arguments
        assert str(first) == str(again)
        assert len({str(first), str(hidden), str(other)}) == 3
    else:
        assert all(one.fits(found, first[0]) for found in (*again, *hidden, *other))


def model(key: str, seed: int):
    """The function that the homework of a seed has for a solution."""
    task = variant_of(TASKS[key], seed)
    names: dict = {"math": math, "torch": torch, "flatlib": flatlib, "toys": toys}
    exec(_solved(task), names)
    return names[_function(task.stub)]


def passes(key: str, function, questions: list, variant: int) -> bool:
    """Whether a function answers all questions; one that raises does not."""
    fits = EXERCISES[key].fits
    try:
        return all(fits(function(*case), answer, variant) for case, answer in questions)
    except (ArithmeticError, ValueError):
        return False


@pytest.mark.parametrize("key", EXERCISES)
def test_two_seeds_and_the_book_have_statements_and_answers_that_differ(key):
    seeds = (0, 7, 8)
    texts = [variant_of(TASKS[key], seed) for seed in seeds]
    assert texts[0] == TASKS[key]  # the book's own
    assert len({text.text for text in texts}) == 3
    assert len({text.words + "".join(text.code) for text in texts}) == 3
    solved = {seed: model(key, seed) for seed in seeds}
    for seed in seeds:
        assert mark(key, solved[seed], seed, seed).message == "right"
        hidden = EXERCISES[key].questions(seed + HIDDEN, seed)
        passed = [other for other in seeds if passes(key, solved[other], hidden, seed)]
        assert passed == [seed]


@pytest.mark.parametrize("key", EXERCISES)
def test_no_two_variants_share_their_numbers_or_their_texts(key):
    exercise = EXERCISES[key]
    assert len(set(exercise.numbers)) == len(exercise.numbers) >= 7
    told = [exercise.says(*numbers) for numbers in exercise.numbers]
    assert len(set(told)) == len(told) and {len(places) for places in told} == {len(told[0])}
    for seed in range(1, 9):
        assert exercise.own(seed) not in (exercise.own(0), exercise.own(seed + 1))
    task = variant_of(TASKS[key], 3)
    changed = exercise.says(*exercise.own(3))
    whole = "\n".join(
        (
            task.text,
            task.stub,
            task.words,
            *task.code,
            exercise.retold("\n".join(exercise.hints), 3),
        )
    )
    assert all(place in whole for place in changed)


def test_a_chapter_without_the_books_numbers_is_refused():
    task = replace(TASKS["volume-by-hand"], words="$J_xJ_x^\\top$ is diagonal.")
    with pytest.raises(ValueError, match="volume-by-hand does not say .*diag.*, where other seeds"):
        variant_of(task, 7)


def notebook(path: Path, *cells: tuple[str, str]) -> Path:
    """A chapter of Markdown cells, and of code cells with a tag."""
    made = nbformat.v4.new_notebook()
    for kind, text in cells:
        if kind == "text":
            made.cells.append(nbformat.v4.new_markdown_cell(text))
        else:
            made.cells.append(nbformat.v4.new_code_cell(text, metadata={"tags": [kind]}))
    nbformat.write(made, path)
    return path


STATEMENT = ("text", ":::{exercise} Two\n:label: two\n\nBy [(9)](#eq-9), in words.\n:::")
SOLUTION = ("text", ":::{solution} two\nBecause.\n:::")
CLOSED = ("text", "````{solution-end}\n````")


@pytest.fixture
def one_is_known(monkeypatch):
    """An exercise called "one", whose numbers stand nowhere."""
    known = replace(EXERCISES["vgg-count"], key="one", says=lambda *numbers: ())
    monkeypatch.setitem(EXERCISES, "one", known)


def test_refusals_write_nothing(tmp_path, one_is_known):
    target = tmp_path / "homework.ipynb"
    empty = notebook(tmp_path / "empty.ipynb", ("text", "# No exercise"))
    with pytest.raises(ValueError, match="empty.ipynb has no exercises"):
        homework([empty], target)
    with pytest.raises(ValueError, match="no chapter states .9."):
        homework([notebook(tmp_path / "unstated.ipynb", STATEMENT, SOLUTION)], target)
    stub = ("exercise", "def f(x):\n    raise NotImplementedError")
    start = ("text", "````{exercise-start}\n:label: one\n````\nDouble.")
    ends = ("text", "````{exercise-end}\n````\n````{solution-start} one\n````\nTwice.")
    outside = ("solution", "exercises.mark('one', lambda y: factor * y)")
    leaning = notebook(tmp_path / "leaning.ipynb", start, stub, ends, outside, CLOSED)
    with pytest.raises(ValueError, match="the solution of one rests on factor"):
        homework([leaning], target)
    with pytest.raises(ValueError, match="open.ipynb has a solution without an end"):
        homework([notebook(tmp_path / "open.ipynb", start, stub, ends, outside)], target)
    odd = notebook(tmp_path / "odd.ipynb", STATEMENT, ("text", "~~~{solution} two\n7\n~~~"))
    with pytest.raises(ValueError, match="odd.ipynb has a solution in a form not known here: '~~~"):
        homework([odd], target)
    with pytest.raises(ValueError, match="nowhere.ipynb is no notebook: FileNotFoundError"):
        homework([tmp_path / "nowhere.ipynb"], target)
    start = ("text", "````{exercise-start}\n:label: another\n````\nDouble.")
    unknown = notebook(tmp_path / "unknown.ipynb", start, stub, ends)
    with pytest.raises(ValueError, match="unknown.ipynb has a solution of 'one'"):
        homework([unknown], target)
    ends = ("text", ends[1].replace("one", "another"))
    right = ("solution", "exercises.mark('another', lambda y: 2 * y)")
    unknown = notebook(tmp_path / "unknown.ipynb", start, stub, ends, right, CLOSED)
    with pytest.raises(ValueError, match="unknown.ipynb has the exercise 'another', and no exerc"):
        homework([unknown], target)
    spelt = [CHAPTERS[4], CHAPTERS[0], CHAPTERS[4].parent / ".." / "notebooks" / CHAPTERS[4].name]
    with pytest.raises(ValueError, match=rf"{CHAPTERS[4].name} is named twice"):
        homework(spelt, target)
    assert not target.exists()
    target.write_text("kept")
    with pytest.raises(ValueError, match="homework.ipynb exists"):
        homework(CHAPTERS[:1], target)
    assert target.read_text() == "kept"


def test_the_solution_takes_the_stubs_names(tmp_path, one_is_known):
    start = ("text", "````{exercise-start}\n:label: one\n````\nDouble.")
    stub = ("exercise", 'def f(x):\n    """Twice x."""\n    raise NotImplementedError  # return')
    ends = ("text", "````{exercise-end}\n````\n````{solution-start} one\n````\nTwice.")
    right = ("solution", "def g(y):\n    half = y\n    return half + y\n\nexercises.mark('one', g)")
    chapter = notebook(tmp_path / "chapter.ipynb", start, stub, ends, right, CLOSED)
    assert cli.main(["homework", str(chapter), "--output", str(tmp_path / "h.ipynb")]) == 0
    code = [c.source for c in nbformat.read(tmp_path / "h.ipynb", 4).cells if "def f" in c.source]
    assert code == [
        'def f(x):\n    """Twice x."""\n    ### BEGIN SOLUTION\n    half = x\n'
        "    return half + x\n    ### END SOLUTION"
    ]


STUB = re.compile(r"    # YOUR CODE HERE\n    raise NotImplementedError\(\)")


def returned(given, source, how: str):
    """What a student makes of the notebook that nbgrader handed out."""
    made = nbformat.from_dict(given)
    for cell, original in zip(made.cells, source.cells, strict=True):
        if role(cell).get("solution"):
            if how in ("right", "endless"):
                cell.source = original.source
            elif how in ("wrong", "edited"):
                cell.source = STUB.sub("    return -77.7", cell.source)
        if how == "edited" and role(cell).get("grade"):
            cell.source = "assert True"
    if how == "endless":
        first = next(cell for cell in made.cells if role(cell).get("solution"))
        head = first.source.partition("\n")[0]
        first.source = f"{head}\n    while True:\n        pass"
    return made


@pytest.mark.slow(first=True)
def test_nbgrader_marks_five_students_by_what_they_know(tmp_path):
    """Right, wrong, empty, edited checking cells, and one that never ends; all chapters at once."""
    course = tmp_path / "course"
    folder = course / "source" / "all"
    folder.mkdir(parents=True)
    n_exercises = homework(CHAPTERS, folder / "all.ipynb", seed=7)
    (course / "nbgrader_config.py").write_text(
        "c = get_config()\n"
        "c.CourseDirectory.course_id = 'flatness'\n"
        "c.ExecutePreprocessor.interrupt_on_timeout = True\n"
        # The cell that calls the function that never ends is waited for in vain.
        "seconds = {'exercise-1-marks': 10}\n"
        "c.ExecutePreprocessor.timeout_func = (\n"
        "    lambda cell: seconds.get(cell.metadata.get('nbgrader', {}).get('grade_id'), 60)\n"
        ")\n"
    )

    # nbgrader calls other programs of its environment by name.
    programs = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": os.pathsep.join([programs, os.environ["PATH"]])}

    def nbgrader(*words: str) -> None:
        done = subprocess.run(
            [*NBGRADER, *words], cwd=course, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-3000:]

    nbgrader("generate_assignment", "all")
    source = nbformat.read(folder / "all.ipynb", 4)
    given = nbformat.read(course / "release" / "all" / "all.ipynb", 4)
    students = ("right", "wrong", "empty", "edited", "endless")
    for student in students:
        there = course / "submitted" / student / "all"
        there.mkdir(parents=True)
        nbformat.write(returned(given, source, student), there / "all.ipynb")
    before = {s: (course / "submitted" / s / "all" / "all.ipynb").read_bytes() for s in students}
    nbgrader("autograde", "all")
    nbgrader("export")
    with (course / "grades.csv").open(newline="") as file:
        marks = {line["student_id"]: float(line["score"]) for line in csv.DictReader(file)}
    points = [role(c)["points"] for c in source.cells if role(c).get("grade")]
    assert len(points) == len(EXERCISES) < n_exercises
    whole = sum(points)
    assert marks == {
        **{"right": whole, "wrong": 0, "empty": 0, "edited": 0},
        "endless": whole - points[0],
    }
    after = {s: (course / "submitted" / s / "all" / "all.ipynb").read_bytes() for s in students}
    assert after == before
