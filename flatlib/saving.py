"""Records that are equal by value, and dictionaries with tensors in one ``.npz`` file."""

from __future__ import annotations

import json
import zipfile
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flatlib.files import write_atomically

OUTLINE, ARRAY = "outline", "array"


class Record:
    """Equal to another of its class whose fields hold the same values."""

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(_equal(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))

    __hash__ = None


def _equal(a: object, b: object) -> bool:
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return a == b
    if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device:
        return False
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


def save_arrays(path: Path, value: dict) -> None:
    """Write dictionaries and lists of numbers, words, None and tensors, without pickle.

    Raises:
        OSError: the file cannot be written; what was there stays.
    """
    arrays: dict[str, np.ndarray] = {}

    def outline(value: object) -> object:
        if isinstance(value, Tensor):
            arrays[f"{ARRAY}{len(arrays)}"] = value.cpu().numpy()
            return {ARRAY: f"{ARRAY}{len(arrays) - 1}"}
        if isinstance(value, dict):
            inside = {name: outline(each) for name, each in value.items()}
            # Alone under this key stands the word for an array; anything else stands in a list.
            return {ARRAY: [inside[ARRAY]]} if set(inside) == {ARRAY} else inside
        if isinstance(value, (list, tuple)):
            return [outline(each) for each in value]
        return value

    text = json.dumps(outline(value))
    write_atomically(path, lambda file: np.savez_compressed(file, **{OUTLINE: text}, **arrays))


def load_arrays(path: Path) -> dict:
    """What `save_arrays` has written; tuples come back as lists.

    Raises:
        OSError: there is no such file.
        ValueError: it is damaged, or another kind of file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return _filled(json.loads(str(file[OUTLINE])), file)
    except (KeyError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as fault:
        raise ValueError(f"{path} is damaged or holds no measurement: {fault}") from fault


def _filled(outline: object, arrays: np.lib.npyio.NpzFile) -> object:
    """An outline with its tensors in place."""
    if isinstance(outline, dict):
        if set(outline) == {ARRAY}:
            named = outline[ARRAY]
            if isinstance(named, list):
                return {ARRAY: _filled(named[0], arrays)}
            # In files of before, a parameter called "array" with how its gradients were had.
            return torch.from_numpy(arrays[named]) if named.startswith(ARRAY) else outline
        return {name: _filled(each, arrays) for name, each in outline.items()}
    return [_filled(each, arrays) for each in outline] if isinstance(outline, list) else outline
