"""A run adapted to images from elsewhere, without a label of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from foveate.cli.options import (
    assigned,
    command,
    common,
    listed,
    listed_paths,
    option,
    out_option,
    path_argument,
    set_option,
    shown,
    typed,
)
from foveate.utils import console


def made() -> click.Command:
    def run(run: Path, images: tuple[Path, ...], as_json: bool, **words: Any) -> None:
        console.setup(json=as_json)
        from foveate.api.adapt import adapt

        settings = assigned(words.pop("set_"))
        shown(
            adapt(run, listed_paths(images), settings=settings, command=typed(), **words), as_json
        )

    params: list[click.Parameter] = [
        path_argument("run"),
        path_argument("images", nargs=-1, required=True),
        out_option("NAME-HOW-N"),
        option("--how", default="adabn", help=f"How{listed('how')}. Default: adabn."),
        set_option("A setting of the adaptation: --set prior=64."),
        *common(),
    ]
    return command("adapt", __doc__, run, params, "foveate adapt runs/photos-full-1 other_camera")
