"""The page "Where this stands": each of its statements, in float64 on networks that are drawn.

Both sides come from plain autograd; where the library computes a side as well, the two agree.
"""

from __future__ import annotations

import math
import re
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inputs import gaussian
from torch import Tensor, nn

import flatlib
from flatlib import comparisons, nets, sharpness, toys

ROUNDING = 1 + 1e-9
CASES = settings(max_examples=12)


@st.composite
def drawn(draw, activations: tuple[str, ...] = ("tanh", "relu", "gelu", "identity")):
    """A network of two or three layers, of any scale, and inputs of like or wild lengths."""
    seed = draw(st.integers(0, 2**31))
    widths = draw(st.lists(st.integers(1, 4), min_size=3, max_size=4))
    activation, bias = draw(st.sampled_from(activations)), draw(st.booleans())
    net = nets.mlp(widths, activation, bias=bias, seed=seed).double()
    gain = 10 ** draw(st.floats(-1, 0.5))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(gain)
    n = draw(st.integers(1, 4))
    x = gaussian(n, widths[0], seed=seed).double()
    if draw(st.booleans()):
        x *= torch.logspace(-1, 1, n, dtype=torch.float64)[:, None]
    return net, x


def linears(net: nn.Module) -> list[nn.Linear]:
    return [layer for layer in net if isinstance(layer, nn.Linear)]


def spectral(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix.detach(), 2))


def jacobian(net: nn.Module, x: Tensor) -> Tensor:
    """By the input, ``(n, N, M)``."""
    return torch.func.vmap(torch.func.jacrev(lambda one: net(one[None])[0]))(x).detach()


def by_parameters(net: nn.Module, x: Tensor) -> list[Tensor]:
    """By each parameter, ``(n, N, entries)``."""
    theta = {name: p.detach() for name, p in net.named_parameters()}
    found = torch.func.jacrev(lambda p: torch.func.functional_call(net, p, (x,)))(theta)
    return [each.flatten(2) for each in found.values()]


def energy(gradients: list[Tensor]) -> float:
    """The mean squared norm over samples."""
    return float(sum(each.square().sum() for each in gradients)) / len(gradients[0])


def loss_at(net: nn.Module, x: Tensor, y: Tensor):
    """The loss as a function of all parameters in one vector, and where the network stands."""
    shapes = {name: p.shape for name, p in net.named_parameters()}
    theta = torch.cat([p.detach().flatten() for p in net.parameters()])

    def loss(vector: Tensor) -> Tensor:
        pieces = vector.split([shape.numel() for shape in shapes.values()])
        p = {k: piece.view(s) for (k, s), piece in zip(shapes.items(), pieces, strict=True)}
        return (torch.func.functional_call(net, p, (x,)) - y).square().sum() / (2 * len(x))

    return loss, theta


def hessian(net: nn.Module, x: Tensor) -> Tensor:
    """Of the loss at interpolation, ``(m, m)``."""
    loss, theta = loss_at(net, x, net(x).detach())
    found = torch.autograd.functional.hessian(loss, theta)
    return (found + found.T) / 2


def reach(net: nn.Module, x: Tensor) -> float:
    """What Eq. (13) multiplies the root of the sharpness with."""
    return spectral(linears(net)[0].weight) * float(x.norm(dim=1).pow(-2).mean().sqrt())


def mean_mls(net: nn.Module, x: Tensor) -> float:
    return float(torch.linalg.matrix_norm(jacobian(net, x), 2).mean())


def participation(C: Tensor) -> Tensor:
    """Participation ratio of symmetric matrices ``(..., N, N)``."""
    trace = C.diagonal(dim1=-2, dim2=-1).sum(-1)
    return trace.square() / C.square().sum((-2, -1))


def close(a: float, b: float, tolerance: float = 1e-9) -> bool:
    return math.isclose(a, b, rel_tol=tolerance, abs_tol=1e-300)


@CASES
@given(drawn())
def test_the_largest_eigenvalue_is_sharpness_up_to_the_rank(case):
    """Worst-case sharpness, average-case sharpness and the edge of stability."""
    net, x = case
    gradients = by_parameters(net, x)
    H = hessian(net, x)
    S, largest = energy(gradients), float(torch.linalg.eigvalsh(H)[-1])
    m, outputs = len(H), net(x).numel()
    rank = min(m, outputs)
    assert close(float(H.trace()), S)
    assert largest <= S * ROUNDING
    assert rank * largest * ROUNDING >= S
    assert mean_mls(net, x) <= reach(net, x) * math.sqrt(rank * largest) * ROUNDING
    found = comparisons.largest_hessian_eigenvalue(net, x, net(x).detach())
    assert close(found.value, largest, 2e-8)


@CASES
@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 4), st.floats(0.1, 10))
def test_the_worst_rise_and_the_step_at_which_descent_diverges(seed, M, N, rho):
    """Both exactly, for a network whose loss is quadratic."""
    net, x = nets.linear(M, N, seed=seed).double(), gaussian(3, M, seed=seed).double()
    loss, theta = loss_at(net, x, net(x).detach())
    values, vectors = torch.linalg.eigh(hessian(net, x))
    largest, top = float(values[-1]), vectors[:, -1]
    assert close(float(loss(theta + rho * top)), rho**2 * largest / 2)
    other = gaussian(len(theta), seed=seed + 1).double()
    assert loss(theta + rho * other / other.norm()) <= rho**2 * largest / 2 * ROUNDING
    for over_2 in (0.9, 1.1):  # learning rate times largest over 2
        rate = 2 * over_2 / largest
        moved = theta + top
        for _ in range(3):
            moved = moved - rate * torch.func.grad(loss)(moved)
        factor = float(top @ (moved - theta))
        assert close(factor, (1 - 2 * over_2) ** 3, 1e-6)
        assert (abs(factor) > 1) == (over_2 > 1)


@CASES
@given(drawn())
def test_relative_flatness_is_the_last_layers_response_to_relative_changes(case):
    net, x = case
    last, features = linears(net)[-1], net[:-1]
    phi, W = features(x).detach(), last.weight.detach()
    N = len(W)
    kappa = float(W.square().sum() * phi.square().sum()) / len(x)
    y = gaussian(len(x), N, seed=1).double()
    assert close(comparisons.relative_flatness(net, x, y), kappa)
    names = [name for name, _ in net.named_parameters()]
    share = energy([by_parameters(net, x)[names.index(f"linear{len(linears(net))}.weight")]])
    assert close(kappa, float(W.square().sum()) * share / N)
    response = float((phi.norm(dim=1) * spectral(W)).square().mean())
    assert response <= kappa * ROUNDING
    assert kappa <= N * response * ROUNDING
    to_features = torch.linalg.matrix_norm(jacobian(features, x), 2)
    mls = torch.linalg.matrix_norm(jacobian(net, x), 2)
    assert (mls <= to_features * W.norm() * ROUNDING).all()


@CASES
@given(drawn())
def test_adaptive_sharpness_bounds_the_response_to_relative_changes_of_the_input(case):
    net, x = case
    gradients, theta = by_parameters(net, x), [p.detach().flatten() for p in net.parameters()]
    scaled = [each * p for each, p in zip(gradients, theta, strict=True)]
    adaptive, D = energy(scaled), torch.cat(theta)
    H = hessian(net, x) * D[:, None] * D
    largest = float(torch.linalg.eigvalsh(H)[-1])
    assert close(float(H.trace()), adaptive)
    assert close(sharpness.adaptive_sharpness(net, x), adaptive)
    assert largest <= adaptive * ROUNDING
    assert adaptive <= min(len(D), net(x).numel()) * largest * ROUNDING + 1e-300
    J = jacobian(net, x)
    relative = (J * x[:, None, :]).square().sum(dim=(1, 2))
    iimls = (J @ x[:, :, None]).square().sum(dim=(1, 2)) / x.shape[1]
    assert torch.allclose(comparisons.iimls(net, x), iimls, rtol=1e-9, atol=1e-300)
    width = linears(net)[0].out_features
    bound = width * scaled[0].square().sum(dim=(1, 2))
    assert (iimls <= relative * ROUNDING + 1e-300).all()
    assert (relative <= bound * ROUNDING + 1e-300).all()
    assert float(relative.mean()) <= width * adaptive * ROUNDING + 1e-300


def along(net: nn.Module, a: Tensor, b: Tensor) -> tuple[float, float]:
    """Means along a segment, by Gauss and Legendre: of MLS, and of what Eq. (5) bounds it with."""
    nodes, weights = np.polynomial.legendre.leggauss(60)
    t, weight = torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)
    z = a + t[:, None] * (b - a)
    mls = torch.linalg.matrix_norm(jacobian(net, z), 2)
    W = linears(net)[0].weight
    gradient = by_parameters(net, z)[0].flatten(1).norm(dim=1)
    return float(weight @ mls), float(weight @ (spectral(W) * gradient / z.norm(dim=1)))


@CASES
@given(drawn(("tanh", "identity")), st.floats(0.01, 1))
def test_lipschitz_constants_lie_between_sensitivity_and_the_product_of_norms(case, size):
    net, x = case
    a = x[0]
    b = a + size * gaussian(len(a), seed=1).double()
    distance = float((b - a).norm())
    moved = float((net(b[None]) - net(a[None])).detach().norm())
    by_mls, by_weights = along(net, a, b)
    most = math.prod(spectral(layer.weight) for layer in linears(net))
    assert moved <= distance * by_mls * ROUNDING + 1e-14
    assert by_mls <= by_weights * ROUNDING
    assert by_mls <= most * ROUNDING
    J = jacobian(net, x[:1])[0]
    top, h = torch.linalg.svd(J).Vh[0], 1e-6
    slope = float((net(a[None] + h * top) - net(a[None] - h * top)).detach().norm()) / (2 * h)
    assert math.isclose(slope, spectral(J), rel_tol=1e-6, abs_tol=1e-8 * most)


@CASES
@given(drawn(("tanh", "identity")))
def test_features_of_a_class_lie_as_close_as_sensitivity_along_segments_allows(case):
    net, x = case
    features, n = net[:-1], len(x)
    phi = features(x).detach()
    within = float((phi - phi.mean(dim=0)).square().sum()) / n
    pairs = [(i, j) for i in range(n) for j in range(i)]
    apart = sum(float((phi[i] - phi[j]).square().sum()) for i, j in pairs) / n**2
    assert math.isclose(within, apart, rel_tol=1e-9, abs_tol=1e-14)
    allowed = sum(
        (float((x[i] - x[j]).norm()) * along(features, x[i], x[j])[0]) ** 2 for i, j in pairs
    )
    assert within <= allowed / n**2 * ROUNDING + 1e-14


def test_outputs_at_the_samples_do_not_say_how_the_network_responds_there():
    x = torch.tensor([[1.0, 0, 0], [2, 0, 0], [-1, 0, 0]]).double()
    both = toys.dimensionality_pair(3, 3)
    assert torch.allclose(both[0](x), both[1](x), rtol=1e-12)
    G = [float(jacobian(net, x).square().sum((1, 2)).mean()) for net in both]
    assert close(G[0], 3 * G[1])


@CASES
@given(drawn(), st.integers(0, 2**31))
def test_local_dimensionality_is_the_datas_up_to_the_condition_of_their_covariance(case, seed):
    net, x = case
    J = jacobian(net, x)
    M = x.shape[1]
    root = gaussian(M, M + 2, seed=seed).double()
    C = root @ root.T / (M + 2) + 0.1 * torch.eye(M)
    spread = torch.linalg.cond(C)
    here, there = participation(J @ J.mT), participation(J @ C @ J.mT)
    alive = J.square().sum((1, 2)) > 1e-20
    assert (there[alive] <= here[alive] * spread**2 * ROUNDING).all()
    assert (here[alive] <= there[alive] * spread**2 * ROUNDING).all()
    narrowest = min(M, *(layer.out_features for layer in linears(net)))
    assert (here[alive] <= narrowest * ROUNDING).all()
    found = flatlib.measure(net, x).local_dimensionality
    assert torch.allclose(found[alive], here[alive], rtol=1e-9)


def test_a_layer_may_raise_the_dimensionality_up_to_the_narrowest_width():
    first, second = torch.diag_embed(torch.tensor([[1, 0.1], [0.1, 1]], dtype=torch.float64))
    net = nets.mlp([2, 2, 2], "identity").double()
    with torch.no_grad():
        for layer, W in zip(linears(net), (first, second), strict=True):
            layer.weight.copy_(W)
    x = gaussian(3, 2, seed=1).double()
    (whole, *_) = jacobian(net, x)
    assert math.isclose(float(participation(first @ first.mT)), 1.01**2 / 1.0001, rel_tol=1e-12)
    assert math.isclose(float(participation(whole @ whole.mT)), 2, rel_tol=1e-12)


@CASES
@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 4))
def test_dimensionality_of_the_outputs_of_a_linear_map(seed, M, N):
    net, x = nets.linear(M, N, seed=seed).double(), gaussian(9, M, seed=seed).double()
    W = net.linear1.weight.detach()
    outputs, inputs = torch.cov(net(x).detach().T), torch.cov(x.T)
    outputs, inputs = outputs.reshape(N, N), inputs.reshape(M, M)
    assert close(float(participation(outputs)), float(participation(W @ inputs @ W.T)))


@CASES
@given(drawn(), st.integers(1, 4), st.integers(0, 2**31))
def test_stability_to_deformations_is_at_most_the_top_share_of_the_spectrum(case, count, seed):
    net, x = case
    J, M = jacobian(net, x), x.shape[1]
    energies, mls = J.square().sum((1, 2)), torch.linalg.matrix_norm(J, 2)
    alive = energies > 1e-20
    J, energies, mls = J[alive], energies[alive], mls[alive]

    def stability(moves: Tensor) -> Tensor:
        """By displacements ``(count, M)``, over noise of the same length."""
        moved = (J @ moves.T).square().sum((1, 2))
        return M * moved / (moves.square().sum() * energies)

    most = M * mls.square() / energies
    assert (stability(gaussian(count, M, seed=seed).double()) <= most * ROUNDING).all()
    assert torch.allclose(stability(torch.eye(M).double()), torch.ones(len(J)).double())
    top = torch.linalg.svd(J).Vh[:, :1]
    for index, one in enumerate(top):
        assert close(float(stability(one)[index]), float(most[index]))
    assert (most >= M / participation(J @ J.mT) / ROUNDING).all()
    assert (most <= M * ROUNDING).all()


def test_sharpness_does_not_decide_the_stability_to_deformations():
    x = gaussian(4, 3, seed=1).double()
    maps = [toys.with_singular_values(values, 3) for values in ((1.0, 1.0), (1.0, 0.1))]
    S = [energy(by_parameters(net, x)) for net in maps]
    J = [jacobian(net, x)[0] for net in maps]
    most = [3 * spectral(one) ** 2 / float(one.square().sum()) for one in J]
    assert close(S[0], S[1])
    assert close(most[0], 3 / 2)
    assert close(most[1], 3 / 1.01)


@CASES
@given(drawn())
def test_the_tangent_kernel_holds_sharpness_as_its_trace(case):
    net, x = case
    gradients = torch.cat(by_parameters(net, x), dim=2)  # (n, N, m)
    rows = gradients.flatten(0, 1)
    K, n = rows @ rows.T, len(x)
    S = float(flatlib.measure(net, x).sharpness)
    assert close(float(K.trace()) / n, S)
    H = hessian(net, x)
    largest = float(torch.linalg.eigvalsh(H)[-1])
    assert math.isclose(float(torch.linalg.eigvalsh(K)[-1]) / n, largest, rel_tol=1e-8)
    assert mean_mls(net, x) <= reach(net, x) * math.sqrt(float(K.trace()) / n) * ROUNDING
    y = gaussian(*net(x).shape, seed=1).double()
    residual = (net(x).detach() - y).flatten()
    loss, theta = loss_at(net, x, y)
    step = rows @ -torch.func.grad(loss)(theta)
    largest_entry = float(step.abs().max())
    assert torch.allclose(step, -K @ residual / n, rtol=1e-9, atol=1e-12 * largest_entry)


def test_the_page_names_what_the_library_has():
    page = Path(__file__).resolve().parents[1] / "book" / "where-this-stands.md"
    names = set(re.findall(r"`([a-z_.\[\]]+)`", page.read_text(encoding="utf-8")))
    m = flatlib.measure(nets.linear(2, 1), torch.ones(1, 2))
    known = SimpleNamespace(flatlib=flatlib, m=m, layer=m.layers[0])
    assert len(names) > 10
    for name in names:
        name = name.replace("m.layers[l]", "layer")
        attrgetter(name if name.startswith(("m.", "layer.")) else f"flatlib.{name}")(known)
