"""The comparison with the slow oracle can fail: faults put in on purpose are caught."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from compare import assert_matches_oracle, smallest_limit
from inputs import gaussian
from small import small_conv

from flatlib import measurement, operators, sharpness


def broken_norms(**changes):
    class Broken(sharpness.NormSums):
        def norms(self):
            whole = super().norms()
            return replace(whole, **{k: f(getattr(whole, k)) for k, f in changes.items()})

    return Broken


MUTANTS = {
    "weight energy halved": ("NormSums", broken_norms(weight=lambda v: v / 2)),
    "weight energy off by 1e-8": ("NormSums", broken_norms(weight=lambda v: v * (1 + 1e-8))),
    "weight norm not squared": ("NormSums", broken_norms(weight=torch.sqrt)),
    "bias left out": ("NormSums", broken_norms(bias=torch.zeros_like)),
    "bias counted twice": ("NormSums", broken_norms(bias=lambda v: 2 * v)),
    "untied is tied": ("NormSums", broken_norms(untied=lambda v: v * 1.5)),
    "delta off": ("NormSums", broken_norms(output=lambda v: v + 1e-6)),
    "largest patch": ("NormSums", broken_norms(smallest_patch=lambda v: 2 * v)),
    "Frobenius for spectral": ("spectral_norm", lambda W: float(W.norm())),
    "volume of the top three": ("TOP_VOLUME", 2),
    "samples out of order": (
        "_joined_samples",
        lambda parts: {f: v.flip(0) for f, v in measurement_joined(parts).items()},
    ),
}


measurement_joined = measurement._joined_samples


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_comparison_catches(mutant, monkeypatch):
    net, x = small_conv(), gaussian(3, 2, 6, 6)
    limit = smallest_limit(net, x)
    assert_matches_oracle(net, x, max_memory=limit)
    name, value = MUTANTS[mutant]
    room = operators if name == "spectral_norm" else measurement
    monkeypatch.setattr(room, name, value)
    operators.remembered_norm.cache_clear()  # norms are remembered, right ones and broken ones
    with pytest.raises(AssertionError):
        assert_matches_oracle(net, x, max_memory=limit)
    operators.remembered_norm.cache_clear()
