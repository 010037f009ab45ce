"""foveate predict: the results are written as they come."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from foveate.api.predict import predict
from foveate.cli.command import Command
from foveate.utils import console, log

FOLDERS = ["images", "coco", "yolo", "masks"]


def _write_predictions(
    run: Path,
    images: Sequence[Path],
    coverage: float,
    risk: float,
    batch_size: int,
    device: str,
    strict: bool,
    format: str,
    out: Path | None,
    as_json: bool,
) -> None:
    console.setup(json=True)  # stdout belongs to the predictions
    from foveate.api.predict.core import open_predictor
    from foveate.inference.writers import write_stream

    predictor, paths = open_predictor(run, images, coverage, risk, device)
    results = predictor.predict(paths, strict=strict, batch_size=batch_size)
    counted = write_stream(results, format, out)
    if counted.errors:
        log.warning(f"{counted.errors} of {counted.rows} images could not be read")
    if as_json:
        numbers: dict[str, Any] = {"images": counted.rows, "skipped": counted.errors}
        console.final_json({"run": str(run), **numbers})


COMMAND = Command(
    predict,
    "foveate predict runs/photos-probe-1 new_photos --format csv",
    types={"batch_size": click.IntRange(min=1)},
    extra=(
        click.Option(
            ["--format"],
            type=click.Choice(["jsonl", "csv", *FOLDERS]),
            default="jsonl",
            help="Format: JSON lines or CSV; or a folder of annotated images, COCO JSON, YOLO text "
            "files or index masks. Default: jsonl.",
        ),
        click.Option(
            ["--out"],
            type=click.Path(path_type=Path),
            help="File, or folder for the folder formats, to write. Default: stdout.",
        ),
    ),
    run=_write_predictions,
)
