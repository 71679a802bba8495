"""The structure of the code, counted from its syntax: `python -m benchmarks.structure [FOLDER]`.

Rooms are folders (or files) one level below kdq, study and analysis. A room's floor is one more than the highest floor
among the rooms of its package that it imports, so the number of floors is the longest chain of imports. `back up` are
imports between rooms that lead in a circle. FOLDER: another checkout, for comparison; this one by default.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.report import ROOT

PACKAGES = ("kdq", "study", "analysis")
LONG_FILE, LONG_FUNCTION = 300, 40
STATUSES = (
    "waiting",
    "running",
    "paused",
    "completed",
    "stopped",
    "diverged",
    "out_of_memory",
    "failed",
    "interrupted",
)
TAG = re.compile(r"kdq\.(kind|study|trial_id|point_id|student_id|status|reason|document|command)")
RAY_PRIVATE = re.compile(r"ray\.(?:_private|experimental\.internal_kv|train\._internal|util\.client)|_internal_kv_\w+")
Tree = dict[Path, ast.Module]


def parse(root: Path) -> Tree:
    """The modules of the packages, by their paths in the folder."""
    files = (file for package in PACKAGES for file in sorted((root / package).rglob("*.py")))
    return {file.relative_to(root): ast.parse(file.read_text(encoding="utf-8")) for file in files}


def room(path: Path) -> str:
    return "/".join(path.with_suffix("").parts[:2])


def imports(trees: Tree) -> dict[str, set[str]]:
    """The rooms of the same package that each room imports; imports for types alone count, too."""
    known = {room(path) for path in trees}
    found: dict[str, set[str]] = {name: set() for name in known if not name.endswith("__init__")}
    for path, tree in trees.items():
        if (own := room(path)) not in found:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
                rooms = {"/".join(module.split(".")[:2]) for module in modules}
                found[own] |= {name for name in rooms & found.keys() if name != own and name[:3] == own[:3]}
    return found


def circles(graph: dict[str, set[str]]) -> set[tuple[str, str]]:
    """The imports between rooms that are part of a circle."""

    def reaches(start: str, end: str, seen: set[str]) -> bool:
        seen.add(start)
        return start == end or any(reaches(one, end, seen) for one in graph[start] - seen)

    return {(a, b) for a, targets in graph.items() for b in targets if reaches(b, a, set())}


def floors(graph: dict[str, set[str]], package: str) -> int:
    """The length of the longest chain of imports between a package's rooms, circles left out."""
    bad = circles(graph)

    def floor(name: str) -> int:
        return 1 + max((floor(one) for one in graph[name] if (name, one) not in bad), default=0)

    return max(floor(name) for name in graph if name.startswith(f"{package}/"))


def strings(tree: ast.Module) -> Iterator[str]:
    """The string literals of a module that are no docstrings."""
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.value


def compared(tree: ast.Module) -> Iterator[str]:
    """The string literals that are a status by where they stand: compared, or given to a name or key of a status."""
    for node in ast.walk(tree):
        values: list[ast.expr] = []
        if isinstance(node, ast.Compare):
            values = [node.left, *node.comparators]
        elif isinstance(node, ast.Assign) and "status" in ast.unparse(node.targets[0]).lower():
            values = [node.value]
        for value in values:
            yield from (n.value for n in ast.walk(value) if isinstance(n, ast.Constant) and n.value in STATUSES)


def functions(tree: ast.Module) -> Iterator[int]:
    """The lengths of a module's functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            yield node.end_lineno - node.lineno + 1 if node.end_lineno else 1


def measure(root: Path) -> dict[str, int]:
    trees = parse(root)
    graph = imports(trees)
    lengths = [length for tree in trees.values() for length in functions(tree)]
    outside = {path: tree for path, tree in trees.items() if path.name not in ("status.py", "schema.py")}
    rows = {f"rooms of {package}": sum(name.startswith(f"{package}/") for name in graph) for package in PACKAGES}
    rows |= {f"floors of {package}": floors(graph, package) for package in PACKAGES}
    texts = {path: (root / path).read_text(encoding="utf-8") for path in trees}
    return {
        **rows,
        "imports that lead in a circle": len(circles(graph)),
        f"files over {LONG_FILE} lines": sum(text.count("\n") > LONG_FILE for text in texts.values()),
        f"functions over {LONG_FUNCTION} lines": sum(length > LONG_FUNCTION for length in lengths),
        "Any in annotations": sum(
            isinstance(node, ast.Name) and node.id == "Any" for tree in trees.values() for node in ast.walk(tree)
        ),
        "statuses as literals": sum(1 for tree in outside.values() for _ in compared(tree)),
        "tags as literals": sum(bool(TAG.fullmatch(text)) for tree in outside.values() for text in strings(tree)),
        "files with private names of Ray": sum(
            path.name != "ray_internals.py" and bool(RAY_PRIVATE.search(text)) for path, text in texts.items()
        ),
    }


if __name__ == "__main__":
    for name, count in measure(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT).items():
        print(f"{count:6}  {name}")
