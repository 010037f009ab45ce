"""Pictures of a network's own making, by a run of the task generate or a pretrained painter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from foveate.cli.options import command, option, shown
from foveate.utils import console


def made() -> click.Command:
    def run(
        run: str,
        sentences: tuple[str, ...],
        out: Path | None,
        device: str,
        as_json: bool,
        **words: Any,
    ) -> None:
        console.setup(json=as_json)
        from foveate.api.generate.core import Wish, generate

        shown(generate(run, Wish(sentences, **words), out, device), as_json)

    file = click.Path(path_type=Path)
    params: list[click.Parameter] = [
        click.Argument(["run"]),
        click.Argument(["sentences"], nargs=-1),
        option(
            "--count",
            default=1,
            type=click.IntRange(min=1),
            help="Pictures of each class or sentence. Default: 1.",
        ),
        option(
            "--seed",
            default=0,
            type=click.IntRange(min=0),
            help="Of the first picture; the others have the next. Default: 0.",
        ),
        option(
            "--steps",
            type=click.IntRange(min=1),
            help="Steps from noise to picture. Default: as the run says.",
        ),
        option(
            "--guidance",
            type=click.FloatRange(min=0),
            help="How far to go towards the sentence; 1 = as learnt.",
        ),
        option(
            "--picture",
            type=file,
            metavar="FILE",
            help="Begin from this picture instead of noise alone.",
        ),
        option(
            "--mask",
            type=file,
            metavar="FILE",
            help="Paint its white part alone; every other pixel stays.",
        ),
        option(
            "--strength",
            type=float,
            help="How much of the picture is lost first, up to 1. Default: 0.5, masked 1.",
        ),
        option(
            "--against",
            type=file,
            metavar="FOLDER",
            help="Real pictures to compare with: KID and FID.",
        ),
        option(
            "--features",
            default="tf_efficientnet_lite0",
            help="Backbone that compares. Default: tf_efficientnet_lite0.",
        ),
        option("--out", type=file, help="The folder to make; default: RUN/pictures/N."),
        option("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps."),
    ]
    return command(
        "generate", __doc__, run, params, "foveate generate runs/digits-full-1 3 7 --count 8"
    )
