"""Which measure of a network tells how it does on new images: hypotheses for each population.

Every hypothesis has one direction, fixed before any population was measured: the larger the
measure, the worse the outcome. They are decided by the rules of `flatlib.lab.verdicts`. The
question of sharpness and the gap has half of the level, the survey of all other pairs the other
half, so that all of them together hold something by chance in at most one of twenty archives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from flatlib.lab import claims, verdicts
from flatlib.lab.associations import out_of_sample
from flatlib.lab.claims import Claim
from flatlib.lab.drawn import (
    BENDS,
    BOUNDS,
    CONDITIONS,
    ERROR_PGD,
    LOSS,
    MEASURES,
    NVR,
    OUTCOMES,
    RATIO,
    STEP,
    Drawn,
    at,
)
from flatlib.lab.populations import POPULATIONS
from flatlib.lab.verdicts import HELD, NOT_DECIDED, NOT_TESTED, Archive, Verdict

WHEN = {LOSS: claims.AT_EQUAL_LOSS, STEP: claims.AT_ONE_STEP}
PLAIN, GIVEN, EXPLAINED, SHIFT = "plain", "given", "explained", "shift"
COMPRESSION = (claims.MLS, claims.NMLS, claims.V)

# Optimizers compared with plain descent, seed by seed, at one train loss.
OPTIMIZERS, BASELINE = "optimizers", "sgd"
COMPARED = (claims.S, claims.MLS, claims.NMLS, claims.GAP)

# Populations with a chapter of their own: measures of response with outcomes, and both sides of
# bounds.
TRANSFORMERS = "vision-transformer"
TEN_CLASSES = ("lenet5", "vgg10-ten-classes")
RESPONSES = (claims.NMLS, claims.MLS, claims.G, NVR, claims.S)
RESULTS = (claims.GAP, claims.TEST_LOSS, claims.TEST_ERROR)
UNDER_ATTACK = (claims.GAP, claims.TEST_ERROR, ERROR_PGD)
HELD_FIXED = ("lr", "batch_size", RATIO, *BENDS, "width")
SIDES = "sides"

# What compression has to do with a correlation of sharpness and the gap.
EXPLAINS = "explains"
DOES_NOT_EXPLAIN = "does not explain"
NOTHING_TO_EXPLAIN = "nothing to explain"
CANNOT_TELL = "cannot be told apart"


def key(population: str, condition: str, kind: str, measure: str, rest: str) -> str:
    """The key of a hypothesis.

    Args:
        population: its name.
        condition: ``"loss"`` or ``"step"``.
        kind: ``"plain"``; ``"given"`` the hyper-parameters; ``"explained"``, given one further
            measure as well; ``"shift"``, at one loss minus at one step.
        measure: whose.
        rest: the outcome; of an explained one the further measure, the outcome being the gap.
    """
    return f"{population}.{condition}-{kind}.{measure}-{rest}"


def hypotheses(population: Drawn) -> tuple[Claim, ...]:
    """All hypotheses on a population: each measure with each outcome, plain and given the recipe
    of the network; what compression explains; and whether sharpness follows the gap more closely
    at one loss than at one step.
    """
    settings, made = population.recipe, []

    def add(condition, kind, measure, rest, outcome, given=(), statistic=claims.CORRELATION):
        made.append(
            Claim(
                key(population.name, condition, kind, measure, rest),
                "",
                "",
                measure,
                claims.RISES,
                WHEN[condition],
                statistic,
                claims.WEAK,
                other=outcome,
                unit="network",
                population=population.name,
                given=given,
                fixed=claims.AMENDED,
            )
        )

    for condition in CONDITIONS:
        for measure in MEASURES:
            for outcome in OUTCOMES:
                add(condition, PLAIN, measure, outcome, outcome)
                if settings:
                    add(condition, GIVEN, measure, outcome, outcome, settings)
    for other in COMPRESSION:
        for one, fixed in ((claims.S, other), (other, claims.S)):
            add(LOSS, EXPLAINED, one, fixed, claims.GAP, (*settings, fixed))
    add(LOSS, SHIFT, claims.S, claims.GAP, claims.GAP, statistic=claims.SHIFT)
    return tuple(made)


def comparisons() -> tuple[Claim, ...]:
    """Each optimizer's network has less of each quantity than the baseline's of the same seed."""
    others = [name for name in POPULATIONS[OPTIMIZERS].optimizers if name != BASELINE]
    return tuple(
        Claim(
            f"{OPTIMIZERS}.{optimizer}.{quantity}",
            "",
            "",
            quantity,
            claims.FALLS,
            claims.AT_EQUAL_LOSS,
            claims.PAIRED,
            claims.RATIO,
            other=optimizer,
            rival=BASELINE,
            population=OPTIMIZERS,
            fixed=claims.AMENDED,
        )
        for optimizer in others
        for quantity in COMPARED
    )


def response_key(population: str, kind: str, first: str, second: str) -> str:
    """The key of one of `responses`.

    Args:
        population: its name.
        kind: ``"plain"``; ``"given"`` the hyper-parameters; or ``"sides"`` of a bound.
        first: the measure of response, or the bound's left side.
        second: the outcome, or the bound's right side.
    """
    return f"{population}.{kind}.{first}-{second}"


def responses(
    name: str, outcomes: Sequence[str], populations: Mapping[str, Drawn]
) -> tuple[Claim, ...]:
    """Each measure of response with each outcome at one train loss, plain and given learning rate,
    batch size and width; and the left side of each bound with its right side.

    Args:
        name: of the population.
        outcomes: columns that a measure of response is held against.
        populations: by name, those that are archived.
    """
    own = populations.get(name)
    vary = tuple(one for one in HELD_FIXED if own is None or one in own.recipe)
    pairs = [
        (kind, measure, outcome, given)
        for kind, given in ((PLAIN, ()), (GIVEN, vary))
        for measure in RESPONSES
        for outcome in outcomes
    ]
    pairs += [(SIDES, f"lhs_{bound}", f"rhs_{bound}", ()) for bound in BOUNDS]
    return tuple(
        Claim(
            response_key(name, kind, first, second),
            "",
            "",
            first,
            claims.RISES,
            claims.AT_EQUAL_LOSS,
            claims.CORRELATION,
            claims.WEAK,
            other=second,
            unit="network",
            population=name,
            given=given,
            fixed=claims.AMENDED,
        )
        for kind, first, second, given in pairs
    )


def held_responses(
    decided: Mapping[str, Verdict], population: str, kind: str, outcome: str
) -> list[str]:
    """The measures of response that are held to go with an outcome.

    Args:
        decided: verdicts on `responses`, by key.
        population: its name.
        kind: ``"plain"`` or ``"given"``.
        outcome: the second quantity.
    """
    return [
        measure
        for measure in RESPONSES
        if decided[response_key(population, kind, measure, outcome)].word == HELD
    ]


def transformers(populations: Mapping[str, Drawn]) -> tuple[Claim, ...]:
    """The hypotheses on `responses` of vision transformers, with gap, test loss and test error."""
    return responses(TRANSFORMERS, RESULTS, populations)


def ten_classes(populations: Mapping[str, Drawn]) -> tuple[Claim, ...]:
    """Those of the convolutional networks with ten outputs: gap, test error, error under attack."""
    return tuple(one for name in TEN_CLASSES for one in responses(name, UNDER_ATTACK, populations))


def is_question(hypothesis: Claim) -> bool:
    """Whether a hypothesis is one of sharpness and the gap, and not of the survey."""
    return hypothesis.other == claims.GAP and (
        hypothesis.quantity == claims.S or hypothesis.group.endswith(EXPLAINED)
    )


def decide(archive: Archive) -> dict[str, Verdict]:
    """The verdicts on all hypotheses of all populations of an archive, by key.

    Holm's correction is over those of the question, and over those of the survey, each at half of
    the level.
    """
    made = [one for each in archive.populations.values() for one in hypotheses(each)]
    question = [one for one in made if is_question(one)]
    survey = [one for one in made if not is_question(one)]
    apart = [verdicts.decide(archive, part, share=1 / 2) for part in (question, survey)]
    return {one.key: apart[not is_question(one)][one.key] for one in made}


def explanation(decided: Mapping[str, Verdict], population: str, compression: str) -> str:
    """Whether compression accounts for sharpness going with the gap.

    Compression explains the correlation if sharpness no longer goes with the gap once compression
    is held fixed, and compression still goes with the gap once sharpness is. All at one train
    loss, with the hyper-parameters held fixed.

    Args:
        decided: verdicts on the hypotheses by key.
        population: its name.
        compression: one of ``COMPRESSION``.

    Returns:
        ``"explains"``; ``"does not explain"``, if sharpness still goes with the gap; ``"cannot be
        told apart"``, if neither does once the other is held fixed; ``"nothing to explain"``, if
        sharpness is not shown to go with the gap in the first place; or ``"not tested"``.
    """
    words = [
        decided[key(population, LOSS, kind, one, rest)].word
        for kind, one, rest in (
            (GIVEN, claims.S, claims.GAP),
            (EXPLAINED, claims.S, compression),
            (EXPLAINED, compression, claims.S),
        )
    ]
    if NOT_TESTED in words:
        return NOT_TESTED
    sharpness, sharpness_left, compression_left = (word == HELD for word in words)
    if not sharpness:
        return NOTHING_TO_EXPLAIN
    if sharpness_left:
        return DOES_NOT_EXPLAIN
    return EXPLAINS if compression_left else CANNOT_TELL


def predictions(population: Drawn, condition: str, outcome: str) -> pd.DataFrame:
    """How much of an outcome is predicted of networks that the fit has not seen, by measure.

    Args:
        population: of networks.
        condition: ``"loss"`` or ``"step"``.
        outcome: one of ``OUTCOMES``.

    Returns:
        By measure: ``alone``, the share that the measure predicts; ``settings``, the recipe of
        the network; ``both``; and the ``gain`` of the measure, ``both`` minus ``settings``, all
        over the same ``networks``.
    """
    table, rows = population.networks.table, {}
    settings = list(population.recipe)
    for measure in MEASURES:
        column = at(condition, measure)
        own = table[[*settings, column, at(condition, outcome)]]
        known = np.isfinite(own.to_numpy(dtype=float)).all(axis=1)
        units, y = np.asarray(population.networks.units)[known], own.loc[known].iloc[:, -1]
        alone, of_settings, both = (
            out_of_sample(own.loc[known, names], y, units)
            for names in ([column], settings, [*settings, column])
        )
        rows[measure] = {"alone": alone, "settings": of_settings, "both": both}
        rows[measure] |= {"gain": both - of_settings, "networks": int(known.sum())}
    return pd.DataFrame(rows).T


def counted(decided: Mapping[str, Verdict], population: str, condition: str, kind: str) -> dict:
    """How many hypotheses of a kind got each word."""
    words = [
        one.word
        for one in decided.values()
        if one.claim.network == population and one.claim.group == f"{condition}-{kind}"
    ]
    return {word: words.count(word) for word in dict.fromkeys([HELD, NOT_DECIDED, *words])}
