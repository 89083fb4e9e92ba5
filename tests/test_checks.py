"""What bad input gets: an error that names the fault and the remedy, and a network left alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from compare import assert_matches_oracle
from inputs import gaussian
from torch import Tensor, nn

import flatlib
from flatlib.checks import all_finite, first_not_finite


def mlp() -> nn.Module:
    return flatlib.nets.mlp((3, 4, 2))


def batch(n: int = 4) -> Tensor:
    return torch.linspace(-1, 2, 3 * n).reshape(n, 3)


def with_value(value: float, sample: int = 2) -> Tensor:
    x = batch()
    x[sample, 1] = value
    return x


def snapshot(net: nn.Module) -> list:
    return [
        torch.get_rng_state().tolist(),
        [(name, p.detach().clone(), p.grad, p.requires_grad) for name, p in net.named_parameters()],
        [(name, b.clone()) for name, b in net.named_buffers()],
        [(m.training, list(m._forward_hooks), list(m._forward_pre_hooks)) for m in net.modules()],
    ]


def expect_refusal(
    error: type[Exception], message: str, net: nn.Module, x: Tensor, **options
) -> None:
    """`measure` raises ``error`` matching ``message`` and changes neither net nor input."""
    before = snapshot(net)
    comparable = isinstance(x, Tensor) and x.device.type == "cpu" and not x.is_sparse
    kept = x.clone() if comparable else None
    with pytest.raises(error, match=message):
        flatlib.measure(net, x, **options)
    after = snapshot(net)
    assert after[0] == before[0] and after[3] == before[3]
    for was, now in zip(before[1] + before[2], after[1] + after[2], strict=True):
        assert was[0] == now[0] and was[2:] == now[2:]
        if was[1].device.type == "cpu":
            assert torch.equal(was[1].nan_to_num(), now[1].nan_to_num())
    if comparable:
        assert torch.equal(kept.nan_to_num(), x.nan_to_num())


# --- the input ---------------------------------------------------------------------------------


def test_an_empty_batch():
    expect_refusal(ValueError, r"\(0, 3\).*batch is empty; pass n >= 1", mlp(), batch()[:0])


def test_a_missing_batch_axis():
    expect_refusal(ValueError, r"\(3,\).*no batch axis.*x.unsqueeze\(0\)", mlp(), batch()[0])
    expect_refusal(ValueError, "no batch axis", mlp(), torch.tensor(1.0))


def test_a_missing_batch_axis_before_a_convolution():
    net = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Flatten())
    expect_refusal(
        ValueError,
        r"'0' \(Conv2d\).*\(\d, 4, 4\) without a batch axis.*\(n, \*input_shape\)",
        net,
        torch.ones(2, 4, 4),
    )
    expect_refusal(
        ValueError,
        r"'0' \(Conv1d\).*without a batch axis",
        nn.Sequential(nn.Conv1d(2, 3, 2), nn.Flatten()),
        torch.ones(2, 4),
    )


def test_samples_without_numbers():
    expect_refusal(ValueError, r"\(4, 0\).*hold no numbers", mlp(), torch.ones(4, 0))


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_integers(dtype):
    expect_refusal(TypeError, rf"integers \({dtype}\), along which", mlp(), batch().to(dtype))


def test_complex_numbers():
    expect_refusal(TypeError, "complex.*real", mlp(), batch().to(torch.complex64))


@pytest.mark.parametrize(
    "x, remedy",
    [
        (None, r"pass the inputs as \(n, "),
        ("x", "pass the inputs"),
        (batch().numpy(), "use torch.as_tensor"),
        (3.0, "pass the inputs"),
    ],
)
def test_data_that_is_no_tensor(x, remedy):
    expect_refusal(
        TypeError,
        f"data must be a torch.Tensor or an iterable of batches, got {type(x).__name__}; {remedy}",
        mlp(),
        x,
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_input_that_is_not_finite_names_the_sample(value):
    expect_refusal(
        ValueError, "sample 2 of x holds NaN or infinite.*clean the input", mlp(), with_value(value)
    )


def test_infinities_of_both_signs_are_found():
    x = with_value(math.inf)
    x[3, 0] = -math.inf
    expect_refusal(ValueError, "sample 2 of x", mlp(), x)


def test_an_input_that_the_network_cannot_read():
    expect_refusal(
        ValueError,
        r"forward fails.*shapes cannot be multiplied.*samples of shape \(5,\)",
        mlp(),
        torch.ones(4, 5),
    )


def test_an_input_on_another_device():
    expect_refusal(
        ValueError,
        r"x is on meta and parameter 'linear1.weight' on cpu; move.*x.to\('cpu'\)",
        mlp(),
        torch.empty(4, 3, device="meta"),
    )


def test_a_network_on_another_device():
    net = mlp().to("meta")
    with pytest.raises(ValueError, match="on cpu and parameter 'linear1.weight' on meta"):
        flatlib.measure(net, batch())


def test_a_sparse_input():
    expect_refusal(TypeError, "sparse.*to_dense", mlp(), batch().to_sparse())
    nested = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3)])
    with pytest.raises(TypeError, match="nested or masked tensor; pass a plain one"):
        flatlib.measure(mlp(), nested)


@pytest.mark.parametrize("max_memory", [0, -5])
def test_a_memory_limit_below_one_byte(max_memory):
    expect_refusal(
        ValueError,
        f"max_memory must be at least 1 byte, got {max_memory}",
        mlp(),
        batch(),
        max_memory=max_memory,
    )


@pytest.mark.parametrize("limit", [math.nan, -math.inf])
def test_a_memory_limit_that_is_no_number(limit):
    expect_refusal(
        ValueError, "max_memory must be at least 1 byte", mlp(), batch(), max_memory=limit
    )


NO_NUMBERS = {
    "max_memory must be a number, got '1GB'": lambda n, x, y: flatlib.measure(
        n, x, max_memory="1GB"
    ),
    "max_memory must be a number, got True": lambda n, x, y: flatlib.measure(n, x, max_memory=True),
    "max_memory must be a number, got 'all'": lambda n, x, y: flatlib.derivatives.input_jacobian(
        n, x, max_memory="all"
    ),
    "probes must be a whole number, got 2.5": lambda n, x, y: flatlib.measure(
        n, x, method="matrix-free", probes=2.5
    ),
    "tolerance must be a number, got 'tight'": lambda n, x, y: flatlib.measure(
        n, x, method="matrix-free", tolerance="tight"
    ),
    "seed must be a whole number, got 'mine'": lambda n, x, y: flatlib.hessian_trace(
        n, x, y, "hutchinson", seed="mine"
    ),
    "max_probes must be a whole number, got '9'": lambda n, x, y: flatlib.hessian_trace(
        n, x, y, "hutchinson", max_probes="9"
    ),
    "n_draws must be a whole number, got 9.5": lambda n, x, y: (
        flatlib.comparisons.adaptive_sharpness_by_noise(n, x, y, n_draws=9.5)
    ),
    "tolerance must be a number, got \\[1\\]": lambda n, x, y: (
        flatlib.comparisons.largest_hessian_eigenvalue(n, x, y, tolerance=[1])
    ),
}


@pytest.mark.parametrize("message", NO_NUMBERS)
def test_an_option_that_is_no_number(message):
    with pytest.raises(TypeError, match=f"^{message}"):
        NO_NUMBERS[message](flatlib.nets.linear(3, 2), gaussian(2, 3), gaussian(2, 2))


def eigenvalue(**options):
    return lambda n, x, y: flatlib.comparisons.largest_hessian_eigenvalue(n, x, y, **options)


def noise(**options):
    return lambda n, x, y: flatlib.comparisons.adaptive_sharpness_by_noise(n, x, y, **options)


SEEDED = {
    "eigenvalue": eigenvalue,
    "noise": noise,
    "trace": lambda seed: lambda n, x, y: flatlib.hessian_trace(n, x, y, "hutchinson", seed=seed),
    "matrix-free": lambda seed: (
        lambda n, x, y: flatlib.measure(n, x, method="matrix-free", seed=seed)
    ),
}


@pytest.mark.parametrize("door", SEEDED)
def test_a_seed_out_of_range_is_named(door):
    arguments = (mlp(), batch(), torch.zeros(4, 2))
    for seed in (-1, 2**63):
        with pytest.raises(
            ValueError, match=rf"seed must lie between 0 and 2\*\*63 - 1, got {seed}"
        ):
            SEEDED[door](seed=seed)(*arguments)
    SEEDED[door](seed=2**63 - 1)(*arguments)


@pytest.mark.parametrize(
    "measured, error, message",
    [
        (eigenvalue(max_products=0), ValueError, "max_products must be at least 1, got 0"),
        (eigenvalue(max_products=-5), ValueError, "max_products must be at least 1, got -5"),
        (eigenvalue(max_products=None), TypeError, "max_products must be a whole number, got None"),
        (eigenvalue(tolerance=None), TypeError, "tolerance must be a number, got None"),
        (eigenvalue(seed=None), TypeError, "seed must be a whole number, got None"),
        (noise(n_draws=None), TypeError, "n_draws must be a whole number, got None"),
        (noise(rho=None), TypeError, "rho must be a number, got None"),
        (noise(seed=None), TypeError, "seed must be a whole number, got None"),
    ],
)
def test_an_option_of_a_comparison_out_of_range_is_named(measured, error, message):
    with pytest.raises(error, match=message):
        measured(mlp(), batch(), torch.zeros(4, 2))


@pytest.mark.parametrize("limit", [np.int64(2**20), np.float64(2.0**20), 2**20])
def test_numbers_of_numpy_are_numbers(limit):
    assert flatlib.measure(flatlib.nets.linear(3, 2), gaussian(2, 3), max_memory=limit).n == 2


@pytest.mark.parametrize("function", ["evaluate", "chain", "relative_sharpness", "normalized_nmls"])
def test_bounds_of_what_is_no_measurement(function):
    net = flatlib.nets.linear(3, 2)
    rough = flatlib.measure(net, gaussian(2, 3), method="matrix-free", probes=2)
    for given, named in ((net, "Sequential"), (rough, "MatrixFreeMeasurement"), (None, "NoneType")):
        with pytest.raises(TypeError, match=f"must be a Measurement, got {named}; pass flatlib.m"):
            getattr(flatlib.bounds, function)(given)


# --- the network -------------------------------------------------------------------------------


def test_the_network_itself_is_not_called_a_layer_without_a_name():
    norm = nn.BatchNorm1d(3)
    expect_refusal(ValueError, r"^the network itself \(BatchNorm1d\) is in train", norm, batch())
    linear = nn.Linear(3, 2)
    linear.weight.data[0, 0] = math.nan
    expect_refusal(ValueError, "^'weight' of the network itself holds NaN", linear, batch())


def test_what_is_no_module():
    for net in (lambda x: x, None, nn.Linear):
        with pytest.raises(TypeError, match="net must be a torch.nn.Module, got"):
            flatlib.measure(net, batch())


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(3), nn.Dropout(0.5), nn.AlphaDropout(0.1)])
def test_training_mode_names_the_layer(layer):
    net = nn.Sequential(layer, nn.Linear(3, 2)).train()
    name = type(layer).__name__
    expect_refusal(ValueError, rf"'0' \({name}\) is in training mode.*net.eval\(\)", net, batch())


def test_training_mode_without_effect_is_fine():
    net = nn.Sequential(nn.Dropout(0.0), nn.Linear(3, 2)).train()
    assert flatlib.measure(net, batch()).n == 4 and net.training


def test_batch_norm_without_running_statistics():
    net = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False), nn.Linear(3, 2)).eval()
    expect_refusal(ValueError, "influence each other.*sample", net, batch())


class Centred(nn.Module):
    def __init__(self, axis: int = 0):
        super().__init__()
        self.linear, self.axis = nn.Linear(3, 2), axis

    def forward(self, x):
        return self.linear(x - x.mean(self.axis, keepdim=True))


@pytest.mark.parametrize("n", [1, 2, 3, 50])
def test_samples_that_influence_each_other(n):
    expect_refusal(ValueError, "samples influence each other.*sample", Centred(), batch(n))


def test_samples_that_influence_each_other_in_small_parts():
    with pytest.raises(ValueError, match="influence each other"):
        flatlib.measure(Centred(), batch().split(1))


def test_samples_that_influence_each_other_only_forwards():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, x):
            return self.linear(x.cumsum(0))

    expect_refusal(ValueError, "influence each other", Shifted(), batch())


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0, -2.0, 1e6])
@pytest.mark.parametrize("n", [1, 3])
def test_samples_that_influence_each_other_and_are_all_equal(value, n):
    expect_refusal(ValueError, "influence each other", Centred(), torch.full((n, 3), value))


def test_a_mean_over_the_sample_itself_is_fine():
    assert flatlib.measure(Centred(1), batch()).n == 4


class Random(nn.Module):
    def __init__(self, draw):
        super().__init__()
        self.linear, self.draw = nn.Linear(3, 2), draw

    def forward(self, x):
        return self.draw(self.linear(x))


@pytest.mark.parametrize(
    "draw",
    [
        lambda h: nn.functional.dropout(h, 0.5),
        lambda h: h + torch.randn_like(h),
        lambda h: h * torch.rand(()),
        lambda h: h + 1e-4 * torch.randn(1, 2),
        lambda h: nn.functional.dropout(h, 1e-6),  # hardly ever differs
    ],
)
def test_a_network_that_is_not_deterministic(draw):
    expect_refusal(ValueError, "not deterministic.*net.eval", Random(draw), batch(40))


def test_spectral_norm_in_training_mode_moves_its_buffers():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        wide = nn.utils.parametrizations.spectral_norm(nn.Linear(40, 40))
        net = nn.Sequential(nn.Linear(3, 40), wide).train()
    expect_refusal(ValueError, "not deterministic", net, batch())


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Flatten(), nn.Tanh()),
        nn.LayerNorm(3),
        nn.Bilinear(3, 3, 2),
        nn.Identity(),
    ],
)
def test_a_network_without_a_linear_or_convolutional_layer(net):
    expect_refusal(
        ValueError, f"{type(net).__name__} has no linear or convolutional layer", net, batch()
    )


def test_a_network_that_calls_no_layer():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, x):
            return x * 2

    expect_refusal(ValueError, "no linear or convolutional layer is called", Idle(), batch())


def test_a_network_whose_layers_have_rows_of_no_sample():
    class Upside(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x):
            return x * self.linear(torch.ones(4)).sum()

    expect_refusal(
        ValueError, r"rows of no layer are the samples \(of 'linear'\)", Upside(), batch()
    )


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["weight", "bias"])
def test_weights_that_are_not_finite_name_the_layer(value, name):
    net = mlp()
    getattr(net.linear2, name).data.view(-1)[1] = value
    expect_refusal(
        ValueError, rf"'{name}' of layer 'linear2' holds NaN or infinite.*diverged", net, batch()
    )


def test_buffers_that_are_not_finite_name_the_layer():
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).eval()
    net[1].running_var[0] = math.nan
    expect_refusal(ValueError, "'running_var' of layer '1' holds NaN", net, batch())


class Phases(nn.Module):
    """Its complex numbers are a parameter, or the remedy for one."""

    def __init__(self, remedied: bool):
        super().__init__()
        phases = torch.tensor([0.6 + 0.8j, 1j])
        self.real = remedied
        self.phases = nn.Parameter(torch.view_as_real(phases) if remedied else phases)
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        phases = torch.view_as_complex(self.phases) if self.real else self.phases
        h = torch.view_as_complex(torch.tanh(self.first(x)).unflatten(1, (2, 2)))
        return self.last(torch.view_as_real(h * phases).flatten(1))


def test_complex_weights():
    net = nn.Sequential(nn.Linear(3, 2, dtype=torch.complex64))
    expect_refusal(TypeError, "'0.weight' is complex.*view_as_real", net, batch())
    expect_refusal(TypeError, "'phases' is complex.*view_as_real", Phases(False), batch())
    assert_matches_oracle(Phases(True), batch())


def test_complex_buffers_that_are_not_finite_name_the_layer():
    net = Phases(True)
    net.register_buffer("noise", torch.tensor([1 + math.nan * 1j]))
    expect_refusal(ValueError, "'noise' of the network itself holds NaN", net, batch())


def test_a_lazy_layer_that_has_seen_nothing():
    net = nn.Sequential(nn.LazyLinear(2))
    with pytest.raises(ValueError, match="'0.weight' is not initialized; run the network once"):
        flatlib.measure(net, batch())


# --- the output --------------------------------------------------------------------------------


class Returns(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.linear, self.change = nn.Linear(3, 2), change

    def forward(self, x):
        return self.change(self.linear(x))


@pytest.mark.parametrize(
    "change, error, message",
    [
        (lambda h: (h, h), TypeError, "returned tuple; wrap it"),
        (lambda h: {"logits": h}, TypeError, "returned dict; wrap it"),
        (lambda h: h.argmax(1), TypeError, "returned torch.int64.*real"),
        (lambda h: torch.complex(h, h), TypeError, "returned torch.complex128.*real"),
        (
            lambda h: torch.from_numpy(h.detach().numpy().astype("f")),
            ValueError,
            "returned torch.float32 for float64.*remove the cast",
        ),
        (lambda h: h.sum(), ValueError, r"returned shape \(\) for \d+ samples.*batch"),
        (lambda h: h[:1], ValueError, r"returned shape \(1, 2\) for \d+ samples"),
        (lambda h: h.T, ValueError, r"returned shape \(2, \d+\) for \d+ samples"),
        (lambda h: h[:, :0], ValueError, "no outputs"),
        (lambda h: h.detach(), ValueError, "does not depend"),
    ],
)
def test_outputs_of_the_wrong_kind(change, error, message):
    expect_refusal(error, message, Returns(change), batch())


def test_a_constant_output_that_never_sees_the_layer():
    net = Returns(lambda h: torch.zeros(len(h), 2, dtype=torch.float64))
    expect_refusal(ValueError, "does not depend", net, batch())


@pytest.mark.parametrize("sample", [0, 1, 2, 3])
def test_an_output_that_overflows_names_sample_and_layer(sample):
    class Exploding(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.third = (nn.Linear(3, 3) for _ in range(3))
            for layer in self.children():
                nn.init.eye_(layer.weight)
                nn.init.zeros_(layer.bias)

        def forward(self, x):
            return self.third((self.second(self.first(x)) * 1000).exp())

    x = torch.zeros(4, 3)
    x[sample] = 1.0
    expect_refusal(
        ValueError,
        f"output for sample {sample} .*NaN or infinite.*read such.*'third'",
        Exploding(),
        x,
    )
    with pytest.raises(ValueError, match=f"output for sample {sample} "):
        flatlib.measure(Exploding(), x.split(1))


def test_a_gradient_that_overflows_names_the_sample():
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 2, bias=False)

        def forward(self, x):
            return self.linear(x).abs().sqrt()

    expect_refusal(
        ValueError,
        "gradient for sample 1 .*NaN or infinite.*square root or division at 0",
        Root(),
        torch.tensor([[1.0, 1, 1], [0, 0, 0]]),
    )


def test_a_parameter_gradient_that_is_infinite_names_the_sample():
    class RootOfParameter(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.raw = nn.Linear(3, 2), nn.Parameter(torch.zeros(()))

        def forward(self, x):
            return self.linear(x) + torch.sqrt(self.raw * (x[:, :1] > 1))

    expect_refusal(
        ValueError,
        "parameter gradients of sample 0 .*infinite.*square root or division at 0",
        RootOfParameter(),
        batch(),
    )


def test_a_layer_with_gradients_switched_off():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x):
            with torch.no_grad():
                h = self.first(x)
            return self.last(h)

    expect_refusal(ValueError, "'first' runs with gradients switched off.*no_grad", Half(), batch())


def test_an_activation_in_place_over_what_a_layer_read():
    class Overwrites(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            h = self.first(x)
            y = self.last(h)
            return y + h.relu_()

    expect_refusal(
        ValueError,
        "'last' read is overwritten in place.*replace the in-place",
        Overwrites(),
        batch(),
    )


def test_an_in_place_operation_that_no_gradient_survives():
    net = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.ReLU(inplace=True), nn.Linear(3, 2))
    expect_refusal(ValueError, "cannot be differentiated.*in-place.*out-of-place", net, batch())


def test_a_forward_that_keeps_float32_tensors_inside():
    weight = torch.ones(2, 3)

    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x):
            return self.linear(x) @ weight.T

    expect_refusal(
        ValueError, "forward fails with RuntimeError.*keep float32 tensors", Keeps(), batch()
    )


# --- targets -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "y, error, message",
    [
        (torch.zeros(4), ValueError, r"y has shape \(4,\) but.*\(4, 2\); one-hot"),
        (torch.zeros(3, 2), ValueError, r"y has shape \(3, 2\) but.*\(4, 2\)"),
        (torch.zeros(0), ValueError, r"y has shape \(0,\)"),
        (torch.tensor(1.0), ValueError, r"y has shape \(\)"),
        (torch.zeros(4, dtype=torch.long), TypeError, "floating-point targets, got torch.int64"),
        (torch.zeros(4, 2, dtype=torch.complex64), TypeError, "real floating-point"),
        ([[0.0, 0.0]] * 4, TypeError, "y must be a torch.Tensor, got list"),
        (torch.full((4, 2), math.nan), ValueError, "sample 0 of y holds NaN or infinite"),
        (torch.tensor([[0, 0], [0, 0], [0, math.inf], [0, 0]]), ValueError, "sample 2 of y"),
        (torch.zeros(4, 2, device="meta"), ValueError, "y is on meta"),
    ],
)
def test_targets_of_the_wrong_kind(y, error, message):
    for function in (flatlib.hessian_trace, flatlib.sharpness.sharpness_gap):
        with pytest.raises(error, match=message):
            function(mlp(), batch(), y)


def test_targets_of_a_single_output_need_no_axis():
    net = nn.Sequential(nn.Linear(3, 1))
    one = flatlib.hessian_trace(net, batch(), torch.zeros(4)).estimate
    assert one == flatlib.hessian_trace(net, batch(), torch.zeros(4, 1)).estimate


@pytest.mark.parametrize(
    "function",
    [
        flatlib.derivatives.input_jacobian,
        flatlib.derivatives.parameter_jacobian,
        flatlib.sharpness.adaptive_sharpness,
        lambda net, x: flatlib.hessian_trace(net, x, torch.zeros(4, 2)),
        lambda net, x: flatlib.sharpness.sharpness_gap(net, x, torch.zeros(4, 2)),
        flatlib.comparisons.iimls,
        lambda net, x: flatlib.comparisons.relative_flatness(net, x, torch.zeros(4, 2)),
        lambda net, x: flatlib.comparisons.adaptive_sharpness_by_noise(net, x, torch.zeros(4, 2)),
        lambda net, x: flatlib.comparisons.largest_hessian_eigenvalue(net, x, torch.zeros(4, 2)),
    ],
)
def test_the_other_doors_refuse_the_same(function):
    with pytest.raises(TypeError, match="integers"):
        function(mlp(), batch().long())
    with pytest.raises(ValueError, match="sample 2 of x"):
        function(mlp(), with_value(math.nan))
    with pytest.raises(TypeError, match="must be a torch.nn.Module"):
        function(lambda x: x, batch())
    with pytest.raises(ValueError, match="not deterministic"):
        function(Random(lambda h: nn.functional.dropout(h, 0.5)), batch())
    with pytest.raises(ValueError, match="influence each other"):
        function(Centred(), batch())


@pytest.mark.parametrize(
    "function",
    [
        flatlib.derivatives.parameter_jacobian,
        flatlib.sharpness.adaptive_sharpness,
        lambda net, x: flatlib.hessian_trace(net, x, torch.zeros(4, 2)),
        lambda net, x: flatlib.comparisons.adaptive_sharpness_by_noise(net, x, torch.zeros(4, 2)),
        lambda net, x: flatlib.comparisons.largest_hessian_eigenvalue(net, x, torch.zeros(4, 2)),
    ],
)
def test_nothing_to_differentiate(function):
    with pytest.raises(ValueError, match="every parameter is frozen; set requires_grad"):
        function(mlp().requires_grad_(False), batch())


# --- the helpers -------------------------------------------------------------------------------


def test_sums_that_overflow_are_still_finite():
    assert all_finite(torch.full((3,), 1.5e308, dtype=torch.float64))
    assert all_finite(torch.full((3,), 3e38))
    assert not all_finite(torch.tensor([math.inf, -math.inf]))
    assert not all_finite(torch.tensor([1.0, math.nan]))
    assert first_not_finite(torch.tensor([[1.0, 1.0], [1.0, math.nan], [math.inf, 1.0]])) == 1
    assert first_not_finite(torch.tensor([1.0, 2.0, math.nan])) == 2


# --- numbers that would be lost on the way -----------------------------------------------------


class Halves(torch.autograd.Function):
    """Loses precision where no cast is seen."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return torch.from_numpy(x.detach().numpy().astype("f"))

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient


class Rounded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + Halves.apply(x)


def test_a_loss_of_precision_on_the_way():
    net = nn.Sequential(nn.Linear(3, 3), Rounded(), nn.Linear(3, 2))
    expect_refusal(ValueError, "works in torch.float32 on the way", net, batch())
    with pytest.raises(ValueError, match="works in"):
        flatlib.hessian_trace(net, batch(), torch.zeros(4, 2))


class Tied(nn.Module):
    """Decodes with the transposed weight of its encoder, worked out once and for all."""

    def __init__(self, used: bool):
        super().__init__()
        self.encoder = nn.Linear(3, 2, bias=False)
        self.decoding = self.encoder.weight.T
        self.used = used

    def forward(self, x: Tensor) -> Tensor:
        h = self.encoder(x).tanh()
        return h @ self.decoding.T if self.used else h


def test_an_attribute_made_of_parameters():
    says = "uses 'decoding' by way of a tensor that was computed"
    expect_refusal(ValueError, says, Tied(True), batch())
    with pytest.raises(ValueError, match="uses 'decoding'"):
        flatlib.hessian_trace(Tied(True), batch(), torch.zeros(4, 2))
    pair = nn.Sequential(Tied(True), nn.Linear(3, 3), Tied(False))
    expect_refusal(ValueError, "uses '0.decoding'", pair, batch())


class Listed(nn.Module):
    def __init__(self, kept):
        super().__init__()
        self.encoder = nn.Linear(3, 2, bias=False)
        self.kept = kept(self.encoder.weight.T)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x) @ next(iter(self.kept)).T.to(x)


@pytest.mark.parametrize("kept", [lambda t: [t], lambda t: (t,), lambda t: {t}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_container_of_what_was_made_of_parameters(dtype, kept):
    expect_refusal(
        ValueError, "uses 'tensor 0 that it holds' by way of a tensor", Listed(kept).to(dtype),
        batch().to(dtype),
    )  # fmt: skip


def test_a_buffer_of_plus_infinity():
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).eval()
    net[1].running_var[1] = math.inf
    expect_refusal(ValueError, "'running_var' of layer '1' holds NaN or infinite", net, batch())


def test_an_attribute_that_nobody_reads_is_no_fault():
    net = Tied(False)
    assert flatlib.measure(net, batch()).n == 4
    assert net.decoding.grad_fn is not None  # it is back


def test_a_wrapped_network():
    expect_refusal(ValueError, "pass net.module", nn.DataParallel(mlp()), batch())


def test_a_kernel_of_another_shape_than_its_settings_names_the_layer():
    net = nn.Sequential(nn.Conv2d(1, 2, (1, 3)), nn.Flatten(), nn.Linear(30, 2))
    net[0].weight = nn.Parameter(torch.ones(2, 1, 3, 1))
    with pytest.raises(ValueError, match=r"layer '0' .*kernel of shape \(3, 1\) .*=\(1, 3\)"):
        flatlib.measure(net, torch.ones(2, 1, 5, 5))


def test_a_layer_that_reads_nothing_adds_nothing():
    class Nothing(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x):
            return self.b(x) + self.a(x[:, None][:, :0]).sum(dim=(1, 2))[:, None]

    net = Nothing()
    alone = flatlib.measure(net.b, torch.ones(2, 3))
    m = flatlib.measure(net, torch.ones(2, 3))
    assert torch.equal(m.parameter_gradient_energy, alone.parameter_gradient_energy)
    assert [layer.name for layer in m.layers] == ["b"]
