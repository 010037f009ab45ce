"""A file for another runtime, which answers as the run does, measured, or is not kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from foveate.cli.options import command, listed, option, path_argument, shown
from foveate.utils import console


def made() -> click.Command:
    def run(run: Path, as_json: bool, **words: Any) -> None:
        console.setup(json=as_json)
        from foveate.api.export.core import export

        shown(export(run, **words), as_json)

    params: list[click.Parameter] = [
        path_argument("run"),
        option(
            "--to",
            default="onnx",
            help=f"A runtime, or weights alone{listed('runtime')}. Default: onnx.",
        ),
        option(
            "--int8",
            is_flag=True,
            help="A second file with 8 bits, kept where it loses less than --max-drop.",
        ),
        option(
            "--alone",
            is_flag=True,
            help="With --to torch: what training changed, such as an adapter, without the network.",
        ),
        option(
            "--max-drop",
            default=0.01,
            type=click.FloatRange(0, 1),
            help="What it may lose of the main number. Default: 0.01.",
        ),
        option("--out", type=click.Path(path_type=Path), help="The folder; default: RUN/export."),
    ]
    return command("export", __doc__, run, params, "foveate export runs/photos-probe-1 --int8")
