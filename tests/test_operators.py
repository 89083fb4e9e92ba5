"""Norms of matrices and of convolutions, dense or never formed."""

from __future__ import annotations

import pytest
import torch
from inputs import gaussian
from small import seeded, small_conv
from torch import nn

import flatlib
from flatlib import operators
from flatlib.lab.equations.convolutions import draw_convolution


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (5, 9), (9, 5), (40, 40)])
@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_spectral_norm_is_that_of_linalg(shape, scale):
    W = gaussian(*shape).double() * scale
    expected = float(torch.linalg.matrix_norm(W, 2))
    assert operators.spectral_norm(W) == pytest.approx(expected, rel=1e-13)


def test_spectral_norm_of_nothing_is_zero():
    assert operators.spectral_norm(torch.zeros(3, 2)) == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("norm", [operators.weight_norm, operators.spectral_norm])
def test_norms_of_any_precision_and_of_parameters(norm, dtype):
    W = (8 * gaussian(5, 4)).to(dtype)
    expected = float(torch.linalg.matrix_norm(W.double(), 2))
    assert norm(W) == pytest.approx(expected, rel=1e-13)
    if dtype.is_floating_point:
        assert norm(nn.Parameter(W)) == norm(W)
        geometry = operators.geometry_of(nn.Conv1d(4, 5, 1), torch.Size((1, 4, 3)), None)
        found = operators.weight_norm(nn.Parameter(W[:, :, None]), geometry)
        assert found == geometry.norm(W[:, :, None]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("norm", [operators.weight_norm, operators.spectral_norm])
def test_what_has_no_norm_is_named(norm):
    with pytest.raises(ValueError, match=r"of shape \(2, 3\) holds NaN or infinite values"):
        norm(torch.full((2, 3), torch.inf))
    with pytest.raises(ValueError, match=r"two axes.*got shape \(3,\)"):
        norm(torch.ones(3))
    with pytest.raises(TypeError, match="complex64"):
        norm(torch.ones(2, 3, dtype=torch.complex64))


def test_operator_norm_of_a_circular_convolution_is_its_largest_fourier_coefficient():
    net = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular", bias=False), nn.Flatten()
        )
    )
    kernel = torch.zeros(8, 8, dtype=torch.float64)
    kernel[:3, :3] = net[0].weight[0, 0].double()
    expected = float(torch.fft.fft2(kernel).abs().max())
    m = flatlib.measure(net, gaussian(1, 1, 8, 8))
    assert m.layers[0].operator_norm == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("index", range(24))
def test_norms_of_a_convolution_are_ordered_up_to_that_of_its_copies(index):
    """||W||_2 <= ||T_W||_2 <= ||T_W||_F <= sqrt(P) ||W||_F, T_W written out column by column."""
    case = draw_convolution(0, index)
    layer = flatlib.measure(case.net, case.x).layers[0]
    copies = layer.n_positions**0.5 * layer.weight_frobenius_norm
    frobenius = float(case.T_W.norm())
    assert layer.operator_norm == pytest.approx(float(case.norm_T_W), rel=1e-9)
    assert layer.operator_norm <= frobenius * (1 + 1e-12)
    assert frobenius <= copies * (1 + 1e-12)
    if max(case.convolution.padding) == 0:  # every patch lies inside the image
        assert frobenius == pytest.approx(copies, rel=1e-12)
        assert layer.weight_norm <= layer.operator_norm * (1 + 1e-12)
    elif case.convolution.kernel_size[0] > 1:
        assert frobenius < copies * (1 - 1e-6)


@pytest.mark.parametrize("sizes", [(20, 6), (6, 20), (6, 20, 9)])
def test_operator_norm_of_several_calls_is_the_largest(sizes):
    """Second differences of crops of the input: the longer, the nearer the norm comes to 4."""

    class Crops(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = nn.Conv1d(1, 1, 3, bias=False)
            self.convolution.weight.data = torch.tensor([[[-1.0, 2.0, -1.0]]])

        def forward(self, x):
            return torch.cat([self.convolution(x[..., :size]).flatten(1) for size in sizes], dim=1)

    (layer,) = flatlib.measure(Crops(), gaussian(2, 1, 20)).layers
    matrices = [
        torch.diag_embed(torch.full((size,), 2.0).double())
        - torch.diag_embed(torch.ones(size - 1).double(), 1)
        - torch.diag_embed(torch.ones(size - 1).double(), -1)
        for size in sizes
    ]
    norms = [float(torch.linalg.matrix_norm(matrix[1:-1], ord=2)) for matrix in matrices]
    assert max(norms) > 1.02 * min(norms)
    assert layer.operator_norm == pytest.approx(max(norms), rel=1e-9)


def test_operator_norm_is_exact_where_many_singular_values_are_nearly_the_largest():
    """A second difference on a ring of 400: the largest, 4, has neighbours 2.5e-4 below."""
    net = nn.Sequential(
        nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular", bias=False), nn.Flatten()
    )
    net[0].weight.data = torch.tensor([[[-1.0, 2.0, -1.0]]])
    (layer,) = flatlib.measure(net, gaussian(1, 1, 400)).layers
    assert layer.operator_norm == pytest.approx(4.0, rel=1e-12)


def test_operator_norm_of_a_zero_convolution_is_zero():
    net = small_conv()
    nn.init.zeros_(net[0].weight)
    m = flatlib.measure(net, gaussian(1, 2, 6, 6))
    assert m.layers[0].operator_norm == m.layers[0].weight_norm == 0.0


def test_operator_norm_of_tiny_weights_does_not_underflow():
    net = seeded(lambda: nn.Sequential(nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2))).double()
    x = gaussian(2, 1, 6)
    expected = flatlib.measure(net, x).layers[0].operator_norm
    with torch.no_grad():
        net[0].weight.mul_(1e-170)
    assert flatlib.measure(net, x).layers[0].operator_norm == pytest.approx(1e-170 * expected)
