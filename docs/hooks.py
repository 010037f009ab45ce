"""Pages that mkdocs makes from the code: the commands, the recipe and the settings of plug-ins.

mkdocs.yml names this file under `hooks`. tests/test_docs.py imports it too.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import re
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

HERE = Path(__file__).parent
PLUGIN_FOLDERS = {  # title of a section: the package whose modules are its plug-ins
    "Tasks": "foveate.modeling.tasks",
    "Tunings": "foveate.modeling.tunings",
    "Pretraining objectives": "foveate.training.objectives",
    "Test-time adaptation": "foveate.training.test_time",
    "Backbone families": "foveate.modeling.backbones",
    "Detectors": "foveate.modeling.detectors",
    "Decoders": "foveate.modeling.decoders",
    "Data formats": "foveate.data.formats",
    "Metrics": "foveate.evaluation.metrics",
    "Explanation methods": "foveate.explainability.methods",
    "Export targets": "foveate.deploy.targets",
}
SECTION_OF = {  # the section of the recipe in which a plug-in's settings stand
    "Tasks": "task",
    "Tunings": "tuning",
    "Pretraining objectives": "task",
    "Test-time adaptation": "",
}


@dataclass(frozen=True)
class Setting:
    """A field of the recipe or of a plug-in's settings, ready for a table."""

    name: str
    type: str
    default: str
    description: str


# --- commands


def command_group() -> click.Group:
    """The command line as a click group."""
    module = importlib.import_module("foveate.cli.main")
    for value in vars(module).values():
        if isinstance(value, click.Group):
            return value
    for value in vars(module).values():
        if inspect.isfunction(value) and not inspect.signature(value).parameters:
            try:
                returned = typing.get_type_hints(value).get("return")
            except NameError:
                continue
            if inspect.isclass(returned) and issubclass(returned, click.Group):
                return value()
    raise LookupError("foveate.cli.main has no click group")


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command, in the order of `foveate --help`."""
    group = command_group()
    context = click.Context(group, info_name="foveate")
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield name, command


def commands_page() -> str:
    parts = [
        "# Commands\n",
        "This page is generated from the command line itself: `foveate COMMAND --help` prints "
        "the same. Every command takes `--json`: the last line on standard output is then one "
        "JSON object, and everything else goes to standard error.\n",
    ]
    for name, command in commands():
        usage = " ".join(["foveate", name, *command.collect_usage_pieces(click.Context(command))])
        about = inspect.cleandoc(command.help or "")
        about = f"{about}\n{command.epilog or ''}".replace("\b", "")
        text, _, example = about.partition("Example:")
        parts.append(f"## foveate {name} {{ #{name} }}\n")
        parts.append(f"{escape(text.strip())}\n")
        parts.append(f"```text\n{usage}\n```\n")
        if example:
            parts.append(f"Example:\n\n```bash\n{' '.join(example.split())}\n```\n")
        arguments = getattr(command, "arguments", {})
        required = {each.name for each in command.params if each.required}
        rows = [
            [f"`{name.upper()}`", meaning(text, name in required)]
            for name, text in arguments.items()
        ]
        rows += [
            option_row(option) for option in command.params if isinstance(option, click.Option)
        ]
        parts.append(table(["argument or option", "meaning"], rows))
    return "\n".join(parts)


def option_row(option: click.Option) -> list[str]:
    names = [f"`{name}`" for name in (*option.opts, *option.secondary_opts)]
    if not option.is_flag and not option.count:
        metavar = option.make_metavar(click.Context(click.Command("x")))
        names[-1] = f"`{option.opts[-1]} {metavar.replace(' RANGE', '')}`"
    return [", ".join(names), meaning(option.help or "", option.required)]


def meaning(text: str, required: bool) -> str:
    """The help of an argument or option; ranges are part of it."""
    return escape(" ".join(text.split())) + (" *Required.*" if required else "")


# --- the recipe


def recipe_fields() -> list[Setting]:
    """Every field of a recipe under its dotted name."""
    from foveate.recipe import Recipe

    return list(fields_of(Recipe, ""))


def fields_of(model: type[BaseModel], prefix: str) -> Iterator[Setting]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        nested = inspect.isclass(kind) and issubclass(kind, BaseModel)
        if nested and not field.description:
            yield from fields_of(kind, f"{prefix}{name}.")
        else:
            yield Setting(
                f"{prefix}{name}", type_text(field), default_text(field), field.description or ""
            )


def type_text(field: FieldInfo) -> str:
    """'int, at least 1', 'one of adamw, adam, sgd', 'float or none, more than 0'."""
    kind = field.annotation
    if inspect.isclass(kind) and issubclass(kind, BaseModel):
        return "name of a plug-in, with its settings"
    words = " or ".join(kind_words(kind))
    limits = {"Ge": "at least {}", "Gt": "more than {}", "Le": "at most {}", "Lt": "less than {}"}
    for bound in field.metadata:
        text = limits.get(type(bound).__name__)
        if text:
            value = getattr(bound, type(bound).__name__.lower())
            words += ", " + text.format(value)
    return words


def kind_words(kind: Any) -> list[str]:
    origin = typing.get_origin(kind)
    if origin is typing.Literal:
        return ["`" + "`, `".join(str(value) for value in typing.get_args(kind)) + "`"]
    if origin in (typing.Union, types.UnionType):
        return [word for part in typing.get_args(kind) for word in kind_words(part)]
    if origin in (list, tuple):
        inner = [word for part in typing.get_args(kind) for word in kind_words(part)]
        return ["list of " + " or ".join(dict.fromkeys(word for word in inner if word != "..."))]
    if kind is type(None):
        return ["none"]
    names = {str: "text", int: "integer", float: "number", bool: "true or false"}
    return [names.get(kind, getattr(kind, "__name__", str(kind)))]


def default_text(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, BaseModel):
        value = getattr(value, "name", value)
    if value is None or value in ("", (), []):
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def recipe_notes() -> dict[str, str]:
    """When to change a field: written by hand, by dotted name."""
    return yaml.safe_load((HERE / "reference" / "when_to_change.yml").read_text(encoding="utf-8"))


RECIPE_INTRODUCTION = """# Recipe

A recipe holds every setting of a run. Foveate writes it to `recipe.yaml` in the run folder, with
everything that was chosen automatically, so that `foveate fit --recipe RUN/recipe.yaml` repeats the
run. Any field can be set on the command line with `--set SECTION.FIELD=VALUE`, and in Python with
`settings={"SECTION.FIELD": VALUE}`. Common fields have an option of their own
([commands](commands.md#fit)).

This page is generated from the code. "None" as a default means that Foveate decides, and prints
what it chose and why.
"""


def recipe_page() -> str:
    from foveate import recipe

    notes = recipe_notes()
    options = {}
    for value in vars(recipe).values():  # the short options and the fields that they stand for
        if isinstance(value, dict) and value.get("epochs") == "training.epochs":
            options = {field: word for word, field in value.items()}
    sections: dict[str, list[list[str]]] = {}
    for field in recipe_fields():
        section = field.name.partition(".")[0] if "." in field.name else "general"
        option = options.get(field.name)
        name = f"`{field.name}`" + (f"<br>`--{option.replace('_', '-')}`" if option else "")
        meaning = sentence(field.description)
        if field.name in notes:
            meaning += f"<br>*When to change it:* {notes[field.name]}"
        sections.setdefault(section, []).append([name, field.type, field.default, meaning])
    parts = [RECIPE_INTRODUCTION]
    for section, rows in sorted(sections.items(), key=lambda pair: pair[0] == "general"):
        parts += [f"## {section}\n", table(["field", "type", "default", "meaning"], rows)]
    return "\n".join(parts)


# --- plug-ins and their settings


def plugins_in(package: str) -> Iterator[tuple[str, type]]:
    """The plug-ins of a folder: the file's name, and the class that the file defines."""
    contract = importlib.import_module(package)
    bases = tuple(
        value
        for value in vars(contract).values()
        if inspect.isclass(value) and value.__module__ == package and inspect.isabstract(value)
    )
    for module in pkgutil.iter_modules(contract.__path__):
        if module.name.startswith("_"):
            continue
        loaded = importlib.import_module(f"{package}.{module.name}")
        for value in vars(loaded).values():
            if (
                inspect.isclass(value)
                and value.__module__ == loaded.__name__
                and issubclass(value, bases)
                and not inspect.isabstract(value)
            ):
                yield module.name, value
                break


def first_sentence(plugin: type) -> str:
    """What a plug-in is: its summary, or the beginning of its module's docstring."""
    module = inspect.getmodule(plugin)
    text = inspect.cleandoc((module and module.__doc__) or plugin.__doc__ or "")
    return " ".join(text.split("\n\n")[0].split())


PLUGINS_INTRODUCTION = """# Plug-ins and their settings

Every plug-in is one file, and the file's name is what you type. This page lists them all, with the
settings of those that have some. It is generated from the code. How to add one of your own is
described under [Plug-ins](../how-to/plug-ins.md).
"""


def plugins_page() -> str:
    parts = [PLUGINS_INTRODUCTION]
    for title, package in PLUGIN_FOLDERS.items():
        parts.append(f"## {title}\n")
        section = SECTION_OF.get(title)
        if section:
            parts.append(
                f"Settings are set with `--set {section}.NAME=VALUE`. "
                f"The files lie in `{package}`.\n"
            )
        else:
            parts.append(f"The files lie in `{package}`.\n")
        for name, plugin in plugins_in(package):
            parts.append(f"### {name}\n\n{sentence(first_sentence(plugin))}\n")
            settings = getattr(plugin, "Settings", None)
            fields = list(fields_of(settings, "")) if settings else []
            if fields:
                rows = [
                    [f"`{each.name}`", each.type, each.default, sentence(each.description)]
                    for each in fields
                ]
                parts.append(table(["setting", "type", "default", "meaning"], rows))
    return "\n".join(parts)


# --- Markdown


def table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell(each) for each in line) + " |" for line in lines) + "\n"


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def escape(text: str) -> str:
    """Placeholders such as <name> and * are text, not markup."""
    return re.sub(r"([<>*])", r"\\\1", text)


def sentence(text: str) -> str:
    """A description as a sentence: a capital at the beginning, a full stop at the end."""
    text = escape(" ".join(text.split()))
    return text and text[0].upper() + text[1:] + ("" if text[-1] in ".:!?" else ".")


GENERATED: dict[str, Callable[[], str]] = {
    "reference/commands.md": commands_page,
    "reference/recipe.md": recipe_page,
    "reference/plugin-settings.md": plugins_page,
}


def on_files(files: Any, config: Any) -> Any:
    """The event of mkdocs at which pages may be added."""
    from mkdocs.structure.files import File

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name, page in GENERATED.items():
        files.append(File.generated(config, name, content=page()))
    return files
