"""Exercises of the book as homework that nbgrader hands out, collects and marks.

What is written is an assignment's source. Right answers, checks on cases that students do not see
and mark schemes stand in it, in the form that ``nbgrader generate_assignment`` takes out again.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Container, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from flatlib.files import write_atomically
from flatlib.lab.directives import Task, read_notebook, tasks_of
from flatlib.lab.exercises import EXERCISES
from flatlib.lab.letters import Letter, letters_in, read_letters

IMPORTS = (  # what students may want, whatever the exercises
    "import math",
    "import torch",
    "import flatlib",
    "from flatlib import toys",
    "from flatlib.lab import exercises",
)
POINTS_A_STAR = 2
HIDDEN = 1_000_003  # added to the seed, for the cases that students do not see
TITLE = re.compile(r"^# +(.+)$", re.MULTILINE)
GRADE = re.compile(r"\s*\(★.*?\)[ \t]*")
EQUATION_LINK = re.compile(r"\[\(([^)\]]+)\)\]\(#eq-[^)]*\)")
EQUATION_NAMED = re.compile(r"\bEqs?\. \(((?:N\.)?\d+)\)")
NUMBER = re.compile(r"(?<![\w$\\])\(((?:N\.)?\d+)\)")  # of an equation, if one has it
NOTATION = Path("book", "notation.md")  # beside the folder of the chapters
OTHER_LINK = re.compile(r"\[([^\]]+)\]\([^)#]*\.(?:ipynb|md)[^)]*\)")
DISPLAY = re.compile(r"\$\$(.*?)\$\$", re.DOTALL)
TAG = re.compile(r"\\tag\{([^}]+)\}")
SOLUTION = ("### BEGIN SOLUTION", "### END SOLUTION")
TESTS = ("### BEGIN HIDDEN TESTS", "### END HIDDEN TESTS")
SCHEME = ("=== BEGIN MARK SCHEME ===", "=== END MARK SCHEME ===")


def homework(chapters: Sequence[Path], target: Path, seed: int = 0) -> int:
    """Write the exercises of chapters as the source of one nbgrader assignment.

    A function is marked by `flatlib.lab.exercises.mark`, first on cases that the seed draws, then
    on others that students do not see; what is asked for in words is a task with a mark scheme.
    An exercise that can have other numbers has the seed's, in its statement, its answer and its
    solution.
    Every equation that an exercise refers to is stated at the end, and so is what the letters
    mean that the exercises and these equations use.

    Args:
        chapters: notebooks of the book, whose neighbours in the folder state further equations;
            ``book/notation.md`` beside the folder, if it is there, says what the letters mean.
        target: the notebook to write; one that exists is not touched.
        seed: draws the cases and chooses the numbers; 0 has the book's numbers.

    Returns:
        How many exercises it has.

    Raises:
        ValueError: no notebook or no exercise there, a chapter that is named twice, a function
            that no exercise marks, an equation that no chapter states, a solution that needs more
            than its own function, numbers that a chapter does not have where its exercise should,
            or ``target`` exists. Nothing is written then.
    """
    target = Path(target)
    if target.exists():
        raise ValueError(f"{target} exists; remove it or choose another name")
    chapters = list(map(Path, chapters))
    _refuse_repeated(chapters)
    cells: list[NotebookNode] = []
    imports = dict.fromkeys(IMPORTS)
    wanted: dict[str, None] = {}
    stated = _stated(chapters)
    titles, texts = [], []
    for chapter in chapters:
        notebook = read_notebook(chapter)
        try:
            tasks = tasks_of(notebook["cells"])
        except ValueError as fault:
            raise ValueError(f"{chapter} has {fault}") from fault
        if not tasks:
            raise ValueError(f"{chapter} has no exercises; the chapters in notebooks/ have some")
        titles.append(_title(notebook))
        imports |= dict.fromkeys(_imports(notebook))
        for task in tasks:
            if task.stub and task.label not in EXERCISES:
                raise ValueError(
                    f"{chapter} has the exercise {task.label!r}, and no exercise that can be "
                    "marked is called so"
                )
            task = variant_of(task, seed)
            wanted |= dict.fromkeys(_referred(task, seed, stated))
            if task.stub:
                _refuse_unknown_names(_solved(task), task, list(imports))
            texts.append(task.text)
            cells += _cells(task, len(texts), seed)
    letters = _letters(chapters, texts, wanted, stated)
    wanted |= dict.fromkeys(e for one in letters for e in EQUATION_LINK.findall(one.meaning))
    unstated = [equation for equation in wanted if equation not in stated]
    if unstated:
        raise ValueError(f"no chapter states {', '.join(f'({e})' for e in unstated)}")
    end = [stated[equation].display for equation in wanted]
    made = _assembled(titles, _needed(imports, cells), cells, end, letters)
    written = new_notebook(cells=made, metadata=read_notebook(chapters[0])["metadata"])
    nbformat.validate(written)
    write_atomically(target, lambda file: file.write(nbformat.writes(written).encode()))
    return len(texts)


def _refuse_repeated(chapters: list[Path]) -> None:
    """Refuse a chapter that is named twice, in one spelling of its path or in two."""
    named: set[Path] = set()
    for chapter in chapters:
        if chapter.resolve() in named:
            raise ValueError(f"{chapter} is named twice; name each chapter once")
        named.add(chapter.resolve())


@dataclass(frozen=True)
class Equation:
    """A displayed equation of the book."""

    display: str
    chapter: str  # the notebook that states it


def _stated(chapters: list[Path]) -> dict[str, Equation]:
    """The displayed equations of the chapters and of all that lie beside them, by number.

    A neighbour that is no notebook, such as an empty one, states none.
    """
    found: dict[str, Equation] = {}
    for folder in dict.fromkeys(chapter.parent for chapter in chapters):
        for neighbour in sorted(folder.glob("*.ipynb")):
            with suppress(ValueError):
                found |= _equations(read_notebook(neighbour), neighbour.stem)
    return found


def _referred(task: Task, seed: int, stated: Container[str]) -> list[str]:
    """The equations that an exercise refers to, in its statement, its function and its hints."""
    exercise = EXERCISES.get(task.label)
    hints = [exercise.retold(hint, seed) for hint in exercise.hints] if exercise else []
    given = "\n".join([task.text, task.stub])
    named = EQUATION_LINK.findall(given) + EQUATION_NAMED.findall(given)
    numbers = NUMBER.findall("\n".join([given, *hints]))
    return [*named, *(number for number in numbers if number in stated)]


def _letters(
    chapters: list[Path],
    texts: list[str],
    equations: Iterable[str],
    stated: dict[str, Equation],
) -> list[Letter]:
    """The letters of the exercises, and of the equations where they are stated."""
    pages = {chapter.parent.parent / NOTATION for chapter in chapters}
    letters = [one for page in sorted(pages) if page.is_file() for one in read_letters(page)]
    found = set(letters_in("\n\n".join(texts), letters, {one.stem for one in chapters}))
    for equation in (stated[number] for number in equations if number in stated):
        found |= {*letters_in(f"$${equation.display}$$", letters, {equation.chapter})}
    return [one for one in dict.fromkeys(letters) if one in found]


def _assembled(
    titles: list[str],
    imports: list[str],
    cells: list[NotebookNode],
    equations: list[str],
    letters: list[Letter],
) -> list[NotebookNode]:
    """All cells of the assignment: its head, what it imports, the exercises, what they refer to."""
    head = new_markdown_cell(
        f"# Homework: {'; '.join(titles)}\n\n"
        "Write each function in its cell, and run the cell below the function to see whether it "
        "is right.\nAnswers in words go into the cells that say so.\n"
        "Where an exercise speaks of its chapter, the chapter of the book is meant."
    )
    made = [
        _marked(head, "head", locked=True),
        _marked(new_code_cell("\n".join(imports)), "imports", locked=True),
        *cells,
    ]
    if equations:
        text = "\n\n".join(f"$$\n{equation}\n$$" for equation in equations)
        end = new_markdown_cell(f"## Equations that the exercises refer to\n\n{text}")
        made.append(_marked(end, "equations", locked=True))
    if letters:
        text = "\n".join(_line(one) for one in letters)
        end = new_markdown_cell(
            "## Letters\n\nA letter that an exercise introduces means what the exercise says.\n"
            f"These are the letters of the book.\n\n{text}"
        )
        made.append(_marked(end, "letters", locked=True))
    for place, cell in enumerate(made):
        cell["id"] = f"cell-{place}"
    return made


def _line(letter: Letter) -> str:
    """A letter in the list of an assignment, with the chapter if it is one chapter's own."""
    titles = " and ".join(f"*{title}*" for title, _ in letter.chapters)
    own = f" (in {titles})" if titles else ""
    return f"- {letter.written}: {_plain(letter.meaning)}{own}"


def variant_of(task: Task, seed: int) -> Task:
    """The task with the numbers of a seed.

    Raises:
        ValueError: the chapter does not have the book's numbers where the exercise has them.
    """
    exercise = EXERCISES.get(task.label)
    if exercise is None:
        return task
    texts = (task.text, task.stub, task.words, *task.code)
    for place in exercise.says(*exercise.own(0)):
        if not any(place in text for text in (*texts, *exercise.hints)):
            raise ValueError(f"{task.label} does not say {place!r}, where other seeds differ")
    text, stub, words, *code = (exercise.retold(text, seed) for text in texts)
    return replace(task, text=text, stub=stub, words=words, code=code)


def _cells(task: Task, number: int, seed: int) -> list[NotebookNode]:
    """A task's cells in the source of an assignment."""
    points = POINTS_A_STAR * max(1, (task.title + task.text).count("★"))
    title = GRADE.sub("", task.title)
    heading = f"## Exercise {number}{'. ' * bool(title)}{title}"
    statement = f"{heading}\n\n{GRADE.sub('', _plain(task.text))}"
    name = f"exercise-{number}"
    scheme = "\n".join(
        [
            SCHEME[0],
            f"All {points} points for an argument without a gap, half of them for the right "
            "statement with a gap in the argument. One such argument:\n",
            _plain(task.words),
            SCHEME[1],
        ]
    )
    answer = new_markdown_cell("*Your answer in words goes here.*")
    if not task.stub:
        asked = new_markdown_cell(f"{statement}\n\n{scheme}")
        return [_marked(asked, name, task=True, locked=True, points=points), answer]
    marked = f"exercises.mark({task.label!r}, {_function(task.stub)}"
    tests = "\n".join(
        [
            f"print({marked}, seed={seed}, variant={seed}))",
            TESTS[0],
            f"assert {marked}, seed={seed + HIDDEN}, variant={seed}).passed",
            TESTS[1],
        ]
    )
    cells = [
        _marked(new_markdown_cell(statement), f"{name}-statement", locked=True),
        _marked(new_code_cell(_solved(task)), name, solution=True),
        _marked(new_code_cell(tests), f"{name}-marks", grade=True, locked=True, points=points),
    ]
    if "in words" in task.text:  # a person marks some of it
        asked = new_markdown_cell(f"What exercise {number} asks for in words:\n\n{scheme}")
        cells += [
            _marked(asked, f"{name}-words", task=True, locked=True, points=points),
            answer,
        ]
    return cells


def _marked(
    cell: NotebookNode,
    name: str,
    *,
    grade: bool = False,
    locked: bool = False,
    solution: bool = False,
    task: bool = False,
    points: int | None = None,
) -> NotebookNode:
    """The cell with what nbgrader reads of it."""
    kind = {"grade": grade, "locked": locked, "solution": solution, "task": task}
    worth = {} if points is None else {"points": points}
    cell.metadata["nbgrader"] = {**kind, **worth, "grade_id": name, "schema_version": 3}
    return cell


def _function(stub: str) -> str:
    """The name of the function that a stub defines."""
    return next(n.name for n in ast.parse(stub).body if isinstance(n, ast.FunctionDef))


def _solved(task: Task) -> str:
    """The stub with the solution's body in it, as nbgrader takes it out again."""
    stub = next(n for n in ast.parse(task.stub).body if isinstance(n, ast.FunctionDef))
    lines = task.stub.splitlines()
    begin, end = (f"{' ' * stub.body[0].col_offset}{mark}" for mark in SOLUTION)
    kept = lines[: _own(stub)[0].lineno - 1]
    body = _right_body(task, [argument.arg for argument in stub.args.args])
    indented = [f"    {line}" for statement in body for line in statement.splitlines()]
    return "\n".join([*kept, begin, *indented, end])


def _own(function: ast.FunctionDef) -> list[ast.stmt]:
    """A function's statements, without its docstring."""
    return function.body[1:] if ast.get_docstring(function) is not None else function.body


def _right_body(task: Task, arguments: list[str]) -> list[str]:
    """The statements of the function that the solution marks, in the stub's arguments."""
    for source in task.code:
        tree = ast.parse(source)
        defined = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef)}
        for call in ast.walk(tree):
            if not isinstance(call, ast.Call) or ast.unparse(call.func) != "exercises.mark":
                continue
            answer = call.args[1]
            if isinstance(answer, ast.Name) and answer.id in defined:
                answer = defined[answer.id]
                body = _own(answer)
            elif isinstance(answer, ast.Lambda):
                body = [ast.Return(answer.body)]
            else:
                continue
            names = dict(zip((a.arg for a in answer.args.args), arguments, strict=True))
            return [_renamed(statement, names) for statement in body]
    raise ValueError(f"the solution of {task.label} marks no function that it defines")


def _renamed(statement: ast.stmt, names: dict[str, str]) -> str:
    """A statement's code with other names for some variables."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Name):
            node.id = names.get(node.id, node.id)
    return ast.unparse(statement)


def _bound(statement: str) -> set[str]:
    """The names that an import statement defines."""
    names = ast.parse(statement).body[0].names
    return {(alias.asname or alias.name).partition(".")[0] for alias in names}


def _needed(imports: Sequence[str], cells: Sequence[NotebookNode]) -> list[str]:
    """The import statements that define a name of some cell, and those for students."""
    code = [ast.parse(cell.source) for cell in cells if cell.cell_type == "code"]
    used = {node.id for tree in code for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return [one for one in imports if one in IMPORTS or _bound(one) & used]


def _refuse_unknown_names(cell: str, task: Task, imports: Sequence[str]) -> None:
    """Refuse a solution that rests on something else than imports and its arguments."""
    known = set(dir(builtins)).union(*map(_bound, imports))
    nodes = list(ast.walk(ast.parse(cell)))
    known |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    used = [node for node in nodes if isinstance(node, ast.Name)]
    known |= {node.id for node in used if isinstance(node.ctx, ast.Store)}
    unknown = sorted({node.id for node in used} - known)
    if unknown:
        raise ValueError(
            f"the solution of {task.label} rests on {', '.join(unknown)}, which its function does "
            "not define; a solution stands on its own"
        )


def _plain(text: str) -> str:
    """Markdown whose links lead nowhere outside of the assignment."""
    return OTHER_LINK.sub(r"\1", EQUATION_LINK.sub(r"(\1)", text)).strip()


def _title(notebook: dict) -> str:
    text = "\n".join(c["source"] for c in notebook["cells"] if c["cell_type"] == "markdown")
    found = TITLE.search(text)
    return found[1] if found else "exercises"


def _imports(notebook: dict) -> list[str]:
    """The import statements of a chapter, one for each name."""
    found = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code" and "setup" in cell["metadata"].get("tags", []):
            for node in ast.parse(cell["source"]).body:
                if isinstance(node, ast.Import | ast.ImportFrom):
                    found += [_alone(node, alias) for alias in node.names]
    return found


def _alone(node: ast.Import | ast.ImportFrom, alias: ast.alias) -> str:
    """The statement that imports one of several names."""
    return ast.unparse(
        ast.Import([alias])
        if isinstance(node, ast.Import)
        else ast.ImportFrom(node.module, [alias], node.level)
    )


def _equations(notebook: dict, chapter: str) -> dict[str, Equation]:
    """The displayed equations of a chapter by their number."""
    found: dict[str, Equation] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            for display in DISPLAY.findall(cell["source"]):
                for tag in TAG.findall(display):
                    found.setdefault(tag, Equation(display.strip(), chapter))
    return found
