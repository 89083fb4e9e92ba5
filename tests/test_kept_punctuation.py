"""Punctuation marks stay on the line of the formula before them."""

from __future__ import annotations

import kept_punctuation
import pytest
from docutils import nodes
from docutils.utils import new_document


def kept(before: str, after: str) -> nodes.paragraph:
    """A paragraph with a formula between two texts, once marks are kept."""
    tree = new_document("page")
    paragraph = nodes.paragraph("", "", nodes.Text(before), nodes.math("", "S"), nodes.Text(after))
    tree += paragraph
    kept_punctuation.keep(None, tree, "page")
    return paragraph


@pytest.mark.parametrize("mark", [",", ".", ";", ":", "?", ")", "),", ")."])
@pytest.mark.parametrize("rest", ["", " and the rest", "\nand the rest"])
def test_a_mark_and_its_formula_are_one_element(mark, rest):
    paragraph = kept("Return its sharpness ", mark + rest)
    before, whole, after = paragraph.children
    assert whole["classes"] == ["kept"] and whole.astext() == f"S{mark}"
    assert isinstance(whole[0], nodes.math) and whole.parent is paragraph
    assert before.astext() == "Return its sharpness " and after.astext() == rest


@pytest.mark.parametrize("rest", [" and the rest", "-smooth", ".5 of it", ""])
def test_what_is_no_mark_is_left_alone(rest):
    paragraph = kept("Return its sharpness ", rest)
    assert [type(each) for each in paragraph.children] == [nodes.Text, nodes.math, nodes.Text]
    assert paragraph.astext() == f"Return its sharpness S{rest}"
