"""Products with Jacobians that are never formed: of all samples at once, and of single ones."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.autograd.graph import GradientEdge, saved_tensors_hooks

from flatlib.checks import check_gradients

from .float64 import Float64Network, autograd_faults_told, in_full, out_of_memory_told
from .memory import Cost
from .mixing import find_rows, pulled_back, refuse_mixed
from .passes import FLOAT64_BYTES, ONE_SAMPLE, Plan, check_leads_to_input, trainable_names
from .probing import probed, run_checked
from .recording import Forward, graph_behind, run_recorded, twice_if_single
from .rows import gaussian

# What every function that is marked so runs in its place.
ONCE_DIFFERENTIABLE = once_differentiable(lambda context: None).__code__
STEPS = (1e-7, 1e-8, 1e-9)  # of differences, as shares of the parameters' size
AGREEMENT = 0.01  # relative, of differences with products
ROUNDING = 1e-13  # relative, of a gradient
# Beside what autograd keeps, a pass has numbers on the way.
ON_THE_WAY = 1.3


class JacobianProducts:
    """Products with the input Jacobians ``J``, each ``(N, M)``, of one part of a batch.

    The gradient along a direction is linear in the direction, so a second derivative, along the
    direction, is a product with ``J`` itself. The forward pass and this gradient are made once.

    Args:
        network: from `float64_network`.
        x: ``(n, *input_shape)``, any floating dtype.
        start: the index of its first row among all samples.
        planned: from `plan_products`.

    Raises:
        ValueError: as `differentiate`; an operation that cannot be differentiated twice.
    """

    def __init__(self, network: Float64Network, x: Tensor, start: int, planned: Plan):
        self.n, self.start = len(x), start
        elsewhere = planned.probe.elsewhere(x, start)
        forward = run_checked(network, twice_if_single(x), range(start, start + self.n))
        planned.probe.check(forward.output[: self.n].detach(), elsewhere, start)
        forward.check_source()
        check_leads_to_input(forward, graph_behind(forward.output, network.parameters))
        refuse_mixed(find_rows(forward, network.kinds, {}, []))
        self.input_dimension = forward.x[0].numel()
        self.output, self.source, self.shape = forward.output, forward.source, forward.x.shape
        self.direction, self.gradient = _gradient_along_any_direction(forward)

    def transposed(self, u: Tensor) -> Tensor:
        """``J^T u`` for each sample, ``(n, N)`` to ``(n, M)``."""
        found = pulled_back(self.output, self._padded(u), [self.source], [self.shape])[0]
        return self._checked(found.flatten(1))

    def __call__(self, v: Tensor) -> Tensor:
        """``J v`` for each sample, ``(n, M)`` to ``(n, N)``."""
        if self.gradient is None or not self.gradient.requires_grad:  # no derivative but 0
            return self.output.new_zeros(self.n, self.output.shape[1])
        found = _twice(self.gradient, self.direction, self._padded(v).view(self.shape))
        return self._checked(self.output.new_zeros(self.output.shape) if found is None else found)

    def _checked(self, rows: Tensor) -> Tensor:
        """The samples' rows, refused if not finite."""
        rows = rows[: self.n].detach()
        check_gradients(rows, self.start)
        return rows

    def _padded(self, rows: Tensor) -> Tensor:
        """``rows`` and zeros for the company."""
        missing = self.shape[0] - len(rows)
        return rows if missing == 0 else torch.cat([rows, rows.new_zeros(missing, rows.shape[1])])


def _gradient_along_any_direction(forward: Forward) -> tuple[Tensor, Tensor | None]:
    """A direction ``(n, N)`` and the gradient along it, as a function of it; None if there is none.

    The gradient is linear in it, so any is as good, but for 0, of which a backward pass may take
    the logarithm.
    """
    generator = torch.Generator().manual_seed(0)
    output = forward.output
    direction = gaussian(output.shape, output, generator).requires_grad_()
    return direction, _twice(output, forward.source, direction)


def _twice(output: Tensor, along: Tensor | GradientEdge, direction: Tensor) -> Tensor | None:
    """A gradient that can be differentiated again, or is the gradient of such a one."""
    again = direction.requires_grad
    with autograd_faults_told(
        "the network cannot be differentiated twice, which products with its Jacobian take",
        'use method="exact", or an operation with a second derivative',
    ):
        return torch.autograd.grad(
            output, along, direction, create_graph=again, retain_graph=True, allow_unused=True
        )[0]


def check_second_derivatives(output: Tensor, along: GradientEdge | None = None) -> None:
    """Refuse an output by way of a function that is marked with `once_differentiable`.

    Where gradients are asked for along given tensors, PyTorch takes its second derivative for 0.
    With ``along`` only what comes after it counts.
    """
    graph = graph_behind(output, {})
    for node in graph.nodes if along is None else graph.between(along.node):
        backward = getattr(getattr(node, "_forward_cls", None), "backward", None)
        if getattr(backward, "__code__", None) is ONCE_DIFFERENTIABLE:
            raise ValueError(
                f"{node._forward_cls.__name__} is marked with @once_differentiable, and products "
                "with the Hessian take a second derivative; use an operation that has one in its "
                "place, or the sharpness of flatlib.measure, which takes first derivatives alone"
            )


def check_custom_functions(network: Float64Network, x: Tensor, output: Tensor) -> None:
    """Refuse functions of the user's own whose second derivatives are not their backward's.

    A backward that leaves autograd, by detach() or NumPy, gives second derivatives that are too
    small, and nothing tells. Where the ``output`` for ``x`` came by any, products with the Hessian
    of a random combination of the outputs are held against central differences of its gradient:
    three times before it is refused, as a difference may straddle a kink of the network.
    """
    nodes = graph_behind(output, {}).nodes
    own = sorted({node._forward_cls.__name__ for node in nodes if hasattr(node, "_forward_cls")})
    if not own:
        return
    parameters = [network.parameters[name] for name in trainable_names(network)]
    before = [parameter.detach().clone() for parameter in parameters]
    size = torch.cat([each.flatten() for each in before]).square().mean().sqrt()
    generator = torch.Generator().manual_seed(0)

    def random(like: Tensor) -> Tensor:
        return gaussian(like.shape, like, generator)

    def gradient(combination: Tensor, **options: bool) -> tuple[Tensor, ...]:
        moved = network(twice_if_single(in_full(x.detach())))[: len(x)]
        total = (moved * combination).sum()
        return torch.autograd.grad(total, parameters, materialize_grads=True, **options)

    def norm(parts: Iterable[Tensor]) -> float:
        return float(torch.cat([part.detach().flatten() for part in parts]).norm())

    for step in STEPS:
        combination = random(output)
        direction = [size * random(each) for each in before]
        first = gradient(combination, create_graph=True)
        curved = [pair for pair in zip(first, direction, strict=True) if pair[0].requires_grad]
        product = [torch.zeros_like(each) for each in before]
        if curved:
            rows, along = zip(*curved, strict=True)
            product = torch.autograd.grad(rows, parameters, along, materialize_grads=True)
        ends = []
        try:
            for sign in (1, -1):
                for parameter, old, along in zip(parameters, before, direction, strict=True):
                    parameter.data.copy_(old + sign * step * along)
                ends.append(gradient(combination))
        finally:
            for parameter, old in zip(parameters, before, strict=True):
                parameter.data.copy_(old)
        difference = [(one - other) / (2 * step) for one, other in zip(*ends, strict=True)]
        off = norm(one - other for one, other in zip(difference, product, strict=True))
        if off <= AGREEMENT * norm(difference) + ROUNDING / step * norm(first):
            return
    raise ValueError(
        f"second derivatives by way of {' and '.join(own)} are not what differences of gradients "
        "are: does the backward of this function leave autograd (detach(), .data, NumPy)? compute "
        "it of saved tensors, or use the sharpness of flatlib.measure, which takes first "
        "derivatives alone"
    )


class SampleGradients:
    """Gradients of a single sample's outputs, with respect to input and parameters.

    Args:
        network: from `float64_network`.
        sample: ``(1, *input_shape)``.
        index: of it among all samples.
        names: of the parameters; there may be none.
    """

    def __init__(self, network: Float64Network, sample: Tensor, index: int, names: tuple[str, ...]):
        forward = run_recorded(network, twice_if_single(sample), [index])
        self.output = forward.output[0]
        self.targets = [forward.source, *(network.parameters[name] for name in names)]

    def energies(self, u: Tensor) -> tuple[float, float]:
        """Squared norms of the gradients of ``u . f``, ``u`` of shape ``(N,)``.

        Those with respect to the input, ``||J^T u||^2``, and to the parameters.
        """
        found = torch.autograd.grad(
            self.output, self.targets, u, retain_graph=True, allow_unused=True
        )
        at_input, *others = (0.0 if each is None else float(each.square().sum()) for each in found)
        return at_input, float(sum(others))


def plan_products(network: Float64Network, x: Tensor, start: int, n_vectors: int) -> Plan:
    """Probe ``network`` as `plan` does, and find out what products for a sample of ``x`` cost.

    ``n_vectors`` is how many vectors of N numbers a sample has beside.

    Raises:
        ValueError: the network is not deterministic.
    """
    with out_of_memory_told("the network was tried out on a few samples", ONE_SAMPLE):
        probe, first = probed(network, x, start)
        first.check_source()
        M, N = first.x[0].numel(), first.output.shape[1]
        del first
        kept = _kept_by_autograd(network, x[:1], start) // 2  # it runs as two
    vectors = FLOAT64_BYTES * (4 * M + n_vectors * N)
    each = int(ON_THE_WAY * kept) + vectors
    parameters = sum(parameter.nbytes for parameter in network.parameters.values())
    cost = Cost(each=each, one_sample=2 * each + parameters)
    return Plan(probe, start, N, frozenset(), cost, cost)


def _kept_by_autograd(network: Float64Network, sample: Tensor, index: int) -> int:
    """Bytes that autograd keeps for `JacobianProducts` of one sample, which runs as two."""
    kept: dict[int, torch.UntypedStorage] = {}  # alive, so that no address is used twice

    def keep(tensor: Tensor) -> Tensor:
        if tensor.layout is not torch.strided:  # a sparse matrix, which is no sample's
            return tensor
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        forward = run_recorded(network, twice_if_single(sample), [index])
        _gradient_along_any_direction(forward)
    for parameter in network.parameters.values():
        kept.pop(parameter.untyped_storage().data_ptr(), None)
    return sum(storage.nbytes() for storage in kept.values())
