"""Training is plain stochastic gradient descent, and what it measures is what `measure` says."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import flatlib
from flatlib import nets
from flatlib.checkpoint import measurement_row
from flatlib.lab.data import load
from flatlib.lab.training import DivergenceError, Trainer, train
from flatlib.lab.training.batches import Batches
from flatlib.lab.training.layout import pooled_first
from flatlib.lab.training.loss import evaluate
from flatlib.lab.training.replay import exact_convolutions
from flatlib.lab.training.stack import StackedTrainer


class TestBatches:
    def test_every_epoch_visits_each_sample_once(self):
        batches = Batches(n=23, batch_size=5, seed=3)
        orders = []
        for epoch in range(3):
            parts = [batches.next() for _ in range(5)]
            assert [len(part) for part in parts] == [5, 5, 5, 5, 3]
            assert batches.epoch == epoch
            orders.append(torch.cat(parts))
            assert torch.equal(orders[-1].sort().values, torch.arange(23))
        assert not torch.equal(orders[0], orders[1])

    def test_order_depends_on_the_seed_alone(self):
        before = torch.random.get_rng_state()
        first = Batches(100, 100, seed=1).next()
        assert torch.equal(torch.random.get_rng_state(), before)
        assert torch.equal(Batches(100, 100, seed=1).next(), first)
        assert not torch.equal(Batches(100, 100, seed=2).next(), first)
        # Another stream than the one that the same seed gives a network's weights.
        generator = torch.Generator().manual_seed(1)
        assert not torch.equal(torch.randperm(100, generator=generator), first)

    def test_restored_batches_go_on(self):
        batches = Batches(n=10, batch_size=4, seed=0)
        for _ in range(4):
            batches.next()
        state = batches.state()
        expected = [batches.next() for _ in range(7)]
        other = Batches(n=10, batch_size=4, seed=5)
        other.restore(state)
        assert all(torch.equal(other.next(), part) for part in expected)


def plain_loop(net, x, y, lr, batch_size, seed, steps, loss):
    """The textbook loop, with PyTorch's own optimizer and loss."""
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    batches = Batches(len(x), batch_size, seed)
    for _ in range(steps):
        index = batches.next()
        optimizer.zero_grad()
        output = net(x[index])
        if loss == "mse":
            value = F.mse_loss(output, y[index])
        else:
            value = sum((o - t).square().sum() / 2 for o, t in zip(output, y[index], strict=True))
            value = value / len(index)
        value.backward()
        optimizer.step()


class TestTrainer:
    @pytest.mark.parametrize("loss", ["mse", "half-squared"])
    @pytest.mark.parametrize("kind", ["mlp", "vgg10"])
    def test_takes_the_steps_of_the_textbook_loop(self, kind, loss):
        torch.manual_seed(0)
        if kind == "mlp":
            x, make = torch.rand(33, 6).double(), lambda: nets.mlp((6, 8, 10), seed=4).double()
        else:
            x = torch.rand(33, 1, 28, 28).double()
            make = lambda: nets.vgg10(in_channels=1, seed=4).double()  # noqa: E731
        y = torch.eye(10).double()[torch.arange(33) % 10]
        ours, theirs = make(), make()
        Trainer(ours, x, y, lr=0.1, batch_size=8, loss=loss, seed=2).advance(50)
        plain_loop(theirs, x, y, 0.1, 8, 2, 50, loss)
        moved = make()
        for p, q, start in zip(
            ours.parameters(), theirs.parameters(), moved.parameters(), strict=True
        ):
            assert torch.allclose(p, q, rtol=1e-10, atol=1e-13)
            assert not torch.equal(p, start)

    def test_half_squared_is_half_the_outputs_times_mse(self):
        x, y = torch.rand(20, 4).double(), torch.rand(20, 6).double()
        nets_ = [nets.mlp((4, 5, 6)).double() for _ in range(2)]
        Trainer(nets_[0], x, y, lr=0.3, batch_size=7, loss="mse").advance(20)
        Trainer(nets_[1], x, y, lr=0.1, batch_size=7, loss="half-squared").advance(20)
        for p, q in zip(nets_[0].parameters(), nets_[1].parameters(), strict=True):
            assert torch.allclose(p, q, rtol=1e-12)

    def test_pooling_first_changes_no_bit(self):
        torch.manual_seed(1)
        net = nets.vgg10(in_channels=1, seed=1)
        x = torch.randn(6, 1, 32, 32)
        swapped = pooled_first(net)
        assert [type(m) for m in swapped][1:3] == [nn.MaxPool2d, nn.ReLU]
        outputs = [net(x), swapped(x)]
        assert torch.equal(*outputs)
        gradients = [torch.autograd.grad(out.sum(), list(net.parameters())) for out in outputs]
        assert all(torch.equal(g, h) for g, h in zip(*gradients, strict=True))

    def test_pooling_stays_behind_other_activations(self):
        net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.MaxPool2d(2))
        assert [type(m) for m in pooled_first(net)] == [nn.Conv2d, nn.Tanh, nn.MaxPool2d]
        other = nn.ModuleList([nn.ReLU(), nn.MaxPool2d(2)])
        assert pooled_first(other) is other

    @pytest.mark.parametrize("where", [slice(0, 0), slice(1, 2), slice(2, 3)])
    def test_pooling_stays_where_a_hook_looks(self, where):
        net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2))
        hooked = list(net)[where][0] if list(net)[where] else net
        hooked.register_forward_hook(lambda module, args, output: 2 * output)
        x = torch.randn(2, 1, 6, 6)
        assert torch.equal(pooled_first(net)(x), net(x))

    def test_restored_trainer_ends_at_the_same_bits(self):
        data = load("digits")

        def trainer():
            net = nets.mlp((64, 16, 10), seed=1)
            return Trainer(net, data.train_x, data.train_y, 0.5, 20, seed=1)

        whole = trainer()
        whole.advance(100)
        state = whole.state()
        whole.advance(180)
        again = trainer()
        again.restore(state)
        again.advance(180)
        for p, q in zip(whole.net.parameters(), again.net.parameters(), strict=True):
            assert torch.equal(p, q)

    def test_frozen_parameters_stay(self):
        net = nets.mlp((3, 4, 2))
        net.linear1.weight.requires_grad_(False)
        before = [p.clone() for p in net.parameters()]
        Trainer(net, torch.rand(9, 3), torch.rand(9, 2), 0.1, 3).advance(5)
        same = [torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True)]
        assert same == [True, False, False, False]
        for p in net.parameters():
            p.requires_grad_(False)
        with pytest.raises(ValueError, match="every parameter is frozen"):
            Trainer(net, torch.rand(9, 3), torch.rand(9, 2), 0.1, 3)

    def test_divergence_stops_before_the_weights_are_lost(self):
        net = nets.mlp((3, 4, 2), activation="relu")
        trainer = Trainer(net, torch.rand(9, 3), torch.rand(9, 2), lr=1e8, batch_size=3)
        with pytest.raises(DivergenceError, match=r"the loss is (nan|inf) at step \d+.*lr 1e\+?08"):
            trainer.advance(1000)
        assert trainer.step < 1000


NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


class TestStack:
    @pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
    @pytest.mark.parametrize("kind", ["mlp", "vgg10"])
    def test_every_member_takes_its_own_trainers_steps(self, kind, device):
        torch.manual_seed(0)
        if kind == "mlp":
            x, seeds = torch.rand(33, 6).double(), (0, 1, 2, 3)
        else:
            x, seeds = torch.rand(33, 1, 28, 28).double(), (0, 1)
            x = x.contiguous(memory_format=torch.channels_last)
        x, y = x.to(device), torch.eye(10).double()[torch.arange(33) % 10].to(device)

        def trainer(seed):
            if kind == "mlp":
                net = nets.mlp((6, 8, 7, 10), seed=seed)
            else:
                net = nets.vgg10(in_channels=1, seed=seed)
            return Trainer(net.double().to(device), x, y, 0.05 * (1 + seed), 8, seed=seed)

        members = [trainer(seed) for seed in seeds]
        stack = StackedTrainer(members)
        stack.advance(50)
        stack.unstack()
        for seed, member in zip(seeds, members, strict=True):
            alone, start = trainer(seed), trainer(seed)
            alone.advance(50)
            assert member.step == 50
            for p, q, s in zip(member.parameters, alone.parameters, start.parameters, strict=True):
                assert float((p - q).detach().norm()) <= 1e-10 * float(q.detach().norm())
                assert not torch.equal(p, s)

    def test_a_diverging_member_is_named(self):
        x, y = torch.rand(9, 3), torch.rand(9, 2)
        members = [
            Trainer(nets.mlp((3, 4, 2), activation="relu", seed=seed), x, y, lr, 3)
            for seed, lr in enumerate((0.1, 1e8))
        ]
        with pytest.raises(DivergenceError, match="network 1 of the stack .* lr 1e") as caught:
            StackedTrainer(members).advance(1000)
        assert caught.value.member == 1

    def test_what_cannot_be_stacked_is_named(self):
        x, y = torch.rand(9, 3), torch.rand(9, 2)

        def trainer(net=None, x=x, batch_size=3, loss="mse"):
            return Trainer(nets.mlp((3, 4, 2)) if net is None else net, x, y, 0.1, batch_size, loss)

        with pytest.raises(ValueError, match="at least one trainer"):
            StackedTrainer([])
        frozen, moved = nets.mlp((3, 4, 2)), trainer()
        frozen.linear1.weight.requires_grad_(False)
        moved.advance(1)
        for other, says in (
            (trainer(nets.mlp((3, 5, 2))), "network 1 has other parameters than network 0"),
            (trainer(frozen), "network 1 has a frozen parameter"),
            (trainer(x=x.clone()), "trainer 1 has another samples"),
            (trainer(batch_size=4), "trainer 1 has another batch size"),
            (trainer(loss="half-squared"), "trainer 1 has another loss"),
            (moved, "trainer 1 has another step"),
        ):
            with pytest.raises(ValueError, match=says):
                StackedTrainer([trainer(), other])
        normed = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
        with pytest.raises(ValueError, match="network 0 has buffers"):
            StackedTrainer([trainer(normed)])


class TestExactConvolutions:
    def test_keep_the_library_for_convolutions_switched_on(self):
        cudnn = torch.backends.cudnn
        before = (cudnn.enabled, cudnn.deterministic, cudnn.allow_tf32)
        with exact_convolutions():
            assert (cudnn.enabled, cudnn.deterministic, cudnn.allow_tf32) == (True, True, False)
        assert (cudnn.enabled, cudnn.deterministic, cudnn.allow_tf32) == before


class TestEvaluate:
    def test_is_the_loss_of_all_samples_at_once(self):
        torch.manual_seed(0)
        net, x, y = nets.mlp((5, 10)), torch.rand(1234, 5), torch.eye(10)[torch.arange(1234) % 10]
        for loss, expected in (("mse", F.mse_loss(net(x), y)), ("half-squared", None)):
            value, correct = evaluate(net, x, y, loss)
            if expected is None:
                expected = (net(x) - y).square().sum() / (2 * len(x))
            assert value == pytest.approx(float(expected.detach()), rel=1e-5)
            assert torch.equal(correct, net(x).argmax(1) == y.argmax(1))


class TestRow:
    def test_says_what_the_measurement_says(self):
        torch.manual_seed(0)
        net, x, y = nets.mlp((5, 7, 3), seed=2), torch.rand(6, 5), torch.rand(6, 3)
        row, m = measurement_row(net, x, y), flatlib.measure(net, x)
        chain = flatlib.bounds.chain(m)
        assert {name: row[name] for name in m.summary()} == m.summary()
        assert [row[k] for k in ("A", "B", "C", "C_prime", "D")] == [
            chain.A, chain.B, chain.C, chain.C_prime, chain.D,
        ]  # fmt: skip
        for k in range(3):
            expected = float(m.singular_values[:, k].log().mean())
            assert row[f"mean_log_sigma_{k + 1}"] == expected
        assert sum(row[f"mean_log_sigma_{k}"] for k in (1, 2, 3)) == pytest.approx(
            row["log_volume"], rel=1e-12
        )
        assert row["max_residual"] == pytest.approx(
            float((net(x) - y).detach().norm(dim=1).max()), rel=1e-6
        )
        assert row["linear2.sensitivity"] == float(m.layers[1].mls.mean())
        for bound in flatlib.bounds.evaluate(m):
            assert (row[f"lhs_{bound.key}"], row[f"rhs_{bound.key}"]) == (bound.lhs, bound.rhs)
        assert row["lhs_13"] == chain.A
        assert row["rhs_13"] == chain.D

    def test_has_the_columns_of_the_archive(self):
        """The archive calls a layer's MLS ``sensitivity``, and is continued in its own words."""
        run = "mlp_fashion-mnist-first-2000_lr0.1_batch20_seed0"
        table = Path(__file__).parents[1] / "results" / "laptop" / run / "measurements.csv"
        header = table.read_text().partition("\n")[0].split(",")
        net = nets.mlp((5, 7, 6, 4, 3), seed=2)
        row = measurement_row(net, torch.rand(6, 5), torch.rand(6, 3))
        assert "linear4.sensitivity" in row
        in_layers = [name for name in row if name.startswith("linear")]
        assert in_layers == [name for name in header if name.startswith("linear")]


class TestTrain:
    @pytest.fixture
    def data(self):
        return load("gaussian", n=60, M=6, N=3, seed=1)

    def test_table(self, data):
        net = nets.mlp((6, 8, 3))
        table = train(net, data, steps=250, measure_every=100, progress=False)
        assert isinstance(table, pd.DataFrame)
        assert table.step.tolist() == [0, 100, 200, 250]
        wanted = {"train_loss", "train_accuracy", "test_loss", "test_accuracy", "hessian_gap"}
        wanted |= {"sharpness", "mls", "gradient_energy", "log_volume", "log_volume_top3"}
        wanted |= {"local_dimensionality", "nmls", "nvr", "A", "B", "C", "C_prime", "D"}
        assert wanted <= set(table.columns)
        assert table.train_loss.iloc[-1] < table.train_loss.iloc[0] / 2
        # The last row is the network as it came back.
        m = flatlib.measure(net, data.train_x)
        assert table.sharpness.iloc[-1] == m.sharpness
        assert table.test_loss.iloc[-1] == pytest.approx(
            float(F.mse_loss(net(data.test_x), data.test_y)), rel=1e-5
        )

    def test_measures_the_first_training_samples(self, data):
        net = nets.mlp((6, 8, 3))
        table = train(net, data, steps=0, measure_samples=7, progress=False)
        assert table.n.tolist() == [7]
        assert table.mls.iloc[0] == float(flatlib.measure(net, data.train_x[:7]).mls.mean())

    def test_same_seed_same_numbers_however_often_measured(self, data):
        tables = [
            train(nets.mlp((6, 8, 3)), data, steps=60, measure_every=every, progress=False)
            for every in (20, 30)
        ]
        assert tables[0].iloc[-1].equals(tables[1].iloc[-1])
        other = train(nets.mlp((6, 8, 3)), data, steps=60, seed=1, progress=False)
        assert other.train_loss.iloc[-1] != tables[0].train_loss.iloc[-1]

    def test_leaves_the_users_settings_alone(self, data):
        state, threads = torch.random.get_rng_state(), torch.get_num_threads()
        net = nets.mlp((6, 8, 3)).train()
        train(net, data, steps=20, progress=False)
        assert torch.equal(torch.random.get_rng_state(), state)
        assert torch.get_num_threads() == threads
        assert net.training
        assert all(p.grad is None and p.requires_grad for p in net.parameters())

    @pytest.mark.parametrize("N", [1, 5])
    @pytest.mark.parametrize("activation", ["tanh", "relu"])
    def test_targets_are_never_broadcast(self, data, N, activation):
        net = nets.mlp((6, 4, N), activation).train()
        before = [p.clone() for p in net.parameters()]
        with pytest.raises(ValueError, match=rf"shape \(2, {N}\) for 2 samples whose targets have"):
            train(net, data, progress=False)
        assert net.training
        assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))
        flat = nn.Sequential(nn.Linear(6, 1), nn.Flatten(0))
        with pytest.raises(ValueError, match=r"shape \(2,\) for 2 samples"):
            train(flat, load("gaussian", n=20, M=6, N=1), progress=False)

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_trains_where_gradients_are_switched_off(self, data, mode):
        expected = train(nets.mlp((6, 4, 3)), data, steps=20, progress=False)
        net = nets.mlp((6, 4, 3))
        with mode():
            assert train(net, data, steps=20, progress=False).equals(expected)

    def test_a_parameter_that_nothing_uses_stays(self, data):
        net = nets.mlp((6, 4, 3))
        net.register_parameter("unused", nn.Parameter(torch.ones(2)))
        table = train(net, data, steps=20, progress=False)
        assert torch.equal(net.unused, torch.ones(2))
        assert table.train_loss.iloc[-1] < table.train_loss.iloc[0]

    def test_dropout_works_in_training_and_rests_in_measuring(self, data):
        net = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3)).train()
        table = train(net, data, steps=40, measure_every=20, progress=False)
        assert len(table) == 3
        assert net.training

    def test_float64_networks_train_in_float64(self, data):
        net = nets.mlp((6, 8, 3)).double()
        train(net, data, steps=5, progress=False)
        assert net.linear1.weight.dtype == torch.float64

    def test_divergence_loses_nothing(self, data):
        net = nets.mlp((6, 8, 3), activation="relu")
        with pytest.raises(DivergenceError, match="choose a smaller one") as caught:
            train(net, data, lr=1e8, steps=500, measure_every=1, progress=False)
        assert caught.value.table.step.iloc[0] == 0
        assert caught.value.table.train_loss.notna().all()

    @pytest.mark.parametrize(
        ("settings", "says"),
        [
            ({"lr": 0}, "lr must be a positive number, got 0"),
            ({"lr": float("nan")}, "lr must be a positive number, got nan"),
            ({"batch_size": 0}, "batch_size must be from 1 to the 60 training samples, got 0"),
            ({"batch_size": 61}, "got 61"),
            ({"steps": -1}, "steps must be at least 0, got -1"),
            ({"measure_every": 0}, "measure_every and measure_samples must be at least 1"),
            ({"measure_samples": 0}, "got 200 and 0"),
            ({"loss": "l1"}, "loss must be one of mse, half-squared, got 'l1'"),
        ],
    )
    def test_bad_settings_are_named_before_anything_moves(self, data, settings, says):
        net = nets.mlp((6, 8, 3))
        before = net.linear1.weight.clone()
        with pytest.raises(ValueError, match=says):
            train(net, data, progress=False, **settings)
        assert torch.equal(net.linear1.weight, before)

    def test_progress_bar_is_drawn_if_asked_for(self, data, capsys):
        train(nets.mlp((6, 3)), data, steps=10, progress=False)
        assert capsys.readouterr().err == ""
        train(nets.mlp((6, 3)), data, steps=10)
        assert "10/10" in capsys.readouterr().err


def test_a_layer_frozen_in_eval_mode_stays_so_while_the_rest_trains():
    data = flatlib.lab.data.load("gaussian", n=20, M=3, N=2)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    net[1].eval()
    before = net[1].running_mean.clone()
    flatlib.lab.train(net, data, steps=4, measure_every=2, progress=False)
    assert torch.equal(net[1].running_mean, before)
    assert net.training and not net[1].training


def test_a_network_without_parameters_is_refused():
    data = flatlib.lab.data.load("gaussian", n=20, M=3, N=3)
    with pytest.raises(ValueError, match="Identity has no parameters"):
        flatlib.lab.train(nn.Identity(), data, progress=False)


def test_a_dead_network_has_the_same_columns():
    net, x, y = nets.mlp((3, 4, 2), activation="relu"), torch.rand(5, 3), torch.rand(5, 2)
    alive = measurement_row(net, x, y)
    net.linear1.bias.data.fill_(-1e3)
    dead = measurement_row(net, x, y)
    assert dead["mls"] == 0.0 and alive["mls"] > 0
    assert list(dead) == list(alive)
    assert dead["lhs_N.5.1"] == dead["rhs_N.5.1"] == 0.0
