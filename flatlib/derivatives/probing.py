"""A network tried out on a few samples: what would make its derivatives wrong is refused here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from flatlib.checks import all_finite, check_batch, check_same

from .float64 import Float64Network, in_full
from .mixing import find_rows, refuse_mixed
from .randomness import RandomState
from .recording import Call, Forward, graph_behind, run_recorded, twice_if_single
from .rows import Rows

PROBE_SAMPLES = 4
# Of the output: what PyTorch's own functions may be off by, some of which round float64 to float32
# on a GPU, such as weight normalization.
AS_WRITTEN = 1e-5
NOT_DETERMINISTIC = (
    "the network is not deterministic: two runs on sample {sample} differ; switch off its "
    "randomness (net.eval())"
)
REPLACED = (
    "sample {sample} has another output with those functions of PyTorch's that flatlib replaces, "
    "since they cannot be differentiated twice: a fault of flatlib's (or a network so sensitive "
    "that rounding alone changes its output); please report the network"
)
RECOMPUTED = "a part of the forward is recomputed in the backward pass"
ONE_OR_TWO = (
    "samples influence each other: sample {sample} has another output as the only row of a batch "
    "than beside an equal one, and flatlib runs a single sample as two rows; pass it with others"
)
INFLUENCE = (
    "samples influence each other: the output for sample {sample} depends on which other samples "
    "are in the batch (batch statistics? attention over the batch? a test of any or all? or a "
    "network so sensitive that rounding alone changes its output?)"
)


@dataclass(frozen=True)
class Elsewhere:
    """Outputs for samples of a part of a batch in other company, or why there are none."""

    alone: dict[int, Tensor | str]  # by sample, (1, N)
    halves: list[Tensor | str]  # every other sample's, from the first and from the second on


NOWHERE = Elsewhere({}, [])


@dataclass(frozen=True)
class Probe:
    """Outputs for a few samples, in other company than in the user's batch, and for one alone, or
    for all if the batch is small.

    Whatever a single sample decides for the others, as the one that holds the batch's least
    number, is missing where these samples go or where that one goes, which is none of them.
    """

    samples: tuple[int, ...]  # which ones
    output: Tensor  # (len(samples), N)
    alone: dict[int, Tensor | str]  # by sample, (1, N) as the only one of a batch, or why not
    inputs: dict[str, tuple[Tensor, ...]]  # what each layer read, (len(samples), ...) a call
    excluded: frozenset[str]  # layers whose rows are not the samples
    places: dict[str, str]  # where the samples are in what each other layer reads first
    again: Callable[[], Tensor]  # runs the same once more
    run: Callable[[Tensor], Tensor]  # the outputs of other samples, which are all of a batch

    def elsewhere(self, x: Tensor, start: int = 0) -> Elsewhere:
        """Run samples ``x``, which are ``start``, ``start + 1``, ..., in other company.

        Every other one of them goes without those between, since a choice over the batch, such as
        its largest numbers or the room that an expert has left, may leave the samples of the probe
        as they are; and the one that is padded most goes alone. Where all went alone, that tells
        enough. What is differentiated comes after this: its backward passes may read what the last
        forward has left in the network.
        """
        own = range(start, start + len(x))
        alone = {sample: found for sample, found in self.alone.items() if sample in own}
        for row in _most_padded(x):
            if own[row] not in alone:
                alone[own[row]] = _told(self.run, x[row : row + 1])
        apart = len(x) > 1 and len(alone) < len(x)
        halves = [_told(self.run, x[first::2]) for first in (0, 1)] if apart else []
        return Elsewhere(alone, halves)

    def check(self, output: Tensor, elsewhere: Elsewhere, start: int = 0) -> None:
        """Refuse another ``output``, of samples ``start``, ``start + 1``, ..., that differs."""
        try:
            self._check(self.samples, self.output, output, start, INFLUENCE)
            for sample, found in elsewhere.alone.items():
                self._check_alone(sample, found, output, start)
            for first, found in enumerate(elsewhere.halves):
                self._check_half(found, output, start, first)
        except ValueError:  # whose fault is it?
            self.check_deterministic()
            raise

    def _check_alone(self, sample: int, alone: Tensor | str, output: Tensor, start: int) -> None:
        """Refuse ``output`` if the sample has another one ``alone``, or none, and why."""
        if isinstance(alone, str):
            raise ValueError(
                f"samples influence each other: the network takes sample {sample} with others in "
                f"its batch, and not alone, as two equal rows: {alone}"
            )
        self._check((sample,), alone, output, start, INFLUENCE)

    def _check_half(self, found: Tensor | str, output: Tensor, start: int, first: int) -> None:
        """Refuse ``output`` if every other sample, from the first or second on, has another one."""
        samples = range(start, start + len(output))[first::2]
        if isinstance(found, str):
            raise ValueError(
                f"samples influence each other: the network takes samples {start} to "
                f"{start + len(output) - 1} together, and not every other one of them: {found}"
            )
        self._check(samples, found, output, start, INFLUENCE)

    def check_deterministic(self) -> None:
        """Refuse a network whose output for the same samples differs when it is run again."""
        check_same(self.output, self.again().detach(), self.samples, NOT_DETERMINISTIC)

    def check_inputs(self, layer: str, inputs: tuple[Tensor, ...], start: int) -> None:
        """Refuse a layer whose rows are not the samples ``start``, ``start + 1``, ... in order."""
        for mine, its in zip(self.inputs.get(layer, ()), inputs, strict=False):
            if mine.shape[1:] != its.shape[1:]:  # the network goes another way here
                continue
            self._check(
                self.samples,
                mine.flatten(1),
                its.flatten(1),
                start,
                f"layer {layer!r} reads other numbers for sample {{sample}} in another batch, "
                "so its rows are not the samples in their order (sorted or permuted in forward? "
                "batch statistics?); keep the batch's order",
            )

    @staticmethod
    def _check(of: Sequence[int], mine: Tensor, its: Tensor, start: int, message: str) -> None:
        """Refuse ``its``, of samples from ``start`` on, that differ from ``mine``, of these."""
        pairs = [
            (row, sample) for row, sample in enumerate(of) if start <= sample < start + len(its)
        ]
        if pairs:
            rows, samples = [list(column) for column in zip(*pairs, strict=True)]
            others = its[[sample - start for sample in samples]].detach()
            # A sample's own numbers may be what is left of numbers that cancel.
            check_same(mine[rows], others, samples, message, float(its.detach().abs().amax()))


def probed(network: Float64Network, x: Tensor, start: int = 0) -> tuple[Probe, Forward]:
    """Run ``network`` on a few samples of ``x`` and on a row that is none, and on one alone.

    ``start`` is the index of the first of ``x`` among all samples.
    """
    check_batch(network.net, x, start)
    samples = tuple(range(x.shape[0] - 1, -1, -2)[:PROBE_SAMPLES])
    named = tuple(start + sample for sample in samples)
    random = RandomState(x.device)
    company, first = _in_company(network, x.detach(), samples, named)
    output = first.output[: len(samples)].detach()
    check_no_new_parameters(network)
    if network.at_rest.changed():  # it notes something, and may read it, too
        again = network.carry_on(in_full(company))[: len(samples)].detach()
        check_same(output, again, named, NOT_DETERMINISTIC)
    check_graph(network, first.output)
    random.check_untouched(network, company)
    calls = [call for made in first.calls.values() for call in made]
    if all(_are_samples(call.value.shape, len(company)) for call in calls):
        for call in calls:
            call.rows = Rows(len(company), "first")
    else:
        find_rows(first, network.kinds, first.calls, [])
    inputs = {
        name: tuple(call.read(len(samples)) for call in made)
        for name, made in first.calls.items()
        if all(call.rows for call in made)
    }
    sample = max(len(x) - 2, 0)
    single = twice_if_single(x[sample : sample + 1].detach())
    output_alone, shapes = _alone(network, single, start + sample)
    check_as_written(network, single, output_alone, start + sample)
    check_not_recomputed(network, single)
    if len(x) == 1 and not network.plain:
        check_alone_or_twice(network, x.detach(), output_alone, start)
    for name in set(inputs).intersection(shapes):
        if _same_length(first.calls[name], shapes[name]):  # 5 rows of a layer are no 5 samples
            del inputs[name]
    places = {name: first.calls[name][0].rows.place for name in inputs}
    excluded = frozenset(first.calls) - frozenset(inputs)

    def again() -> Tensor:
        return network(in_full(company))[: len(samples)]

    def run(rows: Tensor) -> Tensor:
        return network(in_full(twice_if_single(rows.detach())))[: len(rows)].detach()

    alone = {start + sample: output_alone}
    if len(x) <= 2 * PROBE_SAMPLES and not network.plain:
        others = [other for other in range(len(x)) if other != sample]
        alone |= {start + other: _told(run, x[other : other + 1]) for other in others}
    return Probe(named, output, alone, inputs, excluded, places, again, run), first


def _in_company(
    network: Float64Network, x: Tensor, samples: tuple[int, ...], named: tuple[int, ...]
) -> tuple[Tensor, Forward]:
    """A few samples and a row that is none of them, and the network run on these."""
    rows = x[list(samples)]
    n_others = 2 if len(rows) + 1 == max(len(x), 2) else 1  # so that the batch sizes differ
    # A network may be for some inputs only, such as numbers of a category, and a GPU does not
    # recover from a number beyond a table.
    if x.device.type == "cpu" or not x.is_floating_point():
        company = torch.cat([rows, *[_unlike(rows)] * n_others])
        with suppress(ValueError):
            first = run_recorded(network, company, named)
            if all_finite(first.output):
                return company, first
    others = [i for i in range(len(x)) if i not in samples]
    other = x[others[:1]] if others else rows[:1]
    if not others and x.is_floating_point():
        other = other * (1 - 1e-3)
    company = torch.cat([rows, *[other] * n_others])
    return company, run_recorded(network, company, named)


def _alone(
    network: Float64Network, rows: Tensor, sample: int
) -> tuple[Tensor | str, dict[str, list[torch.Size]]]:
    """The output for one sample alone, which ``rows`` holds twice, or why there is none, and the
    shapes that layers read.
    """
    try:
        forward = run_recorded(network, rows, (sample,))
    except ValueError as error:
        return str(error), {}
    shapes = {name: [call.value.shape for call in made] for name, made in forward.calls.items()}
    return forward.output[:1].detach(), shapes


def _same_length(made: Sequence[Call], shapes: Sequence[torch.Size]) -> bool:
    """Whether a layer reads as many rows in another batch, where they were taken for samples."""
    axes = {"first": 0, "second": 1}
    return any(
        call.value.shape[: axis + 1] == shape[: axis + 1]
        for call, shape in zip(made, shapes, strict=False)
        if (axis := axes.get(call.rows.place)) is not None
    )


def _unlike(rows: Tensor) -> Tensor:
    """A row that is no sample, ``(1, ...)``; of indices that are looked up it takes the largest."""
    if not rows.is_floating_point():
        return torch.full_like(rows[:1], int(rows.max()))
    return 0.5 * rows[:1] + 0.5 * rows.abs().max() + 1.0


def _are_samples(shape: torch.Size, n: int) -> bool:
    """Whether axis 0 can only be the n samples."""
    return len(shape) > 1 and shape[0] == n and not (len(shape) > 2 and shape[1] == n)


def _told(run: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor | str:
    """The outputs for some samples, or why there are none."""
    try:
        return run(rows)
    except ValueError as error:
        return str(error)


def _most_padded(x: Tensor) -> list[int]:
    """The sample that is padded most, if one is: the batch's longest may decide for it."""
    rows = x.detach().flatten(1)
    padded = torch.maximum(*((rows == end).sum(dim=1) for end in (rows[:, :1], rows[:, -1:])))
    return [int(padded.argmax())] if padded.max() > 1 else []


def run_checked(network: Float64Network, x: Tensor, samples: Sequence[int]) -> Forward:
    """`run_recorded`, refused where a part of the network that no probe reached misbehaves."""
    random = RandomState(x.device)
    forward = run_recorded(network, x, samples)
    check_graph(network, forward.output)
    random.check_untouched(network, x)
    return forward


def checked_output(network: Float64Network, x: Tensor) -> Tensor:
    """The output ``(n, N)`` for ``x``, from a network held to be deterministic, sample by sample.

    Raises:
        TypeError, ValueError: as `plan`; samples influence each other.
    """
    probe, _ = probed(network, x)
    elsewhere = probe.elsewhere(x)
    output = run_checked(network, twice_if_single(x), range(len(x))).output[: len(x)]
    probe.check(output, elsewhere)
    return output


def checked_forward(network: Float64Network, x: Tensor) -> Forward:
    """The recorded forward pass behind `checked_output`; a single sample runs twice.

    Raises:
        TypeError, ValueError: as `checked_output`; a layer's rows are mixed.
    """
    probe, _ = probed(network, x)
    elsewhere = probe.elsewhere(x)
    forward = run_checked(network, twice_if_single(x), range(len(x)))
    probe.check(forward.output[: len(x)].detach(), elsewhere)
    refuse_mixed(find_rows(forward, network.kinds, forward.calls, []))
    return forward


def check_as_written(network: Float64Network, x: Tensor, output: Tensor | str, sample: int) -> None:
    """Refuse ``output``, of the first of ``x``, if the network gives another one as it is written.

    One that asks for a lower precision does so, and may fail.
    """
    mode = network.mode
    if isinstance(output, str) or not mode.has_replaced or mode.has_lifted:
        return
    rows = in_full(x)
    try:
        written = network.anew(rows, lambda: network.carry_on(rows, as_written=True))
    except ValueError:
        return
    off = (output - written[:1].detach()).abs().amax()
    if off > AS_WRITTEN * output.abs().amax():
        raise ValueError(REPLACED.format(sample=sample))


def check_not_recomputed(network: Float64Network, x: Tensor) -> None:
    """Refuse a network that asks for a lower precision in a part that it computes again.

    What its backward pass computes again is computed in that precision.
    """
    if not network.mode.has_lifted:
        return
    try:
        with torch.autograd.graph.disable_saved_tensors_hooks(RECOMPUTED):
            network(in_full(x))
    except ValueError as error:
        if RECOMPUTED in str(error):
            raise ValueError(
                f"{RECOMPUTED}, where a lower precision that the network asks for is not made "
                "float64; switch checkpointing off, or remove the cast"
            ) from None


def check_alone_or_twice(
    network: Float64Network, x: Tensor, output: Tensor | str, sample: int
) -> None:
    """Refuse ``output``, of one sample that ran twice, if a single row has another one.

    One that squeezes its output may fail on a single row.
    """
    try:
        single = network(in_full(x)).detach()
    except ValueError:
        return
    if isinstance(output, Tensor):
        check_same(output, single, (sample,), ONE_OR_TWO)


def check_no_new_parameters(network: Float64Network) -> None:
    """Refuse a network to which the last forward pass has added parameters."""
    for name, parameter in network.net.named_parameters():
        if parameter.is_floating_point() and name not in network.parameters:
            raise ValueError(
                f"the forward adds parameter {name!r} to the network; run the network once first, "
                "so that it has all its parameters"
            )


def check_caches(network: Float64Network, output: Tensor) -> None:
    """Refuse a tensor that the network holds and that seems to be made of parameters."""
    at_rest = network.at_rest
    if at_rest.differing:
        raise ValueError(
            f"the network holds {at_rest.differing[0]!r}, which its forward makes of parameters "
            "where it is missing, now with other numbers: it was made of other parameters or for "
            "other samples; empty it before measuring"
        )
    read = [kept for name, kept in at_rest.kept.items() if name in at_rest.read]
    if not read:
        return
    names = {id(parameter): name for name, parameter in network.parameters.items()}
    uses = graph_behind(output, network.parameters).uses
    for kept in read:
        for parameter in kept.container.module._parameters.values():
            name = names.get(id(parameter))
            if name in network.trainable and not uses[name]:
                raise ValueError(
                    f"the forward reads {kept.name!r}, and {name!r} of the same module has no part "
                    f"in the output: if {kept.name!r} was made of {name!r} in an earlier forward, "
                    f"empty it before measuring, since gradients are lost; if not, freeze {name!r} "
                    "by requires_grad_(False)"
                )


def check_graph(network: Float64Network, output: Tensor) -> None:
    """Refuse an output that rests on single precision, or on numbers made of parameters before."""
    check_caches(network, output)
    graph = graph_behind(output, network.outside)
    if graph.uses:
        raise ValueError(
            f"the forward uses {next(iter(graph.uses)).lstrip('.')!r} by way of a tensor that was "
            "computed from parameters before, so their part in the derivatives is lost; compute "
            "it in forward"
        )
    for node in graph.nodes:
        for made in node._input_metadata:
            if made.dtype.is_floating_point and made.dtype != torch.float64:
                raise ValueError(
                    f"the forward works in {made.dtype} on the way ({node.name()}) though input "
                    "and weights are float64; remove the cast, measurements are made in float64"
                )
