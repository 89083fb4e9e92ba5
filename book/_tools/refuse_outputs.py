"""Refuse notebooks that carry outputs or execution counts: a chapter's numbers come from its
run alone.
"""

import json
import sys
from pathlib import Path


def faults(path: Path) -> list[str]:
    """What a committed notebook must not hold, one sentence a cell."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    found = []
    for number, cell in enumerate(cells, 1):
        if cell.get("outputs"):
            found.append(f"{path}: cell {number} holds outputs; clear them before you commit")
        if cell.get("execution_count") is not None:
            found.append(f"{path}: cell {number} holds an execution count; clear it as well")
    return found


def main(folder: str) -> int:
    found = [line for path in sorted(Path(folder).glob("*.ipynb")) for line in faults(path)]
    print("\n".join(found), file=sys.stderr, end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
