"""The shape of the code, read from syntax trees: modules, import levels, circles, lengths.

    python bench/layout.py [TREE ...]

TREE is a checkout of the repository, by default this one; one column for each. Levels are those of
the import graph, circles collapsed: a module lies one above the highest that it imports.
"""

from __future__ import annotations

import ast
import statistics
import sys
from pathlib import Path

HERE = Path(__file__).parents[1]
Graph = dict[str, set[str]]


def modules(tree: Path) -> dict[str, Path]:
    """Dotted name -> file of every module of the package."""
    files = (tree / "src").rglob("*.py")
    names = {file.relative_to(tree / "src").with_suffix(""): file for file in files}
    return {".".join(name.parts).removesuffix(".__init__"): file for name, file in names.items()}


def imports(found: dict[str, Path]) -> Graph:
    """Module -> modules of the package that it imports, wherever in its file."""
    graph: Graph = {}
    for name, file in found.items():
        dotted: set[str] = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                dotted |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                dotted |= {each if each in found else node.module for each in names}
        graph[name] = {each for each in dotted if each in found and each != name}
    return graph


def reachable(graph: Graph, start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for other in graph[waiting.pop()] - seen:
            seen.add(other)
            waiting.append(other)
    return seen


def circles(graph: Graph) -> list[set[str]]:
    """Groups of modules that import each other, directly or not."""
    reach = {name: reachable(graph, name) for name in graph}
    groups = {
        frozenset({name, *(other for other in reach[name] if name in reach[other])})
        for name in graph
        if name in reach[name]
    }
    return [set(group) for group in groups]


def levels(graph: Graph) -> int:
    """Length of the longest chain of imports, each circle taken as one module."""
    group = {name: min(circle) for circle in circles(graph) for name in circle}
    flat: Graph = {}
    for name, others in graph.items():
        own = group.get(name, name)
        flat.setdefault(own, set()).update({group.get(o, o) for o in others} - {own})
    height: dict[str, int] = {}
    while len(height) < len(flat):
        for name, others in flat.items():
            if name not in height and others <= height.keys():
                height[name] = 1 + max((height[other] for other in others), default=0)
    return max(height.values())


def by_package(graph: Graph) -> Graph:
    """The graph of the root's packages and modules; `foveate` itself left out."""
    flat: Graph = {}
    for name, others in graph.items():
        parts = [each.split(".")[1] for each in (name, *others) if "." in each]
        if "." in name:
            flat.setdefault(parts[0], set()).update(set(parts[1:]) - {parts[0]})
    return flat


def measured(tree: Path) -> dict[str, object]:
    found = modules(tree)
    graph = imports(found)
    texts = [file.read_text(encoding="utf-8") for file in found.values()]
    functions = [
        node.end_lineno - node.lineno + 1
        for text in texts
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno
    ]
    everything = [
        line
        for part in ("src", "tests", "bench", "examples")
        for file in (tree / part).rglob("*.py")
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    own = [line for text in texts for line in text.splitlines()]
    lengths = [len(text.splitlines()) for text in texts]
    return {
        "modules": len(found),
        "modules in the root": sum(
            name.count(".") == 1 and file.name not in ("__init__.py", "__main__.py")
            for name, file in found.items()
        ),
        "levels of imports, modules": levels(graph),
        "levels of imports, packages": levels(by_package(graph)),
        "circles (modules in them)": f"{len(circles(graph))} ({sum(map(len, circles(graph)))})",
        "lines of the package": len(own),
        "its lines over 100 columns": sum(len(line) > 100 for line in own),
        "lines over 100 columns, tests and benches too": sum(
            len(line) > 100 for line in everything
        ),
        "longest file, lines": max(lengths),
        "longest function, lines": max(functions),
        "median function, lines": statistics.median(functions),
    }


def main() -> None:
    trees = [Path(word) for word in sys.argv[1:]] or [HERE]
    columns = [measured(tree) for tree in trees]
    print("| | " + " | ".join(tree.resolve().name for tree in trees) + " |")
    print("|---|" + "---|" * len(trees))
    for name in columns[0]:
        print(f"| {name} | " + " | ".join(str(column[name]) for column in columns) + " |")


if __name__ == "__main__":
    main()
