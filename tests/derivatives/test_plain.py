"""Which networks are known to keep samples apart, and that nothing is tried out on them."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inputs import gaussian
from torch import nn

import flatlib
from flatlib.derivatives import float64, passes, plain
from flatlib.derivatives.plain import ALWAYS_PLAIN, DROPOUTS, NORMALIZATIONS, is_plain_sequence

MADE = {  # with which arguments a kind is made
    **{kind: (4, 3) for kind in plain.LAYERS if kind is nn.Linear},
    **{kind: (4, 3, 2) for kind in plain.LAYERS if kind is not nn.Linear},
    **{kind: (2,) for kind in plain.POOLINGS},
    **{kind: (4,) for kind in NORMALIZATIONS},
}
ALL_KINDS = [*sorted(ALWAYS_PLAIN, key=lambda kind: kind.__name__), *DROPOUTS, *NORMALIZATIONS]


def axes(kind: type) -> int:
    """How many axes behind its channels a module is for."""
    return int(kind.__name__[-2]) if kind.__name__[-2].isdigit() else 2


def module_of(kind: type) -> nn.Module:
    module = kind(*MADE.get(kind, ())).double().eval()
    for name, buffer in module.named_buffers():
        if name.startswith("running"):
            buffer.uniform_(0.5, 1.5)
    return module


@pytest.mark.parametrize("kind", ALL_KINDS, ids=lambda kind: kind.__name__)
def test_what_a_listed_module_makes_of_a_sample_does_not_rest_on_the_others(kind):
    module = module_of(kind)
    sizes = (4, *[4] * axes(kind))
    one, other = gaussian(5, *sizes, seed=1).double(), gaussian(5, *sizes, seed=2).double()
    other[3] = one[3]
    mine, its = module(one), module(other)
    assert len(mine) == 5
    assert torch.equal(mine[3], its[3])
    assert not torch.equal(mine[2], its[2])
    assert is_plain_sequence(nn.Sequential(nn.Sequential(module), nn.Flatten()))


def hooked(register, *hook) -> nn.Module:
    net = flatlib.nets.mlp((4, 3, 2))
    getattr(net[1], register)(*hook or (lambda *args: None,))
    return net


class Own(nn.ReLU):
    pass


def with_nothing() -> nn.Module:
    net = flatlib.nets.mlp((4, 3, 2))
    net.add_module("nothing", None)
    return net


def replaced(name: str, kind=nn.Linear, *sizes) -> nn.Module:
    layer = kind(*(sizes or (4, 3)))
    setattr(layer, name, getattr(layer, name))
    return nn.Sequential(layer)


UNKNOWN = {
    "all samples flattened": lambda: nn.Sequential(nn.Flatten(0), nn.Linear(4, 3)),
    "a softmax that may be over the batch": lambda: nn.Sequential(nn.Softmax(dim=0)),
    "a module of the user's own": lambda: nn.Sequential(nn.Linear(4, 3), Own()),
    "a forward that is replaced": lambda: replaced("forward"),
    "a convolution that is replaced": lambda: replaced("_conv_forward", nn.Conv1d, 4, 3, 2),
    "dropout in training mode": lambda: nn.Sequential(nn.Dropout()),
    "batch statistics in training mode": lambda: nn.Sequential(nn.BatchNorm1d(4)),
    "no statistics but the batch's": lambda: nn.Sequential(
        nn.BatchNorm1d(4, track_running_stats=False)
    ).eval(),
    "a parametrization": lambda: nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    ),
    "a place that holds nothing": with_nothing,
    "a module that stands twice": lambda: nn.Sequential(*[nn.PReLU()] * 2),
    "no sequence": lambda: nn.Linear(4, 3),
    "attention": lambda: nn.Sequential(nn.TransformerEncoderLayer(4, 2)),
    **{
        register: partial(hooked, register)
        for register in (
            *("register_forward_hook", "register_forward_pre_hook"),
            *("register_full_backward_hook", "register_full_backward_pre_hook"),
        )
    },
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_of_all_else_it_is_not_known(what):
    assert not is_plain_sequence(UNKNOWN[what]())


def test_a_hook_of_all_modules_may_mix_samples_too():
    net, x = flatlib.nets.mlp((4, 3, 2)), gaussian(5, 4)
    assert is_plain_sequence(net)
    register = nn.modules.module.register_module_forward_hook
    handle = register(
        lambda module, args, output: output.roll(1, 0) if isinstance(module, nn.Tanh) else output
    )
    try:
        assert not is_plain_sequence(net)
        with pytest.raises(ValueError, match="samples influence each other"):
            flatlib.measure(net, x)
    finally:
        handle.remove()
    assert is_plain_sequence(net)


def test_a_hook_that_mixes_the_rows_of_a_sequence_is_still_found():
    net = flatlib.nets.mlp((4, 3, 2))
    net[2].register_forward_hook(lambda module, args, output: output.roll(1, dims=0))
    with pytest.raises(ValueError, match="samples influence each other"):
        flatlib.measure(net, gaussian(9, 4))


KIND = st.sampled_from(["linear", "conv", "pool", "norm", "relu", "tanh", "prelu"])


def layers_of(kind: str, shape: torch.Size) -> list[nn.Module]:
    """What follows upon samples of this shape; nothing where images have become vectors."""
    image = len(shape) > 1
    if kind == "linear":
        return [nn.Flatten(), nn.Linear(shape.numel(), 4)]
    if kind == "norm":
        return [(nn.BatchNorm2d if image else nn.BatchNorm1d)(shape[0])]
    if kind in ("relu", "tanh", "prelu"):
        return [{"relu": nn.ReLU, "tanh": nn.Tanh, "prelu": nn.PReLU}[kind]()]
    if not image or shape[-1] == 1:
        return []
    return [nn.MaxPool2d(2) if kind == "pool" else nn.Conv2d(shape[0], 3, 2, padding=1)]


def drawn(kinds: list[str], seed: int) -> nn.Sequential:
    """A sequence for images ``(2, 6, 6)``, which its first linear layer flattens."""
    torch.manual_seed(seed)
    net = nn.Sequential().eval()
    for kind in [*kinds, "linear"]:
        net.extend(layers_of(kind, net(torch.zeros(1, 2, 6, 6))[0].shape)).eval()
    return net


@settings(max_examples=40, deadline=None)
@given(st.lists(KIND, max_size=6), st.integers(1, 20), st.integers(0, 99))
def test_drawn_sequences_measure_as_if_all_were_tried_out(kinds, n, seed):
    net, x = drawn(kinds, seed), gaussian(n, 2, 6, 6, seed=seed)
    assert is_plain_sequence(net)
    found = flatlib.measure(net, x)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(float64, "is_plain_sequence", lambda net: False)
        tried_out = flatlib.measure(net, x)
    assert found == tried_out


def test_no_pass_is_taken_to_find_out_what_is_known(monkeypatch):
    def refuse(*args):
        raise AssertionError("tried out")

    for name in ("weighted_pass", "find_rows"):
        monkeypatch.setattr(passes, name, refuse)
    flatlib.measure(flatlib.nets.mlp((4, 3, 2)), gaussian(20, 4))
    with pytest.raises(AssertionError, match="tried out"):
        flatlib.measure(nn.Sequential(nn.Linear(4, 3), Own()), gaussian(20, 4))
