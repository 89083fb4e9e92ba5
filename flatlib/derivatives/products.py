"""Products with Jacobians that are never formed: of all samples at once, and of single ones."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from flatlib.checks import all_finite, first_not_finite, is_out_of_memory

from .float64 import Float64Network, out_of_memory_told
from .memory import Cost
from .mixing import find_rows, pulled_back, refuse_mixed
from .passes import FLOAT64_BYTES, ONE_SAMPLE, Plan, check_leads_to_input
from .probing import probed, run_checked
from .recording import graph_behind, in_company

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
        forward = run_checked(network, in_company(x), range(start, start + self.n))
        planned.probe.check(forward.output[: self.n].detach(), start)
        check_leads_to_input(forward, graph_behind(forward.output, network.parameters))
        refuse_mixed(find_rows(forward, network.kinds, {}, []))
        self.x, self.output = forward.x, forward.output
        self.direction = torch.zeros_like(self.output, requires_grad=True)
        self.gradient = _twice(self.output, self.x, self.direction, create_graph=True)

    def transposed(self, u: Tensor) -> Tensor:
        """``J^T u`` for each sample, ``(n, N)`` to ``(n, M)``."""
        found = pulled_back(self.output, self._padded(u), [self.x], [self.x.shape])[0]
        return self._checked(found.flatten(1))

    def __call__(self, v: Tensor) -> Tensor:
        """``J v`` for each sample, ``(n, M)`` to ``(n, N)``."""
        if not self.gradient.requires_grad:  # no derivative but 0
            return self.output.new_zeros(self.n, self.output.shape[1])
        along = self._padded(v).view_as(self.gradient)
        return self._checked(_twice(self.gradient, self.direction, along, retain_graph=True))

    def _checked(self, rows: Tensor) -> Tensor:
        """The samples' rows, refused if not finite."""
        rows = rows[: self.n].detach()
        if not all_finite(rows):
            sample = self.start + first_not_finite(rows)
            raise ValueError(
                f"the gradient for sample {sample} holds NaN or infinite values, though its "
                "output does not; look for a square root or division at 0"
            )
        return rows

    def _padded(self, rows: Tensor) -> Tensor:
        """``rows`` and zeros for the company."""
        missing = len(self.x) - len(rows)
        return rows if missing == 0 else torch.cat([rows, rows.new_zeros(missing, rows.shape[1])])


def _twice(output: Tensor, along: Tensor, direction: Tensor, **options) -> Tensor:
    """A gradient that is differentiated again, or is a gradient of such a one."""
    try:
        found = torch.autograd.grad(output, along, direction, materialize_grads=True, **options)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(
            "the network cannot be differentiated twice, which products with its Jacobian take "
            f'({error}); use method="exact", or an operation with a second derivative'
        ) from error
    return found[0]


class SampleGradients:
    """Gradients of a single sample's outputs, with respect to input and parameters.

    Args:
        network: from `float64_network`.
        sample: ``(1, *input_shape)``.
        names: of the parameters; there may be none.
    """

    def __init__(self, network: Float64Network, sample: Tensor, names: tuple[str, ...]):
        rows = in_company(sample.detach().double()).requires_grad_()
        self.output = network(rows)[0]
        self.targets = [rows, *(network.parameters[name] for name in names)]

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
        N = first.output.shape[1]
        del first
        kept = _kept_by_autograd(network, x[:1]) // 2  # it runs as two
    vectors = FLOAT64_BYTES * (4 * x[0].numel() + n_vectors * N)
    each = int(ON_THE_WAY * kept) + vectors
    parameters = sum(parameter.nbytes for parameter in network.parameters.values())
    cost = Cost(each=each, one_sample=2 * each + parameters)
    return Plan(probe, start, N, cost, cost)


def _kept_by_autograd(network: Float64Network, sample: Tensor) -> int:
    """Bytes that autograd keeps for `JacobianProducts` of one sample, which runs as two."""
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        rows = in_company(sample.detach().double()).requires_grad_()
        output = network(rows)
        direction = torch.zeros_like(output, requires_grad=True)
        if output.requires_grad:
            _twice(output, rows, direction, create_graph=True)
    for parameter in network.parameters.values():
        sizes.pop(parameter.untyped_storage().data_ptr(), None)
    return sum(sizes.values())
