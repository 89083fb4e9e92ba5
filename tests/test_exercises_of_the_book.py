"""Every self-checking exercise of the book: right answers pass, wrong ones are told apart."""

from __future__ import annotations

import ast
import json
import math
import re
from pathlib import Path

import pytest
import torch

import flatlib
from flatlib.lab import exercises
from flatlib.lab.exercises import EXERCISES, mark
from flatlib.lab.exercises.checking import close

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LABEL = re.compile(
    r"\{exercise(?:-start)?\}([^\n]*)\n:label: ([\w-]+)\n(.*?)(?=\{exercise|\Z)", re.S
)

each_exercise = pytest.mark.parametrize("key", EXERCISES)


def cells(path: Path) -> list[tuple[str, list[str], str]]:
    """Kind, tags and source of each cell."""
    return [
        (cell["cell_type"], cell["metadata"].get("tags", []), "".join(cell["source"]))
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
    ]


def found_in(kind: str) -> dict[str, list[tuple[Path, str]]]:
    """Exercise to the code cells with that tag that mark it."""
    found: dict[str, list[tuple[Path, str]]] = {}
    for path in NOTEBOOKS:
        for _, tags, source in cells(path):
            if kind in tags:
                for key in set(re.findall(r'exercises\.mark\(\s*"([\w-]+)"', source)):
                    found.setdefault(key, []).append((path, source))
    return found


MARKING, SOLUTIONS = found_in("marking"), found_in("solution")


def statement(key: str) -> tuple[str, str]:
    """Title and text of an exercise."""
    texts = [source for path in NOTEBOOKS for kind, _, source in cells(path) if kind == "markdown"]
    found = [m for text in texts for m in LABEL.finditer(text) if m[2] == key]
    assert len(found) == 1, f"{key} stands {len(found)} times in the book"
    return found[0][1], found[0][3]


def solution(key: str):
    """The function that the book's solution hands to `mark`."""
    names = {"math": math, "torch": torch, "flatlib": flatlib}
    ((_, source),) = SOLUTIONS[key]
    tree = ast.parse(source)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            exec(ast.unparse(node), names)
    call = next(
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "exercises.mark"
    )
    return eval(ast.unparse(call.args[1]), names)


@pytest.fixture(autouse=True)
def no_earlier_attempts():
    exercises._wrong.clear()


def test_the_book_marks_every_exercise_and_no_other():
    assert set(MARKING) == set(SOLUTIONS) == set(EXERCISES)


@each_exercise
def test_no_name_of_the_notebook_holds_an_answer(key):
    """The marking cell is one call on the reader's function, and the stub defines that alone."""
    ((path, source),) = MARKING[key]
    (statement,) = ast.parse(source).body
    call = statement.value
    assert ast.unparse(call.func) == "exercises.mark" and len(call.args) == 2
    name = call.args[1].id
    stubs = [
        source for _, tags, source in cells(path) if "exercise" in tags and f"def {name}(" in source
    ]
    assert len(stubs) == 1
    (stub,) = ast.parse(stubs[0]).body
    assert isinstance(stub, ast.FunctionDef)
    questions = EXERCISES[key].questions(0)
    assert {len(case) for case, _ in questions} == {len(stub.args.args)}
    names: dict = {}
    exec(stubs[0], names)
    assert mark(key, names[name]).passed is None


@each_exercise
def test_the_solution_passes_and_also_on_other_cases(key):
    for seed in (0, 1):
        assert mark(key, solution(key), seed=seed).message == "right"


@each_exercise
def test_the_answer_to_one_case_does_not_pass_for_all(key):
    questions = EXERCISES[key].questions(0)
    if len(questions) > 1:
        first = solution(key)(*questions[0][0])
        assert mark(key, lambda *_: first).passed is False


@each_exercise
def test_wrong_answers_fail_with_the_kind_of_mistake_and_two_hints_in_turn(key):
    right, hints = solution(key), EXERCISES[key].hints

    def changed(change):
        def answer(*case):
            return change(torch.as_tensor(right(*case), dtype=torch.float64))

        return answer

    shifted = mark(key, changed(lambda value: value + 17))
    assert shifted.passed is False and shifted.message.endswith(hints[0])
    nan = mark(key, changed(lambda value: value * math.nan))
    assert nan.passed is False and nan.message.endswith(hints[1])
    assert "contains nan" in nan.message
    flat = [torch.as_tensor(a).double().flatten() for _, a in EXERCISES[key].questions(0)]
    wanted = torch.cat(flat)
    if float(wanted.abs().max()) > 0:
        negative = mark(key, changed(lambda value: -value))
        assert "right but for the sign" in negative.message
    doubled = mark(key, changed(lambda value: 2 * value))
    if doubled.passed:
        assert EXERCISES[key].accepts is not None
    elif len(wanted.unique()) > 1 and float(wanted.abs().min()) > 0:
        assert "2 times the right one" in doubled.message
    wrong_shape = mark(key, changed(lambda v: torch.stack([v.flatten()] * 3)))
    assert "has shape (3, " in wrong_shape.message


@each_exercise
def test_words_nothing_and_errors(key):
    questions = EXERCISES[key].questions(0)
    assert mark(key, lambda *case: "two").passed is False
    assert "return" in mark(key, lambda *case: None).message
    failed = mark(key, lambda *case: 1 / 0)
    assert failed.passed is False
    assert failed.message.startswith("not yet; your function raises ZeroDivisionError: division")
    assert len(questions) >= 1


@each_exercise
def test_the_statement_tells_stars_and_minutes(key):
    exercise, (title, text) = EXERCISES[key], statement(key)
    assert 1 <= exercise.stars <= 3
    graded = f"({'★' * exercise.stars}, {exercise.minutes} minutes"
    assert graded in title or text.lstrip().startswith(graded)


def test_a_label_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="no exercise is called 'volume-by-foot'; there are "):
        mark("volume-by-foot", lambda: 1)


def test_a_singular_value_may_be_zero():
    ones = [1.0] * 4
    assert mark("mlp-two-volumes", lambda: [[2.0, 1.0, 1.0, 0.0], ones]).passed
    assert not mark("mlp-two-volumes", lambda: [[2.0, 1.0, 1.0, -0.1], ones]).passed


def test_the_kind_of_mistake_is_told_where_many_answers_are_right():
    def said(key: str, answer) -> str:
        exercises._wrong.clear()
        return mark(key, lambda: answer).message

    lists = torch.tensor([[2.0, 1.0, 1.0, 0.01], [1.0] * 4])
    hint = EXERCISES["mlp-two-volumes"].hints[0]
    for answer, kind in (
        (lists.T, "right but transposed; "),
        (lists[:, :3], "your answer has shape (2, 3), and the right one has (2, 4); "),
        (lists.flip(0), "right but in the other order; "),
        (lists[:, [0, 1, 3, 2]].flip(1), ""),
    ):
        assert said("mlp-two-volumes", answer) == f"not yet; {kind}{hint}"
    pair = torch.tensor(solution("reparametrization-target")(), dtype=torch.float64)
    hint = EXERCISES["reparametrization-target"].hints[0]
    for answer, kind in (
        (pair[:1], "your answer has shape (1,), and the right one has (2,); "),
        (1 / pair, "every number is one over the right one; "),
        (pair / 3, "every number is 0.3333 times the right one; "),
        (pair.flip(0), "right but in the other order; "),
        (2 * pair.flip(0), ""),
    ):
        assert said("reparametrization-target", answer) == f"not yet; {kind}{hint}"


def test_two_decimals_are_two_decimals():
    for variant in range(19):
        wanted = torch.tensor(EXERCISES["volume-by-hand"].questions(0, variant)[0][1]).double()
        for off, passed in ((0.0049, True), (-0.0049, True), (0.0051, False), (-0.0051, False)):
            for place in (0, 1):
                answer = wanted.clone()
                answer[place] += off
                verdict = mark("volume-by-hand", lambda a=answer: a, variant=variant)
                assert verdict.passed is passed, (variant, off, place)
        rounded = [round(float(number), 2) for number in wanted]
        assert mark("volume-by-hand", lambda r=rounded: r, variant=variant).passed
        swapped = mark("volume-by-hand", lambda r=rounded: r[::-1], variant=variant)
        assert swapped.message.startswith("not yet; right but in the other order; ")


def test_no_hint_is_the_answer_to_what_jensen_costs():
    """The answer needs a difference of two sums, and no hint has both."""
    for hint in EXERCISES["volume-jensen"].hints:
        assert "N log" not in hint and "sum of all" not in hint


def test_a_right_answer_clears_the_attempts():
    first, second = EXERCISES["vgg-count"].hints
    assert mark("vgg-count", lambda k: 0.3).message.endswith(first)
    assert mark("vgg-count", lambda k: 0.3).message.endswith(second)
    assert mark("vgg-count", lambda k: 0.5**k).passed
    assert mark("vgg-count", lambda k: 0.3).message.endswith(first)


def test_a_transposed_answer_is_told():
    from flatlib.lab.exercises.checking import mistake

    matrix = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert mistake([matrix.T], [matrix]) == "right but transposed"
    assert close(matrix, matrix) and not close(matrix.T, matrix)
