"""`measure` against the slow oracle, closed forms, and what it leaves behind."""

from __future__ import annotations

import pytest
import torch
from compare import assert_matches_oracle

import flatlib


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("activation", ["tanh", "relu", "gelu", "identity"])
def test_mlp_matches_the_oracle(activation):
    assert_matches_oracle(flatlib.nets.mlp((7, 9, 8, 3), activation), gaussian(5, 7))


def test_the_papers_vgg10_matches_the_oracle():
    assert_matches_oracle(flatlib.nets.vgg10(), gaussian(3, 3, 32, 32))
