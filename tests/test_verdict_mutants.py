"""Faults put into the verdicts' code on purpose: a unit test catches each, without the archive."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
import test_verdicts as units

from flatlib.lab import verdicts

SOURCE = Path(verdicts.__file__).read_text(encoding="utf-8")
MUTANTS = {  # what is wrong: (the code, the fault, the test that catches it, its arguments)
    "direction flipped": (
        "mean * claim.direction > 0",
        "mean * claim.direction < 0",
        units.test_direction_decides_between_held_and_against,
    ),
    "condition dropped: once fitted": (
        "        first = fits\n",
        "        first = np.zeros_like(fits)\n",
        units.test_a_change_once_fitted_begins_at_the_fit_and_not_at_the_start,
    ),
    "condition dropped: runs that never fitted": (
        "        first = fits\n",
        "        first = np.maximum(fits, 0)\n",
        units.test_runs_that_have_not_fitted_are_left_out_and_counted,
    ),
    "runs with one checkpoint counted": (
        "(first >= 0) & (first < last)",
        "(first >= 0) & (first <= last)",
        units.test_a_run_with_one_checkpoint_in_a_window_has_not_moved,
    ),
    "condition dropped: fitted by the second half": (
        "(fits >= 0) & (fits <= later)",
        "(fits >= 0)",
        units.test_the_late_window_asks_for_a_run_that_has_fitted_by_its_beginning,
    ),
    "condition dropped: at one step": (
        "grid.fits(threshold) >= 0, last",
        "grid.fits(threshold) >= -1, last",
        units.test_at_one_step_both_settings_must_have_fitted,
    ),
    "seeds pooled as runs": (
        "effects[settings][:, seeds].mean(axis=0)",
        "effects[defined]",
        units.test_runs_of_one_seed_are_one_number,
    ),
    "seeds not paired": (
        "effects = there[-1] - there[0]",
        "effects = there[-1] - there[0][::-1]",
        units.test_a_difference_pairs_the_extreme_settings_by_seed,
    ),
    "neighbours for extremes": (
        "effects = there[-1] - there[0]",
        "effects = there[1] - there[0]",
        units.test_a_difference_pairs_the_extreme_settings_by_seed,
    ),
    "fit threshold exceeded, not reached": (
        "self.accuracy >= threshold",
        "self.accuracy > threshold",
        units.test_fitted_is_the_threshold_or_more,
    ),
    "fit threshold ignored": (
        "self.accuracy >= threshold",
        "self.accuracy >= claims.FITTED",
        units.test_fitted_is_the_threshold_or_more,
    ),
    "interval of another level": (
        "test.confidence_interval(1 - level)",
        "test.confidence_interval(1 - 2 * level)",
        units.test_a_change_is_the_mean_of_seed_means_with_students_interval,
    ),
    "one side of the interval inside the margin": (
        "inside = -margin < low and high < margin",
        "inside = -margin < low or high < margin",
        units.test_no_difference_beyond_the_margin_needs_the_whole_interval_inside,
    ),
    "one of the two one-sided tests": (
        "-margin, margin)[0])",
        "-margin, margin)[1][1])",
        units.test_levelling_off_is_two_one_sided_tests,
    ),
    "margin not relative": (
        "margin.size * abs(start) if margin.relative else margin.size",
        "margin.size",
        units.test_a_change_is_the_mean_of_seed_means_with_students_interval,
    ),
    "Holm dropped": (
        'multipletests([verdict.p for verdict in tested], method="holm")[1]',
        "np.array([verdict.p for verdict in tested])",
        units.test_holm_is_over_all_claims_that_have_an_interval,
    ),
    "Holm does not step down": (
        'method="holm"',
        'method="bonferroni"',
        units.test_holm_steps_down,
    ),
    "no difference after Holm from the narrow interval": (
        "share * claims.LEVEL / len(tested)",
        "claims.LEVEL",
        units.test_no_difference_after_holm_needs_the_wider_interval,
    ),
    "equal loss replaced by equal step": (
        "return _first(loss <= level[None, :, None])",
        "return np.full(loss.shape[:2], last)",
        units.test_equal_loss_takes_each_run_where_it_first_had_the_slowest_runs_last_loss,
    ),
    "one loss level for all seeds": (
        "level = loss[..., -1].max(axis=0)",
        "level = np.full(loss.shape[1], loss[..., -1].max())",
        units.test_the_level_of_equal_loss_is_each_seeds_own,
    ),
    "ties in order": (
        "* claim.direction > 0).all(axis=0)",
        "* claim.direction >= 0).all(axis=0)",
        units.test_ties_are_not_in_order,
    ),
    "one ordered pair of settings is enough": (
        "* claim.direction > 0).all(axis=0)",
        "* claim.direction > 0).any(axis=0)",
        units.test_ties_are_not_in_order,
    ),
    "undefined values counted": (
        "np.where(np.isfinite(result), result, np.nan)",
        "np.nan_to_num(result)",
        units.test_undefined_values_are_not_counted,
    ),
    "checkpoints without a misclassified sample counted": (
        '"misclassified") > 0',
        '"misclassified") >= 0',
        units.test_misclassified_samples_are_compared_over_the_last_checkpoints_with_any,
    ),
    "misclassified at every checkpoint": (
        "last = known & (from_last <= claims.LAST_CHECKPOINTS)",
        "last = known",
        units.test_misclassified_samples_are_compared_over_the_last_checkpoints_with_any,
    ),
    "misclassified at the first checkpoints": (
        "known[..., ::-1].cumsum(axis=-1)[..., ::-1]",
        "known.cumsum(axis=-1)",
        units.test_misclassified_samples_are_compared_over_the_last_checkpoints_with_any,
    ),
    "the whole test set overlooked": (
        "np.where(np.isfinite(test_set), test_set, sample)",
        "sample",
        units.test_misclassified_samples_are_compared_with_the_whole_test_set_where_it_was_measured,
    ),
    "slowing without proportion": (
        "change / length * (steps[2] - steps[0]) / 2",
        "change",
        units.test_a_straight_fall_does_not_slow,
    ),
    "slowing the other way round": (
        "_averaged(after - before, before)",
        "_averaged(before - after, before)",
        units.test_a_fall_slows_if_it_is_smaller_in_the_second_half_of_the_part,
    ),
    "trends by levels": (
        "statistics.pearson(np.diff(one[run][part]), np.diff(other[run][part]))",
        "statistics.pearson(one[run][part], other[run][part])",
        units.test_a_shared_trend_is_no_correlation_of_changes,
    ),
    "correlations averaged without Fisher's z": (
        "np.arctanh(np.clip(rho.value, -1 + 1e-12, 1 - 1e-12))",
        "rho.value",
        units.test_a_trend_is_the_mean_of_fishers_z_within_a_seed,
    ),
    "two seeds are enough": (
        "if verdict.n < claims.SEEDS:",
        "if verdict.n < 2:",
        units.test_at_one_step_both_settings_must_have_fitted,
    ),
    "two seeds are enough for a scale": (
        "len(grid.seeds) >= claims.SEEDS) for s, grid in grids",
        "len(grid.seeds) >= 2) for s, grid in grids",
        units.test_the_first_scale_with_enough_seeds_decides,
    ),
    "a seed counts at whatever settings it has": (
        "by_seed[one[1]] == len(settings)",
        "by_seed[one[1]] >= 1",
        units.test_a_seed_that_lacks_a_setting_is_left_out,
    ),
    "scales the other way round": (
        "for scale in claim.scales\n    ]",
        "for scale in reversed(claim.scales)\n    ]",
        units.test_the_first_scale_with_enough_seeds_decides,
    ),
    "unfinished runs counted": (
        'run.manifest["status"] == "complete" and ',
        "",
        units.test_unfinished_runs_and_steps_beyond_the_scale_do_not_count,
    ),
    "short runs counted": (
        ' and run.table["step"].max() >= first.steps',
        "",
        units.test_unfinished_runs_and_steps_beyond_the_scale_do_not_count,
    ),
    "steps beyond the scale counted": (
        '(table["step"] <= length)',
        '(table["step"] >= 0)',
        units.test_unfinished_runs_and_steps_beyond_the_scale_do_not_count,
    ),
    "one broken run decides a count": (
        "broken.all()",
        "broken.any()",
        units.test_an_inequality_that_some_runs_break_is_not_decided,
    ),
    "unknown sides hold": (
        "np.where(known, left <= right + slack, np.nan)",
        "np.where(known, left <= right + slack, 1.0)",
        units.test_an_inequality_that_some_runs_break_is_not_decided,
    ),
    "a scale that cannot test a claim keeps it": (
        "        if not found.reason:\n",
        "        if True:\n",
        units.test_a_scale_whose_runs_do_not_meet_the_condition_leaves_the_claim_to_the_next,
    ),
    "the last scale that cannot test a claim for the first": (
        "        untested = untested or found\n",
        "        untested = found\n",
        units.test_a_scale_whose_runs_do_not_meet_the_condition_leaves_the_claim_to_the_next,
    ),
    "scales with too few seeds first": (
        "sorted(found, key=lambda one: not one[2])",
        "sorted(found, key=lambda one: one[2])",
        units.test_a_scale_whose_runs_do_not_meet_the_condition_leaves_the_claim_to_the_next,
    ),
    "a threshold that picks other runs": (
        "        replace(claim, scales=(usual[claim.key].scale,))\n",
        "        claim\n",
        units.test_the_threshold_does_not_move_a_claim_to_other_runs,
    ),
    "the scale that decides for the other": (
        "if s != usual[claim.key].scale",
        "if s == usual[claim.key].scale",
        units.test_the_other_scale_says_what_it_would_of_claims_that_both_can_test,
    ),
    "a correction over the other scale's claims alone": (
        "[tested.get(claim.key, claim) for claim in table]",
        "[*tested.values()]",
        units.test_the_other_scale_says_what_it_would_of_claims_that_both_can_test,
    ),
    "a setting that some seeds lack": (
        "settings = defined[:, seeds].all(axis=1)",
        "settings = defined[:, seeds].any(axis=1)",
        units.test_seeds_are_means_over_the_same_settings,
    ),
    "runs on other data counted": (
        '("net", "data", "loss")',
        '("net", "loss")',
        units.test_runs_on_other_data_do_not_count,
    ),
    "a level beyond zero for one beyond the margin": (
        "math.copysign(margin, mean)",
        "0.0",
        units.test_a_level_just_beyond_the_margin_is_not_decided,
    ),
    "a trend of three differences": (
        "FEWEST_DIFFERENCES = 4",
        "FEWEST_DIFFERENCES = 3",
        units.test_a_trend_needs_four_differences,
    ),
    "changes below the archive's digits counted": (
        "np.abs(effects.seeds) > rounding",
        "np.abs(effects.seeds) >= 0",
        units.test_a_change_within_the_archives_digits_is_none,
    ),
    "a margin of what cancels": (
        "_mean(np.abs(begin), used)",
        "_mean(begin, used)",
        units.test_a_margin_is_a_share_of_the_size_of_what_changes,
    ),
    "no difference of correlations from the narrow interval": (
        "verdict.association.interval(strict)",
        "verdict.association.interval(claims.LEVEL)",
        units.test_no_difference_of_correlations_after_holm_needs_the_wider_interval,
    ),
    "the line of the last scale": (
        "scale, grid, _ = found[0]",
        "scale, grid, _ = found[-1]",
        units.test_the_line_is_that_of_the_first_scale_with_enough_seeds,
    ),
    "designed settings decide": (
        "        reason=DESIGNED_SETTINGS,\n",
        "        word=HELD,\n",
        units.test_correlations_over_the_settings_describe_and_decide_nothing,
    ),
    "the least gap for the largest": (
        "((d - c) - np.maximum(b - a, c - b)) / a",
        "((d - c) - np.minimum(b - a, c - b)) / a",
        units.test_the_largest_gap_as_a_factor_and_as_a_difference,
        {"sides": (1, 4, 5, 10), "as_factor": "against", "as_difference": "held"},
    ),
}


def use(monkeypatch, source: str) -> None:
    """Have the unit tests test this source."""
    module = types.ModuleType("flatlib.verdicts_under_test")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(source, verdicts.__file__, "exec"), module.__dict__)
    monkeypatch.setattr(units, "verdicts", module)
    for name in ("Archive", "ArchivedRun", "decide"):
        monkeypatch.setattr(units, name, getattr(module, name))


@pytest.mark.parametrize("name", MUTANTS)
def test_a_fault_is_caught(name, monkeypatch):
    code, fault, test, *arguments = MUTANTS[name]
    given = arguments[0] if arguments else {}
    assert SOURCE.count(code) == 1, "the code that this fault is put into has changed"
    use(monkeypatch, SOURCE.replace(code, fault))
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        test(**given)


def test_the_source_without_a_fault_passes(monkeypatch):
    use(monkeypatch, SOURCE)
    units.test_direction_decides_between_held_and_against()
