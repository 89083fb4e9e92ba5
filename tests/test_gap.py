"""What Eq. (3) leaves out: the cheap gap is that of Hessian-vector products."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import flatlib
from flatlib import nets
from flatlib.gap import lemma_gap
from flatlib.sharpness import hessian_trace, sharpness_gap


@pytest.mark.parametrize("activation", ["tanh", "gelu", "relu", "identity"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("widths", [(3, 2), (3, 4, 2), (4, 6, 5, 2), (2, 3, 4, 3, 2)])
def test_equals_the_trace_of_the_hessian_less_sharpness(activation, bias, widths):
    torch.manual_seed(sum(widths))
    net = nets.mlp(widths, activation=activation, bias=bias, seed=5).double()
    x, y = torch.randn(11, widths[0]).double(), torch.randn(11, widths[-1]).double()
    gap = lemma_gap(net, x, y)
    trace, S = hessian_trace(net, x, y).estimate, flatlib.measure(net, x).sharpness
    assert gap == pytest.approx(trace - S, rel=1e-9, abs=1e-12 * S)


def test_vanishes_for_the_papers_vgg10():
    torch.manual_seed(0)
    conv, dense = nn.Conv2d(1, 2, 3, padding=2), nn.Linear(8, 2)
    net = nn.Sequential(conv, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), dense).eval()
    x, y = torch.randn(5, 1, 2, 2), torch.randn(5, 2)
    assert lemma_gap(net, x, y) == 0.0
    assert abs(sharpness_gap(net, x, y)) < 1e-12
    assert lemma_gap(nets.vgg10(), torch.rand(1, 3, 32, 32), torch.rand(1, 10)) == 0.0


def test_shared_and_frozen_parameters_take_the_general_route():
    torch.manual_seed(0)
    shared = nn.Linear(3, 3)
    net = nn.Sequential(shared, nn.ReLU(), shared)
    x, y = torch.randn(4, 3), torch.randn(4, 3)
    assert lemma_gap(net, x, y) == pytest.approx(sharpness_gap(net, x, y), rel=1e-12)
    assert lemma_gap(net, x, y) != 0.0  # a parameter that enters twice bends the output
    frozen = nets.mlp((3, 4, 2))
    frozen.linear1.weight.requires_grad_(False)
    y = torch.randn(4, 2)
    assert lemma_gap(frozen, x, y) == pytest.approx(sharpness_gap(frozen, x, y), rel=1e-12)


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Sequential(nn.Linear(3, 2), nn.Sigmoid()),
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2), nn.Tanh()),
        lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.Sigmoid()),
        lambda: nn.Sequential(nn.Tanh(), nn.Linear(3, 2)),
        lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Tanh(), nn.Linear(4, 2)),
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Identity(), nn.Tanh(), nn.Linear(4, 2)),
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Flatten(), nn.Linear(4, 2)),
        lambda: nn.Sequential(
            nn.Flatten(), nn.Flatten(), nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, 2)
        ),
    ],
)
def test_of_any_chain_is_that_of_hessian_vector_products(build):
    torch.manual_seed(1)
    net, x, y = build().double(), torch.randn(5, 3).double(), torch.randn(5, 2).double()
    assert lemma_gap(net, x, y) == pytest.approx(sharpness_gap(net, x, y), rel=1e-9)


def test_of_tokens_is_that_of_hessian_vector_products():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Flatten(), nn.Linear(8, 2)).double()
    x, y = torch.randn(5, 2, 3).double(), torch.randn(5, 2).double()
    assert lemma_gap(net, x, y) == pytest.approx(sharpness_gap(net, x, y), rel=1e-9)


@pytest.mark.parametrize("where", ["net", "layer"])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_a_hook_has_its_say(where, activation):
    torch.manual_seed(1)
    net = nets.mlp((3, 4, 2), activation).double()
    x, y = torch.randn(5, 3).double(), torch.randn(5, 2).double()
    plain = lemma_gap(net, x, y)
    hooked = net if where == "net" else net.linear1
    hooked.register_forward_hook(lambda module, args, output: output.square())
    gap = lemma_gap(net, x, y)
    assert gap == pytest.approx(sharpness_gap(net, x, y), rel=1e-9) and gap != plain


NETS = {  # the three cases, and what nobody can afford
    "piecewise linear": lambda: nets.mlp((3, 4, 4), "relu"),
    "dense": lambda: nets.mlp((3, 4, 4)),
    "products": lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)),
    "too many": lambda: nn.Sequential(nn.Linear(3, 500), nn.LayerNorm(500), nn.Linear(500, 4)),
}
TARGETS = {
    "classes": (lambda y: torch.arange(4), TypeError, "y must hold real.*int64; one-hot labels?"),
    "words": (lambda y: "nonsense", TypeError, "y must be a torch.Tensor, got str"),
    "one a sample": (lambda y: y[:, :1], ValueError, r"y has shape \(4, 1\) but.*\(4, 4\)"),
    "one for all": (lambda y: y[:1], ValueError, r"y has shape \(1, 4\) but"),
    "NaN": (lambda y: y * math.nan, ValueError, "sample 0 of y holds NaN"),
}


@pytest.mark.parametrize("case", NETS)
@pytest.mark.parametrize("fault", TARGETS)
def test_targets_of_the_wrong_kind_are_refused_as_by_products(case, fault):
    change, error, message = TARGETS[fault]
    x, y = torch.rand(4, 3), torch.rand(4, 4)
    for function in (lemma_gap, sharpness_gap):
        with pytest.raises(error, match=message):
            function(NETS[case](), x, change(y))


@pytest.mark.parametrize("case", NETS)
def test_samples_of_the_wrong_kind_are_refused_as_by_products(case):
    x, y = torch.rand(4, 3), torch.rand(4, 4)
    for function in (lemma_gap, sharpness_gap):
        with pytest.raises(ValueError, match="sample 2 of x holds NaN"):
            function(NETS[case](), torch.where(torch.arange(4)[:, None] == 2, math.nan, x), y)
        with pytest.raises(TypeError, match="must be a torch.nn.Module"):
            function(lambda x: x, x, y)
        with pytest.raises(ValueError, match="the network's forward fails"):
            function(NETS[case](), torch.rand(4, 2), y)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_targets_of_a_single_output_need_no_axis(activation):
    torch.manual_seed(1)
    net, x, y = nets.mlp((4, 6, 1), activation), torch.randn(5, 4), torch.randn(5)
    gap = lemma_gap(net, x, y)
    assert gap == lemma_gap(net, x, y[:, None])
    assert gap == pytest.approx(sharpness_gap(net, x, y), rel=1e-9, abs=1e-15)


def test_is_undefined_where_nobody_can_afford_it():
    net = nn.Sequential(nn.Linear(50, 50), nn.LayerNorm(50), nn.Linear(50, 2)).eval()
    assert math.isnan(lemma_gap(net, torch.rand(2, 50), torch.rand(2, 2)))
