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


def test_order_before_the_data_are_fitted_decides_nothing(tmp_path):
    write(tmp_path, "mlp-learning-rate", whole(RATES, last=20_000))
    found = findings.order(read("mlp-learning-rate", "laptop", tmp_path), "root_sharpness", RATES)
    assert found.agrees is None
    assert "in 3 of 3 seeds" in found.sentence
    assert found.sentence.endswith(
        "Of the 9 runs 9 had not fitted their data, which the claim asks for."
    )


def test_two_seeds_decide_nothing(tmp_path):
    write(tmp_path, "mlp-learning-rate", [r for r in whole(RATES) if r[2] < 2])
    found = findings.order(read("mlp-learning-rate", "laptop", tmp_path), "root_sharpness", RATES)
    assert "2 of 2 seeds" in found.sentence
    assert found.agrees is None


def test_change_after_the_fit_starts_at_the_fit(runs):
    assert findings.fit_steps(runs).unique().tolist() == [30_000]
    rises = findings.after_fit(runs, "mls", "rises")
    assert rises.agrees is True
    assert "lr 0.05, batch 20: from 13 to 16, rises in 3 of 3" in rises.sentence
    assert findings.after_fit(runs, "mls", "falls").agrees is False
    assert findings.after_fit(runs, "log_volume", "falls").agrees is True


def test_runs_that_have_not_fitted_decide_nothing(tmp_path):
    write(tmp_path, "mlp-learning-rate", whole(RATES, last=0))
    found = read("mlp-learning-rate", "laptop", tmp_path)
    change = findings.after_fit(found, "mls", "rises")
    assert change.agrees is None
    assert change.sentence.count("no run long enough") == 3
    assert findings.how_far(found).startswith("0 of 9 runs have reached training accuracy")


def test_expectations_are_checked(runs):
    with pytest.raises(ValueError, match="'falls' or 'rises', got 'up'"):
        findings.after_fit(runs, "mls", "up")


def test_misclassified_samples_against_all(runs):
    found = findings.higher_on_misclassified(runs, "root_sharpness")
    assert found.agrees is True
    assert "higher in 9 of 9 runs" in found.sentence
    none = replace(runs, table=runs.table[runs.table["samples"] != "misclassified"])
    assert findings.higher_on_misclassified(none, "mls").agrees is None
    equal = findings.higher_on_misclassified(runs, "gradient_energy")
    assert equal.agrees is False


def test_correlations_count_only_beside_their_interval(runs):
    numbers = archived.correlations("D.6", runs, archived.METRICS).numbers
    assert findings.correlated(numbers, "mls", "gradient_energy", 1).agrees is True
    assert findings.correlated(numbers, "mls", "gradient_energy", -1).agrees is False
    numbers = numbers.assign(low=-0.1, high=0.9)
    assert findings.correlated(numbers, "mls", "gradient_energy", 1).agrees is None
    few = findings.correlated(numbers.assign(low=float("nan"), n=3), "mls", "gradient_energy", 1)
    assert (few.agrees, "3 networks are too few" in few.sentence) == (None, True)
    with pytest.raises(ValueError, match="no pair 'mls' and 'D'"):
        findings.correlated(numbers, "mls", "D", 1)


def test_largest_gap_of_the_chain(runs):
    found = findings.largest_gap(runs)
    assert found.agrees is True
    assert "B/A 2, C/B 1.5, D/C 4" in found.sentence


def test_how_far_counts_fitted_runs(runs):
    sentence = findings.how_far(runs)
    assert sentence.startswith("9 of 9 runs have reached training accuracy 0.999")
    assert "1.0e-03 to 1.0e-03" in sentence
