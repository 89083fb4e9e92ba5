"""Data that comes batch by batch, and a bar that shows how far a measurement is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from operator import length_hint
from typing import TypeVar

from torch import Tensor

DELAY = 2.0  # seconds before a bar shows
Made = TypeVar("Made")  # of n samples, with an ``n``


class IncompleteError(ValueError):
    """A measurement ended after some batches; ``measured`` holds that of those before."""

    def __init__(self, message: str, measured: object):
        super().__init__(message)
        self.measured = measured


def batches(data: Iterable) -> Iterator[Tensor]:
    """The inputs of each batch; of a tuple or list, as a DataLoader yields, the first entry.

    A pair ``(x, y)`` is two batches: pass x, or ``[(x, y)]``, which is one.

    Raises:
        TypeError: ``data``, or what it yields, is something else.
        ValueError: no batch comes, or one whose samples have another shape than those before.
    """
    if isinstance(data, Mapping):
        raise TypeError(
            f"data is a {type(data).__name__} of {', '.join(map(repr, data))}; pass the tensor in "
            "it that is the network's input"
        )
    if not isinstance(data, Iterable) or isinstance(data, str) or hasattr(data, "__array__"):
        raise TypeError(
            f"data must be a torch.Tensor or an iterable of batches, got {type(data).__name__}; "
            f"{_in_batches(data)}"
        )
    shape = None
    for index, batch in enumerate(data):
        x = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
        if not isinstance(x, Tensor):
            inside = "" if x is batch else f" whose first entry is of type {type(x).__name__}"
            raise TypeError(
                f"batch {index} of data is of type {type(batch).__name__}{inside}; a batch must "
                "be a torch.Tensor, or a tuple whose first entry is the input; "
                f"{_as_tensors(x, 'batch' if x is batch else 'batch[0]')}"
            )
        if shape is not None and x.shape[1:] != shape:
            raise ValueError(
                f"batch {index} of data has samples of shape {tuple(x.shape[1:])}, those before "
                f"have {tuple(shape)}; measure them apart (if data is a pair of "
                "inputs and targets, pass the inputs alone)"
            )
        shape = x.shape[1:]
        yield x
    if shape is None:
        raise ValueError(
            "data yields no batch; pass an iterable that has not been used up, such as a "
            "DataLoader or a list, with at least one"
        )


def _in_batches(data: object) -> str:
    """How to pass what is no iterable of batches."""
    if hasattr(data, "__array__"):
        return "use torch.as_tensor(numpy.asarray(data))"
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, str):
        return "if it holds samples, pass torch.utils.data.DataLoader(data, batch_size=64)"
    return "pass the inputs as (n, *input_shape)"


def _as_tensors(x: object, name: str) -> str:
    """How to pass batches of which one is, or begins with, ``x``."""
    if not isinstance(x, Mapping) or not x:
        return "use torch.as_tensor"

    def likeness(key: object) -> int:
        tensor = isinstance(x[key], Tensor)
        return tensor + (tensor and x[key].is_floating_point())

    key = max(x, key=likeness)
    return (
        f"of {', '.join(map(repr, x))} pass the input alone, as in "
        f"(torch.as_tensor({name}[{key!r}]) for batch in data)"
    )


def over_batches(
    data: Tensor | Iterable,
    measure: Callable[[Tensor, int, int], Made],
    join: Callable[[list[Made]], Made],
) -> Made:
    """What is measured of data, a tensor or batches, each when it comes.

    Args:
        data: as `flatlib.measure` takes it.
        measure: of a batch, given the index of its first sample among all, and how many batches
            there are, 0 if nobody knows.
        join: of the measurements of all batches, in their order.

    Raises:
        IncompleteError: data failed after some batches, or one was refused.
    """
    one = isinstance(data, Tensor)
    n_batches = 1 if one else length_hint(data)
    incoming = iter([data] if one else batches(data))
    parts: list[Made] = []
    while True:
        try:
            parts.append(measure(next(incoming), sum(part.n for part in parts), n_batches))
        except StopIteration:
            return join(parts)
        except Exception as error:
            if not parts:
                raise
            measured, name, said = join(parts), f"batch {len(parts)} of data", str(error)
            raise IncompleteError(
                f"{said if said.startswith(name) else f'{name}: {said}'}; the {measured.n} samples "
                "before it are measured, see this error's .measured",
                measured,
            ) from error


class Progress:
    """Counts what is done, such as gradients of single samples, on a bar if there is one."""

    def __init__(self, make: Callable | None):
        self.make, self.bar = make, None

    def expect(self, total: int) -> None:
        """There will be so many, unless that is known already; 0 if nobody knows."""
        if self.make is None or not total or (self.bar is not None and self.bar.total):
            return
        n_done = 0 if self.bar is None else self.bar.n
        self.close()
        # The widget of a notebook takes its length from the bar when the bar is made.
        self.bar = self.make(total=total, initial=n_done)

    def done(self, number: int) -> None:
        """So many more are done."""
        if self.make is None:
            return
        if self.bar is None:
            self.bar = self.make(total=None)
        self.bar.update(number)

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()


@contextmanager
def progress_bar(progress: bool | None, unit: str = "gradients") -> Iterator[Progress]:
    """A bar that shows after two seconds; with ``progress=None`` on a terminal only."""
    if progress is False or (progress is None and not sys.stderr.isatty()):
        yield Progress(None)
        return
    try:
        from tqdm.auto import tqdm
    except ImportError:
        if progress:
            raise ImportError("progress=True draws its bar with tqdm: pip install tqdm") from None
        yield Progress(None)
        return

    counted = Progress(partial(tqdm, delay=DELAY, unit=f" {unit}", unit_scale=True, leave=False))
    try:
        yield counted
    finally:
        counted.close()
