"""The documentation: every command in it parses, every plug-in that it shows works, the notebooks
run, and the reference is complete."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image

import foveate

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))

import hooks  # noqa: E402  (docs/hooks.py, which builds the reference pages)

PAGES = [
    ROOT / "README.md",
    *sorted(page for page in DOCS.rglob("*.md") if "log" not in page.relative_to(DOCS).parts),
]
BLOCK = re.compile(r"^( *)```(?:bash|console|sh)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def command_lines(page: Path) -> Iterator[str]:
    """The lines of shell blocks that call Foveate, without prompts and continuation marks."""
    for _, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|\|(?!\|)|;", line.strip().removeprefix("$ ")):
                if re.match(r"\s*(\S+=\S+\s+)*(python -m )?foveate\s", f"{part} "):
                    yield part.strip()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_in_the_documentation_parses(page):
    """The command exists, and so do its options; nothing is run and no file has to be there."""
    group = hooks.command_group()
    for line in command_lines(page):
        arguments = shlex.split(line, comments=True)
        arguments = arguments[
            next(i for i, argument in enumerate(arguments) if argument == "foveate") + 1 :
        ]
        end = next(
            (i for i, argument in enumerate(arguments) if argument in (">", ">>", "&")),
            len(arguments),
        )
        arguments = arguments[:end]
        context = group.make_context("foveate", list(arguments), resilient_parsing=True)
        if not arguments or arguments[0].startswith("-"):
            continue
        name, command, rest = group.resolve_command(context, arguments)
        assert command is not None, line
        _without_file_checks(command)
        try:
            command.make_context(name, rest, parent=context)
        except click.exceptions.Exit:  # --help
            continue
        except click.ClickException as error:
            raise AssertionError(f"{page.name}: {line}: {error.format_message()}") from error


def _without_file_checks(command: click.Command) -> None:
    for parameter in command.params:
        if isinstance(parameter.type, click.Path):
            parameter.type.exists = False


FIELD = re.compile(r"\b((?:data|backbone|training|augment|start|task|tuning)\.[a-z_0-9]+)\b")
NOT_FIELDS = {"data.yaml", "backbone.safetensors"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_setting_in_the_documentation_exists(page):
    """Dotted names in code, such as training.ema: fields of the recipe or settings of a plug-in."""
    text = page.read_text(encoding="utf-8")
    code = re.findall(r"`([^`\n]+)`", text) + [block for _, block in BLOCK.findall(text)]
    used = {name for part in code for name in FIELD.findall(part)} - NOT_FIELDS
    assert used <= known_settings()


@cache
def known_settings() -> set[str]:
    known = {field.name for field in hooks.recipe_fields()}
    for title, section in hooks.SECTION_OF.items():
        for _, plugin in hooks.plugins_in(hooks.PLUGIN_FOLDERS[title]):
            known |= {f"{section}.{field.name}" for field in hooks.fields_of(plugin.Settings, "")}
    return known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_in_the_documentation_is_valid_and_imports_what_exists(page):
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if "--8<--" in block:
            continue
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("foveate"):
                module = importlib.import_module(str(node.module))
                assert not [alias.name for alias in node.names if not hasattr(module, alias.name)]
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert node.value.id != "foveate" or hasattr(foveate, node.attr), node.attr


def test_the_commands_of_the_readme_are_found():
    assert sum(1 for _ in command_lines(ROOT / "README.md")) >= 5


def test_every_recipe_note_names_a_field():
    assert set(hooks.recipe_notes()) <= {field.name for field in hooks.recipe_fields()}


@pytest.mark.parametrize("name", hooks.GENERATED)
def test_generated_pages_are_complete(name):
    text = hooks.GENERATED[name]()
    assert len(text.splitlines()) > 40
    assert "None ||" not in text


def test_pages_include_files_that_exist():
    included = 0
    for page in PAGES:
        lines = page.read_text(encoding="utf-8").splitlines()
        for line in (line for line in lines if line.startswith("--8")):
            match = re.fullmatch(r'--8<-- "([^":]+)"', line)
            assert match, f"{page.name}: {line}"
            assert (ROOT / match[1]).is_file(), f"{page.name} includes {match[1]}"
            included += 1
    assert included >= 10


def test_the_files_named_on_the_architecture_page_exist():
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    table = text[text.index("## Where is ...?") : text.index("## Promises")]
    names = re.findall(r"`([a-z_0-9/]+(?:/|\.py|\.html\.j2))`", table)
    assert len(names) >= 15
    assert [name for name in names if not (ROOT / "src" / "foveate" / name).exists()] == []


def test_the_base_classes_in_the_table_of_plugins_exist():
    text = (DOCS / "how-to" / "plug-ins.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| [^|]+ \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", text, re.MULTILINE)
    rows = [[re.findall(r"`([^`]+)`", cell) for cell in row] for row in rows]
    rows = [row for row in rows if row[1]]
    assert len(rows) >= 10
    for folders, groups, bases in rows:
        modules = [
            importlib.import_module("foveate." + folder.replace("/", ".")) for folder in folders
        ]
        assert all(any(hasattr(module, base) for module in modules) for base in bases), bases
        existing = {
            f"foveate.{value.group}"
            for module in modules
            for value in vars(module).values()
            if hasattr(value, "group") and hasattr(value, "contract")
        }
        assert set(groups) <= existing


def install(source: Path, into: Path) -> None:
    """Do what pip install does for entry points of a package: write a folder with metadata."""
    project = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    folder = into / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    folder.mkdir(parents=True)
    lines = [f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"]
    (folder / "METADATA").write_text("".join(lines), encoding="utf-8")
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {module}\n" for name, module in points.items())
        for group, points in project["entry-points"].items()
    ]
    (folder / "entry_points.txt").write_text("\n".join(groups), encoding="utf-8")


def write_grades(folder: Path) -> None:
    """Write sixty images in three shades, listed in labels.txt."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    lines = []
    for index in range(60):
        grade = index % 3
        pixels = rng.normal(60 + 70 * grade, 20, (32, 32, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        lines.append(f"{index}.png\t{grade}-{('none', 'mild', 'severe')[grade]}\n")
    (folder / "labels.txt").write_text("".join(lines), encoding="utf-8")


USE_PLUGINS = """
from pathlib import Path
import numpy as np
import foveate
fitted = foveate.fit("grades", task="grade", backbone="tiny_cnn", tuning="stem", epochs=1,
                     batch_size=16, settings={"task.rank_weight": 0.5, "augment.policy": "none"})
numbers = fitted.evaluation.scores.numbers
assert list(numbers)[:2] == ["within_one", "accuracy"], numbers
foveate.export(fitted.run, "npz", out="exported")
archive = next(Path("exported").glob("*.npz"))
assert any(name.startswith("backbone.stages.0") for name in np.load(archive).files)
foveate.explain(fitted.run, "grades/0.png", methods="gradient", out="explained")
assert list(Path("explained").iterdir())
"""


def test_the_example_plugins_work(tmp_path):
    """A fit that takes its format, task, metric, backbone and tuning from examples/plugins, then
    an export and an explanation by plug-ins of the same package."""
    source = ROOT / "examples" / "plugins"
    install(source, tmp_path / "site")
    write_grades(tmp_path / "grades")
    paths = [str(source), str(tmp_path / "site"), str(ROOT / "src")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, "-c", USE_PLUGINS],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]


QUICK = {  # parameters of each notebook, so small that all three take less than a minute
    "classify": "EACH, SIZE, BACKBONE = 12, 64, 'tf_efficientnet_lite0'",
    "detect": "COUNT, SIZE, EPOCHS, BACKBONE = 20, 64, 1, 'test_efficientnet'",
    "segment": "COUNT, SIZE, EPOCHS, BACKBONE = 20, 64, 1, 'test_efficientnet'",
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_notebooks_run(tmp_path, monkeypatch):
    """With other parameters than in the files, where tiny networks have random weights.

    All in one kernel, which imports torch once.
    """
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    paths = [str(ROOT / "src"), str(ROOT / "examples")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    cells = []
    for name in QUICK:
        notebook = nbformat.read(ROOT / "examples" / "notebooks" / f"{name}.ipynb", as_version=4)
        assert not any(cell.get("outputs") for cell in notebook.cells), "commit without outputs"
        with_parameters(notebook, QUICK[name])
        cells += [nbformat.v4.new_code_cell(f"%reset -f\n%cd {tmp_path}"), *notebook.cells]
    notebook.cells = cells
    resources = {"metadata": {"path": tmp_path}}
    client.NotebookClient(notebook, timeout=200, resources=resources).execute()


def with_parameters(notebook, parameters: str) -> None:
    """Replace the parameters of a notebook; weights of tiny networks are random."""
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    tagged[0].source = parameters
    if "test_" in parameters:
        for cell in notebook.cells:
            cell.source = cell.source.replace(
                "backbone=BACKBONE,", "backbone=BACKBONE, weights='none',"
            )
