"""What a network keeps from one forward pass for the next: each pass on the copy finds it at rest.

A network may keep a tensor that it makes of its parameters, such as a table of biases in eval mode.
A later pass that reads the tensor does not know of these parameters, and their gradients are lost.
"""

from __future__ import annotations

import functools
import types
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flatlib.checks import is_out_of_memory

CONTAINERS = (dict, list, set, deque)
ATOMS = (Tensor, type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType)
OF_MODULES = ("_parameters", "_buffers", "_modules")


@dataclass(frozen=True)
class _Container:
    """A container that a network holds, be it the attributes of a module or of another object."""

    value: dict | list | set | deque
    path: str
    attributes: bool
    module: nn.Module  # the innermost that holds it

    def name(self, key: object) -> str:
        """The name of one entry, as a user writes it."""
        return f"{self.path}.{key}".lstrip(".") if self.attributes else f"{self.path}[{key!r}]"

    def items(self) -> list[tuple[object, object]]:
        """Keys, or indices, and entries."""
        if isinstance(self.value, dict):
            return list(self.value.items())
        return list(enumerate(self.value))

    def fill(self, contents: list[tuple[object, object]]) -> None:
        """Hold ``contents``, as `items` gave them, and nothing else."""
        self.value.clear()
        if isinstance(self.value, dict):
            self.value.update(contents)
        else:
            entries = [entry for _, entry in contents]
            (self.value.update if isinstance(self.value, set) else self.value.extend)(entries)


def _containers(net: nn.Module) -> Iterator[_Container]:
    """Every container of a network, each once."""
    stack: list[tuple[object, str, bool, nn.Module]] = [(net, "", True, net)]
    seen: set[int] = set()
    while stack:
        value, path, attributes, module = stack.pop()
        if id(value) in seen or isinstance(value, ATOMS):
            continue
        seen.add(id(value))
        if isinstance(value, CONTAINERS):
            found = _Container(value, path, attributes, module)
            yield found
            for key, entry in found.items():
                inside = attributes and vars(module) is value and key in OF_MODULES
                stack.append((entry, path if inside else found.name(key), inside, module))
        elif isinstance(value, tuple):
            stack += [(entry, f"{path}[{i}]", False, module) for i, entry in enumerate(value)]
        elif isinstance(value, functools.partial):
            parts = (value.func, value.args, value.keywords)
            stack += [(part, path, False, module) for part in parts]
        elif isinstance(value, types.MethodType):
            stack.append((value.__self__, path, False, module))
        elif hasattr(value, "__dict__"):
            module = value if isinstance(value, nn.Module) else module
            stack.append((vars(value), path, True, module))


@dataclass(frozen=True)
class Kept:
    """One entry of a container that holds tensors of floating-point numbers, no parameters."""

    name: str
    container: _Container
    key: object
    tensors: tuple[Tensor, ...]

    def delete(self) -> None:
        """Take it away; a list loses all entries, as if it had not been added to."""
        if isinstance(self.container.value, dict):
            self.container.value.pop(self.key, None)
        else:
            self.container.value.clear()

    def set_to_none(self) -> None:
        """Leave its place empty."""
        if not isinstance(self.container.value, set):
            self.container.value[self.key] = None


def _kept(containers: list[_Container]) -> Iterator[Kept]:
    """What may be made of parameters; modules of PyTorch itself keep nothing of the kind."""
    for container in containers:
        if type(container.module).__module__.startswith("torch."):
            continue
        for key, entry in container.items():
            tensors = tuple(
                tensor
                for tensor in _tensors(entry)
                if tensor.is_floating_point() and tensor.numel()
                if not isinstance(tensor, nn.Parameter)
            )
            if tensors:
                yield Kept(container.name(key), container, key, tensors)


def _tensors(entry: object) -> Iterator[Tensor]:
    """The tensors that an entry is or, as a tuple, holds."""
    if isinstance(entry, Tensor):
        yield entry
    elif isinstance(entry, tuple):
        for part in entry:
            yield from _tensors(part)


class AtRest:
    """What the private copy of a network holds between forward passes.

    Args:
        copied: the copy, which no pass has touched.
        net: the user's network; what the copy shares with it is left alone.

    A tensor that was there at rest may have been made of parameters, too, by a pass of the user's.
    `emptied` finds out: once the tensor is taken away, the forward makes it anew.
    """

    def __init__(self, copied: nn.Module, net: nn.Module):
        self.net = copied
        users = list(_containers(net))
        self.shared = {id(container.value) for container in users}
        self.precision = {
            kept.name: max(torch.finfo(tensor.dtype).eps for tensor in kept.tensors)
            for kept in _kept(users)
        }
        self.read: set[str] = set()  # names of what passes read of ``loose``
        self.tried: set[str] = set()  # those of which is known whether they are caches
        self.differing: list[str] = []  # caches that hold other numbers than they would now
        self._note()

    def _note(self) -> None:
        """Take what the network holds now for what it holds at rest."""
        containers = [c for c in _containers(self.net) if id(c.value) not in self.shared]
        self.held = [(container, container.items()) for container in containers]
        self.kept = {kept.name: kept for kept in _kept(containers)}
        tensors = {
            id(entry): entry
            for _, contents in self.held
            for _, entry in contents
            if isinstance(entry, Tensor) and not isinstance(entry, nn.Parameter)
        }
        self.numbers = [(t, t._version, t.detach().clone()) for t in tensors.values()]
        self.loose = {id(t): name for name, kept in self.kept.items() for t in kept.tensors}

    def note_read(self, value: object) -> None:
        """Note that an operation reads ``value``, if it is one of ``loose``."""
        if isinstance(value, (list, tuple)):
            for entry in value:
                self.note_read(entry)
        elif id(value) in self.loose:
            self.read.add(self.loose[id(value)])

    def changed(self) -> bool:
        """Whether a pass left anything else than was there at rest."""
        return any(tensor._version != version for tensor, version, _ in self.numbers) or any(
            not _identical(container.items(), contents) for container, contents in self.held
        )

    def put_back(self) -> None:
        """Let the network hold what it holds at rest; tensors that were written into are new."""
        if not self.changed():
            return
        renewed = {
            id(tensor): numbers.clone()
            for tensor, version, numbers in self.numbers
            if tensor._version != version
        }
        for container, contents in self.held:
            container.fill([(key, renewed.get(id(entry), entry)) for key, entry in contents])
        if renewed:
            self._note()

    def emptied(self, run: Callable[[], object]) -> bool:
        """Empty the caches of parameters that the last pass has read; tells whether there are any.

        ``run`` runs the network once more. What it makes anew, out of something that has a
        gradient, after it was deleted or set to None is a cache.
        """
        untried, read = self.read & set(self.kept) - self.tried, set(self.read)
        self.tried |= untried
        alike: dict[tuple[type, str], list[Kept]] = defaultdict(list)
        for name in sorted(untried):
            kept = self.kept[name]
            own = name.removeprefix(_path_of(self.net, kept.container.module))
            alike[type(kept.container.module), own].append(kept)
        found = [self._empty(group, run) for group in alike.values()]
        self.read = read
        return any(found)

    def _empty(self, group: list[Kept], run: Callable[[], object]) -> bool:
        """Empty those of a group that are caches, and tell whether any is."""
        for empty in (Kept.delete, Kept.set_to_none):
            self.put_back()
            for kept in group:
                empty(kept)
            try:
                run()
            except Exception as error:  # whatever a forward does without it
                if is_out_of_memory(error):
                    raise
                continue
            made = {kept.name: kept.tensors for kept in _kept(list(_containers(self.net)))}
            caches = [kept for kept in group if _has_past(made.get(kept.name, ()))]
            differing = [kept.name for kept in caches if not self._same(kept, made[kept.name])]
            self.put_back()
            self.differing += differing
            for kept in caches:
                if kept.name not in differing:
                    empty(kept)
            if caches:
                self._note()
                return len(differing) < len(caches)
        self.put_back()
        return False

    def _same(self, kept: Kept, made: tuple[Tensor, ...]) -> bool:
        """Whether a cache holds the numbers made anew, but for the precision of the user's."""
        tolerance = self.precision.get(kept.name, torch.finfo(torch.float32).eps) ** 0.5
        return len(made) == len(kept.tensors) and all(
            new.shape == old.shape
            and bool(((new - old).abs() <= tolerance * new.abs().amax()).all())
            for new, old in zip(made, kept.tensors, strict=True)
        )


def _identical(some: list[tuple[object, object]], others: list[tuple[object, object]]) -> bool:
    """Whether two lists of keys, or indices, and entries hold the same objects."""
    return len(some) == len(others) and all(
        mine is its and (key is other or (isinstance(key, int) and key == other))
        for (key, mine), (other, its) in zip(some, others, strict=True)
    )


def _has_past(tensors: tuple[Tensor, ...]) -> bool:
    """Whether any of some tensors was computed from something that has a gradient."""
    return any(tensor.grad_fn is not None for tensor in tensors)


def _path_of(net: nn.Module, module: nn.Module) -> str:
    """The name of a module."""
    return next((name for name, each in net.named_modules() if each is module), "")
