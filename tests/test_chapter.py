"""flatlib.lab.chapter: the parameters that a chapter takes, its sentences and its tables."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser

import pandas as pd
import pytest
from markdown_it.renderer import RendererHTML
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.mdit import create_md_parser

from flatlib.lab.chapter import answer, check_parameters, say, table_html

DECLARED = """\
widths: list = [3, 4, 2]  # M, hidden widths, N
activation: str = "tanh"
bias: bool = True
n_samples: int = 8
n_networks: int = 0
lr: float = 0.1
batch_size: int = 20
spread: float = 4.0
word: str = "flat"
seed: int = 1
scale: str = "smoke"
archive_scale: str = "laptop"
"""


def check(*injected: str, **values) -> None:
    """What the first cells do: declare, take papermill's values, check."""
    names = {}
    exec(DECLARED, names)
    cells = ["", "%pip install flatlib", DECLARED, *injected, "k: complex = 1j"]
    check_parameters(names | values | {"In": cells})


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"widths": [1]},
        {"n_samples": 1},
        {"n_networks": 0},
        {"activation": "identity"},
        {"seed": 0},
        {"seed": 2**32 - 1},
        {"lr": 3},
        {"lr": 1e300},
        {"spread": -1e300},
        {"word": ""},
        {"bias": False},
        {"scale": "paper", "archive_scale": "smoke"},
    ],
)
def test_what_a_parameter_can_be(values):
    check(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scale": "huge"}, "scale must be one of smoke, laptop, paper, got 'huge'"),
        ({"scale": ["smoke"]}, "scale must be one of smoke, laptop, paper, got ['smoke']"),
        ({"archive_scale": 1}, "archive_scale must be one of smoke, laptop, paper, got 1"),
        ({"seed": "x"}, "seed must be a whole number from 0 to 4294967295, got 'x'"),
        ({"seed": 2.0}, "seed must be a whole number from 0 to 4294967295, got 2.0"),
        ({"seed": True}, "seed must be a whole number from 0 to 4294967295, got True"),
        ({"seed": -1}, "seed must be a whole number from 0 to 4294967295, got -1"),
        ({"seed": 2**32}, "seed must be a whole number from 0 to 4294967295, got 4294967296"),
        ({"n_networks": -1}, "n_networks must be a whole number, 0 or more, got -1"),
        ({"n_networks": None}, "n_networks must be a whole number, 0 or more, got None"),
        ({"n_samples": 0}, "n_samples must be a whole number, 1 or more, got 0"),
        ({"n_samples": 2.5}, "n_samples must be a whole number, 1 or more, got 2.5"),
        ({"batch_size": 0}, "batch_size must be a whole number, 1 or more, got 0"),
        ({"spread": math.nan}, "spread must be a finite number, got nan"),
        ({"spread": "0.1"}, "spread must be a finite number, got '0.1'"),
        ({"spread": False}, "spread must be a finite number, got False"),
        ({"lr": 0}, "lr must be a finite number above 0, got 0"),
        ({"lr": -0.1}, "lr must be a finite number above 0, got -0.1"),
        ({"lr": math.inf}, "lr must be a finite number above 0, got inf"),
        ({"lr": "0.1"}, "lr must be a finite number above 0, got '0.1'"),
        ({"bias": 1}, "bias must be True or False, got 1"),
        ({"activation": "tan"}, "activation must be one of tanh, relu, gelu, identity, got 'tan'"),
        ({"activation": ["relu"]}, "activation must be one of tanh, relu, gelu, identity, got ['r"),
        ({"word": 3}, "word must be a string, got 3"),
        ({"widths": []}, "widths must be a list of layer widths, whole numbers of 1 or more, got"),
        ({"widths": [3, 0]}, "whole numbers of 1 or more, got [3, 0]"),
        ({"widths": [3, 2.0]}, "whole numbers of 1 or more, got [3, 2.0]"),
        ({"widths": [3, True]}, "whole numbers of 1 or more, got [3, True]"),
        ({"widths": "3,2"}, "whole numbers of 1 or more, got '3,2'"),
    ],
)
def test_what_a_parameter_cannot_be(values, message):
    with pytest.raises(ValueError) as caught:
        check(**values)
    assert message in str(caught.value)


def test_a_parameter_that_the_chapter_does_not_declare_is_refused():
    check("# Parameters\nseed = 3\nlr = 0.5\n", seed=3, lr=0.5)
    with pytest.raises(ValueError, match="this chapter has no parameter 'sede'; it has activation"):
        check("# Parameters\nlr = 0.5\nsede = 3\n", lr=0.5, sede=3)


def test_names_of_the_chapters_own_cells_are_no_parameters():
    """A reader may run the first cell again after the others."""
    check("n_probes = 100\n# Parameters\nrate = 3", n_probes=100, rate=3)


class Cells(HTMLParser):
    """What a table holds, as a screen reader walks it: each cell with its tag and attributes."""

    def __init__(self, text: str):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes), ""))

    def handle_data(self, data):
        tag, attributes, text = self.found[-1]
        self.found[-1] = tag, attributes, text + data

    def of(self, tag: str) -> list[tuple[dict, str]]:
        return [(attributes, text) for name, attributes, text in self.found if name == tag]


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_a_table_names_every_cell(levels):
    """By its column and, where the frame has an index, by the names of its row."""
    frame = pd.DataFrame({"net <a>": ["x", "y"], "rate": [0.05, 0.2], "loss & more": [1.5, -2.0]})
    if levels:
        frame = frame.set_index(list(frame.columns[:levels]))
    page = table_html(frame, "What <b>is</b> shown.", "11.2")
    cells = Cells(page)
    names = ["net <a>", "rate", "loss & more"]
    assert [text for _, text in cells.of("th")[:3]] == names
    assert [found["scope"] for found, _ in cells.of("th")] == ["col"] * 3 + ["row"] * 2 * levels
    rows = [["x", "0.05", "1.5"], ["y", "0.2", "−2"]]
    expected = [list(zip(names, row, strict=True))[levels:] for row in rows]
    found = [(labels["data-label"], text) for labels, text in cells.of("td")]
    assert found == sum(expected, [])
    assert "Table 11.2.</b> What &lt;b&gt;is&lt;/b&gt; shown." in page


@pytest.mark.parametrize(
    ("frame", "caption", "message"),
    [
        (pd.DataFrame({"a": [1]}), " ", "caption is empty"),
        (pd.DataFrame({"a": []}), "Losses.", r"a frame of shape \(0, 1\)"),
        (pd.DataFrame({"a": [1]}, index=["x"]), "Losses.", r"column 1 of \['', 'a'\] has none"),
        (pd.DataFrame({"a": [1], "": [2]}), "Losses.", r"column 2 of \['a', ''\] has none"),
    ],
)
def test_a_table_that_a_reader_could_not_read_is_refused(frame, caption, message):
    with pytest.raises(ValueError, match=message):
        table_html(frame, caption)


def test_a_table_on_two_levels_of_columns_joins_their_names():
    parts = {"ReLU": pd.DataFrame({"loss": [1]}), "tanh": pd.DataFrame({"loss": [2]})}
    cells = Cells(table_html(pd.concat(parts, axis=1), "Both."))
    assert [text for _, text in cells.of("th")] == ["ReLU, loss", "tanh, loss"]


def test_a_folded_table_shows_its_caption_and_keeps_its_cells():
    frame = pd.DataFrame({"loss": [1.5]})
    shown, folded = (table_html(frame, "Losses.", "11.2", fold) for fold in (False, True))
    caption = "<b>Table 11.2.</b> Losses."
    assert f"<caption>{caption}</caption>" in shown and "<details>" not in shown
    assert folded.startswith(f"<details><summary>{caption}</summary>") and "<caption>" not in folded
    assert Cells(shown).of("td") == Cells(folded).of("td")


@pytest.mark.parametrize(
    "text",
    [
        "$D$ rises by 2.3\n%, in each of the 5 seeds.",
        "The dimensionalities are 5 and\n1. They differ.",
        "It rises by 2.8\n% of its size, and 5 % more,\n  % in all.",
    ],
)
def test_no_line_break_of_a_sentence_means_anything_to_markdown(text, monkeypatch):
    """A line that begins with % would be a comment, and one that begins with 1. a list."""
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    say(text)
    answer(text)
    plain = " ".join(text.split())
    for each in shown:
        html = create_md_parser(MdParserConfig(), RendererHTML).render(each.data)
        assert plain in " ".join(re.sub("<[^>]+>", "", html).split())
        assert "<ol>" not in html
