"""The largest singular value from products, against dense decompositions, with its bound."""

from __future__ import annotations

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flatlib.lanczos import Top, largest_singular_values

ROUNDING = 1e-12


class Dense:
    """Products with matrices ``(n, N, M)``, counted."""

    def __init__(self, J: Tensor):
        self.J, self.n_products = J, 0

    def transposed(self, u: Tensor) -> Tensor:
        self.n_products += 1
        return (self.J.mT @ u[..., None])[..., 0]

    def __call__(self, v: Tensor) -> Tensor:
        self.n_products += 1
        return (self.J @ v[..., None])[..., 0]


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def with_values(values: list[float], M: int, seed: int = 0) -> Tensor:
    """A matrix ``(N, M)`` with these N singular values, the last ones 0 if N is above M."""
    N = len(values)
    U, V = (torch.linalg.qr(random(size, size, seed=seed + size)).Q for size in (N, M))
    k = min(N, M)
    return U[:, :k] * torch.tensor(values[:k], dtype=torch.float64) @ V[:, :k].T


def top_of(J: Tensor, tolerance=1e-8, max_products=10_000, start: Tensor | None = None) -> Top:
    start = random(len(J), seed=99) if start is None else start
    return largest_singular_values(Dense(J[None]), start, [0], tolerance, max_products)[0]


@settings(max_examples=60)
@given(
    st.lists(st.floats(0.0, 1.0), min_size=1, max_size=30),
    st.integers(1, 40),
    st.sampled_from([1e-160, 1.0, 1e120]),
    st.integers(0, 1000),
)
def test_any_matrix(values, M, scale, seed):
    J = with_values(values, M, seed) * scale
    s = torch.linalg.svdvals(J)
    top = top_of(J)
    largest = float(s[0])
    rounding = ROUNDING * largest + sys.float_info.min  # below it float64 keeps fewer digits
    assert top.value == pytest.approx(largest, rel=1e-8, abs=sys.float_info.min)
    assert top.value <= largest + rounding
    assert top.residual <= 1e-8 * top.value
    assert float((s - top.value).abs().min()) <= top.residual + rounding
    assert top.n_products <= 2 * len(J)


class Product(Dense):
    """As a network of two layers makes it, never as one matrix: outside of its range is noise."""

    def __init__(self, left: Tensor, right: Tensor):
        super().__init__(left)
        self.right = right

    def transposed(self, u: Tensor) -> Tensor:
        return (self.right.mT @ super().transposed(u)[..., None])[..., 0]

    def __call__(self, v: Tensor) -> Tensor:
        return super().__call__((self.right @ v[..., None])[..., 0])


@pytest.mark.parametrize("decades", [0.0, 3.0])
@pytest.mark.parametrize("scale", [1e-100, 1.0, 1e100])
@pytest.mark.parametrize("rank", range(1, 13))
def test_matrices_of_low_rank(rank, scale, decades):
    """Once their range is exhausted, what is left to start from is rounding."""
    left, right = random(150, 30, rank, seed=rank), random(150, rank, 20, seed=99 + rank)
    left = left * torch.logspace(0, -decades, rank, dtype=torch.float64) * scale
    tops = largest_singular_values(
        Product(left, right), random(30, seed=7), range(150), 1e-4, 10_000
    )
    largest = torch.linalg.matrix_norm(left @ right, 2).tolist()
    assert [top.value for top in tops] == pytest.approx(largest, rel=1e-4, abs=0.0)


SPECTRA = {
    "two equal ones": [3.0, 3.0, 1.0, 0.5, 0.1],
    "all equal": [2.0] * 20,
    "rank one": [5.0, *[0.0] * 19],
    "nearly equal": [1.0, 1.0 - 1e-6, *[0.3] * 18],
    "a cluster": [1.0 - 1e-9 * k for k in range(10)] + [0.1] * 10,
    "one output": [0.7],
    "nothing": [0.0] * 12,
    "slowly falling": [1.0 / (1 + 0.01 * k) for k in range(60)],
    "by decades": [10.0**-k for k in range(14)],
}


@pytest.mark.parametrize("name", SPECTRA)
def test_spectra_that_are_hard_or_degenerate(name):
    values = SPECTRA[name]
    top = top_of(with_values(values, 80, seed=5), tolerance=1e-10)
    assert top.value == pytest.approx(values[0], rel=1e-10, abs=0.0)
    assert top.residual <= 1e-10 * top.value
    V = top.basis
    assert torch.allclose(V.T @ V, torch.eye(V.shape[1]).double(), atol=1e-12)


@pytest.mark.parametrize("name", ["rank one", "all equal", "nothing"])
def test_a_space_that_holds_its_image_takes_no_more_products(name):
    different = len(set(SPECTRA[name]))
    assert top_of(with_values(SPECTRA[name], 80)).n_products == 2 * different


@pytest.mark.parametrize("name", ["slowly falling", "a cluster", "nearly equal", "two equal ones"])
@pytest.mark.parametrize("max_products", [2, 3, 6, 12, 30])
def test_the_residual_bounds_the_error_wherever_the_products_end(name, max_products):
    J = with_values(SPECTRA[name], 80, seed=3)
    s = torch.linalg.svdvals(J)
    top = top_of(J, 1e-12, max_products)
    assert top.n_products <= max_products
    assert float((s - top.value).abs().min()) <= top.residual + ROUNDING
    assert 0 < top.value <= float(s[0]) * (1 + ROUNDING)


def test_too_few_products_leave_a_residual_that_tells():
    top = top_of(with_values(SPECTRA["slowly falling"], 80), 1e-6, 10)
    assert top.n_products == 10 and top.residual > 1e-6 * top.value


@pytest.mark.parametrize("at_first", [1e-3, 1e-6, 1e-9])
def test_a_start_beside_a_smaller_singular_vector_does_not_stay_there(at_first):
    """Its residual alone is small enough at once."""
    J = torch.diag(torch.tensor([2.0] + [1.0] * 11, dtype=torch.float64))
    start = torch.zeros(12, dtype=torch.float64)
    start[0], start[1] = at_first, 1.0
    assert top_of(J, 0.05, start=start).value == pytest.approx(2.0, rel=1e-6)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_a_matrix_whose_square_float64_cannot_hold(scale):
    J = with_values(SPECTRA["slowly falling"], 80)
    top = top_of(scale * J)
    assert top.value == pytest.approx(scale, rel=1e-10)
    assert top.residual == pytest.approx(scale * top_of(J).residual, rel=1e-3)


def test_a_sample_does_not_feel_its_company():
    batch = torch.stack(
        [
            with_values(SPECTRA[name], 20, seed=k)
            for k, name in enumerate(("all equal", "rank one", "nearly equal"))
        ]
        + [torch.zeros(20, 20).double(), 1e150 * with_values(SPECTRA["a cluster"], 20)]
    )
    start = random(20, seed=99)
    dense = Dense(batch)
    together = largest_singular_values(dense, start, range(len(batch)), 1e-9, 1000)
    for J, top in zip(batch, together, strict=True):
        alone = largest_singular_values(Dense(J[None]), start, [0], 1e-9, 1000)[0]
        assert top.value == pytest.approx(alone.value, rel=1e-12)
        assert top.n_products == alone.n_products
    assert dense.n_products == max(top.n_products for top in together)


def test_the_projection_is_that_of_the_matrix():
    J = with_values(SPECTRA["slowly falling"], 80)
    top = top_of(J, 1e-4)
    V = top.basis
    assert torch.allclose(top.projected, V.T @ J @ J.T @ V, atol=1e-13)


def test_every_product_is_told():
    told = []
    J = torch.stack([with_values([1.0, 0.5, 0.2], 4)] * 5)
    tops = largest_singular_values(Dense(J), random(3), range(5), 1e-6, 100, told.append)
    assert sum(told) == sum(top.n_products for top in tops) == 5 * 6


@pytest.mark.parametrize("share", [0.0, 0.999, 1 - 1e-5])
def test_products_that_are_not_transposed_are_refused(share):
    class Wrong(Dense):
        def __call__(self, v: Tensor) -> Tensor:
            right = super().__call__(v)
            right[1] *= share
            return right

    J = torch.stack([with_values([1.0, 0.5, 0.2], 4)] * 3)
    with pytest.raises(ValueError, match="second derivative of the network is wrong for sample 6"):
        largest_singular_values(Wrong(J), random(3), [5, 6, 7], 1e-6, 100)
