"""Reading runs for a figure: what is there, what is missing, and smoke runs where nothing is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_archive import SEED_SHIFT, write

from flatlib.lab import archive
from flatlib.lab.experiments import RecordError
from flatlib.lab.records import Record

BASE = [(0.1, 20, seed, 60_000) for seed in SEED_SHIFT]


def test_caption_of_a_whole_archive_names_data_scale_seeds_and_steps(tmp_path):
    write(tmp_path, "vgg10-test-set", BASE)
    caption = archive.read("vgg10-test-set", "laptop", tmp_path).caption()
    for words in (
        "VGG10 on CIFAR-10, classes 0 and 1 (2,000 training images), laptop scale",
        "measured on 100 samples",
        "mean over samples and outputs, whose gradient is 2/N",
        "Seeds 0 to 2 to step 60,000.",
        "Mean train loss at the end: lr 0.1, batch 20 1.0e-03.",
    ):
        assert words in caption
    for absent in ("Missing", "Fewer", "short of", "No run", "diverged"):
        assert absent not in caption


def test_caption_names_settings_seeds_and_steps_that_are_missing(tmp_path):
    write(tmp_path, "vgg10-batch-size", [*BASE, (0.1, 8, 1, 30_000)])
    runs = archive.read("vgg10-batch-size", "laptop", tmp_path)
    assert runs.missing == ((0.1, 32),)
    caption = runs.caption()
    assert "Missing, no run archived: lr 0.1, batch 32." in caption
    assert "Fewer than the 3 seeds planned: lr 0.1, batch 8." in caption
    assert "1 of 4 runs are short of 60,000 steps." in caption
    assert "lr 0.1, batch 8: seed 1 to step 30,000." in caption
    assert "lr 0.1, batch 20: seeds 0 to 2 to step 60,000." in caption
    assert runs.summary().endswith(
        "laptop scale, 30,000 to 60,000 steps, seed 1, and seeds 0 to 2 at lr 0.1, batch 20"
    )
    assert runs.summary([(0.1, 8)]).endswith("30,000 steps, seed 1")
    assert runs.reservations([(0.1, 20)]) == ""


def test_seeds_and_steps_that_settings_share_are_said_once(tmp_path):
    shared = [(0.1, batch, seed, 60_000) for batch in (8, 20, 32) for seed in SEED_SHIFT]
    write(tmp_path, "mlp-batch-size", shared)
    caption = archive.read("mlp-batch-size", "laptop", tmp_path).caption()
    assert caption.count("60,000") == caption.count("eeds 0 to 2") == 1


def test_the_next_smaller_archived_scale_is_read_and_said(tmp_path):
    write(tmp_path, "vgg10-test-set", BASE)
    runs = archive.read("vgg10-test-set", "paper", tmp_path)
    assert (runs.asked, runs.scale, len(runs.manifests)) == ("paper", "laptop", 3)
    said = "No run at paper scale is archived, so this is the laptop scale."
    assert runs.caption().startswith(said) and runs.reservations().startswith(said)


def test_a_run_has_fitted_from_its_first_checkpoint_at_the_threshold(tmp_path):
    write(tmp_path, "mlp-bounds", BASE)
    fits = archive.read("mlp-bounds", "laptop", tmp_path).fit_steps()
    assert fits.tolist() == [30_000] * 3
    assert archive.read("mlp-bounds", "laptop", tmp_path).fit_steps(1.01).isna().all()


def test_seeds_of_different_length_are_told_apart(tmp_path):
    write(tmp_path, "mlp-bounds", [(0.1, 20, 0, 60_000), (0.1, 20, 1, 30_000)])
    caption = archive.read("mlp-bounds", "laptop", tmp_path).caption()
    assert "Seeds 0, 1 to step 60,000, 30,000." in caption


def test_a_diverged_run_is_named_and_left_out_of_comparisons(tmp_path):
    write(tmp_path, "mlp-batch-size", BASE)
    write(tmp_path, "mlp-batch-size", [(0.1, 8, 0, 60_000)], "diverged", "loss infinite")
    runs = archive.read("mlp-batch-size", "laptop", tmp_path)
    assert "batch8_seed0 diverged: loss infinite" in runs.caption()
    rows, step, out = runs.at_one_step()
    assert (len(rows), step) == (3, 60_000)
    assert out == ["mlp_fashion-mnist-first-2000_lr0.1_batch8_seed0"]


def test_nothing_to_compare_if_all_diverged(tmp_path):
    write(tmp_path, "mlp-bounds", BASE, "diverged", "loss infinite")
    with pytest.raises(ValueError, match="every long run of mlp-bounds at laptop scale diverged"):
        archive.read("mlp-bounds", "laptop", tmp_path).at_one_step()


def test_runs_of_another_experiment_are_not_read(tmp_path):
    write(tmp_path, "mlp-learning-rate", [(0.05, 20, 0, 60_000), (0.1, 20, 0, 60_000)])
    write(tmp_path, "vgg10-test-set", BASE)
    runs = archive.read("mlp-batch-size", "laptop", tmp_path)
    assert set(runs.table["run"]) == {"mlp_fashion-mnist-first-2000_lr0.1_batch20_seed0"}


def test_last_rows_and_root_of_sharpness(tmp_path):
    write(tmp_path, "mlp-batch-size", [*BASE, (0.1, 8, 1, 30_000)])
    last = archive.read("mlp-batch-size", "laptop", tmp_path).last
    assert last.loc[(0.1, 8, 1), "step"] == 30_000
    assert (last["root_sharpness"] ** 2 - last["sharpness"]).abs().max() < 1e-9
    assert last.index.tolist() == [(0.1, 8, 1), (0.1, 20, 0), (0.1, 20, 1), (0.1, 20, 2)]


def test_every_run_of_the_repository_has_its_weights_or_says_how_to_make_them():
    results = Path(__file__).resolve().parents[1] / "results"
    for scale in ("laptop", "paper"):
        for folder in sorted((results / scale).iterdir()):
            manifest = Record(results, scale, folder.name).read_manifest()
            if manifest["weights"] is None:
                words = manifest["weights_command"].split()
                seed = words[words.index("--seeds") + 1]
                assert words[:2] == ["flatlib", "run"] and folder.name.endswith(f"_seed{seed}")
            else:
                assert (folder / manifest["weights"]["file"]).exists()


def test_an_empty_archive_gives_the_smoke_runs_and_says_so(tmp_path):
    runs = archive.read("mlp-bounds", "laptop", tmp_path, seeds=(3,))
    assert (runs.asked, runs.scale) == ("laptop", "smoke")
    assert runs.table["seed"].unique().tolist() == [3]
    assert runs.caption().startswith(
        "No run at laptop scale is archived, so this is the smoke scale, computed just now"
    )
    assert "digits" in runs.caption()
    assert not list(tmp_path.iterdir()), "what is computed for a page stays out of the archive"
    again = archive.read("mlp-bounds", "smoke", seeds=(3,))
    assert again.table.equals(runs.table)
    assert "No run at" not in again.caption()


def test_an_altered_archive_is_an_error_and_no_reason_to_compute(tmp_path):
    write(tmp_path, "mlp-bounds", BASE)
    table = next(tmp_path.glob("laptop/*/measurements.csv"))
    table.write_text(table.read_text().replace("0.9", "0.8", 1))
    with pytest.raises(RecordError, match="is altered"):
        archive.read("mlp-bounds", "laptop", tmp_path)


def test_unknown_experiments_and_scales_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no experiment is called 'vgg'"):
        archive.read("vgg", "laptop", tmp_path)
    with pytest.raises(ValueError, match="scale must be one of"):
        archive.read("mlp-bounds", "tiny", tmp_path)


def test_runs_that_diverged_or_are_short_are_not_compared_at_one_loss_either(tmp_path):
    """Their losses would set the level: 1e-1 at step 0, against 1e-3 at 60,000."""
    write(tmp_path, "mlp-batch-size", BASE)
    write(tmp_path, "mlp-batch-size", [(0.1, 8, 0, 0)])
    write(tmp_path, "mlp-batch-size", [(0.1, 32, 1, 30_000)], "diverged", "loss infinite")
    runs = archive.read("mlp-batch-size", "laptop", tmp_path)
    rows = runs.at_one_loss(((0.1, 8), (0.1, 20), (0.1, 32)))
    found = rows[["batch_size", "seed", "step"]].sort_values("seed").to_numpy().tolist()
    assert found == [[20, 0, 60_000], [20, 1, 60_000], [20, 2, 60_000]]


def test_each_seed_has_a_loss_of_its_own_at_which_its_runs_are_compared(tmp_path):
    settings = ((0.1, 8), (0.1, 20))
    write(tmp_path, "mlp-batch-size", [(*s, seed, 60_000) for s in settings for seed in SEED_SHIFT])
    runs = archive.read("mlp-batch-size", "laptop", tmp_path)
    table = runs.table.sample(frac=1, random_state=0)  # the order of the rows says nothing
    slow = (table["seed"] == 1) & (table["batch_size"] == 8)
    table.loc[slow, "train_loss"] *= 10  # so seed 1 is compared at 1e-2, the others at 1e-3
    rows = replace(runs, table=table).at_one_loss(settings)
    found = rows.set_index(["batch_size", "seed"])["step"].to_dict()
    late, early = 60_000, 30_000
    assert found == {(8, 0): late, (8, 1): late, (8, 2): late} | {
        (20, 0): late,
        (20, 1): early,
        (20, 2): late,
    }
