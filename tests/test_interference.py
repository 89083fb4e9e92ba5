"""What somebody else has a hand in: hooks on all modules, functions and classes that are replaced,
parameters of another class, compiled modules, attributes that were changed later.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from inputs import gaussian
from test_mixed_rows import plain_sharpness
from torch import Tensor, nn
from torch.nn.modules import module as of_all_modules

import flatlib
from flatlib.gap import lemma_gap
from flatlib.sharpness import sharpness_gap


def mlp() -> nn.Sequential:
    return flatlib.nets.mlp((4, 5, 3))


def test_a_hook_on_all_modules_that_changes_what_a_layer_returns_is_refused():
    def twice(module, args, output):
        return 2 * output if isinstance(module, nn.Linear) else None

    def in_place(module, args, output):
        if isinstance(module, nn.Linear):
            output.mul_(2)

    for hook in (twice, in_place):
        handle = of_all_modules.register_module_forward_hook(hook)
        try:
            with pytest.raises(ValueError, match="'linear1' returns something else than its own"):
                flatlib.measure(mlp(), gaussian(5, 4))
        finally:
            handle.remove()


def test_a_hook_on_all_modules_that_looks_is_let_look():
    seen = []
    handle = of_all_modules.register_module_forward_hook(lambda *args: seen.append(args[0]))
    try:
        found = flatlib.measure(mlp(), gaussian(5, 4))
    finally:
        handle.remove()
    assert seen and found == flatlib.measure(mlp(), gaussian(5, 4))


@pytest.mark.parametrize(
    "register", ["register_module_full_backward_hook", "register_module_full_backward_pre_hook"]
)
@pytest.mark.parametrize("method", ["exact", "matrix-free"])
def test_hooks_on_the_gradients_of_all_modules_are_refused(register, method):
    handle = getattr(of_all_modules, register)(lambda *args: None)
    try:
        with pytest.raises(ValueError, match="hook on the gradients of all modules"):
            flatlib.measure(mlp(), gaussian(5, 4), method=method)
    finally:
        handle.remove()


def test_a_class_whose_forward_is_replaced_is_no_longer_known(monkeypatch):
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3), nn.Identity())
    monkeypatch.setattr(nn.Identity, "forward", lambda self, x: x - x.mean())
    with pytest.raises(ValueError, match="samples influence each other"):
        flatlib.measure(net, gaussian(9, 4))


def convolutional() -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(2, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(9, 2))


def test_a_replaced_function_that_changes_what_a_layer_returns_is_refused(monkeypatch):
    plain = F.linear
    monkeypatch.setattr(F, "linear", lambda *args: 2 * plain(*args))
    with pytest.raises(ValueError, match="'3' returns something else than its own forward"):
        flatlib.measure(convolutional(), gaussian(5, 2, 4))


def test_a_layer_whose_forward_takes_another_weight_is_none(monkeypatch):
    plain = nn.Conv1d._conv_forward
    monkeypatch.setattr(nn.Conv1d, "_conv_forward", lambda self, x, W, b: plain(self, x, 2 * W, b))
    net, x = convolutional(), gaussian(5, 2, 4)
    m = flatlib.measure(net, x)
    assert [layer.name for layer in m.layers] == ["3"]
    assert m.sharpness == pytest.approx(plain_sharpness(net, x), rel=1e-9)


class Doubled(nn.Parameter):
    """A parameter that a linear map takes twice."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is F.linear:
            args = (args[0], 2 * args[1].as_subclass(Tensor), *args[2:])
        return super().__torch_function__(function, types, args, kwargs)


def test_a_weight_of_another_class_is_no_layers():
    net, x = mlp(), gaussian(5, 4)
    net.linear1.weight = Doubled(net.linear1.weight.detach())
    expected = plain_sharpness(net, x)
    m = flatlib.measure(net, x)
    assert [layer.name for layer in m.layers] == ["linear2"]
    assert m.sharpness == pytest.approx(expected, rel=1e-9)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", ["whole", "first layer", "inside"])
def test_compiled_modules_are_measured_as_they_were_written(what):
    net, x = mlp(), gaussian(5, 4)
    expected = flatlib.measure(net, x)
    if what == "whole":
        compiled = torch.compile(net)
    elif what == "first layer":
        compiled = nn.Sequential(*net)
        compiled[1] = torch.compile(net.linear1)
    else:
        compiled = nn.Sequential(nn.Identity(), torch.compile(net))
    m = flatlib.measure(compiled, x)
    torch.testing.assert_close(m.singular_values, expected.singular_values, rtol=1e-12, atol=0)
    assert m.sharpness == pytest.approx(expected.sharpness, rel=1e-12)
    assert [layer.weight_norm for layer in m.layers] == [
        pytest.approx(layer.weight_norm, rel=1e-12) for layer in expected.layers
    ]


@pytest.mark.parametrize("shape", [(1,), (), (3, 5), (1, 5)])
def test_a_bias_that_is_not_one_number_a_channel_counts_right(shape):
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Flatten(), nn.Linear(15, 3))
    net[0].bias = nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    x = gaussian(6, 3, 4)
    m = flatlib.measure(net, x)
    assert m.sharpness == pytest.approx(plain_sharpness(net, x), rel=1e-9)
    assert "0.bias" in m.other_parameters


@pytest.mark.parametrize(
    "made, x",
    [
        (lambda: nn.Conv2d(1, 2, 4, stride=4, padding=(1,)), (3, 1, 8, 8)),
        (lambda: nn.Conv2d(1, 2, 2, stride=(2,)), (3, 1, 6, 6)),
        (lambda: nn.Conv2d(1, 2, 2, dilation=(2,), padding=(1,)), (3, 1, 5, 5)),
        (lambda: nn.ConvTranspose2d(1, 2, 2, stride=(2,)), (3, 1, 3, 3)),
    ],
)
def test_one_number_in_a_tuple_is_for_all_axes(made, x):
    net, x = nn.Sequential(made(), nn.Tanh(), nn.Flatten()), gaussian(*x)
    net.append(nn.Linear(net(x).shape[1], 2))
    m = flatlib.measure(net, x)
    assert m.sharpness == pytest.approx(plain_sharpness(net, x), rel=1e-9)


@pytest.mark.parametrize("mode", ["circular", "reflect", "replicate", "zeros"])
def test_a_padding_that_was_changed_later_is_the_one_that_the_forward_takes(mode):
    conv = nn.Conv2d(2, 4, 4, stride=4, padding=1, padding_mode=mode)
    conv.padding = (0, 0)
    x = gaussian(3, 2, 10, 10)
    net = nn.Sequential(conv, nn.Tanh(), nn.Flatten())
    net.append(nn.Linear(net(x).shape[1], 2))
    m = flatlib.measure(net, x)
    assert m.sharpness == pytest.approx(plain_sharpness(net, x), rel=1e-9)
    windows = F.pad(x.double(), (1,) * 4, mode=mode) if mode != "zeros" else x.double()
    smallest = F.unfold(windows, 4, stride=4).norm(dim=1).amin(dim=1)
    torch.testing.assert_close(m.layers[0].smallest_patch_norm, smallest, rtol=1e-12, atol=0)


def bent(net: nn.Sequential, how: str):
    if how == "an activation's forward":
        net[1].forward = lambda x: torch.tanh(x) * x
    else:
        return of_all_modules.register_module_forward_hook(
            lambda module, args, output: output**2 if isinstance(module, nn.ReLU) else None
        )


@pytest.mark.parametrize("how", ["an activation's forward", "a hook on all modules"])
def test_the_gap_of_a_chain_that_bends_otherwise_is_not_taken_for_0(how):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x, y = gaussian(4, 3), gaussian(4, 2, seed=1)
    handle = bent(net, how)
    try:
        found, right = lemma_gap(net, x, y), sharpness_gap(net, x, y)
    finally:
        if handle is not None:
            handle.remove()
    assert found == right != 0


class Alias(nn.Module):
    """A parameter that is read by another name for samples of one kind alone."""

    def __init__(self):
        super().__init__()
        self.layer, self.w = nn.Linear(3, 2), nn.Parameter(torch.tensor([0.3, 0.7, 1.1]))
        self.alias = [self.w]

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.where(x[:, :1] > 0, x * self.w.sin(), x * self.alias[0].cos()))


@pytest.mark.parametrize("which", [0, 4, 8])
def test_gradients_by_vmap_are_held_against_those_of_every_sample(which):
    net, x = Alias(), gaussian(9, 3)
    x[:, 0] = x[:, 0].abs()
    x[which, 0] *= -1
    assert flatlib.measure(net, x).sharpness == pytest.approx(plain_sharpness(net, x), rel=1e-9)


def test_a_module_in_two_places_whose_parameter_goes_by_vmap_counts_right():
    torch.manual_seed(0)
    shared = nn.PReLU(4)
    net = nn.Sequential(nn.Linear(5, 4), shared, nn.Linear(4, 4), shared, nn.Linear(4, 2))
    x = gaussian(6, 5)
    m = flatlib.measure(net, x)
    assert m.other_parameters == {"1.weight": "vmap"}
    assert m.sharpness == pytest.approx(plain_sharpness(net, x), rel=1e-9)
