"""Populations: draws, networks, optimizers, what is measured, and an archive of whole networks."""

from __future__ import annotations

import copy
import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import flatlib
from flatlib import nets
from flatlib.files import write_atomically
from flatlib.lab import archive, commands, populations
from flatlib.lab.experiments.config import load_data
from flatlib.lab.populations import POPULATIONS, Population, protocol, work
from flatlib.lab.populations.adaptive import adaptive
from flatlib.lab.populations.draws import choice, log_uniform, log_uniform_integer, uniform
from flatlib.lab.populations.networks import Attention, lenet5, vision_transformer
from flatlib.lab.populations.optimizers import OPTIMIZERS, SAM_RADIUS
from flatlib.lab.populations.robustness import (
    CORRUPTIONS,
    accuracy,
    adversarial_sensitivity,
    as_images,
    blur,
    calibration_error,
    contrast,
    gaussian_noise,
    impulse_noise,
    margin,
    pgd_accuracies,
    shot_noise,
)
from flatlib.lab.populations.rows import losses
from flatlib.lab.records import Record, RecordError
from flatlib.lab.training import Trainer
from flatlib.sharpness import adaptive_sharpness

TINY = Population(
    name="tiny",
    title="for tests",
    net="mlp-relu-digits",
    data="digits",
    networks=3,
    lr=(0.3, 1.0),
    batch_size=(8, 32),
    level=0.08,
    fixed_step=60,
    limit=200,
    check_every=20,
    sizes={"width": (12, 16), "depth": (1, 2)},
)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(POPULATIONS, "tiny", TINY)
    return TINY


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """An archive of two networks, the later one made first."""
    results = tmp_path_factory.mktemp("two")
    for index in (1, 0):
        made(TINY.network(index), results)
    return results


@pytest.fixture
def results(two, tmp_path):
    """A copy of it."""
    shutil.copytree(two, tmp_path, dirs_exist_ok=True)
    return tmp_path


def made(network, results):
    return populations.make(network, network.scale, results)


def table_bytes(network, results):
    return Record(results, network.scale, network.name).table_path.read_bytes()


# Draws


def test_draws_are_the_known_ones_whatever_was_drawn_before():
    # printf mlp-relu:0:lr | sha256sum | cut -c1-16
    digest = "e645e9a84a61f836"
    assert uniform("mlp-relu", 0, "lr") == (int(digest, 16) >> 11) / 2**53
    known = [(0.4253, 12), (0.2521, 24), (0.2826, 7)]
    population = POPULATIONS["mlp-relu"]
    for index in (2, 0, 1):
        network = population.network(index)
        assert (network.lr, network.batch_size, network.seed) == (*known[index], index)
    more = replace(population, sizes={"width": (1, 2)})
    assert more.network(1).lr == population.network(1).lr


def test_draws_are_uniform_and_independent():
    names = ("lr", "batch_size", "width", "depth", "heads")
    u = np.array([[uniform("any", index, name) for name in names] for index in range(2000)])
    for column in u.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3
    rho = stats.spearmanr(u).statistic[np.triu_indices(len(names), 1)]
    assert np.abs(rho).max() < 3.5 / math.sqrt(len(u))
    # Neither do neighbours, nor the same index of another population, tell anything.
    other = [uniform("other", index, "lr") for index in range(2000)]
    assert abs(stats.spearmanr(u[:, 0], other).statistic) < 3.5 / math.sqrt(len(u))
    assert abs(stats.spearmanr(u[1:, 0], u[:-1, 0]).statistic) < 3.5 / math.sqrt(len(u))


def test_distributions_are_log_uniform_between_their_ends():
    u = (np.arange(20_000) + 0.5) / 20_000
    rates = np.array([log_uniform(each, 0.01, 0.5) for each in u])
    assert 0.01 <= rates.min() and rates.max() <= 0.5
    assert abs(np.log(rates).mean() - np.log([0.01, 0.5]).mean()) < 1e-4
    sizes = np.array([log_uniform_integer(each, 4, 64) for each in u])
    assert (sizes.min(), sizes.max()) == (4, 64)
    for k in (4, 10, 64):
        assert abs((sizes == k).mean() - math.log((k + 1) / k) / math.log(65 / 4)) < 1e-4
    assert [choice(each, "abc") for each in (0.0, 0.34, 0.99)] == ["a", "b", "c"]


def test_every_population_draws_within_its_ranges_and_can_be_built():
    for population in POPULATIONS.values():
        drawn = [population.network(index) for index in range(population.networks)]
        rates = [network.lr / OPTIMIZERS[network.optimizer].rate for network in drawn]
        low, high = population.lr
        assert low * 0.999 <= min(rates) and max(rates) <= high * 1.001
        batches = [network.batch_size for network in drawn]
        assert population.batch_size[0] <= min(batches) <= max(batches) <= population.batch_size[1]
        assert len({(n.optimizer, n.seed) for n in drawn}) == population.networks
        layers = set(population.layers())
        for network in drawn[:3]:
            net = network.net()
            kinds = (nn.Linear, nn.Conv2d)
            assert {n for n, m in net.named_modules() if isinstance(m, kinds)} <= layers
            assert json.loads(json.dumps(network.identity)) == network.identity


@pytest.mark.parametrize("change", [{"fixed_step": 30}, {"limit": 0}, {"limit": 210}])
def test_steps_that_no_check_comes_to_are_refused(change):
    with pytest.raises(ValueError, match=f"{next(iter(change))} must be a positive multiple"):
        replace(TINY, **change)


# Networks


def test_lenet5_has_its_parameters_and_initialization():
    net = lenet5(seed=1)
    convolutions = 6 * (3 * 25 + 1) + 16 * (6 * 25 + 1)
    dense = 120 * (400 + 1) + 84 * (120 + 1) + 10 * (84 + 1)
    assert sum(p.numel() for p in net.parameters()) == convolutions + dense
    assert not any(bool(m.bias.any()) for m in net if hasattr(m, "bias"))
    assert abs(float(net.linear1.weight.detach().std()) - math.sqrt(2 / (400 + 120))) < 0.002
    assert torch.equal(lenet5(seed=1).conv2.weight, net.conv2.weight)
    assert not torch.equal(lenet5(seed=2).conv2.weight, net.conv2.weight)


def test_attention_is_the_one_of_torch():
    torch.manual_seed(0)
    ours, theirs = Attention(12, 3), nn.MultiheadAttention(12, 3, batch_first=True)
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = ours.qkv.weight.data, ours.qkv.bias.data
    theirs.out_proj.weight.data, theirs.out_proj.bias.data = (
        ours.out.weight.data,
        ours.out.bias.data,
    )
    tokens = torch.randn(4, 5, 12)
    torch.testing.assert_close(ours(tokens), theirs(tokens, tokens, tokens)[0])


def test_vision_transformer_sees_patches_and_their_places():
    net = vision_transformer(8, 2, 2, side=4, patch=2, seed=3).eval()
    x = torch.rand(3, 16)
    swapped = x.clone().reshape(3, 4, 4)
    swapped[:, :, :2], swapped[:, :, 2:] = (
        x.reshape(3, 4, 4)[:, :, 2:],
        x.reshape(3, 4, 4)[:, :, :2],
    )
    assert not torch.allclose(net(x), net(swapped.flatten(1)))
    net.positions.data.zero_()  # without places a patch is a patch wherever it is
    torch.testing.assert_close(net(x), net(swapped.flatten(1)))
    measured = flatlib.measure(net, x)
    slow = flatlib.derivatives.parameter_jacobian(net, x).square().sum(dim=(1, 2))
    torch.testing.assert_close(measured.parameter_gradient_energy, slow, rtol=1e-9, atol=0)
    for block in net.blocks:  # without what they add, the class token has seen no patch
        for layer in (block.attention.out, block.linear2):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    assert torch.equal(net(x)[0], net(x)[1])
    for bad in ((9, 2, 2), (8, 2, 3)):
        with pytest.raises(ValueError, match="width must be a multiple of heads"):
            vision_transformer(*bad)
    with pytest.raises(ValueError, match="side must be a multiple of patch"):
        vision_transformer(8, 1, 2, side=27)


# Optimizers


def quadratic(optimizer, **named):
    """A trainer of ``f(x) = W x`` in float64 on all of six samples at each step."""
    data = flatlib.lab.data.load("gaussian", n=6, M=3, N=2)
    net = nets.linear(3, 2, seed=1).double()
    x, y = data.train_x.double(), data.train_y.double()
    make = OPTIMIZERS[optimizer].trainer
    return make(net, x, y, 0.1, len(x), "mse", **named), x, y


def gradient(W, x, y):
    return (x @ W.T - y).T @ x / y.numel() * 2


def by_hand(name, steps, x, y, W):
    """Each optimizer's weights after some steps, from its textbook's formulas."""
    velocity = first = second = torch.zeros_like(W)
    for t in range(1, steps + 1):
        g = gradient(W, x, y)
        if name == "momentum":
            velocity = 0.9 * velocity + g
            W = W - 0.1 * velocity
        elif name == "weight-decay":
            W = W - 0.1 * (g + 1e-4 * W)
        elif name == "adam":
            first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
            W = W - 0.1 * (first / (1 - 0.9**t)) / ((second / (1 - 0.999**t)).sqrt() + 1e-8)
        elif name == "sam":
            W = W - 0.1 * gradient(W + SAM_RADIUS * g / g.norm(), x, y)
        else:
            W = W - 0.1 * g
    return W


@pytest.mark.parametrize("name", ["sgd", "momentum", "weight-decay", "adam", "sam"])
def test_an_optimizer_takes_its_steps(name):
    trainer, x, y = quadratic(name)
    start = trainer.net.linear1.weight.detach().clone()
    trainer.advance(5)
    expected = by_hand(name, 5, x, y, start)
    torch.testing.assert_close(trainer.net.linear1.weight.detach(), expected, rtol=1e-9, atol=1e-12)
    plain = by_hand("sgd", 5, x, y, start)
    assert name == "sgd" or float((expected - plain).abs().max()) > 1e-6


def test_label_noise_moves_the_targets_by_its_standard_deviation_about_them():
    trainer, _, y = quadratic("label-noise")
    index = torch.arange(6).repeat(5000)
    moved = trainer.targets(index) - y[index]
    assert abs(float(moved.mean())) < 0.002 and abs(float(moved.std()) - 0.1) < 0.002
    assert torch.equal(trainer.y, y)
    other = quadratic("label-noise", seed=1)[0]
    assert not torch.equal(other.targets(index) - y[index], moved)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_goes_on_to_the_same_bits(name):
    straight, stopped, resumed = (quadratic(name, seed=2)[0] for _ in range(3))
    straight.advance(7)
    stopped.advance(3)
    state = copy.deepcopy(stopped.state())
    resumed.restore(state)
    resumed.advance(7)
    assert torch.equal(resumed.net.linear1.weight, straight.net.linear1.weight)


# Adaptive sharpness and Eq. N.14


def small_convolution():
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, groups=2),
        nn.Tanh(),
        nn.Conv2d(4, 3, 3, stride=2, bias=False),
        nn.Flatten(),
        nn.Linear(12, 3),
    ).eval()


@pytest.mark.parametrize(
    "net, shape",
    [
        (nets.mlp((5, 7, 6, 3), "tanh", seed=2), (5,)),
        (small_convolution(), (2, 6, 6)),
        (vision_transformer(8, 2, 2, side=4, patch=2, outputs=3, seed=3).eval(), (16,)),
    ],
)
def test_adaptive_sharpness_is_the_slow_one(net, shape):
    x = torch.rand(4, *shape, generator=torch.Generator().manual_seed(1))
    fast = float(adaptive(net, x).parameters.mean())
    assert fast == pytest.approx(adaptive_sharpness(net, x), rel=1e-10)


def test_both_sides_of_n14_are_those_of_their_definition():
    net, x = nets.mlp((5, 7, 3), "tanh", seed=2).double(), torch.rand(6, 5).double() - 0.3
    W, sides = net.linear1.weight, []
    for row in x:
        row = row.clone().requires_grad_()
        grads = [
            torch.autograd.grad(value, [row, W], retain_graph=True) for value in net(row[None])[0]
        ]
        left = sum(float((row * g).square().sum()) for g, _ in grads)
        sides.append((left, 7 * sum(float((W * g).square().sum()) for _, g in grads)))
    expected = max(sides, key=lambda pair: pair[0] / pair[1])
    assert adaptive(net, x).sides() == pytest.approx(expected, rel=1e-10)
    assert all(left <= right for left, right in sides)
    image = torch.rand(2, 2, 6, 6)
    assert all(math.isnan(side) for side in adaptive(small_convolution(), image).sides())


# Robustness


def interior(n, M, seed=0):
    """Points so far inside the cube of pixels that no attack comes to its walls."""
    return 0.5 + 0.02 * torch.randn(n, M, generator=torch.Generator().manual_seed(seed))


def test_attack_on_a_linear_network_is_the_closed_form():
    # Two classes: the margin falls fastest along the difference of the rows.
    net, x = nets.mlp((6, 2), seed=4), interior(400, 6)
    net.linear1.bias.data -= net(x).mean(dim=0).detach()  # the classes meet amid the points
    y = torch.eye(2)[net(x).argmax(dim=1)]
    y[:40] = y[:40].flip(1)  # wrong from the start
    W = net.linear1.weight.detach()
    distance = margin(net(x), y).detach() / (W[0] - W[1]).norm()
    radii = [float(q) for q in distance[distance > 0].quantile(torch.tensor([0.2, 0.5, 0.8]))]
    expected = [float((distance > radius).double().mean()) for radius in radii]
    assert radii[-1] < 0.2  # the walls are further away
    assert pgd_accuracies(net, x, y, radii) == pytest.approx(expected, abs=1 / 400)
    assert expected[0] > expected[1] > expected[2] > 0.1


def test_attack_finds_what_brute_force_finds():
    net, x = nets.mlp((2, 12, 12, 3), "relu", seed=8), interior(60, 2, seed=3)
    net.linear3.bias.data -= net(x).mean(dim=0).detach()  # so that all classes occur
    y = torch.eye(3)[net(x).argmax(dim=1)]
    assert len(y.argmax(dim=1).unique()) > 1
    circle = torch.linspace(0, 2 * math.pi, 721)[:-1]
    rays = torch.stack([circle.cos(), circle.sin()], dim=1)
    for radius in (0.005, 0.02):
        balls = [x[:, None] + share * radius * rays for share in np.linspace(0.05, 1, 20)]
        there = torch.cat(balls, dim=1)
        wrong = net(there.reshape(-1, 2)).argmax(1).reshape(len(x), -1) != y.argmax(1)[:, None]
        exact = float((~wrong.any(dim=1)).double().mean())
        (found,) = pgd_accuracies(net, x, y, [radius])
        assert exact <= found + 1 / len(x) and found <= exact + 2 / len(x)
        assert 0.1 < exact < 1


class Watching(nn.Module):
    """A network that remembers what it was asked about."""

    def __init__(self, net):
        super().__init__()
        self.net, self.seen = net, []

    def forward(self, x):
        self.seen.append(x.detach().clone())
        return self.net(x)


def test_attack_stays_in_its_ball_and_among_pixels():
    net = Watching(nets.mlp((6, 9, 3), "relu", seed=4))
    x = torch.rand(50, 6, generator=torch.Generator().manual_seed(2)).round(decimals=1)
    y = torch.eye(3)[net(x).argmax(dim=1)]
    net.net.linear2.bias.data += 10 * y.mean(0)  # nothing is fooled, so all stay in the batch
    y = torch.eye(3)[net(x).argmax(dim=1)]
    net.seen.clear()
    assert pgd_accuracies(net, x, y, [0.3]) == [1.0]
    furthest = torch.zeros(50)
    for at in net.seen:
        assert 0 <= at.min() and at.max() <= 1
        furthest = torch.maximum(furthest, (at - x).norm(dim=1))
    assert furthest.max() <= 0.3 * (1 + 1e-5)
    assert (furthest > 0.29).double().mean() > 0.3  # the others meet the walls


def test_accuracy_never_rises_with_the_radius_and_bad_radii_are_refused():
    net, x = nets.mlp((6, 9, 3), "relu", seed=4), interior(40, 6)
    y = torch.eye(3)[net(x).argmax(dim=1)]
    found = pgd_accuracies(net, x, y, [0.001, 0.01, 0.1, 1.0])
    assert found == sorted(found, reverse=True) and found[0] > found[-1]
    for bad in ([0.2, 0.1], [0.0, 1.0], [0.1, 0.1], [math.inf]):
        with pytest.raises(ValueError, match="radii must be positive and ascending"):
            pgd_accuracies(net, x, y, bad)


def test_calibration_error_of_a_case_worked_by_hand():
    # Bins of 1/2. Confidences 0.2 (wrong), 0.4 (right); 0.6 (right), 0.8 (wrong), 1.3 -> 1 (right).
    output = torch.tensor([[0.2, 0.1], [0.4, 0.0], [0.6, 0.3], [0.8, 0.1], [1.3, -0.3]])
    y = torch.eye(2)[[1, 0, 0, 1, 0]]
    by_hand = 2 / 5 * abs(1 / 2 - 0.3) + 3 / 5 * abs(2 / 3 - 0.8)
    assert calibration_error(output, y, bins=2) == pytest.approx(by_hand, rel=1e-6)
    assert calibration_error(torch.eye(3), torch.eye(3)) == 0.0
    # On an edge and beside it in one bin; below 0 in the first.
    exact = torch.tensor([[0.5, 0.0], [0.4, 0.0], [-1.0, -0.2]])
    found = calibration_error(exact, torch.eye(2)[[0, 1, 1]], bins=2)
    assert found == pytest.approx(abs((1 - 0.5) + (0 - 0.4) + (1 - 0.0)) / 3, rel=1e-6)
    pair = calibration_error(exact[:2], torch.eye(2)[[0, 1]], bins=2)
    assert pair == pytest.approx(abs((1 - 0.5) + (0 - 0.4)) / 2, rel=1e-6)


def test_corruptions_are_what_they_say():
    spot = torch.zeros(1, 1, 15, 15)
    spot[0, 0, 7, 7] = 1.0
    seen = blur(spot)[0, 0]
    assert float(seen.sum()) == pytest.approx(1, rel=1e-5)
    assert float(seen[7, 8] / seen[7, 7]) == pytest.approx(math.exp(-1 / 2), rel=1e-5)
    assert float(seen[8, 9] / seen[7, 7]) == pytest.approx(math.exp(-5 / 2), rel=1e-5)
    flat = torch.full((2, 3, 8, 8), 0.3)
    torch.testing.assert_close(blur(flat), flat)

    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    faded = contrast(x)
    torch.testing.assert_close(faded.flatten(1).mean(1), x.flatten(1).mean(1))
    torch.testing.assert_close(faded.flatten(1).std(1), protocol.CONTRAST * x.flatten(1).std(1))

    gray = torch.full((1, 1, 200, 200), 0.5)
    noisy = gaussian_noise(gray, 0.1) - 0.5
    assert abs(float(noisy.mean())) < 0.002 and abs(float(noisy.std()) - 0.1) < 0.002
    photons = shot_noise(torch.full((1, 1, 200, 200), 0.3)) * protocol.SHOT_PHOTONS
    assert torch.equal(photons.round(), photons.round(decimals=4).round())
    assert abs(float(photons.mean()) - 3) < 0.05 and abs(float(photons.var()) - 3) < 0.1
    struck = impulse_noise(gray)
    assert abs(float((struck == 0).double().mean()) - protocol.IMPULSE / 2) < 0.005
    assert abs(float((struck == 1).double().mean()) - protocol.IMPULSE / 2) < 0.005

    for name, corrupt in CORRUPTIONS.items():
        once = corrupt(x)
        assert 0 <= once.min() and once.max() <= 1 and once.shape == x.shape, name
        assert torch.equal(once, corrupt(x)) and not torch.equal(once, x), name
    assert torch.equal(as_images(x), x)
    with pytest.raises(ValueError, match="785 pixels"):
        as_images(torch.zeros(1, 785))


def test_accuracy_counts_the_largest_output():
    net = nets.linear(3, 3).double()
    net.linear1.weight.data = torch.eye(3).double()
    x = torch.eye(3).double()[[0, 1, 2, 0]]
    assert accuracy(net, x, torch.eye(3)[[0, 1, 2, 1]]) == 0.75


# Making and reading a population


def test_the_level_is_reached_where_the_plain_trainer_reaches_it(two):
    tiny, network = TINY, TINY.network(0)
    rows = Record(two, network.scale, network.name).read_table().set_index("condition")
    data = load_data("digits")
    net = nets.mlp(
        (64, *[network.sizes["width"]] * network.sizes["depth"], 10), "relu", seed=network.seed
    )
    plain = Trainer(
        net, data.train_x, data.train_y, network.lr, network.batch_size, "mse", network.seed
    )
    found = {}
    for step in range(20, 201, 20):
        plain.advance(step)
        found[step] = losses(net, data)["train_loss"]
    first = next(step for step, loss in found.items() if loss <= tiny.level)
    assert rows.loc["loss", "step"] == first and first > 20
    assert rows.loc["loss", "train_loss"] == pytest.approx(found[first], rel=1e-9)
    assert rows.loc["step", "step"] == 60
    assert rows.loc["step", "train_loss"] == pytest.approx(found[60], rel=1e-9)
    assert (rows["reached"] == 1).all() and (rows["status"] == "complete").all()


def test_a_level_that_is_never_reached_and_a_divergence_have_their_rows(tmp_path, monkeypatch):
    never = replace(TINY, name="never", level=1e-9, limit=80)
    wild = replace(TINY, name="wild", lr=(1e6, 1e6))
    for population in (never, wild):
        monkeypatch.setitem(POPULATIONS, population.name, population)
    assert made(never.network(0), tmp_path) == "complete"
    assert made(wild.network(0), tmp_path) == "diverged"
    rows = populations.load("never", tmp_path).set_index("condition")
    assert list(rows["reached"]) == [0, 1] and list(rows["step"]) == [80, 60]
    assert np.isnan(rows.loc["loss", "sharpness"]) and rows.loc["step", "sharpness"] > 0
    lost = populations.load("wild", tmp_path)
    assert list(lost["reached"]) == [0, 0] and set(lost["status"]) == {"diverged"}
    assert lost["train_loss"].isna().all() and (lost["lr"] == 1e6).all()
    manifest = Record(tmp_path, "populations/wild", "network-00").read_manifest()
    assert "diverged" in manifest["note"]
    assert list(rows.reset_index()) and set(rows.reset_index()) == set(lost)


def test_the_columns_are_whole_and_one_table_is_made(two, tiny):
    table = archive.population("tiny", two)
    assert list(table) == populations.table_columns("tiny")
    assert list(table["index"]) == [0, 0, 1, 1]
    assert list(table["condition"]) == ["loss", "step"] * 2
    row = table.iloc[0]
    wanted = {"sharpness", "A", "B", "C", "D", "nmls", "nvr", "relative_flatness", "iimls"}
    wanted |= {f"{side}_N.{k}" for side in ("lhs", "rhs") for k in (9, 10, 11, 12, 14)}
    wanted |= {"adaptive_sharpness", "adaptive_sharpness_noise", "hessian_eigenvalue", "margin"}
    wanted |= {"calibration_error", "loss_gap", "error_gap", "share.linear1", "share.linear2"}
    wanted |= {f"accuracy_{name}" for name in CORRUPTIONS}
    wanted |= {f"accuracy_pgd_{radius:g}" for radius in protocol.PGD_RADII}
    wanted |= {f"accuracy_noise_{level:g}" for level in protocol.NOISE_LEVELS}
    assert np.isfinite(row[sorted(wanted)].astype(float)).all()
    shares = [name for name in table if name.startswith("share.")]
    assert shares == ["share.linear1", "share.linear2", "share.linear3"]  # the deepest network's
    weights = table[shares].sum(axis=1)
    assert ((weights > 0.5) & (weights < 1)).all()  # biases have the rest
    assert row["loss_gap"] == pytest.approx(row["test_loss"] - row["train_loss"])
    assert row["accuracy_pgd_0.25"] <= 1 - row["test_error"]


def test_a_stopped_network_goes_on_to_the_same_bytes(two, tmp_path, monkeypatch):
    network = TINY.network(0)
    advance, calls = work._Work._advance, []

    def stopping(self):
        calls.append(self.trainer.step)
        if len(calls) == 3:
            raise KeyboardInterrupt
        advance(self)

    monkeypatch.setattr(work._Work, "_advance", stopping)
    with pytest.raises(KeyboardInterrupt):
        made(network, tmp_path)
    record = Record(tmp_path, network.scale, network.name)
    assert not record.folder.exists() and record.state_path.exists()
    made(network, tmp_path)
    assert calls[2] == calls[3] == 40  # the last check was not lost
    assert table_bytes(network, tmp_path) == table_bytes(network, two)
    assert not record.state_path.exists()
    assert len(record.read_manifest()["sessions"]) == 2


def test_what_is_archived_is_not_made_again_and_another_setting_is_refused(
    results, tiny, monkeypatch
):
    network = tiny.network(0)
    before = table_bytes(network, results)
    monkeypatch.setattr(work._Work, "finish", lambda self: pytest.fail("made again"))
    assert made(network, results) == "complete"
    assert table_bytes(network, results) == before
    other = replace(TINY, level=0.05)
    with pytest.raises(RecordError, match=r"network-00.*level is 0.08 there and 0.05 here"):
        made(other.network(0), results)
    monkeypatch.setitem(POPULATIONS, "tiny", other)
    with pytest.raises(RecordError, match="level is 0.08 there"):
        populations.load("tiny", results)


def test_a_disk_that_is_full_leaves_no_network(two, tmp_path, tiny, monkeypatch):
    network = tiny.network(0)

    def full_at_the_manifest(path, write):
        if path.name == "manifest.json":
            raise OSError("no space left on device")
        write_atomically(path, write)

    with monkeypatch.context() as full:
        full.setattr("flatlib.lab.records.write_atomically", full_at_the_manifest)
        with pytest.raises(OSError, match="no space left"):
            made(network, tmp_path)
    with pytest.raises(RecordError, match="no network of tiny is archived"):
        populations.load("tiny", tmp_path)
    monkeypatch.setattr(work._Work, "_advance", lambda self: pytest.fail("trained again"))
    assert made(network, tmp_path) == "complete"
    assert table_bytes(network, tmp_path) == table_bytes(network, two)


def test_a_table_that_is_not_whole_is_refused_by_name(results, tiny):
    with pytest.raises(RecordError, match="no network of tiny.*flatlib run population-tiny"):
        populations.load("tiny", results / "elsewhere")
    network = tiny.network(0)
    record = Record(results, network.scale, network.name)
    manifest, rows = record.read_manifest(), record.read_rows(record.read_manifest())
    shutil.rmtree(record.folder)
    record.write(rows[1:], manifest)  # a sealed record of one condition alone
    with pytest.raises(RecordError, match=r"measurements.csv is not whole.*loss, step"):
        populations.load("tiny", results)
    shutil.rmtree(record.folder)
    record.write([{k: v for k, v in row.items() if k != "mls"} for row in rows], manifest)
    with pytest.raises(RecordError, match="network-01 has other columns than .*: mls"):
        populations.load("tiny", results)
    shutil.rmtree(record.folder)
    record.write(rows, manifest)
    assert len(populations.load("tiny", results)) == 4
    record.table_path.write_bytes(record.table_path.read_bytes().replace(b"loss", b"lass", 1))
    with pytest.raises(RecordError, match="is altered"):
        populations.load("tiny", results)


def test_the_command_makes_lists_and_counts_networks(tmp_path, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(populations, "run_many", lambda runs, *_, **__: asked.append(runs) or [])
    words = ["run", "population-mlp-relu", "--networks", "2", "--results", str(tmp_path)]
    options = commands.parser().parse_args(words)
    assert options.command(options) == 0
    assert [network.name for network in asked[0]] == ["network-00", "network-01"]
    for odd in (["--scale", "paper"], ["--seeds", "1"], ["--steps", "5"]):
        options = commands.parser().parse_args([*words, *odd])
        with pytest.raises(ValueError, match=f"a population takes no {odd[0]}"):
            options.command(options)
    options = commands.parser().parse_args(["run", "mlp-bounds", "--networks", "2"])
    with pytest.raises(ValueError, match="takes no --networks"):
        options.command(options)
    with pytest.raises(ValueError, match="networks must be from 1 to 10,000, got 0"):
        populations.run("mlp-relu", 0)
    with pytest.raises(ValueError, match="no population is called 'vgg'"):
        populations.run("vgg")
    options = commands.parser().parse_args(["list"])
    options.command(options)
    assert "population-mlp-relu networks: 40." in capsys.readouterr().out


def test_the_archive_is_of_todays_populations():
    folder = populations.default_results() / populations.FOLDER
    found = sorted(path.name for path in folder.iterdir())
    assert "mlp-relu-digits" in found
    for name in found:
        table = archive.population(name)
        assert (table.groupby("index").size() == 2).all()
        met = table[table["reached"] == 1]
        level = POPULATIONS[name].level
        assert (met.loc[met["condition"] == "loss", "train_loss"] <= level).all()
        if POPULATIONS[name].net.startswith("mlp"):  # for which these are theorems
            assert (met["A"] <= met["D"] * (1 + 1e-9)).all()
            assert (met["lhs_N.9"] <= met["rhs_N.9"] * (1 + 1e-9)).all()


# The attack that climbs a difference quotient.


def climbed(J: np.ndarray, delta: np.ndarray, rate: float, steps: int) -> float:
    """The quotient of the linear map J after Adam has climbed, by its own formulas."""
    first, second = np.zeros_like(delta), np.zeros_like(delta)
    for step in range(1, steps):
        moved, length = np.linalg.norm(J @ delta), np.linalg.norm(delta)
        slope = J.T @ J @ delta / (moved * length) - moved * delta / length**3
        first = 0.9 * first + 0.1 * slope
        second = 0.999 * second + 0.001 * slope**2
        scaled = np.sqrt(second / (1 - 0.999**step)) + 1e-8
        delta = delta + rate * first / (1 - 0.9**step) / scaled
    return float(np.linalg.norm(J @ delta) / np.linalg.norm(delta))


@pytest.mark.parametrize(("radius", "rate", "steps"), [(0.1, 0.1, 30), (0.5, 0.01, 7), (1, 1, 1)])
def test_an_attack_on_a_linear_network_is_adam_by_hand(radius, rate, steps):
    net = torch.nn.Linear(5, 3).double()
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(3)).double()
    found = adversarial_sensitivity(net, x, radius, rate, steps, seed=2)
    start = torch.randn(4, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    J = net.weight.detach().numpy()
    by_hand = [climbed(J, radius * each, rate, steps) for each in start.numpy()]
    assert found.tolist() == pytest.approx(by_hand, rel=1e-9)
    assert (found <= np.linalg.norm(J, 2) * (1 + 1e-12)).all()


def test_a_short_attack_stays_below_mls_and_comes_close():
    net = vision_transformer(12, 1, 2, side=8, patch=4, seed=1).eval()
    x = torch.rand(6, 64, generator=torch.Generator().manual_seed(1))
    true = flatlib.measure(net, x, layers=False).mls
    found = adversarial_sensitivity(net, x, 1e-6, 1e-6, steps=300)
    assert (found <= true * (1 + 1e-4)).all() and (found >= 0.95 * true).all()
    weights = [p.clone() for p in net.parameters()]
    adversarial_sensitivity(net, x, steps=2)
    assert all(torch.equal(a, b) for a, b in zip(weights, net.parameters(), strict=True))
    assert all(p.dtype == torch.float32 and p.grad is None for p in net.parameters())


@pytest.mark.parametrize("bad", [{"radius": 0.0}, {"rate": -1.0}, {"steps": 0}])
def test_an_attack_without_a_start_a_rate_or_a_step_is_refused(bad):
    with pytest.raises(ValueError, match="need a positive radius and rate and a step"):
        adversarial_sensitivity(torch.nn.Linear(1, 1), torch.ones(1, 1), **bad)
