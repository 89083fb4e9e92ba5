"""Measure public models as they are, hold them against plain autograd, and write a table.

    python book/_tools/public_models.py [--timm] [MODEL ...]

Without names all classification models of torchvision are measured that the table lacks, or with
``--timm``, where timm is installed, a small model of each of forty families of timm. A model runs
in a process of its own, on one thread, with ten minutes of processor time and 16 GB: what needs
more is entered as not run, and nothing is entered for what nobody asked for.
"""

from __future__ import annotations

import argparse
import csv
import inspect
import io
import multiprocessing
import resource
import signal
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import flatlib
from flatlib.checks import is_out_of_memory
from flatlib.files import write_atomically
from flatlib.lab.data import vision

TABLE = Path(__file__).resolve().parents[1] / "public-models.csv"
N_OUTPUTS, N_SAMPLES = 10, 2
SIZES = (32, 64, 75, 96, 128, 192, 224, 299)  # pixels, until the model takes them
MINUTES, GIGABYTES = 10, 16
COLUMNS = (
    *("model", "parameters", "pixels", "layers", "layers left out", "other parameters"),
    *("largest relative error", "seconds", "result"),
)
AGREES = 1e-8
# A small model of each family.
TIMM = """
    resnet10t resnetv2_18 vit_tiny_patch16_224 deit_tiny_patch16_224 convnext_atto mixer_s16_224
    resmlp_12_224 gmlp_ti16_224 swin_tiny_patch4_window7_224 mobilenetv3_small_050
    efficientnet_lite0 tinynet_e regnetx_002 ghostnet_050 lcnet_035 repvgg_a0 rexnet_100
    selecsls42 legacy_seresnet18 starnet_s1 edgenext_xx_small fastvit_t8 efficientvit_m0
    levit_128s mobilevit_xxs mobileone_s0 poolformer_s12 pit_ti_224 pvt_v2_b0
    xcit_nano_12_p16_224 visformer_tiny coat_lite_tiny convit_tiny hgnetv2_b0 dla46_c
    eva02_tiny_patch14_224 cait_xxs24_224 tiny_vit_5m_224 repvit_m0_9 ese_vovnet19b_dw
""".split()


def torchvision_models():
    """torchvision's models, whatever build of torch it was made for."""
    vision.datasets()
    from torchvision import models

    return models


def names() -> list[str]:
    """torchvision's classification models, those of fewer operations first."""
    models = torchvision_models()
    operations = {
        name: models.get_model_weights(name).DEFAULT.meta["_ops"]
        for name in models.list_models(module=models)
    }
    return sorted(operations, key=operations.get)


def build(name: str, size: int) -> nn.Module:
    """The model with random weights and ten classes, for images of so many pixels a side."""
    package, _, own = name.rpartition("/")
    options = {}
    if own.startswith("vit_"):
        options = {"image_size": size // int(own[-2:]) * int(own[-2:])}
    if own.startswith("maxvit"):
        options = {"input_size": (size, size)}
    if own in ("googlenet", "inception_v3"):
        options = {"init_weights": False}
    models = torchvision_models()  # before timm imports torchvision
    if package == "timm":
        import timm

        net = timm.create_model(own, num_classes=N_OUTPUTS).eval()
    else:
        net = models.get_model(own, num_classes=N_OUTPUTS, **options).eval()
    for parameter in net.parameters():
        if parameter.dim() > 1 and not parameter.any():  # as the last layer of a ViT begins
            nn.init.normal_(parameter, std=0.02)
    return net


def smallest(name: str) -> tuple[nn.Module, Tensor]:
    """The model, and samples of the smallest size that it takes."""
    for size in SIZES:
        torch.manual_seed(0)
        try:
            net = build(name, size)
            side = getattr(net, "image_size", size)
            x = torch.randn(N_SAMPLES, 3, side, side)
            with torch.no_grad():
                net(x)
            torch.manual_seed(0)
            return build(name, size), x  # the first one may have kept tables without gradients
        except (RuntimeError, ValueError, AssertionError, IndexError) as error:
            if is_out_of_memory(error) or size == SIZES[-1]:
                raise
    raise AssertionError("the last size is taken or raises")


class WrittenOut(TorchFunctionMode):
    """Computes batch normalization, in eval mode, by its formula.

    On the CPU its backward pass takes a gradient in an odd memory layout for another one, see
    `flatlib.derivatives.float64`: plain gradients of LeViT and XCiT are wrong by more than they are
    large, as differences along any direction tell.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is not F.batch_norm:
            return function(*args, **kwargs)
        given = inspect.signature(F.batch_norm).bind(*args, **kwargs)
        given.apply_defaults()
        return self.normalized(**given.arguments)

    @staticmethod
    def normalized(input, running_mean, running_var, weight, bias, training, momentum, eps):
        shape = (1, -1, *(1,) * (input.dim() - 2))
        found = (input - running_mean.view(shape)) / (running_var + eps).sqrt().view(shape)
        found = found if weight is None else found * weight.view(shape)
        return found if bias is None else found + bias.view(shape)


def plainly(net: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The Jacobian ``(n, N, M)``, and ``(n,)`` of each parameter's gradient energy, by autograd.

    One sample and one output at a time, in float64, which the network is from then on.
    """
    parameters = dict(net.double().named_parameters())
    energies = {name: torch.zeros(len(x), dtype=torch.float64) for name in parameters}
    jacobian = []
    for i, sample in enumerate(x.double().split(1)):
        sample.requires_grad_()
        rows = []
        with WrittenOut():
            output = net(sample)[0]
        for value in output:
            along, *found = torch.autograd.grad(
                *(value, [sample, *parameters.values()]),
                retain_graph=True,
                materialize_grads=True,
            )
            rows.append(along.flatten())
            for energy, gradient in zip(energies.values(), found, strict=True):
                energy[i] += gradient.square().sum()
            del found, gradient  # all parameters' gradients: not twice at a time
        jacobian.append(torch.stack(rows))
    return torch.stack(jacobian), energies


def largest_error(m: flatlib.Measurement, jacobian: Tensor, energies: dict[str, Tensor]) -> float:
    """The largest relative error of sharpness, MLS, G and the weights' energies, sample by sample.

    A weight's energy below 1e-12 of all parameters' is compared as a share of these.
    """
    total = sum(energies.values())
    s = torch.linalg.svdvals(jacobian)
    pairs = [
        (m.parameter_gradient_energy, total),
        (m.mls, s[:, 0]),
        (m.gradient_energy, jacobian.square().sum(dim=(1, 2))),
    ]
    errors = [((mine - plain).abs() / plain).max() for mine, plain in pairs]
    for layer in m.layers:
        for name in (f"{layer.name}.weight", f"{layer.name}_weight"):
            if name in energies:
                plain = energies[name]
                off = (layer.weight_gradient_energy - plain).abs()
                errors.append((off / torch.maximum(plain, 1e-12 * total)).max())
    return float(torch.stack(errors).max())


def row(name: str) -> dict[str, object]:
    """One model's row of the table."""
    net, x = smallest(name)
    started = time.process_time()
    m = flatlib.measure(net, x)
    seconds = time.process_time() - started
    # The largest models fit in memory once in float64, and a measurement keeps each weight.
    weightless = (replace(layer, weight=layer.weight.new_empty(0)) for layer in m.layers)
    m = replace(m, layers=tuple(weightless))
    ways = Counter(m.other_parameters.values())
    error = largest_error(m, *plainly(net, x))
    return {
        "model": name,
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "pixels": x.shape[-1],
        "layers": len(m.layers),
        "layers left out": len(m.other_layers),
        "other parameters": ", ".join(f"{ways[how]} by {how}" for how in sorted(ways)),
        "largest relative error": f"{error:.1e}",
        "seconds": f"{seconds:.1f}",
        "result": "agrees" if error <= AGREES else "disagrees",
    }


def _limited(name: str, send) -> None:
    """`row` within the limits, or why not."""
    torch.set_num_threads(1)
    seconds, memory = int(60 * MINUTES), int(GIGABYTES * 2**30)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + memory, taken + memory))
    try:
        send.send(row(name))
    except Exception as error:
        lacks = is_out_of_memory(error)
        why = f"not run: needs more than {GIGABYTES} GB" if lacks else f"refused: {error}"
        send.send({"model": name, "result": why})


def within_limits(name: str) -> dict[str, object]:
    """The row of a model that runs in a process of its own."""
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_limited, args=(name, send))
    process.start()
    send.close()
    try:
        return receive.recv()
    except EOFError:
        process.join()
        slow = -process.exitcode in (signal.SIGXCPU, signal.SIGKILL)
        why = (
            f"takes more than {MINUTES} minutes of processor time" if slow else "its process ended"
        )
        return {"model": name, "result": f"not run: {why}"}
    finally:
        process.join()


def read(table: Path) -> dict[str, dict[str, object]]:
    """The rows of a table by model."""
    if not table.exists():
        return {}
    with table.open(encoding="utf-8", newline="") as file:
        return {line["model"]: line for line in csv.DictReader(file)}


def write(table: Path, rows: dict[str, dict[str, object]]) -> None:
    """The table, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows[name] for name in sorted(rows))
    write_atomically(table, lambda file: file.write(text.getvalue().encode()))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*")
    parser.add_argument("--timm", action="store_true", help="the models of timm")
    parser.add_argument("--output", type=Path, default=TABLE)
    chosen = parser.parse_args(arguments)
    rows = read(chosen.output)
    known = [f"timm/{name}" for name in TIMM] if chosen.timm else names()
    for name in chosen.models or [name for name in known if name not in rows]:
        rows[name] = within_limits(name)
        print(name, rows[name]["result"], rows[name].get("seconds", ""), flush=True)
        write(chosen.output, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
