"""The architecture, checked on syntax trees: imports, printing, image decoding, pickles."""

from __future__ import annotations

import ast
from collections.abc import Callable
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "foveate"
PACKAGES = [  # a module imports from its own package or from those above it in this list
    "errors",
    "messages",
    "version",
    "utils",
    "predictions",
    "types",
    "registry",
    "recipe",
    "images",
    "data",
    "evaluation",
    "reporting",
    "run",
    "modeling",
    "inference",
    "deploy",
    "explainability",
    "training",
    "serving",
    "api",
    "__init__",
    "cli",
    "__main__",
]
PLUGINS = {  # folder: the other plug-in folders whose contract (`__init__`) its files may import
    "data/formats": set(),
    "evaluation/metrics": set(),
    "modeling/backbones": set(),
    "modeling/decoders": set(),
    "modeling/detectors": set(),
    "modeling/tasks": {"modeling/backbones", "modeling/decoders", "modeling/detectors"},
    "modeling/tunings": {"modeling/backbones"},
    "deploy/targets": set(),
    "deploy/postprocess": set(),
    "explainability/methods": {"modeling/backbones"},
    "training/objectives": {"modeling/backbones", "modeling/tasks"},
    "training/test_time": set(),
}
DECODERS = {"data/duplicates.py"}  # besides the package images
FILES = sorted(SOURCE.rglob("*.py"))
MODULES = {
    ".".join(("foveate", *file.relative_to(SOURCE).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): file
    for file in FILES
}
NAMES = {file: name for name, file in MODULES.items()}


def relative(file: Path) -> str:
    return file.relative_to(SOURCE).as_posix()


def package(file: Path) -> str:
    """The first part of the path: 'modeling' for modeling/tasks/detect.py."""
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def plugin_folder(file: Path) -> str | None:
    return next((folder for folder in PLUGINS if relative(file).startswith(f"{folder}/")), None)


@cache
def imported_names(file: Path) -> set[str]:
    """Dotted names of all modules, and names in modules, that a file imports anywhere."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def own_imports(file: Path) -> set[Path]:
    """The files of this package that a file imports."""
    modules = {
        name if name in MODULES else name.rpartition(".")[0] for name in imported_names(file)
    }
    return {MODULES[name] for name in modules if name in MODULES} - {file}


GRAPH = {file: own_imports(file) for file in FILES}


def for_each(files: list[Path]) -> Callable[[Callable[[Path], None]], Callable[[], None]]:
    """Turn a check of one file into a test of all of them, which lists every offender."""

    def decorate(check: Callable[[Path], None]) -> Callable[[], None]:
        def test() -> None:
            offenders = {}
            for file in files:
                try:
                    check(file)
                except AssertionError as error:
                    offenders[relative(file)] = str(error).splitlines()[0]
            assert offenders == {}

        test.__doc__ = check.__doc__
        return test

    return decorate


@for_each(FILES)
def test_imports_go_down_only(file):
    rank = PACKAGES.index(package(file))
    assert [relative(other) for other in GRAPH[file] if PACKAGES.index(package(other)) > rank] == []


def test_there_are_no_circular_imports():
    """Every module can be imported after those that it imports, inside packages too."""
    done: set[Path] = set()
    while ready := {file for file in FILES if file not in done and GRAPH[file] <= done}:
        done |= ready
    assert [relative(file) for file in FILES if file not in done] == []


def test_the_root_holds_few_modules():
    assert len([file for file in SOURCE.glob("*.py") if not file.stem.startswith("__")]) <= 8


@for_each([file for file in FILES if plugin_folder(file)])
def test_a_plugin_imports_no_plugin_of_another_folder(file):
    """Except the contracts that tasks, tunings and others implement."""
    folder = plugin_folder(file)
    others = {other for other in GRAPH[file] if plugin_folder(other) not in (None, folder)}
    assert {plugin_folder(other) for other in others} <= PLUGINS[folder]
    assert MODULES["foveate.modeling.backbones.timm"] not in others


@for_each(FILES)
def test_one_module_prints_and_one_package_decodes(file):
    names, text = imported_names(file), file.read_text(encoding="utf-8")
    tree = ast.parse(text)
    calls = {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    if relative(file) != "utils/console.py":
        assert "print" not in calls
        assert not any(name.startswith("rich") for name in names)
    if relative(file) not in DECODERS and not relative(file).startswith("images/"):
        assert not any(name.startswith("PIL") for name in names)
    assert not calls & {"eval", "exec"}
    assert not any(name.split(".")[0] in ("pickle", "dill", "joblib", "marshal") for name in names)
    assert "yaml.load(" not in text
    assert text.count("torch.load(") == text.count("weights_only=True")


@for_each(FILES)
def test_files_and_functions_are_short(file):
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 500
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{node.name} is too long"


PUBLIC = sorted(file for file in SOURCE.glob("api/*/__init__.py"))


@for_each(PUBLIC)
def test_a_public_function_is_declared_in_a_light_module(file):
    """The command line reads its signature, so that importing it may cost nothing."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            assert {alias.name for alias in node.names} <= {"time"}
        elif isinstance(node, ast.ImportFrom):
            assert node.module in ("collections.abc", "pathlib", "typing", "foveate.errors") or (
                node.module.startswith("foveate.utils.")
            )


@for_each(FILES)
def test_the_library_reports_by_logging_and_suggests_names_in_one_way(file):
    text = file.read_text(encoding="utf-8")
    if package(file) not in ("cli", "utils"):
        assert "console.say" not in text
    if relative(file) != "errors.py":
        assert "get_close_matches" not in text


def test_the_readme_marks_two_commands():
    text = (SOURCE.parents[1] / "README.md").read_text(encoding="utf-8")
    assert text.count("<!-- ci -->\n```bash\n") == 2
