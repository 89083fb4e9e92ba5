"""The exact constructions against plain autograd, one sample and one output at a time."""

import math

import pytest
import torch
from torch import nn

from flatlib import nets, toys


def jacobian(net, x):
    """Input Jacobian (n, N, M) by plain autograd."""
    one = torch.func.jacrev(lambda v: net(v[None])[0].flatten())
    return torch.stack([one(sample) for sample in x]).detach().flatten(2)


def sharpness(net, x):
    """Eq. (3), one sample and one output at a time."""
    parameters = [p for p in net.parameters() if p.requires_grad]
    total = 0.0
    for sample in x:
        for output in net(sample[None]).flatten():
            grads = torch.autograd.grad(output, parameters, retain_graph=True)
            total += sum(g.square().sum().item() for g in grads)
    return total / len(x)


def gaussian(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def close(a, b, tolerance=1e-9):
    return math.isclose(a, b, rel_tol=tolerance, abs_tol=1e-14)


def test_from_weights_computes_the_product():
    W, V = gaussian(4, 3, seed=1), gaussian(2, 4, seed=2)
    x = gaussian(5, 3, seed=3)
    assert torch.allclose(toys.from_weights([W, V])(x), x @ W.T @ V.T, rtol=1e-12)
    relu = toys.from_weights([W, V], activation="relu")
    assert torch.allclose(relu(x), (x @ W.T).relu() @ V.T, rtol=1e-12)


def test_from_weights_refuses_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="reads? what the one before"):
        toys.from_weights([torch.ones(2, 3), torch.ones(1, 4)])
    with pytest.raises(ValueError, match=r"matrix \(outputs, inputs\)"):
        toys.from_weights([torch.ones(3)])
    with pytest.raises(ValueError, match="there is no matrix; pass at least one"):
        toys.from_weights([])
    with pytest.raises(TypeError, match="must be a torch.Tensor, got list; use torch.as_tensor"):
        toys.from_weights([[[1.0, 2.0]]])


def test_from_weights_takes_what_can_be_read_once():
    W, V = gaussian(4, 3, seed=1), gaussian(2, 4, seed=2)
    net = toys.from_weights(each for each in (W, V))
    assert torch.equal(net.linear1.weight, W) and torch.equal(net.linear2.weight, V)


def test_orthonormal_rows_are_orthonormal_and_seeded():
    rows = toys.orthonormal_rows(3, 7, seed=4)
    assert torch.allclose(rows @ rows.T, torch.eye(3).double(), atol=1e-12)
    assert torch.equal(rows, toys.orthonormal_rows(3, 7, seed=4))
    assert not torch.allclose(rows, toys.orthonormal_rows(3, 7, seed=5))
    with pytest.raises(ValueError, match="between 1 and dimension 2, got 3"):
        toys.orthonormal_rows(3, 2)


@pytest.mark.parametrize("values", [(3.0, 2.0, 0.5), (1.0, 0.0), (4.0,)])
def test_with_singular_values_has_them_and_one_sharpness(values):
    net = toys.with_singular_values(values, inputs=5, seed=6)
    x = gaussian(4, 5, seed=7)
    for spectrum in torch.linalg.svdvals(jacobian(net, x)):
        assert torch.allclose(spectrum, torch.tensor(values).double(), atol=1e-12)
    assert close(sharpness(net, x), len(values) * x.square().sum(1).mean().item())


def test_with_singular_values_refuses_bad_values():
    with pytest.raises(ValueError, match="negative"):
        toys.with_singular_values([1.0, -1.0], inputs=3)
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match=rf"finite and not negative, got \[1.0, {value}\]"):
            toys.with_singular_values([1.0, value], inputs=3)
    for values in ([1.0, 1.0, 2.0], [], [[1.0]]):
        with pytest.raises(ValueError, match="values must be a list of 1 to 2 singular values"):
            toys.with_singular_values(values, inputs=2)


@pytest.mark.parametrize(("outputs", "inputs", "gain"), [(2, 3, 1.0), (4, 4, 2.5), (6, 9, 0.1)])
def test_dimensionality_pair(outputs, inputs, gain):
    round_net, thin_net = toys.dimensionality_pair(outputs, inputs, gain)
    x = torch.zeros(5, inputs, dtype=torch.float64)
    x[:, 0] = gaussian(5, seed=8)
    assert torch.allclose(round_net(x), thin_net(x), rtol=1e-12, atol=1e-14)
    assert close(sharpness(round_net, x), sharpness(thin_net, x))
    expected = 2 * outputs * gain * x.square().sum(1).mean().item()
    assert close(sharpness(round_net, x), expected)
    spread = torch.linalg.svdvals(jacobian(round_net, x))
    assert torch.allclose(spread, torch.full_like(spread, gain), rtol=1e-12)
    thin = torch.linalg.svdvals(jacobian(thin_net, x))
    assert torch.allclose(thin[:, 0], torch.full_like(thin[:, 0], gain), rtol=1e-12)
    assert (thin[:, 1:] == 0).all()


def test_dimensionality_pair_refuses_bad_input():
    with pytest.raises(ValueError, match="between 1 and inputs 2, got 3"):
        toys.dimensionality_pair(3, 2)
    with pytest.raises(ValueError, match="gain must be positive, got 0"):
        toys.dimensionality_pair(2, 2, gain=0)


def test_rescaled_computes_the_same_function_and_leaves_the_net_alone():
    net = nets.mlp((4, 6, 5, 3), activation="relu", seed=9).double()
    before = [p.clone() for p in net.parameters()]
    x = gaussian(20, 4, seed=10)
    other = toys.rescaled(net, (5.0, 0.1, 2.0))
    assert torch.allclose(net(x), other(x), rtol=1e-10, atol=1e-12)
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))
    assert torch.allclose(other.linear1.weight, 5.0 * net.linear1.weight)
    assert not close(sharpness(net, x), sharpness(other, x), tolerance=0.1)


def test_rescaled_refuses_what_changes_the_function():
    relu = nets.mlp((2, 3, 1), activation="relu")
    with pytest.raises(TypeError, match="'tanh1'"):
        toys.rescaled(nets.mlp((2, 3, 1), activation="tanh"), (2.0, 0.5))
    with pytest.raises(ValueError, match="one factor per Linear layer"):
        toys.rescaled(relu, (1.0,))
    with pytest.raises(ValueError, match="positive"):
        toys.rescaled(relu, (-2.0, -0.5))
    with pytest.raises(ValueError, match="product"):
        toys.rescaled(relu, (2.0, 2.0))


@pytest.mark.parametrize("side", [4, 6, 10])
def test_cancelling_convolution_has_no_weight_gradient(side):
    net, image = toys.cancelling_convolution(side, seed=side)
    assert sharpness(net, image) == 0.0
    taps = net.convolution.weight.detach()[0, 0]
    signs = torch.tensor([[1.0, -1, 1], [-1, 1, -1], [1, -1, 1]]).double()
    expected = side * (signs * taps).sum().abs().item()
    gradient = torch.autograd.functional.jacobian(net, image)
    assert close(gradient.norm().item(), expected)
    assert expected > 0
    assert isinstance(net.convolution, nn.Conv2d)


@pytest.mark.parametrize("side", [2, 5])
def test_cancelling_convolution_refuses_sides_that_do_not_alternate(side):
    with pytest.raises(ValueError, match="even and at least 4"):
        toys.cancelling_convolution(side)
