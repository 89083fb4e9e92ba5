"""What is measured is a private float64 copy: the network itself is only read."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from compare import assert_matches_oracle
from inputs import gaussian
from torch import Tensor, nn

import flatlib


class Watched(nn.Module):
    """A network that notes every run, and every thread that ran it."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.convolution, self.norm = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)
            self.dense = nn.utils.parametrizations.weight_norm(nn.Linear(48, 4))
        self.norm.requires_grad_(False)
        self.runs = 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return self.dense(self.norm(self.convolution(x)).tanh().flatten(1))


def test_two_threads_measure_while_a_third_runs_inference():
    net, x, y = Watched().eval(), gaussian(5, 1, 6, 6), gaussian(5, 4)
    with torch.no_grad():
        answer = net(x)
    alone = flatlib.measure(net, x)
    trace = flatlib.hessian_trace(net, x, y, "hutchinson", max_probes=8)
    runs, done, wrong = net.runs, threading.Event(), []

    def infer() -> int:
        n = 0
        while not done.is_set() or n < 5:
            with torch.no_grad():
                found = net(x)
            torch.rand(3)  # somebody else's random numbers
            if found.dtype != torch.float32 or not torch.equal(found, answer):
                wrong.append(found)
            n += 1
        return n

    with ThreadPoolExecutor(3) as pool:
        inference = pool.submit(infer)
        measuring = [pool.submit(lambda: [flatlib.measure(net, x) for _ in range(4)])]
        measuring.append(
            pool.submit(
                lambda: [
                    (
                        flatlib.measure(net, x),
                        flatlib.hessian_trace(net, x, y, "hutchinson", max_probes=8),
                    )
                    for _ in range(4)
                ]
            )
        )
        try:
            found = measuring[0].result()
            pairs = measuring[1].result()
        finally:
            done.set()
        n = inference.result()
    assert not wrong and net.runs == runs + n
    for m in [*found, *(m for m, _ in pairs)]:
        assert m.sharpness == alone.sharpness
        assert torch.equal(m.singular_values, alone.singular_values)
    assert all(one == trace for _, one in pairs)


def test_the_network_is_not_run_nor_hooked(monkeypatch):
    """Not even for a moment: the user's modules are never called, and never given a hook."""
    net, x = Watched().eval(), gaussian(3, 1, 6, 6)
    own = {id(module) for module in net.modules()}
    touched = []
    for name in ("__call__", "register_forward_hook", "register_forward_pre_hook", "__setattr__"):
        plain = getattr(nn.Module, name)

        def watched(module, *args, plain=plain, name=name, **options):
            if id(module) in own:
                touched.append(name)
            return plain(module, *args, **options)

        monkeypatch.setattr(nn.Module, name, watched)
    flatlib.measure(net, x)
    flatlib.derivatives.parameter_jacobian(net, x)
    flatlib.hessian_trace(net, x, gaussian(3, 4), "hutchinson", max_probes=8)
    assert not touched and net.runs == 0
    net(x)
    assert touched


class Holds(nn.Module):
    def __init__(self, held):
        super().__init__()
        self.layer, self.held = nn.Linear(3, 2), held

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


@pytest.mark.parametrize("held", [threading.Lock(), (n for n in range(3)), {"a": threading.Lock()}])
def test_what_cannot_be_copied_is_named(held):
    with pytest.raises(ValueError, match="'0.held' cannot be copied.*private copy.*delete it"):
        flatlib.measure(nn.Sequential(Holds(held)), gaussian(4, 3))


def test_what_was_computed_is_copied_as_numbers():
    net, x = Holds(None), gaussian(4, 3)
    net.held = [{"last": net(x)}, (net.layer.weight * 2,)]  # activations, as hooks keep them
    assert_matches_oracle(without(net), x)
    expected = flatlib.measure(without(net), x)
    assert flatlib.measure(net, x).sharpness == expected.sharpness
    assert net.held[0]["last"].grad_fn is not None


def without(net: Holds) -> Holds:
    bare = Holds(None)
    bare.load_state_dict(net.state_dict())
    return bare


def test_a_copy_that_is_none():
    class Selfish(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x):
            return self.layer(x)

        def __deepcopy__(self, memo):
            return self

    with pytest.raises(ValueError, match="still shares 'layer.weight'.*__deepcopy__"):
        flatlib.measure(Selfish(), gaussian(4, 3))


def test_a_copy_of_the_users_own_making():
    class Own(Holds):
        def __deepcopy__(self, memo):
            return Own(None).half() if self.held is None else without(self)

    net = Own("something")
    assert_matches_oracle(without(net), gaussian(4, 3))
    assert (
        flatlib.measure(net, gaussian(4, 3)).sharpness
        == flatlib.measure(without(net), gaussian(4, 3)).sharpness
    )


def test_scripted_modules_are_named():
    scripted = torch.jit.trace(nn.Linear(3, 3), torch.ones(1, 3))
    net = nn.Sequential(nn.Linear(3, 3), scripted, nn.Linear(3, 2))
    with pytest.raises(ValueError, match="layer '1' is scripted.*pass the module"):
        flatlib.measure(net, gaussian(4, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_function_that_runs_the_network_itself_is_refused(dtype, frozen):
    """Its copy would run the original, whose parameters nobody measures."""
    net = Holds(None).requires_grad_(not frozen).to(dtype)
    outer = nn.Sequential(nn.Linear(3, 3), net)
    outer[0].register_forward_hook(lambda module, args, out: out + net.layer(out.to(dtype)).sum())
    with pytest.raises(ValueError, match="reads '1.layer.weight' of the network itself.*method"):
        flatlib.measure(outer, gaussian(4, 3))


def test_methods_that_are_set_on_the_network_run_on_the_copy():
    net, x = Holds(None), gaussian(4, 3)
    before = flatlib.measure(net, x)

    def forward(self, x):
        return 3 * self.layer(x)

    net.forward = forward.__get__(net)
    assert flatlib.measure(net, x).sharpness == pytest.approx(9 * before.sharpness, rel=1e-12)


# --- float64 throughout ------------------------------------------------------------------------


class RMSNorm(nn.Module):
    """As language models have it: in float32, whatever comes in."""

    def __init__(self, cast):
        super().__init__()
        self.cast = cast

    def forward(self, x: Tensor) -> Tensor:
        low = self.cast(x)
        return (low * (low.square().mean(dim=1, keepdim=True) + 1e-6).rsqrt()).to(x.dtype)


CASTS = {
    "float": lambda x: x.float(),
    "half": lambda x: x.half(),
    "to": lambda x: x.to(torch.float32),
    "to by name": lambda x: x.to(dtype=torch.bfloat16),
    "type": lambda x: x.type(torch.float32),
    "a sum": lambda x: x + x.sum(dim=1, keepdim=True, dtype=torch.float32),
    "default": lambda x: x * torch.full((1,), 1 / 3) + torch.linspace(0, 1, 3) + torch.zeros(3),
    "default list": lambda x: x * torch.tensor([0.1, 0.2, 0.3]),
}


@pytest.mark.parametrize("name", CASTS)
def test_casts_on_the_way_are_made_in_float64(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 3), RMSNorm(CASTS[name]), nn.Linear(3, 2))
    x = gaussian(5, 4)

    exact = {  # the same without a cast, for plain autograd
        "a sum": lambda x: x + x.sum(dim=1, keepdim=True),
        "default": lambda x: x * (1 / 3) + torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64),
        "default list": lambda x: x * torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64),
    }.get(name, lambda x: x)
    twin = copy.deepcopy(net)
    twin[1].cast = exact
    slow = assert_matches_oracle(twin, x)
    found = flatlib.measure(net, x)
    assert found.sharpness == pytest.approx(slow.sharpness, rel=1e-13)
    torch.testing.assert_close(found.singular_values, slow.singular_values, rtol=1e-12, atol=0)


def test_a_first_state_in_the_default_precision():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.last = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x):
            state = torch.zeros(1, len(x), 4)
            return self.last(self.lstm(x, (state, state.clone()))[0][:, -1])

    net, x = Recurrent(), gaussian(3, 5, 3)
    found = flatlib.measure(net, x)
    K = flatlib.derivatives.parameter_jacobian(net, x)
    assert found.sharpness == pytest.approx(float(K.square().sum() / 3), rel=1e-12)


def test_the_default_precision_of_other_threads_is_left_alone():
    seen = []

    class Looks(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x):
            thread = threading.Thread(target=lambda: seen.append(torch.zeros(1).dtype))
            thread.start()
            thread.join()
            return self.layer(x) + torch.zeros(1)

    flatlib.measure(Looks(), gaussian(2, 3))
    assert set(seen) == {torch.float32}


def test_the_bits_of_a_number_can_still_be_read():
    class Bits(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x):
            shift = torch.tensor([1065353216], dtype=torch.int32).view(torch.float32)  # 1.0
            return self.layer(x) * shift

    net, x = Bits(), gaussian(2, 3)
    assert flatlib.measure(net, x).sharpness == flatlib.measure(net.layer, x).sharpness
