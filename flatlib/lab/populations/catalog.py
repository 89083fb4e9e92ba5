"""The populations: what each draws, what it is trained on, and to which level of the loss."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

from torch import nn

from flatlib.lab.manifest import configuration_hash

from . import protocol
from .draws import choice, log_uniform, log_uniform_integer, uniform
from .networks import BUILDERS
from .optimizers import OPTIMIZERS

FOLDER = "populations"  # within the folder of results


@dataclass(frozen=True)
class Population:
    """Networks of one kind, drawn from one distribution and compared at one level and one step."""

    name: str
    title: str  # what the networks are, in words
    net: str  # name in networks.BUILDERS
    data: str  # name in experiments.config.DATA
    networks: int  # how many are planned
    lr: tuple[float, float]  # log-uniform
    batch_size: tuple[int, int]  # log-uniform
    level: float  # of the train loss, at a check
    fixed_step: int
    limit: int  # steps within which the level is to be reached
    check_every: int  # steps
    sizes: dict[str, tuple[int, ...]] = field(default_factory=dict)  # arguments of the builder
    optimizers: tuple[str, ...] = ("sgd",)  # names in optimizers.OPTIMIZERS, in turn
    hessian: bool = True  # whether the Hessian's largest eigenvalue is affordable

    def __post_init__(self):
        for name in ("fixed_step", "limit"):
            if getattr(self, name) % self.check_every or getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be a positive multiple of check_every = {self.check_every}, got "
                    f"{getattr(self, name)}"
                )

    def network(self, index: int) -> Network:
        """The network of this index, whatever the others are.

        Raises:
            ValueError: a negative index.
        """
        if index < 0:
            raise ValueError(f"index must be at least 0, got {index}")

        def u(name: str) -> float:
            return uniform(self.name, index, name)

        n_optimizers = len(self.optimizers)
        optimizer = self.optimizers[index % n_optimizers]
        (low, high), rate = self.lr, OPTIMIZERS[optimizer].rate
        return Network(
            population=self,
            index=index,
            optimizer=optimizer,
            lr=log_uniform(u("lr"), rate * low, rate * high),
            batch_size=log_uniform_integer(u("batch_size"), *self.batch_size),
            seed=index // n_optimizers,
            sizes={name: choice(u(name), among) for name, among in self.sizes.items()},
        )

    def layers(self) -> list[str]:
        """The layers of its largest network, which those of all others are among."""
        largest = {name: max(among) for name, among in self.sizes.items()}
        net = BUILDERS[self.net](0, **largest)
        kinds = (nn.Linear, nn.Conv2d)
        return [name for name, module in net.named_modules() if isinstance(module, kinds)]


@dataclass(frozen=True)
class Network:
    """One network of a population: all that its numbers depend on."""

    population: Population
    index: int
    optimizer: str
    lr: float
    batch_size: int
    seed: int  # of the initial weights and of the order of the samples
    sizes: dict[str, int]

    def __hash__(self) -> int:
        return hash((self.population.name, self.index))

    @property
    def name(self) -> str:
        """Its folder in the archive."""
        return f"network-{self.index:02d}"

    @property
    def scale(self) -> str:
        """The folder of its population in the archive."""
        return f"{FOLDER}/{self.population.name}"

    @property
    def steps(self) -> int:
        """The most steps that it takes."""
        return max(self.population.limit, self.population.fixed_step)

    @property
    def hyperparameters(self) -> dict[str, object]:
        """What was drawn, and which optimizer is at work."""
        drawn = {name: getattr(self, name) for name in ("optimizer", "lr", "batch_size", "seed")}
        return drawn | self.sizes

    @property
    def identity(self) -> dict[str, object]:
        """All that its numbers depend on, as the manifest says it."""
        population = self.population
        settings = {name.lower(): value for name, value in vars(protocol).items() if name.isupper()}
        identity = {
            "net": population.net,
            "data": population.data,
            **self.hyperparameters,
            "population": population.name,
            "index": self.index,
            "level": population.level,
            "fixed_step": population.fixed_step,
            "limit": population.limit,
            "measure_every": population.check_every,
            "measure_samples": protocol.TRAIN_SAMPLES,
            "loss": "mse",
            "protocol": settings,
        }
        return json.loads(json.dumps(identity))  # as a manifest has it: lists, no tuples

    @property
    def identity_hash(self) -> str:
        """SHA-256 of the identity."""
        return configuration_hash(self.identity)

    def net(self) -> nn.Module:
        """The network at step 0, in eval mode."""
        return BUILDERS[self.population.net](self.seed, **self.sizes).eval()


_MLP = Population(
    name="mlp-relu",
    title="MLP 784-500-500-500-10, ReLU, the first 2,000 images of FashionMNIST",
    net="mlp-relu",
    data="fashion-mnist-first-2000",
    networks=40,
    lr=(0.1, 0.5),
    batch_size=(4, 64),
    level=0.015,
    fixed_step=2_000,
    limit=10_000,
    check_every=250,
)
_EACH = (
    Population(
        name="mlp-relu-digits",
        title="MLP with ReLU of random width and depth on scikit-learn's digits: quick to make",
        net="mlp-relu-digits",
        data="digits",
        networks=3,
        lr=(0.2, 1.0),
        batch_size=(8, 64),
        level=0.02,
        fixed_step=400,
        limit=2_000,
        check_every=50,
        sizes={"width": (16, 24, 32, 48), "depth": (2, 3)},
    ),
    _MLP,
    replace(
        _MLP,
        name="mlp",
        title="MLP 784-500-500-500-10, tanh, the first 2,000 images of FashionMNIST",
        net="mlp",
        level=0.02,
        fixed_step=5_000,
        limit=20_000,
        check_every=500,
    ),
    replace(
        _MLP,
        name="optimizers",
        title="MLP 784-500-500-500-10, ReLU, trained by six optimizers with five seeds each",
        networks=30,
        lr=(0.2, 0.2),
        batch_size=(20, 20),
        optimizers=tuple(OPTIMIZERS),
    ),
    Population(
        name="vision-transformer",
        title="Vision transformers of random width, depth and heads, 2,000 images of FashionMNIST",
        net="vision-transformer",
        data="fashion-mnist-first-2000",
        networks=40,
        # Above a rate of about 10 / width the head's steps diverge at once.
        lr=(0.03, 0.1),
        batch_size=(4, 64),
        level=0.03,
        fixed_step=2_000,
        limit=16_000,
        check_every=500,
        sizes={
            "width": (36, 48, 60, 72, 84, 96),  # which 2, 3 and 4 heads share evenly
            "depth": (2, 3, 4, 5, 6),
            "heads": (2, 3, 4),
        },
    ),
    Population(
        name="lenet5",
        title="LeNet5, the first 2,000 images of CIFAR-10",
        net="lenet5",
        data="cifar10-first-2000",
        networks=40,
        lr=(0.1, 0.5),
        batch_size=(4, 64),
        level=0.02,
        fixed_step=4_000,
        limit=20_000,
        check_every=500,
    ),
    Population(
        name="vgg10",
        title="VGG10, classes 0 and 1 of CIFAR-10",
        net="vgg10",
        data="cifar10-0-1",
        networks=40,
        lr=(0.05, 0.2),
        batch_size=(4, 64),
        level=0.01,
        fixed_step=5_000,
        limit=20_000,
        check_every=500,
    ),
    Population(
        name="vgg10-ten-classes",
        title="VGG10, the first 10,000 images of all ten classes of CIFAR-10",
        net="vgg10",
        data="cifar10-first-10000",
        networks=22,  # one of the first 20 never came down to the level, and 20 are needed
        lr=(0.05, 0.2),
        batch_size=(4, 64),
        level=0.04,
        fixed_step=10_000,
        limit=40_000,
        check_every=1_000,
    ),
)
POPULATIONS: dict[str, Population] = {population.name: population for population in _EACH}
