"""Vision transformers as they are published, measured on a reader's own images.

timm has the networks and their weights. Each network becomes one row of a table, in columns named
as those of `flatlib.lab.populations` where the quantity is the same, and the rows become the
paper's figure of sensitivity against adaptive sharpness.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from flatlib.comparisons import NoiseEstimate, adaptive_sharpness_by_noise
from flatlib.files import file_hash, write_atomically
from flatlib.lab.associations import Networks
from flatlib.lab.data import vision
from flatlib.lab.experiments import Outcome
from flatlib.lab.populations.robustness import adversarial_sensitivity
from flatlib.lab.records import default_results
from flatlib.measurement import measure
from flatlib.sharpness import squared_loss

NAME = "pretrained-vits"
FIGURE = "figure.svg"
PUBLISHED, RANDOM = "published", "random"  # weights
LARGEST = 384  # pixels a side of the networks that are measured unless others are named
CLASSES = 1000  # of these networks
RHO = 0.1  # size of the noise relative to each weight, as the authors have it
DRAWS = 100  # of the noise
TOLERANCE = 1e-4  # of each image's MLS
CERTAIN = 0.15  # relative standard error below which a network enters the figure
SENSITIVITY, SHARPNESS = "relative_sensitivity", "adaptive_sharpness_noise"
ADVERSARIAL = "relative_adversarial"
PARTS = 4  # images that the attack takes at once
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff")


class PretrainedError(ValueError):
    """Images, networks or a table that cannot be used; says which and what to do."""


@dataclass(frozen=True)
class Images:
    """A folder of images, and the class of each where its subfolders are named by class."""

    paths: tuple[Path, ...]
    classes: tuple[str, ...] | None  # names of the subfolders

    @classmethod
    def of(cls, folder: Path) -> Images:
        """Every image of a folder, in the order of their names.

        Args:
            folder: of images, or of one subfolder of images a class. A class is named by its
                number, from 0 on, or as ImageNet does, such as ``n01440764``.

        Raises:
            PretrainedError: there is no such folder, fewer than two images, or images both in
                the folder and in subfolders.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise PretrainedError(f"there is no folder {folder}; --images names one of images")
        found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        if not found:
            raise PretrainedError(f"{folder} holds no image ({', '.join(SUFFIXES)})")
        if len(found) == 1:
            raise PretrainedError(f"{folder} holds 1 image, and a standard error needs 2")
        depths = {len(path.relative_to(folder).parts) for path in found}
        if depths == {1}:
            return cls(tuple(found), None)
        if depths == {2}:
            return cls(tuple(found), tuple(path.parent.name for path in found))
        raise PretrainedError(
            f"{folder} must hold images, or one subfolder of images a class, and nothing deeper"
        )

    @property
    def content_hash(self) -> str:
        """SHA-256 of all files with the names of their classes."""
        lines = [
            f"{path.parent.name * bool(self.classes)} {file_hash(path)}" for path in self.paths
        ]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def load(self, transform) -> Tensor:
        """The images as a network wants them, ``(n, 3, H, W)``.

        Raises:
            PretrainedError: a file is no image.
        """
        from PIL import Image, UnidentifiedImageError

        loaded = []
        for path in self.paths:
            try:
                with Image.open(path) as image:
                    loaded.append(transform(image.convert("RGB")))
            except (UnidentifiedImageError, OSError) as fault:
                raise PretrainedError(f"{path} cannot be read as an image: {fault}") from fault
        return torch.stack(loaded)

    def labels(self, n_outputs: int) -> Tensor | None:
        """The number of each image's class, ``(n,)``, or None where no class is named.

        Raises:
            PretrainedError: a class is none of the network's.
        """
        if self.classes is None:
            return None
        numbers = {name: _number(name, n_outputs) for name in set(self.classes)}
        return torch.tensor([numbers[name] for name in self.classes])


def _number(name: str, n_outputs: int) -> int:
    """The class of a subfolder's name."""
    number = int(name) if name.isdecimal() else _imagenet().get(name, -1)
    if not 0 <= number < n_outputs:
        raise PretrainedError(
            f"the subfolder {name!r} names none of the network's {n_outputs} classes; a class is "
            "named by its number, from 0 on, or as ImageNet does, such as n01440764"
        )
    return number


def _imagenet() -> dict[str, int]:
    """ImageNet's names of its classes."""
    _timm()
    from timm.data import ImageNetInfo

    return {name: number for number, name in enumerate(ImageNetInfo().label_names())}


def _timm():
    """timm, beside whatever build of torchvision.

    Raises:
        PretrainedError: it is not installed.
    """
    vision.datasets()
    try:
        import timm
    except ModuleNotFoundError as fault:
        raise PretrainedError(
            f"published networks need timm ({fault}); "
            "install it with: pip install 'flatlib-sharpness[pretrained]'"
        ) from fault
    return timm


def published() -> list[str]:
    """timm's vision transformers with weights, images of at most 384 pixels and 1,000 classes."""
    timm = _timm()
    chosen = []
    for name in timm.list_models("*vit*", pretrained=True):
        form = timm.get_pretrained_cfg(name)
        if form.input_size[-1] <= LARGEST and form.num_classes == CLASSES:
            chosen.append(name)
    return chosen


def load_model(name: str, random_weights: bool = False) -> tuple[nn.Module, object]:
    """A network of timm's in eval mode, and what makes its input of an image.

    Args:
        name: such as ``vit_tiny_patch16_224``; ``timm.list_models("*vit*")`` lists them.
        random_weights: draw the weights instead of downloading them, the same at each call.

    Raises:
        PretrainedError: timm has no such network, or its weights cannot be had.
    """
    timm = _timm()
    with torch.random.fork_rng(devices=[]):  # the caller's random state is left alone
        torch.manual_seed(0)
        try:
            net = timm.create_model(name, pretrained=not random_weights).eval()
        except Exception as fault:  # timm and the hub that it asks raise errors of many kinds
            raise PretrainedError(f"timm cannot make {name}: {fault}") from fault
    form = timm.data.resolve_data_config(model=net)
    return net, timm.data.create_transform(**form, is_training=False)


def measured(net: nn.Module, x: Tensor, labels: Tensor | None) -> dict[str, object]:
    r"""What is measured of one network, as a part of its row.

    ===========================  ===============================================================
    column                       what
    ===========================  ===============================================================
    n                            images
    labels                       ``given``, or ``own`` where each image's class is the network's
                                 own most likely one
    accuracy                     over the images; empty without labels
    mls                          mean over images of sigma_1, Sec. 3.2
    mls_residual                 the largest of the bounds on its error
    relative_sensitivity         mean over images of :math:`\lVert x\rVert_2^2\sigma_1^2`, the
                                 squared change of the output for a change of the image by a
                                 given share
    relative_sensitivity_error   its standard error over images
    relative_adversarial         the same with the difference quotient of the authors' attack in
    relative_adversarial_error   place of sigma_1, see `adversarial_sensitivity`
    adaptive_sharpness_noise     of the squared loss between the outputs' sigmoid and one-hot
                                 labels, as the paper's later versions have it
    adaptive_sharpness_error     its standard error over draws of noise
    ===========================  ===============================================================

    Args:
        net: a classifier in eval mode.
        x: its input, ``(n, 3, H, W)``, n of 2 or more, on the device of the network.
        labels: the number of each image's class, ``(n,)``, or None.

    Raises:
        TypeError, ValueError, NotConvergedError: as `flatlib.measure`, matrix-free.

    Source: Sec. 3.2, and the paper's later versions with the public code of its authors.
    """
    with torch.no_grad():
        output = torch.cat([net(part) for part in x.split(16)])
    own = output.argmax(dim=1)
    classes = own if labels is None else labels.to(own.device)
    y = nn.functional.one_hot(classes, output.shape[1]).double()
    m = measure(net, x, method="matrix-free", tolerance=TOLERANCE, probes=2, progress=False)
    attacked = [
        adversarial_sensitivity(net, part, seed=seed) for seed, part in enumerate(x.split(PARTS))
    ]
    lengths = x.double().flatten(1).square().sum(dim=1)
    squares = {SENSITIVITY: lengths * m.mls**2, ADVERSARIAL: lengths * torch.cat(attacked) ** 2}
    sharpness: NoiseEstimate = adaptive_sharpness_by_noise(
        net, x, y, RHO, n_draws=DRAWS, loss=lambda z, target: squared_loss(z.sigmoid(), target)
    )
    accuracy = float((own == classes).double().mean())
    return {
        "n": len(x),
        "labels": "own" if labels is None else "given",
        "accuracy": math.nan if labels is None else accuracy,
        "mls": float(m.mls.mean()),
        "mls_residual": float(m.mls_residual.max()),
        **{name: float(each.mean()) for name, each in squares.items()},
        **{f"{name}_error": float(each.std()) / len(x) ** 0.5 for name, each in squares.items()},
        SHARPNESS: sharpness.estimate,
        "adaptive_sharpness_error": sharpness.standard_error,
    }


def row(name: str, images: Images, front: dict[str, str], device: str) -> dict[str, object]:
    """One network's row: which network, ``front``, and what `measured` finds."""
    net, transform = load_model(name, front["weights"] == RANDOM)
    x, n_outputs = images.load(transform), net.num_classes
    about = {
        "model": name,
        **front,
        "pixels": x.shape[-1],
        "n_outputs": n_outputs,
        "n_parameters": sum(parameter.numel() for parameter in net.parameters()),
    }
    return about | measured(net.to(device), x.to(device), images.labels(n_outputs))


def run(
    folder: Path,
    models: Sequence[str] | None = None,
    *,
    random_weights: bool = False,
    results: Path | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> list[Outcome]:
    """Measure networks on a folder of images; a network that the table has is left alone.

    The table is ``pretrained-vits/table.csv`` in the results, written anew after each network, and
    ``pretrained-vits/figure.svg`` is drawn from it at the end.

    Args:
        folder: see `Images.of`.
        models: names of timm's networks; by default those of `published`.
        random_weights: draw the weights instead of downloading them.
        results: by default those of the checkout.
        device: such as ``"cuda"``.
        progress: whether to draw a bar.

    Returns:
        How each network ended; one that fails does not stop the others.

    Raises:
        PretrainedError: the folder cannot be used, or the table is of other images or weights.
    """
    images, path = Images.of(folder), table_path(results)
    front = {
        "weights": RANDOM if random_weights else PUBLISHED,
        "images_sha256": images.content_hash,
    }
    rows = _rows_so_far(path, front)
    outcomes = []
    for name in tqdm(list(models or published()), disable=not progress, unit="network"):
        if name not in rows:
            try:
                rows[name] = row(name, images, front, device)
            except Exception as fault:  # whatever stopped this network shall not stop the others
                outcomes.append(Outcome(name, "failed", f"{type(fault).__name__}: {fault}"))
                continue
            _write(path, pd.DataFrame(rows.values()))
        outcomes.append(Outcome(name, "complete"))
    if rows:
        drawing = figure(pd.DataFrame(rows.values()))
        write_atomically(path.with_name(FIGURE), lambda file: file.write(drawing.encode()))
    return outcomes


def table_path(results: Path | None = None) -> Path:
    """Where the table is, in the results."""
    return Path(results or default_results()) / NAME / "table.csv"


def _rows_so_far(path: Path, front: dict[str, str]) -> dict[str, dict[str, object]]:
    """The rows of the table by network; none where there is no table."""
    if not path.exists():
        return {}
    table = pd.read_csv(path)
    for column, value in front.items():
        if set(table.get(column, ())) != {value}:
            raise PretrainedError(
                f"{path} has rows of other {column.partition('_')[0]}; use another results folder, "
                "or delete the table"
            )
    return {line["model"]: line for line in table.to_dict("records")}


def _write(path: Path, table: pd.DataFrame) -> None:
    text = table.to_csv(index=False, lineterminator="\n")
    write_atomically(path, lambda file: file.write(text.encode()))


def certain(table: pd.DataFrame, sensitivity: str = SENSITIVITY) -> pd.DataFrame:
    """The networks both of whose numbers have a relative standard error below ``CERTAIN``."""
    errors = {sensitivity: f"{sensitivity}_error", SHARPNESS: "adaptive_sharpness_error"}
    enough = [table[error] < CERTAIN * table[value] for value, error in errors.items()]
    return table[enough[0] & enough[1]]


def figure(table: pd.DataFrame) -> str:
    """Sensitivity against adaptive sharpness, a point a network, as SVG text on logarithmic axes.

    On the left the sensitivity is what the authors' attack finds, as in the paper, on the right it
    is the MLS. Networks that are not `certain` are left out; a panel's title says how many are
    there, with Spearman's correlation and its 95 % interval.
    """
    import seaborn as sns  # which takes a second that no other command shall wait for

    from flatlib.lab import figures

    drawing, axes = figures.canvas(1, 2, height=280, sharey=True)
    panels = {ADVERSARIAL: "by the authors' attack, ‖x‖² q²", SENSITIVITY: "‖x‖² MLS²"}
    for ax, (name, label) in zip(axes, panels.items(), strict=True):
        shown = certain(table, name)
        found = Networks(shown).correlation(name, SHARPNESS)
        low, high = found.interval(0.05)
        said = f"\ncorrelation {found.value:.2f} ({low:.2f} to {high:.2f})".replace("-", "−")
        sns.scatterplot(shown, x=name, y=SHARPNESS, color=figures.COLORS["blue"], ax=ax)
        ax.set(xscale="log", yscale="log", xlabel=label, ylabel="adaptive sharpness")
        some = f"{len(shown)} of {len(table)} networks"
        ax.set_title(some + said if found.n > 3 else some, fontsize=9)
    return figures.to_svg(drawing)
