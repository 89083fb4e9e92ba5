"""A chapter's parameters, checked before anything is computed, its sentences and its tables."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Mapping
from numbers import Integral, Real

import pandas as pd

from flatlib.lab.experiments import SCALES
from flatlib.nets import ACTIVATIONS

DECLARED = re.compile(r"^(\w+): (\w+) =", re.MULTILINE)  # in the cell of parameters
INJECTED = re.compile(r"^(\w+) =", re.MULTILINE)  # in the cell that papermill adds after it
INJECTED_BEGINS = "# Parameters\n"
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _is_whole(value: object, least: int = 0, most: float = math.inf) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_finite(value: object) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and abs(value) < math.inf


def _is_positive(value: object) -> bool:
    return _is_finite(value) and value > 0


def _are_widths(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_whole(each, 1) for each in value)


RATE = ("a finite number above 0", _is_positive)
SOME = ("a whole number, 1 or more", lambda value: _is_whole(value, 1))
SCALE = (f"one of {', '.join(SCALES)}", lambda value: isinstance(value, str) and value in SCALES)
BY_NAME = {  # the values of a parameter in words, and whether this is one
    "scale": SCALE,
    "archive_scale": SCALE,
    "seed": (
        f"a whole number from 0 to {2**32 - 1}",
        lambda value: _is_whole(value, most=2**32 - 1),
    ),
    "n_samples": SOME,
    "batch_size": SOME,
    "lr": RATE,
    "lr_low": RATE,
    "learning_rate": RATE,
    "activation": (
        f"one of {', '.join(ACTIVATIONS)}",
        lambda value: isinstance(value, str) and value in ACTIVATIONS,
    ),
}
BY_TYPE = {
    "bool": ("True or False", lambda value: isinstance(value, bool)),
    "int": ("a whole number, 0 or more", _is_whole),
    "float": ("a finite number", _is_finite),
    "str": ("a string", lambda value: isinstance(value, str)),
    "list": ("a list of layer widths, whole numbers of 1 or more", _are_widths),
}


def check_parameters(notebook: Mapping) -> None:
    """Refuse a parameter that the chapter does not declare, and a value that it cannot have.

    A chapter declares its parameters in one cell, a line ``name: type = value`` each, and
    papermill adds a cell of the values that it was given. What a chapter asks of its own
    parameters beyond their type, the chapter checks itself.

    Args:
        notebook: the notebook's ``globals()``, with the cells that have run as ``In``.

    Raises:
        ValueError: names the parameter, its value and the values that it can have, or the
            parameters that the chapter has.

    >>> cells = ['scale: str = "smoke"\\nseed: int = 1', "# Parameters\\nseed = -3"]
    >>> check_parameters({"In": cells, "scale": "smoke", "seed": -3})
    Traceback (most recent call last):
    ...
    ValueError: seed must be a whole number from 0 to 4294967295, got -3
    """
    cells = notebook["In"]
    declared = dict(DECLARED.findall(next(cell for cell in cells if "scale: str =" in cell)))
    injected = "".join(cell for cell in cells if cell.startswith(INJECTED_BEGINS))
    for name in INJECTED.findall(injected):
        if name not in declared:
            raise ValueError(
                f"this chapter has no parameter {name!r}; it has {', '.join(sorted(declared))}"
            )
    for name, kind in declared.items():
        allowed, fits = BY_NAME.get(name, BY_TYPE[kind])
        if not fits(notebook[name]):
            raise ValueError(f"{name} must be {allowed}, got {notebook[name]!r}")


def say(text: str) -> None:
    """Display a sentence with the numbers of this run, as Markdown.

    Args:
        text: Markdown with formulas between dollar signs; put the numbers in with an f-string.
    """
    from IPython.display import Markdown, display

    display(Markdown(_whole(text)))


def _whole(text: str) -> str:
    r"""A text in which no line break inside a sentence means something to Markdown.

    A line that begins with % would be a comment and a line that begins with "1." a list. So a
    percent sign stays on the line of its number or is escaped, and "1." stays on the line before
    it; a list of one's own begins after an empty line.

    >>> _whole("MLS rises by 2.3\n%, in each.")
    'MLS rises by 2.3\xa0%, in each.'
    >>> _whole("dimensionalities 5 and\n1. The networks differ.")
    'dimensionalities 5 and 1. The networks differ.'
    """
    text = re.sub(r"(?<=\d)\s+%", "\N{NO-BREAK SPACE}%", text)
    text = re.sub(r"^([ \t]*)%", r"\1\\%", text, flags=re.MULTILINE)
    return re.sub(r"(?<=\S)[ \t]*\n[ \t]*(?=1[.)]\s)", " ", text)


def answer(text: str) -> None:
    """Display the answer to a prediction, folded until the reader clicks.

    Args:
        text: as for `say`.
    """
    say(f'<details class="prediction-answer"><summary>Answer</summary>\n\n{text}\n\n</details>')


def percent(share: float) -> str:
    """A share as a whole number of percent, as sentences give it.

    >>> percent(0.6449)
    '64 %'
    """
    return f"{100 * share:.0f} %"


def power_of_ten(value: float) -> str:
    r"""A number's size as formulas give it, to one digit.

    >>> power_of_ten(8.2e-7)
    '8\\cdot10^{-7}'
    """
    digit, exponent = f"{value:.0e}".split("e")
    return rf"{digit}\cdot10^{{{int(exponent)}}}"


def scientific(value: float, digits: int = 2) -> str:
    """A number as a multiple of a power of ten, for text and tables.

    >>> scientific(0.00048), scientific(-7.35e-5, digits=3)
    ('4.8·10⁻⁴', '−7.35·10⁻⁵')
    """
    leading, exponent = f"{value:.{digits - 1}e}".split("e")
    power = str(int(exponent)).translate(SUPERSCRIPTS)
    return f"{leading.replace('-', '−')}·10{power}"


def number(value: float) -> str:
    """Three digits, with a true minus.

    >>> number(-1.2345), number(1234.5), number(0.5), number(7.35e-5)
    ('−1.23', '1,230', '0.5', '7.35·10⁻⁵')
    """
    rounded = float(f"{value:.3g}")
    if 0 < abs(rounded) < 1e-4:
        return scientific(rounded, digits=3)
    text = f"{rounded:,.0f}" if abs(rounded) >= 100 else f"{rounded:.3g}"
    return text.replace("-", "−")


def listed(names: Iterable[str]) -> str:
    """Words in a row, or "none".

    >>> listed(["MLS", "NMLS", "G"]), listed(["MLS"]), listed([])
    ('MLS, NMLS and G', 'MLS', 'none')
    """
    names = list(names)
    if len(names) < 2:
        return names[0] if names else "none"
    return f"{', '.join(names[:-1])} and {names[-1]}"


def show_table(frame: pd.DataFrame, caption: str, number: str = "", folded: bool = False) -> None:
    """Display a table that a screen reader can read out and a telephone shows as cards.

    Args:
        frame: one row a line. Its index names the rows, and a default index is left out.
        caption: what the table shows, a sentence.
        number: of the table, such as ``"11.2"``; empty for a table that no text refers to.
        folded: whether only the caption is seen until the reader clicks.

    Raises:
        ValueError: an empty caption, a frame without rows, or a column without a name.
    """
    from IPython.display import display

    page = table_html(frame, caption, number, folded)
    display({"text/html": page, "text/plain": frame.to_string()}, raw=True)


def table_html(frame: pd.DataFrame, caption: str, number: str = "", folded: bool = False) -> str:
    """The HTML that `show_table` displays.

    >>> frame = pd.DataFrame({"loss": [0.25]}, index=pd.Index(["ReLU"], name="network"))
    >>> '<th scope="row">ReLU</th><td data-label="loss">0.25</td>' in table_html(frame, "Losses.")
    True
    """
    if not caption.strip():
        raise ValueError("caption is empty: say in a sentence what the table shows")
    if frame.empty:
        raise ValueError(f"a table needs a row and a column, got a frame of shape {frame.shape}")
    named = [] if _is_default(frame.index) else [_name(each) for each in frame.index.names]
    heads = [*named, *map(_name, frame.columns)]
    if unnamed := [place for place, head in enumerate(heads, 1) if not head.strip()]:
        raise ValueError(f"every column needs a name, column {unnamed[0]} of {heads} has none")
    head = "".join(f'<th scope="col">{html.escape(each)}</th>' for each in heads)
    body = "".join(
        f"<tr>{_row(heads, named, labels, values)}</tr>"
        for labels, values in zip(frame.index, frame.itertuples(index=False), strict=True)
    )
    counted = f"<b>Table {html.escape(number)}.</b> " if number else ""
    said = f"{counted}{html.escape(caption)}"
    table = (
        '<div class="card-table"><table class="table">'
        f"{'' if folded else f'<caption>{said}</caption>'}"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
    return f"<details><summary>{said}</summary>{table}</details>" if folded else table


def _is_default(index: pd.Index) -> bool:
    return isinstance(index, pd.RangeIndex) and index.name is None


def _name(head: object) -> str:
    """A column's name; the parts of one on several levels are joined."""
    parts = head if isinstance(head, tuple) else (head,)
    return ", ".join("" if part is None else str(part) for part in parts)


def _row(heads: list[str], named: list[str], labels: object, values: tuple) -> str:
    """The cells of one line, the names of the row first."""
    labels = (labels if isinstance(labels, tuple) else (labels,))[: len(named)]
    cells = [f'<th scope="row">{html.escape(_cell(label))}</th>' for label in labels]
    for head, value in zip(heads[len(named) :], values, strict=True):
        cells.append(f'<td data-label="{html.escape(head)}">{html.escape(_cell(value))}</td>')
    return "".join(cells)


def _cell(value: object) -> str:
    """What a table writes for a value.

    >>> [_cell(value) for value in ("ReLU", 60_000, 0.12345, -2.0, math.nan, None, True)]
    ['ReLU', '60,000', '0.123', '−2', '–', '–', 'yes']
    """
    if isinstance(value, bool) or type(value).__name__ == "bool_":
        return "yes" if value else "no"
    if value is None or (isinstance(value, Real) and math.isnan(value)):
        return "–"
    if isinstance(value, Integral):
        return f"{value:,}".replace("-", "−")
    return number(float(value)) if isinstance(value, Real) else str(value)
