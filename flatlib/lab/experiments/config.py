"""One run: an immutable configuration, and the network, data and schedule that it names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache

import torch
from torch import nn

from flatlib import nets
from flatlib.lab.data import Data, load
from flatlib.lab.manifest import configuration_hash
from flatlib.lab.training.layout import contiguous_for
from flatlib.lab.training.loss import loss_function
from flatlib.lab.training.trainer import check_settings

NETS: dict[str, Callable[[int], nn.Module]] = {
    "vgg10": lambda seed: nets.vgg10(in_channels=3, seed=seed),
    "vgg10-gray": lambda seed: nets.vgg10(in_channels=1, seed=seed),
    "mlp": lambda seed: nets.mlp((784, 500, 500, 500, 10), seed=seed),
    "mlp-small": lambda seed: nets.mlp((64, 32, 32, 32, 10), seed=seed),
    "mlp-relu": lambda seed: nets.mlp((784, 500, 500, 500, 10), "relu", seed=seed),
    "mlp-relu-small": lambda seed: nets.mlp((64, 32, 32, 32, 10), "relu", seed=seed),
}

DATA: dict[str, Callable[[], Data]] = {
    "cifar10-0-1": lambda: load("cifar10", classes=(0, 1)),
    "cifar10-first-2000": lambda: load("cifar10").first(2000),
    "cifar10-first-10000": lambda: load("cifar10").first(10_000),
    "fashion-mnist": lambda: load("fashion-mnist"),
    "fashion-mnist-first-2000": lambda: load("fashion-mnist").first(2000),
    "digits": lambda: load("digits"),
    "digit-images-0-1": lambda: load("digit-images", classes=(0, 1)),
}

FIRST_CHECKPOINT = 10  # after step 0
CHECKPOINTS_PER_DECADE = 6  # of the logarithmic part
SEEDS = 2**63  # PyTorch's generators take those below
SAMPLE_SEED = 0  # which samples are measured is the same for every run


@dataclass(frozen=True)
class RunConfig:
    """All that the numbers of one run depend on, and how long it shall be."""

    net: str  # name in NETS
    data: str  # name in DATA
    lr: float  # learning rate
    batch_size: int  # samples a step
    seed: int  # of the initial weights and of the order of the samples
    steps: int  # length; a longer run begins with the same rows
    measure_every: int  # steps between checkpoints, after the logarithmic part
    measure_samples: int = 100  # of the training set, of the test set, of the misclassified
    loss: str = "mse"  # "mse" as the authors ran it, "half-squared" as the paper writes it
    test_set_checkpoints: int = 0  # how many of the last ones measure every test sample as well

    def __post_init__(self):
        if self.net not in NETS:
            raise ValueError(f"net must be one of {', '.join(NETS)}, got {self.net!r}")
        if self.data not in DATA:
            raise ValueError(f"data must be one of {', '.join(DATA)}, got {self.data!r}")
        check_settings(self.lr, self.batch_size, self.steps, self.batch_size)
        loss_function(self.loss)
        if not 0 <= self.seed < SEEDS:
            raise ValueError(f"seed must be from 0 to {SEEDS - 1}, got {self.seed}")
        if self.measure_every < 1 or self.measure_samples < 1:
            raise ValueError("measure_every and measure_samples must be at least 1")
        if self.test_set_checkpoints < 0:
            raise ValueError(
                f"test_set_checkpoints must be at least 0, got {self.test_set_checkpoints}"
            )
        if self.steps % self.measure_every:
            raise ValueError(
                f"steps must be a multiple of measure_every, so that a longer run has the same "
                f"checkpoints; got {self.steps} and {self.measure_every}"
            )

    @property
    def name(self) -> str:
        """The run's name on disk: what tells it from other runs of its scale."""
        loss = "" if self.loss == "mse" else f"_{self.loss}"
        setting = f"lr{self.lr:g}_batch{self.batch_size}_seed{self.seed}"
        return f"{self.net}_{self.data}{loss}_{setting}"

    @property
    def identity(self) -> dict:
        """Everything but the length and what is measured beside: rows that both have are equal."""
        identity = asdict(self)
        del identity["steps"], identity["test_set_checkpoints"]
        return identity

    @property
    def identity_hash(self) -> str:
        """SHA-256 of the identity."""
        return configuration_hash(self.identity)

    def checkpoints(self) -> list[int]:
        """Steps at which to measure: logarithmic up to ``measure_every``, then linear.

        >>> config = RunConfig("mlp-small", "digits", 0.1, 20, 0, steps=300, measure_every=100)
        >>> config.checkpoints()
        [0, 10, 15, 22, 32, 46, 68, 100, 200, 300]
        """
        points = {0, *range(self.measure_every, self.steps + 1, self.measure_every)}
        k = 0
        while (point := round(FIRST_CHECKPOINT * 10 ** (k / CHECKPOINTS_PER_DECADE))) < min(
            self.measure_every, self.steps
        ):
            points.add(point)
            k += 1
        return sorted(points)

    def measures_test_set(self, step: int) -> bool:
        """Whether every test sample is measured at this step: at the last checkpoints alone.

        >>> config = RunConfig("mlp-small", "digits", 0.1, 20, 0, steps=300, measure_every=100,
        ...                    test_set_checkpoints=2)
        >>> [step for step in config.checkpoints() if config.measures_test_set(step)]
        [200, 300]
        """
        return step > self.steps - self.test_set_checkpoints * self.measure_every

    def network(self) -> nn.Module:
        """The network at step 0, in eval mode."""
        return NETS[self.net](self.seed).eval()


@lru_cache(maxsize=4)
def load_data(name: str, device: str = "cpu") -> Data:
    """The data set of this name, laid out for training; one process loads it once."""
    if device == "cpu":
        data = DATA[name]()
        return replace(data, train_x=contiguous_for(data.train_x))
    data = load_data(name)
    names = ("train_x", "train_y", "test_x", "test_y")
    return replace(data, **{part: getattr(data, part).to(device) for part in names})


@dataclass(frozen=True)
class MeasuredSamples:
    """Which samples are measured: the same for every run on the same data."""

    train: torch.Tensor  # indices of training samples
    test: torch.Tensor  # indices of test samples
    test_order: torch.Tensor  # of all test samples; misclassified ones are taken in this order

    @classmethod
    def draw(cls, data: Data, n: int) -> MeasuredSamples:
        """``n`` samples of each set, or all where there are fewer."""
        generator = torch.Generator().manual_seed(SAMPLE_SEED)
        train = torch.randperm(len(data.train_x), generator=generator)[:n]
        test_order = torch.randperm(len(data.test_x), generator=generator)
        return cls(train, test_order[:n], test_order)
