"""Comparison of a measurement with the slow oracle, field by field."""

from __future__ import annotations

import math
import re

import pytest
import torch
from oracle import slow_measure
from torch import Tensor

import flatlib

RELATIVE = 1e-9
# A computed singular value is off by some rounding errors of the largest one, in both ways.
OF_LARGEST = 1e-14


def assert_close(mine: Tensor | float, slow: Tensor | float, what: str, absolute=0.0) -> None:
    mine = torch.as_tensor(mine, dtype=torch.float64)
    slow = torch.as_tensor(slow, dtype=torch.float64)
    assert mine.shape == slow.shape, f"{what}: shape {tuple(mine.shape)}, not {tuple(slow.shape)}"
    off = (mine - slow).abs() > RELATIVE * slow.abs() + absolute
    off |= mine.isnan() != slow.isnan()
    assert not off.any(), f"{what}: {mine.tolist()} is not {slow.tolist()}"


def assert_values(mine: Tensor, slow: Tensor, what: str) -> None:
    """Singular values ``(n, N)``: relative to each, down to rounding of the largest."""
    assert_close(mine, slow, what, OF_LARGEST * slow[:, :1])


def assert_log_volume(mine: Tensor, slow: Tensor, what: str) -> None:
    """Log volumes ``(n,)`` against the slow singular values ``(n, N)``."""
    for i, (volume, s) in enumerate(zip(mine.tolist(), slow, strict=True)):
        if s[0] == 0 or s[-1] <= 1e-15 * s[0]:
            assert volume == -math.inf, f"{what} of sample {i}: {volume}, rank-deficient"
        elif s[-1] > 1e-12 * s[0]:
            expected = float(s.log().sum())
            error = RELATIVE * (len(s) + abs(expected)) + float((OF_LARGEST * s[0] / s).sum())
            assert volume == pytest.approx(expected, rel=0, abs=error), f"{what} of sample {i}"
        else:  # between exactly singular and trustworthy: whichever side of the cut-off
            assert volume <= float(s.log().sum()) + len(s), f"{what} of sample {i}"


def assert_dimensionality(mine: Tensor, slow: Tensor, what: str) -> None:
    energy = slow.square()
    expected = energy.sum(dim=1).square() / energy.square().sum(dim=1)
    assert_close(mine, expected, what)


def smallest_limit(net, x: Tensor, **options) -> int:
    """The least ``max_memory`` that takes single samples, as the refusal of less tells it."""
    with pytest.raises(MemoryError) as refusal:
        flatlib.measure(net, x, max_memory=1, **options)
    return int(re.search(r"need about ([\d,]+) bytes", str(refusal.value))[1].replace(",", ""))


def assert_matches_oracle(net, x: Tensor, twin=None, **options) -> flatlib.Measurement:
    """Measure ``net`` on ``x`` and hold every field against the oracle; return the measurement.

    The oracle looks at ``twin``, the same network in words that the oracle knows.
    """
    slow = slow_measure(net if twin is None else twin, x)
    m = flatlib.measure(net, x, **options)
    assert m.n == len(x) and m.singular_values.dtype == torch.float64
    assert m.n_outputs == slow.jacobian.shape[1]
    assert m.input_dimension == slow.jacobian.shape[2]
    s = slow.singular_values
    assert_values(m.singular_values, s, "singular values")
    assert_close(m.mls, s[:, 0], "mls")
    assert_close(m.gradient_energy, slow.jacobian.square().sum(dim=(1, 2)), "gradient energy")
    assert_log_volume(m.log_volume, s, "log volume")
    assert_dimensionality(m.local_dimensionality, s, "local dimensionality")
    assert_close(
        m.parameter_gradient_energy, slow.parameter_gradient_energy, "parameter gradient energy"
    )
    assert_close(m.sharpness, slow.parameter_gradient_energy.mean(), "sharpness")
    assert_close(m.input_norm, slow.input_norm, "input norm")
    _assert_layers(m, slow)
    _assert_summary(m, slow)
    _assert_chain(m, slow)
    return m


def _assert_layers(m, slow) -> None:
    assert [layer.name for layer in m.layers] == [layer.name for layer in slow.layers]
    for mine, theirs in zip(m.layers, slow.layers, strict=True):
        where = f"layer {mine.name!r}: "
        assert mine.kind == theirs.kind
        assert mine.n_positions == theirs.n_positions, where + "positions"
        assert mine.input_dimension == theirs.input_dimension, where + "input dimension"
        # A sum of squares that cancels leaves rounding of its largest term.
        bound = 1e-24 * theirs.untied_gradient_energy * theirs.n_positions
        for field, absolute in (
            ("input_norm", 0.0),
            ("weight_gradient_energy", bound),
            ("untied_gradient_energy", 0.0),
            ("output_gradient_energy", 0.0),
            ("smallest_patch_norm", 0.0),
            ("weight_norm", 0.0),
            ("weight_frobenius_norm", 0.0),
            ("operator_norm", 0.0),
        ):
            if getattr(theirs, field) is None:
                continue
            assert_close(getattr(mine, field), getattr(theirs, field), where + field, absolute)
        assert_close(mine.mls, theirs.singular_values[:, 0], where + "MLS")
        assert_log_volume(mine.log_volume, theirs.singular_values, where + "log volume")


def _assert_summary(m, slow) -> None:
    summary = m.summary()
    s = slow.singular_values
    assert set(summary) == {
        "sharpness",
        "mls",
        "gradient_energy",
        "log_volume",
        "log_volume_top3",
        "local_dimensionality",
        "nmls",
        "nvr",
    }
    assert all(type(value) is float for value in summary.values())
    assert_close(summary["sharpness"], slow.parameter_gradient_energy.mean(), "sharpness")
    assert_close(summary["mls"], s[:, 0].mean(), "mls")
    assert_close(summary["gradient_energy"], s.square().sum(dim=1).mean(), "gradient energy")
    some = s[:, 0] > 0
    some = some if some.any() else ~some
    assert m.n_undefined == int((s[:, 0] == 0).sum())
    assert_close(summary["log_volume"], m.log_volume[some].mean(), "log volume")
    mean = m.local_dimensionality[some].mean()
    assert_close(summary["local_dimensionality"], mean, "dimensionality")
    every_mls = sum(layer.singular_values[:, 0] for layer in slow.layers)
    assert_close(summary["nmls"], every_mls.mean(), "nmls")
    volumes = sum(
        layer.singular_values.prod(dim=1)
        for layer in slow.layers
        if layer.input_dimension >= m.n_outputs
    )
    largest = max(float(layer.singular_values[:, 0].max()) for layer in slow.layers)
    assert_close(
        summary["nvr"],
        volumes.mean() if torch.is_tensor(volumes) else 0.0,
        "nvr",
        1e-12 * largest**m.n_outputs,
    )
    if (s[:, min(2, s.shape[1] - 1)] > 1e-9 * s[:, 0]).all():
        assert summary["log_volume_top3"] == pytest.approx(
            float(s[:, :3].log().sum(dim=1).mean()), rel=1e-9, abs=1e-9
        )


def _assert_chain(m, slow) -> None:
    if (slow.input_norm == 0).any():
        with pytest.raises(ValueError, match="sample .* input norm 0"):
            flatlib.bounds.chain(m)
        return
    c, first, x = flatlib.bounds.chain(m), slow.layers[0], slow.input_norm
    W, n = first.weight_norm, len(x)
    g = [math.sqrt(value) for value in first.weight_gradient_energy.tolist()]
    r = [1 / value for value in x.tolist()]
    S = float(slow.parameter_gradient_energy.mean())
    rms = math.sqrt(sum(v * v for v in r) / n)
    tiny = 1e-12 * math.sqrt(float(first.untied_gradient_energy.max())) * max(r) * W
    assert_close(c.A, float(slow.singular_values[:, 0].mean()), "A")
    assert_close(c.B, W * sum(a * b for a, b in zip(g, r, strict=True)) / n, "B", tiny)
    assert_close(c.C, W * rms * math.sqrt(sum(v * v for v in g) / n), "C", tiny)
    C_prime = W * math.sqrt(sum((a * b) ** 2 for a, b in zip(g, r, strict=True)) / n)
    assert_close(c.C_prime, C_prime, "C'", tiny)
    assert_close(c.D, W * rms * math.sqrt(S), "D")
