"""Networks and data drawn from a seed, with every derivative taken by plain autograd.

Nothing here uses the library's own measuring: the forward pass is written out by hand and its
derivatives come from ``torch.func``, one sample at a time, so that a check that compares the
two means something.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
from torch import Tensor, nn
from torch.func import grad, jacfwd, jacrev, vjp, vmap

from flatlib import nets
from flatlib.lab.equations.draws import Draws

TRAINING_STEPS = 20
GAUSSIAN_SAMPLES = 4000  # propagated through the net for Eq. (14)
SMALLEST_GRADIENT = 1e-20
STATES = ("untrained", "trained", "solved")


FUNCTIONS = {  # of activations, written out
    nn.Tanh: torch.tanh,
    nn.ReLU: lambda z: z * (z > 0),
    nn.GELU: lambda z: z * (1 + torch.erf(z / math.sqrt(2))) / 2,
    nn.Identity: lambda z: z,
}


def mean(values: Tensor) -> Tensor:
    """Mean over the samples."""
    return values.mean(dim=0)


def frobenius(jacobian: Tensor) -> Tensor:
    """Frobenius norm of each sample's Jacobian: ``(n, ...)`` to ``(n,)``."""
    return jacobian.flatten(1).norm(dim=1)


def spectral(jacobian: Tensor) -> Tensor:
    """Largest singular value of each sample's Jacobian: ``(n, N, d)`` to ``(n,)``."""
    return torch.linalg.svdvals(jacobian)[..., 0]


def singular_values(jacobian: Tensor) -> Tensor:
    """As many as there are outputs, ``(n, N, d)`` to ``(n, N)``: 0 beyond the d-th."""
    found = torch.linalg.svdvals(jacobian)
    return nn.functional.pad(found, (0, jacobian.shape[1] - found.shape[1]))


def participation_ratio(covariance: Tensor) -> Tensor:
    """``Tr[C]^2 / Tr[C^2]`` of symmetric matrices ``(..., N, N)``."""
    trace = covariance.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
    return trace**2 / covariance.square().sum(dim=(-2, -1))


def curvatures(function: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    """Second derivative of a function along each single entry of theta, that entry first.

    It is taken of ``weights`` times the function, whose derivative for them is the function's own.
    """
    weights = torch.zeros_like(function(theta))

    def along(direction):
        def weighted(s, weights):
            return (weights * function(theta + s * direction)).sum()

        return grad(grad(grad(weighted)), argnums=1)(theta.new_zeros(()), weights)

    return vmap(along)(torch.eye(len(theta), dtype=theta.dtype))


class Skip(nn.Module):
    """``a(W x + b) + P x``: a linear layer, its activation, and a fixed P that leads past both."""

    def __init__(self, linear: nn.Linear, activation: nn.Module, past: Tensor):
        super().__init__()
        self.linear, self.activation = linear, activation
        self.register_buffer("past", past)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.linear(x)) + x @ self.past.T


def _stages(net: nn.Sequential) -> tuple[tuple[nn.Linear, Callable, Tensor], ...]:
    """Each linear layer, its activation or the identity, and what leads past both, or 0."""
    modules = [module for module in net if not isinstance(module, nn.Flatten)]
    stages = []
    for module, after in zip(modules, [*modules[1:], nn.Identity()], strict=True):
        if isinstance(module, Skip):
            function = FUNCTIONS[type(module.activation)]
            stages.append((module.linear, function, module.past))
        elif isinstance(module, nn.Linear):
            function = FUNCTIONS.get(type(after), FUNCTIONS[nn.Identity])
            stages.append((module, function, torch.zeros_like(module.weight.detach())))
    return tuple(stages)


class Norms:
    """Norms of what a layer, or a network's first one, reads, has for weights and passes on.

    They come from its ``W`` and ``x`` and from the derivatives ``J``, ``grad_x`` and ``grad_W``;
    ``sigma`` are the singular values from what is read, ``(n, N)``, descending.
    """

    norm_W_F = cached_property(lambda c: torch.linalg.matrix_norm(c.W))
    norm_W_2 = cached_property(lambda c: torch.linalg.matrix_norm(c.W, 2))
    norm_x = cached_property(lambda c: c.x.flatten(1).norm(dim=1))
    J_F = cached_property(lambda c: frobenius(c.J))
    J_2 = cached_property(lambda c: spectral(c.J))
    grad_x_F = cached_property(lambda c: frobenius(c.grad_x))
    grad_x_2 = cached_property(lambda c: spectral(c.grad_x))
    grad_W_F = cached_property(lambda c: frobenius(c.grad_W))
    sigma = cached_property(lambda c: singular_values(c.grad_x))
    log_volume = cached_property(lambda c: c.sigma.log().sum(dim=1))


@dataclass(frozen=True)
class Layer(Norms):
    """One linear layer of a case: its weights, what it reads, the derivatives of f at it.

    The derivatives are those through this layer alone: a skip connection past the layer adds
    nothing to ``grad_x``, and another layer of the same weights nothing to ``grad_W``.
    """

    W: Tensor  # (H, d)
    x: Tensor  # (n, d), the layer's input
    J: Tensor  # (n, N, H), derivative of f with respect to W x + b
    grad_x: Tensor  # (n, N, d)
    grad_W: Tensor  # (n, N, H, d)


@dataclass(frozen=True)
class Case(Norms):
    """A float64 network of linear layers, n samples and their targets.

    The network is a ``Sequential`` of ``Linear`` layers, activations and `Skip` connections.

    The names of the derived quantities are the paper's: ``grad_W_F[i]`` is the Frobenius norm
    of the derivative of f at sample i with respect to the first layer's weights W.
    Parameters that do not require a gradient are held fixed: they are not part of theta.
    """

    net: nn.Sequential
    x: Tensor  # (n, M)
    y: Tensor  # (n, N)
    k: float = 2.0  # the power of Eqs. (6), (7), (17), (18), at least 1
    seed: int = 0  # of whatever else a check draws
    state: str = "untrained"  # one of STATES

    def __post_init__(self) -> None:
        # Read once here: a tensor first cached inside a torch.func transform would escape it.
        _ = self.weights, self.biases, self.functions, self.pasts, self.theta

    n = property(lambda c: len(c.x))
    N = property(lambda c: c.y.shape[1])
    # A power of at least 2, for Eqs. (20) and (21), and one in [1, 2), for Eqs. (23) and (24).
    k_high = property(lambda c: c.k if c.k >= 2 else 2 * c.k)
    k_low = property(lambda c: c.k if c.k < 2 else 1 + (c.k - 2) / 5)

    def at(self, k: float) -> Case:
        """The case with another power, and all that it has worked out."""
        other = copy.copy(self)
        vars(other)["k"] = k
        return other

    def normal(self, *shape: int) -> Tensor:
        """Standard Gaussian numbers that depend on the case and the shape alone."""
        return Draws(0, self.seed).normal(*shape)

    stages = cached_property(lambda c: _stages(c.net))
    linears = property(lambda c: tuple(linear for linear, _, _ in c.stages))
    functions = property(lambda c: tuple(function for _, function, _ in c.stages))
    pasts = property(lambda c: tuple(past for _, _, past in c.stages))
    weights = cached_property(lambda c: tuple(layer.weight.detach() for layer in c.linears))

    @cached_property
    def biases(self) -> tuple[Tensor, ...]:
        return tuple(
            layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias.detach()
            for layer in self.linears
        )

    def is_own(self, layer: nn.Linear) -> bool:
        """Whether a layer's weight is a parameter that no other layer shares."""
        weight = layer.weight
        return weight.requires_grad and sum(other.weight is weight for other in self.linears) == 1

    def through(self, x: Tensor, weights=(), biases=(), before=(), after=()) -> list[Tensor]:
        """What every layer reads of ``x``, and last the output: the network written out by hand.

        ``before`` shifts what a layer's W reads, and not what leads past it, ``after`` its W x + b.
        """
        zeros, read = [0.0] * len(self.weights), [x]
        own = (weights or self.weights, biases or self.biases, self.functions, self.pasts)
        for W, b, a, P, s, t in zip(*own, before or zeros, after or zeros, strict=True):
            x = a((x + s) @ W.T + b + t) + x @ P.T
            read.append(x)
        return read

    def f(self, x: Tensor) -> Tensor:
        """The network for a batch ``(n, M)``."""
        return self.through(x)[-1]

    @cached_property
    def distance_to_kinks(self) -> float:
        """Smallest ``|W x + b|`` before a ReLU, over ``|W| |x| + |b|``; infinite without one."""
        nearest, parts = math.inf, zip(self.layers, self.biases, self.functions, strict=True)
        for layer, b, a in parts:
            size = layer.x.abs() @ layer.W.abs().T + b.abs()
            share = (layer.x @ layer.W.T + b).abs() / size
            if a is FUNCTIONS[nn.ReLU]:  # what reads and adds zeros alone stays where it is
                nearest = min(nearest, float(share.nan_to_num(nan=math.inf).min()))
        return nearest

    @cached_property
    def _derivatives(self):
        """Those of f at each sample for x, all W and b, what each W reads and each W x + b."""
        shifts = [tuple(W.new_zeros(W.shape[axis]) for W in self.weights) for axis in (1, 0)]
        derivative = jacrev(lambda *at: self.through(*at)[-1], (0, 1, 2, 3, 4))
        of_samples = vmap(derivative, (0, None, None, None, None))
        return of_samples(self.x, self.weights, self.biases, *shifts)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        _, grad_weights, _, grad_inputs, grad_outputs = self._derivatives
        read = self.through(self.x)
        return tuple(map(Layer, self.weights, read, grad_outputs, grad_inputs, grad_weights))

    W = property(lambda c: c.weights[0])
    J = property(lambda c: c.layers[0].J)
    grad_x = property(lambda c: c._derivatives[0])  # (n, N, M), the transpose of the paper's
    grad_W = property(lambda c: c.layers[0].grad_W)
    gradient_energy = property(lambda c: c.grad_x_F**2)
    grad_W_energy = property(lambda c: c.grad_W_F**2)
    grad_theta_energy = property(lambda c: c.grad_theta_F**2)
    D_PR = property(lambda c: participation_ratio(c.grad_x @ c.grad_x.mT))
    has_layer_mls, convolution_in_front = True, False

    @cached_property
    def grad_theta(self) -> Tensor:
        """``(n, N, m)``, the parameters in the order of ``theta``."""
        _, grad_weights, grad_biases, _, _ = self._derivatives
        found = {id(parameter): 0.0 for parameter in self.free}
        for layer, grad_W, grad_b in zip(self.linears, grad_weights, grad_biases, strict=True):
            for parameter, gradient in ((layer.weight, grad_W), (layer.bias, grad_b)):
                if id(parameter) in found:
                    found[id(parameter)] = found[id(parameter)] + gradient.flatten(2)
        return torch.cat(list(found.values()), dim=2)

    grad_theta_F = cached_property(lambda c: frobenius(c.grad_theta))
    S = cached_property(lambda c: mean(c.grad_theta_F**2))  # Eq. (3)'s right-hand side

    @cached_property
    def sharpness(self) -> Tensor:
        """S as Eq. (2) defines it, where the network interpolates; rounding below 0 is 0."""
        return self.at_interpolation.hessian_at_targets.trace().clamp(min=0)

    @property
    def is_full_rank(self) -> bool:
        """Whether float64 knows all singular values, and with them the volumes' logarithms."""
        return bool((self.sigma[:, -1] > 1e-6 * self.sigma[:, 0]).all())

    @cached_property
    def rescaled(self) -> Case:
        """With factors of product 1 on the weights of a homogeneous network; others as they are.

        Homogeneous are those without skips, ties and biases whose activations let positive factors
        pass.
        """
        kinds = (nn.Linear, nn.ReLU, nn.Identity, nn.Flatten)
        plain = all(isinstance(module, kinds) for module in self.net)
        if not plain or any(one.bias is not None or not self.is_own(one) for one in self.linears):
            return self
        factors = 10 ** self.normal(len(self.layers))
        factors = factors / factors.prod() ** (1 / len(factors))
        return rescaled(self, factors.tolist())

    @cached_property
    def free(self) -> tuple[nn.Parameter, ...]:
        """The parameters that are not held fixed, each once however many layers share it."""
        return tuple(p for p in self.net.parameters() if p.requires_grad)

    @cached_property
    def theta(self) -> Tensor:
        """All parameters that are not held fixed, ``(m,)``."""
        return torch.cat([p.detach().flatten() for p in self.free])

    def f_of_theta(self, theta: Tensor, x: Tensor) -> Tensor:
        """The network at other parameters, for a batch ``(n, M)``."""
        pieces = theta.split([p.numel() for p in self.free])
        moved = {id(p): piece.view_as(p) for p, piece in zip(self.free, pieces, strict=True)}
        own = list(zip(self.linears, self.weights, self.biases, strict=True))
        weights = [moved.get(id(layer.weight), W) for layer, W, _ in own]
        biases = [moved.get(id(layer.bias), b) for layer, _, b in own]
        return self.through(x, weights, biases)[-1]

    def loss(self, theta: Tensor, y: Tensor) -> Tensor:
        """L(theta), half the mean squared distance to the targets y."""
        return (self.f_of_theta(theta, self.x) - y).square().sum() / (2 * self.n)

    @cached_property
    def hessian_at_targets(self) -> Tensor:
        """The explicit Hessian of the loss, ``(m, m)``."""
        return jacrev(jacrev(self.loss))(self.theta, self.y)

    @cached_property
    def hessian_of_gradient(self) -> Tensor:
        """The Hessian at the targets, as the Jacobian of the gradient, ``(m, m)``.

        The gradient is written out, the mean over samples of J^T (f - y): no loss is evaluated.
        """

        def gradient(theta):
            outputs, pulled_back = vjp(lambda t: self.f_of_theta(t, self.x), theta)
            return pulled_back((outputs - self.y) / self.n)[0]

        return jacfwd(gradient)(self.theta)

    @cached_property
    def loss_curvatures(self) -> Tensor:
        """Second derivative of the loss along each single parameter, ``(m,)``."""
        return curvatures(lambda theta: self.loss(theta, self.y), self.theta)

    @cached_property
    def second_derivatives(self) -> Tensor:
        """Second derivative of f along each single parameter, ``(n, N, m)``."""
        along = curvatures(lambda theta: self.f_of_theta(theta, self.x), self.theta)
        return along.permute(1, 2, 0)

    residual = cached_property(lambda c: c.f(c.x) - c.y)
    # With the network's own outputs for targets, an exact interpolation solution; and with targets
    # half as far from the outputs.
    at_interpolation = cached_property(lambda c: replace(c, y=c.f(c.x)))
    halfway = cached_property(lambda c: replace(c, y=c.f(c.x) - c.residual / 2))

    @cached_property
    def along_the_axes(self) -> tuple[Tensor, Tensor]:
        """The first sample's central differences along every axis of the input, and their error.

        Points at both ends of every axis, ``sqrt(M alpha)`` away, have mean x and covariance
        alpha I exactly, so no sampling error hides a wrong factor. Returns ``(N, M)``, and how far
        the whole moves where the steps are twice as long: large numbers inside a network that
        cancel leave more rounding than its output shows.
        """
        h = 1e-7 * min(1.0, float(self.norm_x[0]))
        short, long = self._central_differences(h), self._central_differences(2 * h)
        return short, (short - long).norm()

    def _central_differences(self, h: float) -> Tensor:
        step = h * torch.eye(self.x.shape[1], dtype=self.x.dtype)
        ahead, behind = self.x[:1] + step, self.x[:1] - step
        width = (ahead - behind).diagonal()  # what rounding leaves of 2 h
        return (self.f(ahead) - self.f(behind)).T / width

    @cached_property
    def ball(self) -> tuple[Tensor, float]:
        """The image of a small Gaussian ball around the first sample, centered, and its alpha."""
        root_alpha = 1e-7 * min(1.0, float(self.norm_x[0]))
        moved = self.x[:1] + root_alpha * self.normal(GAUSSIAN_SAMPLES, self.x.shape[1])
        return self.f(moved) - self.f(self.x[:1]), root_alpha**2


def _inputs(n: int, M: int, top: float | None, draws: Draws) -> Tensor:
    """Random directions; norms log-uniform between 1e-3 and 10^top, or 1."""
    x, share = draws.normal(n, M), draws.uniform(0, 1, n, 1)
    norms = torch.ones_like(share) if top is None else 10 ** ((top + 3) * share - 3)
    return norms * x / x.norm(dim=1, keepdim=True)


def _train(net: nn.Sequential, x: Tensor, y: Tensor) -> None:
    """Some way down the loss, by L-BFGS."""
    optimizer = torch.optim.LBFGS(
        net.parameters(), max_iter=TRAINING_STEPS, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = (net(x) - y).square().sum() / (2 * len(x))
        value.backward()
        return value

    optimizer.step(loss)
    optimizer.zero_grad()


def _solve_last_layer(net: nn.Sequential, x: Tensor, y: Tensor) -> None:
    """Solve for the last layer: f(x_i) = y_i exactly, or nearest where samples are too many."""
    last = net[-1]
    with torch.no_grad():
        features = net[:-1](x)
        ones = torch.ones(len(x), 0 if last.bias is None else 1, dtype=x.dtype)
        design = torch.cat([features, ones], dim=1)
        solution = torch.linalg.pinv(design, rtol=1e-6) @ y
        last.weight.copy_(solution[: features.shape[1]].T)
        if last.bias is not None:
            last.bias.copy_(solution[-1])


def _network(widths, activation, bias, skips, tied, draws: Draws) -> nn.Sequential:
    """A perceptron; with fixed skip connections past its middle layers, or two of one weight."""
    net = nets.mlp(widths, activation, bias=bias, seed=draws.seed).double()
    if tied:
        net.linear3.weight = net.linear2.weight
    if not skips:
        return net
    flatten, first, after, *middle, last = net
    skipped = [
        Skip(layer, function, draws.normal(*layer.weight.shape) / layer.in_features**0.5)
        for layer, function in zip(middle[::2], middle[1::2], strict=True)
    ]
    return nn.Sequential(flatten, first, after, *skipped, last)


def _drawn(draws: Draws, activation: str, tame: bool, curved: bool) -> Case:
    """One case; ``tame`` gives it inputs of norm 1, ``curved`` two layers and residuals."""
    pick, one_in = draws.integer, draws.one_in
    state = STATES[pick(0, len(STATES) - 1)]
    L, N = pick(2 if curved else 1, 5), min(pick(1, 6), pick(1, 6))
    # A last layer reaches every target where there are no more samples than it has inputs.
    n = pick(1, 5) if state == "solved" and one_in(2) else pick(1, 20)
    M = max(1, N - pick(0, 2)) if one_in(6) else pick(N + 1, 9)
    # ReLU and GELU shut about half of their units at a sample.
    enough = 2 * N + 1 if activation in ("relu", "gelu") else N
    narrow, skips, tied = one_in(6), L >= 3 and one_in(3), L >= 4 and one_in(4)
    hidden = [pick(1, 7) if narrow else pick(enough, enough + 2) for _ in range(L - 1)]
    widths = (M, *(hidden[:1] * (L - 1) if tied else hidden), N)
    bias, unit = bool(pick(0, 1)), bool(pick(0, 1)) or tame
    net = _network(widths, activation, bias, skips, tied, draws)
    far = activation in ("relu", "identity") or one_in(4)  # others saturate
    x = _inputs(n, M, None if unit else 3.0 if far else 0.5, draws)
    y = draws.normal(n, N)
    if state == "trained":
        _train(net, x, y)
    elif state == "solved":
        _solve_last_layer(net, x, y)
        if curved:
            y = net(x).detach() + 10.0 ** -pick(0, 3) * draws.normal(n, N)
    if L > 1 and one_in(8):
        next(net.parameters()).requires_grad_(False)
    return Case(net, x, y, draws.uniform(1, 6).item(), draws.seed, state)


def vanishing(*derivatives: Tensor) -> bool:
    """Whether a sample's largest entry is so small, and not 0, that powers of it leave float64."""
    largest = torch.cat([d.abs().flatten(1).amax(dim=1) for d in derivatives])
    return bool(((largest > 0) & (largest < SMALLEST_GRADIENT)).any())


def _resolved(seed: int, index: int, activation: str, curved: bool = False) -> Case:
    case = _drawn(Draws(seed, index), activation, tame=False, curved=curved)
    if any(vanishing(layer.grad_x, layer.grad_W, layer.J) for layer in case.layers):
        return _drawn(Draws(seed, index), activation, tame=True, curved=curved)
    return case


@lru_cache(maxsize=512)
def draw(seed: int, index: int) -> Case:
    """Case ``index`` of the stream that ``seed`` names; the same two numbers, the same case.

    Linear, deep linear, tanh, ReLU and GELU nets of one to five layers, N = 1 to 6 outputs,
    n = 1 to 20 samples with unit or wildly varying norms, with or without biases, untrained,
    trained, or with their last layer solved for. Some have skip connections past their middle
    layers, or two layers of one weight, or a first layer that is held fixed, or as many outputs as
    inputs or more. One in six may be narrower inside than its output; the others let N outputs
    move independently. Where huge inputs saturate a net until its gradients vanish in float64, it
    is drawn again with inputs of norm 1.

    >>> case = draw(0, 3)
    >>> case.x.dtype, case is draw(0, 3)
    (torch.float64, True)
    """
    activation = sorted(nets.ACTIVATIONS)[index % len(nets.ACTIVATIONS)]
    return _resolved(seed, index, activation)


def draw_interpolating(seed: int, index: int) -> Case:
    """`draw` with the network's own outputs for targets."""
    return draw(seed, index).at_interpolation


@lru_cache(maxsize=512)
def draw_curved(seed: int, index: int) -> Case:
    """`draw` with two layers or more and residuals; three in four are tanh or GELU nets.

    The second derivatives of f along single parameters are 0 in the others.
    """
    activation = ("tanh", "gelu", "tanh", "gelu", "tanh", "gelu", "relu", "identity")[index % 8]
    return _resolved(seed, index, activation, curved=True)


def rescaled(case: Case, factors: Sequence[float]) -> Case:
    """The case with layer l's weights times ``factors[l]``; biases stay."""
    net = copy.deepcopy(case.net)
    with torch.no_grad():
        linears = (module for module in net if isinstance(module, nn.Linear))
        for layer, factor in zip(linears, factors, strict=True):
            layer.weight.mul_(factor)
    return replace(case, net=net)
