"""Which curve of the archive shows what a figure shows, as an address within the archive's page.

The page of the archive draws one quantity of one network's runs through training, for some settings
and some sets of samples. A `View` names all four, and so does what stands behind the ``#`` of a
link to the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from flatlib.lab import experiments
from flatlib.lab.archive import SCALES, Runs
from flatlib.lab.sentences import SYMBOLS
from flatlib.lab.verdicts import Verdict

QUANTITIES = {  # column of an archived table: (title, logarithmic axis)
    "train_loss": ("train loss", True),
    "train_accuracy": ("train accuracy", False),
    "test_loss": ("test loss", True),
    "test_accuracy": ("test accuracy", False),
    "samples_loss": ("loss on misclassified images", True),
    "n_wrong": ("misclassified test images", False),
    "root_sharpness": ("sharpness √S, Eq. (3)", False),
    "log_volume": ("log volume, Eq. (10)", False),
    "log_volume_top3": ("log volume, largest 3", False),
    "gradient_energy": ("G, Eq. (6), k = 2", False),
    "local_dimensionality": ("local dimensionality", False),
    "mls": ("MLS", False),
    "A": ("A of Eq. (28)", True),
    "B": ("B of Eq. (28)", True),
    "C": ("C of Eq. (28)", True),
    "C_prime": ("C' of Eq. (N.4)", True),
    "D": ("D of Eq. (28)", True),
    "B/A": ("B/A", True),
    "C/B": ("C/B", True),
    "D/C": ("D/C", True),
}
ON = {  # samples that a quantity is measured on, where these are not all
    "train_loss": ("train",),
    "train_accuracy": ("train",),
    "test_loss": ("test",),
    "test_accuracy": ("test",),
    "samples_loss": ("misclassified",),
    "n_wrong": ("misclassified",),
}
GAP = "gap of "  # before an inequality's key: a quantity, in decades
WORDS = {"vgg10": "VGG10", "relu": "ReLU", "tanh": "tanh"}  # of claims' networks
# What figures call otherwise.
DERIVED = {"loss_there": "test_loss", "lead_as_factor": "D/C", "lead_as_difference": "D"}


@dataclass(frozen=True)
class View:
    """What the archive's page shows."""

    network: str  # from `network_of`
    quantity: str  # a key of ``QUANTITIES``, or ``GAP`` and the key of an inequality
    settings: tuple[tuple[float, int], ...]  # (learning rate, batch size)
    samples: tuple[str, ...] = ("train",)

    @property
    def address(self) -> str:
        """What stands behind the ``#`` of a link.

        >>> View("laptop_vgg10_cifar10-0-1", "gap of 13", ((0.1, 20),), ("test",)).address
        'network=laptop_vgg10_cifar10-0-1&quantity=gap%20of%2013&settings=0.1x20&samples=test'
        """
        parts = {
            "network": self.network,
            "quantity": self.quantity,
            "settings": ",".join(map(setting_key, self.settings)),
            "samples": ",".join(self.samples),
        }
        return "&".join(f"{name}={quote(value, safe=',')}" for name, value in parts.items())


def setting_key(setting: tuple[float, int]) -> str:
    """A setting in an address.

    >>> setting_key((0.05, 20))
    '0.05x20'
    """
    return "{:g}x{}".format(*setting)


def network_of(name: str, scale: str) -> str:
    """How the archive's page calls the network, data and scale of an experiment.

    Args:
        name: of the experiment, a key of ``flatlib.lab.experiments.EXPERIMENTS``.
        scale: of its runs.

    >>> network_of("mlp-batch-size", "laptop") == network_of("mlp-bounds", "laptop")
    True
    """
    protocol = experiments.SCALES[scale][experiments.EXPERIMENTS[name].net]
    return f"{scale}_{protocol.net}_{protocol.data}"


def archived_scale(name: str, scale: str, results: Path | None = None) -> str:
    """The scale of the archive's runs of an experiment; smoke runs are in no archive.

    Args:
        name: of the experiment.
        scale: of the runs that a figure draws.
        results: the archive; by default that of the checkout.

    Returns:
        The scale itself, or in place of smoke the largest that is archived; empty if none is.
    """
    if scale != "smoke":
        return scale
    longer = [each for each in SCALES if each != "smoke"]
    return next((each for each in longer[::-1] if experiments.records(name, each, results)), "")


def views(
    runs: Runs,
    titles: Mapping[str, str],
    settings: Sequence[tuple[float, int]] | None = None,
    samples: Sequence[str] = ("train",),
) -> dict[str, View]:
    """The views of what a figure draws from some runs, by the words of their links.

    Args:
        runs: that are drawn.
        titles: for each quantity that is drawn, its title.
        settings: that are drawn; by default all of the experiment.
        samples: that are drawn.
    """
    scale = archived_scale(runs.name, runs.scale)
    if not scale:
        return {}
    network, own = network_of(runs.name, scale), tuple(settings or runs.settings)
    found = {}
    for column, title in titles.items():
        quantity = DERIVED.get(column, column)
        measured = tuple(s for s in samples if s in ON.get(quantity, samples))
        found[title] = View(network, quantity, own, measured or ON[quantity])
    return found


def views_of_verdicts(verdicts: Sequence[Verdict]) -> dict[str, View]:
    """The views of the quantities that claims speak of, by the words of their links.

    Args:
        verdicts: those without runs, or on what the archive's page does not draw, have no view.
    """
    drawn = [one for one in verdicts if one.scale and _quantity(one) in QUANTITIES]
    several_networks = len({one.claim.network for one in drawn}) > 1
    several_scales = len({one.scale for one in drawn}) > 1
    found: dict[str, View] = {}
    for one in drawn:
        claim, quantity = one.claim, _quantity(one)
        words = [SYMBOLS.get(quantity, QUANTITIES[quantity][0])]
        words += [WORDS[claim.network]] if several_networks else []
        words += [f"{claim.samples} images"] if claim.samples != "train" else []
        words += [f"{one.scale} scale"] if several_scales else []
        settings = claim.settings or experiments.EXPERIMENTS[claim.experiment].settings
        both = ("test", "misclassified")
        samples = both if claim.samples == "misclassified" else (claim.samples,)
        view = View(network_of(claim.experiment, one.scale), quantity, tuple(settings), samples)
        found.setdefault(", ".join(words), view)
    return found


def _quantity(verdict: Verdict) -> str:
    return DERIVED.get(verdict.claim.quantity, verdict.claim.quantity)


def addresses(found: Mapping[str, View]) -> dict[str, str]:
    """Words and addresses of some views, as a figure carries them."""
    return {words: view.address for words, view in found.items()}
