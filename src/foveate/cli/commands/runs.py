"""A table of what was tried, the best first."""

from __future__ import annotations

from pathlib import Path

import click

from foveate.cli.options import command, path_argument, shown
from foveate.utils import console


def made() -> click.Command:
    def run(folder: Path, as_json: bool) -> None:
        console.setup(json=as_json)
        from foveate.api.runs import runs

        shown(runs(folder), as_json)

    return command(
        "runs", __doc__, run, [path_argument("folder", default=Path("runs"))], "foveate runs"
    )
