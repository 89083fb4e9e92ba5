"""Every benchmark in turn: ``python -m benchmarks``; records go to ``benchmarks/records/``."""

import sys
from pathlib import Path

from benchmarks import floors, large, matrix_free, measuring, training

RECORDS = Path(__file__).parent / "records"

if __name__ == "__main__":
    RECORDS.mkdir(exist_ok=True)
    for name, benchmark in (
        ("measuring", measuring),
        ("floors", floors),
        ("training", training),
    ):
        print(f"{name}:")
        benchmark.main(["--output", str(RECORDS / f"{name}.json"), *sys.argv[1:]])
    for name, benchmark in (("large", large), ("matrix_free", matrix_free)):
        print(f"{name}:")
        benchmark.main(["--output", str(RECORDS / f"{name}.json")])
