"""`measure` where every number is known in closed form, or another library tells it."""

from __future__ import annotations

import copy

import backpack
import backpack.extensions
import pytest
import torch
from inputs import gaussian
from small import seeded
from torch import Tensor, nn

import flatlib


def test_a_linear_map_has_its_closed_forms():
    net, x = flatlib.nets.linear(6, 3, seed=1), gaussian(5, 6)
    m, W = flatlib.measure(net, x), net.linear1.weight.detach().double()
    s = torch.linalg.svdvals(W)
    norms = x.double().norm(dim=1)
    assert m.sharpness == pytest.approx(3 * float(norms.square().mean()), rel=1e-12)
    assert m.mls.tolist() == pytest.approx([float(s[0])] * 5, rel=1e-12)
    assert m.gradient_energy.tolist() == pytest.approx([float(W.square().sum())] * 5, rel=1e-12)
    assert m.log_volume.tolist() == pytest.approx([float(s.log().sum())] * 5, rel=1e-11)
    participation = float(s.square().sum() ** 2 / s.pow(4).sum())
    assert m.local_dimensionality.tolist() == pytest.approx([participation] * 5, rel=1e-12)
    assert m.layers[0].mls.tolist() == m.mls.tolist()
    assert m.summary()["nmls"] == pytest.approx(float(s[0]), rel=1e-12)
    assert m.summary()["nvr"] == pytest.approx(float(s.prod()), rel=1e-11)


def test_a_two_layer_linear_net_has_its_closed_forms():
    net, x = flatlib.nets.mlp((4, 6, 2), "identity", bias=False, seed=2), gaussian(5, 4)
    m = flatlib.measure(net, x)
    V, U = net.linear1.weight.detach().double(), net.linear2.weight.detach().double()
    x = x.double()
    expected = U.square().sum() * x.square().sum(dim=1) + 2 * (x @ V.T).square().sum(dim=1)
    assert m.parameter_gradient_energy.tolist() == pytest.approx(expected.tolist(), rel=1e-12)
    assert m.mls[0].item() == pytest.approx(float(torch.linalg.matrix_norm(U @ V, 2)), rel=1e-12)
    assert m.layers[1].mls[0].item() == pytest.approx(
        float(torch.linalg.matrix_norm(U, 2)), rel=1e-12
    )


def test_the_paper_net_over_random_seeds_is_drawn_from_its_seed_alone():
    x = gaussian(3, 4)
    first, second = (flatlib.measure(flatlib.nets.mlp((4, 6, 3), seed=7), x) for _ in range(2))
    assert first.sharpness == second.sharpness


def witness(net: nn.Module, x: Tensor) -> float:
    """Eq. (3) by BackPACK: per-sample gradients of each output, squared."""
    twin, total = backpack.extend(copy.deepcopy(net).double()), 0.0
    for k in range(twin(x[:1].double()).shape[1]):
        output = twin(x.double())
        with backpack.backpack(backpack.extensions.BatchGrad()):
            output[:, k].sum().backward()
        total += sum(float(p.grad_batch.square().sum()) for p in twin.parameters())
    return total / len(x)


# PyTorch says so of BackPACK's hooks: pytorch/pytorch pull request 155339, in torch 2.13.
@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_backpack_sees_the_same_sharpness():
    net, x = flatlib.nets.mlp((6, 8, 8, 3)), gaussian(5, 6)
    assert flatlib.measure(net, x).sharpness == pytest.approx(witness(net, x), rel=1e-11)
    convolutional = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16, 3),
        )
    )
    x = gaussian(4, 2, 8, 8)
    m = flatlib.measure(convolutional, x)
    assert m.sharpness == pytest.approx(witness(convolutional, x), rel=1e-11)
