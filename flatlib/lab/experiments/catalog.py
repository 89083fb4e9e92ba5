"""What each figure of the paper runs, at three scales."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .config import RunConfig

LEARNING_RATES = ((0.05, 20), (0.1, 20), (0.2, 20))  # (lr, batch_size)
BATCH_SIZES = ((0.1, 8), (0.1, 20), (0.1, 32))
BASE = ((0.1, 20),)
ALL_SETTINGS = tuple(dict.fromkeys(LEARNING_RATES + BATCH_SIZES))


@dataclass(frozen=True)
class Experiment:
    """The runs behind one figure."""

    figure: str  # of the paper
    net: str  # key of SCALES' entries
    settings: tuple[tuple[float, int], ...]  # (lr, batch_size) of each run


EXPERIMENTS = {
    "vgg10-learning-rate": Experiment("1", "vgg10", LEARNING_RATES),
    "vgg10-batch-size": Experiment("2", "vgg10", BATCH_SIZES),
    "vgg10-test-set": Experiment("3", "vgg10-test-set", BASE),
    "mlp-bounds": Experiment("D.4, tanh", "mlp", BASE),
    "correlations-vgg10": Experiment("D.5", "vgg10", ALL_SETTINGS),
    "correlations-mlp": Experiment("D.6, tanh", "mlp", ALL_SETTINGS),
    "mlp-batch-size": Experiment("E.7, tanh", "mlp", BATCH_SIZES),
    "mlp-learning-rate": Experiment("E.8, tanh", "mlp", LEARNING_RATES),
    "mlp-all-images": Experiment("E.7 and E.8, all images, tanh", "mlp-all-images", ALL_SETTINGS),
    "mlp-relu-bounds": Experiment("D.4", "mlp-relu", BASE),
    "correlations-mlp-relu": Experiment("D.6", "mlp-relu", ALL_SETTINGS),
    "mlp-relu-batch-size": Experiment("E.7", "mlp-relu", BATCH_SIZES),
    "mlp-relu-learning-rate": Experiment("E.8", "mlp-relu", LEARNING_RATES),
    "mlp-relu-all-images": Experiment(
        "E.7 and E.8, all images", "mlp-relu-all-images", ALL_SETTINGS
    ),
}


@dataclass(frozen=True)
class Scale:
    """One network's protocol at one scale."""

    net: str  # name in config.NETS
    data: str  # name in config.DATA
    steps: int
    measure_every: int
    measure_samples: int
    seeds: tuple[int, ...]
    test_set_checkpoints: int = 0  # how many of the last ones measure every test sample as well


_SMOKE_VGG10 = Scale("vgg10-gray", "digit-images-0-1", 120, 60, 8, (0,), 1)
_LAPTOP_VGG10 = Scale("vgg10", "cifar10-0-1", 60_000, 1_250, 100, (0, 1, 2), 10)
_PAPER_VGG10 = Scale("vgg10", "cifar10-0-1", 150_000, 2_500, 100, (0, 1, 2, 3, 4), 10)
_PAPER_MLP = Scale("mlp", "fashion-mnist", 750_000, 12_500, 100, (0, 1, 2, 3, 4))
_PAPER_MLP_RELU = replace(_PAPER_MLP, net="mlp-relu")
SCALES: dict[str, dict[str, Scale]] = {
    "smoke": {
        "vgg10": _SMOKE_VGG10,
        "vgg10-test-set": _SMOKE_VGG10,
        "mlp": Scale("mlp-small", "digits", 600, 100, 20, (0,)),
        "mlp-all-images": Scale("mlp-small", "digits", 600, 100, 20, (0,)),
        "mlp-relu": Scale("mlp-relu-small", "digits", 600, 100, 20, (0,)),
        "mlp-relu-all-images": Scale("mlp-relu-small", "digits", 600, 100, 20, (0,)),
    },
    "laptop": {
        "vgg10": _LAPTOP_VGG10,
        "vgg10-test-set": _LAPTOP_VGG10,
        "mlp": Scale("mlp", "fashion-mnist-first-2000", 180_000, 1_250, 100, (0, 1, 2)),
        "mlp-all-images": Scale("mlp", "fashion-mnist", 60_000, 1_250, 100, (0,)),
        "mlp-relu": Scale(
            "mlp-relu", "fashion-mnist-first-2000", 60_000, 1_250, 100, tuple(range(10))
        ),
        "mlp-relu-all-images": Scale("mlp-relu", "fashion-mnist", 60_000, 1_250, 100, (0,)),
    },
    "paper": {
        "vgg10": _PAPER_VGG10,
        "vgg10-test-set": replace(_PAPER_VGG10, seeds=tuple(range(10))),
        "mlp": _PAPER_MLP,
        "mlp-all-images": _PAPER_MLP,
        "mlp-relu": _PAPER_MLP_RELU,
        "mlp-relu-all-images": _PAPER_MLP_RELU,
    },
}


def configurations(
    name: str,
    scale: str = "smoke",
    seeds: Sequence[int] | None = None,
    steps: int | None = None,
) -> tuple[RunConfig, ...]:
    """The runs of one experiment, one full set of settings after another.

    Args:
        name: of the experiment, a key of ``EXPERIMENTS``.
        scale: ``"smoke"``, ``"laptop"`` or ``"paper"``.
        seeds: instead of the scale's own.
        steps: instead of the scale's own length.

    Raises:
        ValueError: an unknown experiment or scale, or steps that fit no checkpoint.

    >>> [(run.lr, run.batch_size) for run in configurations("vgg10-batch-size")]
    [(0.1, 8), (0.1, 20), (0.1, 32)]
    """
    if name not in EXPERIMENTS:
        raise ValueError(f"no experiment is called {name!r}; there are {', '.join(EXPERIMENTS)}")
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(SCALES)}, got {scale!r}")
    experiment = EXPERIMENTS[name]
    protocol = SCALES[scale][experiment.net]
    first = RunConfig(
        net=protocol.net,
        data=protocol.data,
        lr=0.1,
        batch_size=20,
        seed=0,
        steps=protocol.steps if steps is None else steps,
        measure_every=protocol.measure_every,
        measure_samples=protocol.measure_samples,
        test_set_checkpoints=protocol.test_set_checkpoints,
    )
    return tuple(
        replace(first, lr=lr, batch_size=batch_size, seed=seed)
        for seed in (protocol.seeds if seeds is None else seeds)
        for lr, batch_size in experiment.settings
    )


def command(run: RunConfig, scale: str) -> str | None:
    """The ``flatlib run`` that makes this run, among others of its experiment and seed.

    Args:
        run: the configuration.
        scale: ``"smoke"``, ``"laptop"`` or ``"paper"``.

    Returns:
        The command, or None where no experiment of this scale has such a run.

    >>> command(configurations("mlp-batch-size", "laptop")[0], "laptop")
    'flatlib run correlations-mlp --scale laptop --seeds 0'
    """
    for name, experiment in EXPERIMENTS.items():
        protocol = SCALES.get(scale, {}).get(experiment.net)
        if protocol is None or run.steps % protocol.measure_every:
            continue
        if run in configurations(name, scale, (run.seed,), run.steps):
            length = "" if run.steps == protocol.steps else f" --steps {run.steps}"
            return f"flatlib run {name} --scale {scale} --seeds {run.seed}{length}"
    return None
