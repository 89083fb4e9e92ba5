"""Claims and verdicts in words, and as small tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import pandas as pd

from flatlib.inequalities import COLUMNS
from flatlib.lab import claims, drawn
from flatlib.lab.chapter import listed, number
from flatlib.lab.claims import Claim
from flatlib.lab.drawn import Drawn
from flatlib.lab.verdicts import (
    AGAINST,
    CONDITION_UNMET,
    DESIGNED_SETTINGS,
    HELD,
    NO_EXPERIMENT,
    NOT_MEASURED,
    NOT_TESTED,
    TOO_FEW_NETWORKS,
    TOO_FEW_SEEDS,
    WORDS,
    Verdict,
    of_group,
)

SYMBOLS = {
    claims.S: "√S",
    claims.V: "log volume",
    claims.V3: "log volume (top 3)",
    claims.G: "G",
    claims.MLS: "MLS",
    claims.D: "bound D",
    "C": "bound C",
    claims.DIMENSION: "local dimensionality",
    claims.NMLS: "NMLS",
    drawn.NVR: "NVR",
    claims.NMLS_BOUND: "NMLS's bound (N.9)",
    claims.NORMALIZED_BOUND: "NMLS's bound (N.12)",
    **{f"lhs_{bound}": f"left side of ({bound})" for bound in drawn.BOUNDS},
    **{f"rhs_{bound}": f"right side of ({bound})" for bound in drawn.BOUNDS[1:3]},
    claims.TEST_LOSS: "test loss",
    claims.TEST_ERROR: "test error",
    claims.GAP: "test minus train loss",
    "adaptive_sharpness": "adaptive sharpness",
    "hessian_eigenvalue": "λ₁ of the Hessian",
    "relative_flatness": "relative flatness",
    "iimls": "IIMLS",
    drawn.ERROR_PGD: "error under attack",
    drawn.ERROR_NOISE: "error under noise",
    drawn.ERROR_CORRUPTIONS: "error under corruptions",
    drawn.CALIBRATION: "calibration error",
    "lead_as_factor": "as a factor",
    "lead_as_difference": "as a difference",
    **{each.key: each.name.replace("<=", "≤") for each in COLUMNS.values() if "<=" in each.name},
}
OPTIMIZERS = {
    "sgd": "SGD",
    "momentum": "momentum",
    "weight-decay": "weight decay",
    "adam": "Adam",
    "sam": "SAM",
    "label-noise": "label noise",
}
MOVES = {claims.RISES: "rises", claims.FALLS: "falls", claims.LEVEL_OFF: "levels off"}
FEW = 3  # hypotheses that a sentence names one by one
CAME_OUT = {HELD: "held", AGAINST: "went against"}
WHEN = {
    claims.FROM_START: "from the start",
    claims.TO_FIT: "until the data are fitted",
    claims.ONCE_FITTED: "once the data are fitted",
    claims.LATE: "in the second half of training",
    claims.AFTER_50_000: "after step 50,000",
    claims.AT_ONE_STEP: "at one step",
    claims.AT_EQUAL_LOSS: "at equal train loss",
    claims.AT_THE_END: "at the end",
    claims.LAST_TEN: "over the last ten checkpoints",
}
REASONS = {
    NO_EXPERIMENT: "no such network was trained",
    TOO_FEW_SEEDS: f"fewer than {claims.SEEDS} seeds at a setting",
    CONDITION_UNMET: f"fewer than {claims.SEEDS} seeds meet the condition",
    DESIGNED_SETTINGS: DESIGNED_SETTINGS,
    TOO_FEW_NETWORKS: f"fewer than {claims.NETWORKS} networks drawn at random",
    NOT_MEASURED: "no network of the population has the quantity",
}


def claim_words(claim: Claim) -> str:
    """What the paper claims, in a clause.

    >>> claim_words(claims.VGG10[0])
    '√S falls once the data are fitted'
    """
    symbol, other = (SYMBOLS.get(name, name) for name in (claim.quantity, claim.other))
    when = WHEN.get(claim.condition, "")
    if claim.statistic == claims.CHANGE:
        where = " on test images" if claim.samples == "test" else ""
        return f"{symbol}{where} {MOVES[claim.direction]} {when}"
    if claim.statistic == claims.DIFFERENCE:
        by_rate = claim.settings == claims.RATES
        cause = "a higher learning rate" if by_rate else "a smaller batch"
        return f"{symbol} is lower with {cause}, {when}"
    if claim.statistic == claims.MISCLASSIFIED:
        return f"{symbol} is higher on misclassified test images than on all, {when}"
    if claim.statistic == claims.SLOWING:
        return f"{symbol} falls more and more slowly {when}"
    if claim.statistic == claims.VALUE:
        return f"the gap from C to D is the largest {symbol}"
    if claim.statistic == claims.TREND:
        where = " on test images" if claim.samples == "test" else ""
        with_or_not = "with" if claim.direction else "independently of"
        return f"{symbol} moves {with_or_not} {other}{where} {when}"
    if claim.statistic == claims.COUNT:
        return f"{symbol} at every checkpoint"
    if claim.statistic == claims.SHIFT:
        return f"{symbol} correlates more with {other} at one train loss than at one step"
    if claim.statistic == claims.PAIRED:
        optimizer, baseline = OPTIMIZERS[claim.other], OPTIMIZERS[claim.rival]
        return f"{symbol} is lower with {optimizer} than with {baseline}, {when}"
    if claim.rival:
        return f"{symbol} correlates more with {other} than {SYMBOLS[claim.rival]} does"
    how = {claims.RISES: "correlates", claims.FALLS: "correlates negatively"}
    fixed = f", given {_given_words(claim)}" if claim.given else ""
    return f"{symbol} {how.get(claim.direction, 'does not correlate well')} with {other}{fixed}"


def _given_words(claim: Claim) -> str:
    """What a correlation holds fixed."""
    measures = [SYMBOLS[name] for name in claim.given if name in SYMBOLS]
    settings = ["the hyper-parameters"] if len(measures) < len(claim.given) else []
    return " and ".join([*settings, *measures])


def effect_words(verdict: Verdict) -> str:
    """The number with its interval, or what there is in place of one."""
    claim = verdict.claim
    if verdict.counted is not None:
        return f"holds in {verdict.counted[0]:,} of {verdict.counted[1]:,} measurements"
    if math.isnan(verdict.value):
        return "–"
    if verdict.association:
        return _over_networks_words(verdict)
    if claim.statistic == claims.CORRELATION:
        rival = f", {SYMBOLS[claim.rival]} {verdict.rival:.2f}" if claim.rival else ""
        return f"{verdict.value:.2f}{rival}, over the settings".replace("-", "−")
    if claim.statistic == claims.PAIRED:
        value, low, high = (
            f"{100 * share:.1f} %".replace("-", "−")
            for share in (verdict.value, verdict.low, verdict.high)
        )
        return f"{value} ({low} to {high})" if math.isfinite(verdict.low) else value
    if math.isnan(verdict.low):
        return number(verdict.value)
    interval = f"{number(verdict.low)} to {number(verdict.high)}"
    return f"{number(verdict.value)} ({interval})"


def _over_networks_words(verdict: Verdict) -> str:
    """A correlation with its interval, or two correlations and the difference of their z."""
    numbers = [verdict.value, verdict.low, verdict.high, *(verdict.compared or ())]
    value, low, high, *two = (f"{each:.2f}".replace("-", "−") for each in numbers)
    found = value if math.isnan(verdict.low) else f"{value} ({low} to {high})"
    return f"{two[0]} against {two[1]}, z differs by {found}" if two else found


def basis_words(verdict: Verdict) -> str:
    """Which runs the number rests on.

    >>> basis_words(Verdict(claims.TRANSFORMERS[0]))
    'none'
    """
    if not verdict.scale:
        return "none"
    if verdict.association:
        return f"{verdict.used} of {verdict.runs} networks drawn at random"
    runs = "1 run" if verdict.runs == 1 else f"{verdict.runs} runs"
    if verdict.used < verdict.runs:
        runs = f"{verdict.used} of {verdict.runs} runs"
    seeds = {0: "", 1: ", 1 seed"}.get(verdict.n, f", {verdict.n} seeds")
    order = ""
    if verdict.in_order and verdict.in_order[1]:
        order = f", in order in {verdict.in_order[0]} of {verdict.in_order[1]}"
    return f"{verdict.scale}, {verdict.steps:,} steps: {runs}{seeds}{order}"


def reason_words(verdict: Verdict) -> str:
    """Why a claim is not tested; empty if it is."""
    return REASONS.get(verdict.reason, "")


def outcomes(verdicts: Iterable[Verdict]) -> str:
    """How many came out in which way, in a clause.

    >>> outcomes([Verdict(claims.TRANSFORMERS[0])] * 2)
    '2 are not tested'
    """
    words = [one.word for one in verdicts]
    clauses = []
    for word in WORDS:
        count = words.count(word)
        verb = CAME_OUT.get(word, f"{'is' if count == 1 else 'are'} {word}")
        clauses += [f"{count} {verb}"] if count else []
    return listed(clauses)


def tally(decided: Mapping[str, Verdict], on: str = "") -> str:
    """How many hypotheses are tested, how these come out, and which held if few did, in sentences.

    Args:
        decided: verdicts on correlations over networks, by key.
        on: what they are about, if the text has to say so.

    >>> tally({"one": Verdict(claims.TRANSFORMERS[0])}, on="transformers")
    'Of 1 hypothesis on transformers, none is tested.'
    """
    tested = [one for one in decided.values() if one.word != NOT_TESTED]
    noun = "hypothesis" if len(decided) == 1 else "hypotheses"
    whole = f"Of {len(decided)} {noun}{f' on {on}' if on else ''}"
    if not tested:
        return f"{whole}, none is tested."
    whole_number = "all " * (len(tested) == len(decided) > 1)
    verb = "is" if len(tested) == 1 else "are"
    held = [_pair_words(one) for one in tested if one.word == HELD]
    which = ""
    if len(held) == 1:
        which = f" The one that held is on {held[0]}."
    elif 0 < len(held) <= FEW:
        which = f" The {len(held)} that held are on {'; on '.join(held)}."
    how = f"{whole_number}{len(tested)} {verb} tested, and of these {outcomes(tested)}"
    return f"{whole}, {how}.{which}"


def _pair_words(verdict: Verdict) -> str:
    """What is correlated with what, and how much."""
    claim = verdict.claim
    bound = claim.quantity.removeprefix("lhs_")
    pair = (
        f"the two sides of ({bound})"
        if bound != claim.quantity
        else f"{SYMBOLS[claim.quantity]} with {SYMBOLS[claim.other]}"
    )
    fixed = f" given {_given_words(claim)}" if claim.given else ""
    return f"{pair}{fixed}, at {effect_words(verdict)}"


def obeying_words(population: Drawn | None) -> str:
    """How many networks at the train loss obey each bound.

    >>> obeying_words(None)
    'No network has both sides of the bounds yet.'
    """
    n = population.reached(drawn.LOSS) if population else 0
    if not n:
        return "No network has both sides of the bounds yet."
    counts = {f"({bound})": population.obeying(drawn.LOSS, bound) for bound in drawn.BOUNDS}
    verbs = {0: "none obeys", n: f"all {n} obey", 1: "1 obeys"}
    many = listed(f"{verbs.get(count, f'{count} obey')} {bound}" for bound, count in counts.items())
    return f"Of the {n} networks at the train loss, {many}."


def sentence(verdict: Verdict) -> str:
    """A verdict in one sentence."""
    why = f" ({reason_words(verdict)})" if verdict.reason else ""
    return f"{claim_words(verdict.claim)}: {effect_words(verdict)}, {verdict.word}{why}."


def table(decided: Mapping[str, Verdict], network: str, *groups: str) -> pd.DataFrame:
    """The verdicts on some groups of claims, one claim a row.

    Args:
        decided: from `flatlib.lab.verdicts.decide`.
        network: of the claims, `Claim.network`.
        *groups: in the order in which they are shown.

    Raises:
        ValueError: a group that the network has no claims on.
    """
    rows = []
    for group in groups:
        rows += [
            {
                "the paper's claim": claim_words(one.claim),
                "our runs": effect_words(one),
                "margin": "–" if math.isnan(one.margin) else f"±{number(one.margin)}",
                "runs": basis_words(one),
                "uncorrected": one.uncorrected,
                "after Holm": one.word,
            }
            for one in of_group(decided, network, group)
        ]
    return pd.DataFrame(rows).set_index("the paper's claim")
