"""Networks of which is known what is tried out on others: sequences of PyTorch's own layers.

Such a network keeps samples apart, has no randomness, and keeps nothing from one pass for the next.
"""

from __future__ import annotations

import torch
from torch import nn

ENTRY_BY_ENTRY = (
    *(nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU),
    *(nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid, nn.LogSigmoid, nn.Softplus, nn.Softsign, nn.Hardtanh),
    *(nn.Hardswish, nn.Hardsigmoid, nn.Hardshrink, nn.Softshrink, nn.Tanhshrink),
)
POOLINGS = tuple(
    getattr(nn, f"{kind}{axes}d")
    for kind in ("MaxPool", "AvgPool", "AdaptiveMaxPool", "AdaptiveAvgPool")
    for axes in (1, 2, 3)
)
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
NORMALIZATIONS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
LAYERS = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
ALWAYS_PLAIN = frozenset((*ENTRY_BY_ENTRY, *POOLINGS, *LAYERS))
# Their forwards when the library is imported, which somebody may replace afterwards.
FORWARDS = {
    kind: kind.forward
    for kind in (nn.Sequential, nn.Flatten, *DROPOUTS, *NORMALIZATIONS, *ALWAYS_PLAIN)
}
OF_ALL_MODULES = (
    *("_global_forward_pre_hooks", "_global_forward_hooks"),
    *("_global_backward_pre_hooks", "_global_backward_hooks"),
)


def is_plain_sequence(net: nn.Module) -> bool:
    """Whether ``net`` is a sequence of PyTorch's own layers, each of which keeps samples apart.

    False of modules of the user's own, of hooks, which may mix samples, of what is random or works
    over the batch in training mode, and of a module that stands in two places, which
    `torch.func.functional_call` leaves with the parameters that it was given.

    >>> is_plain_sequence(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Tanh()))
    True
    >>> is_plain_sequence(nn.Sequential(nn.Flatten(0), nn.Linear(4, 3)))
    False
    """
    hooks = any(getattr(torch.nn.modules.module, name) for name in OF_ALL_MODULES)
    each_once = len(list(net.named_modules(remove_duplicate=False))) == len(list(net.modules()))
    return not hooks and each_once and type(net) is nn.Sequential and _is_plain(net)


def _is_plain(module: nn.Module | None) -> bool:
    kind = type(module)  # a subclass may do anything
    if kind not in FORWARDS or kind.forward is not FORWARDS[kind]:
        return False
    for name, own in vars(module).items():
        if callable(own) or ("_hooks" in name and own):
            return False
    if kind is nn.Sequential:
        return all(map(_is_plain, module))
    if kind is nn.Flatten:
        return module.start_dim > 0
    if kind in DROPOUTS:
        return not module.training
    if kind in NORMALIZATIONS:
        return not module.training and module.running_mean is not None
    return True
