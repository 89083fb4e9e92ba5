"""`measure` on networks that do what few do: each is measured right, or refused by name."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from compare import assert_matches_oracle
from inputs import gaussian
from small import seeded
from torch import Tensor, nn
from torch.func import functional_call

import flatlib


def plain_energy(net, x):
    """Sum over outputs of the squared parameter gradient, one sample at a time."""
    energies = []
    for sample in x.split(1):
        output = net(sample)[0]
        parameters = list(net.parameters())
        rows = [
            torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True)
            for value in output
        ]
        energies.append(sum(float(g.square().sum()) for row in rows for g in row))
    return torch.tensor(energies, dtype=torch.float64)


def test_a_forward_that_differentiates_its_layers_counts_both_uses_of_their_weights():
    class Force(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 1, bias=False)

        def forward(self, x):
            x = x if x.requires_grad else x.requires_grad_()
            energy = self.b(torch.tanh(self.a(x))).sum()
            return torch.autograd.grad(energy, x, create_graph=True)[0]

    net, x = seeded(Force).double(), gaussian(4, 3)
    m = flatlib.measure(net, x)
    expected = plain_energy(net, x.double().clone())
    assert torch.allclose(m.parameter_gradient_energy, expected, rtol=1e-9, atol=0)


class ReusesItsBuffer(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.buffer = torch.empty_like(x)
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return ctx.buffer.copy_(2 * gradient)


@pytest.mark.parametrize("kind", ["dense", "convolution"])
def test_a_backward_that_reuses_its_memory_is_measured_right(kind):
    class Reuses(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(6, 5) if kind == "dense" else nn.Conv1d(1, 2, 3)
            self.last = nn.Linear(5 if kind == "dense" else 8, 3)

        def forward(self, x):
            x = x if kind == "dense" else x.unsqueeze(1)
            return self.last(torch.tanh(ReusesItsBuffer.apply(self.first(x)).flatten(1)))

    net, x = seeded(Reuses).double(), gaussian(4, 6).double()
    m = flatlib.measure(net, x)
    expected = plain_energy(net, x)
    assert torch.allclose(m.parameter_gradient_energy, expected, rtol=1e-9, atol=0)


class Masked(nn.Module):
    """Attention over a sample's three numbers, later ones hidden by minus infinities."""

    def __init__(self):
        super().__init__()
        self.score = nn.Linear(3, 3)
        self.register_buffer("mask", torch.full((3, 3), -math.inf).triu(1))
        self.last = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.score(x).unsqueeze(1) * x.unsqueeze(2) + self.mask
        return self.last((scores.softmax(dim=2) @ x.unsqueeze(2)).squeeze(2))


def test_a_mask_of_minus_infinities_is_no_fault():
    net = seeded(Masked).double()
    x = gaussian(4, 3).double()
    found = flatlib.measure(net, x)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda v: net(v[None])[0]))(x)
    torch.testing.assert_close(
        found.singular_values, torch.linalg.svdvals(jacobian), rtol=1e-9, atol=0
    )


class Category(nn.Module):
    """Its last number is one of five categories."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.first, self.last = nn.Linear(2, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last((self.first(x[:, :2]) + self.embedding(x[:, 2].long())).tanh())


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_network_for_some_inputs_only(n):
    net, x = seeded(Category).double(), gaussian(n, 3).double()
    x[:, 2] = 4
    energy = 0.0
    for sample in x.split(1):
        for k in range(2):
            made = torch.autograd.grad(net(sample)[0, k], list(net.parameters()))
            energy += sum(float(g.square().sum()) for g in made) / n
    assert flatlib.measure(net, x).sharpness == pytest.approx(energy, rel=1e-9)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_network_for_some_inputs_only_is_found_to_mix_samples(n):
    net, x = seeded(Category).double(), gaussian(n, 3).double()
    x[:, 2] = 4
    net.first.register_forward_hook(lambda module, args, output: output - output.mean(dim=0))
    with pytest.raises(ValueError, match="samples influence each other|not the samples"):
        flatlib.measure(net, x)


def test_parameters_that_are_no_floats_stay_as_they_are():
    class Permuted(nn.Module):
        def __init__(self):
            super().__init__()
            self.order = nn.Parameter(torch.tensor([2, 0, 1]), requires_grad=False)
            self.linear = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x[:, self.order])

    net, x = seeded(Permuted), gaussian(4, 3)
    plain = flatlib.measure(nn.Sequential(net.linear), x[:, [2, 0, 1]])
    assert flatlib.measure(net, x).sharpness == pytest.approx(plain.sharpness, rel=1e-12)


@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_convolutions_whose_settings_are_plain_numbers(mode):
    def make():
        return seeded(
            lambda: nn.Sequential(
                nn.Conv2d(2, 3, 3, padding=1, stride=2, dilation=1, padding_mode=mode),
                nn.Tanh(),
                nn.Flatten(),
                nn.Linear(27, 2),
            )
        )

    net, x = make(), gaussian(3, 2, 6, 6)
    expected = flatlib.measure(net, x)
    net[0].stride, net[0].padding, net[0].dilation = 2, 1, 1
    found = flatlib.measure(net, x)
    assert found.sharpness == expected.sharpness
    for name in ("untied_gradient_energy", "smallest_patch_norm"):
        assert torch.equal(getattr(found.layers[0], name), getattr(expected.layers[0], name))
    assert found.layers[0].operator_norm == expected.layers[0].operator_norm


class Squeezed(nn.Module):
    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x).squeeze()


@pytest.mark.parametrize("size", [1, 3, 10])
def test_a_network_that_squeezes_its_output(size):
    inner = seeded(lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1)))
    x = gaussian(10, 3)
    expected = flatlib.measure(inner, x)
    found = flatlib.measure(Squeezed(inner), x.split(size))
    assert torch.allclose(found.singular_values, expected.singular_values, rtol=1e-9)
    assert found.sharpness == pytest.approx(expected.sharpness, rel=1e-9)


def test_the_second_of_two_layers_with_one_weight_called_alone():
    class Second(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(x)

    x = gaussian(4, 3).double()
    expected = 3 * float(x.square().sum()) / 4  # the map is linear in its weight
    assert flatlib.measure(Second(), x).sharpness == pytest.approx(expected, rel=1e-9)


def test_a_linear_layer_with_a_kernel_size_of_its_own():
    class Patch(nn.Linear):
        kernel_size = 4

    net, x = nn.Sequential(seeded(lambda: Patch(3, 2))), gaussian(4, 3)
    expected = 2 * float((x.double().square().sum(dim=1) + 1).mean())  # N (||x||^2 + 1)
    assert flatlib.measure(net, x).sharpness == pytest.approx(expected, rel=1e-9)


def test_one_sample_of_a_network_that_squeezes_has_a_parameter_jacobian():
    inner = seeded(lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)))
    x = gaussian(1, 3)
    expected = flatlib.derivatives.parameter_jacobian(inner, x)
    assert torch.equal(flatlib.derivatives.parameter_jacobian(Squeezed(inner), x), expected)


class Transformed(nn.Module):
    """A layer inside of a transform of `torch.func`, or in the way that its refusal advises."""

    def __init__(self, way: str, remedied: bool):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.way, self.remedied = way, remedied

    def forward(self, x):
        way, h = self.way, torch.tanh(self.a(x))

        def layer(row):
            if way == "function":
                return torch.tanh(nn.functional.linear(row, self.b.weight, self.b.bias))
            return torch.tanh(self.b(row))

        if way in ("vmap", "function"):
            h = layer(h) if self.remedied else torch.func.vmap(layer)(h)
        elif way == "jvp" and self.remedied:  # two backward passes are a forward one
            v = torch.zeros_like(h, requires_grad=True)
            along = torch.autograd.grad(layer(h), h, v, create_graph=True)[0]
            h = torch.autograd.grad(along, v, torch.ones_like(h), create_graph=True)[0]
        elif way == "jvp":
            h = torch.func.jvp(layer, (h,), (torch.ones_like(h),))[1]
        else:
            jacobian = torch.func.jacrev if self.remedied else torch.func.jacfwd
            h = h * torch.func.vmap(jacobian(layer))(h).sum(dim=2)
        return self.c(h)


@pytest.mark.parametrize("way", ["vmap", "function", "jvp", "jacfwd"])
def test_a_layer_inside_of_a_transform_is_refused_with_remedies_that_work(way):
    net, other = (seeded(lambda r=remedied: Transformed(way, r)).double() for remedied in (0, 1))
    x = gaussian(4, 3).double()
    message = "layer 'b' runs inside torch.func.vmap, jvp or jacfwd.*whole batch.*autograd.grad"
    with pytest.raises(ValueError, match=message):
        flatlib.measure(net, x)
    found = flatlib.measure(other, x).parameter_gradient_energy
    torch.testing.assert_close(found, plain_energy(net, x), rtol=1e-9, atol=0)


class Turned(nn.Module):
    """Queries of the positions are turned by complex numbers of length 1, as LLaMA does."""

    def __init__(self, held: str, dtype: torch.dtype):
        super().__init__()
        self.query, self.head = nn.Linear(3, 4), nn.Linear(20, 2)
        angle = torch.arange(5.0)[:, None] * torch.tensor([1.0, 0.01])
        turn = torch.polar(torch.ones_like(angle), angle).to(dtype)
        if held == "buffer":
            self.register_buffer("turn", turn)
        elif held == "conjugate":
            self.register_buffer("turn", turn.conj(), persistent=False)
        else:
            self.turn = turn

    def forward(self, x):
        q = torch.view_as_complex(self.query(x).unflatten(-1, (2, 2)).contiguous())
        return self.head(torch.tanh(torch.view_as_real(q * self.turn).flatten(1)))


@pytest.mark.parametrize("held", ["buffer", "conjugate", "attribute"])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_a_real_network_may_hold_complex_numbers(held, dtype):
    net = seeded(lambda: Turned(held, dtype))
    assert_matches_oracle(net, gaussian(3, 5, 3))
    assert net.turn.dtype == dtype


class Aliased(nn.Module):
    """Reads a parameter by way of a list, which no function that swaps parameters knows of."""

    def __init__(self):
        super().__init__()
        self.W = nn.Parameter(torch.randn(4, 4))
        self.first, self.last, self.held = nn.Linear(4, 4), nn.Linear(4, 2), [self.W]

    def forward(self, x):
        return self.last(torch.tanh(self.first(x) @ self.held[0]) @ self.W)


class Changed(nn.Module):
    """Calls its layers with weights that are made of their own."""

    def __init__(self, own: tuple[str, ...], times: float = 3.0):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)
        self.own, self.times = own, times

    def forward(self, x):
        own = {name: getattr(self.first, name) * self.times for name in self.own}
        return self.last(torch.tanh(functional_call(self.first, own, (x,))))


class SharedGain(nn.Module):
    """One factor on all parameters of the network inside, which is itself a parameter."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
        self.gain = nn.Parameter(torch.tensor([0.5, 0.7]))

    def forward(self, x):
        own = {name: value * self.gain.sum() for name, value in self.net.named_parameters()}
        return functional_call(self.net, own, (x,))


class Swapped(nn.Module):
    """Puts another tensor in a layer's place for its weight, for the time of a call."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x):
        weight = self.first._parameters.pop("weight")
        self.first.weight = weight.tril()
        try:
            read = self.first(x)
        finally:
            del self.first.weight
            self.first._parameters["weight"] = weight
        return self.last(torch.tanh(read))


class BiasOnce(nn.Module):
    """Takes a layer's weight twice, its bias in one of the two calls."""

    def __init__(self, other: bool):
        super().__init__()
        self.first, self.last, self.other = nn.Linear(4, 4), nn.Linear(4, 2), other
        self.bias = nn.Parameter(torch.randn(4)) if other else None

    def forward(self, x):
        read = torch.tanh(F.linear(x, self.first.weight, self.first.bias))
        return self.last(F.linear(read, self.first.weight, self.bias))


class MaskedWithoutGradients(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)
        self.scale = nn.Parameter(torch.rand(4) + 0.5)

    def forward(self, x):
        read = self.first(x)
        with torch.no_grad():
            mask = read * self.scale > 0
        return self.last(read * mask * self.scale)


class Experts(nn.Module):
    """Sends each sample to one of two layers, by its first number."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.last = nn.Linear(4, 2)

    def forward(self, x):
        y, positive = torch.zeros_like(x), x[:, 0] > 0
        y[positive], y[~positive] = self.experts[0](x[positive]), self.experts[1](x[~positive])
        return self.last(y)


@pytest.mark.parametrize(
    "make",
    [
        Aliased,
        lambda: Changed(("weight",)),
        lambda: Changed(("bias",)),
        lambda: Changed(("weight", "bias")),
        SharedGain,
        Swapped,
        lambda: BiasOnce(other=False),
        lambda: BiasOnce(other=True),
        MaskedWithoutGradients,
        Experts,
    ],
    ids="alias weight bias both gain swap bias-once another-bias no-grad experts".split(),
)
def test_parameters_that_do_not_act_as_their_names_say_count_right(make):
    net, x = seeded(make).double(), gaussian(6, 4)
    m = flatlib.measure(net, x)
    expected = plain_energy(net, x.double())
    assert torch.allclose(m.parameter_gradient_energy, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("own", ["weight", "bias"])
def test_a_layer_that_is_called_with_another_weight_does_not_own_its_own(own):
    net = seeded(lambda: Changed((own,)))
    m = flatlib.measure(net, gaussian(6, 4))
    assert m.layers[0].in_sharpness == (own == "bias")
    assert torch.allclose(
        m.layers[0].weight, (3 if own == "weight" else 1) * net.first.weight.double()
    )
    assert list(m.other_parameters) == [f"first.{own}"]
    proven = {bound.key: bound.proven for bound in flatlib.bounds.evaluate(m)}
    assert proven["13"] == (own == "bias")


class BestRouted(nn.Module):
    """Two experts with room for five in eight of a batch, the surest samples first."""

    def __init__(self):
        super().__init__()
        self.route = nn.Linear(4, 2)
        self.experts, self.last = nn.ModuleList(nn.Linear(4, 4) for _ in range(2)), nn.Linear(4, 2)

    def forward(self, x):
        sure, chosen = self.route(x).softmax(dim=1).max(dim=1)
        y = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            rows = (chosen == index).nonzero()[:, 0]
            rows = rows[sure[rows].argsort(descending=True)][: math.ceil(5 * len(x) / 8)]
            y = y.index_add(0, rows, sure[rows, None] * expert(x[rows]))
        return self.last(torch.tanh(y) + x)


def test_experts_whose_room_runs_out_are_seldom_measured_wrong():
    """The outputs of every other sample tell; those of a few samples left 13 of 40 wrong."""
    refused, wrong = 0, 0
    for seed in range(40):
        net, x = seeded(BestRouted, seed=seed).double(), gaussian(32, 4, seed=seed).double()
        try:
            m = flatlib.measure(net, x)
        except ValueError as error:
            assert "samples influence each other" in str(error)
            refused += 1
        else:
            wrong += not torch.allclose(m.parameter_gradient_energy, plain_energy(net, x))
    assert refused > 10 and wrong <= 4
