"""Clouds of representations: closed forms, invariances, and slow oracles."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flatlib.representations import (
    deformed,
    neural_collapse,
    participation_ratio,
    relative_stability,
)

seeds = st.integers(0, 10_000)


def points(seed: int, n: int = 30, d: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    stretch = torch.logspace(0, -2, d, dtype=torch.float64)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) * stretch


def turned(seed: int, d: int) -> torch.Tensor:
    square = torch.randn(d, d, generator=torch.Generator().manual_seed(seed)).double()
    return torch.linalg.qr(square).Q


@given(seeds)
def test_the_dimension_is_that_of_the_covariance_and_does_not_see_turns_shifts_and_scale(seed):
    h = points(seed)
    C = np.cov(h.numpy().T)
    expected = np.trace(C) ** 2 / np.trace(C @ C)
    assert participation_ratio(h) == pytest.approx(expected, rel=1e-9)
    moved = 1e3 * (h @ turned(seed, 6)) + 5
    assert participation_ratio(moved) == pytest.approx(expected, rel=1e-9)
    assert 1 <= expected <= 6


@pytest.mark.parametrize("K", [2, 3, 10])
def test_one_hot_targets_of_equal_classes_have_one_dimension_less_than_classes(K):
    assert participation_ratio(torch.eye(K).repeat(4, 1)) == pytest.approx(K - 1, rel=1e-12)


def test_points_that_are_equal_have_no_dimension():
    assert math.isnan(participation_ratio(torch.full((7, 3), 0.1)))


@given(seeds, st.integers(2, 5))
def test_collapse_is_the_trace_that_its_definition_says(seed, K):
    h = points(seed, n=40)
    classes = torch.arange(40) % K + 3  # any numbers will do
    x, y = h.numpy(), classes.numpy()
    means = np.stack([x[y == k].mean(axis=0) for k in np.unique(y)])
    spread = np.stack([x[i] - means[y[i] - 3] for i in range(40)])
    within = np.mean([np.outer(row, row) for row in spread], axis=0)
    around = means - means.mean(axis=0)
    between = np.mean([np.outer(row, row) for row in around], axis=0)
    expected = np.trace(within @ np.linalg.pinv(between, rcond=1e-12)) / K
    assert neural_collapse(h, classes) == pytest.approx(expected, rel=1e-7)
    turned_h = 7 * (h @ turned(seed, 6)) - 2
    assert neural_collapse(turned_h, classes) == pytest.approx(expected, rel=1e-7)


def test_collapse_counts_each_class_once_however_large():
    h = torch.tensor([[1.0], [3.0], [-2.0], [-2.0], [-2.0], [-2.0]])  # variance 1 in 2 of 6
    assert neural_collapse(h, torch.tensor([0, 0, 1, 1, 1, 1])) == pytest.approx(2 / 6 / 4 / 2)


def test_collapsed_classes_have_0_and_classes_without_distance_have_none():
    h = torch.eye(3).repeat(5, 1)
    assert neural_collapse(h, torch.arange(15) % 3) == pytest.approx(0, abs=1e-25)
    assert math.isnan(neural_collapse(h, torch.arange(15) // 3 % 2 * 0 + torch.arange(15) % 5))


def test_a_deformation_of_a_plane_moves_it_by_the_field():
    """Interpolation is exact on an image that is linear in its coordinates."""
    size, n = 32, 200
    along = (torch.arange(size).double() + 0.5) / size
    planes = torch.stack([along.expand(size, size), along[:, None].expand(size, size)])
    moved = deformed(planes.expand(n, 2, size, size), 0.8) - planes
    inner = moved[..., 2:-2, 2:-2] * size  # in pixels; those of the border may be cut off
    square = inner.square().sum(dim=1)
    assert 0.95 < float(square.mean()) / (0.8**2 * (size / (size - 4)) ** 2) < 1.2
    twice = deformed(planes.expand(n, 2, size, size), 1.6) - planes
    assert torch.allclose(twice[..., 4:-4, 4:-4], 2 * moved[..., 4:-4, 4:-4], atol=1e-12)
    assert not torch.equal(moved[0], moved[1])  # each image has its own field


def test_a_deformation_is_smooth_keeps_flat_images_and_is_drawn_by_its_seed():
    flat = torch.full((3, 2, 9, 7), 0.3)
    assert torch.allclose(deformed(flat, 2.0), flat, atol=1e-6)
    images = torch.rand(4, 1, 9, 7, generator=torch.Generator().manual_seed(1))
    again = deformed(images, 0.5, seed=3)
    assert torch.equal(again, deformed(images, 0.5, seed=3))
    assert not torch.equal(again, deformed(images, 0.5, seed=4))
    assert again.min() >= images.min() and again.max() <= images.max()


def test_stability_is_of_deformations_against_noise_of_their_length():
    images = torch.rand(300, 1, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    smooth = torch.nn.functional.avg_pool2d(images, 3, 1, 1)
    assert relative_stability(lambda x: 5 * x.flatten(1), smooth) == pytest.approx(1, rel=1e-12)
    step = deformed(smooth, 0.5) - smooth
    mean = step.flatten(1).mean(dim=1)
    # The mean of the pixels: noise of length l moves it by l^2 / 64^2 on average.
    expected = float(mean.square().mean()) / float(step.flatten(1).square().sum(1).mean() / 64**2)
    found = relative_stability(lambda x: x.flatten(1).mean(dim=1, keepdim=True), smooth)
    assert found == pytest.approx(expected, rel=0.25)  # the noise is drawn: 300 images
    assert math.isnan(relative_stability(lambda x: x.flatten(1) * 0, smooth))


def test_bad_input_is_named():
    h = torch.zeros(4, 2)
    for odd, message in (
        (torch.zeros(4), r"one row a sample, .* got \(4,\)"),
        (torch.zeros(1, 2), "n of 2 or more"),
        (torch.tensor([[math.nan], [1.0]]), "NaN or infinite"),
    ):
        with pytest.raises(ValueError, match=message):
            participation_ratio(odd)
    with pytest.raises(ValueError, match=r"one class a sample, got \(3,\) for 4"):
        neural_collapse(h, torch.arange(3))
    with pytest.raises(ValueError, match="at least two classes, got 1"):
        neural_collapse(h, torch.zeros(4))
    images = torch.zeros(2, 1, 8, 8)
    for odd, message in (
        ({"images": h, "displacement": 1.0}, "images must be"),
        ({"images": images, "displacement": -1.0}, "displacement must be 0 or more"),
        ({"images": images, "displacement": 1.0, "cut": 1}, "cut must be at least 2"),
        ({"images": images, "displacement": 1.0, "cut": 8}, "cannot show 8 half waves"),
    ):
        with pytest.raises(ValueError, match=message):
            deformed(**odd)


def test_input_of_another_kind_is_named_with_a_remedy_that_works():
    h = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]])
    classes = torch.tensor([0, 0, 1])
    for measured in (participation_ratio, lambda odd: neural_collapse(odd, classes)):
        with pytest.raises(TypeError, match="h must be a torch.Tensor, got list; use torch.as_te"):
            measured(h.tolist())
        assert measured(torch.as_tensor(h.tolist())) == measured(h)
        with pytest.raises(TypeError, match="complex64.*view_as_real"):
            measured(h + 1j)
        measured(torch.view_as_real(h + 1j).flatten(1))
    with pytest.raises(TypeError, match="classes must be a torch.Tensor, got list"):
        neural_collapse(h, classes.tolist())
    pixels = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8)
    for measured in (deformed, lambda x, by: relative_stability(lambda x: x.flatten(1), x, by)):
        with pytest.raises(TypeError, match=r"got torch.uint8; pass images.float\(\)"):
            measured(pixels, 0.5)
        measured(pixels.float(), 0.5)
        with pytest.raises(TypeError, match="images must be a torch.Tensor, got list"):
            measured(pixels.tolist(), 0.5)


@pytest.mark.parametrize("scale", [1e-150, 1e-90, 1e90, 1e150])
def test_the_dimension_of_a_cloud_does_not_rest_on_its_scale(scale):
    h = torch.randn(9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = participation_ratio(h)
    assert participation_ratio(scale * h) == pytest.approx(expected, rel=1e-12)
