"""Singular values that can be trusted, and what is made of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import flatlib
from flatlib import geometry

PRESCRIBED = torch.tensor([2.0, 0.5, 1e-3, 1e-5, 2e-8], dtype=torch.float64)


def orthogonal(size: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q


def matrix_with(values: Tensor, columns: int, seed: int = 0) -> Tensor:
    """A dense ``(N, columns)`` matrix with the given singular values."""
    N = len(values)
    return orthogonal(N, seed) @ torch.diag(values) @ orthogonal(columns, seed + 1)[:N]


def net_with(values: Tensor, dtype: torch.dtype) -> tuple[nn.Module, Tensor]:
    """A net whose input Jacobian has ``values`` as nearly as ``dtype`` stores them.

    The permuted diagonal is exact in either dtype up to the rounding of each value, which
    dense float32 factors would not be; signs and powers of two mix the rows without rounding.
    """
    N = len(values)
    hadamard = torch.ones(1, 1, dtype=torch.float64)
    while len(hadamard) < N:
        hadamard = torch.kron(hadamard, torch.tensor([[1.0, 1], [1, -1]], dtype=torch.float64))
    net = nn.Sequential(
        nn.Linear(len(hadamard), N, bias=False), nn.Linear(N, len(hadamard), bias=False)
    )
    with torch.no_grad():
        net[0].weight.copy_(torch.diag(values) @ hadamard[:N])
        net[1].weight.copy_(hadamard[:, :N])
    exact = net[0].weight.detach().double()[:, 0].abs() * len(hadamard)
    return net.to(dtype), exact.sort(descending=True).values


def by_squares(matrices: Tensor) -> Tensor:
    """Singular values as a GPU finds them: entries are squared."""
    return torch.linalg.eigvalsh(matrices @ matrices.mT).flip(1).clamp(min=0).sqrt()


@pytest.mark.parametrize("scale", [5e-324, 1e-310, 1e-300, 1e-150, 1.0, 1e150, 1e300, 5e307])
def test_sizes_whose_squares_float64_does_not_hold(scale):
    matrices = torch.stack([torch.eye(3), torch.ones(3, 3), torch.zeros(3, 3)]).double() * scale
    found = geometry._at_unit_size(by_squares, matrices)
    norms = torch.tensor([1.0, 3.0, 0.0], dtype=torch.float64) * scale
    torch.testing.assert_close(found[:, 0], norms, rtol=1e-14, atol=0)


@given(st.integers(-200, 200))
def test_powers_of_two_round_nothing(exponent):
    matrices = torch.stack([orthogonal(4, seed) for seed in range(3)])
    scaled = geometry._at_unit_size(torch.linalg.svdvals, matrices * 2.0**exponent)
    assert torch.equal(scaled, torch.linalg.svdvals(matrices) * 2.0**exponent)


# --- singular values ---------------------------------------------------------------------------


@given(
    span=st.floats(0, 12),
    outputs=st.integers(2, 12),
    more=st.integers(1, 30),
    scale=st.sampled_from([1e-300, 1e-180, 1e-90, 1.0, 1e90, 1e180, 1e300]),
    seed=st.integers(0, 2**16),
)
def test_singular_values_are_those_of_the_decomposition_at_any_span_and_scale(
    span, outputs, more, scale, seed
):
    values = torch.logspace(0, -span, outputs, dtype=torch.float64)
    J = torch.stack([matrix_with(values, outputs + more, seed + k) for k in range(3)])
    J[1] = matrix_with(torch.ones(outputs, dtype=torch.float64), outputs + more, seed + 9)
    expected = torch.linalg.svdvals(J)
    found = geometry.singular_values(J * scale) / scale
    # Where the squares span a thousand at most, 13 digits are kept; else rounding of the largest.
    few = expected[:, :1] ** 2 < 1e3 * expected[:, -1:] ** 2
    off = (found - expected).abs()
    assert bool((off <= torch.where(few, 1e-12 * expected, 2e-14 * expected[:, :1])).all())
    largest = geometry.largest_singular_value(J * scale) / scale
    torch.testing.assert_close(largest, expected[:, 0], rtol=1e-14, atol=0)
    across = geometry.largest_singular_value(J.mT * scale) / scale
    torch.testing.assert_close(across, expected[:, 0], rtol=1e-14, atol=0)


def test_the_largest_singular_value_of_nothing_is_nothing():
    assert geometry.largest_singular_value(torch.zeros(2, 3, 4).double()).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("columns", [5, 6, 784])
def test_prescribed_singular_values_are_found(columns):
    J = torch.stack([matrix_with(PRESCRIBED, columns, seed) for seed in range(4)])
    s = geometry.singular_values(J)
    assert s.shape == (4, 5) and s.dtype == torch.float64
    for row in s.tolist():
        # Built and decomposed with some rounding errors of the largest value, 2.
        assert row == pytest.approx(PRESCRIBED.tolist(), rel=1e-12, abs=2e-14)
        assert row[-1] == pytest.approx(2e-8, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_measured_net_has_its_singular_values_down_to_1e_8_of_the_largest(dtype):
    net, expected = net_with(PRESCRIBED, dtype)
    assert expected[-1] / expected[0] == pytest.approx(1e-8, rel=1e-6)
    m = flatlib.measure(net, torch.ones(3, 8, dtype=dtype))
    assert m.n_outputs == 8
    for row in m.singular_values:
        assert row[:5].tolist() == pytest.approx(expected.tolist(), rel=1e-6)
        assert row[5:].tolist() == [0.0] * 3
    hidden = m.layers[1].weight_norm
    assert hidden == pytest.approx(math.sqrt(8), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_full_rank_nets_have_their_log_volume(dtype):
    values = torch.logspace(0, -8, 8, dtype=torch.float64)
    net, expected = net_with(values, dtype)
    m = flatlib.measure(net, torch.ones(2, 8, dtype=dtype))
    assert m.log_volume.tolist() == pytest.approx([float(expected.log().sum())] * 2, abs=1e-6)
    assert (m.log_volume > -math.inf).all()


@pytest.mark.parametrize("smallest", [1e-4, 1e-6, 1e-8])
def test_a_float32_gram_matrix_is_wrong_by_more_than_the_value(smallest):
    """Its rounding errors are 6e-8 of the largest eigenvalue: the square of 2.4e-4."""
    s = torch.tensor([1.0, 0.5, smallest], dtype=torch.float64)
    errors = []
    for seed in range(20):
        J = matrix_with(s, 30, seed)
        values = torch.linalg.eigvalsh(J.float() @ J.float().T)
        errors.append(abs(float(values[0].clamp(min=0).sqrt()) - smallest))
        mine = geometry.singular_values(J[None])[0, -1].item()
        assert mine == pytest.approx(smallest, rel=1e-6)
    assert max(errors) > smallest


@given(st.integers(1, 6), st.integers(1, 9), st.integers(0, 2**16))
def test_against_numpy(N, M, seed):
    J = torch.randn(3, N, M, generator=torch.Generator().manual_seed(seed)).double()
    expected = np.zeros((3, N))
    expected[:, : min(N, M)] = np.linalg.svd(J.numpy(), compute_uv=False)
    s = geometry.singular_values(J).numpy()
    assert np.allclose(s, expected, rtol=1e-11, atol=1e-14 * expected.max())
    assert (np.diff(s, axis=1) <= 0).all()


@pytest.mark.parametrize("scale", [1e-150, 1e-300, 1.0, 1e150])
def test_scale_does_not_matter(scale):
    J = matrix_with(PRESCRIBED, 9)[None]
    s = geometry.singular_values(J * scale) / scale
    assert torch.allclose(s, geometry.singular_values(J), rtol=1e-6, atol=0)
    assert geometry.local_dimensionality(s * scale).item() == pytest.approx(
        geometry.local_dimensionality(s).item(), rel=1e-12
    )
    assert geometry.log_volume(s * scale).item() == pytest.approx(
        geometry.log_volume(s).item() + 5 * math.log(scale), rel=1e-7
    )


@given(st.integers(1, 5), st.integers(0, 2**16))
def test_rank_deficient_by_construction_is_exactly_singular(rank, seed):
    g = torch.Generator().manual_seed(seed)
    left = torch.randn(2, 6, rank, generator=g, dtype=torch.float64)
    right = torch.randn(2, rank, 20, generator=g, dtype=torch.float64)
    s = geometry.singular_values(left @ right)
    assert (s[:, rank:] == 0).all() and (s[:, :rank] > 0).all()
    assert (geometry.log_volume(s) == -math.inf).all()


@pytest.mark.parametrize("shape", [(2, 1000), (1000, 2), (2, 3), (300, 200)])
def test_what_counts_as_zero_grows_with_the_larger_side(shape):
    """A diagonal has its singular values to the last bit."""
    units = max(64, *shape)
    for factor, kept in ((0.99, False), (1.01, True)):
        J = torch.zeros(1, *shape, dtype=torch.float64)
        J[0, 0, 0] = 1.0
        J[0, 1, 1] = smallest = factor * units * torch.finfo(torch.float64).eps
        expected = [1.0, smallest if kept else 0.0] + [0.0] * (shape[0] - 2)
        assert geometry.singular_values(J)[0].tolist() == pytest.approx(expected, rel=1e-9, abs=0)


def test_more_outputs_than_inputs_have_no_volume():
    s = geometry.singular_values(torch.randn(2, 5, 3, dtype=torch.float64))
    assert s.shape == (2, 5) and (s[:, 3:] == 0).all()
    assert (geometry.log_volume(s) == -math.inf).all()


def test_a_zero_jacobian():
    s = geometry.singular_values(torch.zeros(2, 3, 4, dtype=torch.float64))
    assert (s == 0).all() and geometry.mls(s).tolist() == [0.0, 0.0]
    assert geometry.gradient_energy(s).tolist() == [0.0, 0.0]
    assert (geometry.log_volume(s) == -math.inf).all()
    assert geometry.local_dimensionality(s).isnan().all()


# --- functions of them -------------------------------------------------------------------------

descending = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=8).map(
    lambda values: torch.tensor([sorted(values, reverse=True)], dtype=torch.float64)
)


@given(descending)
def test_definitions(s):
    values = s[0].tolist()
    assert geometry.mls(s).item() == max(values)
    assert geometry.gradient_energy(s).item() == pytest.approx(sum(v * v for v in values))
    logs = [math.log(v) for v in values]
    assert geometry.log_volume(s).item() == pytest.approx(math.fsum(logs), rel=1e-12, abs=1e-12)
    assert geometry.log_volume_top(s, 2).item() == pytest.approx(
        math.fsum(logs[:2]), rel=1e-12, abs=1e-12
    )
    lam = [v * v for v in values]
    expected = sum(lam) ** 2 / sum(v * v for v in lam)
    assert geometry.local_dimensionality(s).item() == pytest.approx(expected, rel=1e-12)


@given(descending)
def test_dimensionality_is_between_one_and_the_rank(s):
    D = geometry.local_dimensionality(s).item()
    assert 1 - 1e-12 <= D <= s.shape[1] + 1e-12
    assert geometry.local_dimensionality(1e-200 * s).item() == pytest.approx(D, rel=1e-12)


def test_the_equality_cases_of_dimensionality():
    assert geometry.local_dimensionality(torch.full((1, 7), 3.0).double()).item() == 7.0
    assert geometry.local_dimensionality(torch.tensor([[3.0, 0, 0]]).double()).item() == 1.0


def test_the_top_values_are_three_unless_another_number_is_asked_for():
    s = torch.tensor([[8.0, 4.0, 2.0, 0.5]]).double()
    assert geometry.log_volume_top(s).item() == pytest.approx(6 * math.log(2), rel=1e-12)
    assert geometry.log_volume_top(s, 2).item() == pytest.approx(5 * math.log(2), rel=1e-12)


def test_the_top_three_of_fewer_are_all():
    s = torch.tensor([[2.0, 0.5]]).double()
    assert torch.equal(geometry.log_volume_top(s), geometry.log_volume(s))


def test_the_volume_is_the_determinant_of_the_jacobian():
    J = torch.randn(4, 3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.linalg.det(J @ J.mT).sqrt().log()
    assert torch.allclose(geometry.log_volume(geometry.singular_values(J)), expected, rtol=1e-12)
