"""The exact gap between Eq. (2) and Eq. (3) where a network's structure makes it cheap."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from flatlib.checks import check_batch, check_targets
from flatlib.derivatives import float64_network, is_plain_sequence
from flatlib.sharpness import sharpness_gap

# Modules along which the output is piecewise linear in any single parameter: no parameter
# enters twice, and nothing bends.
PIECEWISE_LINEAR = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Flatten,
    nn.ReLU,
    nn.Identity,
    nn.MaxPool2d,
    nn.AvgPool2d,
)
ACTIVATIONS = (nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.Softplus, nn.ReLU, nn.Identity)
SMALL = 2_000  # parameters up to which one Hessian-vector product each is affordable
SAMPLES_AT_ONCE = 8  # samples whose layer-to-layer Jacobians are held at the same time


def lemma_gap(net: nn.Module, x: Tensor, y: Tensor) -> float:
    r"""``Tr H - S``: what Eq. (3) leaves out away from interpolation, or NaN if unaffordable.

    .. math:: \frac1n\sum_i\sum_j (f(x_i)-y_i)^\top\partial^2 f(x_i)/\partial\theta_j^2

    Three cases are exact and cheap. A chain of linear, convolutional, ReLU and max-pooling
    layers is piecewise linear in each single parameter, so the gap is 0 wherever f is
    differentiable. For dense layers with elementwise activations ``phi`` between them, with
    ``z_l`` the preactivations, ``h_l`` the activations and ``g_l`` the gradient of
    ``(f - y)^T f`` (first factor held) with respect to ``h_l``, it is

    .. math:: \frac1n\sum_i\sum_l(\lVert h_{l-1}\rVert^2 + 1)
       \sum_{l'\ge l}\sum_c g_{l',c}\,\phi''(z_{l',c})
       \sum_a(\partial z_{l',c}/\partial z_{l,a})^2

    (the 1 only with a bias). Other networks of at most 2,000 parameters take one
    Hessian-vector product a parameter.

    Args:
        net: in eval mode.
        x: ``(n, *input_shape)``.
        y: targets, ``(n, N)``, or as many numbers.

    Returns:
        A float, in the units of sharpness.

    Raises:
        TypeError, ValueError: as `flatlib.sharpness.sharpness_gap`; samples that influence each
            other are found only where products are taken.

    Source: proof of Lemma A.1, Eq. (16).

    >>> import flatlib
    >>> x, y = torch.rand(4, 3), torch.rand(4, 2)
    >>> net = flatlib.nets.mlp((3, 5, 4, 2))
    >>> abs(lemma_gap(net, x, y) - flatlib.sharpness.sharpness_gap(net, x, y)) < 1e-12
    True
    >>> lemma_gap(flatlib.nets.mlp((3, 5, 2), activation="relu"), x, y)
    0.0
    """
    with float64_network(net) as network:
        check_batch(net, x)
        output = network.outputs(x)
        check_targets(y, output)
        y = y.double().reshape(output.shape)
    modules = _chain(net)
    if modules and all(isinstance(module, PIECEWISE_LINEAR) for module in modules):
        return 0.0
    if modules and _is_dense(modules, x):
        x = x.double().flatten(1)
        chunks = zip(x.split(SAMPLES_AT_ONCE), y.split(SAMPLES_AT_ONCE), strict=True)
        return sum(_dense_gap(modules, part, target) for part, target in chunks) / len(x)
    if sum(p.numel() for p in net.parameters() if p.requires_grad) <= SMALL:
        return sharpness_gap(net, x, y)
    return math.nan


def _chain(net: nn.Module) -> list[nn.Module] | None:
    """The layers of a plain chain whose parameters are all trainable and used once, else None."""
    sequence = net if type(net) is nn.Sequential else nn.Sequential(net)
    if not is_plain_sequence(sequence):
        return None
    modules = list(sequence)
    plain = (*PIECEWISE_LINEAR, *ACTIVATIONS)
    named = list(net.named_parameters(remove_duplicate=False))
    once = len(named) == len({id(p) for _, p in named}) and len(modules) == len(set(modules))
    if not once or not all(p.requires_grad for _, p in named):
        return None
    return modules if all(type(module) in plain for module in modules) else None


def _is_dense(modules: list[nn.Module], x: Tensor) -> bool:
    """Whether the chain is a flattening, then linear layers with one activation between two."""
    modules = [module for module in modules if not isinstance(module, nn.Identity)]
    flat = x.dim() == 2
    while modules and isinstance(modules[0], nn.Flatten):
        flat = flat or (modules[0].start_dim, modules[0].end_dim) == (1, -1)
        modules = modules[1:]
    linear = [isinstance(module, nn.Linear) for module in modules]
    between = all(linear[i] or (linear[i - 1] and linear[i + 1]) for i in range(1, len(linear) - 1))
    known = all(isinstance(module, (nn.Linear, *ACTIVATIONS)) for module in modules)
    return bool(flat and modules and linear[0] and linear[-1] and between and known)


def _dense_gap(modules: list[nn.Module], x: Tensor, y: Tensor) -> float:
    """The double sum over layers of `lemma_gap`, added up over the samples of ``x``."""
    layers = _forward(modules, x)
    weights = [layer["weight"] for layer in layers]
    gradient = layers[-1]["z"] - y  # of (f - y)^T f with respect to z_L
    bends = [torch.zeros_like(gradient)]  # g phi'' at z_l, the last layer first
    for weight, layer in zip(reversed(weights[1:]), reversed(layers[:-1]), strict=True):
        at_h = gradient @ weight
        bends.insert(0, at_h * layer["second"])
        gradient = at_h * layer["first"]
    total = 0.0
    for lower, layer in enumerate(layers[:-1]):
        curvature = bends[lower].sum(dim=1)
        jacobian = None  # d z_upper / d z_lower, (n, H_upper, H_lower)
        for upper in range(lower + 1, len(layers) - 1):
            slope = layers[upper - 1]["first"]
            if jacobian is None:
                jacobian = weights[upper] * slope.unsqueeze(1)
            else:
                jacobian = weights[upper] @ (slope.unsqueeze(2) * jacobian)
            curvature = curvature + (bends[upper] * jacobian.square().sum(dim=2)).sum(dim=1)
        total += float((layer["reads"] * curvature).sum())
    return total


def _forward(modules: list[nn.Module], x: Tensor) -> list[dict[str, Tensor]]:
    """Per dense layer: weight, preactivation, activation's derivatives, ``||h||^2 (+ 1)``."""
    layers: list[dict[str, Tensor]] = []
    h = x
    for module in modules:
        if isinstance(module, nn.Linear):
            weight = module.weight.detach().double()
            z = h @ weight.T
            reads = h.square().sum(dim=1)
            if module.bias is not None:
                z = z + module.bias.detach().double()
                reads = reads + 1
            ones = torch.ones_like(z)
            layers.append(
                {"weight": weight, "z": z, "reads": reads, "first": ones, "second": 0 * ones}
            )
            h = z
        elif not isinstance(module, (nn.Flatten, nn.Identity)):
            h, layers[-1]["first"], layers[-1]["second"] = _derivatives(module, h)
    return layers


def _derivatives(activation: nn.Module, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """An elementwise activation's value and first two derivatives."""
    with torch.enable_grad():
        z = z.detach().clone().requires_grad_()
        # A copy goes in, so that an in-place activation can be differentiated too.
        h = activation(z + 0)
        first = torch.autograd.grad(h.sum(), z, create_graph=True)[0]
        second = torch.zeros_like(z)
        if first.requires_grad:
            second = torch.autograd.grad(first.sum(), z, materialize_grads=True)[0]
    return h.detach(), first.detach(), second
