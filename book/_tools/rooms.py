"""The drawing of rooms and arrows in ARCHITECTURE.md, made from the imports.

python book/_tools/rooms.py            # write the drawing into ARCHITECTURE.md
python book/_tools/rooms.py --check    # say whether it is the one of today's imports
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "ARCHITECTURE.md"
BEGIN, END = "<!-- rooms: begin -->", "<!-- rooms: end -->"


def room(parts: list[str]) -> str:
    """The room that a module belongs to: a file or folder of a storey, such as ``lab/data``."""
    return "/".join(parts[1:3] if parts[1] == "lab" else parts[1:2])


def arrows(root: Path = ROOT) -> dict[str, set[str]]:
    """Each room and the rooms that it imports, also those that it imports while it runs."""
    found: dict[str, set[str]] = {}
    for path in sorted((root / "flatlib").rglob("*.py")):
        parts = list(path.relative_to(root).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        if parts in (["flatlib"], ["flatlib", "lab"]):
            continue
        imported = found.setdefault(room(parts), set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif (
                isinstance(node, ast.ImportFrom) and path.name != "__init__.py" and node.level == 1
            ):
                base = ".".join(["", *parts[1:-1]])
                tail = f".{node.module}" if node.module else ""
                names = [f"flatlib{base}{tail}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            for name in names:
                chain = name.split(".")
                if chain[0] == "flatlib" and len(chain) > 1:
                    imported.add(room(chain))
    rooms = set(found)
    return {name: (to & rooms) - {name} for name, to in found.items()}


def layers(graph: dict[str, set[str]]) -> list[list[str]]:
    """Rooms from the ground up: each imports rooms of the layers below alone.

    Raises:
        ValueError: rooms that import each other in a circle.
    """
    placed: set[str] = set()
    found = []
    while len(placed) < len(graph):
        layer = sorted(name for name, to in graph.items() if name not in placed and to <= placed)
        if not layer:
            raise ValueError(f"imports in a circle among {sorted(set(graph) - placed)}")
        found.append(layer)
        placed |= set(layer)
    return found


def direct(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The arrows that no longer way replaces, which keeps the drawing readable."""
    below: dict[str, set[str]] = {}
    for layer in layers(graph):
        for name in layer:
            below[name] = graph[name].union(*(below[to] for to in graph[name]))
    return {
        name: {to for to in into if not any(to in below[other] for other in into)}
        for name, into in graph.items()
    }


def drawing(root: Path = ROOT) -> str:
    """Mermaid's text of the two storeys, an arrow from each room to the rooms that it imports."""
    graph = direct(arrows(root))
    core = [name for layer in layers(graph) for name in layer if not name.startswith("lab/")]
    lab = [name for layer in layers(graph) for name in layer if name.startswith("lab/")]
    lines = ["```mermaid", "flowchart BT"]
    for title, names in (("flatlib", core), ("flatlib.lab", lab)):
        lines.append(f'  subgraph "{title}"')
        lines += [f'    {name.replace("/", "_")}["{name.split("/")[-1]}"]' for name in names]
        lines.append("  end")
    for name in (*core, *lab):
        for to in sorted(graph[name]):
            lines.append(f"  {name.replace('/', '_')} --> {to.replace('/', '_')}")
    return "\n".join([*lines, "```"])


def page_with_drawing(page: str, root: Path = ROOT) -> str:
    """The page with today's drawing between the two marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{drawing(root)}\n{END}{after}"


def main(words: list[str]) -> int:
    """Write or check the drawing."""
    page = PAGE.read_text(encoding="utf-8")
    new = page_with_drawing(page)
    if "--check" in words:
        if page != new:
            print("the drawing is old; run python book/_tools/rooms.py", file=sys.stderr)
        return int(page != new)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
