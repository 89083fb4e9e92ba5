"""The book's letters: which of them a text uses, and what they mean.

The page of the notation, a Markdown page of tables, is the one list of them.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

FORMULA = re.compile(r"\$\$(.*?)\$\$|\$(.*?)\$", re.DOTALL)
ROW = re.compile(r"^\| *(\$.*?) *\| *(.*?) *\|(.*)\|[ \t]*$", re.MULTILINE)
CHAPTER_LINK = re.compile(r"\[([^\]]*)\]\(chapters/([\w-]+)\.ipynb\)")
ALSO_IN = re.compile(r", here and in \[[^\]]*\]\([^)]*\)")
TERM = re.compile(r"\{term\}`([^`<]*?)(?: *<[^`]*>)?`")
AT = re.compile(r"\(x_i\)|\(x;\\theta\)|(?<=f)_i")  # where a function or a gradient is taken
ONE_LETTER = re.compile(r"<\w+>|[A-Za-z]")
INDEX = re.compile(r"[_^][1ikl](?![A-Za-z0-9])|_lf")  # of a layer, a sample or an output
LEANING = ("its ", "the same ")  # how a meaning begins that leans on the row before


@dataclass(frozen=True)
class Letter:
    """A row of the page: one letter, or a few that belong together."""

    written: str  # such as "$P$, $Q$"
    meaning: str
    chapters: tuple[tuple[str, str], ...] = ()  # title and notebook; none if all use it

    @property
    def names(self) -> set[str]:
        """The letters by themselves."""
        return set(re.findall(r"\$(.*?)\$", self.written))

    @cached_property
    def patterns(self) -> list[re.Pattern]:
        """One of them is in each spelt text that uses the letter."""
        return [_pattern(name) for name in self.names]


def read_letters(page: Path) -> list[Letter]:
    """The rows of a page's tables whose first column has letters, in the order of the page."""
    found = []
    for written, meaning, rest in ROW.findall(page.read_text(encoding="utf-8")):
        chapters = CHAPTER_LINK.findall(rest)
        if also := ALSO_IN.search(meaning):
            chapters += CHAPTER_LINK.findall(also[0])
            meaning = meaning.replace(also[0], "")
        found.append(Letter(written, TERM.sub(r"\1", meaning), tuple(chapters)))
    return found


def letters_in(text: str, letters: list[Letter], chapters: Collection[str]) -> list[Letter]:
    r"""The letters in the formulas of a text, and those that their meanings need.

    A chapter's own meaning of a letter replaces the book's.

    Args:
        text: Markdown with formulas between dollar signs.
        letters: all that there are.
        chapters: the names of the notebooks that the text is from, without their ending.

    >>> own = Letter("$n$", "number of neighbors", (("Two", "02-two"),))
    >>> rows = [Letter("$S$", "mean over $n$"), Letter("$n$", "number of samples"), own]
    >>> [one.meaning for one in letters_in(r"Is $\sqrt S$ small? N.", rows, ["01-one"])]
    ['mean over $n$', 'number of samples']
    >>> [one.meaning for one in letters_in("$n>1$", rows, ["02-two"])]
    ['number of neighbors']
    """
    own = [one for one in letters if {notebook for _, notebook in one.chapters} & {*chapters}]
    taken = set().union(*(one.names for one in own))
    general = [one for one in letters if not one.chapters and not one.names & taken]
    ours = [one for one in letters if one in own or one in general]
    found: list[Letter] = []
    while True:
        whole = _formulas(" ".join([text, *(one.meaning for one in found)]))
        used = {one for one in ours if any(p.search(whole) for p in one.patterns)}
        used |= {a for a, b in pairwise(ours) if b in used and b.meaning.startswith(LEANING)}
        if len(used) == len(found):
            return found
        found = [one for one in ours if one in used]


def _formulas(text: str) -> str:
    """All formulas of a text, as `_spelt` spells them."""
    return " ".join(_spelt(display or line) for display, line in FORMULA.findall(text))


def _spelt(formula: str) -> str:
    r"""A formula in the one spelling in which letters are looked for.

    >>> _spelt(r"\frac1n \lVert\nabla_{W} f(x_i)\rVert_F\, < D_{\mathrm{PR}}")
    '<frac>1n<lVert><nabla>_Wf<rVert>_FD_<PR>'
    """
    formula = re.sub(r"\\[,;!: ]|[<>&]", " ", AT.sub("", formula))
    formula = re.sub(r"\\(?:mathrm|operatorname|text)\{(\w*)\}", r"<\1>", formula)
    return re.sub(r"[\s{}]", "", re.sub(r"\\([A-Za-z]+)", r"<\1>", formula))


def _pattern(name: str) -> re.Pattern:
    """What finds a letter in spelt formulas."""
    name = _spelt(name.partition(r"\ge")[0])
    if ONE_LETTER.fullmatch(name):  # no part of a function's name, nor of a longer letter
        return re.compile(rf"(?<!<mathcal>){name}(?![^<>]*>)(?!['_])")
    index = INDEX.search(name)
    if not index:
        return re.compile(re.escape(name) + "(?![a-z])")
    before, after = name[: index.start()], name[index.start() + 2 :]
    own = f"{re.escape(index[0][0])}[1-9iklN]"
    if not ONE_LETTER.fullmatch(before):  # a norm, of the first layer where no layer is said
        own = f"(?:{own})?"
    return re.compile(re.escape(before) + own + re.escape(after))
