"""Networks out of a statement's assumptions: the register refuses them, the library flags them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from mutants import MUTANTS
from torch import Tensor, nn

from flatlib import bounds, measure, nets
from flatlib.lab import equations
from flatlib.lab.equations.cases import Case, Skip, frobenius, spectral
from flatlib.lab.equations.checking import run
from flatlib.lab.equations.convolutions import ConvolutionCase
from flatlib.lab.equations.vectors import Vector

VECTORS = ("19", "22", "B.1", "B.2")
CONVOLUTIONS = ("N.6", "N.7", "N.8")


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def perceptron(*widths: int, activation: str = "tanh") -> nn.Sequential:
    return nets.mlp(widths, activation, seed=3).double()


def interpolating(net: nn.Sequential, x: Tensor) -> Case:
    return Case(net, x, random(len(x), 2)).at_interpolation


def linear(*weights: Tensor) -> nn.Sequential:
    layers = [nn.Linear(*W.T.shape, bias=False).double() for W in weights]
    with torch.no_grad():
        for layer, W in zip(layers, weights, strict=True):
            layer.weight.copy_(W)
    return nn.Sequential(*layers)


def frozen(layer: int, size: float) -> Case:
    """V W x with V of the given size: large, it is W's gradients that S needs."""
    net = linear(random(3, 3), size * random(2, 3))
    net[layer].weight.requires_grad_(False)
    return interpolating(net, random(4, 3))


def opposite_ties(size: float) -> nn.Sequential:
    """v W W x with W = diag(1, -1) and v along e_2: both layers' gradients cancel at e_1."""
    W = torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    net = linear(W, W, torch.tensor([[0.0, size]]))
    net[1].weight = net[0].weight
    return net


def at_e_1(net: nn.Sequential) -> Case:
    return interpolating(net, torch.tensor([[1.0, 0.0]]).double())


def elsewhere() -> Case:
    """f(x) = W x + U x with U fixed, and 100 times as large as W."""
    first = linear(random(2, 3))[0]
    net = nn.Sequential(Skip(first, nn.Identity(), 100 * random(2, 3)))
    return interpolating(net, random(4, 3))


def skipping() -> Case:
    """A fixed matrix, larger than the weights, leads past the second of three layers."""
    first, after, middle, also, last = list(perceptron(3, 3, 3, 2))[1:]
    net = nn.Sequential(first, after, Skip(middle, also, 3 * random(3, 3)), last)
    return interpolating(net, random(4, 3))


def zero_input() -> Case:
    x = random(4, 3)
    x[2] = 0.0
    return interpolating(perceptron(3, 3, 3, 2), x)


def dark_layer() -> Case:
    """The second layer reads zeros at the last sample, which the first layer's W does not see."""
    net, x = perceptron(3, 3, 2), random(4, 3)
    with torch.no_grad():
        net[1].weight[:, 2], net[1].bias[:] = 0.0, 0.0
    x[3] = torch.tensor([0.0, 0.0, 1.0])
    return interpolating(net, x)


def constant() -> Case:
    """The second weight is 0: no input moves the output, and every layer reads something."""
    net = perceptron(3, 3, 3, 2)
    with torch.no_grad():
        net[3].weight[:] = 0.0
    return interpolating(net, random(4, 3))


def convolution() -> ConvolutionCase:
    """The gradients of the shared weight cancel over the positions, all but a part of them."""
    convolve, last = nn.Conv2d(1, 1, 2).double(), nn.Linear(4, 1).double()
    with torch.no_grad():
        last.weight.copy_(torch.tensor([[1.0, -1.0, -1.0, 1.0]]))
    x = 1 + 0.01 * random(3, 1, 3, 3)
    return ConvolutionCase(nn.Sequential(convolve, nn.Identity(), nn.Flatten(), last), x)


def wide(M: int, N: int) -> Case:
    return interpolating(perceptron(M, N + 1, N + 1, N), random(4, M))


@dataclass(frozen=True)
class Outside:
    """A case, and what becomes of the statements whose assumptions it violates."""

    make: Callable[[], Case | ConvolutionCase]
    false: str = ""  # the register refuses them, and their formulas are wrong here
    true: str = ""  # the register refuses them, and their formulas are right by chance
    flagged: str = ""  # the library reports them as not proven
    steps: str = ""  # the library reports a step as proven that needs less, see STEPS
    silent: bool = False  # the library refuses the whole batch


OUTSIDE = {
    "W frozen": Outside(
        lambda: frozen(0, 100.0),
        false="6 7 12 13 18 27 28 N.2 N.3 N.9",
        true="N.10",
        flagged="6 7 12 13 27 N.3 N.9 N.10",
        steps="28 N.2",
    ),
    "a later weight frozen": Outside(
        lambda: frozen(1, 0.01), false="N.9", true="N.10", flagged="N.9 N.10"
    ),
    "W tied to a later weight": Outside(
        lambda: at_e_1(opposite_ties(10.0)),
        false="6 7 12 13 18 27 28 N.2 N.3 N.9 N.10",
        flagged="6 7 12 13 27 N.3 N.9 N.10",
        steps="28 N.2",
    ),
    "two later weights tied": Outside(
        lambda: at_e_1(nn.Sequential(*linear(torch.eye(2)), *opposite_ties(1.0))),
        false="N.9 N.10",
        flagged="N.9 N.10",
    ),
    "the input enters elsewhere too": Outside(
        elsewhere,
        false="4 5 6 7 12 13 17 25 27 28 N.2 N.3 N.4 N.14",
        flagged="5 6 7 12 13 25 28 N.2 N.3",
        steps="27 N.4",
    ),
    "a skip past a later layer": Outside(skipping),
    "as many outputs as inputs": Outside(lambda: wide(3, 3)),
    "more outputs than inputs": Outside(lambda: wide(2, 3), false="10"),
    "targets missed": Outside(lambda: replace(wide(4, 2), y=random(4, 2)), false="3 N.1 N.13"),
    "an input is zero": Outside(
        zero_input,
        false="5 6 13 17 18 25 26 27 28 N.2 N.3 N.4",
        true="7 12 21 24 N.9 N.10",
        silent=True,
    ),
    "a layer reads zero": Outside(dark_layer, true="N.9 N.10", flagged="N.9 N.10"),
    "no input moves the output": Outside(constant, false="14", true="N.5", flagged="N.5"),
    "a convolution in front": Outside(
        convolution,
        false="4 5 6 7 12 13 17 25 27 28 N.2 N.3 N.4 N.9 N.10 N.11 N.12 N.14",
        flagged="5 6 7 12 13 25 28 N.2 N.3 N.9 N.10 N.11 N.12",
        steps="27 N.4",
    ),
}

# What the library reports as proven where the whole statement is not.
STEPS = {
    "27": "C <= D",  # takes no dense layer
    "28": "A <= C",  # takes no trainable weight
    "N.2": "||grad_x f||_F by ||W||_2 ||grad_W f||_F / ||x||",  # takes no trainable weight
    "N.4": "B <= C'",  # takes no dense layer
}


build = cache(lambda name: OUTSIDE[name].make())


@cache
def reported(name: str) -> dict[str, list[bounds.Bound]]:
    case, found = build(name), {}
    for bound in bounds.evaluate(measure(case.net, case.x)):
        found.setdefault(bound.label, []).append(bound)
    return found


def argument(label: str, name: str):
    """What the statement's formula takes: the whole case, or a vector of its gradients' norms."""
    case = build(name)
    if label in VECTORS:
        norms = case.grad_x if isinstance(case, ConvolutionCase) else case.grad_theta
        return Vector(frobenius(norms), 1.5, 3.0)
    return case


def holds_without_assumptions(label: str, case) -> bool:
    bare = replace(equations.find(label), assumptions=(), tight=(), library=None)
    bare = replace(bare, draw=lambda seed, index: case, applies=lambda case: True)
    return run(bare, 0, 1).passed


def refused(name: str) -> set[str]:
    row = OUTSIDE[name]
    labels = {*row.false.split(), *row.true.split()}
    return labels if name == "a convolution in front" else labels.union(CONVOLUTIONS)


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("label", MUTANTS)
def test_out_of_its_assumptions_a_statement_is_refused_and_in_them_it_holds(label, name):
    found, case, row = equations.find(label), argument(label, name), OUTSIDE[name]
    assert bool(found.unmet(case)) is (label in refused(name)), found.unmet(case)
    if label in CONVOLUTIONS or isinstance(case, ConvolutionCase):
        return  # the two kinds of case have other formulas
    assert holds_without_assumptions(label, case) is (label not in row.false.split())


@pytest.mark.parametrize("name", OUTSIDE)
def test_the_library_proves_nothing_out_of_its_assumptions(name):
    row = OUTSIDE[name]
    if row.silent:
        with pytest.raises(ValueError, match="sample 2 has input norm 0"):
            reported(name)
        return
    flagged, steps = set(), set()
    for label, found in reported(name).items():
        if label not in MUTANTS:
            continue
        if not all(bound.proven for bound in found):
            flagged.add(label)
        elif label in refused(name):
            assert [bound.name for bound in found] == [STEPS[label]]
            steps.add(label)
        assert all(bound.holds for bound in found if bound.proven), label
    assert flagged == set(row.flagged.split())
    assert steps == set(row.steps.split())
    assert ("N.6" in reported(name)) is (name == "a convolution in front")


def test_the_table_names_every_statement_that_the_library_reports():
    known = {label for name, row in OUTSIDE.items() if not row.silent for label in reported(name)}
    known &= set(MUTANTS)
    always = {"11", "21", "24", "26", "N.6", "N.7"}  # of vectors, or flagged in test_bounds.py
    flagged = {label for row in OUTSIDE.values() for label in row.flagged.split()}
    assert known == flagged | always | set(STEPS)


@pytest.mark.parametrize("label", VECTORS)
def test_exponents_in_the_wrong_order_are_refused(label):
    found = equations.find(label)
    wrong = Vector(random(4), 3.0, 1.5)
    assert found.unmet(wrong) and not holds_without_assumptions(label, wrong)
    assert bool(found.unmet(Vector(random(4), 3.0, float("inf")))) is (label in ("19", "22"))


@pytest.mark.parametrize("label", ("6", "7", "17", "18"))
def test_powers_below_one_are_refused(label):
    assert equations.find(label).unmet(replace(wide(4, 2), k=0.5))
    assert not equations.find(label).unmet(replace(wide(4, 2), k=1.0))


def test_slack_of_a_case_out_of_the_assumptions_is_refused():
    with pytest.raises(ValueError, match=r"\(13\) says nothing of this case.*W is among the param"):
        equations.find("13").slack(build("W frozen"))


def test_past_a_skip_the_derivatives_are_those_through_the_layer_alone():
    """f(x) = c(h + P x'), x' what the second layer reads: the total derivative has P's term."""
    case = build("a skip past a later layer")
    through, after = case.layers[1], case.layers[2]
    total = through.grad_x + after.grad_x @ case.pasts[1]
    found = measure(case.net, case.x).layers[1]
    assert torch.allclose(found.mls, through.grad_x_2, rtol=1e-12)
    assert float((spectral(total) / through.grad_x_2).min()) > 1.5
    right = through.norm_W_2 * through.grad_W_F  # of (N.11)
    assert bool((through.norm_x * through.grad_x_2 <= right).all())
    assert bool((through.norm_x * spectral(total) > right).all())
