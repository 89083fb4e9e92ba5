"""The drawn networks span what they should, and their derivatives are those of the modules."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from mutants import epsilon
from torch import nn
from torch.autograd.functional import jacobian

from flatlib import measure
from flatlib.lab import equations
from flatlib.lab.equations.cases import rescaled
from flatlib.lab.equations.convolutions import draw_convolution
from flatlib.lab.equations.identities import volume
from flatlib.lab.equations.tight import curved, orthants
from flatlib.lab.equations.vectors import draw_vector
from flatlib.sides import B, C, C_prime, D, residual_term


@cache
def drawn() -> list[equations.Case]:
    return [equations.draw(0, index) for index in range(200)]


def activation(case) -> str:
    kinds = (nn.Tanh, nn.ReLU, nn.GELU, nn.Identity)
    return next((type(m).__name__ for m in case.net.modules() if isinstance(m, kinds)), "none")


def test_drawn_networks_span_the_settings():
    assert {activation(c) for c in drawn()} == {"Tanh", "ReLU", "GELU", "Identity", "none"}
    assert {len(c.layers) for c in drawn()} == {1, 2, 3, 4, 5}
    assert {c.N for c in drawn()} == set(range(1, 7))
    assert {c.n for c in drawn()} == set(range(1, 21))
    assert {c.linears[0].bias is None for c in drawn()} == {True, False}
    assert {c.state for c in drawn()} == {"untrained", "trained", "solved"}
    assert {(c.N > M) - (c.N < M) for c in drawn() for M in c.x.shape[1:]} == {-1, 0, 1}
    assert {bool(torch.cat([P.flatten() for P in c.pasts]).any()) for c in drawn()} == {True, False}
    assert {len({layer.weight for layer in c.linears}) < len(c.layers) for c in drawn()} == {
        True,
        False,
    }
    assert {c.linears[0].weight.requires_grad for c in drawn()} == {True, False}
    assert any(c.k < 2 for c in drawn()) and any(c.k > 2 for c in drawn())


def full_rank(case) -> bool:
    """Whether N outputs move independently at every sample."""
    return bool((case.sigma[:, -1] > 1e-9 * case.sigma[:, 0]).all())


def share(cases, of) -> float:
    return sum(map(of, cases)) / len(cases)


@pytest.mark.parametrize("label", ("10", "11", "12", "N.3", "N.10"))
def test_statements_about_volumes_see_volumes_that_are_not_zero(label):
    cases = list(equations.find(label).cases(0, 40))
    assert 0.6 < share(cases, full_rank) < 0.95
    assert share(cases, lambda c: bool((volume(c) > 0).any())) > 0.85
    live = [c.sigma[c.sigma[:, 0] > 0] for c in cases]
    independent = torch.cat([s[:, -1] > 1e-9 * s[:, 0] for s in live]).double()
    assert float(independent.mean()) > 0.75


@pytest.mark.parametrize("label", ("15", "16", "A.1"))
def test_statements_about_the_gap_see_a_gap(label):
    cases = list(equations.find(label).cases(0, 40))
    assert share(cases, lambda c: float(epsilon(c)) > 0) > 0.95
    seen = share(cases, lambda c: float(residual_term(c).abs()) > 1e-6 * float(c.S))
    assert 0.6 < seen < 0.9  # piecewise linear networks have none


def test_norms_are_one_or_vary_wildly():
    unit = [bool(((c.norm_x - 1).abs() < 1e-12).all()) for c in drawn()]
    assert 60 < sum(unit) < 140
    norms = torch.cat([c.norm_x for c, one in zip(drawn(), unit, strict=True) if not one])
    assert 1e-3 <= float(norms.min()) < 2e-3 and 500 < float(norms.max()) <= 1e3


def test_solved_networks_interpolate_where_they_can():
    exact = [c for c in drawn() if c.state == "solved" and float(c.residual.abs().max()) < 1e-6]
    assert len(exact) > 10


def test_training_lowers_the_loss():
    shares = [
        float(c.residual.square().sum() / c.y.square().sum())
        for c in drawn()
        if c.state == "trained" and float(c.norm_x.max()) < 1.5
    ]
    assert len(shares) > 20 and sorted(shares)[len(shares) // 2] < 0.7


def test_drawing_leaves_the_global_random_state_alone():
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    equations.draw.cache_clear()
    equations.draw(9, 0), draw_convolution(9, 0), draw_vector(9, 1)
    equations.check("9", seed=9, cases=2)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("index", range(16))
def test_derivatives_are_those_of_the_module(index):
    case = equations.draw(2, index)
    assert torch.allclose(case.net(case.x), case.f(case.x), rtol=1e-9, atol=1e-12)
    for i in range(case.n):
        own = jacobian(lambda x: case.net(x[None])[0], case.x[i])
        assert torch.allclose(case.grad_x[i], own, rtol=1e-9, atol=1e-12 * float(own.norm()))
    outputs = case.net(case.x[:1])[0]
    for k in range(case.N):
        rows = torch.autograd.grad(outputs[k], case.free, retain_graph=True)
        row = torch.cat([g.flatten() for g in rows])
        own = case.grad_theta[0, k]
        assert torch.allclose(own.norm(), row.norm(), rtol=1e-9)
        assert torch.allclose(own.sort().values, row.sort().values, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("index", range(8))
def test_second_derivatives_are_differences_of_first_ones(index):
    case = equations.draw(3, 4 * index + 3)  # tanh and GELU alike
    case = next(c for c in (case, equations.draw(3, 3)) if len(c.theta) < 200)
    step, j = 1e-5, len(case.theta) // 2
    shift = torch.zeros_like(case.theta)
    shift[j] = step
    x = case.x / case.norm_x[:, None]
    at = [case.f_of_theta(case.theta + s * shift, x) for s in (-1, 0, 1)]
    expected = (at[0] - 2 * at[1] + at[2]) / step**2
    own = equations.Case(case.net, x, case.y).second_derivatives[:, :, j]
    assert torch.allclose(own, expected, atol=1e-4 * (1 + float(at[1].abs().max())))


def test_fixed_parameters_are_no_part_of_theta():
    case = orthants(0)
    assert case.theta.shape == case.W.flatten().shape
    assert torch.equal(case.grad_theta, case.grad_W.flatten(2))
    assert measure(case.net, case.x).sharpness == pytest.approx(float(case.S), rel=1e-12)


def test_rescaling_leaves_a_homogeneous_network_as_it_is():
    draws = (equations.draw(0, index) for index in range(200))
    case = next(
        c
        for c in draws
        if len(c.layers) == 3 and activation(c) == "ReLU" and c.linears[0].bias is None
    )
    other = rescaled(case, (4.0, 0.5, 0.5))
    assert torch.allclose(other.f(case.x), case.f(case.x), rtol=1e-12)
    assert float(other.norm_W_2) == pytest.approx(4 * float(case.norm_W_2))


def test_convolutions_span_kernels_strides_and_padding():
    convs = [draw_convolution(0, index).convolution for index in range(100)]
    assert {c.kernel_size[0] for c in convs} == {1, 2, 3}
    assert {c.stride[0] for c in convs} == {1, 2}
    assert {c.padding[0] for c in convs} == {0, 1}
    assert {c.in_channels for c in convs} == {1, 2, 3}


def test_matrix_of_a_convolution_is_the_convolution():
    case = draw_convolution(0, 5)
    bias = case.convolution.bias.detach()[:, None]
    by_matrix = (case.x.flatten(1) @ case.T_W.T).unflatten(1, (len(bias), -1)) + bias
    assert torch.allclose(by_matrix, case.convolution(case.x).flatten(2), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("label", list(equations.register))
def test_equality_cases_are_where_steps_are_attained(label):
    found = equations.find(label)
    for family, case in zip(found.tight, equations.equality_cases(label, seed=4), strict=True):
        links = found.check(case)
        for position in family.links:
            lhs, _, rhs = links[position][:3]
            lhs, rhs = (torch.as_tensor(side, dtype=torch.float64) for side in (lhs, rhs))
            assert torch.allclose(lhs, rhs, rtol=1e-9, atol=1e-12)
            assert bool((rhs != 0).any()) or found.logarithmic


def test_equality_case_is_a_network_with_its_data_or_a_vector():
    net, x = equations.equality_case("28")
    chain = [float(v) for v in (B(equations.equality_cases("28")[0]), net(x).isfinite().all())]
    assert chain[0] > 0 and chain[1] == 1
    assert equations.equality_case("B.1").v.count_nonzero() == 1
    net, x = equations.equality_case("N.2", link=3)
    assert int((net(x).norm(dim=1) > 0).sum()) == 1


def test_step_without_equality_case_is_refused():
    with pytest.raises(ValueError, match=r"steps \[0, 1, 2\], got 7"):
        equations.equality_case("28", link=7)
    with pytest.raises(ValueError, match=r"\(9\) has equality cases for steps \[\]"):
        equations.equality_case("9")


def test_printed_lemma_is_off_by_the_number_of_parameters():
    net, x, y = equations.printed_lemma_counterexample()
    case = equations.Case(net, x, y)
    gap = float((case.hessian_at_targets.trace() - case.S).abs())
    printed = float(case.second_derivatives.norm(dim=1).max() * epsilon(case))
    assert gap == pytest.approx(len(case.theta) * printed, rel=1e-9)
    assert torch.equal(curved(0).x, x)


def test_piecewise_linear_networks_have_no_gap_unless_two_layers_share_a_weight():
    flat = [c for c in drawn() if activation(c) in ("ReLU", "Identity", "none")]
    tied = [c for c in flat if len({layer.weight for layer in c.linears}) < len(c.layers)]
    assert len(tied) > 5 and any(bool((c.second_derivatives != 0).any()) for c in tied)
    flat = [c for c in flat if all(c is not other for other in tied)]
    assert all(bool((c.second_derivatives == 0).all()) for c in flat)
    assert (
        max(float((c.hessian_at_targets.trace() - c.S).abs() / c.S) for c in flat if c.S > 0) < 1e-9
    )
    assert max(float(c.residual.abs().max()) for c in flat) > 1


def test_C_prime_may_exceed_D():
    case = orthants(0)
    assert float(C(case)) == pytest.approx(float(D(case)), rel=1e-9)
    assert float(C_prime(case)) > 1.1 * float(D(case))
