"""Every benchmark in turn: ``python -m benchmarks``; records go to ``benchmarks/records/``."""

import sys
from pathlib import Path

from benchmarks import measuring

RECORDS = Path(__file__).parent / "records"

if __name__ == "__main__":
    RECORDS.mkdir(exist_ok=True)
    measuring.main(["--output", str(RECORDS / "measuring.json"), *sys.argv[1:]])
