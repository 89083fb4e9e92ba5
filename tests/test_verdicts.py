"""The statistics of verdicts, on archives whose truth is known; every mutant of them is caught."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from flatlib.lab import claims, verdicts
from flatlib.lab.claims import Claim, Margin
from flatlib.lab.experiments import configurations
from flatlib.lab.verdicts import Archive, ArchivedRun, decide

STEPS = np.array([0, 10_000, 20_000, 30_000, 40_000, 50_000, 60_000])
SEEDS = (0, 1, 2, 3, 4)
FIT = 2  # index of the step at which a run has fitted
COLUMNS = ("sharpness", "mls", "log_volume", "gradient_energy")
RATE, ALL = "vgg10-learning-rate", "correlations-vgg10"


def archive_of(curves, name=ALL, seeds=SEEDS, scale="laptop", **others) -> Archive:
    """Whole records in memory.

    Args:
        curves: ``(setting, seed) -> {column: (steps,)}``, in which train loss and accuracy have
            defaults; or with ``(column, samples)`` as a key, for other samples than training ones.
        others: of every manifest.
    """
    runs = []
    for made in configurations(name, scale, seeds=seeds):
        found = curves((made.lr, made.batch_size), made.seed)
        if found is None:
            continue
        steps = STEPS * made.steps // STEPS[-1]
        parts = []
        for samples in ("train", "test", "misclassified", "test-set"):
            own = {
                "step": steps,
                "samples": samples,
                "n": 100,
                "train_loss": 10.0 ** -np.arange(1, len(steps) + 1),
                "train_accuracy": np.where(np.arange(len(steps)) < FIT, 0.5, 1.0),
            }
            for key, values in found.items():
                column, where = key if isinstance(key, tuple) else (key, "train")
                if where == samples or column in ("train_loss", "train_accuracy"):
                    own[column] = values
            parts.append(pd.DataFrame(own))
        manifest = {"configuration": made.identity, "status": "complete", "run": made.name}
        table = pd.concat(parts, ignore_index=True)
        runs.append(ArchivedRun(scale, manifest | others, table))
    return Archive(tuple(runs))


def claim(statistic=claims.CHANGE, **changes) -> Claim:
    made = Claim(
        "vgg10.test.one",
        "Fig. 1",
        ALL,
        "mls",
        claims.FALLS,
        claims.ONCE_FITTED,
        statistic,
        Margin(0.05, relative=True),
    )
    return replace(made, **changes)


def verdict(archive, one, threshold=claims.FITTED):
    return decide(archive, [one], threshold)[one.key]


def line(start, end, noise=None):
    """Up to the fit anything, from the fit a straight line."""
    values = np.concatenate([[50.0, 70.0], np.linspace(start, end, len(STEPS) - FIT)])
    return values if noise is None else values + noise


# Changes over time.


def test_a_change_is_the_mean_of_seed_means_with_students_interval():
    shift = {seed: 0.1 * seed**2 for seed in SEEDS}
    archive = archive_of(
        lambda setting, seed: {"mls": line(10, 8 + shift[seed] + 20 * (setting[0] - 0.11))}
    )
    found = verdict(archive, claim())
    settings = [lr for lr, _ in configurations_settings()]
    by_hand = np.array([-2 + shift[s] + 20 * (np.mean(settings) - 0.11) for s in SEEDS])
    oracle = stats.ttest_1samp(by_hand, 0)
    interval = oracle.confidence_interval(0.95)
    assert np.allclose(found.seeds, by_hand)
    assert found.value == pytest.approx(by_hand.mean())
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.p == pytest.approx(oracle.pvalue)
    assert (found.n, found.used, found.runs) == (5, 25, 25)
    assert found.margin == pytest.approx(0.5)
    assert (found.scale, found.steps) == ("laptop", 60_000)


def configurations_settings():
    from flatlib.lab.experiments import EXPERIMENTS

    return EXPERIMENTS[ALL].settings


def wobble(seed):
    """Small, of mean 0 over the five seeds."""
    return 0.01 * (seed - 2)


def falling(setting, seed):
    return {"mls": line(10, 8 + wobble(seed))}


def test_direction_decides_between_held_and_against():
    archive = archive_of(falling)
    assert verdict(archive, claim()).word == "held"
    assert verdict(archive, claim(direction=claims.RISES)).word == "against"
    assert verdict(archive, claim(direction=claims.LEVEL_OFF)).word == "against"


def test_a_change_once_fitted_begins_at_the_fit_and_not_at_the_start():
    archive = archive_of(lambda s, seed: {"mls": line(10, 12 + wobble(seed))})
    assert verdict(archive, claim()).word == "against"
    whole = verdict(archive, claim(condition=claims.FROM_START))
    assert (whole.word, round(whole.value)) == ("held", -38)
    to_fit = verdict(archive, claim(condition=claims.TO_FIT))
    assert round(to_fit.value) == -40
    late = verdict(archive, claim(condition=claims.LATE))
    assert late.value == pytest.approx(1.5)
    after = verdict(archive, claim(condition=claims.AFTER_50_000))
    assert after.value == pytest.approx(0.5)


def test_runs_that_have_not_fitted_are_left_out_and_counted():
    def curves(setting, seed):
        slow = setting == (0.05, 20)
        accuracy = np.full(len(STEPS), 0.9) if slow else np.array([0.5, 0.5, 1, 1, 1, 1, 1])
        return {"mls": line(10, 30 if slow else 8 + wobble(seed)), "train_accuracy": accuracy}

    found = verdict(archive_of(curves), claim())
    assert (found.used, found.runs, found.word) == (20, 25, "held")
    assert found.value == pytest.approx(-2)


def test_seeds_are_means_over_the_same_settings():
    """Where two seeds lack a setting that moves the other way, no seed has it."""

    def curves(setting, seed):
        other = setting == (0.05, 20)
        accuracy = np.full(len(STEPS), 0.9 if other and seed < 2 else 1.0)
        return {"mls": line(10, 30 if other else 8 + wobble(seed)), "train_accuracy": accuracy}

    found = verdict(archive_of(curves), claim(condition=claims.AFTER_50_000))
    only = tuple(one for one in configurations_settings() if one != (0.05, 20))
    alone = verdict(archive_of(curves), claim(condition=claims.AFTER_50_000, settings=only))
    assert found.seeds == alone.seeds and (found.used, found.runs) == (20, 25)
    assert found.margin == alone.margin and found.n == 5


def test_a_run_with_one_checkpoint_in_a_window_has_not_moved():
    """One setting fits at its last checkpoint alone, another at its first."""

    def curves(setting, seed):
        fit = {(0.05, 20): len(STEPS) - 1, (0.2, 20): 0}.get(setting, FIT)
        accuracy = np.where(np.arange(len(STEPS)) < fit, 0.5, 1.0)
        return {"mls": np.arange(10.0, 3.0, -1.0) + wobble(seed), "train_accuracy": accuracy}

    once_fitted = verdict(archive_of(curves), claim())
    assert (once_fitted.used, once_fitted.value) == (20, pytest.approx((-4 * 3 - 6) / 4))
    to_fit = verdict(archive_of(curves), claim(condition=claims.TO_FIT))
    assert (to_fit.used, to_fit.value) == (20, pytest.approx((-2 * 3 - 6) / 4))


def test_the_late_window_asks_for_a_run_that_has_fitted_by_its_beginning():
    def curves(setting, seed):
        accuracy = np.where(np.arange(len(STEPS)) < 5, 0.5, 1.0)
        return {"mls": line(10, 8), "train_accuracy": accuracy}

    found = verdict(archive_of(curves), claim(condition=claims.LATE))
    assert (found.word, found.reason, found.used) == ("not tested", verdicts.CONDITION_UNMET, 0)


def test_fitted_is_the_threshold_or_more():
    def curves(setting, seed):
        accuracy = np.array([0.5, 0.5, 0.998, 0.9990, 0.9994, 0.9996, 1.0])
        return {"mls": line(10, 8 + wobble(seed)), "train_accuracy": accuracy}

    archive = archive_of(curves)
    values = {t: verdict(archive, claim(), t).value for t in claims.THRESHOLDS}
    assert values == pytest.approx({0.995: -2, 0.998: -2, 0.999: -1.5, 0.9995: -0.5})


def test_runs_of_one_seed_are_one_number():
    """Five runs a seed move together: 25 runs would decide what five seeds do not."""
    seeds = {0: -3.0, 1: -3.0, 2: -1.0, 3: 1.0, 4: -0.5}
    archive = archive_of(
        lambda setting, seed: {"mls": line(10, 10 + seeds[seed] + 0.01 * setting[1])}
    )
    found = verdict(archive, claim())
    pooled = stats.ttest_1samp([value for value in seeds.values() for _ in range(5)], 0)
    assert pooled.pvalue < 0.001
    assert (found.n, found.word, found.uncorrected) == (5, "not decided", "not decided")


def test_fewer_than_three_seeds_at_a_setting_test_nothing():
    def curves(setting, seed):
        return None if setting == (0.2, 20) and seed > 1 else falling(setting, seed)

    found = verdict(archive_of(curves), claim())
    assert (found.word, found.reason) == ("not tested", verdicts.TOO_FEW_SEEDS)
    assert math.isnan(found.p)
    rest = claim(settings=((0.1, 20), (0.05, 20)))
    assert verdict(archive_of(curves), rest).word == "held"


def test_a_seed_that_lacks_a_setting_is_left_out():
    """Seed 4 has the one setting that falls most; its mean is no mean over the settings."""

    def curves(setting, seed):
        if seed == 4 and setting != (0.05, 20):
            return None
        return {"mls": line(10, (5 if setting == (0.05, 20) else 8) + wobble(seed))}

    found = verdict(archive_of(curves), claim())
    assert (found.n, found.runs) == (4, 4 * len(configurations_settings()))
    assert found.value == pytest.approx(-2 - 3 / len(configurations_settings()), abs=0.02)
    alone = verdict(archive_of(curves), claim(settings=((0.05, 20),)))
    assert (alone.n, alone.runs) == (5, 5)


def test_no_difference_beyond_the_margin_needs_the_whole_interval_inside():
    near = archive_of(lambda s, seed: {"mls": line(10, 10 + wobble(seed))})
    assert verdict(near, claim()).word == "no difference beyond the margin"
    wide = archive_of(lambda s, seed: {"mls": line(10, 10 + 50 * wobble(seed))})
    assert verdict(wide, claim()).word == "not decided"
    for sign in (1, -1):  # one end inside, the other outside
        ends = {seed: 10 + sign * 0.25 + 23 * wobble(seed) for seed in SEEDS}
        aside = archive_of(lambda s, seed, ends=ends: {"mls": line(10, ends[seed])})
        assert verdict(aside, claim()).word == "not decided"


def test_levelling_off_is_two_one_sided_tests():
    level = claim(direction=claims.LEVEL_OFF)
    for change, spread, word in ((-0.2, 1, "held"), (0.49, 10, "not decided"), (1, 1, "against")):
        end = {seed: 10 + change + spread * wobble(seed) for seed in SEEDS}
        found = verdict(archive_of(lambda s, seed, end=end: {"mls": line(10, end[seed])}), level)
        assert found.word == word
        effects = np.array(found.seeds)
        error = effects.std(ddof=1) / math.sqrt(len(SEEDS))
        below, above = (effects.mean() + 0.5) / error, (effects.mean() - 0.5) / error
        if abs(change) < 0.5:
            assert found.p == pytest.approx(max(stats.t.sf(below, 4), stats.t.cdf(above, 4)))


def test_undefined_values_are_not_counted():
    def curves(setting, seed):
        values = line(10, 8 + wobble(seed))
        if seed == 4:
            values[-1] = math.nan if setting[1] == 20 else math.inf
        return {"mls": values}

    found = verdict(archive_of(curves), claim())
    assert (found.n, found.used, found.runs) == (4, 20, 25)
    assert all(math.isfinite(value) for value in found.seeds)


def test_unfinished_runs_and_steps_beyond_the_scale_do_not_count():
    archive = archive_of(falling, status="running")
    assert verdict(archive, claim()).reason == verdicts.TOO_FEW_SEEDS
    shorter = Archive(
        tuple(
            replace(run, table=run.table[run.table["step"] < 60_000])
            for run in archive_of(falling).runs
        )
    )
    assert verdict(shorter, claim()).reason == verdicts.TOO_FEW_SEEDS
    longer = archive_of(falling)
    more = [
        replace(run, table=pd.concat([run.table, run.table.tail(1).assign(step=90_000, mls=99.0)]))
        for run in longer.runs
    ]
    assert verdict(Archive(tuple(more)), claim()).value == pytest.approx(-2)


def test_the_first_scale_with_enough_seeds_decides():
    laptop = archive_of(falling)
    rising = archive_of(lambda s, seed: {"mls": line(10, 12 + wobble(seed))}, scale="paper")
    both = Archive(laptop.runs + rising.runs)
    assert (verdict(both, claim()).scale, verdict(both, claim()).word) == ("paper", "against")
    two_seeds = tuple(run for run in rising.runs if run.manifest["configuration"]["seed"] < 2)
    short = verdict(Archive(laptop.runs + two_seeds), claim())
    assert (short.scale, short.word) == ("laptop", "held")
    paper_only = verdict(Archive(laptop.runs + two_seeds), claim(scales=("paper",)))
    assert (paper_only.word, paper_only.reason) == ("not tested", verdicts.TOO_FEW_SEEDS)


def never_fitting(setting, seed):
    accuracy = np.full(len(STEPS), 0.9)
    return {"mls": line(10, 12 + wobble(seed)), "train_accuracy": accuracy}


def test_a_scale_whose_runs_do_not_meet_the_condition_leaves_the_claim_to_the_next():
    laptop = archive_of(falling)
    paper = archive_of(never_fitting, scale="paper")
    both = Archive(laptop.runs + paper.runs)
    found = verdict(both, claim())
    assert (found.scale, found.word, found.used) == ("laptop", "held", 25)
    anyway = verdict(both, claim(condition=claims.FROM_START))
    assert (anyway.scale, anyway.word) == ("paper", "held")
    untested = verdict(paper, claim())
    assert (untested.scale, untested.reason) == ("paper", verdicts.CONDITION_UNMET)
    one_seed = tuple(run for run in laptop.runs if run.manifest["configuration"]["seed"] == 0)
    neither = verdict(Archive(one_seed + paper.runs), claim())
    assert (neither.scale, neither.reason) == ("paper", verdicts.CONDITION_UNMET)


def test_the_other_scale_says_what_it_would_of_claims_that_both_can_test():
    laptop = archive_of(falling)
    rising = archive_of(lambda s, seed: {"mls": line(10, 12 + wobble(seed))}, scale="paper")
    shared, missing = claim(), claim(key="vgg10.test.two", quantity="log_volume")
    paper_only = claim(key="vgg10.test.three", scales=("paper",))
    table = [shared, missing, paper_only]
    both = Archive(laptop.runs + rising.runs)
    found = verdicts.at_other_scales(both, table)
    assert [(key, one.scale, one.word) for key, one in found.items()] == [
        (shared.key, "laptop", "held")
    ]
    usual = decide(both, table)[shared.key]
    assert usual.adjusted / usual.p == found[shared.key].adjusted / found[shared.key].p == 2
    assert [one.key for one in claims.at_scale("laptop", table)] == [shared.key, missing.key]
    assert verdicts.at_other_scales(laptop, table) == {}


def test_the_threshold_does_not_move_a_claim_to_other_runs():
    def nearly(setting, seed):
        accuracy = np.where(np.arange(len(STEPS)) < FIT, 0.5, 0.9985)
        return {"mls": line(10, 12 + wobble(seed)), "train_accuracy": accuracy}

    laptop, paper = archive_of(falling), archive_of(nearly, scale="paper")
    both = Archive(laptop.runs + paper.runs)
    assert verdict(both, claim(), threshold=0.998).scale == "paper"
    words = verdicts.by_threshold(both, [claim()])
    assert {word[claim().key] for word in words.values()} == {"held"}


# Differences between settings.


def level_of(setting):
    return {0.05: 12.0, 0.1: 11.0, 0.2: 8.0}[setting[0]]


def by_setting(setting, seed):
    """Seeds differ by far more than settings do: only pairing shows the difference."""
    return {"mls": line(20, level_of(setting) + 5 * seed + wobble(seed) * setting[0])}


order = claim(
    claims.DIFFERENCE,
    experiment=RATE,
    condition=claims.AT_ONE_STEP,
    settings=claims.RATES,
)


def test_a_difference_pairs_the_extreme_settings_by_seed():
    archive = archive_of(by_setting, RATE)
    found = verdict(archive, order)
    by_hand = [-4 + wobble(seed) * 0.15 for seed in SEEDS]
    assert np.allclose(found.seeds, by_hand)
    assert (found.word, found.in_order, found.used) == ("held", (5, 5), 15)
    assert found.margin == pytest.approx(0.05 * (12 + 10), rel=1e-3)
    backwards = replace(order, settings=claims.RATES[::-1])
    assert verdict(archive, backwards).word == "against"
    assert verdict(archive, replace(order, direction=claims.RISES)).word == "against"


def test_ties_are_not_in_order():
    def curves(setting, seed):
        level = {0.05: 12.0, 0.1: 12.0 if seed else 11.0, 0.2: 8.0 + wobble(seed)}[setting[0]]
        return {"mls": line(20, level)}

    assert verdict(archive_of(curves, RATE), order).in_order == (1, 5)


def test_equal_effects_of_zero_are_no_difference_and_equal_effects_decide():
    flat = archive_of(lambda s, seed: {"mls": line(10, 10)})
    found = verdict(flat, claim())
    assert (found.value, found.p, found.word) == (0, 1, "no difference beyond the margin")
    same = verdict(archive_of(lambda s, seed: {"mls": line(10, 8)}), claim())
    assert (same.p, same.word) == (0, "held")


def test_at_one_step_both_settings_must_have_fitted():
    def curves(setting, seed):
        slow = setting == (0.05, 20) and seed > 1
        accuracy = np.where(np.arange(len(STEPS)) < FIT, 0.5, 0.998 if slow else 1.0)
        return by_setting(setting, seed) | {"train_accuracy": accuracy}

    found = verdict(archive_of(curves, RATE), order)
    assert (found.n, found.word, found.reason) == (2, "not tested", verdicts.CONDITION_UNMET)
    assert found.used == 12


def test_equal_loss_takes_each_run_where_it_first_had_the_slowest_runs_last_loss():
    """The higher rate is lower at one step alone because it is further on."""

    def curves(setting, seed):
        speed = {0.05: 1, 0.1: 2, 0.2: 3}[setting[0]]
        loss = 10.0 ** -(speed * np.arange(len(STEPS)) / 2)
        return {"mls": 30 + 2 * np.log10(loss) + seed + wobble(seed), "train_loss": loss}

    archive = archive_of(curves, RATE)
    assert verdict(archive, order).word == "held"
    equal = replace(order, condition=claims.AT_EQUAL_LOSS)
    found = verdict(archive, equal)
    assert (found.value, found.p) == (0, 1)  # to the ten digits of a table
    assert found.word == "no difference beyond the margin"

    def steeper(setting, seed):
        own = curves(setting, seed)
        return own | {"mls": own["mls"] - 40 * setting[0] + wobble(seed) * setting[0]}

    assert verdict(archive_of(steeper, RATE), equal).word == "held"


def test_the_level_of_equal_loss_is_each_seeds_own():
    def curves(setting, seed):
        slowest = setting[0] == 0.05
        end = 10.0 ** -(2 + (seed == 0)) if slowest else 1e-6
        loss = np.geomspace(1.0, end, len(STEPS))
        late = np.arange(len(STEPS)) if slowest else 0
        return {"mls": np.log10(loss) + 100 + late, "train_loss": loss}

    # The slowest run of every seed stands at its end, index 6, also where it got further.
    found = verdict(archive_of(curves, RATE), replace(order, condition=claims.AT_EQUAL_LOSS))
    assert np.allclose(found.seeds, -6)


# Misclassified samples.


wrong = claim(
    claims.MISCLASSIFIED,
    experiment="vgg10-test-set",
    direction=claims.RISES,
    condition=claims.LAST_TEN,
    samples="misclassified",
)


def misclassified_curves(excess, numbers, test_set=None):
    """What misclassified samples have more than the 100 test samples, whose value is 10."""

    def curves(setting, seed):
        shift = wobble(seed)
        found = {
            ("mls", "test"): np.full(len(STEPS), 10.0),
            ("mls", "misclassified"): 10 + np.asarray(excess) + shift,
            ("n", "misclassified"): np.asarray(numbers),
        }
        return found if test_set is None else found | {("mls", "test-set"): np.asarray(test_set)}

    return curves


def test_misclassified_samples_are_compared_over_the_last_checkpoints_with_any():
    curves = misclassified_curves([99, 99, 3, 4, 8, 99, 99], [7, 7, 7, 7, 3, 0, 0])
    archive = archive_of(curves, "vgg10-test-set")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claims, "LAST_CHECKPOINTS", 3)
        found = verdict(archive, wrong)
        fewer = verdict(archive, replace(wrong, direction=claims.FALLS))
    assert (found.value, found.word, found.n) == (pytest.approx(5), "held", 5)
    assert found.margin == pytest.approx(0.5)
    assert fewer.word == "against"


def test_misclassified_samples_are_compared_with_the_whole_test_set_where_it_was_measured():
    unknown = math.nan
    curves = misclassified_curves(
        [1, 1, 1, 1, 1, 2, 3], [7] * 7, [unknown, unknown, unknown, unknown, 8, 8, 9]
    )
    found = verdict(archive_of(curves, "vgg10-test-set"), wrong)
    assert found.value == pytest.approx((4 * 1 + 3 + 4 + 4) / 7)
    assert found.margin == pytest.approx(0.05 * (4 * 10 + 8 + 8 + 9) / 7)


def test_runs_that_misclassify_nothing_say_nothing():
    def curves(setting, seed):
        return {
            ("mls", "test"): np.full(len(STEPS), 10.0),
            ("mls", "misclassified"): np.full(len(STEPS), 99.0),
            ("n", "misclassified"): np.zeros(len(STEPS)),
        }

    found = verdict(archive_of(curves, "vgg10-test-set"), wrong)
    assert (found.n, found.reason) == (0, verdicts.CONDITION_UNMET)


# Slowing.


slowing = claim(claims.SLOWING, direction=claims.RISES, condition=claims.LATE)


def test_a_fall_slows_if_it_is_smaller_in_the_second_half_of_the_part():
    """The part is steps 30,000 to 60,000; without a checkpoint at 45,000, 50,000 divides it."""

    def curves(setting, seed):
        return {"mls": np.array([0, 50, 50, 30, 25, 20, 18]) + wobble(seed) * np.arange(7) ** 2}

    found = verdict(archive_of(curves), slowing)
    by_seed = [(18 - 20 + 11 * w) * 1.5 - (20 - 30 + 16 * w) * 0.75 for w in map(wobble, SEEDS)]
    assert np.allclose(found.seeds, by_seed)
    assert (found.word, found.n) == ("held", 5)
    assert found.margin == pytest.approx(0.05 * 0.75 * 10)


@pytest.mark.parametrize(("power", "word"), [(2.0, "against"), (0.5, "held")])
def test_a_fall_along_a_power_of_the_step_slows_or_not(power, word):
    falling = -((STEPS / STEPS[-1]) ** power)
    archive = archive_of(lambda setting, seed: {"mls": falling * (1 + wobble(seed))})
    assert verdict(archive, slowing).word == word


def test_a_straight_fall_does_not_slow():
    falling = -STEPS / STEPS[-1]
    archive = archive_of(lambda setting, seed: {"mls": falling * (1 + wobble(seed))})
    assert np.allclose(verdict(archive, slowing).seeds, 0)


# Trends.


trend = claim(claims.TREND, other="gradient_energy", direction=claims.RISES, margin=claims.WEAK)


def test_a_shared_trend_is_no_correlation_of_changes():
    """Both rise; their changes from checkpoint to checkpoint are drawn apart."""
    draws = np.random.default_rng(0)

    def curves(setting, seed):
        up = 10.0 * np.arange(len(STEPS))
        one, other = draws.normal(size=(2, len(STEPS)))
        return {"mls": up + one, "gradient_energy": up + other}

    archive = archive_of(curves)
    run = archive.runs[0].table
    run = run[run["samples"] == "train"]
    assert np.corrcoef(run["mls"], run["gradient_energy"])[0, 1] > 0.99
    assert verdict(archive, trend).word == "not decided"


def test_a_trend_is_the_mean_of_fishers_z_within_a_seed():
    draws = np.random.default_rng(1)
    kept = {}

    def curves(setting, seed):
        one, noise = draws.normal(size=(2, len(STEPS)))
        kept[setting, seed] = one, one + 0.5 * noise
        return {"mls": one, "gradient_energy": one + 0.5 * noise}

    archive = archive_of(curves)
    found = verdict(archive, trend)
    z = {
        key: np.arctanh(np.corrcoef(np.diff(one[FIT:]), np.diff(other[FIT:]))[0, 1])
        for key, (one, other) in kept.items()
    }
    seeds = [np.mean([value for (_, s), value in z.items() if s == seed]) for seed in SEEDS]
    assert np.allclose(found.seeds, seeds)
    low, high = stats.ttest_1samp(seeds, 0).confidence_interval(0.95)
    assert (found.value, found.low, found.high) == pytest.approx(
        (np.tanh(np.mean(seeds)), np.tanh(low), np.tanh(high))
    )
    assert found.word == "held"
    assert verdict(archive, replace(trend, direction=claims.LEVEL_OFF)).word == "against"


def test_constant_curves_have_no_trend():
    archive = archive_of(
        lambda s, seed: {"mls": np.ones(len(STEPS)), "gradient_energy": np.arange(len(STEPS)) ** 2}
    )
    found = verdict(archive, trend)
    assert (found.n, found.reason) == (0, verdicts.CONDITION_UNMET)


# The chain and its gaps.


def chain(**sides):
    return lambda setting, seed: {
        key: np.broadcast_to(values, len(STEPS)).astype(float)
        for name, pair in sides.items()
        for key, values in (
            (f"lhs_{name[1:]}", pair[0]),
            (f"rhs_{name[1:]}", pair[1]),
            ((f"lhs_{name[1:]}", "test"), pair[0]),
            ((f"rhs_{name[1:]}", "test"), pair[1]),
        )
    }


count = claim(claims.COUNT, quantity="25", direction=claims.RISES, condition=claims.THROUGHOUT)


@pytest.mark.parametrize(
    ("right", "word", "held"),
    [
        (2.0, "held", 350),
        (1.0 - 1e-12, "held", 350),
        (1.0 - 1e-6, "against", 0),
        (np.array([2.0] * 6 + [0.5]), "against", 300),
    ],
)
def test_an_inequality_holds_throughout_or_is_broken_in_every_run(right, word, held):
    found = verdict(archive_of(chain(_25=(1.0, right))), count)
    assert (found.word, found.counted) == (word, (held, 350))


def test_an_inequality_that_some_runs_break_is_not_decided():
    good, bad = chain(_25=(1.0, 2.0)), chain(_25=(1.0, 0.5))
    archive = archive_of(lambda s, seed: (bad if seed == 0 else good)(s, seed))
    assert verdict(archive, count).word == "not decided"
    unknown = archive_of(chain(_25=(math.nan, 2.0)))
    assert verdict(unknown, count).reason == verdicts.CONDITION_UNMET
    infinite = archive_of(chain(_25=(1.0, math.inf)))
    assert verdict(infinite, count).counted == (350, 350)


@pytest.mark.parametrize(
    ("sides", "as_factor", "as_difference"),
    [((1, 2, 3, 12), "held", "held"), ((1, 4, 5, 10), "against", "held")],
)
def test_the_largest_gap_as_a_factor_and_as_a_difference(sides, as_factor, as_difference):
    def curves(setting, seed):
        values = dict(zip("ABCD", map(float, sides), strict=True))
        values["D"] += wobble(seed)
        return {name: np.full(len(STEPS), value) for name, value in values.items()}

    archive = archive_of(curves)
    for quantity, word in (("lead_as_factor", as_factor), ("lead_as_difference", as_difference)):
        one = claim(
            claims.VALUE,
            quantity=quantity,
            direction=claims.RISES,
            condition=claims.AT_THE_END,
            margin=claims.RATIO,
        )
        assert verdict(archive, one).word == word
    found = verdict(archive, one)
    assert found.value == pytest.approx(
        (sides[3] - sides[2] - max(sides[1] - sides[0], sides[2] - sides[1])) / sides[0]
    )


# Correlations over designed settings.


def test_correlations_over_the_settings_describe_and_decide_nothing():
    def curves(setting, seed):
        level = np.log(setting[0] / setting[1])
        return {
            "mls": np.full(len(STEPS), level + 0.1 * seed),
            "gradient_energy": np.full(len(STEPS), 2 * level - 0.1 * seed),
            "log_volume": np.full(len(STEPS), -level),
            "sharpness": np.full(len(STEPS), (10 + level) ** 2),
        }

    one = claim(claims.CORRELATION, other="gradient_energy", rival="log_volume")
    archive = archive_of(curves)
    found = verdict(archive, one)
    assert (found.word, found.reason) == ("not tested", verdicts.DESIGNED_SETTINGS)
    assert (found.value, found.rival) == (pytest.approx(1), pytest.approx(-1))
    assert verdicts.along_the_line(archive, ALL) == ("laptop", pytest.approx(1))


# Multiplicity.


def test_holm_is_over_all_claims_that_have_an_interval():
    weak = archive_of(lambda s, seed: {"mls": line(10, 9 + 45 * wobble(seed))})
    alone = verdict(weak, claim())
    assert 0.01 < alone.p < 0.05
    assert (alone.uncorrected, alone.word, alone.adjusted) == ("held", "held", alone.p)
    many = [claim(key=f"vgg10.test.{k}") for k in range(4)]
    missing = [claim(key="vgg10.test.none", experiment="")]
    for one in list(decide(weak, many + missing).values())[:4]:
        assert (one.uncorrected, one.word) == ("held", "not decided")
        assert one.adjusted == pytest.approx(4 * alone.p)


def test_holm_steps_down():
    def curves(setting, seed):
        return {
            "mls": line(10, 9 + 45 * wobble(seed)),
            "gradient_energy": line(10, 5 + wobble(seed)),
        }

    both = [claim(), claim(key="vgg10.test.two", quantity="gradient_energy")]
    weak, strong = decide(archive_of(curves), both).values()
    assert strong.adjusted == pytest.approx(2 * strong.p)
    assert (weak.adjusted, weak.word) == (weak.p, "held")


def test_no_difference_after_holm_needs_the_wider_interval():
    near = archive_of(lambda s, seed: {"mls": line(10, 10 + 20 * wobble(seed))})
    assert verdict(near, claim()).word == "no difference beyond the margin"
    many = [claim(key=f"vgg10.test.{k}") for k in range(50)]
    one = decide(near, many)["vgg10.test.0"]
    assert one.uncorrected == "no difference beyond the margin"
    assert one.word == "not decided"


# Each of these catches one fault of the code that no other test here sees.


def test_runs_on_other_data_do_not_count():
    archive = archive_of(falling)
    elsewhere = [
        replace(
            run,
            manifest=run.manifest
            | {"configuration": run.manifest["configuration"] | {"data": "digits"}},
        )
        for run in archive.runs
    ]
    assert verdict(Archive(tuple(elsewhere)), claim()).reason == verdicts.TOO_FEW_SEEDS


def test_a_level_just_beyond_the_margin_is_not_decided():
    ends = {seed: 10.6 + 10 * wobble(seed) for seed in SEEDS}
    archive = archive_of(lambda s, seed: {"mls": line(10, ends[seed])})
    found = verdict(archive, claim(direction=claims.LEVEL_OFF))
    assert stats.ttest_1samp(found.seeds, 0).pvalue < 0.05
    assert found.value > found.margin and found.word == "not decided"


def test_a_trend_needs_four_differences():
    short = {"train_accuracy": np.where(np.arange(len(STEPS)) < 3, 0.5, 1.0)}
    shorter = {"train_accuracy": np.where(np.arange(len(STEPS)) < 4, 0.5, 1.0)}
    draws = np.random.default_rng(3)

    def curves(setting, seed):
        one = draws.normal(size=len(STEPS))
        return {"mls": one, "gradient_energy": one + 0.1 * draws.normal(size=len(STEPS))}

    assert verdict(archive_of(lambda *at: curves(*at) | short), trend).n == 0
    assert verdict(archive_of(lambda *at: curves(*at) | shorter), trend).n == 0
    assert verdict(archive_of(curves), trend).n == 5


def test_a_change_within_the_archives_digits_is_none():
    archive = archive_of(lambda s, seed: {"mls": line(10, 10 + 1e-9 * (seed - 1))})
    found = verdict(archive, claim(margin=Margin(0.0, relative=True)))
    assert found.seeds == (0.0,) * 5


def test_a_margin_is_a_share_of_the_size_of_what_changes():
    def curves(setting, seed):
        sign = 1 if setting[1] == 20 else -1
        return {"mls": line(10 * sign, 8 * sign + wobble(seed))}

    assert verdict(archive_of(curves), claim()).margin == pytest.approx(0.5)


def test_no_difference_of_correlations_after_holm_needs_the_wider_interval():
    class Known:
        n, is_difference = 40, True

        def interval(self, level):
            return (-0.1, 0.1) if level >= 0.05 else (-0.4, 0.4)

    one = claim(claims.CORRELATION, direction=claims.RISES, margin=claims.WEAK)
    found = [
        verdicts.Verdict(replace(one, key=f"vgg10.test.{k}"), value=0.0, margin=0.3, p=0.9)
        for k in range(2)
    ]
    alone, together = (
        verdicts._holm([replace(each, association=Known()) for each in some])[0].word
        for some in (found[:1], found)
    )
    assert (alone, together) == ("no difference beyond the margin", "not decided")


def test_the_line_is_that_of_the_first_scale_with_enough_seeds():
    rates = archive_of(lambda s, seed: {"sharpness": np.full(len(STEPS), s[0] / s[1])})
    against = archive_of(
        lambda s, seed: {"sharpness": np.full(len(STEPS), s[1] / s[0])}, scale="paper"
    )
    scale, value = verdicts.along_the_line(Archive(rates.runs + against.runs), ALL)
    assert scale == "paper" and value < -0.5
    assert verdicts.along_the_line(Archive(()), ALL)[0] == ""


# The simulation: archives without any effect, and with one.


PLANNED = configurations(RATE, "laptop", seeds=SEEDS)
SAMPLES = np.repeat(["train", "test", "misclassified"], len(STEPS))
MANIFESTS = [{"configuration": made.identity, "status": "complete"} for made in PLANNED]
LOSS = np.tile(10.0 ** -np.arange(1, len(STEPS) + 1), 3)
ACCURACY = np.tile(np.where(np.arange(len(STEPS)) < FIT, 0.5, 1.0), 3)


def simulated(draws, effect):
    """What records would hold: the settings of a seed share its shift, checkpoints have noise."""
    shift, time = draws.normal(size=(len(SEEDS), 4)), np.linspace(0, 1, len(STEPS))
    runs = []
    for made, manifest in zip(PLANNED, MANIFESTS, strict=True):
        noise, own = draws.normal(size=(4, len(STEPS))), draws.normal(size=4)
        values = 100 + (shift[made.seed] + 0.3 * own)[:, None] * time + 0.2 * noise
        values -= effect * (time + 10 * made.lr)
        values[3] += effect * values[1]
        sides = np.tile(values, 3)
        sides[:, -len(STEPS) :] += effect + shift[made.seed, :, None] + 0.5 * own[:, None]
        table = {"step": np.tile(STEPS, 3), "samples": SAMPLES, "n": 100, "train_loss": LOSS}
        table |= {"train_accuracy": ACCURACY, **dict(zip(COLUMNS, sides, strict=True))}
        runs.append(ArchivedRun("laptop", manifest, pd.DataFrame(table)))
    return Archive(tuple(runs))


FAMILY = [
    claim(key="vgg10.a.1", experiment=RATE, margin=Margin(0.001, relative=True)),
    claim(key="vgg10.a.2", experiment=RATE, quantity="log_volume"),
    replace(order, key="vgg10.b.1"),
    replace(order, key="vgg10.b.2", condition=claims.AT_EQUAL_LOSS, quantity="log_volume"),
    replace(wrong, key="vgg10.c.1", experiment=RATE),
    replace(trend, key="vgg10.d.1", experiment=RATE),
]


def test_without_an_effect_hardly_anything_is_held(little_garbage):
    """Of 500 archives without any effect at most 5 % have a *held* after Holm."""
    draws, archives = np.random.default_rng(2026), 500
    wrongly, each = 0, np.zeros(len(FAMILY))
    for _ in range(archives):
        found = decide(simulated(draws, 0.0), FAMILY).values()
        wrongly += any(one.word == "held" for one in found)
        each += [one.uncorrected == "held" for one in found]
    assert wrongly <= 0.05 * archives
    # One side of a 5 % test: 2.5 % each without the correction, neither far more nor far less.
    assert (each <= 0.05 * archives).all() and each.mean() > 0.015 * archives


def test_with_an_effect_it_is_found(little_garbage):
    draws, archives = np.random.default_rng(7), 20
    held = np.zeros(len(FAMILY))
    for _ in range(archives):
        held += [one.word == "held" for one in decide(simulated(draws, 8.0), FAMILY).values()]
    assert (held >= 0.8 * archives).all()
