"""What the pages for teachers say of the chapters, read from the chapters.

``{chapter-table}`` lists them, ``{chapter-facts} NAME`` gives the minutes of one, ``{course-plan}``
adds up the minutes of the sessions in its lines, and ``{chapter-citations}`` writes how to cite
each from ``CITATION.cff``. A chapter's minutes of reading stand on its card; an exercise's minutes
and stars are those of its record, or of its statement where it is done in words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import yaml
from docutils import nodes
from docutils.statemachine import StringList
from quizzes import FOLDER, read_quiz
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from flatlib.lab.directives import read_notebook, tasks_of
from flatlib.lab.exercises import EXERCISES

READING = re.compile(r"\*\*Minutes to read\*\*: (\d+)")
GRADE = re.compile(r"\((★{1,3}), (\d+) minutes\b")


@dataclass(frozen=True)
class Task:
    """An exercise, as a teacher plans with it."""

    key: str
    stars: int
    minutes: int


@dataclass(frozen=True)
class Chapter:
    """A chapter, as a teacher plans with it."""

    name: str  # of its notebook
    title: str
    reading: int  # minutes
    tasks: tuple[Task, ...]

    @property
    def number(self) -> str:
        """As the book counts it; 0 for the book in one hour.

        >>> Chapter("01b-flattest-minima", "Where the flattest minima lie", 25, ()).number
        '1b'
        """
        return self.name.partition("-")[0].removeprefix("0")

    @property
    def minutes(self) -> int:
        """Of all exercises together."""
        return sum(task.minutes for task in self.tasks)


def read_chapter(path: Path) -> Chapter:
    """What a notebook says of itself.

    Raises:
        ValueError: no title, no minutes on its card, or an exercise without stars and minutes; the
            message names the notebook and the exercise.
    """
    cells = read_notebook(path)["cells"]
    text = "\n\n".join(cell["source"] for cell in cells if cell["cell_type"] == "markdown")
    reading, title = READING.search(text), re.match(r"# (.+)", text)
    if not (reading and title):
        raise ValueError(f"{path.name} has no title or no minutes to read on its card")
    tasks = []
    for task in tasks_of(cells):
        grade = GRADE.search(task.title + task.text)
        if not grade:
            raise ValueError(f"{path.name}: exercise {task.label} tells no stars and minutes")
        record = EXERCISES.get(task.label)
        stars, minutes = len(grade[1]), int(grade[2])
        if record:
            stars, minutes = record.stars, record.minutes
        tasks.append(Task(task.label, stars, minutes))
    return Chapter(path.stem, title[1].strip(), int(reading[1]), tuple(tasks))


def read_chapters(folder: Path) -> dict[str, Chapter]:
    """Every chapter of a folder of notebooks, in the book's order."""
    chapters = map(read_chapter, sorted(folder.glob("*.ipynb")))
    return {chapter.name: chapter for chapter in chapters}


def counted(number: int, one: str) -> str:
    """A number with its noun.

    >>> counted(1, "exercise"), counted(3, "exercise")
    ('1 exercise', '3 exercises')
    """
    return f"{number} {one}{'s' * (number != 1)}"


def link(chapter: Chapter) -> str:
    return f"[{chapter.title}](chapters/{chapter.name}.ipynb)"


def citation(chapter: Chapter, book: dict) -> tuple[str, str]:
    """A sentence and a BibTeX entry that cite a chapter.

    Args:
        chapter: the chapter.
        book: ``author``, ``title``, ``year``, ``version``, and ``doi`` or ``url`` where there is
            one.

    >>> book = {"author": "A. Uthor", "title": "A book", "year": "2026", "version": "flatlib 1"}
    >>> sentence, entry = citation(Chapter("03-volume", "Volume", 35, ()), book)
    >>> sentence
    'A. Uthor (2026). Volume. Chapter 3 of *A book*, flatlib 1.'
    >>> print(entry)
    @incollection{flatlib-03-volume,
      author = {{A. Uthor}},
      title = {Volume},
      booktitle = {A book},
      chapter = {3},
      year = {2026},
      note = {flatlib 1},
    }
    """
    place = [key for key in ("doi", "url") if book.get(key)][:1]
    where = "".join(f" {book[key]}." for key in place)
    sentence = (
        f"{book['author']} ({book['year']}). {chapter.title}. "
        f"Chapter {chapter.number} of *{book['title']}*, {book['version']}.{where}"
    )
    fields = {
        "author": f"{{{book['author']}}}",
        "title": chapter.title,
        "booktitle": book["title"],
        "chapter": chapter.number,
        "year": book["year"],
        "note": book["version"],
        **{key: book[key] for key in place},
    }
    lines = "".join(f"  {key} = {{{value}}},\n" for key, value in fields.items())
    return sentence, f"@incollection{{flatlib-{chapter.name},\n{lines}}}"


class Told(SphinxDirective):
    """Markdown made from the chapters."""

    def run(self) -> list[nodes.Node]:
        folder = (Path(self.env.srcdir) / self.config.teaching_notebooks).resolve()
        for path in sorted(folder.glob("*.ipynb")):
            self.env.note_dependency(str(path))
        try:
            lines = self.lines(read_chapters(folder))
        except ValueError as fault:
            raise self.error(str(fault)) from None
        node = nodes.Element()
        self.state.nested_parse(StringList(lines, self.env.docname), self.content_offset, node)
        return node.children

    def lines(self, chapters: dict[str, Chapter]) -> list[str]:
        raise NotImplementedError

    def chapter(self, chapters: dict[str, Chapter], name: str) -> Chapter:
        if name not in chapters:
            raise ValueError(f"there is no chapter {name!r}; there are {', '.join(chapters)}")
        return chapters[name]


class ChapterTable(Told):
    """All chapters, their minutes and their exercises."""

    def lines(self, chapters: dict[str, Chapter]) -> list[str]:
        made = [
            "| | chapter | minutes to read | exercises | stars | minutes for them |",
            "|---|---|---|---|---|---|",
        ]
        for one in chapters.values():
            stars = ", ".join(str(task.stars) for task in one.tasks)
            made.append(
                f"| {one.number} | {link(one)} | {one.reading} | {len(one.tasks)} | {stars} "
                f"| {one.minutes} |"
            )
        reading, tasks, minutes = (
            sum(values)
            for values in zip(
                *((one.reading, len(one.tasks), one.minutes) for one in chapters.values()),
                strict=True,
            )
        )
        return [*made, f"| | **together** | **{reading}** | **{tasks}** | | **{minutes}** |"]


class ChapterFacts(Told):
    """One line on a chapter."""

    required_arguments = 1

    def lines(self, chapters: dict[str, Chapter]) -> list[str]:
        one = self.chapter(chapters, self.arguments[0])
        quiz = read_quiz(Path(self.env.srcdir) / FOLDER / f"{one.name}.yml")
        grades = ", ".join(f"{'★' * task.stars} {task.minutes}" for task in one.tasks)
        return [
            f"{link(one)}: {one.reading} minutes to read, "
            f"{counted(len(one.tasks), 'exercise')} of {one.minutes} minutes ({grades}), "
            f"{counted(len(quiz), 'question')}."
        ]


class CoursePlan(Told):
    """Sessions, one a line: ``name | chapters | exercises``, with their minutes added up."""

    has_content = True

    def lines(self, chapters: dict[str, Chapter]) -> list[str]:
        tasks = {task.key: task for one in chapters.values() for task in one.tasks}
        made = [
            "| session | read | minutes | exercises | minutes |",
            "|---|---|---|---|---|",
        ]
        whole = [0, 0]
        for line in filter(str.strip, self.content):
            parts = [part.strip() for part in line.split("|")]
            if len(parts) != 3:
                raise ValueError(f"a session is 'name | chapters | exercises', got {line!r}")
            name, *listed = parts
            names, keys = ([one for one in part.split(", ") if one] for part in listed)
            unknown = [key for key in keys if key not in tasks]
            if unknown:
                raise ValueError(f"no exercise is labelled {unknown[0]!r}")
            read = [self.chapter(chapters, one) for one in names]
            minutes = sum(one.reading for one in read), sum(tasks[key].minutes for key in keys)
            whole = [a + b for a, b in zip(whole, minutes, strict=True)]
            set_ = ", ".join(f"{{ref}}`{key}`" for key in keys)
            made.append(
                f"| {name} | {', '.join(map(link, read))} | {minutes[0]} | {set_} | {minutes[1]} |"
            )
        return [*made, f"| **together** | | **{whole[0]}** | | **{whole[1]}** |"]


class ChapterCitations(Told):
    """How to cite each chapter."""

    def lines(self, chapters: dict[str, Chapter]) -> list[str]:
        path = (Path(self.env.srcdir) / self.config.teaching_citation).resolve()
        self.env.note_dependency(str(path))
        cited = yaml.safe_load(path.read_text(encoding="utf-8"))
        book = {
            "author": ", ".join(one["name"] for one in cited["authors"]),
            "title": self.config.html_title,
            "year": re.search(r"\d{4}", self.config.copyright)[0],
            "version": f"flatlib {cited['version']}",
            "doi": cited.get("doi"),
            "url": cited.get("url"),
        }
        made = []
        for one in chapters.values():
            sentence, entry = citation(one, book)
            made += [sentence, "", "```bibtex", *entry.splitlines(), "```", ""]
        return made


def setup(app: Sphinx) -> dict:
    app.add_config_value("teaching_notebooks", "../notebooks", "env")
    app.add_config_value("teaching_citation", "../CITATION.cff", "env")
    app.add_directive("chapter-table", ChapterTable)
    app.add_directive("chapter-facts", ChapterFacts)
    app.add_directive("course-plan", CoursePlan)
    app.add_directive("chapter-citations", ChapterCitations)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
