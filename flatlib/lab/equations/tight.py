"""Networks at which the bounds are equalities, each family drawn from a seed.

In most of them the parameters behind the first layer are held fixed, so that theta = W, which
the last step of every chain needs.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from flatlib.lab.equations.cases import Case
from flatlib.lab.equations.draws import Draws, family

# Relative; the equality cases hold to 1e-9, and bounds are kept to 1e-12.
NEARLY_EQUAL = 4e-10


def _linear(weight: Tensor, fixed: bool = False) -> nn.Linear:
    H, M = weight.shape
    layer = skip_init(nn.Linear, M, H, bias=False, dtype=weight.dtype)
    layer.weight = nn.Parameter(weight.clone(), requires_grad=not fixed)
    return layer


def _case(net: nn.Sequential, x: Tensor, draws: Draws) -> Case:
    with torch.no_grad():
        y = net(x)
    return Case(net, x, y, k=draws.uniform(1, 6).item())


def _neuron(draws: Draws, N: int, live: int, dead: int) -> Case:
    """f(x) = v relu(w x): W and J have rank one; dead samples lie further out than live ones."""
    M = draws.integer(N + 1, 9)
    w = draws.direction(M)
    along = draws.uniform(0.3, 1, live + dead, 1)
    along[live:] *= -1
    x = along * w + 0.5 * draws.normal(live + dead, M) @ (torch.eye(M) - torch.outer(w, w)).double()
    lengths = draws.uniform(0.1, 2).repeat(live + dead, 1)
    lengths[live:] *= draws.uniform(1.5, 10, dead, 1)
    x = lengths * x / x.norm(dim=1, keepdim=True)
    first, last = _linear(draws.uniform(0.3, 3) * w[None]), _linear(draws.normal(N, 1), fixed=True)
    return _case(nn.Sequential(first, nn.ReLU(), last), x, draws)


@family
def neuron(draws: Draws) -> Case:
    """One ReLU neuron in front of a fixed readout, active on all samples, which have one norm."""
    return _neuron(draws, draws.integer(1, 6), live=draws.integer(2, 8), dead=0)


@family
def neuron_some_dead(draws: Draws) -> Case:
    """One ReLU neuron that is not active on a few samples, which are longer than the others."""
    return _neuron(draws, draws.integer(1, 6), live=draws.integer(2, 5), dead=draws.integer(2, 5))


@family
def neuron_one_live(draws: Draws) -> Case:
    """One ReLU neuron that is active on a single sample, N ≥ 3."""
    return _neuron(draws, draws.integer(3, 6), live=1, dead=draws.integer(2, 8))


@family
def linear_functional(draws: Draws) -> Case:
    """One linear layer with one output; samples of one norm."""
    M, n = draws.integer(2, 9), draws.integer(2, 10)
    x = draws.normal(n, M)
    x = draws.uniform(0.1, 10) * x / x.norm(dim=1, keepdim=True)
    return _case(nn.Sequential(_linear(draws.normal(1, M))), x, draws)


@family
def orthants(draws: Draws) -> Case:
    """Each sample switches on one hidden unit: ``||grad_W f_i|| ||x_i||`` is constant.

    W is a multiple of a rotation, sample i of norm s_i reaches unit i only, and the fixed
    readout weighs that unit by ``1 / s_i^2``.
    """
    M = draws.integer(3, 6)
    W = draws.uniform(0.3, 3) * draws.rotation(M)
    directions = 1.2 * torch.eye(M, dtype=torch.float64) - draws.uniform(0.1, 0.2, M, M)
    norms = 10 ** draws.uniform(-1, 1, M, 1)
    x = norms * directions / directions.norm(dim=1, keepdim=True) @ (W / W.norm(dim=1)[:, None])
    readout = draws.uniform(0.5, 2) / norms.square().T
    net = nn.Sequential(_linear(W), nn.ReLU(), _linear(readout, fixed=True))
    return _case(net, x, draws)


@family
def rank_one(draws: Draws) -> Case:
    """A linear map to one output; inputs of all norms."""
    M, n = draws.integer(2, 9), draws.integer(2, 10)
    x = draws.normal(n, M) * 10 ** draws.uniform(-2, 2, n, 1)
    return _case(nn.Sequential(_linear(draws.normal(1, M))), x, draws)


def _isotropic(draws: Draws, n: int, norms: Tensor) -> Case:
    M = draws.integer(3, 9)
    N = draws.integer(2, M - 1)
    W = draws.uniform(0.3, 3) * draws.rotation(M)[:N]
    x = draws.normal(n, M)
    return _case(nn.Sequential(_linear(W)), norms * x / x.norm(dim=1, keepdim=True), draws)


@family
def isotropic(draws: Draws) -> Case:
    """A linear map with equal singular values, N ≥ 2; samples of one norm."""
    return _isotropic(draws, draws.integer(2, 8), draws.uniform(0.1, 10))


@family
def isotropic_any_norm(draws: Draws) -> Case:
    """A linear map with equal singular values, N ≥ 2; samples of all norms."""
    n = draws.integer(2, 8)
    return _isotropic(draws, n, 10 ** draws.uniform(-2, 2, n, 1))


@family
def isotropic_one_live(draws: Draws) -> Case:
    """Equal singular values, then ReLU, active on one sample; two longer ones cost under 10⁻⁹.

    They are 10⁷ times as long. The bound (N.10) is approached as they grow and never attained: for
    N ≥ 2 one sample and one layer alone attain it. The three samples let the power of n matter.
    """
    case = _isotropic(draws, 1, draws.uniform(0.5, 2))
    W = case.W
    live = W.T @ draws.uniform(0.5, 1, len(W))
    live = draws.uniform(0.5, 2) * live / live.norm()
    x = torch.stack([live, -1e7 * live, -2e7 * live])
    return _case(nn.Sequential(_linear(W), nn.ReLU()), x, draws)


@family
def balanced(draws: Draws) -> Case:
    """A deep linear net to one output whose layers all have norm 1, rank 1 and are aligned."""
    widths = [draws.integer(2, 6) for _ in range(draws.integer(2, 5))]
    ends = [draws.direction(width) for width in widths] + [torch.ones(1, dtype=torch.float64)]
    layers = [_linear(torch.outer(b, a)) for a, b in zip(ends[:-1], ends[1:], strict=True)]
    signs = draws.normal(draws.integer(2, 6), 1).sign()
    return _case(nn.Sequential(*layers), signs * ends[0], draws)


@family
def curved(draws: Draws) -> Case:
    """f(x) = v tanh(w x), every input entry of one size, residuals along v.

    Each parameter has the same second derivative M2, and there are m = M of them, so the gap of
    Lemma A.1 is exactly m M2 epsilon: m times what Eq. (16) prints. The sample stands twice, with
    residuals that differ by 4e-10, so the smaller one may not stand for the larger.
    """
    M, N = draws.integer(3, 9), draws.integer(1, 2)
    x = draws.uniform(0.5, 2) * draws.normal(1, M).sign()
    first, last = _linear(draws.normal(1, M)), _linear(draws.normal(N, 1), fixed=True)
    case = _case(nn.Sequential(first, nn.Tanh(), last), x.repeat(2, 1), draws)
    lengths = torch.tensor([[1.0], [1 - NEARLY_EQUAL]], dtype=torch.float64)
    residual = draws.uniform(0.01, 1) * lengths
    return replace(case, y=case.y - residual * last.weight.detach().T)


@family
def repeated_row(draws: Draws) -> Case:
    """All hidden units alike, H ≥ 2, so that W_hm J_hk does not depend on h."""
    M, H, N = draws.integer(3, 7), draws.integer(2, 5), draws.integer(1, 3)
    W = draws.normal(M).repeat(H, 1)
    readout = draws.normal(N, 1).repeat(1, H)
    net = nn.Sequential(_linear(W), nn.Tanh(), _linear(readout))
    return _case(net, draws.normal(draws.integer(2, 6), M), draws)
