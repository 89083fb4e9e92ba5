"""flatlib/lab/directives.py: every form of exercises and solutions, read once for all."""

from __future__ import annotations

import pytest

from flatlib.lab.directives import Task, parts, shown, tasks_of, without_solutions

EXERCISE = ":::{exercise} Count\n:class: dropdown\n:label: one\n\nHow many?\n\n:::\n\n"


def cells(*sources: str) -> list[dict]:
    """Markdown cells, and code cells where the text starts with ``code:`` or ``stub:``."""
    made = []
    for source in sources:
        kind, _, code = source.partition(":")
        if kind in ("code", "stub"):
            tags = ["exercise"] if kind == "stub" else []
            made.append({"cell_type": "code", "source": code, "metadata": {"tags": tags}})
        else:
            made.append({"cell_type": "markdown", "source": source, "metadata": {}})
    return made


@pytest.mark.parametrize(
    "solution",
    [
        ":::{solution} one\n\n7\n\n:::",
        ":::{solution} one\n\n7\n\n:::  ",
        ":::{solution} one\n\n7\n\n:::::",
        "```{solution} one\r\n:class: dropdown\r\n\r\n7\r\n```\r\n",
        "````{solution-start} one\n````\n7\n````{solution-end}\n````\n",
        ":::{solution-start} one\n:::\n7\n:::{solution-end}\n:::\n",
    ],
)
def test_a_solution_is_found_in_every_form(solution):
    chapter = cells(EXERCISE + solution + "\n\nAfter it.")
    assert tasks_of(chapter) == [Task("one", "Count", "How many?", words="7")]
    (left,) = without_solutions(chapter)
    assert left["source"].strip().endswith("After it.") and "7" not in left["source"]


def test_what_stands_between_start_and_end_belongs_to_the_exercise_over_many_cells():
    chapter = cells(
        "Before.\n\n````{exercise-start} By hand\n:label: one\n````\n\nWork",
        "this out.\n\n:::{admonition} Note\nNo computer.\n:::",
        "stub:def f():\n    raise NotImplementedError",
        "````{exercise-end}\n````\n\nBetween.\n\n````{solution-start} one\n````\n\nIt is",
        "three.",
        "code:assert 3",
        "````{solution-end}\n````\n\nAfter.",
    )
    (task,) = tasks_of(chapter)
    assert task.text.split() == "Work this out. **Note** No computer.".split()
    assert task.words.split() == ["It", "is", "three."]
    assert task.stub.startswith("def f") and task.code == ["assert 3"]
    left = [cell["source"] for cell in without_solutions(chapter)]
    assert not any("three" in source or "assert 3" in source for source in left)


def test_code_between_fences_is_text():
    example = "````md\n:::{note}\nSay.\n:::\n````\n"
    assert [part.source for part in parts(example)] == [example]
    assert "".join(map(shown, parts(example))) == example


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([EXERCISE, "````{solution-start} one\n````", "code:1"], "a solution without an end"),
        (["````{solution-end}\n````"], "a solution without a start; open it with solution-start"),
        (["```{exercise-start}\n:label: a\n```\n```{solution-end}\n```"], "without a start"),
        (["```{exercise-start}\n:label: a\n```\n" + EXERCISE], "an exercise without an end"),
        (["~~~{solution} one\n7\n~~~"], "a solution in a form not known here: '~~~{solution} one'"),
        (
            [EXERCISE + ":::{solution} one\n7"],
            "a solution in a form not known here: ':::{solution}",
        ),
        (["::::{note}\n:::{solution} one\n7\n:::\n::::"], "a solution in a form not known here"),
        (["```{ exercise }\n```"], "an exercise in a form not known here"),
    ],
)
def test_what_cannot_be_read_is_refused_by_every_reader(sources, message):
    for read in (tasks_of, without_solutions):
        with pytest.raises(ValueError) as refused:
            read(cells(*sources))
        assert message in str(refused.value)


def test_an_exercise_has_a_label_and_a_solution_has_an_exercise():
    with pytest.raises(ValueError, match="an exercise without a label: ':::{exercise}"):
        tasks_of(cells(":::{exercise}\nGo.\n:::"))
    with pytest.raises(ValueError, match="a solution of 'two', and no exercise is called so"):
        tasks_of(cells(EXERCISE + ":::{solution} two\n7\n:::"))
