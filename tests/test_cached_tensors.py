"""Networks that keep tensors made of parameters: measured as if they kept none, or refused."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import pytest
import torch
from compare import RELATIVE, assert_matches_oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from inputs import gaussian
from small import seeded
from torch import Tensor, nn

import flatlib

OUTSIDE: dict[object, Tensor] = {}


class Fresh(nn.Module):
    """Scales hidden units by a table made of biases, or of a weight that has another use."""

    def __init__(self, of_weight: bool = False):
        super().__init__()
        self.first, self.last, self.of_weight = nn.Linear(3, 4), nn.Linear(4, 2), of_weight
        self.biases = nn.Parameter(torch.randn(5), requires_grad=not of_weight)
        self.register_buffer("places", torch.tensor([0, 2, 2, 4]))

    def make(self) -> Tensor:
        return self.first.weight.sum(1) if self.of_weight else self.biases[self.places].square()

    def table(self, x: Tensor) -> Tensor:
        return self.make()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x)) * self.table(x)).tanh()


class OfDevice(Fresh):
    def __init__(self, of_weight: bool = False):
        super().__init__(of_weight)
        self.tables: dict[object, Tensor] = {}

    def key(self, x: Tensor) -> object:
        return str(x.device)

    def table(self, x):
        if self.key(x) not in self.tables:
            self.tables[self.key(x)] = self.make()
        return self.tables[self.key(x)]


class OfShape(OfDevice):
    def key(self, x):
        return x.shape[1:]


class OfBatch(OfDevice):
    """With a table for every size of batch, of which a batch of the user's may have left one."""

    def key(self, x):
        return tuple(x.shape)


class Attribute(Fresh):
    kept = None

    def table(self, x):
        if self.kept is None:
            self.kept = self.make()
        return self.kept


class NewAttribute(Fresh):
    def table(self, x):
        if not hasattr(self, "kept"):
            self.kept = self.make()
        return self.kept


class Flagged(Fresh):
    ready = False

    def table(self, x):
        if not self.ready:
            self.kept, self.ready = self.make(), True
        return self.kept


class Listed(Fresh):
    def __init__(self, of_weight: bool = False):
        super().__init__(of_weight)
        self.tables: list[Tensor] = []

    def table(self, x):
        if not self.tables:
            self.tables.append(self.make())
        return self.tables[0]


class Slotted(Fresh):
    def __init__(self, of_weight: bool = False):
        super().__init__(of_weight)
        self.tables = [torch.ones(()), None]

    def table(self, x):
        if self.tables[1] is None:
            self.tables[1] = self.make()
        return self.tables[0] * self.tables[1]


class Paired(Fresh):
    kept = None

    def table(self, x):
        if self.kept is None:
            self.kept = (0.25 * self.make(), 0.75 * self.make())
        return torch.stack(self.kept).sum(0)


class Property(Fresh):
    @functools.cached_property
    def kept(self):
        return self.make()

    def table(self, x):
        return self.kept


class Buffer(Fresh):
    def __init__(self, of_weight: bool = False):
        super().__init__(of_weight)
        self.register_buffer("kept", None, persistent=False)

    def table(self, x):
        if self.kept is None:
            self.kept = self.make()
        return self.kept


class WrittenInto(Fresh):
    def __init__(self, of_weight: bool = False):
        super().__init__(of_weight)
        self.register_buffer("kept", torch.zeros(4), persistent=False)
        self.ready = False

    def table(self, x):
        if not self.ready:
            self.kept.copy_(self.make())
            self.ready = True
        return self.kept


@dataclass
class Store:
    kept: Tensor | None = None


class InAnObject(Fresh):
    def __init__(self, of_weight: bool = False):
        super().__init__(of_weight)
        self.store = Store()

    def table(self, x):
        if self.store.kept is None:
            self.store.kept = self.make()
        return self.store.kept


class Complex(Fresh):
    kept = None

    def table(self, x):
        if self.kept is None:
            half = self.make() / 2
            self.kept = torch.complex(half, half)
        return self.kept.real + self.kept.imag


class AtALayer(Fresh):
    """Keeps its table at a layer of PyTorch's own."""

    def table(self, x):
        if not hasattr(self.last, "table"):
            self.last.table = self.make()
        return self.last.table


WAYS = (
    *(OfDevice, OfShape, OfBatch, Attribute, NewAttribute, Flagged, Listed, Slotted, Paired),
    *(Property, Buffer, WrittenInto, InAnObject, Complex, AtALayer),
)


def built(way: type[Fresh], of_weight: bool = False) -> Fresh:
    return seeded(lambda: way(of_weight))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("of_weight", [False, True])
def test_a_network_that_keeps_a_table_is_measured_as_one_that_does_not(way, of_weight):
    net, x = built(way, of_weight), gaussian(3, 3)
    assert_matches_oracle(net, x, twin=built(Fresh, of_weight))
    with torch.no_grad():  # as whoever evaluates the network does
        net(x), net(x[:1])
    assert_matches_oracle(net, x, twin=built(Fresh, of_weight))


@pytest.mark.parametrize("way", [way for way in WAYS if way is not WrittenInto])
def test_a_table_that_was_made_with_gradients_is_made_anew(way):
    net, x = built(way), gaussian(3, 3)
    net(x)
    assert_matches_oracle(net, x, twin=built(Fresh))


@settings(max_examples=25)
@given(
    way=st.sampled_from(WAYS),
    of_weight=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    n=st.integers(1, 5),
    evaluated=st.lists(st.integers(1, 5), max_size=3),
    max_memory=st.sampled_from([None, 6000]),
)
def test_whatever_was_evaluated_before_nothing_changes(
    way, of_weight, dtype, n, evaluated, max_memory
):
    net, x = built(way, of_weight).to(dtype), gaussian(n, 3)
    for size in evaluated:
        with torch.no_grad():
            net(gaussian(size, 3).to(dtype))
    found = flatlib.measure(net, x, max_memory=max_memory)
    expected = flatlib.measure(built(Fresh, of_weight).to(dtype), x)
    for field in ("parameter_gradient_energy", "singular_values"):
        torch.testing.assert_close(
            getattr(found, field), getattr(expected, field), rtol=RELATIVE, atol=1e-14
        )


@pytest.mark.parametrize("way", [OfDevice, Flagged])
def test_the_other_doors_see_the_gradients_too(way):
    net, fresh, x, y = built(way), built(Fresh), gaussian(3, 3), gaussian(3, 2)
    with torch.no_grad():
        net(x)
    for door in (
        flatlib.derivatives.parameter_jacobian,
        lambda net, x: flatlib.sharpness.adaptive_sharpness(net, x),
        lambda net, x: flatlib.hessian_trace(net, x, y).estimate,
        lambda net, x: flatlib.measure(net, x, method="matrix-free").mls,
        lambda net, x: flatlib.comparisons.largest_hessian_eigenvalue(net, x, y).value,
    ):
        found, expected = (torch.as_tensor(door(each, x)) for each in (net, fresh))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-14)


def test_what_the_user_keeps_stays_where_it_is():
    net, x = built(OfDevice), gaussian(3, 3)
    with torch.no_grad():
        net(x)
    kept = net.tables["cpu"]
    flatlib.measure(net, x)
    assert list(net.tables) == ["cpu"] and net.tables["cpu"] is kept
    assert torch.equal(kept, net.make())


@pytest.mark.parametrize("way", WAYS)
def test_a_table_of_other_parameters_is_refused(way):
    net, x = built(way), gaussian(3, 3)
    with torch.no_grad():
        net(x)
        net.biases.mul_(1.01)
    with pytest.raises(ValueError, match=r"the network holds .(kept|tables|store|last).*empty it"):
        flatlib.measure(net, x)


def test_a_table_in_half_precision_is_no_table_of_other_parameters():
    net, x = built(OfDevice).bfloat16(), gaussian(3, 3)
    with torch.no_grad():
        net(x.bfloat16())
    assert_matches_oracle(net, x, twin=built(Fresh).bfloat16())


# --- what is no cache ------------------------------------------------------------------------


class Constants(Fresh):
    """Reads tensors that it does not make, and makes one of no parameter."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.tensor([0.5, 1.0, 2.0, -1.0]))
        self.shifts, self.angles = {"hidden": torch.tensor([0.1, -0.2, 0.3, 0.4])}, None
        self.optional = torch.tensor([1.0, 2.0, 3.0, 4.0])

    def table(self, x):
        if self.angles is None:
            self.angles = torch.arange(4) / 4
        table = self.make() * self.scale + self.shifts["hidden"] + self.angles
        return table if self.optional is None else table * self.optional


def test_constants_stay_what_they_are():
    net, x = built(lambda of_weight: Constants()), gaussian(3, 3)
    expected = assert_matches_oracle(net, x)
    with torch.no_grad():
        net(x)
    found = flatlib.measure(net, x)
    assert found.sharpness == expected.sharpness


def test_a_network_whose_output_depends_on_what_it_kept_is_not_deterministic():
    class Remembers(Fresh):
        state = None

        def table(self, x):
            last = 0.0 if self.state is None else self.state
            self.state = self.make() + 0.1 * last
            return self.state

    net, x = built(lambda of_weight: Remembers()), gaussian(3, 3)
    for _ in range(2):
        with pytest.raises(ValueError, match="not deterministic"):
            flatlib.measure(net, x)
        with torch.no_grad():
            net(x)


# --- what cannot be emptied --------------------------------------------------------------------


class Outside(Fresh):
    def table(self, x):
        if self not in OUTSIDE:
            OUTSIDE[self] = self.make()
        return OUTSIDE[self]


class Remembered(Fresh):
    @functools.lru_cache  # noqa: B019
    def kept(self):
        return self.make()

    def table(self, x):
        return self.kept()


class Hidden:
    __slots__ = ("kept",)


class InSlots(Fresh):
    def __init__(self):
        super().__init__()
        self.store = Hidden()

    def table(self, x):
        if not hasattr(self.store, "kept"):
            self.store.kept = self.make()
        return self.store.kept


@pytest.mark.parametrize("way", [Outside, Remembered, InSlots])
def test_a_table_that_is_kept_elsewhere_is_refused(way):
    net, x = seeded(way), gaussian(3, 3)
    for door in (flatlib.measure, flatlib.derivatives.parameter_jacobian):
        with pytest.raises(
            ValueError, match="an earlier forward has made.*an attribute of the mod"
        ):
            door(net, x)


class Measured(Fresh):
    """Says by a number that its table is there."""

    width = 0

    def table(self, x):
        if self.width != x.shape[1]:
            self.kept, self.width = self.make(), x.shape[1]
        return self.kept


def test_a_table_that_cannot_be_found_out_is_refused_where_its_parameter_has_no_part():
    net, x = seeded(Measured), gaussian(3, 3)
    assert_matches_oracle(net, x, twin=built(Fresh))
    with torch.no_grad():
        net(x)
    with pytest.raises(ValueError, match="reads 'kept', and 'biases' of the same module.*freeze"):
        flatlib.measure(net, x)
    net.biases.requires_grad_(False)
    expected = flatlib.measure(built(Fresh).requires_grad_(False), x).singular_values
    found = flatlib.measure(net, x).singular_values
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    net.biases.requires_grad_(True)
    del net.kept
    net.width = 0
    assert_matches_oracle(net, x, twin=built(Fresh))
