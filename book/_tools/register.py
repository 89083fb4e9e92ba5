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
from kernels import end_with_parent

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


def entries(labels: list[str]) -> list[dict]:
    """The entries of equations in one process, which draws a case and derives from it once."""
    return [entry(label) for label in labels]


def by_stream() -> list[list[str]]:
    """Labels in groups whose checks draw the same cases, the largest group first."""
    from flatlib.lab import equations
    from flatlib.lab.equations.cases import draw, draw_interpolating

    groups: dict = {}
    for label, equation in equations.register.items():
        stream = draw if equation.draw is draw_interpolating else equation.draw
        groups.setdefault(stream, []).append(label)
    return sorted(groups.values(), key=len, reverse=True)


def main(target: str) -> int:
    """Check every equation, two groups at a time, and write one JSON file whole."""
    from flatlib.lab import equations

    # Both processes have what this one has imported; the mutants need it, too.
    with ProcessPoolExecutor(
        2, mp_context=get_context("fork"), initializer=end_with_parent
    ) as pool:
        found_by = {one["label"]: one for group in pool.map(entries, by_stream()) for one in group}
    found = {"seed": SEED, "equations": {label: found_by[label] for label in equations.register}}
    write_whole(Path(target), json.dumps(found, indent=1))
    seconds = sum(one["seconds"] for one in found_by.values())
    print(f"  register: {len(found_by)} equations checked in {seconds:.1f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
