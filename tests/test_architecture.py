"""The house: who may import whom, who may print, decode or open pickles; read from the syntax trees."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "foveate"
SHELVES = ("adaptations", "backbones", "decoders", "detectors", "explainers", "exporters", "formats", "metrics", "objectives", "readers", "tasks", "tunings")
FLOORS = [  # the ground floor first; a file imports from its own floor or from below
    {"errors"},
    {"findings", "types", "shelf", "files", "memory", "masks", "distributed", "stopping", "plain"},
    {"recipe", "listing", "looking", "images", "boxes", "splits", "intervals", "console", "weights", "transforms", "mosaic", "linear", "neighbours", "shots", "precision", "plots", "drawing", "pyramid", "views", "sentences", "writer", "heat", "inpainting", "distances", "retrieval", "calibration", "corruptions", "language", "framing", "pixels"},
    {*SHELVES, "run", "report", "painting", "restyling", "cards"},
    {"model", "data", "features", "optimizer", "scoring", "averages", "judging", "catalogue", "portions"},
    {"job", "exported"},
    {"trainer", "predictor", "guard", "planning", "solving", "race", "episodic", "earlier", "auditing", "checking", "explaining", "badsteps", "replaying"},
    {"settling"},
    {"outputs"},
    {"serving"},
    {"verbs"},
    {"options"},
    {"commands"},
    {"cli", "__init__"},
    {"__main__"},
]
_MAY_NAME = {"tasks": {"backbones", "decoders", "detectors"}, "tunings": {"backbones"}, "explainers": {"backbones"}, "objectives": {"backbones", "tasks"}}  # contracts, by their door plates
FILES = sorted(SOURCE.rglob("*.py"))


def room(file: Path) -> str:
    """The first part of the path: 'verbs' for verbs/fit.py."""
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def floor(name: str) -> int:
    return next(number for number, names in enumerate(FLOORS) if name in names)


def imported(file: Path) -> list[str]:
    """Dotted names of what a file imports, wherever in it."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def own_rooms(file: Path) -> set[str]:
    """The rooms of the house that a file enters; `from foveate import __version__` enters none."""
    parts = [name.split(".") for name in imported(file) if name.split(".")[0] == "foveate"]
    return {part[1] for part in parts if len(part) > 1 and not part[1].startswith("__")}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(SOURCE).as_posix())
def test_imports_go_down_only(file):
    mine = room(file)
    assert [other for other in own_rooms(file) if floor(other) > floor(mine)] == []


@pytest.mark.parametrize("file", [file for file in FILES if room(file) in SHELVES], ids=lambda file: file.relative_to(SOURCE).as_posix())
def test_a_shelf_file_knows_no_other_shelf(file):
    """But for the contracts that tasks and tunings are written against."""
    others = {shelf for shelf in own_rooms(file) & set(SHELVES) if shelf != room(file)}
    assert others <= _MAY_NAME.get(room(file), set())
    assert all(not name.startswith("foveate.modeling.backbones.timm") for name in imported(file))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(SOURCE).as_posix())
def test_every_task_has_its_room(file):
    names, text = imported(file), file.read_text(encoding="utf-8")
    tree = ast.parse(text)
    calls = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    if room(file) != "console":
        assert "print" not in calls
        assert not any(name.startswith("rich") for name in names)
    if room(file) not in ("images", "splits", "drawing", "heat"):
        assert not any(name.startswith("PIL") for name in names)
    assert not calls & {"eval", "exec"}
    assert not any(name.split(".")[0] in ("pickle", "dill", "joblib", "marshal") for name in names)
    assert "yaml.load(" not in text
    assert text.count("torch.load(") == text.count("weights_only=True")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(SOURCE).as_posix())
def test_everything_is_read_at_a_glance(file):
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 420
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 50, f"{node.name} is too long"


def test_the_readme_marks_two_commands():
    text = (SOURCE.parents[1] / "README.md").read_text(encoding="utf-8")
    assert text.count("<!-- ci -->\n```bash\n") == 2
