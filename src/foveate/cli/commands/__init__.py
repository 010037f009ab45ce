"""What a user can type after `foveate`: a file a verb, whose name is the verb and whose first line is what --help says of it.

A file defines `made()`, its click command, and imports nothing heavy before the command runs.
"""

from __future__ import annotations

import ast
import importlib
from functools import cache
from pathlib import Path

import click

_FIRST = ("check", "pretrain", "fit", "continue", "evaluate", "predict", "explain")
_ORDER = (*_FIRST, "audit", "soup", "adapt", "episodes", "retrieve")
_AFTER = ("generate", "restyle", "convert", "runs", "models", "demo")


@cache
def verbs() -> dict[str, str]:
    """Every verb and its sentence, in the order of a story; nothing is imported."""
    files = {
        file.stem: file
        for file in Path(__file__).parent.glob("*.py")
        if not file.stem.startswith("_")
    }
    others = sorted(files.keys() - {*_ORDER, *_AFTER})
    names = [
        *(name for name in _ORDER if name in files),
        *others,
        *(name for name in _AFTER if name in files),
    ]
    return {
        name: ast.get_docstring(ast.parse(files[name].read_text(encoding="utf-8"))) or ""
        for name in names
    }


def command_of(verb: str) -> click.Command:
    """Its command, made when it is used: the options of `fit` come from the recipe, whose import takes time."""
    made: click.Command = importlib.import_module(f"foveate.cli.commands.{verb}").made()
    return made
