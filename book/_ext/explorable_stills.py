"""What the build makes for each explorable: its numbers and its still picture."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache

import archive_data
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import flatlib
from flatlib import bounds, nets, toys
from flatlib.lab import archive, claims, figures
from flatlib.lab.figures import curves, views


@dataclass(frozen=True)
class Made:
    """An explorable as the build hands it to a page."""

    numbers: dict  # that its script needs, as JSON can hold them
    figure: Figure
    alt: str
    caption: str
    files: dict[str, str] = field(default_factory=dict)  # in the folder of the scripts, by name


def example() -> dict:
    """The running example as nested lists."""
    net, x, _ = toys.running_example()
    W_1, W_2 = (parameter.tolist() for parameter in net.parameters())
    return {"W_1": W_1, "W_2": W_2, "x": x.tolist()}


LARGEST = 4.0  # factor of the slider, and the inverse of the smallest one


def rescaling() -> Made:
    """The running example with W_1 times c and W_2 over c."""
    net, x, _ = toys.running_example()
    factors = np.geomspace(1 / LARGEST, LARGEST, 33)
    twins = [flatlib.measure(toys.rescaled(net, (c, 1 / c)), x) for c in factors]
    S = np.array([twin.sharpness for twin in twins])
    chains = [bounds.chain(twin) for twin in twins]
    figure, axes = figures.canvas(1, 2, height=210)
    axes[0].plot(factors, S, "-", color=figures.COLORS["ink"])
    for name in "ABCD":
        look = figures.CHAIN[name]
        values = [getattr(chain, name) for chain in chains]
        axes[1].plot(
            factors, values, linestyle=look.line, color=figures.COLORS[look.color], label=name
        )
    ticks = {"sharpness S": (500, 1000, 2000, 5000), "terms of the chain": (5, 10, 20, 50, 100)}
    for ax, (label, levels) in zip(axes, ticks.items(), strict=True):
        ax.set(xscale="log", yscale="log", xlabel="factor c", ylabel=label)
        ax.set_xticks([1 / 4, 1 / 2, 1, 2, 4], ["¼", "½", "1", "2", "4"])
        ax.set_yticks(levels, [f"{level:,}" for level in levels])
        ax.minorticks_off()
    axes[1].legend()
    first, middle, last = chains[0], chains[16], chains[-1]
    return Made(
        numbers={"network": example(), "largest": LARGEST},
        figure=figure,
        caption=(
            "The running example with its first layer times c and its second over c, which all "
            f"compute one function. Sharpness is {S[16]:,.0f} at c = 1 and {S[-1]:,.0f} at c = 4; "
            f"A, B and C stay, and D rises from {first.D:.3g} at c = ¼ to {last.D:.3g} at c = 4."
        ),
        alt=(
            f"Left: sharpness on logarithmic axes, from {S[0]:,.0f} at c = 1/4 down to "
            f"{S.min():,.0f} near c = 1 and up to {S[-1]:,.0f} at c = 4. Right: A, B and C are "
            f"flat lines at {middle.A:.2f}, {middle.B:.2f} and {middle.C:.2f}; D rises from "
            f"{first.D:.3g} over {middle.D:.3g} at c = 1 to {last.D:.3g}."
        ),
    )


STEPS = (0, *np.unique(np.geomspace(1, 1000, 48).astype(int)).tolist())  # that are shown


def training(seed: int = 0) -> Iterator[tuple[int, float, nn.Sequential, Tensor]]:
    """A network that learns to tell which of four clouds of points an input is from.

    Yields:
        For each of `STEPS` the step, the loss of Eq. (2), a copy of the network, and a sample
        ``(1, 2)`` of the last cloud.
    """
    generator = torch.Generator().manual_seed(seed)
    corners = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    y = corners.repeat_interleave(10, dim=0)
    x = y + 0.3 * torch.randn(y.shape, generator=generator, dtype=torch.float64)
    net = nets.mlp([2, 16, 2], "tanh", seed=seed).double()
    descent = torch.optim.SGD(net.parameters(), lr=0.4)
    for step in range(STEPS[-1] + 1):
        loss = flatlib.sharpness.squared_loss(net(x), y)
        if step in STEPS:
            yield step, loss.item(), copy.deepcopy(net), x[30:31]
        descent.zero_grad()
        loss.backward()
        descent.step()


@cache
def frames() -> list[dict]:
    """What the disc's picture shows of the training: at each step the sample's Jacobian."""
    return [
        {
            "step": step,
            "loss": loss,
            "J": torch.autograd.functional.jacobian(net, sample)[0, :, 0].tolist(),
        }
        for step, loss, net, sample in training()
    ]


def disc() -> Made:
    """A disc of inputs and the ellipse that the running example makes of the disc."""
    net, x, _ = toys.running_example()
    m = flatlib.measure(net, x[:1])
    first, second = m.singular_values[0].tolist()
    W_1, W_2 = (parameter.detach().numpy() for parameter in net.parameters())
    figure, axes = figures.canvas(1, 2, height=220)
    for ax, matrix, kind in zip(axes, (np.eye(2), W_2 @ W_1), ("input", "output"), strict=True):
        figures.ellipse(ax, matrix, color="blue")
        ax.set(xlim=(-3, 3), ylim=(-3, 3), xlabel=f"first {kind}", ylabel=f"second {kind}")
        ax.set_aspect("equal", adjustable="box")
    found = (
        f"The maximum local sensitivity is {first:.2f}, the longer half-axis; G, the sum of the "
        f"squared half-axes, is {m.gradient_energy.item():.0f}; the area is multiplied by the "
        f"volume {m.log_volume.exp().item():.0f}; and the dimensionality is "
        f"{m.local_dimensionality.item():.2f} of 2."
    )
    return Made(
        numbers={"network": example(), "frames": frames()},
        figure=figure,
        caption=f"A disc of inputs and its image under the running example. {found}",
        alt=(
            "Left: a circle of radius 1. Right: its image, a tilted ellipse with half-axes "
            f"{first:.2f} and {second:.2f}."
        ),
    )


@cache
def archived() -> dict[str, tuple[archive.Runs, list[str]]]:
    """The archived runs of each network, and the experiments that they belong to."""
    return {
        key: (archive.read(names[0], key.partition("_")[0]), names)
        for key, names in archive_data.networks().items()
    }


def look_through() -> Made:
    """The archive's curves; the still one is the sharpness of the network with most runs."""
    found = archived()
    if not found:
        raise ValueError(
            "the archive has no run of an experiment; make some with: "
            "flatlib run mlp-relu-learning-rate --scale laptop"
        )
    key, (runs, _) = max(found.items(), key=lambda each: len(each[1][0].reached))
    rates = [setting for setting in claims.RATES if setting not in runs.missing]
    table = runs.on("train")
    figure, ax = figures.canvas(height=220)
    ends = []
    for setting in rates:
        own = table[(table["lr"] == setting[0]) & (table["batch_size"] == setting[1])]
        name = archive.label(setting)
        look = figures.SETTINGS[setting]
        curves.curve(ax, own, "root_sharpness", look, name, runs.fit_steps())
        last = own[own["step"] == own["step"].max()]["root_sharpness"].mean()
        ends.append(f"{last:.1f} at {name}")
    ax.set(xlabel="step of training", ylabel="sharpness √S")
    ax.legend()
    first = views.View(key, "root_sharpness", tuple(rates))
    return Made(
        numbers={
            "networks": [archive_data.head(key, *each) for key, each in found.items()],
            "looks": archive_data.looks(),
            "first": {
                "network": key,
                "quantity": first.quantity,
                "settings": [views.setting_key(setting) for setting in rates],
                "samples": list(first.samples),
            },
        },
        figure=figure,
        caption=(
            f"One view of the archive: {runs.summary(rates)}. Lines are means over seeds and bands "
            f"one standard deviation. The sharpness √S ends at {', '.join(ends)}."
        ),
        alt=f"Sharpness against steps of training, which ends at {', '.join(ends)}.",
        files={
            f"archive/{key}.js": archive_data.script(key, runs) for key, (runs, _) in found.items()
        },
    )


MAKERS: dict[str, Callable[[], Made]] = {
    "disc": disc,
    "rescaling": rescaling,
    "archive": look_through,
}
