"""Claims and verdicts in words."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from matplotlib.collections import PathCollection
from synthetic_archive import SEED_SHIFT, write

from flatlib.lab import claims, figures, sentences
from flatlib.lab.archive import read
from flatlib.lab.verdicts import DESIGNED_SETTINGS, TOO_FEW_SEEDS, Verdict

RATES = [(lr, 20, seed, 60_000) for lr in (0.05, 0.1, 0.2) for seed in SEED_SHIFT]


def of(key: str, **changes) -> Verdict:
    one = next(claim for claim in claims.CLAIMS if claim.key == key)
    return Verdict(one, **changes)


def test_every_claim_has_words_of_its_own():
    said = [(one.network, sentences.claim_words(one)) for one in claims.CLAIMS]
    words = [
        (one.network, one.group, sentences.claim_words(one), one.source) for one in claims.CLAIMS
    ]
    assert len(set(words)) == len(words)
    assert not [text for _, text in said if "_" in text or "  " in text or "  " in text]


def test_an_effect_is_said_with_its_interval_and_a_true_minus():
    one = of("vgg10.fall.mls", value=-0.1656, low=-0.391, high=0.0598, seeds=(-0.1, -0.2, -0.2))
    assert sentences.effect_words(one) == "−0.166 (−0.391 to 0.0598)"
    assert sentences.effect_words(replace(one, low=math.nan)) == "−0.166"
    assert sentences.effect_words(of("vgg10.fall.mls")) == "–"
    assert sentences.effect_words(of("vgg10.chain.25", counted=(0, 1860))) == (
        "holds in 0 of 1,860 measurements"
    )
    rivals = of("vgg10.correlation.mls-loss-volume", value=-0.5, rival=0.25)
    assert sentences.effect_words(rivals) == "−0.50, log volume 0.25, over the settings"


def test_what_a_number_rests_on_is_said():
    one = of("vgg10.rate-step.mls", scale="laptop", steps=60_000, used=8, runs=9)
    one = replace(one, seeds=(1.0, 2.0), in_order=(1, 2))
    assert sentences.basis_words(one) == (
        "laptop, 60,000 steps: 8 of 9 runs, 2 seeds, in order in 1 of 2"
    )
    whole = replace(one, used=1, runs=1, seeds=(1.0,), in_order=None)
    assert sentences.basis_words(whole) == "laptop, 60,000 steps: 1 run, 1 seed"


def test_a_verdict_is_one_sentence_with_its_reason():
    one = of("vgg10.correlation.G-mls", value=0.987, reason=DESIGNED_SETTINGS)
    assert sentences.sentence(one) == (
        "G correlates with MLS: 0.99, over the settings, not tested "
        "(waits for settings drawn at random)."
    )


def test_a_table_has_the_groups_that_are_asked_for():
    decided = {one.key: Verdict(one) for one in claims.CLAIMS}
    table = sentences.table(decided, "relu", "late", "chain")
    asked = [one for one in claims.RELU if one.group in ("late", "chain")]
    assert len(table) == len(asked) > 8
    assert table.index[0] == "√S levels off in the second half of training"
    assert set(table["after Holm"]) == {"not tested"}
    with pytest.raises(ValueError, match="no claim on 'plateau' of 'relu'"):
        sentences.table(decided, "relu", "plateau")


def test_fit_steps_are_the_first_of_each_run_at_the_threshold(tmp_path):
    write(tmp_path, "mlp-learning-rate", RATES)
    runs = read("mlp-learning-rate", "laptop", tmp_path)
    assert runs.fit_steps().unique().tolist() == [30_000]
    table = runs.table.copy()
    table.loc[table["lr"] == 0.05, "train_accuracy"] = 0.9985
    just = (table["lr"] == 0.1) & (table["step"] == 0)
    table.loc[just, "train_accuracy"] = claims.FITTED
    steps = replace(runs, table=table).fit_steps()
    assert steps.isna().sum() == 3 and steps.dropna().tolist() == [0] * 3 + [30_000] * 3


def drawn_from(groups):
    """A picture's rows: at each height its dot and bar, and the words beside it."""
    figure, alt, _ = figures.intervals(groups)
    (ax,) = figure.axes
    marks = [mark for mark in ax.collections if isinstance(mark, PathCollection)]
    dots = {offsets[1]: offsets[0] for mark in marks for offsets in mark.get_offsets()}
    bars = {
        line.get_ydata()[0]: tuple(line.get_xdata()) for line in ax.lines if line.get_gid() is None
    }
    words = {}
    for text in ax.texts:
        words.setdefault(text.get_position()[1], []).append(text.get_text())
    return dots, bars, words, alt


def test_a_chapters_picture_has_a_row_for_each_claim_in_margins():
    """One margin to the right is one margin the paper's way, whichever way that is."""
    lower = of(
        "relu.rate-step.mls",
        value=-0.4,
        low=-0.5,
        high=-0.3,
        margin=0.1,
        p=0.001,
        word="held",
        seeds=(-0.3, -0.5, -0.4),
    )
    higher = of(
        "vgg10.misclassified.mls",
        value=-0.2,
        low=-0.6,
        high=0.2,
        margin=0.1,
        p=0.3,
        word="not decided",
        seeds=(-0.3, -0.1, -0.2),
    )
    untested = of("vgg10.plateau.mls", value=-0.1, margin=0.1, reason=TOO_FEW_SEEDS)
    dots, bars, words, alt = drawn_from({"One": [lower], "Two": [higher, untested]})
    assert dots == pytest.approx({1: 4.0, 3: -2.0})
    assert bars[1] == pytest.approx((3.0, 5.0)) and bars[3] == pytest.approx((-6.0, 2.0))
    assert words[0] == ["One"] and words[2] == ["Two"]
    assert words[1] == ["MLS", "−0.4 (−0.5 to −0.3)"]
    assert words[4] == ["MLS", "−0.1", "not tested: fewer than 3 seeds at a setting"]
    assert "One: MLS −0.4 (−0.5 to −0.3), held; Two: MLS −0.2 (−0.6 to 0.2), not decided" in alt


def test_a_picture_of_no_claim_is_refused():
    with pytest.raises(ValueError, match="there is no verdict to draw in One"):
        figures.intervals({"One": []})
