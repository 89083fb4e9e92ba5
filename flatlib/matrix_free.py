"""`flatlib.measure` with ``method="matrix-free"``: no Jacobian is formed, no output has its pass.

Products with the Jacobian and its transpose give the MLS by `flatlib.lanczos`; random signs over
the outputs give squared norms of gradients by `flatlib.traces`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from flatlib import traces
from flatlib.checks import check_energies, check_max_memory, check_number, check_seed
from flatlib.derivatives import (
    Float64Network,
    JacobianProducts,
    Plan,
    SampleGradients,
    by_parts,
    check_fits,
    float64_network,
    part_size,
    plan_products,
)
from flatlib.lanczos import Top, largest_singular_values
from flatlib.saving import Record, load_arrays, save_arrays
from flatlib.streaming import Progress, over_batches, progress_bar

PROBES = 32
FEW_OUTPUTS = 8  # of which all are taken, whatever the number of probes
PILOT_SAMPLES = 4  # of the first batch
SMALLEST_TOLERANCE = 1e-12  # products are right to some thousand units of float64 rounding


class NotConvergedError(RuntimeError):
    """Some samples' MLS is not known to the tolerance; ``measured`` holds all that was found."""

    def __init__(self, message: str, measured: MatrixFreeMeasurement):
        super().__init__(message)
        self.measured = measured


@dataclass(frozen=True, eq=False, repr=False)
class MatrixFreeMeasurement(Record):
    """What `flatlib.measure` found with ``method="matrix-free"``. Tensors are ``(n,)`` float64.

    The standard errors are those of random probes. They are 0 where as many probes as outputs
    were allowed for: then each output has its pass, and the quantity is exact.
    """

    mls: Tensor  # the largest singular value found, never above the true one, Sec. 3.2
    mls_residual: Tensor  # a singular value lies within this of ``mls``
    gradient_energy: Tensor  # estimate of ||grad_x f||_F^2, whose mean is G of Eq. (6)
    gradient_energy_error: Tensor  # its standard error
    parameter_gradient_energy: Tensor  # estimate of ||grad_theta f||_F^2
    parameter_gradient_energy_error: Tensor  # its standard error
    n_outputs: int  # N
    input_dimension: int  # M
    tolerance: float  # wanted of mls_residual / mls
    n_probes: int  # a sample
    n_products: int  # with Jacobians or their transposes, of single samples, all together
    seed: int
    method: str = "matrix-free"

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.mls)

    @property
    def converged(self) -> Tensor:
        """Whether each sample's MLS is known to the tolerance, ``(n,)``."""
        return self.mls_residual <= self.tolerance * self.mls

    @cached_property
    def _sharpness(self) -> traces.Estimate:
        values, errors = self.parameter_gradient_energy, self.parameter_gradient_energy_error
        return traces.mean_of_estimates(values, errors, self.n_probes - 1)

    @cached_property
    def _mean_energy(self) -> traces.Estimate:
        values, errors = self.gradient_energy, self.gradient_energy_error
        return traces.mean_of_estimates(values, errors, self.n_probes - 1)

    @property
    def sharpness(self) -> float:
        """Estimate of the mean over samples of ``||grad_theta f||_F^2``, Eq. (3)."""
        return self._sharpness.value

    @property
    def sharpness_error(self) -> float:
        """Standard error of `sharpness`."""
        return self._sharpness.standard_error

    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % confidence intervals of ``sharpness`` and the mean ``gradient_energy``.

        By Student's t, for these samples: it is the probes that are random.
        """
        return {
            "sharpness": self._sharpness.interval,
            "gradient_energy": self._mean_energy.interval,
        }

    def summary(self) -> dict[str, float]:
        """Means over the samples, named as `flatlib.Measurement.summary` does, and their errors.

        Those of random probes are standard errors; ``mls_residual`` is a mean of bounds.
        """
        return {
            "sharpness": self.sharpness,
            "sharpness_error": self.sharpness_error,
            "mls": float(self.mls.mean()),
            "mls_residual": float(self.mls_residual.mean()),
            "gradient_energy": self._mean_energy.value,
            "gradient_energy_error": self._mean_energy.standard_error,
        }

    def to_dict(self) -> dict[str, object]:
        """All fields as numbers, words and tensors."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @staticmethod
    def from_dict(plain: Mapping[str, object]) -> MatrixFreeMeasurement:
        """What `to_dict` has made a dictionary of."""
        return MatrixFreeMeasurement(**plain)

    def save(self, path: str | Path) -> None:
        """Write an ``.npz`` file, whole or not at all: NumPy arrays and a line of JSON, no pickle.

        Raises:
            OSError: the file cannot be written.
        """
        save_arrays(Path(path), self.to_dict())

    @staticmethod
    def load(path: str | Path) -> MatrixFreeMeasurement:
        """What `save` has written, on the CPU.

        Raises:
            OSError, ValueError: there is no such file, or another kind of file.
        """
        plain = load_arrays(Path(path))
        try:
            return MatrixFreeMeasurement.from_dict(plain)
        except TypeError as fault:
            raise ValueError(f"{path} holds no matrix-free measurement: {fault}") from fault

    def __repr__(self) -> str:
        s = self.summary()
        lines = [
            f"MatrixFreeMeasurement of {self.n} samples, {self.input_dimension} to "
            f"{self.n_outputs} numbers, {self.n_products} products, seed {self.seed}",
            *(
                f"  {name:<20} {s[name]:.6g} +- {s[f'{name}_error']:.2g}"
                for name in ("sharpness", "gradient_energy")
            ),
            f"  {'mls':<20} {s['mls']:.6g}, residual at most {float(self.mls_residual.max()):.2g}",
        ]
        if missed := int((~self.converged).sum()):
            lines.append(f"  {missed} samples have an MLS that is not known to the tolerance")
        return "\n".join(lines)

    @staticmethod
    def join(parts: list[MatrixFreeMeasurement]) -> MatrixFreeMeasurement:
        """One measurement of the samples of several parts of one call, in their order."""
        joined = parts[0].to_dict()
        for name, value in joined.items():
            if isinstance(value, Tensor):
                joined[name] = torch.cat([getattr(part, name) for part in parts])
        joined["n_products"] = sum(part.n_products for part in parts)
        return MatrixFreeMeasurement.from_dict(joined)


def measure_matrix_free(
    net: nn.Module,
    data: Tensor | Iterable,
    *,
    tolerance: float = 1e-4,
    max_products: int = 500,
    probes: int | None = None,
    target_relative_error: float | None = None,
    seed: int = 0,
    max_memory: float | None = None,
    progress: bool | None = None,
) -> MatrixFreeMeasurement:
    r"""MLS, sharpness and gradient energy of a network too large for its Jacobians.

    For each sample, with :math:`J` its input Jacobian and :math:`J_\theta` that with respect to
    the parameters,

    .. math:: \mathrm{MLS} = \sigma_1(J),\quad
       \lVert J\rVert_F^2 = \mathbb E\,\lVert J^\top z\rVert^2,\quad
       \lVert J_\theta\rVert_F^2 = \mathbb E\,\lVert J_\theta^\top z\rVert^2,

    where z has random signs over the N outputs. The MLS comes with a bound on its error, see
    `flatlib.lanczos`; the norms with a standard error, see `flatlib.traces`. Each probe z is one
    backward pass of a single sample. The products that found the MLS serve as a control variate
    for :math:`\lVert J\rVert_F^2`: with :math:`H = V^\top J J^\top V` in their space V,

    .. math:: \lVert J^\top z\rVert^2 - (V^\top z)^\top H (V^\top z) + \operatorname{Tr} H

    has the same mean and a smaller variance, 0 where V holds all of J.

    Args:
        net, data, max_memory, progress: as for `flatlib.measure`, but every operation must have a
            second derivative.
        tolerance: what an MLS's residual may be at most, as a share of the MLS; 1e-12 or more.
        max_products: the most products with J and its transpose that one sample's MLS may take.
        probes: how many z a sample has, by default 32. As many as N make the norms exact; of 8
            outputs or fewer all are taken, since few signs are too often alike.
        target_relative_error: instead of ``probes``, the standard error that the means over a
            batch shall have, as a share of them. A pilot on the first samples plans the number of
            probes, which holds for all batches; some 9 in 10 plans suffice.
        seed: of the random signs and the start of the iteration; the same seed gives the same
            numbers however the samples are batched or split, but for the number of probes that
            the pilot of ``target_relative_error`` plans: it sees the first batch.

    Returns:
        `MatrixFreeMeasurement`.

    Raises:
        NotConvergedError: samples whose residual is above the tolerance after ``max_products``;
            its ``measured`` holds everything.
        TypeError, ValueError, IncompleteError, MemoryError: as `flatlib.measure`; an operation
            without a second derivative; options out of range.

    Source: Eq. (3), Sec. 3.2 and G of Eq. (6); Hutchinson (1990) and Lanczos (1950).

    >>> import flatlib
    >>> net = flatlib.nets.linear(2, 2).double()
    >>> net.linear1.weight.data = torch.tensor([[3.0, 0.0], [0.0, 4.0]]).double()
    >>> m = measure_matrix_free(net, torch.tensor([[3.0, 4.0]]))
    >>> round(float(m.mls), 12), m.sharpness, m.sharpness_error  # sigma_1 = 4, S = N ||x||^2 = 50
    (4.0, 50.0, 0.0)
    """
    _check_options(tolerance, max_products, probes, target_relative_error, seed, max_memory)
    if probes is None and target_relative_error is None:
        probes = PROBES
    with float64_network(net) as network, progress_bar(progress) as bar:
        run = _Run(
            network, tolerance, max_products, probes, target_relative_error, seed, max_memory, bar
        )
        measured = over_batches(data, run.batch, MatrixFreeMeasurement.join)
    _check_converged(measured, max_products)
    return measured


def _check_options(
    tolerance: float,
    max_products: int,
    probes: int | None,
    target: float | None,
    seed: int,
    max_memory: float | None,
) -> None:
    """Refuse options that are no numbers, or out of range."""
    check_number("tolerance", tolerance)
    check_number("max_products", max_products, whole=True)
    check_number("probes", probes, whole=True)
    check_number("target_relative_error", target)
    check_seed(seed)
    if not SMALLEST_TOLERANCE <= tolerance < 1:
        raise ValueError(f"tolerance must be between 1e-12 and 1, got {tolerance}")
    if max_products < 2:
        raise ValueError(f"max_products must be at least 2, got {max_products}")
    if probes is not None and target is not None:
        raise ValueError("pass probes or target_relative_error, which plans their number; not both")
    if probes is not None and probes < 2:
        raise ValueError(f"probes must be at least 2, or there is no standard error; got {probes}")
    if target is not None and not 0 < target < 1:
        raise ValueError(f"target_relative_error must be between 0 and 1, got {target}")
    check_max_memory(max_memory)


def _check_converged(measured: MatrixFreeMeasurement, max_products: int) -> None:
    """Refuse a measurement with an MLS that is not known to the tolerance."""
    missed = (~measured.converged).nonzero().flatten()
    if len(missed) == 0:
        return
    share = (measured.mls_residual / measured.mls)[missed]
    worst = int(missed[share.argmax()])
    raise NotConvergedError(
        f"the MLS of sample {worst} is {float(measured.mls[worst]):.6g} within "
        f"{float(measured.mls_residual[worst]):.2g} after max_products = {max_products} products, "
        f"a share of {float(share.max()):.2g}, which is above tolerance = {measured.tolerance:.2g} "
        f"({len(missed)} of {measured.n} samples); pass more max_products or a larger tolerance; "
        "this error's .measured holds everything that was found",
        measured,
    )


class _Run:
    """One call: what its first batch decides, and its random numbers."""

    def __init__(
        self,
        network: Float64Network,
        tolerance: float,
        max_products: int,
        probes: int | None,
        target: float | None,
        seed: int,
        max_memory: float | None,
        bar: Progress,
    ):
        self.network, self.tolerance, self.max_products = network, tolerance, max_products
        self.probes, self.target, self.seed = probes, target, seed
        self.max_memory, self.bar = max_memory, bar
        self.names = tuple(name for name in network.parameters if name in network.trainable)
        self.generator = torch.Generator().manual_seed(seed)
        self.start: Tensor | None = None  # (N,), of every sample's iteration

    def batch(self, x: Tensor, start: int, n_batches: int) -> MatrixFreeMeasurement:
        """The measurement of one batch, whose first row is sample ``start``."""
        planned = plan_products(self.network, x, start, self.max_products)
        check_fits(planned.cost, None, self.max_memory, x.device, matrix_free=True)
        if self.start is None:
            self.start = torch.randn(
                planned.n_outputs, generator=self.generator, device="cpu", dtype=torch.float64
            ).to(x.device)
        if planned.n_outputs != len(self.start):
            raise ValueError(
                f"the network returns {planned.n_outputs} numbers for samples from {start} on and "
                f"{len(self.start)} for those before; measure them apart"
            )
        # A single sample runs as two rows, so that two samples take no more.
        size = max(part_size(self.max_memory, x.device), 2 * planned.cost.each)

        def part(rows: Tensor, first: int) -> MatrixFreeMeasurement:
            return self._part(rows, first, planned, len(x), n_batches)

        return MatrixFreeMeasurement.join(by_parts(x, planned, size, part))

    def _part(
        self, x: Tensor, first: int, planned: Plan, n: int, n_batches: int
    ) -> MatrixFreeMeasurement:
        """The measurement of a part of a batch of ``n`` samples."""
        N = planned.n_outputs
        most = 2 * min(N, self.max_products // 2)
        if self.probes is not None:
            self.bar.expect(n_batches * n * (most + self._n_probes(N)))
        products = JacobianProducts(self.network, x, first, planned)
        tops = largest_singular_values(
            products,
            self.start,
            range(first, first + len(x)),
            self.tolerance,
            self.max_products,
            self.bar.done,
        )
        input_dimension = products.input_dimension
        del products  # and the graph that it holds
        self.bar.done(len(x) * (most - max(top.n_products for top in tops)))
        n_products = sum(top.n_products for top in tops)
        if self.probes is None:
            self.probes, n_pilot = self._plan_probes(x, first, tops, n)
            n_products += n_pilot
        n_probes = self._n_probes(N)
        exact = n_probes == N
        energies, errors = [], []
        for row, sample in enumerate(x.split(1)):
            values = self._probed(sample, first + row, tops[row], n_probes, exact)
            check_energies(values[None], first + row, "gradients")
            energies.append(values.sum(dim=0) if exact else values.mean(dim=0))
            errors.append(values.new_zeros(2) if exact else (values.var(dim=0) / n_probes).sqrt())
            self.bar.done(n_probes)
        energy, error = (torch.stack(each).T.to(x.device) for each in (energies, errors))
        like = {"dtype": torch.float64, "device": x.device}
        return MatrixFreeMeasurement(
            mls=torch.tensor([top.value for top in tops], **like),
            mls_residual=torch.tensor([top.residual for top in tops], **like),
            gradient_energy=energy[0],
            gradient_energy_error=error[0],
            parameter_gradient_energy=energy[1],
            parameter_gradient_energy_error=error[1],
            n_outputs=N,
            input_dimension=input_dimension,
            tolerance=self.tolerance,
            n_probes=n_probes,
            n_products=n_products + n_probes * len(x),
            seed=self.seed,
        )

    def _n_probes(self, N: int) -> int:
        """How many z a sample of N outputs has; N of them are the outputs themselves."""
        return N if N <= max(self.probes, FEW_OUTPUTS) else self.probes

    def _probed(self, sample: Tensor, index: int, top: Top, number: int, exact: bool) -> Tensor:
        """``||J^T z||^2``, controlled, and ``||J_theta^T z||^2``: ``(number, 2)``.

        z are random signs, or, for exact norms, the unit vectors.
        """
        gradients = SampleGradients(self.network, sample, index, self.names)
        N = len(gradients.output)
        z = (
            torch.eye(N, device="cpu").double()
            if exact
            else traces.signs((number, N), self.generator)
        )
        values = [gradients.energies(each) for each in z.to(sample.device)]
        values = torch.tensor(values, dtype=torch.float64, device="cpu")
        if not exact:
            inside = z.to(top.basis) @ top.basis
            known = ((inside @ top.projected) * inside).sum(dim=1)
            values[:, 0] += (top.projected.trace() - known).cpu()
        return values

    def _plan_probes(self, x: Tensor, first: int, tops: list[Top], n: int) -> tuple[int, int]:
        """How many probes bring the means over ``n`` samples to the target; products it took."""
        pilot = torch.stack(
            [
                self._probed(sample, first + row, tops[row], traces.PILOT, False)
                for row, sample in enumerate(x[:PILOT_SAMPLES].split(1))
            ]
        )
        needed = [
            traces.probes_needed(
                float(values.var(dim=1).mean()) / n,
                len(values) * (traces.PILOT - 1),
                self.target * float(values.mean().abs()),
            )
            for values in pilot.unbind(dim=2)
        ]
        return max(*needed, 2, math.ceil(traces.PILOT / n)), pilot[..., 0].numel()
