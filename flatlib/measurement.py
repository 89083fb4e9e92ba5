"""`measure`: every quantity of the paper, from one forward and N backward passes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from flatlib import geometry
from flatlib.checks import check_energies, check_max_memory
from flatlib.derivatives import (
    Derivatives,
    Float64Network,
    LayerDerivatives,
    Plan,
    by_parts,
    check_fits,
    differentiate,
    float64_network,
    part_size,
    plan,
    sample_energies,
)
from flatlib.matrix_free import MatrixFreeMeasurement, measure_matrix_free
from flatlib.operators import ConvolutionGeometry, geometry_of, weight_norm
from flatlib.saving import Record, load_arrays, save_arrays
from flatlib.sharpness import NormSums
from flatlib.streaming import Progress, over_batches, progress_bar

TOP_VOLUME = 3


@dataclass(frozen=True, eq=False, repr=False)
class LayerMeasurement(Record):
    """One linear or convolutional layer of a measured network.

    ``W`` is its weight; a convolution's reshaped to ``(C_out, C_in / groups * k^2)``. A layer
    called several times counts as one whose inputs are joined.

    Every derivative is the one through this layer alone. For a linear layer
    ``grad_{x^l} f = W_l^T J_l`` with ``J_l = df / d(W_l x^l)``: where a skip connection leads
    ``x^l`` past the layer as well, the total derivative has another term, and Eqs. N.9 to N.12
    do not hold for the total derivative.

    >>> import flatlib
    >>> class Skip(nn.Module):  # f(x) = h + 3 h with h = 2 x, so df/dh = 4 in total
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.one, self.two = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    ...         self.one.weight.data.fill_(2.0), self.two.weight.data.fill_(3.0)
    ...
    ...     def forward(self, x):
    ...         h = self.one(x)
    ...         return h + self.two(h)
    >>> [float(layer.mls) for layer in flatlib.measure(Skip(), torch.ones(1, 1)).layers]
    [8.0, 3.0]
    """

    name: str  # as in net.named_modules()
    kind: str  # "Linear", "Conv1d", ..., "ConvTranspose3d"
    input_norm: Tensor  # (n,) ||x^l||_2 of all that the layer reads
    weight_gradient_energy: Tensor  # (n,) ||grad_W f||_F^2
    untied_gradient_energy: Tensor  # (n,) the same with one copy of W a position
    output_gradient_energy: Tensor  # (n,) ||delta||_F^2 at the layer's output
    smallest_patch_norm: Tensor  # (n,) of the smallest vector that W multiplies
    # (n,) MLS from what this layer reads, Sec. 3.2; None if not among the ``layers`` measured.
    mls: Tensor | None
    # (n,) log volume from what this layer reads, Eq. (10); None like ``mls``.
    log_volume: Tensor | None
    n_positions: int  # how many vectors W multiplies for one sample; 1 for a dense layer
    input_dimension: int  # numbers that the layer reads for one sample
    in_sharpness: bool  # W is a trainable parameter that only this layer's calls use
    weight: Tensor  # float64 copy of W in its own shape
    geometries: tuple[ConvolutionGeometry, ...]  # the different ones of its calls; () if Linear

    @cached_property
    def weight_norm(self) -> float:
        """Spectral norm ``||W||_2``, worked out when first read."""
        return weight_norm(self.weight)

    @cached_property
    def weight_frobenius_norm(self) -> float:
        """Frobenius norm ``||W||_F``."""
        return float(torch.linalg.vector_norm(self.weight))

    @cached_property
    def operator_norm(self) -> float:
        """Spectral norm of the layer as a map of one sample, worked out when first read.

        For a linear layer ``||W||_2``; for a convolution that of the map with its own stride,
        padding, dilation and groups, the largest one over its calls.
        """
        if not self.geometries:
            return self.weight_norm
        return max(weight_norm(self.weight, geometry) for geometry in self.geometries)

    def __repr__(self) -> str:
        mls = "" if self.mls is None else f", MLS {self.mls.mean():.4g}"
        return (
            f"LayerMeasurement({self.name!r}, {self.kind}, weight {tuple(self.weight.shape)}, "
            f"P = {self.n_positions}{mls})"
        )


@dataclass(frozen=True, eq=False, repr=False)
class Measurement(Record):
    """What `measure` found. Per-sample tensors are ``(n,)`` float64."""

    singular_values: Tensor  # (n, N) descending, of the input Jacobian
    mls: Tensor  # (n,) the largest, Sec. 3.2
    gradient_energy: Tensor  # (n,) ||grad_x f||_F^2, whose mean is G of Eq. (6)
    log_volume: Tensor  # (n,) log of Eq. (10)
    local_dimensionality: Tensor  # (n,) Eq. (14)
    parameter_gradient_energy: Tensor  # (n,) ||grad_theta f||_F^2
    input_norm: Tensor  # (n,) ||x_i||_2; x_i is embedded where the data are indices
    layers: tuple[LayerMeasurement, ...]  # in the order of their first call
    n_outputs: int  # N
    input_dimension: int  # M
    input_layer_is_dense: bool  # the input enters through layers[0] alone, a dense linear map
    # Layers that are used and not among ``layers``, and why not; their parameters still count.
    other_layers: dict[str, str] = field(default_factory=dict)
    # Trainable parameters that no layer counts, and how their gradients were had:
    # "formula", "vmap" (all samples at once) or "loop" (a backward pass a sample and output).
    other_parameters: dict[str, str] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.mls)

    @property
    def sharpness(self) -> float:
        """Mean over samples of ``||grad_theta f||_F^2``, Eq. (3)."""
        return float(self.parameter_gradient_energy.mean())

    @property
    def n_undefined(self) -> int:
        """Number of samples with a zero Jacobian, which has no direction and no volume."""
        return int((self.mls == 0).sum())

    @property
    def has_layer_mls(self) -> bool:
        """Whether each layer has an MLS and a volume; only with ``layers=True``."""
        return all(layer.mls is not None for layer in self.layers)

    def summary(self) -> dict[str, float]:
        """Means over the samples, under the field's names.

        A zero Jacobian has no direction and no volume to speak of: unless all samples are like
        that, those `n_undefined` are left out of the means of log volumes and dimensionality.
        ``nmls`` and ``nvr`` sum MLS and volumes over layers first, each from what the
        layer reads and through this layer alone, see `LayerMeasurement`; a layer that reads fewer
        than N numbers has volume 0 and adds nothing to ``nvr``. They are left out where layers
        have none.
        """
        some = self.mls > 0
        defined = some if bool(some.any()) else ~some
        top = geometry.log_volume_top(self.singular_values, TOP_VOLUME)
        means = {
            "sharpness": self.sharpness,
            "mls": float(self.mls.mean()),
            "gradient_energy": float(self.gradient_energy.mean()),
            "log_volume": float(self.log_volume[defined].mean()),
            "log_volume_top3": float(top[defined].mean()),
            "local_dimensionality": float(self.local_dimensionality[defined].mean()),
        }
        if self.has_layer_mls:
            volumes = torch.stack([layer.log_volume for layer in self.layers])
            means["nmls"] = float(sum(layer.mls for layer in self.layers).mean())
            means["nvr"] = float(volumes.logsumexp(dim=0).exp().mean())
        return means

    def rows(self, y: Sequence | None = None) -> list[dict[str, object]]:
        """A tidy table, one row a sample, as ``pandas.DataFrame(m.rows())`` takes it.

        Args:
            y: one entry a sample, such as its label, for a column ``y``.

        Raises:
            ValueError: ``y`` has another length.

        >>> import flatlib
        >>> m = measure(flatlib.nets.linear(2, 1), torch.eye(2))
        >>> [(row["sample"], row["y"], row["input_norm"]) for row in m.rows(["cat", "dog"])]
        [(0, 'cat', 1.0), (1, 'dog', 1.0)]
        """
        columns = {"sample": list(range(self.n))}
        if y is not None:
            columns["y"] = y.tolist() if hasattr(y, "tolist") else list(y)
            if len(columns["y"]) != self.n:
                raise ValueError(f"y has {len(columns['y'])} entries for {self.n} samples")
        records = [("", self), *((f"{layer.name}.", layer) for layer in self.layers)]
        for prefix, record in records:
            for name, values in _per_sample(record).items():
                if values.dim() == 1:
                    columns[prefix + name] = values.tolist()
        for k, values in enumerate(self.singular_values.T.tolist(), start=1):
            columns[f"sigma_{k}"] = values
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def to_dict(self) -> dict[str, object]:
        """All fields as plain dictionaries, lists, numbers, words and tensors."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        plain["layers"] = []
        for layer in self.layers:
            inside = {f.name: getattr(layer, f.name) for f in fields(layer)}
            inside["geometries"] = [asdict(geometry) for geometry in layer.geometries]
            plain["layers"].append(inside)
        return plain

    @staticmethod
    def from_dict(plain: Mapping[str, object]) -> Measurement:
        """What `to_dict` has made a dictionary of."""
        layers = []
        for inside in plain["layers"]:
            geometries = tuple(
                ConvolutionGeometry(
                    **{k: tuple(v) if isinstance(v, list) else v for k, v in geometry.items()}
                )
                for geometry in inside["geometries"]
            )
            layers.append(LayerMeasurement(**{**inside, "geometries": geometries}))
        return Measurement(**{**plain, "layers": tuple(layers)})

    def save(self, path: str | Path) -> None:
        """Write an ``.npz`` file, whole or not at all: NumPy arrays and a line of JSON, no pickle.

        Raises:
            OSError: the file cannot be written.

        >>> import flatlib, tempfile
        >>> m = measure(flatlib.nets.linear(2, 1), torch.eye(2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     m.save(folder + "/m.npz")
        ...     Measurement.load(folder + "/m.npz") == m
        True
        """
        save_arrays(Path(path), self.to_dict())

    @staticmethod
    def load(path: str | Path) -> Measurement:
        """What `save` has written, on the CPU.

        Raises:
            OSError, ValueError: there is no such file, or another kind of file.
        """
        plain = load_arrays(Path(path))
        try:
            return Measurement.from_dict(plain)
        except (KeyError, TypeError) as fault:
            raise ValueError(
                f"{path} holds other fields than a measurement of this version of flatlib has "
                f"({fault}); measure again"
            ) from fault

    def __repr__(self) -> str:
        lines = [
            f"Measurement of {self.n} samples, {self.input_dimension} to {self.n_outputs} numbers, "
            f"{len(self.layers)} layers"
        ]
        lines += [f"  {name:<20} {value:.6g}" for name, value in self.summary().items()]
        if self.n_undefined:
            lines.append(f"  {self.n_undefined} samples have a zero Jacobian")
        if self.other_layers:
            lines.append(f"  no layers: {', '.join(map(repr, self.other_layers))}")
        return "\n".join(lines)

    @staticmethod
    def join(parts: Iterable[Measurement]) -> Measurement:
        """One measurement of the samples of several, of one network, in their order.

        Raises:
            TypeError: something else, such as a `flatlib.MatrixFreeMeasurement`.
            ValueError: none, or of networks that call other layers, or whose layers have other
                sizes or weights.

        >>> import flatlib
        >>> net, x = flatlib.nets.linear(3, 2), torch.eye(3)
        >>> joined = Measurement.join([measure(net, x[:1]), measure(net, x[1:])])
        >>> torch.equal(joined.input_norm, measure(net, x).input_norm)
        True
        """
        parts = list(parts)
        if not parts:
            raise ValueError("there is no measurement to join")
        for part in parts:
            if not isinstance(part, Measurement):
                raise TypeError(f"parts must be measurements of measure, got {type(part).__name__}")
        if len(parts) == 1:
            return parts[0]
        start = 0
        for part in parts:
            _check_same_way([parts[0], part], start)
            _check_same_weights(parts[0], part, start)
            start += part.n
        layers = tuple(
            replace(
                same[0],
                in_sharpness=all(layer.in_sharpness for layer in same),
                geometries=tuple(dict.fromkeys(g for layer in same for g in layer.geometries)),
                **_joined_samples(same),
            )
            for same in zip(*(part.layers for part in parts), strict=True)
        )
        return replace(
            parts[0],
            layers=layers,
            input_layer_is_dense=all(part.input_layer_is_dense for part in parts),
            other_layers={name: why for part in parts for name, why in part.other_layers.items()},
            other_parameters={
                name: how for part in parts for name, how in part.other_parameters.items()
            },
            **_joined_samples(parts),
        )


def measure(
    net: nn.Module,
    data: Tensor | Iterable,
    *,
    method: str = "exact",
    layers: bool | Iterable[str] = True,
    max_memory: float | None = None,
    progress: bool | None = None,
    **options: float | None,
) -> Measurement | MatrixFreeMeasurement:
    r"""Sharpness, MLS, volume and dimensionality of a network on a batch, exactly.

    One forward and N backward passes in float64 serve every quantity,

    .. math:: S = \frac1n\sum_i\lVert\nabla_\theta f(x_i)\rVert_F^2,\quad
       \mathrm{MLS}(x_i) = \sigma_1,\quad d\mathrm{Vol}(x_i) = \prod_k\sigma_k,

    where :math:`\sigma_k` are the singular values of the input Jacobian.

    Args:
        net: built of linear layers, convolutions and transposed convolutions (any stride,
            padding, dilation and groups), activations, pooling, normalization and dropout in
            eval mode, skip connections, modules used more than once, attention. Trainable
            parameters elsewhere count in the sharpness, frozen ones do not: scales and shifts (of
            normalizations, position tables, class tokens) and tables of embeddings by formula,
            others by ``torch.func.vmap``, or where it cannot be by n N backward passes of single
            samples. What is measured is a private copy: the network itself is only read. Modules
            that ``torch.compile`` made run there as they were written. A tensor that the forward
            makes of parameters and keeps, such as a table in eval mode, is made anew in each pass,
            unless it is kept outside of the network: then it is refused, or, where an earlier
            forward under ``torch.no_grad()`` made it, taken for a constant.
        data: ``(n, *input_shape)``, floating point, on the network's device; or an iterable of
            such batches, as a DataLoader is, whose tuples' first entry is taken; a pair ``(x, y)``
            by itself is two batches. Each batch is measured when it comes. Integers are indices,
            such as tokens, that one embedding of the network looks up as they are. Then x is what
            the embedding returns: its norm, its M numbers and the Jacobian along it are measured,
            and whatever else the forward makes of the indices, such as a mask, stays fixed.
        method: ``"exact"``, or ``"matrix-free"`` where N backward passes or Jacobians are too
            dear: then the MLS is found to a tolerance, sharpness and gradient energy by random
            probes, and nothing else, see `flatlib.matrix_free.measure_matrix_free`.
        layers: whether to keep the Jacobian at what each layer reads, ``(n, N, numbers read)``.
            Without them a layer's ``mls`` and ``log_volume`` are None, ``nmls`` and
            ``nvr`` are left out, and memory is what the input's Jacobian takes. Names of modules,
            as in ``["fc1", "blocks.0"]``, keep it at these layers, or at those inside, alone.
        max_memory: bytes that the derivatives may take at once; batches are split to fit. By
            default parts are of 128 MiB, or of 8 samples where half of what the device has free
            holds them, and one sample may take all that is free. Gradients by ``vmap`` take up to
            64 MiB of their own beside, and what the forward makes on the way.
        progress: True shows a bar if it takes longer than two seconds, False none; by default
            it shows on a terminal only.
        options: of `flatlib.matrix_free.measure_matrix_free`, for that method alone:
            ``tolerance``, ``max_products``, ``probes``, ``target_relative_error``, ``seed``.

    Returns:
        `Measurement`, or `flatlib.MatrixFreeMeasurement`. A zero Jacobian has MLS 0, log volume
        ``-inf`` and dimensionality ``nan``; a rank-deficient one, as with more outputs than
        inputs, log volume ``-inf``.

    Raises:
        TypeError: net or data of the wrong kind, complex input or parameters; integers that no
            embedding, or more than one, looks up as they are; an unknown option, or one that is no
            number.
        ValueError: empty batch; no batch axis; NaN or infinite input, weight, output or
            gradient; batch norm or dropout in training mode; samples that influence each other, as
            the gradients and, in other company, the outputs of all tell;
            a network that is not deterministic or has no layer of these kinds; a layer whose row
            for one sample reaches another's output; an output that autograd does not lead back
            to x; a hook that changes gradients; a layer whose settings or weights the forward
            changes from call to call; a cast in a part that checkpointing computes again;
            something that cannot be copied; a kept tensor that was made of other parameters, that
            an earlier forward made and keeps outside of the network, or that may be made of a
            trainable parameter of its module without a part in the output; parts of the batch for
            which the network calls other layers; another device; max_memory below 1; data that
            yields no batch; an unknown method; a name in ``layers`` of no layer that is called.
        IncompleteError: a ValueError; data failed after some batches, or one was refused: its
            ``measured`` is the measurement of those before.
        MemoryError: one sample takes more than there is, told beforehand; memory ran out.

    Source: Eqs. (3), (6), (10), (13), (14).

    >>> import flatlib
    >>> net = flatlib.nets.linear(2, 2).double()
    >>> net.linear1.weight.data = torch.tensor([[3.0, 0.0], [0.0, 4.0]]).double()
    >>> m = measure(net, torch.tensor([[3.0, 4.0]]))
    >>> m.mls, m.sharpness  # sigma_1 = 4, S = N ||x||^2 = 50
    (tensor([4.], dtype=torch.float64), 50.0)
    >>> looked_up = nn.Embedding.from_pretrained(torch.tensor([[1.0, 0.0], [3.0, 4.0]]))
    >>> measure(nn.Sequential(looked_up, net), torch.tensor([[0], [1]])).input_norm.tolist()
    [1.0, 5.0]
    """
    if method == "matrix-free":
        if not isinstance(layers, bool):
            raise ValueError(
                'layers names those whose Jacobians are kept, and method="matrix-free" forms none; '
                "leave it out"
            )
        return measure_matrix_free(net, data, max_memory=max_memory, progress=progress, **options)
    if method != "exact":
        raise ValueError(f'method must be "exact" or "matrix-free", got {method!r}')
    if options:
        raise TypeError(
            f'measure takes no {next(iter(options))!r} with method="exact"; leave it out, or pass '
            'method="matrix-free" if it is an option of that'
        )
    check_max_memory(max_memory)
    if not isinstance(layers, bool):
        layers = _names(layers)
    first: list[Measurement] = []
    with float64_network(net) as network, progress_bar(progress) as bar:

        def measure_batch(x: Tensor, start: int, n_batches: int) -> Measurement:
            planned = plan(network, x, start, layers)
            bar.expect(n_batches * len(x) * planned.n_outputs)
            part = _measure_batch(network, x, planned, max_memory, bar)
            _check_same_way([*first, part], start)
            first[:] = first or [part]
            return part

        return over_batches(data, measure_batch, Measurement.join)


def _measure_batch(
    network: Float64Network,
    x: Tensor,
    planned: Plan,
    max_memory: float | None,
    bar: Progress,
) -> Measurement:
    """The measurement of one batch."""
    without = planned.cost_without_layers if planned.at_layers else None
    check_fits(planned.cost, without, max_memory, x.device)
    size = part_size(max_memory, x.device, planned.cost)

    def measure_part(rows: Tensor, first: int) -> Measurement:
        found = differentiate(network, rows, first, planned, size, NormSums, bar.done)
        return _measure_part(found, network, rows)

    whole = Measurement.join(by_parts(x, planned, size, measure_part))
    check_energies(whole.parameter_gradient_energy, planned.start, "parameter gradients")
    return whole


def _measure_part(part: Derivatives, network: Float64Network, x: Tensor) -> Measurement:
    """The measurement of one part of the batch."""
    s = geometry.singular_values(part.jacobian)
    energy = part.other_energy.clone()
    how = {name: "formula" for name, counted in part.other_parameters.items() if counted}
    left = tuple(name for name in part.other_parameters if name not in how)
    if left:
        energies, at_once = sample_energies(network, x, left, part.output)
        energy += energies
        how.update(dict.fromkeys(left, "vmap" if at_once else "loop"))
    x = part.x.flatten(1)
    layers = []
    for derivatives in part.layers:
        jacobian = part.jacobian if derivatives.name in part.at_layers else None
        layer, bias_energy = _measure_layer(derivatives, jacobian, s)
        layers.append(layer)
        if layer.in_sharpness:
            energy += layer.weight_gradient_energy
        if derivatives.owns_bias:
            energy += bias_energy
    return Measurement(
        singular_values=s,
        mls=geometry.mls(s),
        gradient_energy=geometry.gradient_energy(s),
        log_volume=geometry.log_volume(s),
        local_dimensionality=geometry.local_dimensionality(s),
        parameter_gradient_energy=energy,
        input_norm=torch.linalg.vector_norm(x, dim=1),
        layers=tuple(layers),
        n_outputs=s.shape[1],
        input_dimension=part.jacobian.shape[2],
        input_layer_is_dense=_is_dense_at_input(part.layers[0], layers[0], part.jacobian, x),
        other_layers=part.other_layers,
        other_parameters=how,
    )


def _measure_layer(
    layer: LayerDerivatives, jacobian: Tensor | None, s: Tensor
) -> tuple[LayerMeasurement, Tensor]:
    """One layer of one part, and the squared norms of its bias's gradients.

    ``jacobian`` is that of the input, None where the layer has none.
    """
    norms = layer.collected.norms()
    mls = log_volume = None
    if jacobian is not None:
        flat = [gradient.flatten(2) for gradient in layer.input_gradients]
        joined = flat[0] if len(flat) == 1 else torch.cat(flat, dim=2)
        mls, log_volume = _mls_and_log_volume(joined, jacobian, s)
    measured = LayerMeasurement(
        name=layer.name,
        kind=layer.kind,
        input_norm=sum(x.flatten(1).square().sum(dim=1) for x in layer.inputs).sqrt(),
        weight_gradient_energy=norms.weight,
        untied_gradient_energy=norms.untied,
        output_gradient_energy=norms.output,
        smallest_patch_norm=norms.smallest_patch.sqrt(),
        mls=mls,
        log_volume=log_volume,
        n_positions=norms.n_positions,
        input_dimension=sum(x[0].numel() for x in layer.inputs),
        in_sharpness=layer.owns_weight,
        weight=layer.weight,
        geometries=tuple(
            dict.fromkeys(
                geometry_of(layer.module, *shapes)
                for shapes in zip((x.shape for x in layer.inputs), layer.written, strict=True)
            )
        )
        if layer.kind != "Linear"
        else (),
    )
    return measured, norms.bias


def _mls_and_log_volume(from_here: Tensor, jacobian: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """MLS and log volume from what a layer reads; ``s`` are those of the input's ``jacobian``."""
    # The layer that reads the network's input has the network's singular values.
    if not _same_numbers(from_here, jacobian):
        if from_here.shape[2] < from_here.shape[1]:
            mls = geometry.largest_singular_value(from_here)
            return mls, torch.full_like(mls, -torch.inf)
        s = geometry.singular_values(from_here)
    return geometry.mls(s), geometry.log_volume(s)


def _is_dense_at_input(
    derivatives: LayerDerivatives, layer: LayerMeasurement, jacobian: Tensor, x: Tensor
) -> bool:
    """Whether the input reaches the output only through ``layer``, a dense linear map of it."""
    if layer.kind != "Linear" or layer.n_positions != 1:
        return False
    read, gradient = derivatives.inputs[0].flatten(1), derivatives.input_gradients[0].flatten(2)
    # A shifted input has the same Jacobian, and another norm.
    return torch.equal(read, x) and _same_numbers(gradient, jacobian)


def _same_numbers(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same numbers, at once where they share memory."""
    shared = a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride()
    return shared or torch.equal(a, b)


def _check_same_way(parts: Sequence[Measurement], start: int) -> None:
    """Refuse a last part, of samples ``start`` on, that is not of one network and way."""
    first, last = parts[0], parts[-1]
    if _path(last) != _path(first):
        raise ValueError(
            f"the network takes another way for samples {start} to {start + last.n - 1} than for "
            f"those before: it calls {_path(last)}, before {_path(first)}; measure samples that "
            "take one way together, in one call"
        )


def _check_same_weights(first: Measurement, part: Measurement, start: int) -> None:
    """Refuse a part, of samples ``start`` on, whose layers have other weights."""
    for layer, other in zip(first.layers, part.layers, strict=True):
        if not _same_numbers(layer.weight, other.weight):
            raise ValueError(
                f"layer {layer.name!r} has other weights for samples {start} to "
                f"{start + part.n - 1} than for those before, so they are of two networks, or of "
                "one at two moments of its training; measure all samples with one network"
            )


def _path(part: Measurement) -> str:
    """Which layers a part called, in order, and how many vectors each one multiplied."""
    layers = ", ".join(f"{layer.name!r} (P = {layer.n_positions})" for layer in part.layers)
    kept = [layer.name for layer in part.layers if layer.mls is not None]
    without = f", with MLS of {', '.join(map(repr, kept))}" if kept else ", without the layers' MLS"
    return (
        f"{layers}, {part.input_dimension} to {part.n_outputs} numbers"
        f"{'' if part.has_layer_mls else without}"
    )


def _names(layers: Iterable[str]) -> tuple[str, ...]:
    """Names of modules, refused if they are anything else."""
    names = () if isinstance(layers, str) or not isinstance(layers, Iterable) else tuple(layers)
    if not names or not all(isinstance(name, str) for name in names):
        raise TypeError(
            "layers must be True, False or a list of names of modules such as "
            f'["fc1", "blocks.0"], got {layers!r}'
        )
    return names


def _per_sample(record: Measurement | LayerMeasurement) -> dict[str, Tensor]:
    """The tensors of a record whose axis 0 is the samples."""
    values = {f.name: getattr(record, f.name) for f in fields(record) if f.name != "weight"}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def _joined_samples(parts: Sequence) -> dict[str, Tensor]:
    """The per-sample tensors of several records of one kind, joined along the samples."""
    each = [_per_sample(part) for part in parts]
    return {name: torch.cat([values[name] for values in each]) for name in each[0]}
