"""Decide every claim of the paper from the archive, and write what the page "What held" shows."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from pathlib import Path

from chapters import write_whole

ROOT = Path(__file__).resolve().parents[2]
NETWORKS = {
    "vgg10": "VGG10 on CIFAR-10",
    "relu": "MLP with ReLU on FashionMNIST",
    "tanh": "MLP with tanh on FashionMNIST, for comparison",
    "lenet5": "LeNet5 on ten classes of CIFAR-10",
    "vgg10-ten-classes": "VGG10 on ten classes of CIFAR-10",
    "transformer": "Vision transformers",
}
GROUPS = {
    "fall": "Once the data are fitted, sharpness and compression fall together",
    "together": "They move together from checkpoint to checkpoint",
    "rate-step": "A higher learning rate ends lower, at one step",
    "rate-loss": "A higher learning rate is lower at equal train loss",
    "batch-step": "A smaller batch ends lower, at one step",
    "batch-loss": "A smaller batch is lower at equal train loss",
    "plateau": "At batch 32 sharpness levels off and the volume does not",
    "test-start": "On test images, from the start of training",
    "test-fit": "On test images, once the training data are fitted",
    "test-trend": "On test images G follows sharpness",
    "misclassified": "Misclassified test images against all",
    "dimensionality": "Local dimensionality",
    "late": "Late in training",
    "chain": "The chain of bounds",
    "correlation": "Correlations over networks",
    "all-images-rate": "All 60,000 images: learning rates",
    "all-images-batch": "All 60,000 images: batch sizes",
}
VIT = "chapters/15-transformers.html#sensitivity-and-adaptive-sharpness"
TEN = "chapters/17-ten-classes.html#the-paper-s-claims-on-ten-classes"
VGG, MLP = "chapters/12-vgg10-cifar10.html", "chapters/11-mlp-fashion-mnist.html"
DRAWN = "chapters/13-networks-drawn-at-random.html#the-paper-s-claims-on-correlations"
SECTIONS = {  # (network, first word of the group): where the numbers are shown
    ("vgg10", "fall"): f"{VGG}#learning-rates-figure-1",
    ("vgg10", "together"): f"{VGG}#learning-rates-figure-1",
    ("vgg10", "rate"): f"{VGG}#learning-rates-figure-1",
    ("vgg10", "batch"): f"{VGG}#batch-sizes-figure-2",
    ("vgg10", "plateau"): f"{VGG}#batch-sizes-figure-2",
    ("vgg10", "test"): f"{VGG}#test-images-figure-3",
    ("vgg10", "misclassified"): f"{VGG}#test-images-figure-3",
    ("vgg10", "dimensionality"): f"{VGG}#local-dimensionality",
    ("vgg10", "chain"): f"{VGG}#where-the-chain-breaks",
    ("vgg10", "correlation"): DRAWN,
    ("mlp", "rate"): f"{MLP}#learning-rates-figure-e-8",
    ("mlp", "batch"): f"{MLP}#batch-sizes-figure-e-7",
    ("mlp", "late"): f"{MLP}#late-in-training",
    ("mlp", "chain"): f"{MLP}#the-chain-figure-d-4",
    ("mlp", "correlation"): DRAWN,
    ("mlp", "all"): f"{MLP}#all-60-000-images",
    ("lenet5", "correlation"): TEN,
    ("vgg10-ten-classes", "correlation"): TEN,
    ("transformer", "correlation"): VIT,
}
LINE = {"vgg10": "correlations-vgg10", "relu": "correlations-mlp-relu", "tanh": "correlations-mlp"}


def section(network: str, group: str, scale: str = "") -> str:
    """Where the book shows a group of claims, decided by the runs of a scale."""
    kind = "mlp" if network in ("relu", "tanh") else network
    # At the paper's scale an MLP learns all images.
    part = "all" if kind == "mlp" and scale == "paper" else group.split("-")[0]
    return SECTIONS[kind, part]


def entry(verdict) -> dict:
    """One claim as the page shows it."""
    from flatlib.lab import sentences

    claim = verdict.claim
    return {
        "key": claim.key,
        "network": claim.network,
        "group": claim.group,
        "claim": sentences.claim_words(claim),
        "source": claim.source,
        "effect": sentences.effect_words(verdict),
        "margin": "" if math.isnan(verdict.margin) else f"±{sentences.number(verdict.margin)}",
        "basis": sentences.basis_words(verdict),
        "uncorrected": verdict.uncorrected,
        "word": verdict.word,
        "reason": sentences.reason_words(verdict),
        "link": section(claim.network, claim.group, verdict.scale),
        "fixed": claim.fixed.isoformat(),
    }


def _at(verdict) -> dict:
    """What the runs of one scale say of a claim."""
    from flatlib.lab import sentences

    runs = f"{verdict.scale}, {verdict.n} seeds" if verdict.n else verdict.scale
    return {"effect": sentences.effect_words(verdict), "word": verdict.word, "runs": runs}


def other_scale(decided: dict, others: dict) -> dict:
    """The claims whose word the other scale's runs would change, those of other sign first."""
    from flatlib.lab import sentences

    opposite = {key: decided[key].value * one.value < 0 for key, one in others.items()}
    return {
        "claims": len(others),
        "opposite": sum(opposite.values()),
        "differing": [
            {"claim": sentences.claim_words(one.claim), "network": one.claim.network}
            | {"scales": [_at(decided[key]), _at(one)]}
            for key, one in sorted(others.items(), key=lambda item: not opposite[item[0]])
            if decided[key].word != one.word
        ],
    }


def gather(results: Path | None = None) -> dict:
    """Everything that the page shows, from an archive."""
    from flatlib.lab import claims, sentences, verdicts
    from flatlib.lab.figures import verdicts as drawing

    archive = verdicts.read(results)
    words = verdicts.by_threshold(archive)
    decided = verdicts.decide(archive)
    entries = [entry(one) for one in decided.values()]
    count = Counter(one.word for one in decided.values())
    drawn = sum(not math.isnan(one.p) for one in decided.values())
    alt = (
        f"{drawn} claims with their intervals, in margins. "
        + "; ".join(f"{word}: {count[word]}" for word in verdicts.WORDS)
        + "."
    )
    links = {one["key"]: one["link"] for one in entries}
    wide, narrow = (
        drawing.chart(list(decided.values()), links, NETWORKS, narrow) for narrow in (False, True)
    )
    changing = [
        {"key": key, "claim": sentences.claim_words(decided[key].claim)}
        | {"network": decided[key].claim.network, "words": [words[t][key] for t in words]}
        for key in decided
        if len({found[key] for found in words.values()}) > 1
    ]
    return {
        "words": list(verdicts.WORDS),
        "networks": NETWORKS,
        "groups": GROUPS,
        "claims": entries,
        "tested": drawn,
        "picture": drawing.theme_css() + drawing.chart_html(wide, narrow, alt),
        "thresholds": [f"{t:g}" for t in words],
        "changing": changing,
        "fitted": f"{claims.FITTED:g}",
        "other_scale": other_scale(decided, verdicts.at_other_scales(archive)),
        "line": {
            network: {"scale": scale, "correlation": sentences.number(value)}
            for network, name in LINE.items()
            for scale, value in [verdicts.along_the_line(archive, name)]
            if scale
        },
        "ratio": {
            name: sentences.number(value)
            for name, population in archive.populations.items()
            for value in [verdicts.along_the_ratio(population)]
            if population.n >= claims.NETWORKS and math.isfinite(value)
        },
        "checks": [
            {
                "network": next(key for key, name in LINE.items() if name == check.experiment),
                "claim": sentences.SYMBOLS[check.inequality],
                "scale": scale,
                "held": held,
                "measured": measured,
            }
            for check, scale, held, measured in verdicts.checks(archive)
        ],
        "refused": list(archive.refused),
    }


def main(target: str) -> int:
    """Write one JSON file whole."""
    found = gather()
    write_whole(Path(target), json.dumps(found, indent=1, ensure_ascii=False))
    print(
        f"  claims: {len(found['claims'])}, of which {found['tested']} have an interval",
        file=sys.stderr,
    )
    for name in found["refused"]:
        print(f"  claims: refused {name}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main(*sys.argv[1:]))
