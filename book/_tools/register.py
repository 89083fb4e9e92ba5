"""Run the check of every registered equation and write what it found, for the badges and the
register page.
"""

from __future__ import annotations

import json
import math
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from chapters import write_whole

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "equations")]  # of the mutants

CASES = 200
SEED = 0


def entry(label: str) -> dict:
    """One equation as the site shows it: what it says, and what its check found just now."""
    from mutants import caught

    from flatlib.lab import equations

    equation = equations.register[label]
    result = equations.check(label, seed=SEED, cases=CASES)
    return {
        "label": label,
        "name": equation.name,
        "statement": equation.statement,
        "where": equation.where,
        "assumptions": list(equation.assumptions),
        "kind": equation.kind,
        "passed": result.passed,
        "failure": result.failure,
        "cases": result.cases,
        "worst": result.worst,
        "worst_means": equation.worst_means,
        "attained": None if math.isnan(result.attained) else result.attained,
        "seconds": result.seconds,
        "mutants": caught(equation, seed=SEED),
        "code": equation.source,
    }


def main(target: str) -> int:
    """Check every equation, two at a time, and write one JSON file whole."""
    from flatlib.lab import equations

    labels = list(equations.register)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        entries = list(pool.map(entry, labels))
    found = {"seed": SEED, "equations": {one["label"]: one for one in entries}}
    write_whole(Path(target), json.dumps(found, indent=1))
    seconds = sum(one["seconds"] for one in entries)
    print(f"  register: {len(entries)} equations checked in {seconds:.1f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
