"""What a network keeps from one forward pass for the next: each pass on the copy finds it at rest.

A network may keep a tensor that it makes of its parameters, such as a table of biases in eval mode.
A later pass that reads the tensor does not know of these parameters, and their gradients are lost.
"""

from __future__ import annotations

import functools
import operator
import types
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flatlib.checks import is_out_of_memory

CONTAINERS = (dict, list, set, deque)
PLAIN = (  # what holds nothing that a pass could leave there
    *(Tensor, str, int, float, type(None), type),
    *(types.ModuleType, types.FunctionType, types.BuiltinFunctionType),
)
OF_MODULES = ("_parameters", "_buffers", "_modules")
Contents = tuple[tuple, tuple]  # a dictionary's keys, else none, and entries


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

    def contents(self) -> Contents:
        """What it holds, in order."""
        if isinstance(self.value, dict):
            return tuple(self.value), tuple(self.value.values())
        return (), tuple(self.value)

    def fill(self, keys: tuple, entries: Iterable) -> None:
        """Hold these, as `contents` gave them, and nothing else."""
        self.value.clear()
        if isinstance(self.value, dict):
            self.value.update(zip(keys, entries, strict=True))
        else:
            (self.value.update if isinstance(self.value, set) else self.value.extend)(entries)


def _containers(net: nn.Module) -> Iterator[_Container]:
    """Every container of a network, each once."""
    stack: list[tuple[object, str, bool, nn.Module]] = [(net, "", True, net)]
    seen: set[int] = set()
    while stack:
        value, path, attributes, module = stack.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, CONTAINERS):
            found = _Container(value, path, attributes, module)
            yield found
            of_module = attributes and vars(module) is value
            for key, entry in found.items():
                if isinstance(entry, PLAIN) or (of_module and "hook" in key and not entry):
                    continue
                inside = of_module and key in OF_MODULES
                stack.append((entry, path if inside else found.name(key), inside, module))
        elif isinstance(value, PLAIN):  # in a tuple
            continue
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
    """One entry of a container that is a tensor, no parameter, or a tuple with such tensors."""

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

    def flags(self) -> list[str]:
        """Attributes of its module that are True, one of which may say that it is there."""
        own = vars(self.container.module).items()
        return [name for name, value in own if value is True and name != "training"]

    def lower(self, flag: str) -> None:
        """Say that it is not there."""
        setattr(self.container.module, flag, False)


def _kept(containers: list[_Container]) -> Iterator[Kept]:
    """What may be made of parameters: no buffers of PyTorch's own modules, nor indices."""
    for container in containers:
        module = container.module
        if module._buffers is container.value and type(module).__module__.startswith("torch."):
            continue
        for key, entry in container.items():
            if not isinstance(entry, (Tensor, tuple)):
                continue
            tensors = tuple(
                tensor
                for tensor in _tensors(entry)
                if (tensor.is_floating_point() or tensor.is_complex()) and tensor.numel()
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
        of_users = {
            kept.name: max(torch.finfo(tensor.dtype).eps for tensor in kept.tensors)
            for kept in _kept(users)
        }
        self.read: set[str] = set()  # names of what passes read of ``loose``
        self.tried: set[str] = set()  # those of which is known whether they are caches
        self.differing: list[str] = []  # caches that hold other numbers than they would now
        self._note()
        single = torch.finfo(torch.float32).eps
        # How far a cache may be from the same in float64, by the precision that the user's has.
        self.tolerance = {name: of_users.get(name, single) ** 0.5 for name in self.kept}

    def _note(self) -> None:
        """Take what the network holds now for what it holds at rest."""
        containers = [c for c in _containers(self.net) if id(c.value) not in self.shared]
        self.held = [(container, container.contents()) for container in containers]
        self.kept = {kept.name: kept for kept in _kept(containers)}
        tensors = {
            id(entry): entry
            for _, (_, entries) in self.held
            for entry in entries
            if isinstance(entry, Tensor) and not isinstance(entry, nn.Parameter)
        }
        self.numbers = [(t, t._version, t.detach().clone()) for t in tensors.values()]
        self.loose = {id(t): name for name, kept in self.kept.items() for t in kept.tensors}

    def note_read(self, value: object) -> None:
        """Note that an operation reads ``value``, if it is one of ``loose``."""
        if isinstance(value, (list, tuple)) and self.loose:
            for entry in value:
                self.note_read(entry)
        elif id(value) in self.loose:
            self.read.add(self.loose[id(value)])

    def untried(self) -> set[str]:
        """Names of what passes read and `emptied` has not tried to empty."""
        return self.read & set(self.kept) - self.tried

    def changed(self) -> bool:
        """Whether a pass left anything else than was there at rest."""
        return any(tensor._version != version for tensor, version, _ in self.numbers) or any(
            not _same_objects(container.contents(), contents) for container, contents in self.held
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
        for container, (keys, entries) in self.held:
            container.fill(keys, [renewed.get(id(entry), entry) for entry in entries])
        if renewed:
            self._note()

    def emptied(self, run: Callable[[], Tensor]) -> bool:
        """Empty the caches of parameters that the last pass read; tells whether to run it again.

        ``run`` runs the network once more and returns its output. What it makes anew, out of
        something that has a gradient, after it was deleted, set to None or said not to be there
        is a cache.
        """
        untried = self.untried()
        if not untried:
            return False
        read = self.read - untried
        self.tried |= untried
        written = {name for name, tensors in self._made().items() if _has_past(tensors)}
        alike: dict[tuple[type, str], list[str]] = defaultdict(list)
        for name in sorted(untried - written):
            module = self.kept[name].container.module
            alike[type(module), name.removeprefix(_path_of(self.net, module))].append(name)
        for names in alike.values():
            self._empty(names, run)
        self.read = read
        return True

    def _made(self) -> dict[str, tuple[Tensor, ...]]:
        """The tensors that the network holds now, by name."""
        return {kept.name: kept.tensors for kept in _kept(list(_containers(self.net)))}

    def _empty(self, names: list[str], run: Callable[[], Tensor]) -> None:
        """Empty those that are caches, of entries that modules of one class have alike."""
        self.put_back()
        group = [self.kept[name] for name in names]
        numbers = {id(tensor): numbers for tensor, _, numbers in self.numbers}
        for empty in _ways_to_empty(group):
            self.put_back()
            for kept in group:
                empty(kept)
            try:
                output = run().detach()
            except Exception as error:  # whatever a forward does without it
                if is_out_of_memory(error):
                    raise
                continue
            made = self._made()
            caches = [kept for kept in group if _has_past(made.get(kept.name, ()))]
            alike = {
                kept.name
                for kept in caches
                if len(made[kept.name]) == len(kept.tensors)
                and all(
                    _close(numbers.get(id(old), old), new, self.tolerance[kept.name])
                    for old, new in zip(kept.tensors, made[kept.name], strict=True)
                )
            }
            self.put_back()
            if not caches:
                continue
            if len(alike) < len(caches):
                self.differing += [kept.name for kept in caches if kept.name not in alike]
                return
            if not _close(run().detach(), output, max(self.tolerance[name] for name in alike)):
                continue  # it is no cache alone that is emptied
            self.put_back()
            for kept in caches:
                empty(kept)
            self._note()
            return


def _ways_to_empty(group: list[Kept]) -> Iterator[Callable[[Kept], None]]:
    """The ways in which a forward may find that a cache is missing."""
    yield Kept.delete
    yield Kept.set_to_none
    flags = {name: None for kept in group for name in kept.flags()}
    yield from (functools.partial(Kept.lower, flag=name) for name in flags)


def _close(old: Tensor, new: Tensor, tolerance: float) -> bool:
    """Whether two tensors hold the same numbers but for a share of the largest."""
    if old.shape != new.shape:
        return False
    return bool(((new - old).abs() <= tolerance * new.abs().amax()).all())


def _same_objects(some: Contents, others: Contents) -> bool:
    """Whether two contents are the same objects, in the same order."""
    return all(
        len(mine) == len(its) and all(map(operator.is_, mine, its))
        for mine, its in zip(some, others, strict=True)
    )


def _has_past(tensors: tuple[Tensor, ...]) -> bool:
    """Whether any of some tensors was computed from something that has a gradient."""
    return any(tensor.grad_fn is not None for tensor in tensors)


def _path_of(net: nn.Module, module: nn.Module) -> str:
    """The name of a module."""
    return next((name for name, each in net.named_modules() if each is module), "")
