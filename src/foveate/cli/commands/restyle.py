"""One picture in the manner of another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from foveate.cli.options import command, option, path_argument, shown
from foveate.utils import console


def made() -> click.Command:
    def run(content: Path, style: Path, as_json: bool, **words: Any) -> None:
        console.setup(json=as_json)
        from foveate.api.restyle.core import restyle

        shown(restyle(content, style, **words), as_json)

    params: list[click.Parameter] = [
        path_argument("content"),
        path_argument("style"),
        option(
            "--out",
            type=click.Path(path_type=Path),
            default=Path("restyled.png"),
            help="A PNG. Default: restyled.png.",
        ),
        option(
            "--backbone",
            default="tf_efficientnet_lite0",
            help="Whose features are compared. Default: tf_efficientnet_lite0.",
        ),
        option(
            "--weights",
            default="auto",
            help="Its weights: auto, hub, offline or a file. Default: auto.",
        ),
        option(
            "--size",
            default=256,
            type=click.IntRange(min=32),
            help="Long side of the picture, px. Default: 256.",
        ),
        option(
            "--steps",
            default=300,
            type=click.IntRange(min=1),
            help="Steps of the pixels. Default: 300.",
        ),
        option(
            "--weight",
            default=100.0,
            type=click.FloatRange(min=0),
            help="Of the style against the content. Default: 100.",
        ),
        option("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps."),
    ]
    return command(
        "restyle",
        __doc__,
        run,
        params,
        "foveate restyle photo.jpg painting.jpg --out photo-painted.png",
    )
