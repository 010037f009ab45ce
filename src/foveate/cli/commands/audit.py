"""Which labels to doubt, which images teach nothing new, what more labels would bring, which to label next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from foveate.cli.options import command, option, path_argument, shown
from foveate.utils import console


def made() -> click.Command:
    def run(run: Path, data: Path | None, as_json: bool, **words: Any) -> None:
        console.setup(json=as_json)
        from foveate.api.audit.core import audit

        shown(audit(run, data, **words), as_json)

    place = click.Path(path_type=Path)
    params: list[click.Parameter] = [
        path_argument("run"),
        path_argument("data", required=False),
        option(
            "--unlabelled",
            type=place,
            metavar="IMAGES",
            help="Pictures without labels: which are worth labelling?",
        ),
        option(
            "--more",
            default=200,
            type=click.IntRange(min=1),
            help="Labels that a forecast is asked for. Default: 200.",
        ),
        option("--out", type=place, help="The folder to make; default: RUN/audits/N."),
        option("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps."),
    ]
    return command(
        "audit", __doc__, run, params, "foveate audit runs/photos-probe-1 --unlabelled inbox"
    )
