"""The slow way to every quantity of a measurement: one sample, one output at a time.

Everything is had from plain `torch.autograd.grad` calls on a float64 deep copy of the network,
whose layers are rewritten to add zeros that can be differentiated: to what a layer reads, to
its weight, and to what it returns. Nothing of flatlib is imported.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

LARGEST_DENSE = 1200  # columns of the largest map that is written out as a matrix
NAMES = ("Linear", *(f"{name}{r}d" for name in ("Conv", "ConvTranspose") for r in (1, 2, 3)))
KINDS = {getattr(nn, name): name for name in NAMES}


@dataclass
class SlowLayer:
    """One layer; per-sample tensors are ``(n,)``."""

    name: str
    kind: str
    input_norm: Tensor
    weight_gradient_energy: Tensor
    untied_gradient_energy: Tensor
    output_gradient_energy: Tensor
    smallest_patch_norm: Tensor
    singular_values: Tensor  # (n, N) of the Jacobian from what the layer reads
    weight_norm: float
    weight_frobenius_norm: float
    operator_norm: float | None  # None where the dense matrix of the map would be large
    n_positions: int
    input_dimension: int


@dataclass
class Slow:
    """A network on a batch; per-sample tensors are ``(n,)``."""

    jacobian: Tensor  # (n, N, M)
    singular_values: Tensor  # (n, N)
    parameter_gradient_energy: Tensor
    input_norm: Tensor
    layers: list[SlowLayer]


def double_copy(net: nn.Module) -> nn.Module:
    """A deep float64 copy that shares nothing with ``net``, tensors that are not registered too."""
    loose = {
        id(value): value.detach().clone()
        for module in net.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor)
    }
    twin = copy.deepcopy(net, memo=loose).double()
    for module in twin.modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and value.is_floating_point():
                vars(module)[name] = value.double()
    return twin


class Instrumented:
    """A copy of a network whose layers add zeros to what they read, multiply by and return."""

    def __init__(self, net: nn.Module):
        self.net = double_copy(net)
        self.layers = {
            name: module for name, module in self.net.named_modules() if type_of(module) in KINDS
        }
        for name, module in self.layers.items():
            module.forward = self._replacement(name, module)

    def _replacement(self, name: str, module: nn.Module):
        def forward(input, output_size=None):
            call = {"read": input.detach(), "size": output_size}
            for key, like in (("input", input), ("weight", module.weight)):
                call[key] = torch.zeros_like(like, requires_grad=True)
            known = self.calls.setdefault(name, [])
            if known:
                call["weight"] = known[0]["weight"]  # one weight however many calls
            read, weight = input + call["input"], module.weight + call["weight"]
            result = apply(module, read, weight, size=output_size)
            call["output"] = torch.zeros_like(result, requires_grad=True)
            self.weights[name] = module.weight.detach()
            known.append(call)
            return result + call["output"]

        return forward

    def __call__(self, sample: Tensor) -> Tensor:
        self.calls: dict[str, list[dict[str, Tensor]]] = {}
        self.weights: dict[str, Tensor] = {}
        output = self.net(sample[None]).flatten()
        # Checkpointing runs layers again in the backward pass; those calls are no new ones.
        self.made = {name: list(calls) for name, calls in self.calls.items()}
        return output


def type_of(module: nn.Module) -> type:
    """The layer's class, seen through a parametrization, which derives a class of its own."""
    return next((base for base in type(module).__mro__ if base in KINDS), type(module))


def is_transposed(module: nn.Module) -> bool:
    return KINDS[type_of(module)].startswith("ConvTranspose")


def apply(module: nn.Module, input: Tensor, weight: Tensor, bias=True, size=None) -> Tensor:
    """What ``module`` computes, with another weight."""
    b = module.bias if bias else None
    if isinstance(module, nn.Linear):
        return nn.functional.linear(input, weight, b)
    if is_transposed(module):
        twin = copy.copy(module)
        twin._parameters = {"weight": weight, "bias": b}
        return type_of(module).forward(twin, input, size)
    return module._conv_forward(input, weight, b)


def gradients(output: Tensor, wanted: list[Tensor]) -> list[Tensor]:
    """Plain gradients of each entry of ``output``: each ``(N, *shape)``."""
    rows = [
        torch.autograd.grad(one, wanted, retain_graph=True, materialize_grads=True)
        for one in output
    ]
    return [torch.stack(column) for column in zip(*rows, strict=True)]


def values_of(matrix: Tensor) -> Tensor:
    """Singular values of ``(N, M)``, as many as it has rows."""
    s = torch.linalg.svdvals(matrix)
    return torch.cat([s, s.new_zeros(matrix.shape[0] - len(s))])


def operator_matrix(module: nn.Module, weight: Tensor, shape: torch.Size, size=None) -> Tensor:
    """The dense matrix of the layer's map of one sample of ``shape``, its bias apart."""
    basis = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    columns = [apply(module, e[None], weight, bias=False, size=size).flatten() for e in basis]
    return torch.stack(columns, 1)


def slow_measure(net: nn.Module, x: Tensor) -> Slow:
    """Everything that `flatlib.measure` reports, the slow way."""
    twin = Instrumented(net)
    trainable = [p for p in twin.net.parameters() if p.requires_grad]
    samples = [_one_sample(twin, row, trainable) for row in x.detach().double()]
    jacobian = torch.stack([one["jacobian"] for one in samples])
    return Slow(
        jacobian=jacobian,
        singular_values=torch.stack([values_of(J) for J in jacobian]),
        parameter_gradient_energy=torch.tensor(
            [one["energy"] for one in samples], dtype=torch.float64
        ),
        input_norm=torch.stack([row.norm() for row in x.detach().double()]),
        layers=[_layer(twin, name, samples) for name in samples[0]["layers"]],
    )


def _one_sample(twin: Instrumented, row: Tensor, trainable: list[Tensor]) -> dict:
    row = row.clone().requires_grad_()
    # Networks may write into their input; a multiplication by one keeps the leaf out of reach.
    output = twin(row * 1.0)
    J = gradients(output, [row])[0].flatten(1)
    found = gradients(output, trainable) if trainable else []
    layers = {name: _one_layer(twin, name, output) for name in twin.made}
    energy = sum(float(g.square().sum()) for g in found)
    return {"jacobian": J, "energy": energy, "layers": layers}


def _one_layer(twin: Instrumented, name: str, output: Tensor) -> dict:
    calls, module = twin.made[name], twin.layers[name]
    ones = torch.ones_like(module.weight)
    untied = out = 0.0
    smallest, positions = math.inf, 0
    for call in calls:
        delta = gradients(output, [call["output"]])[0]
        if is_transposed(module):
            each = [part for part in _by_position(module, call, delta)]
            untied += sum(energy for energy, _ in each)
            smallest = min(smallest, *(norm for _, norm in each))
            out += float(delta.square().sum())
            positions += call["read"][0, 0].numel()
            continue
        # ||patch||^2 at every output entry: the layer's own map, all weights one, of x^2.
        patch = apply(module, call["read"].square(), ones, bias=False).detach()
        untied += float((delta.square() * patch).sum())
        out += float(delta.square().sum())
        smallest = min(smallest, float(patch.min()))
        positions += patch.numel() // module.weight.shape[0]
    joined = [gradients(output, [call["input"]])[0].flatten(1) for call in calls]
    return {
        "jacobian": torch.cat(joined, dim=1),
        "weight": float(gradients(output, [calls[0]["weight"]])[0].square().sum()),
        "untied": untied,
        "output": out,
        "patch": math.sqrt(max(smallest, 0.0)),
        "positions": positions,
        "read": math.sqrt(sum(float(call["read"].square().sum()) for call in calls)),
        "W": twin.weights[name],
        "shapes": [(call["read"].shape[1:], call["size"]) for call in calls],
    }


def _by_position(module: nn.Module, call: dict, delta: Tensor):
    """For each position of a transposed convolution's input, as if it had a weight of its own:
    squared norm of the gradients of all outputs, and the smallest of what the weight multiplies.
    """
    read = call["read"]
    for position in range(read[0, 0].numel()):
        alone = torch.zeros_like(read).flatten(2)
        alone[..., position] = read.flatten(2)[..., position]
        weight = module.weight.detach().clone().requires_grad_()
        made = apply(module, alone.view_as(read), weight, bias=False, size=call["size"])
        found = [torch.autograd.grad(made, weight, row, retain_graph=True)[0] for row in delta]
        by_group = alone.view(module.groups, -1).square().sum(dim=1)
        yield sum(float(g.square().sum()) for g in found), float(by_group.min())


def _layer(twin: Instrumented, name: str, samples: list[dict]) -> SlowLayer:
    mine = [one["layers"][name] for one in samples]
    module, W, shapes = twin.layers[name], mine[0]["W"], mine[0]["shapes"]

    def column(key: str) -> Tensor:
        return torch.tensor([one[key] for one in mine], dtype=torch.float64)

    operator = None
    if all(math.prod(shape) <= LARGEST_DENSE for shape, _ in shapes):
        operator = max(
            float(torch.linalg.matrix_norm(operator_matrix(module, W, *shape), 2))
            for shape in set(shapes)
        )
    return SlowLayer(
        name=name,
        kind=KINDS[type_of(module)],
        input_norm=column("read"),
        weight_gradient_energy=column("weight"),
        untied_gradient_energy=column("untied"),
        output_gradient_energy=column("output"),
        smallest_patch_norm=column("patch"),
        singular_values=torch.stack([values_of(one["jacobian"]) for one in mine]),
        weight_norm=float(torch.linalg.matrix_norm(W.flatten(1), 2)),
        weight_frobenius_norm=float(torch.linalg.matrix_norm(W.flatten(1), "fro")),
        operator_norm=operator,
        n_positions=mine[0]["positions"],
        input_dimension=mine[0]["jacobian"].shape[1],
    )
