"""Answers for images: files, folders, or - for a list of paths on stdin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from foveate.cli.options import command, common, listed_paths, option, path_argument
from foveate.utils import console

FOLDERS = ["pictures", "coco", "yolo", "masks"]


def made() -> click.Command:
    def run(
        run: Path,
        images: tuple[Path, ...],
        format: str,
        out: Path | None,
        as_json: bool,
        **words: Any,
    ) -> None:
        console.setup(json=True)  # stdout belongs to the answers
        from foveate.api.predict import predict
        from foveate.inference.writers import write_stream

        counted = write_stream(predict(run, listed_paths(images), **words), format, out)
        if counted.errors:
            console.warn(f"{counted.errors} of {counted.rows} images could not be read")
        if as_json:
            console.final_json({"run": str(run), "images": counted.rows, "skipped": counted.errors})

    params: list[click.Parameter] = [
        path_argument("run"),
        path_argument("images", nargs=-1, required=True),
        option(
            "--format",
            type=click.Choice(["jsonl", "csv", *FOLDERS]),
            default="jsonl",
            help="JSON lines or CSV; or a folder of drawn pictures, COCO JSON, YOLO text or index masks.",
        ),
        option(
            "--out",
            type=click.Path(path_type=Path),
            help="A file for the answers instead of stdout; or the folder.",
        ),
        option(
            "--coverage",
            default=0.9,
            type=float,
            help="Chance that a set of classes holds the true one. Default: 0.9.",
        ),
        option(
            "--risk",
            default=0.1,
            type=float,
            help="Share of wrong answers above which to abstain. Default: 0.1.",
        ),
        option("--batch-size", default=32, type=click.IntRange(min=1), help="Images at once."),
        *common(),
    ]
    return command(
        "predict",
        __doc__,
        run,
        params,
        "foveate predict runs/photos-probe-1 new_photos --format csv",
    )
