"""Hooks on gradients: they may look at gradients, and a network whose hooks change some is refused.

Such a hook makes autograd return something else than the derivative of what the network computes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import nn


def let_hooks_look(net: nn.Module) -> None:
    """Refuse changes by the backward hooks of ``net``, a private copy, once they make some.

    Hooks on nodes of autograd's graph, as of ``tensor.grad_fn``, are not seen.

    Raises:
        ValueError: there are backward hooks on all modules, which no copy has for itself.
    """
    of_all = torch.nn.modules.module
    if of_all._global_backward_hooks or of_all._global_backward_pre_hooks:
        raise ValueError(
            "there is a hook on the gradients of all modules (register_module_full_backward_hook "
            "or register_module_full_backward_pre_hook), which may change them; remove it before "
            "measuring"
        )
    for path, module in net.named_modules():
        where = f"module {path!r}" if path else "the network itself"
        for hooks in (module._backward_hooks, module._backward_pre_hooks):
            for key, hook in hooks.items():
                hooks[key] = looking(hook, where, given=1)  # after the module


def looking(hook: Callable, where: str, given: int = 0) -> Callable:
    """``hook``, refused once it returns other gradients than its argument numbered ``given``."""

    @functools.wraps(hook)
    def looks(*args):
        returned = hook(*args)
        if returned is not None and _differ(returned, args[given]):
            raise ValueError(
                f"a hook on gradients of {where} changes them, so they are no longer the "
                "derivatives of what the network computes; remove the hook before measuring"
            )
        return returned

    return looks


def _differ(returned: object, given: object) -> bool:
    """Whether a hook returned other gradients than it was given."""
    mine, its = (each if isinstance(each, tuple) else (each,) for each in (returned, given))
    return len(mine) != len(its) or any(
        new is not old and (new is None or old is None or not torch.equal(new, old))
        for new, old in zip(mine, its, strict=True)
    )
