"""The backbones that can be adapted; WORDS pick some, --race DATA compares some on your images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from foveate.cli.options import command, common, option, shown
from foveate.utils import console


def made() -> click.Command:
    def run(words: tuple[str, ...], race: Path | None, as_json: bool, **options: Any) -> None:
        console.setup(json=as_json)
        from foveate.api.models import core
        from foveate.api.models import race as comparison

        shown(
            core.models(*words) if race is None else comparison.race(race, *words, **options),
            as_json,
        )

    told = "Rank backbones by a linear classifier and nearest neighbours on their features of these images, test images aside."
    params: list[click.Parameter] = [
        click.Argument(["words"], nargs=-1),
        option(
            "--race",
            type=click.Path(path_type=Path),
            metavar="DATA",
            help=f"{told} A word may name weights: resnet18:none.",
        ),
        option(
            "--images",
            default=400,
            type=click.IntRange(min=0),
            help="Of a race: images drawn from DATA; 0 takes all.",
        ),
        option(
            "--size",
            type=click.IntRange(min=16),
            help="Of a race: side of the square that all see, px; default: their own.",
        ),
        option(
            "--seed",
            default=0,
            type=click.IntRange(min=0),
            help="Of a race: seed of the drawing, folds and random weights.",
        ),
        option("--format", default="auto", help="Of a race: how DATA lies on disk; auto looks."),
        *common(),
    ]
    return command(
        "models",
        __doc__,
        run,
        params,
        "foveate models --race photos tf_efficientnet_lite0 resnet18",
    )
