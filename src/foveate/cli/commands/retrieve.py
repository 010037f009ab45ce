"""Pictures find their sentences and sentences their pictures; or the pictures that are nearest to what you type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from foveate.cli.options import command, option, path_argument, recipe_options, shown
from foveate.utils import console


def made() -> click.Command:
    def run(
        data: Path,
        sentences: tuple[str, ...],
        run: Path | None,
        top: int,
        as_json: bool,
        **words: Any,
    ) -> None:
        console.setup(json=as_json)
        from foveate.api.retrieve import retrieve

        given = {word: value for word, value in words.items() if value is not None}
        shown(retrieve(data, run=run, sentences=sentences, top=top, words=given), as_json)

    params: list[click.Parameter] = [
        path_argument("data"),
        click.Argument(["sentences"], nargs=-1),
        option(
            "--run",
            type=click.Path(path_type=Path),
            metavar="RUN",
            help="Embed with this run's network.",
        ),
        option(
            "--top",
            default=5,
            type=click.IntRange(min=1),
            help="Pictures for each sentence that is typed. Default: 5.",
        ),
        option("--backbone", help="A model of pictures and sentences. Default: clip:ViT-B-32."),
        *recipe_options(("weights", "size", "format", "strict", "seed", "device")),
    ]
    return command(
        "retrieve",
        __doc__,
        run,
        params,
        "foveate retrieve photos 'a red car' --backbone clip:ViT-B-32",
    )
