"""Each erratum in numbers: the statement as printed fails where the corrected one holds.

Plain autograd throughout, so that nothing here rests on what the library concluded.
"""

import math
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

from flatlib import nets, toys


def gaussian(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def vector(*entries):
    return torch.tensor(entries, dtype=torch.float64)


def spectral(matrix):
    return float(torch.linalg.matrix_norm(matrix, 2))


def close(a, b):
    return math.isclose(float(a), float(b), rel_tol=1e-9)


def jacobian(net, x):
    """(n, N, M)."""
    one = torch.func.jacrev(lambda v: net(v[None])[0])
    return torch.stack([one(sample) for sample in x]).detach()


def gradients(net, x):
    """Per parameter name, the Jacobian of the outputs at each sample (n, N, ...)."""
    parameters = {k: p.detach() for k, p in net.named_parameters() if p.requires_grad}

    def outputs(p, sample):
        return torch.func.functional_call(net, p, (sample[None],))[0]

    each = [torch.func.jacrev(outputs)(parameters, sample) for sample in x]
    return {k: torch.stack([e[k] for e in each]) for k in parameters}


def sharpness(net, x):
    """Eq. (3)."""
    return sum(g.square().sum().item() for g in gradients(net, x).values()) / len(x)


def hessian_trace(net, x, y):
    """Eq. (2), from an explicit Hessian."""
    trainable = [(k, p) for k, p in net.named_parameters() if p.requires_grad]
    shapes = {k: p.shape for k, p in trainable}
    theta = torch.cat([p.detach().flatten() for _, p in trainable])

    def loss(flat):
        pieces = flat.split([shape.numel() for shape in shapes.values()])
        p = {k: piece.view(s) for (k, s), piece in zip(shapes.items(), pieces, strict=True)}
        return (torch.func.functional_call(net, p, (x,)) - y).square().sum() / (2 * len(x))

    return torch.autograd.functional.hessian(loss, theta).trace().item()


def chain(net, x):
    """A, B, C, D and C' by their definitions."""
    W = spectral(next(net.parameters()).detach())
    norm = x.flatten(1).norm(dim=1)
    mls = torch.linalg.matrix_norm(jacobian(net, x).flatten(2), 2)
    gradient = next(iter(gradients(net, x).values())).flatten(1).norm(dim=1)
    inverse = norm.pow(-2).mean().sqrt()
    return {
        "A": mls.mean().item(),
        "B": W * (gradient / norm).mean().item(),
        "C": W * (inverse * gradient.square().mean().sqrt()).item(),
        "C'": W * (gradient / norm).square().mean().sqrt().item(),
        "D": W * inverse.item() * math.sqrt(sharpness(net, x)),
    }


@pytest.mark.parametrize("m", [2, 5, 20])
def test_16_needs_the_number_of_parameters(m):
    net = toys.from_weights([torch.ones(m, 1), torch.ones(1, m)], activation="tanh")
    net.linear2.requires_grad_(False)
    x, epsilon = vector([1.0]), 1e-3
    y = net(x).detach() - epsilon
    gap = abs(hessian_trace(net, x, y) - sharpness(net, x))
    largest = 2 * math.tanh(1.0) * (1 - math.tanh(1.0) ** 2)  # |tanh''(1)|, every parameter's
    assert gap > largest * epsilon  # as printed
    assert gap <= m * largest * epsilon * (1 + 1e-9)
    assert math.isclose(gap, m * largest * epsilon, rel_tol=1e-8)  # attained


def test_16_is_not_strict_for_a_network_linear_in_its_parameters():
    net, x, y = nets.linear(4, 2, seed=1).double(), gaussian(5, 4), gaussian(5, 2, seed=2)
    gap = abs(hessian_trace(net, x, y) - sharpness(net, x))
    residual = (net(x) - y).abs().max().item()
    assert residual > 0.1  # far from interpolation, and yet both sides are 0
    assert gap < 1e-9


def test_accuracy_one_does_not_make_3_the_sharpness():
    net = toys.from_weights([vector([1.0]), vector([10.0], [-10.0])], activation="tanh")
    x, y = vector([1.0], [-1.0]), torch.eye(2).double()
    assert torch.equal(net(x).argmax(dim=1), torch.arange(2))  # all classified correctly
    assert hessian_trace(net, x, y) < 0 < sharpness(net, x)
    assert close(hessian_trace(net, x, net(x).detach()), sharpness(net, x))  # interpolation


def test_8_needs_a_transpose_and_a_remainder():
    net, x = nets.mlp((4, 6, 2), "tanh", seed=3).double(), gaussian(1, 4, seed=4)
    gradient = jacobian(net, x)[0].T  # the paper's convention, M x N
    direction = gaussian(4, seed=5)
    with pytest.raises(RuntimeError):
        gradient @ direction  # as printed
    relative = []
    for h in (1.0, 1e-3):
        moved = (net(x + h * direction) - net(x))[0].detach()
        relative.append((moved - gradient.T @ (h * direction)).norm().item() / h)
    assert relative[0] > 1e-3  # no equality
    assert relative[1] < 1e-2 * relative[0]  # but a remainder of higher order


def test_9_is_the_product_of_the_other_order_and_divides_by_alpha():
    net, x = nets.mlp((5, 7, 2), "tanh", seed=6).double(), gaussian(1, 5, seed=7)
    gradient = jacobian(net, x)[0].T
    z = gaussian(40_000, 5, seed=8)

    def covariance(alpha):
        return torch.cov(net(x + math.sqrt(alpha) * z).detach().T)

    printed, corrected = gradient @ gradient.T, gradient.T @ gradient
    C = covariance(1e-8) / 1e-8
    assert printed.shape == (5, 5) != C.shape
    assert (C - corrected).norm() < 0.05 * corrected.norm()
    assert covariance(1e-8).norm() < 1e-3 * covariance(1e-4).norm()  # the limit as printed is 0


def test_10_is_no_limit_of_a_ratio_of_cubes():
    row = vector([3.0, 4.0])  # N = 1, M = 2, volume 5
    ratio = [h * row.abs().sum().item() / h**2 for h in (1e-1, 1e-3)]
    assert close(ratio[1], 100 * ratio[0])  # no limit
    in_row_space = row[0] / row.norm()
    assert close(row[0] @ in_row_space, 5.0)
    for angle in torch.linspace(0, 3, 7).tolist():
        other = vector(math.cos(angle), math.sin(angle))
        assert abs(row[0] @ other) <= 5.0 + 1e-12


@pytest.mark.parametrize(("values", "alpha"), [((2.0, 0.5), 0.01), ((2.0, 0.0), 1.0)])
def test_10_is_not_the_product_of_positive_eigenvalues(values, alpha):
    J = jacobian(toys.with_singular_values(values, 3, seed=9), gaussian(1, 3))[0]
    C = alpha * J @ J.T
    eigenvalues = torch.linalg.eigvalsh(C).clamp(min=0)
    positive = eigenvalues[eigenvalues > 1e-12].prod().sqrt().item()
    volume = math.prod(values)
    assert abs(positive - volume) > 0.1
    N = len(values)
    by_determinant = math.sqrt(max(torch.linalg.det(C).item(), 0.0)) / alpha ** (N / 2)
    assert math.isclose(by_determinant, volume, rel_tol=1e-6, abs_tol=1e-7)


def test_19_means_nothing_at_infinity_where_lemma_b1_holds():
    v = np.array([0.3, -0.5, 0.5])
    with np.errstate(all="ignore"):
        printed = np.sum(np.abs(v) ** np.inf) ** (1 / np.inf)
    assert printed != np.abs(v).max()
    for p in (1, 1.5, 2, 10):
        assert np.linalg.norm(v, p) >= np.abs(v).max()


def test_b1_holds_where_its_printed_proof_excludes_equal_entries():
    for a in (0.1, 1.0, 7.0):
        for k in (0.2, 0.5, 0.9):
            assert (a + a) ** k <= a**k + a**k


def test_13_in_words_is_no_bound():
    net, x = nets.linear(4, 2, seed=10).double(), 0.1 * gaussian(6, 4, seed=11)
    W = next(net.parameters()).detach()
    words = W.norm().item() * x.norm(dim=1).square().mean().sqrt().item()
    words *= math.sqrt(sharpness(net, x))
    numbers = chain(net, x)
    assert numbers["A"] > words
    assert numbers["A"] <= numbers["D"]


def test_a_equals_b_needs_the_top_vectors_only():
    U = toys.orthonormal_rows(3, 3, seed=12).T
    W = U @ torch.diag(vector(3.0, 2.0, 1.0))
    tilted = torch.stack([U[:, 0], (U[:, 1] + U[:, 2]) / math.sqrt(2)], dim=1)
    top_only = tilted @ torch.diag(vector(2.0, 1.0))
    overlap = (torch.linalg.svd(top_only).U[:, 1] @ U).abs().max()
    assert overlap < 0.8  # its second left singular vector is none of W's
    assert close(spectral(W.T @ top_only), spectral(W) * spectral(top_only))
    all_shared = U @ torch.diag(vector(1.0, 2.0, 1.5))
    assert spectral(W.T @ all_shared) < 0.9 * spectral(W) * spectral(all_shared)


def test_b_equals_c_needs_the_product_constant():
    net, x = nets.linear(4, 3, seed=13).double(), gaussian(6, 4, seed=14)
    gradient = gradients(net, x)["linear1.weight"].flatten(1).norm(dim=1)
    quotient = gradient / x.norm(dim=1)
    assert close(quotient.min(), quotient.max())  # the printed condition
    numbers = chain(net, x)
    assert numbers["B"] < 0.99 * numbers["C"]
    assert close(numbers["B"], numbers["C'"])  # what the printed condition is about
    unit = chain(net, x / x.norm(dim=1, keepdim=True))
    assert close(unit["B"], unit["C"])  # the product is constant


@pytest.mark.parametrize("c", [5.0, 50.0])
def test_d_moves_under_rescaling_and_c_does_not(c):
    net, x = nets.mlp((4, 6, 3), "relu", seed=15).double(), gaussian(5, 4, seed=16)
    twin = toys.rescaled(net, (c, 1 / c))
    assert torch.allclose(net(x), twin(x), rtol=1e-9, atol=1e-12)
    old, new = chain(net, x), chain(twin, x)
    assert all(close(old[k], new[k]) for k in ("A", "B", "C", "C'"))
    parts = {k: g.square().sum().item() / len(x) for k, g in gradients(net, x).items()}
    first = parts["linear1.weight"] + parts["linear1.bias"]
    grown = first + c**2 * parts["linear2.bias"] + c**4 * parts["linear2.weight"]
    assert close(new["D"] / new["C"], math.sqrt(grown / parts["linear1.weight"]))
    assert new["D"] > 2 * old["D"]


def test_c_equals_d_for_one_linear_layer_and_not_for_two():
    x = gaussian(5, 4, seed=17)
    one = chain(nets.linear(4, 2, seed=18).double(), x)
    two = chain(nets.mlp((4, 3, 2), "identity", bias=False, seed=18).double(), x)
    assert close(one["C"], one["D"])
    assert two["C"] < 0.99 * two["D"]


def test_flatness_does_not_decide_the_tightness_of_a_linear_model():
    x = gaussian(5, 4, seed=19)
    round_net = toys.with_singular_values((1.0, 1.0), 4, seed=20)
    thin_net = toys.with_singular_values((1.0, 0.1), 4, seed=21)
    assert close(sharpness(round_net, x), sharpness(thin_net, x))
    ratio = [c["D"] / c["A"] for c in (chain(round_net, x), chain(thin_net, x))]
    assert close(*ratio)
    deep = nets.mlp((4, 6, 2), "identity", bias=False, seed=22).double()
    S_1, S_2 = (g.square().sum().item() for g in gradients(deep, x).values())
    c = (S_1 / S_2) ** 0.25
    flattest = toys.rescaled(deep, (c, 1 / c))
    shrunk = toys.rescaled(deep, (c / 10, 10 / c))
    assert sharpness(flattest, x) < sharpness(shrunk, x)
    assert chain(flattest, x)["D"] > chain(shrunk, x)["D"]  # as printed it would be smallest


def test_4_fails_behind_a_convolution():
    net, image = toys.cancelling_convolution(side=6, seed=23)
    gradient = gradients(net, image)["convolution.weight"]
    assert (gradient == 0).all()
    J = torch.autograd.functional.jacobian(net, image).flatten(1)
    assert J.norm() > 0.1  # A > 0 = B = C = D
    delta = net.readout.weight.detach()  # gradient at the convolution's output
    basis = torch.eye(36, dtype=torch.float64).view(36, 1, 6, 6)
    T_W = net.convolution(basis).detach().flatten(1).T
    assert spectral(J) <= spectral(T_W) * delta.norm() * (1 + 1e-12)


@pytest.mark.parametrize("N", [2, 3, 5])
def test_12_has_a_factor_to_spare_and_is_attained_with_it(N):
    def sides(net, x):
        """Mean volume and the right side of (12), one sample."""
        W = next(net.parameters()).detach().norm() / x.norm()
        volume = torch.linalg.svdvals(jacobian(net, x)[0]).prod().item()
        return volume, float(W**N) * (sharpness(net, x) / N) ** (N / 2)

    x = gaussian(1, N + 2, seed=24)
    volume, printed = sides(toys.with_singular_values([0.7] * N, N + 2, seed=25), x)
    assert close(volume, printed / N ** (N / 2))
    for seed in range(10):
        net = nets.mlp((N + 2, N + 3, N), "tanh", bias=False, seed=seed).double()
        volume, printed = sides(net, x)
        assert volume <= printed / N ** (N / 2)


def test_3_is_exact_at_any_loss_for_relu_with_pooling():
    torch.manual_seed(26)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(2, 2, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(18, 2),
    ).double()
    x, y = gaussian(2, 1, 6, 6, seed=27), 10 * gaussian(2, 2, seed=28)
    loss = (net(x) - y).square().sum().item() / 4
    assert loss > 10  # no interpolation
    assert close(hessian_trace(net, x, y), sharpness(net, x))
    curved = nets.mlp((4, 5, 2), "tanh", seed=29).double()
    x = gaussian(3, 4, seed=30)
    assert not close(hessian_trace(curved, x, y[:1] + 0 * x[:, :2]), sharpness(curved, x))


@pytest.mark.parametrize("v", [1.0, 1e-2, 1e-4])
def test_the_sharpness_of_the_loss_bounds_no_middle_layer(v):
    hidden = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Tanh()).double()
    readout = torch.nn.Linear(1, 1, bias=False).double()
    for parameter, value in zip(
        [*hidden.parameters(), *readout.parameters()], (3.0, -3.0, v), strict=True
    ):
        torch.nn.init.constant_(parameter, value)
    whole, x = torch.nn.Sequential(*hidden, readout), vector([1.0])
    with_loss = chain(whole, x)["D"]
    assert close(with_loss, v * math.sqrt(18))
    own = chain(hidden, x)
    assert close(own["A"], 3)
    assert own["A"] <= own["D"]  # with the middle layer's own S
    assert (with_loss < own["A"]) == (v < 1)  # with the loss's


def test_the_bound_12_moves_under_rescaling_and_the_volume_does_not():
    net, x = nets.mlp((4, 6, 3), "relu", seed=31).double(), gaussian(5, 4, seed=32)

    def sides(c):
        twin = toys.rescaled(net, (c, 1 / c))
        W = next(twin.parameters()).detach().norm().item()
        volume = torch.linalg.svdvals(jacobian(twin, x)).prod(dim=1).mean().item()
        nearest = x.norm(dim=1).min().item()
        return volume, 5**0.5 * (W / nearest) ** 3 * (sharpness(twin, x) / 3) ** 1.5

    volume, right = sides(1.0)
    for c in (10.0, 100.0):
        assert close(sides(c)[0], volume)
    assert sides(100.0)[1] > 1e6 * right
    assert math.isclose(sides(1e4)[1] / sides(1e3)[1], 10**6, rel_tol=1e-4)


def test_7_at_k_1_is_no_looser_than_13_for_inputs_of_one_norm():
    net, x = nets.mlp((4, 6, 3), "tanh", seed=33).double(), gaussian(8, 4, seed=34)

    def three(x):
        """Right sides of (7) at k = 1, of (13), and the root of (7)'s at k = 2."""
        each = sum(g.flatten(1).square().sum(dim=1) for g in gradients(net, x).values())
        reach = spectral(next(net.parameters()).detach()) / x.norm(dim=1).min()
        return [
            (reach * each.sqrt().mean()).item(),
            chain(net, x)["D"],
            (reach * each.mean().sqrt()).item(),
        ]

    at_1, D, at_2 = three(x / x.norm(dim=1, keepdim=True))
    assert chain(net, x / x.norm(dim=1, keepdim=True))["A"] < at_1 < D
    assert close(D, at_2)
    _, D, at_2 = three(x)
    assert D < at_2


@pytest.mark.parametrize("seed", range(5))
def test_both_halves_of_14_are_bounded_from_above_and_neither_from_below(seed):
    net, x = nets.mlp((4, 6, 3), "tanh", seed=seed).double(), gaussian(6, 4, seed=seed)
    J = jacobian(net, x)
    C = J @ J.mT
    W = spectral(next(net.parameters()).detach())
    energy = gradients(net, x)["linear1.weight"].flatten(1).square().sum(dim=1)
    most = (W**2 * energy / x.square().sum(dim=1)) ** 2
    numerator = C.diagonal(dim1=1, dim2=2).sum(dim=1).square()
    denominator = (C @ C).diagonal(dim1=1, dim2=2).sum(dim=1)
    assert (numerator <= most).all()
    assert (denominator <= most).all()
    tiny = toys.with_singular_values((1e-3, 1e-3), 4, seed)
    large = toys.with_singular_values((1.0, 1.0), 4, seed)
    assert close(sharpness(tiny, x), sharpness(large, x))
    assert jacobian(tiny, x).square().sum() < 1e-5 * jacobian(large, x).square().sum()


def test_22_means_nothing_at_infinity_where_lemma_b2_holds():
    for v in (np.array([2.0, -3.0, 3.0]), np.array([0.3, -0.5, 0.5])):
        for p in (1, 2):
            left = np.sum(np.abs(v) ** p)
            right = 3 * np.abs(v).max() ** p
            with np.errstate(all="ignore"):
                middle = np.sum(np.abs(v) ** np.inf) ** (p / np.inf) * 3.0
            assert middle == 3 != right  # the printed equality
            assert left <= right
    assert np.sum(np.abs([2.0, -3.0, 3.0])) > 3  # and the printed inequality


def test_12_needs_its_index_in_the_middle():
    net = toys.with_singular_values((0.7, 0.7), 3, seed=35)
    net.append(torch.nn.Tanh())
    x = gaussian(2, 3, seed=36) * vector([0.01], [30.0])
    values = torch.linalg.svdvals(jacobian(net, x))
    volume, energy = values.prod(dim=1).mean(), values.square().sum(dim=1) / 2
    assert volume <= energy.mean()
    assert volume > energy.min()  # one x for all the terms


def test_16_needs_the_sum_over_parameters_and_15_is_about_theta():
    net, x = nets.mlp((3, 4, 2), "tanh", seed=37).double(), gaussian(4, 3, seed=38)
    parameters = list(net.parameters())

    def gap(miss, kept=parameters):
        for parameter in parameters:
            parameter.requires_grad_(any(parameter is k for k in kept))
        y = net(x).detach() + miss
        return hessian_trace(net, x, y) - sharpness(net, x)

    whole, parts = gap(0.1), [gap(0.1, [parameter]) for parameter in parameters]
    assert math.isclose(whole, sum(parts), rel_tol=1e-9)
    assert all(abs(whole - part) > 1e-3 * abs(whole) for part in parts)
    assert abs(gap(0.0)) < 1e-12 < abs(whole)  # at theta*: equal, whatever epsilon
    assert math.isclose(gap(0.2), 2 * whole, rel_tol=1e-9)


def test_the_table_of_the_chapter_lists_every_erratum_in_order():
    path = Path(__file__).resolve().parents[1] / "notebooks" / "09-errata.ipynb"
    cells = nbformat.read(path, as_version=4).cells
    lines = "\n".join(c.source for c in cells if c.cell_type == "markdown").splitlines()
    headings = [line.removeprefix("### ") for line in lines if line.startswith("### ")]
    rows = [line.split(" | ")[0].removeprefix("| ") for line in lines if line.startswith("| ")]
    assert rows == ["where", *headings]
