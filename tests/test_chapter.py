"""flatlib.lab.chapter: which parameters a chapter takes, and what it says of the others."""

from __future__ import annotations

import math

import pytest

from flatlib.lab.chapter import check_parameters

DECLARED = """\
widths: list = [3, 4, 2]  # M, hidden widths, N
activation: str = "tanh"
bias: bool = True
n_samples: int = 8
lr: float = 0.1
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
        {"n_samples": 0},
        {"seed": 0},
        {"seed": 2**32 - 1},
        {"lr": 3},
        {"lr": -1e300},
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
        ({"n_samples": -1}, "n_samples must be a whole number, 0 or more, got -1"),
        ({"n_samples": None}, "n_samples must be a whole number, 0 or more, got None"),
        ({"lr": math.nan}, "lr must be a finite number, got nan"),
        ({"lr": -math.inf}, "lr must be a finite number, got -inf"),
        ({"lr": "0.1"}, "lr must be a finite number, got '0.1'"),
        ({"lr": False}, "lr must be a finite number, got False"),
        ({"bias": 1}, "bias must be True or False, got 1"),
        ({"activation": 3}, "activation must be a string, got 3"),
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
