"""A chapter's parameters, checked before anything is computed, its sentences and its tables."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping
from numbers import Integral, Real

import pandas as pd

from flatlib.lab.experiments import SCALES

DECLARED = re.compile(r"^(\w+): (\w+) =", re.MULTILINE)  # in the cell of parameters
INJECTED = re.compile(r"^(\w+) =", re.MULTILINE)  # in the cell that papermill adds after it
INJECTED_BEGINS = "# Parameters\n"


def _is_whole(value: object, least: int = 0, most: float = math.inf) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_finite(value: object) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and abs(value) < math.inf


def _are_widths(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_whole(each, 1) for each in value)


SCALE = (f"one of {', '.join(SCALES)}", lambda value: isinstance(value, str) and value in SCALES)
BY_NAME = {  # the values of a parameter in words, and whether this is one
    "scale": SCALE,
    "archive_scale": SCALE,
    "seed": (
        f"a whole number from 0 to {2**32 - 1}",
        lambda value: _is_whole(value, most=2**32 - 1),
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

    display(Markdown(text))


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


def rounded(value: float) -> str:
    """A large number to two digits, as sentences give it.

    >>> rounded(962_485)
    '960,000'
    """
    return f"{float(f'{value:.2g}'):,.0f}"
