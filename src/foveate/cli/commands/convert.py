"""The same images and boxes in another format, in a new folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from foveate.cli.options import command, option, path_argument, shown
from foveate.utils import console


def made() -> click.Command:
    def run(data: Path, as_json: bool, **words: Any) -> None:
        console.setup(json=as_json)
        from foveate.api.convert import convert

        shown(convert(data, **words), as_json)

    params: list[click.Parameter] = [
        path_argument("data"),
        option("--to", required=True, metavar="FORMAT", help="coco, yolo, voc or boxes_table."),
        option(
            "--out",
            required=True,
            type=click.Path(path_type=Path),
            help="The new folder; images are copied into it.",
        ),
        option("--format", default="auto", help="How DATA lies on disk; auto looks."),
    ]
    return command(
        "convert", __doc__, run, params, "foveate convert bccd --to coco --out bccd_coco"
    )
