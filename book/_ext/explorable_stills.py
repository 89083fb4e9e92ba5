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
    """What the disk's picture shows of the training: at each step the sample's Jacobian."""
    return [
        {
            "step": step,
            "loss": loss,
            "J": torch.autograd.functional.jacobian(net, sample)[0, :, 0].tolist(),
        }
        for step, loss, net, sample in training()
    ]


def disc() -> Made:
    """A disk of inputs and the ellipse that the running example makes of the disk."""
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
        caption=f"A disk of inputs and its image under the running example. {found}",
        alt=(
            "Left: a circle of radius 1. Right: its image, a tilted ellipse with half-axes "
            f"{first:.2f} and {second:.2f}."
        ),
    )


WIDEST = 10.0  # longest input over shortest, at the end of the slider
LENGTH = 5.0  # geometric mean of the inputs' lengths
ANGLES = (25, 40, 50, 65)  # of the inputs, in degrees: both units of the running example are on


def staircase_networks() -> dict[str, nn.Sequential]:
    """Networks of which each step of Eq. (28) costs something else, by their titles."""
    example, _, _ = toys.running_example()
    W_1, W_2 = (parameter.detach() for parameter in example.parameters())
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(2, 2, 2, generator=generator, dtype=torch.float64)

    def with_row(*row: float) -> nn.Sequential:
        return toys.from_weights([W_1, torch.tensor([row, (0.0, 0.0)])], "relu")

    return {
        "the running example": example,
        "the running example, first layer times 3, second over 3": toys.rescaled(
            example, (3.0, 1 / 3)
        ),
        "one output, which reads the first layer's strong direction": with_row(4.0, 0.0),
        "one output, which reads the first layer's weak direction": with_row(0.0, 4.0),
        "the running example, weights drawn at random": toys.from_weights(
            [W_1 + drawn[0].abs(), W_2 + drawn[1]], "relu"
        ),
    }


def staircase_inputs(spread: float) -> Tensor:
    """Inputs ``(4, 2)``, the longest ``spread`` times as long as the shortest."""
    angles = torch.deg2rad(torch.tensor(ANGLES, dtype=torch.float64))
    exponents = torch.linspace(-0.5, 0.5, len(ANGLES), dtype=torch.float64)
    lengths = LENGTH * spread**exponents
    return lengths[:, None] * torch.stack([angles.cos(), angles.sin()], dim=1)


def staircase() -> Made:
    """The terms of Eq. (28) as stairs, for inputs of one length and for inputs of many."""
    found = staircase_networks()
    title, net = next(iter(found.items()))
    chains = [bounds.chain(flatlib.measure(net, staircase_inputs(r))) for r in (1.0, WIDEST)]
    figure, axes = figures.canvas(1, 2, height=190, sharey=True)
    for ax, chain, words in zip(axes, chains, ("one length", "lengths 1 to 10"), strict=True):
        for place, name in enumerate("ABCD"):
            color = figures.COLORS[figures.CHAIN[name].color]
            ax.bar(place, getattr(chain, name), width=1, color=color, alpha=0.6)
            ax.annotate(
                f"{getattr(chain, name):.3g}",
                (place, getattr(chain, name)),
                ha="center",
                va="bottom",
            )
        ax.set(title=words, xticks=range(4), xticklabels="ABCD", yscale="log")
        ax.set_yticks([2, 5, 10, 20, 50], ["2", "5", "10", "20", "50"])
        ax.minorticks_off()
        ax.margins(y=0.15)
    first, last = chains
    return Made(
        numbers={
            "networks": [
                {"title": name, "W_1": weights[0].tolist(), "W_2": weights[1].tolist()}
                for name, weights in ((n, list(each.parameters())) for n, each in found.items())
            ],
            "directions": (staircase_inputs(1.0) / LENGTH).tolist(),
            "length": LENGTH,
            "widest": WIDEST,
        },
        figure=figure,
        caption=(
            f"The terms of Eq. (28) for {title} and four inputs, of one length (left) and of "
            f"lengths that differ by a factor of {WIDEST:g} (right). The step from B to C grows "
            f"from a factor of {first.C / first.B:.2f} to {last.C / last.B:.2f}."
        ),
        alt=(
            f"Stairs A, B, C, D: {first.A:.3g}, {first.B:.3g}, {first.C:.3g}, {first.D:.3g} on the "
            f"left and {last.A:.3g}, {last.B:.3g}, {last.C:.3g}, {last.D:.3g} on the right."
        ),
    )


RATE, DESCENT = 0.1, 1_500  # of the valley: step size and number of steps
START, NOISE = 2.5, 0.5  # with which it begins


def label_errors(seed: int = 1) -> list[float]:
    """The valley's errors of the label over their standard deviation, to three decimals."""
    return np.random.default_rng(seed).standard_normal(DESCENT).round(3).tolist()


def descended(start: float, noise: float) -> np.ndarray:
    """Both weights after each step of noisy descent from the minimum ``(start, 1 / start)``.

    Returns:
        ``(DESCENT + 1, 2)``.
    """
    w = np.array([start, 1 / start])
    path = [w]
    for error in label_errors():
        residual = w[0] * w[1] - (1 + noise * error)
        w = w - RATE * residual * w[::-1]
        path.append(w)
    return np.array(path)


def valley() -> Made:
    """Minima of ``w_2 w_1 x`` at ``x = y = 1``, and noisy descent along them."""
    path = descended(START, NOISE)
    S = (path**2).sum(axis=1)
    w_1 = np.linspace(1 / 3, 3, 200)
    figure, axes = figures.canvas(1, 2, height=220)
    axes[0].plot(w_1, 1 / w_1, color=figures.COLORS["blue"], label="minima")
    axes[0].plot(*path[::10].T, "o", ms=2.5, color=figures.COLORS["orange"], label="descent")
    axes[0].plot(1, 1, "D", color=figures.COLORS["green"], label="flattest")
    axes[0].set(xlabel="$w_1$", ylabel="$w_2$", xlim=(0, 3), ylim=(0, 3))
    axes[0].legend()
    axes[1].plot(S, "-", color=figures.COLORS["orange"], lw=1)
    axes[1].axhline(2, color=figures.COLORS["green"], lw=1, linestyle="-")
    axes[1].set(xlabel="step of descent", ylabel="sharpness S")
    late = S[-DESCENT // 4 :].mean()
    return Made(
        numbers={"errors": label_errors(), "rate": RATE},
        figure=figure,
        caption=(
            f"Descent with noisy labels from the minimum ({START:g}, {1 / START:g}), where the "
            f"sharpness is {S[0]:.2f}. Over the last quarter of {DESCENT:,} steps the sharpness "
            f"is {late:.2f} in the mean; the least that a minimum has is 2."
        ),
        alt=(
            f"Left: the minima, a hyperbola, and descent that drifts along it from w1 = {START:g} "
            f"to (1, 1). Right: sharpness from {S[0]:.2f} to about {late:.2f}."
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
    "staircase": staircase,
    "valley": valley,
    "archive": look_through,
}
