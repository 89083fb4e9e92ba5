"""Faults put into the statistics of populations on purpose: a unit test catches each."""

from __future__ import annotations

from pathlib import Path

import pytest
import test_associations as numbers
import test_hypotheses as words

from flatlib.lab import associations, drawn, hypotheses, verdicts

MUTANTS = {  # what is wrong: (the room, its code, the fault, the test that catches it)
    "direction flipped": (
        verdicts,
        "mean * claim.direction > 0",
        "mean * claim.direction < 0",
        words.test_the_direction_decides_between_held_and_against,
    ),
    "Holm dropped": (
        verdicts,
        'multipletests([verdict.p for verdict in tested], method="holm")[1]',
        "np.array([verdict.p for verdict in tested])",
        words.test_holm_is_over_all_hypotheses_that_have_an_interval,
    ),
    "the whole level for each of two families": (
        verdicts,
        "np.minimum(1.0, adjusted / share)",
        "adjusted",
        words.test_the_question_and_the_survey_have_half_of_the_level_each,
    ),
    "one step taken for one loss": (
        verdicts,
        "drawn.STEP if claim.condition == claims.AT_ONE_STEP else drawn.LOSS",
        "drawn.LOSS",
        words.test_conditions_are_kept_apart_and_compared,
    ),
    "few networks tested all the same": (
        verdicts,
        "found.n < claims.NETWORKS or ",
        "",
        words.test_too_few_networks_and_missing_populations_test_nothing,
    ),
    "a rival that does not compete": (
        verdicts,
        "second = pair(claim.rival)",
        "second = None",
        words.test_a_rival_is_beaten_by_the_difference_over_the_same_draws,
    ),
    "what is held fixed is not": (
        associations,
        "        C = C - C[:, :, i, None] * C[:, i, None, :] / pivot[:, None, None]\n",
        "",
        words.test_partial_correlation_is_right_where_the_plain_one_is_fooled,
    ),
    "rows drawn in place of units": (
        associations,
        "labels, unit = np.unique(units, return_inverse=True)",
        "labels, unit = np.unique(np.arange(len(units)), return_inverse=True)",
        numbers.test_a_draw_takes_all_networks_of_a_unit,
    ),
    "rows drawn in place of seeds": (
        associations,
        "labels, unit = np.unique(units, return_inverse=True)",
        "labels, unit = np.unique(np.arange(len(units)), return_inverse=True)",
        words.test_networks_that_share_a_seed_are_drawn_together,
    ),
    "predictions of networks that the fit has seen": (
        associations,
        "np.eye(int(own.sum())) - basis[own] @ basis[own].T",
        "np.eye(int(own.sum()))",
        numbers.test_noise_predicts_nothing_of_unseen_networks,
    ),
    "ties do not share their rank": (
        associations,
        "(below[:, less] + below[:, at_most] + 1) / 2",
        "below[:, at_most]",
        lambda _: numbers.test_a_correlation_and_its_draws_are_those_of_the_drawn_rows(
            "spearman", (), None
        ),
    ),
    "accuracies not turned into errors": (
        drawn,
        '1 - rows[f"accuracy_pgd_',
        'rows[f"accuracy_pgd_',
        lambda _: words.test_one_row_a_network_with_every_number_at_each_condition(),
    ),
    "compression explains whatever loses its word": (
        hypotheses,
        "return EXPLAINS if compression_left else CANNOT_TELL",
        "return EXPLAINS",
        lambda _: words.test_two_measures_of_one_thing_cannot_be_told_apart(),
    ),
}
WITHOUT_DRAWS = (
    words.test_too_few_networks_and_missing_populations_test_nothing,
    numbers.test_noise_predicts_nothing_of_unseen_networks,
)


@pytest.fixture
def room():
    """Run source in a room's own names, which its functions look up, and put them back."""
    kept = []

    def run(module, source):
        kept.append((module, dict(vars(module))))
        exec(compile(source, module.__file__, "exec"), vars(module))

    yield run
    for module, names in kept:
        vars(module).clear()
        vars(module).update(names)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_fault_is_caught(name, room, monkeypatch):
    module, code, fault, test = MUTANTS[name]
    source = Path(module.__file__).read_text(encoding="utf-8")
    assert source.count(code) == 1, "the code that this fault is put into has changed"
    room(module, source.replace(code, fault))
    monkeypatch.setattr(associations, "DRAWS", 60)
    with pytest.raises(AssertionError):
        test() if test in WITHOUT_DRAWS else test(None)


def test_the_source_without_a_fault_passes(room, monkeypatch):
    for module in {module for module, *_ in MUTANTS.values()}:
        room(module, Path(module.__file__).read_text(encoding="utf-8"))
    monkeypatch.setattr(associations, "DRAWS", 60)
    words.test_holm_is_over_all_hypotheses_that_have_an_interval(None)
    numbers.test_a_draw_takes_all_networks_of_a_unit(None)
