"""foveate predict: the results are written as they come."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from foveate.api.predict import predict
from foveate.cli.command import Command
from foveate.cli.parameters import PATH, Option
from foveate.errors import DataError, UsageError
from foveate.utils import console, log

FOLDERS = ["images", "coco", "yolo", "masks", "labelstudio", "cvat", "labelme"]


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
    from foveate.utils.files import require_free, require_writable

    if as_json and out is None:
        what = "--json prints one object on stdout, so that the predictions need a file"
        raise UsageError(what, hint="--out FOLDER" if format in FOLDERS else "--out FILE")
    if out is not None:
        (require_free if format in FOLDERS else require_writable)(out)
        if format not in FOLDERS and out.is_dir():
            what = f"--format {format} writes a file, and there is a folder at this path"
            hint = shlex.join(["--out", str(out / f"predictions.{format}")])
            raise UsageError(what, where=out, hint=hint)
    from foveate.api.predict.core import open_predictor
    from foveate.inference.writers import write_stream

    predictor, samples = open_predictor(run, images, coverage, risk, device)
    results = predictor.predict(samples, strict=strict, batch_size=batch_size)
    counted = write_stream(results, format, out, images)
    if counted.errors == counted.rows > 0:
        what = "no image could be read" if counted.rows > 1 else "the image could not be read"
        raise DataError(what, where=samples[0].key, why=counted.first_errors[0][1])
    if counted.errors:
        named = "; ".join(f"{path} ({reason})" for path, reason in counted.first_errors)
        more = "; ..." if counted.errors > len(counted.first_errors) else ""
        log.warning(f"{counted.errors} of {counted.rows} images could not be read: {named}{more}")
    if as_json:
        numbers: dict[str, Any] = {"images": counted.rows, "skipped": counted.errors}
        console.final_json({"run": str(run), **numbers, "out": str(out)})


COMMAND = Command(
    predict,
    "foveate predict runs/photos-probe-1 new_photos --format csv",
    types={"batch_size": click.IntRange(min=1)},
    extra=(
        Option(
            ["--format"],
            type=click.Choice(["jsonl", "csv", *FOLDERS]),
            default="jsonl",
            help="Format: JSON lines or CSV; or a folder of annotated images, COCO JSON, YOLO text "
            "files, index masks, or pre-annotations for Label Studio, CVAT or LabelMe. "
            "Default: jsonl.",
        ),
        Option(
            ["--out"],
            type=PATH,
            help="File, or folder for the folder formats, to write. Default: stdout.",
        ),
    ),
    run=_write_predictions,
)
