"""`choosing`: layers by the names of the modules that hold them."""

from __future__ import annotations

import pytest
from torch import nn

from flatlib.derivatives.choosing import SHOWN, chosen_layers

NET = nn.ModuleDict(
    {
        "body": nn.ModuleDict({"one": nn.Linear(2, 2), "two": nn.Linear(2, 2), "act": nn.Tanh()}),
        "body2": nn.Linear(2, 2),
    }
)
LAYERS = ["body.one", "body.two", "body2"]


@pytest.mark.parametrize(
    "names, found",
    [
        (["body"], {"body.one", "body.two"}),
        (["body.one"], {"body.one"}),
        (["body.two", "body2"], {"body.two", "body2"}),
        ([""], set(LAYERS)),
        (["", "body2"], set(LAYERS)),
        ([], set()),
    ],
)
def test_a_name_stands_for_what_is_inside(names, found):
    assert chosen_layers(NET, LAYERS, LAYERS, names) == found


def test_of_what_is_inside_those_that_are_called():
    assert chosen_layers(NET, LAYERS, ["body.two"], ["body"]) == {"body.two"}


@pytest.mark.parametrize(
    "name, fault",
    [
        ("bodi", "'bodi' does not exist; near is 'body'"),
        ("body.act", "'body.act' is a Tanh without a linear or convolutional layer"),
        ("body2", "'body2' is not called"),
    ],
)
def test_another_name_is_refused_with_those_that_there_are(name, fault):
    with pytest.raises(ValueError, match=fault) as e:
        chosen_layers(NET, LAYERS, LAYERS[:2], [name])
    assert str(e.value).endswith("the layers are 'body.one', 'body.two'")


def test_a_long_list_is_cut():
    called = [f"l{k}" for k in range(SHOWN + 3)]
    with pytest.raises(ValueError, match="'l19' and 3 more$"):
        chosen_layers(nn.Sequential(), called, called, ["none"])
