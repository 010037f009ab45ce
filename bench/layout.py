"""Structure of the code, from syntax trees: modules, levels of imports, import cycles, lengths.

    python bench/layout.py [CHECKOUT ...]

CHECKOUT is a checkout of the repository, by default this one; the Markdown table has a column for
each. Levels are those of the import graph with cycles collapsed: a module lies one above the
highest one that it imports.
"""

from __future__ import annotations

import ast
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
Graph = dict[str, set[str]]


def modules(tree: Path) -> dict[str, Path]:
    """Return the file of every module of the package, by dotted name."""
    files = (tree / "src").rglob("*.py")
    names = {file.relative_to(tree / "src").with_suffix(""): file for file in files}
    return {".".join(name.parts).removesuffix(".__init__"): file for name, file in names.items()}


def import_graph(modules: dict[str, Path]) -> Graph:
    """Return the modules of the package that each one imports, wherever in its file."""
    graph: Graph = {}
    for name, file in modules.items():
        dotted: set[str] = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                dotted |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                dotted |= {each if each in modules else node.module for each in names}
        graph[name] = {each for each in dotted if each in modules and each != name}
    return graph


def reachable(graph: Graph, start: str) -> set[str]:
    reached: set[str] = set()
    stack = [start]
    while stack:
        for other in graph[stack.pop()] - reached:
            reached.add(other)
            stack.append(other)
    return reached


def cycles(graph: Graph) -> list[set[str]]:
    """Return the groups of modules that import each other, directly or not."""
    reachable_from = {name: reachable(graph, name) for name in graph}
    groups = {
        frozenset(
            {name, *(other for other in reachable_from[name] if name in reachable_from[other])}
        )
        for name in graph
        if name in reachable_from[name]
    }
    return [set(group) for group in groups]


def levels(graph: Graph) -> int:
    """Return the length of the longest chain of imports; a cycle counts as one module."""
    group = {name: min(cycle) for cycle in cycles(graph) for name in cycle}
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
    """Return the graph of the packages and modules in the root, without `foveate` itself."""
    flat: Graph = {}
    for name, others in graph.items():
        parts = [each.split(".")[1] for each in (name, *others) if "." in each]
        if "." in name:
            flat.setdefault(parts[0], set()).update(set(parts[1:]) - {parts[0]})
    return flat


def measure(tree: Path) -> dict[str, object]:
    """Return the rows of the table of a checkout."""
    files_by_name = modules(tree)
    graph = import_graph(files_by_name)
    texts = [file.read_text(encoding="utf-8") for file in files_by_name.values()]
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
    package_lines = [line for text in texts for line in text.splitlines()]
    lengths = [len(text.splitlines()) for text in texts]
    return {
        "modules": len(files_by_name),
        "modules in the package root": sum(
            name.count(".") == 1 and file.name not in ("__init__.py", "__main__.py")
            for name, file in files_by_name.items()
        ),
        "levels of imports, modules": levels(graph),
        "levels of imports, packages": levels(by_package(graph)),
        "import cycles (modules in them)": f"{len(cycles(graph))} ({sum(map(len, cycles(graph)))})",
        "lines of the package": len(package_lines),
        "of these, lines over 100 columns": sum(len(line) > 100 for line in package_lines),
        "lines over 100 columns, tests and benches too": sum(
            len(line) > 100 for line in everything
        ),
        "longest file, lines": max(lengths),
        "longest function, lines": max(functions),
        "median function, lines": statistics.median(functions),
    }


def main() -> None:
    trees = [Path(argument) for argument in sys.argv[1:]] or [ROOT]
    columns = [measure(tree) for tree in trees]
    print("| | " + " | ".join(tree.resolve().name for tree in trees) + " |")
    print("|---|" + "---|" * len(trees))
    for name in columns[0]:
        print(f"| {name} | " + " | ".join(str(column[name]) for column in columns) + " |")


if __name__ == "__main__":
    main()
