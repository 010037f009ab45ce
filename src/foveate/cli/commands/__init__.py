"""The commands: one file each, whose name is that of the command.

A file defines `COMMAND`, and imports nothing heavy.
"""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path

from foveate.cli.command import Command

_ORDER = (
    "check",
    "pretrain",
    "fit",
    "continue",
    "evaluate",
    "predict",
    "explain",
    "audit",
    "soup",
    "adapt",
    "episodes",
    "retrieve",
    "export",
    "serve",
    "generate",
    "restyle",
    "convert",
    "runs",
    "models",
    "cache",
    "demo",
)


@cache
def command_names() -> list[str]:
    """Return the names of all commands, in the order of a workflow."""
    names = {
        file.stem for file in Path(__file__).parent.glob("*.py") if not file.stem.startswith("_")
    }
    return [*(name for name in _ORDER if name in names), *sorted(names - {*_ORDER})]


def get_command(name: str) -> Command:
    """Return the command of this name."""
    command: Command = importlib.import_module(f"foveate.cli.commands.{name}").COMMAND
    return command
