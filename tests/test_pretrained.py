"""Published vision transformers on a reader's own images, tried with random weights."""

from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from flatlib import nets
from flatlib.lab import cli, commands, pretrained
from flatlib.lab.populations.robustness import adversarial_sensitivity
from flatlib.lab.pretrained import Images, PretrainedError

SMALL = "test_vit"  # of timm: 160 pixels, 1,000 classes, 0.4 million weights


def draw(path, seed=0, size=(48, 40)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Results of the command for a small network, one that timm lacks, and two images."""
    folder = tmp_path_factory.mktemp("made")
    draw(folder / "images" / "207" / "b.png", 0)
    draw(folder / "images" / "n01440764" / "a.jpg", 1)
    return folder, cli.main(words(folder, SMALL, "no_such_net"))


def words(folder, *models, images="images"):
    options = ["--images", str(folder / images), "--results", str(folder), "--random-weights"]
    return ["run", pretrained.NAME, *options, "--models", ",".join(models), "--no-progress"]


def test_the_command_writes_a_table_and_the_figure(made, capsys):
    folder, code = made
    assert code == 1  # one of the two failed
    table = pd.read_csv(pretrained.table_path(folder))
    assert list(table["model"]) == [SMALL] and table["accuracy"].between(0, 1).all()
    row = table.iloc[0]
    assert (row["n"], row["labels"], row["pixels"], row["n_outputs"]) == (2, "given", 160, 1000)
    net, transform = pretrained.load_model(SMALL, random_weights=True)
    x = Images.of(folder / "images").load(transform).double()
    output = net.double()(x.requires_grad_())
    (slope,) = torch.autograd.grad(output.norm(dim=1).sum(), x)  # J^T u of a unit vector u
    assert float(slope.detach().flatten(1).norm(dim=1).mean()) <= row["mls"]
    assert 0 <= row["mls_residual"] <= 1e-3 * row["mls"]
    drawn = (folder / pretrained.NAME / "figure.svg").read_text()
    assert "<svg" in drawn and "of 1 networks" in drawn


def test_a_network_of_the_table_is_left_alone_and_other_images_are_refused(made, monkeypatch):
    folder, _ = made
    monkeypatch.setattr(pretrained, "row", lambda *_: pytest.fail("measured again"))
    before = pretrained.table_path(folder).read_bytes()
    assert cli.main(words(folder, SMALL)) == 0
    assert pretrained.table_path(folder).read_bytes() == before
    draw(folder / "others" / "c.png", 2)
    draw(folder / "others" / "d.png", 3)
    with pytest.raises(PretrainedError, match="rows of other images; use another results folder"):
        pretrained.run(folder / "others", [SMALL], random_weights=True, results=folder)
    with pytest.raises(PretrainedError, match="rows of other weights"):
        pretrained.run(folder / "images", [SMALL], results=folder)
    assert pretrained.table_path(folder).read_bytes() == before


def test_each_network_that_ends_is_kept_and_a_stop_keeps_those_before(tmp_path, monkeypatch):
    draw(tmp_path / "images" / "a.png")
    draw(tmp_path / "images" / "b.png")

    def stop(name, images, front, device):
        if name == "second":
            raise KeyboardInterrupt
        return {"model": name, **front}

    monkeypatch.setattr(pretrained, "row", stop)
    with pytest.raises(KeyboardInterrupt):
        pretrained.run(
            tmp_path / "images", ["first", "second"], random_weights=True, results=tmp_path,
            progress=False,
        )  # fmt: skip
    assert list(pd.read_csv(pretrained.table_path(tmp_path))["model"]) == ["first"]


def test_the_numbers_of_a_row_are_those_of_plain_autograd():
    net, x = nets.mlp((6, 5, 4), seed=3), torch.randn(3, 6, dtype=torch.float64)
    labels = torch.tensor([0, 3, 1])
    row = pretrained.measured(net.float(), x.float(), labels)
    net, x = net.double(), x.float().double()
    jacobians = [torch.autograd.functional.jacobian(net, one[None]).view(4, 6) for one in x]
    sigma = torch.linalg.svdvals(torch.stack(jacobians))[:, 0]
    squares = sigma**2 * (x**2).sum(dim=1)
    assert row["mls"] == pytest.approx(float(sigma.mean()), rel=1e-6)
    assert row["relative_sensitivity"] == pytest.approx(float(squares.mean()), rel=1e-6)
    attacked = adversarial_sensitivity(net, x) ** 2 * (x**2).sum(dim=1)
    assert row["relative_adversarial"] == pytest.approx(float(attacked.mean()), rel=1e-9)
    error = float(squares.var(correction=1) / 3) ** 0.5
    assert row["relative_sensitivity_error"] == pytest.approx(error, rel=1e-6)
    right = (net(x).argmax(1) == labels).double().mean()
    assert row["accuracy"] == pytest.approx(float(right))
    own = pretrained.measured(net.float(), x.float(), None)
    assert own["labels"] == "own" and math.isnan(own["accuracy"])


def test_adaptive_sharpness_is_of_the_sigmoid_against_one_hot_labels(monkeypatch):
    """Two weights: the mean over Gaussian noise by quadrature."""
    monkeypatch.setattr(pretrained, "DRAWS", 4000)
    net = torch.nn.Sequential(torch.nn.Linear(1, 2, bias=False))
    w = torch.tensor([[1.5], [-0.7]])
    net[0].weight.data = w.clone()
    x = torch.tensor([[2.0], [2.0]])
    row = pretrained.measured(net, x, torch.tensor([0, 0]))
    at, weight = np.polynomial.hermite_e.hermegauss(60)
    weight = weight / weight.sum()

    def loss(noise, entry, target):
        value = 1 / (1 + np.exp(-2.0 * entry * (1 + pretrained.RHO * noise)))
        return (value - target) ** 2 / 2

    rises = [
        weight @ loss(at, entry, target) - loss(0.0, entry, target)
        for entry, target in zip(w.flatten().tolist(), (1.0, 0.0), strict=True)
    ]
    exact = 2 * sum(rises) / pretrained.RHO**2
    error = row["adaptive_sharpness_error"]
    assert abs(row["adaptive_sharpness_noise"] - exact) < 4 * error
    assert error < 0.5 * exact  # or the line above would say little


def test_folders_of_images_are_read_by_class_or_flat(tmp_path):
    for name in ("flat/b.png", "flat/a.png", "flat/notes.txt"):
        draw(tmp_path / name) if name.endswith("png") else (tmp_path / name).write_text("")
    flat = Images.of(tmp_path / "flat")
    assert [path.name for path in flat.paths] == ["a.png", "b.png"] and flat.labels(10) is None
    for name in ("5/a.png", "n01443537/b.png"):
        draw(tmp_path / "classes" / name)
    named = Images.of(tmp_path / "classes")
    assert named.labels(1000).tolist() == [5, 1]  # ImageNet's second class
    with pytest.raises(PretrainedError, match="'5' names none of the network's 3 classes"):
        named.labels(3)
    draw(tmp_path / "classes" / "goldfish" / "c.png")
    with pytest.raises(PretrainedError, match="'goldfish' names none of the network's 1000"):
        Images.of(tmp_path / "classes").labels(1000)


def test_the_hash_of_images_tells_contents_and_classes_apart(tmp_path):
    for name in ("one/1/a.png", "two/1/a.png", "three/2/a.png"):
        draw(tmp_path / name)
        draw(tmp_path / name.partition("/")[0] / "3" / "z.png")
    draw(tmp_path / "four" / "1" / "a.png", seed=1)
    draw(tmp_path / "four" / "3" / "z.png")
    hashes = [Images.of(tmp_path / name).content_hash for name in ("one", "two", "three", "four")]
    assert hashes[0] == hashes[1] and len(set(hashes)) == 3


def test_images_that_cannot_be_used_are_named(tmp_path):
    with pytest.raises(PretrainedError, match=f"there is no folder {re.escape(str(tmp_path))}/no"):
        Images.of(tmp_path / "no")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PretrainedError, match="holds no image"):
        Images.of(tmp_path / "empty")
    draw(tmp_path / "single" / "a.png")
    with pytest.raises(PretrainedError, match="holds 1 image, and a standard error needs 2"):
        Images.of(tmp_path / "single")
    draw(tmp_path / "mixed" / "a.png")
    draw(tmp_path / "mixed" / "1" / "b.png")
    with pytest.raises(PretrainedError, match="or one subfolder of images a class"):
        Images.of(tmp_path / "mixed")
    (tmp_path / "broken").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "broken" / name).write_bytes(b"no image")
    with pytest.raises(PretrainedError, match=r"broken/a\.png cannot be read as an image"):
        Images.of(tmp_path / "broken").load(lambda image: torch.zeros(3))


def test_the_figure_has_the_networks_whose_numbers_are_certain():
    n = 12
    rng = np.random.default_rng(0)
    x = rng.lognormal(size=n)
    table = pd.DataFrame(
        {
            "relative_sensitivity": x,
            "relative_sensitivity_error": 0.1 * x,
            "relative_adversarial": 1 / x,
            "relative_adversarial_error": 0.1 / x,
            "adaptive_sharpness_noise": x**2,
            "adaptive_sharpness_error": 0.1 * x**2,
        }
    )
    table.loc[0, "relative_sensitivity_error"] = 0.16 * x[0]
    table.loc[1, "adaptive_sharpness_error"] = 0.16 * x[1] ** 2
    table.loc[2, "adaptive_sharpness_noise"] = -1.0  # which noise alone can make
    assert list(pretrained.certain(table).index) == list(range(3, n))
    drawn = pretrained.figure(table)
    assert len(pretrained.certain(table, "relative_adversarial")) == 10
    for said in ("10 of 12 networks", "9 of 12 networks", "correlation 1.00", "correlation −1.00"):
        assert said in drawn
    points = re.findall(r'<g id="PathCollection_\d">(.+?)</g>\n {3}</g>', drawn, re.DOTALL)
    assert [len(re.findall("<use ", each)) for each in points] == [10, 9]


def test_options_without_a_meaning_are_refused(tmp_path):
    def given(*more):
        options = commands.parser().parse_args(["run", *more])
        return options.command(options)

    with pytest.raises(ValueError, match="pretrained-vits needs --images FOLDER"):
        given(pretrained.NAME)
    with pytest.raises(ValueError, match="pretrained-vits takes no --seeds"):
        given(pretrained.NAME, "--images", str(tmp_path), "--seeds", "1")
    with pytest.raises(ValueError, match="pretrained-vits takes no --workers"):
        given(pretrained.NAME, "--images", str(tmp_path), "--workers", "3")
    with pytest.raises(ValueError, match="an experiment takes no --images"):
        given("mlp-bounds", "--images", str(tmp_path))
    with pytest.raises(ValueError, match="a population takes no --random-weights"):
        given("population-mlp", "--random-weights")


def test_random_weights_are_the_same_each_time_and_leave_the_random_state_alone():
    before = torch.get_rng_state()
    nets = [pretrained.load_model(SMALL, random_weights=True)[0] for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), before)
    for one, other in zip(*(net.parameters() for net in nets), strict=True):
        assert torch.equal(one, other)


def test_the_default_networks_are_transformers_of_a_thousand_classes():
    names = pretrained.published()
    assert len(names) > 150 and "vit_base_patch16_224.augreg_in1k" in names
    assert not [name for name in names if "512" in name or name.endswith("_in21k")]
