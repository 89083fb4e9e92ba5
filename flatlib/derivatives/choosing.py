"""Layers that are chosen by the names of modules."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence

from torch import nn

SHOWN = 20  # names in a message


def chosen_layers(
    net: nn.Module,
    layers: Iterable[str],
    called: Sequence[str],
    names: Iterable[str],
    maybe: Collection[str] = (),
) -> frozenset[str]:
    """The layers of ``called`` that are of these names, or inside modules of these names.

    ``layers`` are all that there are, ``""`` is the name of the whole network; a name of one that
    is ``maybe`` called is not refused. A module that stands in several places has all their names.

    Raises:
        ValueError: there is no such module, or it holds no layer, or none that is called; the
            message shows the nearest names and those that there are.

    >>> chosen_layers(nn.Sequential(), ["a.b", "a.c", "d"], ["a.b"], ["a"])
    frozenset({'a.b'})
    """
    modules = dict(net.named_modules(remove_duplicate=False))
    first_names = {id(module): name for name, module in net.named_modules()}
    chosen: set[str] = set()
    for name in names:
        own = {
            first_names[id(m)] for path, m in modules.items() if f"{path}.".startswith(f"{name}.")
        }
        inside = {
            layer
            for layer in layers
            if not name
            or f"{layer}.".startswith(f"{name}.")
            or own & {layer, layer.rpartition(".")[0]}  # a projection of attention is no module
        }
        if not inside and name in modules:
            fault = f"is a {type(modules[name]).__name__} without a linear or convolutional layer"
        elif not inside:
            near = difflib.get_close_matches(name, {*modules, *layers} - {""})
            fault = "does not exist" + (f"; near is {_listed(near)}" if near else "")
        elif not inside.intersection({*called, *maybe}):
            fault = "is not called, or its rows are not the samples"
        else:
            chosen |= inside.intersection(called)
            continue
        more = f" and {len(called) - SHOWN} more" if len(called) > SHOWN else ""
        there = f"{_listed(called[:SHOWN])}{more}"
        raise ValueError(f"layers: {name!r} {fault}; the layers are {there}")
    return frozenset(chosen)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
