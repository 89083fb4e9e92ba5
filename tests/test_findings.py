"""Sentences on runs whose numbers are known: the words follow the data either way."""

from __future__ import annotations

from dataclasses import replace

import pytest
from synthetic_archive import SEED_SHIFT, write

from flatlib import findings
from flatlib.archive import read
from flatlib.figures import archived

RATES = ((0.05, 20), (0.1, 20), (0.2, 20))


def whole(settings, last=60_000):
    return [(lr, batch, seed, last) for lr, batch in settings for seed in SEED_SHIFT]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    write(folder, "mlp-learning-rate", whole(RATES))
    return read("mlp-learning-rate", "laptop", folder)


def test_order_holds_as_it_was_made(runs):
    found = findings.order(runs, "root_sharpness", RATES)
    assert found.agrees is True
    assert "lr 0.05, batch 20: 16; lr 0.1, batch 20: 15; lr 0.2, batch 20: 13" in found.sentence
    assert "in this order in 3 of 3 seeds; last minus first -3 " in found.sentence
    assert str(found).endswith("[as the paper says]")


def test_order_fails_the_other_way_round(runs):
    found = findings.order(runs, "log_volume", RATES)  # minus the level, so it rises
    assert found.agrees is False
    assert "0 of 3 seeds" in found.sentence
    assert str(found).endswith("[against the paper]")


def test_order_names_what_is_not_there_and_decides_nothing(tmp_path):
    write(tmp_path, "mlp-learning-rate", whole(RATES[:1]))
    write(tmp_path, "mlp-learning-rate", whole(RATES[1:2], last=0))
    found = findings.order(read("mlp-learning-rate", "laptop", tmp_path), "root_sharpness", RATES)
    assert found.agrees is None
    assert "None long enough: lr 0.1, batch 20; lr 0.2, batch 20." in found.sentence
    assert "Nothing to compare." in found.sentence


def test_order_before_the_data_are_fitted_is_said_with_a_reservation(tmp_path):
    write(tmp_path, "mlp-learning-rate", whole(RATES, last=20_000))
    found = findings.order(read("mlp-learning-rate", "laptop", tmp_path), "root_sharpness", RATES)
    assert "in 3 of 3 seeds" in found.sentence
    assert str(found).endswith("[as the paper says, but 9 of 9 runs had not fitted their data]")


def test_order_that_swaps_two_neighbours_decides_nothing(runs):
    found = findings.order(runs, "root_sharpness", (RATES[1], RATES[0], RATES[2]))
    assert "in this order in 0 of 3 seeds; last minus first -2 " in found.sentence
    assert found.agrees is None


def test_order_in_doubt_decides_nothing(runs):
    """All seeds fall, the mean change is within its interval of 0."""
    table = runs.table.copy()
    last = (table["lr"] == 0.2) & (table["step"] == 60_000)
    table.loc[last & (table["seed"] == 0), "mls"] = -90.0
    found = findings.order(replace(runs, table=table), "mls", RATES)
    assert "in 3 of 3 seeds" in found.sentence
    assert found.agrees is None


def test_order_at_equal_loss_compares_checkpoints_of_one_loss(runs):
    """Ten times the loss of the slow runs: the others are read where they had that loss."""
    table = runs.table.copy()
    slow = table["lr"] == 0.05
    table.loc[slow, "train_loss"] *= 10
    changed = replace(runs, table=table)
    found = findings.order(changed, "root_sharpness", RATES, at="loss")
    # The slow ones at step 60,000; the others at 30,000, where they stand 3 lower.
    assert "at equal train loss: lr 0.05, batch 20: 16; lr 0.1, batch 20: 12; " in found.sentence
    assert "lr 0.2, batch 20: 10." in found.sentence
    assert found.agrees is True and not found.reservation
    # A loss that was lower before: each run is read where it first came so low.
    table.loc[slow & (table["step"] == 30_000), "train_loss"] = 1e-9
    found = findings.order(replace(runs, table=table), "root_sharpness", RATES, at="loss")
    assert "at equal train loss: lr 0.05, batch 20: 13; lr 0.1, batch 20: 12; " in found.sentence
    with pytest.raises(ValueError, match="at must be 'step' or 'loss', got 'epoch'"):
        findings.order(runs, "root_sharpness", RATES, at="epoch")


def test_two_seeds_decide_nothing(tmp_path):
    write(tmp_path, "mlp-learning-rate", [r for r in whole(RATES) if r[2] < 2])
    found = findings.order(read("mlp-learning-rate", "laptop", tmp_path), "root_sharpness", RATES)
    assert "2 of 2 seeds" in found.sentence
    assert found.agrees is None


def test_change_after_the_fit_starts_at_the_fit(runs):
    assert findings.fit_steps(runs).unique().tolist() == [30_000]
    rises = findings.moved(runs, "mls", "rises")
    assert rises.agrees is True
    assert "lr 0.05, batch 20: from 13 to 16, change 3 (95 % interval 3 to 3)" in rises.sentence
    assert rises.sentence.count("rises in 3 of 3") == 3
    assert rises.sentence.endswith("all 9 runs: change 3 (95 % interval 3 to 3).")
    assert findings.moved(runs, "mls", "falls").agrees is False
    assert findings.moved(runs, "log_volume", "falls").agrees is True


def test_change_from_the_start_starts_at_step_0(runs):
    rises = findings.moved(runs, "mls", "rises", "test", since="start")
    assert rises.agrees is True
    assert "on test samples, from the start of training: lr 0.05" in rises.sentence
    assert "from 10 to 16" in rises.sentence
    with pytest.raises(ValueError, match="'fit' or 'start', got 'peak'"):
        findings.moved(runs, "mls", "rises", since="peak")


def test_runs_that_were_not_fitted_are_left_out_and_said(runs):
    table = runs.table.copy()
    table.loc[table["lr"] == 0.05, "train_accuracy"] = 0.9
    found = findings.moved(replace(runs, table=table), "mls", "rises")
    assert "lr 0.05, batch 20: no run long enough" in found.sentence
    assert str(found).endswith(
        "[as the paper says, but 3 of 9 runs had not fitted their data before their end]"
    )


def test_runs_that_have_not_fitted_decide_nothing(tmp_path):
    write(tmp_path, "mlp-learning-rate", whole(RATES, last=0))
    found = read("mlp-learning-rate", "laptop", tmp_path)
    change = findings.moved(found, "mls", "rises")
    assert change.agrees is None
    assert change.sentence.count("no run long enough") == 3
    assert findings.how_far(found).startswith("0 of 9 runs have reached training accuracy")


def test_expectations_are_checked(runs):
    with pytest.raises(ValueError, match="'falls' or 'rises', got 'up'"):
        findings.moved(runs, "mls", "up")


def test_misclassified_samples_against_all(runs):
    found = findings.higher_on_misclassified(runs, "root_sharpness")
    assert found.agrees is True
    assert "higher in 9 of 9 runs" in found.sentence
    none = replace(runs, table=runs.table[runs.table["samples"] != "misclassified"])
    assert findings.higher_on_misclassified(none, "mls").agrees is None
    equal = findings.higher_on_misclassified(runs, "gradient_energy")
    assert equal.agrees is None
    assert "higher in 0 of 9 runs" in equal.sentence


def test_correlations_are_decided_by_the_settings_means(tmp_path):
    settings = ((0.05, 20), (0.1, 20), (0.2, 20), (0.1, 8), (0.1, 32))
    write(tmp_path, "correlations-mlp", whole(settings))
    runs = read("correlations-mlp", "laptop", tmp_path)
    numbers = archived.correlations("D.6", runs, archived.METRICS).numbers
    agreeing = findings.correlated(numbers, "mls", "gradient_energy", 1)
    assert agreeing.agrees is True
    assert (
        "correlation 1.00 over 15 networks, 1.00 (1.00 to 1.00) over the means of 5 settings"
        in (agreeing.sentence)
    )
    assert agreeing.sentence.endswith("1.00 within settings.")
    assert findings.correlated(numbers, "mls", "gradient_energy", -1).agrees is False
    # Local dimensionality has the seeds' shifts alone: all of its correlation is within settings.
    inside = findings.correlated(numbers, "mls", "local_dimensionality", 1)
    assert inside.agrees is None
    numbers = numbers.assign(low=-0.1, high=0.9)
    assert findings.correlated(numbers, "mls", "gradient_energy", 1).agrees is None
    few = findings.correlated(numbers.assign(low=float("nan")), "mls", "gradient_energy", 1)
    assert (few.agrees, "settings are too few" in few.sentence) == (None, True)
    with pytest.raises(ValueError, match="no pair 'mls' and 'D'"):
        findings.correlated(numbers, "mls", "D", 1)


def test_largest_gap_of_the_chain(runs):
    found = findings.largest_gap(runs)
    assert found.agrees is True
    assert "as factors A to B 2, B to C 1.5, C to D 4" in found.sentence
    assert "as differences A to B 15, B to C 15, C to D 135" in found.sentence


def test_largest_gap_that_depends_on_how_it_is_read_decides_nothing(runs):
    """A, B, C, D = v, 4 v, 5 v, 10 v: the first factor leads, the last difference does."""
    table = runs.table.assign(B=4 * runs.table["A"], C=5 * runs.table["A"], D=10 * runs.table["A"])
    found = findings.largest_gap(replace(runs, table=table))
    assert "in 0 of 9 runs" in found.sentence and "in 9 of 9 runs" in found.sentence
    assert found.agrees is None


def test_how_far_counts_fitted_runs(runs):
    sentence = findings.how_far(runs)
    assert sentence.startswith("9 of 9 runs have reached training accuracy 0.999")
    assert "1.0e-03 to 1.0e-03" in sentence


def changed(runs, column, value, **where):
    """The runs with another value in a column, in the rows that have the values of ``where``."""
    table = runs.table.copy()
    chosen = (table[list(where)] == list(where.values())).all(axis=1)
    table.loc[chosen, column] = value
    return replace(runs, table=table)


def test_how_far_gives_the_largest_gap_whatever_its_sign(runs):
    found = changed(runs, "hessian_gap", 0.0, samples="train")
    found = changed(found, "sharpness", 4.0, samples="train")
    found = changed(found, "hessian_gap", 0.4, samples="train", seed=1)
    found = changed(found, "hessian_gap", -1.0, samples="train", seed=2)
    assert "differs from the Hessian's trace by at most 25 % of itself" in findings.how_far(found)


def test_training_accuracy_of_the_threshold_itself_is_fitted(runs):
    found = changed(runs, "train_accuracy", findings.FITTED, step=30_000)
    assert findings.fit_steps(found).unique().tolist() == [30_000]


def test_one_seed_in_order_is_not_the_order(runs):
    """Seed 0 falls twice; of seeds 1 and 2 the middle setting is higher than the first."""
    found = runs
    for seed in (1, 2):
        found = changed(found, "mls", 90.0, lr=0.1, seed=seed)
    found = findings.order(found, "mls", RATES)
    assert "in this order in 1 of 3 seeds; last minus first -3 " in found.sentence
    assert found.agrees is None


def test_equal_neighbours_do_not_fall(runs):
    found = runs
    for seed, shift in SEED_SHIFT.items():
        found = changed(found, "mls", 16.0 + shift, lr=0.1, seed=seed, step=60_000)
    found = findings.order(found, "mls", RATES)
    assert "lr 0.05, batch 20: 16; lr 0.1, batch 20: 16; lr 0.2, batch 20: 13" in found.sentence
    assert "in this order in 0 of 3 seeds" in found.sentence
    assert found.agrees is None


def test_changes_of_both_signs_decide_nothing_however_sure_their_mean(runs):
    """Eight runs rise by 3, one falls by 1: the mean is 23 / 9, its interval 1.53 to 3.58."""
    found = changed(runs, "mls", 12, samples="train", lr=0.05, seed=1, step=60_000)
    rises = findings.moved(found, "mls", "rises")
    assert "all 9 runs: change 2.56 (95 % interval 1.53 to 3.58)" in rises.sentence
    assert rises.agrees is None


def test_a_run_with_one_checkpoint_since_its_fit_has_not_moved(runs):
    found = changed(runs, "train_accuracy", 0.9, lr=0.05, seed=1, step=30_000)
    rises = findings.moved(found, "mls", "rises")
    assert "lr 0.05, batch 20: from 13 to 16, change 3 (95 % interval 3 to 3), rises in 2 of 2" in (
        rises.sentence
    )
    assert "all 8 runs: change 3 " in rises.sentence
    assert rises.agrees is True
    assert rises.reservation == "1 of 9 runs had not fitted their data before their end"


def test_a_change_does_not_depend_on_the_order_of_the_rows(runs):
    shuffled = replace(runs, table=runs.table.sample(frac=1, random_state=0))
    assert findings.moved(shuffled, "mls", "rises").sentence == (
        findings.moved(runs, "mls", "rises").sentence
    )


def test_misclassified_samples_are_read_at_the_last_checkpoint_with_any(runs):
    """None at 60,000, where nothing is defined; at 30,000 they have more, at 0 far less."""
    wrong = {"samples": "misclassified"}
    found = changed(runs, "n", 0, step=60_000, **wrong)
    found = changed(found, "mls", float("nan"), step=60_000, **wrong)
    found = changed(found, "mls", 100.0, step=30_000, **wrong)
    found = changed(found, "mls", -100.0, step=0, **wrong)
    found = findings.higher_on_misclassified(found, "mls")
    # All test samples at 30,000: 13, 12 and 10 at the three rates.
    assert "at the last checkpoint with any (7 or more): 100 against 11.7, " in found.sentence
    assert found.sentence.endswith("higher in 9 of 9 runs.")
    assert found.agrees is True
