"""From the table of a population to a verdict, on populations whose truth is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import synthetic_population
from scipy import stats
from statsmodels.stats.multitest import multipletests

from flatlib.lab import associations, claims, drawn, hypotheses, sentences, verdicts
from flatlib.lab.associations import Networks
from flatlib.lab.claims import Claim
from flatlib.lab.drawn import LOSS, STEP, Drawn, at
from flatlib.lab.hypotheses import EXPLAINED, GIVEN, PLAIN, key
from flatlib.lab.verdicts import Archive, decide

NAME = "mlp-relu"


def archive(*populations: Drawn) -> Archive:
    return Archive((), populations={one.name: one for one in populations})


def claim(**changes) -> Claim:
    made = Claim(
        f"{NAME}.loss-plain.one",
        "",
        "",
        claims.S,
        claims.RISES,
        claims.AT_EQUAL_LOSS,
        claims.CORRELATION,
        claims.WEAK,
        other=claims.GAP,
        population=NAME,
    )
    return replace(made, **changes)


def verdict(population: Drawn, one: Claim):
    return decide(archive(population), [one])[one.key]


@pytest.fixture
def few_draws(monkeypatch):
    monkeypatch.setattr(associations, "DRAWS", 200)


# Reading a population.


def test_one_row_a_network_with_every_number_at_each_condition():
    table = synthetic_population.table(n=30)
    late = (table["index"] == 3) & (table["condition"] == "loss")
    table.loc[late, ["reached", "train_loss", "sharpness"]] = [0, np.nan, np.nan]
    found = Drawn.of(table, NAME, "", 40, 0.015, 2_000)
    assert (found.n, found.reached(LOSS), found.reached(STEP)) == (30, 29, 30)
    assert found.hyperparameters == ("lr", "batch_size", "width", "depth")
    row, at_step = found.networks.table.loc[5], table[table["condition"] == "step"].iloc[5]
    assert row["step.root_sharpness"] == pytest.approx(np.log10(at_step["sharpness"]) / 2)
    assert row["lr"] == pytest.approx(np.log10(at_step["lr"])) and row["depth"] == at_step["depth"]
    assert row["step.error_pgd"] == pytest.approx(1 - at_step[f"accuracy_pgd_{drawn.RADIUS:g}"])
    corrupted = [at_step[f"accuracy_{name}"] for name in drawn.robustness.CORRUPTIONS]
    assert row["step.error_corruptions"] == pytest.approx(1 - np.mean(corrupted))
    assert row["step.log_volume"] == at_step["log_volume"]
    assert found.networks.units.tolist() == list(range(30))


def test_optimizers_become_indicators_and_what_does_not_vary_is_no_hyperparameter():
    table = synthetic_population.table(n=30).assign(width=64, depth=np.nan)
    table["optimizer"] = np.where(table["index"] % 3 == 0, "adam", "sgd")
    found = Drawn.of(table, NAME, "", 40, 0.015, 2_000)
    assert found.hyperparameters == ("lr", "batch_size", "optimizer sgd")


def test_two_rows_of_a_network_at_one_condition_are_refused():
    table = synthetic_population.table(n=5)
    with pytest.raises(ValueError, match="network 0 of mlp-relu has two rows at condition 'loss'"):
        Drawn.of(pd.concat([table, table.head(1)]), NAME, "", 40, 0.015, 2_000)


# One hypothesis.


def test_the_direction_decides_between_held_and_against(few_draws):
    population = synthetic_population.drawn(effect=2.0, confounding=0.0)
    found = verdict(population, claim())
    table = population.networks.table
    oracle = stats.spearmanr(table["loss.root_sharpness"], table["loss.generalization_gap"])
    assert found.word == "held" and found.value == pytest.approx(oracle.statistic)
    assert (found.n, found.used, found.runs, found.margin) == (40, 40, 40, 0.3)
    assert verdict(population, claim(direction=claims.FALLS)).word == "against"
    assert verdict(population, claim(direction=claims.LEVEL_OFF)).word == "against"


def test_partial_correlation_is_right_where_the_plain_one_is_fooled(few_draws):
    population = synthetic_population.drawn(confounding=2.0, seed=1)
    assert verdict(population, claim()).word == "held"
    given = verdict(population, claim(given=population.recipe))
    assert (given.word, given.n) == ("not decided", 40) and abs(given.value) < 0.3
    hidden = synthetic_population.drawn(confounding=2.0, effect=1.5, seed=1)
    assert verdict(hidden, claim(given=hidden.recipe)).word == "held"


def test_a_rival_is_beaten_by_the_difference_over_the_same_draws(few_draws):
    population = synthetic_population.drawn(effect=2.0, confounding=0.0)
    found = verdict(population, claim(rival=claims.MLS))
    two = [verdict(population, claim(quantity=name)).value for name in (claims.S, claims.MLS)]
    assert found.compared == pytest.approx(two) and found.word == "held"
    assert found.value == pytest.approx(np.arctanh(two[0]) - np.arctanh(two[1]))
    lost = verdict(population, claim(quantity=claims.MLS, rival=claims.S))
    assert lost.word == "against"


def test_conditions_are_kept_apart_and_compared(few_draws):
    table = synthetic_population.table(effect=2.0, confounding=0.0)
    late = table["condition"] == "step"
    table.loc[late, "loss_gap"] = -table.loc[late, "loss_gap"]
    population = Drawn.of(table, NAME, "", 40, 0.015, 2_000)
    assert verdict(population, claim()).word == "held"
    assert verdict(population, claim(condition=claims.AT_ONE_STEP)).word == "against"
    shift = verdict(population, claim(statistic=claims.SHIFT))
    assert shift.word == "held" and shift.compared[0] == -shift.compared[1]


def test_no_correlation_beyond_the_margin_takes_many_networks(few_draws):
    population = synthetic_population.drawn(n=400, confounding=0.0, seed=2)
    assert verdict(population, claim()).word == "no difference beyond the margin"
    assert verdict(population, claim(direction=claims.LEVEL_OFF)).word == "held"
    few = synthetic_population.drawn(n=40, confounding=0.0, seed=7)
    assert verdict(few, claim()).word == "not decided"
    assert verdict(few, claim(direction=claims.LEVEL_OFF)).word == "not decided"


def test_too_few_networks_and_missing_populations_test_nothing():
    few = synthetic_population.drawn(n=claims.NETWORKS - 1, effect=5.0)
    found = verdict(few, claim())
    assert (found.word, found.reason) == ("not tested", verdicts.TOO_FEW_NETWORKS)
    assert found.value > 0.5 and math.isnan(found.p)
    table = few.networks.table.assign(**{"loss.mls": np.nan})
    blind = replace(few, networks=Networks(table, few.networks.units))
    unmeasured = verdict(blind, claim(quantity=claims.MLS))
    assert (unmeasured.word, unmeasured.reason) == ("not tested", verdicts.NOT_MEASURED)
    absent = decide(Archive(()), [claim(population="lenet")])
    assert absent[claim().key].reason == verdicts.NO_EXPERIMENT


def test_networks_that_share_a_seed_are_drawn_together(few_draws):
    """Twenty seeds with three networks each: the interval is that of twenty, not of sixty."""
    table = synthetic_population.table(n=20, confounding=0.0, seed=3)
    trio = [table.assign(index=table["index"] * 3 + k) for k in range(3)]
    shared = Drawn.of(pd.concat(trio), NAME, "", 60, 0.015, 2_000)
    alone = Drawn.of(table, NAME, "", 20, 0.015, 2_000)
    first, second = (verdict(each, claim()) for each in (shared, alone))
    assert (first.n, first.runs) == (20, 60)
    assert (first.low, first.high) == pytest.approx((second.low, second.high))


def test_holm_is_over_all_hypotheses_that_have_an_interval(few_draws):
    population = synthetic_population.drawn(effect=0.55, confounding=0.0, seed=4)
    alone = verdict(population, claim())
    assert 0.001 < alone.p < 0.05 and alone.word == "held"
    others = [
        claim(key=f"{NAME}.loss-plain.{k}", quantity=claims.MLS, other=drawn.ERROR_NOISE)
        for k in range(60)
    ]
    among = decide(archive(population), [claim(), *others])[claim().key]
    assert (among.uncorrected, among.word) == ("held", "not decided")
    assert among.adjusted == pytest.approx(min(1, 61 * alone.p))


# All hypotheses of a population.


def test_each_measure_meets_each_outcome_plain_and_given_the_hyperparameters(few_draws):
    population = synthetic_population.drawn(effect=2.0)
    made = hypotheses.hypotheses(population)
    keys = [one.key for one in made]
    assert len(set(keys)) == len(keys)
    pairs = len(drawn.MEASURES) * len(drawn.OUTCOMES)
    assert len(made) == 4 * pairs + 2 * len(hypotheses.COMPRESSION) + 1
    decided = hypotheses.decide(archive(population))
    assert list(decided) == keys
    assert all(not math.isnan(one.p) for one in decided.values())
    one = decided[key(NAME, LOSS, GIVEN, claims.S, claims.GAP)]
    assert one.claim.given == population.recipe and one.word == "held"
    assert sentences.claim_words(one.claim) == (
        "√S correlates with test minus train loss, given the hyper-parameters"
    )
    assert sentences.basis_words(one) == "40 of 40 networks drawn at random"
    explained = decided[key(NAME, LOSS, EXPLAINED, claims.S, claims.MLS)].claim
    assert sentences.claim_words(explained).endswith("given the hyper-parameters and MLS")
    counts = hypotheses.counted(decided, NAME, LOSS, GIVEN)
    assert sum(counts.values()) == pairs and counts["held"] >= 1


def test_the_question_and_the_survey_have_half_of_the_level_each(few_draws):
    population = synthetic_population.drawn(effect=1.0)
    made = hypotheses.hypotheses(population)
    decided = hypotheses.decide(archive(population))
    question = [one for one in made if hypotheses.is_question(one)]
    assert len(question) == 4 + 1 + 2 * len(hypotheses.COMPRESSION)
    for family in (question, [one for one in made if one not in question]):
        p = np.array([decided[one.key].p for one in family])
        adjusted = [decided[one.key].adjusted for one in family]
        holm = multipletests(p, method="holm")[1]
        assert adjusted == pytest.approx(np.minimum(1, 2 * holm))


@pytest.mark.parametrize(
    ("truth", "word"),
    [
        ({"effect": 0.0}, hypotheses.NOTHING_TO_EXPLAIN),
        ({"effect": 2.0}, hypotheses.DOES_NOT_EXPLAIN),
        ({"effect": 2.0, "compressed": True}, hypotheses.EXPLAINS),
        ({"effect": 2.0, "n": 15}, verdicts.NOT_TESTED),
    ],
)
def test_compression_explains_what_it_causes(truth, word, few_draws):
    population = synthetic_population.drawn(**{"n": 120, "seed": 5} | truth)
    decided = hypotheses.decide(archive(population))
    assert hypotheses.explanation(decided, NAME, claims.MLS) == word


def test_two_measures_of_one_thing_cannot_be_told_apart():
    words = {(GIVEN, claims.S, claims.GAP): "held"}

    class Said:
        def __init__(self, word):
            self.word = word

    decided = {
        key(NAME, LOSS, kind, one, rest): Said(words.get((kind, one, rest), "not decided"))
        for kind, one, rest in (
            (GIVEN, claims.S, claims.GAP),
            (EXPLAINED, claims.S, claims.MLS),
            (EXPLAINED, claims.MLS, claims.S),
        )
    }
    found = hypotheses.explanation(decided, NAME, claims.MLS)
    assert found == hypotheses.CANNOT_TELL


def test_what_a_measure_adds_to_the_hyperparameters_is_its_gain_out_of_sample():
    idle = hypotheses.predictions(synthetic_population.drawn(confounding=2.0), LOSS, claims.GAP)
    assert (idle["settings"] > 0.5).all() and idle.loc[claims.S, "alone"] > 0.2
    assert idle.loc[claims.S, "gain"] < 0.05
    telling = synthetic_population.drawn(confounding=2.0, effect=2.0)
    found = hypotheses.predictions(telling, LOSS, claims.GAP)
    assert found.loc[claims.S, "gain"] > 0.15 > found.loc[claims.MLS, "gain"]
    row = found.loc[claims.S]
    table = telling.networks.table
    columns = [*telling.recipe, at(LOSS, claims.S)]
    y = table[at(LOSS, claims.GAP)]
    assert row["both"] == associations.out_of_sample(table[columns], y)
    assert row["gain"] == row["both"] - row["settings"] and row["networks"] == 40


# Known truth, many times.

MEASURES, OUTCOMES = (claims.S, claims.MLS), (claims.GAP, drawn.ERROR_PGD)


def simulated(populations: int, **truth):
    """Of many populations of 40 one verdict over all networks, and four given the settings."""
    n, tables = 40, []
    for k in range(populations):
        table = synthetic_population.table(n=n, seed=100 + k, **truth)
        tables.append(table.assign(index=table["index"] + n * k))
    whole = Drawn.of(pd.concat(tables), NAME, "", n, 0.015, 2_000)
    tables.clear()  # or each collection of garbage looks through them
    columns = [at(LOSS, name) for name in (*MEASURES, *OUTCOMES)]
    columns = whole.networks.table[[*whole.recipe, *columns]]
    made = {one.key: one for one in hypotheses.hypotheses(whole)}
    plain = [made[key(NAME, LOSS, PLAIN, claims.S, claims.GAP)]]
    given = [made[key(NAME, LOSS, GIVEN, m, o)] for m in MEASURES for o in OUTCOMES]
    for k in range(populations):
        own = replace(whole, networks=Networks(columns.iloc[n * k : n * (k + 1)]))
        yield [list(decide(archive(own), family).values()) for family in (plain, given)]


def share(found: list[bool]) -> float:
    return sum(found) / len(found)


@pytest.mark.slow
@pytest.mark.parametrize("bend", [0.0, 1.5])
def test_without_an_effect_hardly_anything_is_held_though_the_recipe_moves_everything(
    bend, monkeypatch, little_garbage
):
    """Of 250 populations at most 5 % hold anything after Holm, and intervals cover the truth.

    They cover it more often than they say: a draw of 40 networks has 25 different ones, of which
    the columns that are held fixed take as much as of 40.
    """
    monkeypatch.setattr(associations, "DRAWS", 100)
    fooled, wrong, covered = [], [], []
    for plain, given in simulated(250, confounding=2.0, bend=bend):
        fooled.append(any(one.word == "held" for one in plain))
        wrong.append(any(one.word == "held" for one in given))
        covered += [one.low <= 0 <= one.high for one in given]
    assert share(fooled) > 0.95
    assert share(wrong) <= 0.05
    assert 0.95 <= share(covered) <= 0.99


def test_an_effect_is_found(monkeypatch, little_garbage):
    """A partial correlation of 0.7 is held in more than eight of ten populations of 40."""
    monkeypatch.setattr(associations, "DRAWS", 100)
    found = [given[0].word == "held" for _, given in simulated(40, confounding=1.5, effect=1.0)]
    assert share(found) > 0.8


def test_intervals_of_a_true_correlation_cover_it(monkeypatch):
    r"""Of a bivariate normal of correlation r, Spearman's is :math:`(6/\pi)\arcsin(r/2)`."""
    monkeypatch.setattr(associations, "DRAWS", 100)
    random, covered = np.random.default_rng(6), {"spearman": [], "pearson": []}
    truth = {"spearman": 6 / math.pi * math.asin(0.35), "pearson": 0.7}
    for _ in range(400):
        a = random.normal(size=40)
        b = 0.7 * a + math.sqrt(1 - 0.7**2) * random.normal(size=40)
        networks = Networks(pd.DataFrame({"a": a, "b": b}))
        for how, true in truth.items():
            low, high = networks.correlation("a", "b", how=how).interval(0.05)
            covered[how].append(low <= true <= high)
    assert all(0.93 <= share(found) <= 0.97 for found in covered.values()), covered


# Optimizers, seed by seed.

FACTORS = {"sgd": 1, "momentum": 1, "weight-decay": 1.2, "adam": 2, "sam": 0.8, "label-noise": 1}


def of_optimizers(table: pd.DataFrame) -> Drawn:
    return Drawn.of(table, hypotheses.OPTIMIZERS, "", 30, 0.015, 2_000)


def compared(table: pd.DataFrame) -> dict:
    """The word of each optimizer's sharpness, and the verdicts."""
    found = decide(archive(of_optimizers(table)), hypotheses.comparisons())
    assert len(found) == 20
    return found


def test_optimizers_are_compared_by_students_test_of_pairs():
    table = synthetic_population.optimizers(FACTORS, spread=0.1)
    found = compared(table)
    at_loss = table[table["condition"] == "loss"]
    for one in found.values():
        column = "loss_gap" if one.claim.quantity == claims.GAP else one.claim.quantity
        values = at_loss["sharpness"] ** 0.5 if column == claims.S else at_loss[column]
        before, after = (
            values[at_loss["optimizer"] == name].to_numpy() for name in ("sgd", one.claim.other)
        )
        oracle = stats.ttest_rel(after, before)
        assert one.p == pytest.approx(oracle.pvalue, rel=1e-6)
        low, high = oracle.confidence_interval() / before.mean()
        assert (one.low, one.high) == pytest.approx((low, high), rel=1e-6)
        assert (one.n, one.used, one.runs, one.margin) == (5, 5, 5, 0.05)
    adjusted = multipletests([one.p for one in found.values()], method="holm")[1]
    assert [one.adjusted for one in found.values()] == pytest.approx(list(adjusted))
    words = {one.claim.other: one.word for one in found.values()}
    assert words == {
        "momentum": "no difference beyond the margin",
        "weight-decay": "against",
        "adam": "against",
        "sam": "held",
        "label-noise": "no difference beyond the margin",
    }


def test_numbers_by_seed_are_the_networks_own_and_no_logarithms():
    table = synthetic_population.optimizers(FACTORS)
    found = of_optimizers(table).by_seed(LOSS, claims.MLS)
    row = table[(table["index"] == 10) & (table["condition"] == "loss")].iloc[0]
    assert (row["seed"], row["optimizer"]) == (1, "sam")
    assert found.loc[1, "sam"] == pytest.approx(row["mls"], rel=1e-12)
    assert list(found.index) == list(range(5)) and set(found) == set(FACTORS)


def test_a_seed_counts_if_both_networks_came_down_to_the_loss():
    table = synthetic_population.optimizers(FACTORS, spread=0.1)
    late = (table["condition"] == "loss") & (table["optimizer"] == "sam") & (table["seed"] < 2)
    three = compared(table.assign(reached=np.where(late, 0, 1)))
    assert {one.n for one in three.values() if one.claim.other == "sam"} == {3}
    assert {one.n for one in three.values() if one.claim.other != "sam"} == {5}
    later = (table["condition"] == "loss") & (table["optimizer"] == "sam") & (table["seed"] < 3)
    two = compared(table.assign(reached=np.where(later, 0, 1)))
    sam = [one for one in two.values() if one.claim.other == "sam"]
    assert {(one.word, one.reason) for one in sam} == {("not tested", verdicts.CONDITION_UNMET)}
    assert all(one.value == pytest.approx(-0.2, abs=0.05) for one in sam)


def test_optimizers_that_are_not_archived_are_not_compared():
    found = decide(Archive(()), hypotheses.comparisons())
    assert {(one.word, one.reason, one.n) for one in found.values()} == {
        ("not tested", verdicts.NO_EXPERIMENT, 0)
    }
    whole = synthetic_population.optimizers(FACTORS)
    without = compared(whole[whole["optimizer"] != "adam"])
    adam = [one for one in without.values() if one.claim.other == "adam"]
    assert {(one.word, one.n) for one in adam} == {("not tested", 0)}


def test_a_comparison_is_said_in_percent():
    table = synthetic_population.optimizers(FACTORS, noise=0.0, spread=0.0)
    found = compared(table)["optimizers.sam.mls"]
    assert sentences.claim_words(found.claim) == (
        "MLS is lower with SAM than with SGD, at equal train loss"
    )
    assert sentences.effect_words(found) == "−20.0 % (−20.0 % to −20.0 %)"


def test_an_archive_is_read_as_the_table_that_it_was_made_of(tmp_path):
    table = synthetic_population.optimizers(FACTORS, seeds=2)
    synthetic_population.archive(tmp_path, hypotheses.OPTIMIZERS, table)
    found = drawn.read(tmp_path)
    assert list(found.found) == [hypotheses.OPTIMIZERS] and not found.refused
    pd.testing.assert_frame_equal(
        found.found[hypotheses.OPTIMIZERS].by_seed(LOSS, claims.S),
        of_optimizers(table).by_seed(LOSS, claims.S),
        rtol=1e-8,
    )


# Vision transformers.


def of_transformers(n: int = 40, **truth) -> dict:
    population = synthetic_population.drawn(n=n, name=hypotheses.TRANSFORMERS, **truth)
    found = archive(population)
    return decide(found, hypotheses.transformers(found.populations))


def test_transformers_have_five_measures_three_outcomes_and_four_bounds(few_draws):
    population = synthetic_population.drawn(
        name=hypotheses.TRANSFORMERS, effect=2.0, confounding=0.5
    )
    found = decide(archive(population), hypotheses.transformers({population.name: population}))
    groups = [one.claim.group for one in found.values()]
    assert (groups.count("plain"), groups.count("given"), groups.count("sides")) == (15, 15, 4)
    table = population.networks.table
    for one in found.values():
        claim = one.claim
        recipe = ("lr", "batch_size", drawn.RATIO, *drawn.BENDS, "width")
        given = recipe if claim.group == "given" else ()
        assert (claim.given, claim.condition) == (given, claims.AT_EQUAL_LOSS)
        if claim.group != "given":
            oracle = stats.spearmanr(table[at(LOSS, claim.quantity)], table[at(LOSS, claim.other)])
            assert one.value == pytest.approx(oracle.statistic)
        else:
            oracle = population.networks.correlation(
                at(LOSS, claim.quantity), at(LOSS, claim.other), given
            )
            assert (one.value, one.n) == (oracle.value, 40)
    adjusted = multipletests([one.p for one in found.values()], method="holm")[1]
    assert [one.adjusted for one in found.values()] == pytest.approx(list(adjusted))
    own = found[f"{hypotheses.TRANSFORMERS}.plain.root_sharpness-generalization_gap"]
    assert own.word == "held"


def test_fewer_than_twenty_transformers_decide_nothing(few_draws):
    assert {one.word for one in of_transformers(n=19, effect=5.0).values()} == {"not tested"}
    assert "held" in {one.word for one in of_transformers(n=20, effect=5.0).values()}
    empty = decide(Archive(()), hypotheses.transformers({}))
    assert {(one.word, one.n) for one in empty.values()} == {("not tested", 0)}


def test_one_transformer_alone_is_read(few_draws):
    """Nothing varies yet, so nothing can be held fixed."""
    found = of_transformers(n=1)
    assert {one.claim.given for one in found.values()} == {()}
    assert {one.word for one in found.values()} == {"not tested"}


def test_the_papers_claim_on_transformers_is_decided_by_twenty(few_draws):
    (claim,) = claims.TRANSFORMERS
    few, enough = (
        verdict(synthetic_population.drawn(n=n, name=hypotheses.TRANSFORMERS), claim)
        for n in (19, 40)
    )
    assert (few.word, few.reason) == ("not tested", verdicts.TOO_FEW_NETWORKS)
    assert enough.word == "held" and enough.n == 40


# Ten classes.


def of_ten_classes(n: int = 40, **truth) -> dict:
    lenet5 = synthetic_population.drawn(n=n, name="lenet5", **truth)
    found = archive(lenet5)
    return decide(found, hypotheses.ten_classes(found.populations))


def test_ten_classes_have_two_networks_three_outcomes_and_four_bounds(few_draws):
    lenet5 = synthetic_population.drawn(name="lenet5", effect=2.0, confounding=0.5)
    found = decide(archive(lenet5), hypotheses.ten_classes({"lenet5": lenet5}))
    of_each = {
        name: [one for one in found.values() if one.claim.network == name]
        for name in hypotheses.TEN_CLASSES
    }
    assert {name: len(own) for name, own in of_each.items()} == dict.fromkeys(of_each, 34)
    assert {one.word for one in of_each["vgg10-ten-classes"]} == {"not tested"}
    outcomes = {one.claim.other for one in of_each["lenet5"] if one.claim.group != "sides"}
    assert outcomes == {claims.GAP, claims.TEST_ERROR, drawn.ERROR_PGD}
    table = lenet5.networks.table
    for one in of_each["lenet5"]:
        if one.claim.group != "given":
            x, y = table[at(LOSS, one.claim.quantity)], table[at(LOSS, one.claim.other)]
            assert one.value == pytest.approx(stats.spearmanr(x, y).statistic)
    tested = [one.p for one in of_each["lenet5"]]
    assert [one.adjusted for one in of_each["lenet5"]] == pytest.approx(
        list(multipletests(tested, method="holm")[1])
    )


def test_fewer_than_twenty_networks_of_ten_classes_decide_nothing(few_draws):
    assert {one.word for one in of_ten_classes(n=19, effect=5.0).values()} == {"not tested"}
    assert "held" in {one.word for one in of_ten_classes(n=20, effect=5.0).values()}


def test_the_papers_claims_on_ten_classes_are_decided_by_twenty(few_draws):
    assert len(claims.LENET5) == len(claims.VGG10_TEN_CLASSES) == 6
    for claim in claims.LENET5:
        few, enough = (
            verdict(synthetic_population.drawn(n=n, name="lenet5"), claim) for n in (19, 40)
        )
        assert (few.word, few.reason) == ("not tested", verdicts.TOO_FEW_NETWORKS)
        assert enough.n == 40 and enough.word != "not tested"
    (of_vgg10, *_) = claims.VGG10_TEN_CLASSES
    other = verdict(synthetic_population.drawn(name="lenet5"), of_vgg10)
    assert other.word == "not tested"


def test_networks_that_obey_a_bound_are_counted():
    population = synthetic_population.drawn(n=12, name="lenet5")
    table = population.networks.table
    table[at(LOSS, "lhs_N.9")] = table[at(LOSS, "rhs_N.9")] + np.repeat([-1.0, 0.0, 1.0], 4)
    table.loc[table.index[:3], at(LOSS, "lhs_N.9")] = np.nan
    assert population.obeying(LOSS, "N.9") == 5
