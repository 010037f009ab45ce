"""Scores a run on its held-out images, or on other DATA; writes a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from foveate.cli.options import command, common, option, path_argument, shown, typed
from foveate.reporting.i18n import languages
from foveate.utils import console

_SLICES = "A table with a column path and others, such as site or sex: the number on each part."
_SPLITS = ["auto", "train", "val", "test", "all"]


def made() -> click.Command:
    def run(run: Path, data: Path | None, as_json: bool, **words: Any) -> None:
        console.setup(json=as_json)
        from foveate.api.evaluate.core import evaluate

        shown(evaluate(run, data, command=typed(), **words), as_json)

    params: list[click.Parameter] = [
        path_argument("run"),
        path_argument("data", required=False),
        option(
            "--split",
            type=click.Choice(_SPLITS),
            default="auto",
            help="Which images; auto: test, else val, else all.",
        ),
        option(
            "--ood",
            type=click.Path(path_type=Path),
            metavar="DATA",
            help="Pictures of other things: are they told apart?",
        ),
        option(
            "--corrupt",
            is_flag=True,
            help="With noise, blur, fog and bad JPEG too, in five strengths.",
        ),
        option("--slices", type=click.Path(path_type=Path), metavar="TABLE", help=_SLICES),
        option(
            "--lang",
            type=click.Choice(languages()),
            help="Language of the report.  Default: as in the run.",
        ),
        option(
            "--shift",
            type=click.Path(path_type=Path),
            metavar="DATA",
            help="Images from elsewhere: what is lost there.",
        ),
        option("--format", default="auto", help="How the data lies on disk; auto looks."),
        *common(),
    ]
    return command(
        "evaluate", __doc__, run, params, "foveate evaluate runs/photos-probe-1 new_photos"
    )
