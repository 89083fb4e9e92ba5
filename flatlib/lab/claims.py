"""The paper's claims as data: one atomic claim a record, with the rule that decides it.

`flatlib.lab.verdicts` decides them; nothing here depends on a run. A claim names what moves, which
way, under which condition and on which samples, and the margin below which a change counts for
none. Each record says when its rule was fixed; the page says which rules came after runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date

FITTED = 0.999  # training accuracy from which on a run has fitted its data
THRESHOLDS = (0.995, 0.998, FITTED, 0.9995)  # that a verdict should not hang on
LEVEL = 0.05  # of every test
SEEDS = 3  # at each setting that a claim needs; fewer test nothing
NETWORKS = 20  # drawn at random, that a correlation needs; fewer test nothing
SCALES = ("paper", "laptop")  # a claim is decided at the first with enough seeds that can test it
FITTED_FIXED = date(2026, 11, 20)  # when `FITTED` was chosen, before the first archived run
RULES_FIXED = date(2026, 11, 25)  # all other rules
AMENDED = date(2026, 11, 26)  # the rules of misclassified samples, of slowing, of correlations
COMPLETED = date(2026, 11, 27)  # a scale's seeds meet the condition, all share the settings; D
LAST_CHECKPOINTS = 10  # that `LAST_TEN` averages over

RATES = ((0.05, 20), (0.1, 20), (0.2, 20))  # the paper has the quantity fall along each list
BATCHES = ((0.1, 32), (0.1, 20), (0.1, 8))
RISES, FALLS, LEVEL_OFF = 1, -1, 0

# Conditions: the part of training, or the checkpoint, that a claim speaks of.
FROM_START = "from the start"  # step 0 to the end
TO_FIT = "to the fit"  # step 0 to the checkpoint at which a run has fitted its data
ONCE_FITTED = "once fitted"  # that checkpoint to the end
LATE = "late"  # the second half of training, of runs that have fitted by its beginning
AFTER_50_000 = "after step 50,000"  # of runs that have fitted by then
AT_ONE_STEP = "at one step"  # the last, of runs that have fitted by then
AT_EQUAL_LOSS = "at equal train loss"  # the loss that the slowest run of a seed ends at
AT_THE_END = "at the end"  # the last checkpoint, fitted or not
LAST_TEN = "over the last ten checkpoints"  # fitted or not
THROUGHOUT = "throughout"  # every checkpoint

# Statistics: how runs become one number a seed.
CHANGE = "change"  # end minus beginning of each run, mean over the settings of a seed
DIFFERENCE = "difference"  # last setting minus first, of one seed
MISCLASSIFIED = "misclassified"  # minus all test samples, mean over the last ten checkpoints
VALUE = "value"  # at the end, mean over the settings of a seed
SLOWING = "slowing"  # change over the second half of a claim's part minus that over the first
TREND = "trend"  # correlation of two quantities' first differences, Fisher z, mean in a seed
COUNT = "count"  # measurements in which an inequality holds
CORRELATION = "correlation"  # over networks drawn at random; designed settings decide nothing
SHIFT = "shift"  # of a correlation, at one train loss minus at one step
PAIRED = "paired"  # an optimizer's minus the baseline's of the same seed, over the baseline's mean


@dataclass(frozen=True)
class Margin:
    """The largest change that counts for none."""

    size: float
    relative: bool  # to the mean size of what the change starts from; else in the change's unit


FIVE_PERCENT = Margin(0.05, relative=True)
FIVE_PERCENT_OF_TEN = Margin(10 * math.log(1.05), relative=False)  # of each of ten factors
FIVE_PERCENT_OF_THREE = Margin(3 * math.log(1.05), relative=False)
FIVE_PERCENT_FACTOR = Margin(math.log(1.05), relative=False)  # of a ratio, as a logarithm
RATIO = Margin(0.05, relative=False)
WEAK = Margin(0.3, relative=False)  # a correlation
MARGINS = {"log_volume": FIVE_PERCENT_OF_TEN, "log_volume_top3": FIVE_PERCENT_OF_THREE}


@dataclass(frozen=True)
class Claim:
    """One atomic claim of the paper and the rule that decides it."""

    key: str  # NETWORK.GROUP.WHAT
    source: str  # figure or section of the paper
    experiment: str  # a key of `flatlib.lab.experiments.EXPERIMENTS`; empty if there is none
    quantity: str  # a column, or one that `flatlib.lab.verdicts` derives
    direction: int  # `RISES` (or correlates), `FALLS`, or `LEVEL_OFF`
    condition: str
    statistic: str
    margin: Margin
    other: str = ""  # the second quantity of a trend or correlation; a paired one's optimizer
    rival: str = ""  # the quantity that correlates less with ``other``; a paired one's baseline
    population: str = ""  # of networks drawn at random, that decides a correlation
    given: tuple[str, ...] = ()  # quantities that a correlation holds fixed
    settings: tuple[tuple[float, int], ...] = ()  # in the paper's order; empty: the experiment's
    samples: str = "train"
    unit: str = "seed"
    scales: tuple[str, ...] = SCALES
    fixed: date = RULES_FIXED

    @property
    def network(self) -> str:
        """``"vgg10"``, ``"relu"``, ``"tanh"``, ``"lenet5"``, ``"vgg10-ten-classes"`` or
        ``"transformer"``.
        """
        return self.key.split(".")[0]

    @property
    def group(self) -> str:
        """The claims that are read together."""
        return self.key.split(".")[1]


@dataclass(frozen=True)
class Check:
    """A theorem that archived measurements must obey: a check of the code, not a finding."""

    experiment: str
    inequality: str  # its key in the archive
    source: str


S, V, V3 = "root_sharpness", "log_volume", "log_volume_top3"
G, MLS, D, DIMENSION = "gradient_energy", "mls", "D", "local_dimensionality"
NMLS, NMLS_BOUND, NORMALIZED_BOUND = "nmls", "rhs_N.9", "rhs_N.12"
TEST_LOSS, TEST_ERROR, GAP = "test_loss", "test_error", "generalization_gap"
SHARPNESS_AND_COMPRESSION = (S, V, V3, G, MLS, D)
SHORT = {
    S: "sharpness",
    V: "volume",
    V3: "volume3",
    G: "G",
    MLS: "mls",
    D: "D",
    DIMENSION: "dimensionality",
    NMLS: "nmls",
    NMLS_BOUND: "bound9",
    NORMALIZED_BOUND: "bound12",
    TEST_LOSS: "loss",
    TEST_ERROR: "error",
    GAP: "gap",
}


def _margin(column: str) -> Margin:
    return MARGINS.get(column, FIVE_PERCENT)


def _changes(network, group, source, experiment, columns, direction, condition, **more):
    """One claim a column: it moves in this direction."""
    return tuple(
        Claim(
            f"{network}.{group}.{SHORT[column]}",
            source,
            experiment,
            column,
            direction,
            condition,
            CHANGE,
            _margin(column),
            **more,
        )
        for column in columns
    )


def _orders(network: str, by_rate: str, by_batch: str, rate_source: str, batch_source: str):
    """The paper's order of the settings, at one step as it plots them, and at equal loss."""
    return tuple(
        Claim(
            f"{network}.{group}-{where}.{SHORT[column]}",
            source,
            experiment,
            column,
            FALLS,
            condition,
            DIFFERENCE,
            _margin(column),
            settings=settings,
        )
        for group, experiment, source, settings in (
            ("rate", by_rate, rate_source, RATES),
            ("batch", by_batch, batch_source, BATCHES),
        )
        for where, condition in (("step", AT_ONE_STEP), ("loss", AT_EQUAL_LOSS))
        for column in SHARPNESS_AND_COMPRESSION
    )


def _trend(key, source, experiment, column, other, direction, condition, **more):
    return Claim(
        key, source, experiment, column, direction, condition, TREND, WEAK, other=other, **more
    )


def _correlations(network: str, experiment: str, figure: str, population: str, pairs):
    """``(quantity, other, direction, source)``, and the quantity that should do worse, if any."""
    return tuple(
        Claim(
            ".".join(
                (
                    network,
                    "correlation",
                    "-".join(SHORT.get(name, name) for name in (*pair[:2], *pair[4:]))
                    + ("-not" if pair[2] == LEVEL_OFF else ""),
                )
            ),
            pair[3] or figure,
            experiment,
            pair[0],
            pair[2],
            AT_THE_END,
            CORRELATION,
            WEAK,
            other=pair[1],
            rival=pair[4] if len(pair) > 4 else "",
            unit="network",
            population=population,
            fixed=AMENDED,
        )
        for pair in pairs
    )


# Correlations of the network-wide measures, which the later versions claim in every setting.
NETWORK_WIDE = (
    (NMLS, S, RISES, "later versions"),
    (NMLS_BOUND, S, RISES, "later versions"),
    (NORMALIZED_BOUND, S, RISES, "later versions"),
    (NMLS, GAP, RISES, "later versions"),
    (NMLS_BOUND, GAP, RISES, "later versions"),
    (NORMALIZED_BOUND, GAP, RISES, "later versions"),
)
# Correlations that the paper claims of either network: first, second, sign, source, weaker one.
ON_BOTH_NETWORKS = (
    (V, S, LEVEL_OFF, "Sec. 3.2"),
    (V, S, RISES, "App. D.2"),
    (V, MLS, RISES, "App. D.2"),
    (MLS, S, RISES, "Sec. 3.2", V),
    (MLS, S, RISES, "Sec. 3.2", DIMENSION),
    (S, TEST_LOSS, RISES, "Sec. 5"),
    (S, TEST_ERROR, RISES, "Sec. 5"),
    (MLS, TEST_LOSS, RISES, "App. D.2", V),
    (MLS, TEST_LOSS, RISES, "App. D.2", DIMENSION),
    (MLS, TEST_ERROR, RISES, "App. D.2", V),
    (MLS, TEST_ERROR, RISES, "App. D.2", DIMENSION),
    *NETWORK_WIDE,
    (MLS, S, RISES, "public reviews", NMLS),
)

VGG10 = (
    *_changes(
        "vgg10",
        "fall",
        "Figs. 1, 2",
        "correlations-vgg10",
        SHARPNESS_AND_COMPRESSION,
        FALLS,
        ONCE_FITTED,
    ),
    *(
        _trend(
            f"vgg10.together.{SHORT[column]}",
            "Figs. 1, 2",
            "correlations-vgg10",
            column,
            S,
            RISES,
            ONCE_FITTED,
        )
        for column in (V, G, MLS)
    ),
    *_orders("vgg10", "vgg10-learning-rate", "vgg10-batch-size", "Fig. 1", "Fig. 2"),
    *(
        claim
        for columns, direction, fixed in (
            ((S,), LEVEL_OFF, RULES_FIXED),
            ((V, V3, MLS), FALLS, RULES_FIXED),
            ((D,), FALLS, COMPLETED),
        )
        for claim in _changes(
            "vgg10",
            "plateau",
            "Fig. 2, Sec. 4.1",
            "vgg10-batch-size",
            columns,
            direction,
            AFTER_50_000,
            settings=BATCHES[:1],
            scales=("paper",),
            fixed=fixed,
        )
    ),
    *(
        claim
        for where, condition in (("start", FROM_START), ("fit", ONCE_FITTED))
        for columns, direction, fixed in (
            ((S, G), RISES, RULES_FIXED),
            ((V, V3, MLS), FALLS, RULES_FIXED),
            ((D,), FALLS, COMPLETED),
        )
        for claim in _changes(
            "vgg10",
            f"test-{where}",
            "Fig. 3, Sec. 4.2",
            "vgg10-test-set",
            columns,
            direction,
            condition,
            samples="test",
            fixed=fixed,
        )
    ),
    _trend(
        "vgg10.test-trend.G",
        "Fig. 3, Sec. 4.2",
        "vgg10-test-set",
        G,
        S,
        RISES,
        ONCE_FITTED,
        samples="test",
    ),
    *(
        Claim(
            f"vgg10.misclassified.{SHORT[column]}",
            "Fig. 3, Sec. 4.2",
            "vgg10-test-set",
            column,
            RISES,
            LAST_TEN,
            MISCLASSIFIED,
            _margin(column),
            samples="misclassified",
            fixed=COMPLETED if column == D else AMENDED,
        )
        for column in (S, G, V, V3, MLS, D)
    ),
    *_changes(
        "vgg10",
        "dimensionality",
        "Sec. 4.3",
        "correlations-vgg10",
        (DIMENSION,),
        FALLS,
        TO_FIT,
    ),
    _trend(
        "vgg10.dimensionality.unexplained",
        "Sec. 4.3",
        "correlations-vgg10",
        DIMENSION,
        S,
        LEVEL_OFF,
        ONCE_FITTED,
    ),
    *(
        Claim(
            f"vgg10.chain.{key}",
            "Sec. 5",
            "correlations-vgg10",
            key,
            RISES,
            THROUGHOUT,
            COUNT,
            RATIO,
            samples="train and test",
            unit="measurement",
        )
        for key in ("25", "28", "13")
    ),
    *_correlations(
        "vgg10",
        "correlations-vgg10",
        "Fig. D.5",
        "vgg10",
        (
            (G, MLS, RISES, ""),
            *ON_BOTH_NETWORKS,
        ),
    ),
)


def _mlp(network: str, name: str) -> tuple[Claim, ...]:
    """The claims on the MLP; the paper does not name its activation."""
    every, late = f"correlations-{name}", "App. E, Sec. 4.1"
    return (
        *_orders(network, f"{name}-learning-rate", f"{name}-batch-size", "Fig. E.8", "Fig. E.7"),
        *_changes(network, "late", late, every, (S,), LEVEL_OFF, LATE),
        *_changes(network, "late", late, every, (V, V3, MLS, D), FALLS, LATE),
        *(
            Claim(
                f"{network}.late.{SHORT[column]}-slows",
                late,
                every,
                column,
                RISES,
                LATE,
                SLOWING,
                FIVE_PERCENT,
                fixed=AMENDED,
            )
            for column in (V, V3)
        ),
        _trend(f"{network}.late.G-follows", late, every, G, S, RISES, LATE),
        *(
            Claim(
                f"{network}.chain.{quantity}",
                "Fig. D.4",
                every,
                quantity,
                RISES,
                AT_THE_END,
                VALUE,
                margin,
            )
            for quantity, margin in (
                ("lead_as_factor", FIVE_PERCENT_FACTOR),
                ("lead_as_difference", RATIO),
            )
        ),
        *_correlations(
            network,
            every,
            "Fig. D.6",
            "mlp-relu" if network == "relu" else "mlp",
            (
                ("C", MLS, RISES, ""),
                (D, MLS, FALLS, ""),
                (D, TEST_LOSS, FALLS, "App. D.3"),
                (G, MLS, RISES, ""),
                *ON_BOTH_NETWORKS,
            ),
        ),
        *(
            Claim(
                f"{network}.all-images-{group}.{SHORT[column]}",
                source,
                f"{name}-all-images",
                column,
                FALLS,
                AT_THE_END,
                DIFFERENCE,
                _margin(column),
                settings=settings,
            )
            for group, source, settings in (
                ("rate", "Fig. E.8", RATES),
                ("batch", "Fig. E.7", BATCHES),
            )
            for column in (S, V, MLS, D)
        ),
    )


TRANSFORMERS = (
    Claim(
        "transformer.correlation.adaptive",
        "later versions",
        "",
        "adaptive_sharpness",
        RISES,
        AT_THE_END,
        CORRELATION,
        WEAK,
        other=MLS,
        unit="network",
        population="vision-transformer",
        fixed=AMENDED,
    ),
)
# Convolutional networks on all ten classes of CIFAR-10.
LENET5, VGG10_TEN_CLASSES = (
    _correlations(name, "", "", name, NETWORK_WIDE) for name in ("lenet5", "vgg10-ten-classes")
)
RELU, TANH = _mlp("relu", "mlp-relu"), _mlp("tanh", "mlp")
CLAIMS = (*VGG10, *RELU, *TANH, *LENET5, *VGG10_TEN_CLASSES, *TRANSFORMERS)
CHECKS = tuple(
    Check(experiment, inequality, "Eq. (28)")
    for experiment, inequalities in (
        ("correlations-mlp-relu", ("25", "26", "27", "13")),
        ("correlations-mlp", ("25", "26", "27", "13")),
        ("correlations-vgg10", ("26", "27")),
    )
    for inequality in inequalities
)


def at_scale(scale: str, table: Sequence[Claim] = CLAIMS) -> tuple[Claim, ...]:
    """The claims that the runs of one scale may decide, with no other scale to decide them.

    >>> {claim.scales for claim in at_scale("laptop")}
    {('laptop',)}
    """
    return tuple(replace(claim, scales=(scale,)) for claim in table if scale in claim.scales)
