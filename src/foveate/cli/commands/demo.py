"""The whole story on data and weights that come with the install."""

from __future__ import annotations

from pathlib import Path

import click

from foveate.cli.options import command, option, shown
from foveate.utils import console


def made() -> click.Command:
    def run(out: Path | None, as_json: bool) -> None:
        console.setup(json=as_json)
        from foveate.api.demo import demo

        shown(demo(out), as_json)

    out = option(
        "--out", type=click.Path(path_type=Path), help="A new folder; default: foveate-demo."
    )
    return command("demo", __doc__, run, [out], "foveate demo")
