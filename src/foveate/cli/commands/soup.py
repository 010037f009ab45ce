"""Averages the weights of finished runs: of one with its start, or of several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from foveate.cli.options import command, common, option, out_option, path_argument, shown, typed
from foveate.utils import console


def made() -> click.Command:
    def run(runs: tuple[Path, ...], as_json: bool, **words: Any) -> None:
        console.setup(json=as_json)
        from foveate.api.soup.core import soup

        shown(soup(runs, command=typed(), **words), as_json)

    params: list[click.Parameter] = [
        path_argument("runs", nargs=-1, required=True, metavar="RUN [RUN ...]"),
        out_option("NAME-soup-N"),
        option(
            "--shifted",
            type=click.Path(path_type=Path),
            metavar="DATA",
            help="Data to score averages on; chooses nothing.",
        ),
        option(
            "--steps",
            default=10,
            type=click.IntRange(min=1),
            help="From the start of a single run to its end. Default: 10.",
        ),
        option("--format", default="auto", help="How the shifted data lies on disk; auto looks."),
        *common(),
    ]
    return command(
        "soup", __doc__, run, params, "foveate soup runs/photos-full-1 --shifted other_camera"
    )
