"""Files of predictions: JSON lines, CSV, annotated images, COCO JSON, YOLO text, index masks, and
pre-annotations of annotation tools.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from foveate.errors import UsageError
from foveate.images.codec import read_image, read_size
from foveate.images.drawing import draw_prediction
from foveate.images.encoding import write_image
from foveate.inference.tool_writers import write_cvat, write_labelme, write_labelstudio
from foveate.messages import counted
from foveate.predictions import Boxes, ImageResult, Labels, Regions
from foveate.utils import console, log
from foveate.utils.csv_cells import protect_cell, protect_cells
from foveate.utils.files import atomic_write, require_free, write_text
from foveate.utils.rle import encode_rle, rle_area

_COLUMNS = [
    "path",
    "prediction",
    "confidence",
    "scores",
    "prediction_set",
    "abstain",
    "ood",
    "low",
    "high",
    "error",
]
_TOOLS = ("labelstudio", "cvat", "labelme")
_MAX_NAMED = 3  # unreadable images
_LINE_END = "\r\n"  # makes the csv module quote both characters where a file name has one
NamedResults = list[tuple[str, ImageResult]]
"""A path that is unique among the images, without extension and with slashes, and the result."""
Writer = Callable[[NamedResults, Path, tuple[str, ...]], None]


class CountedRows:
    """Counts rows, and those of unreadable images, as they pass.

    Attributes:
        rows: Number of rows.
        errors: Number of unreadable images.
        first_errors: Path of the first ones, and why they cannot be read.
    """

    def __init__(self, rows: Iterable[dict[str, Any]]) -> None:
        self.source, self.rows, self.errors = rows, 0, 0
        self.first_errors = list[tuple[str, str]]()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in self.source:
            self.rows += 1
            if "error" in row:
                self.errors += 1
                if len(self.first_errors) < _MAX_NAMED:
                    self.first_errors.append((str(row["path"]), str(row["error"])))
            yield row


def write_stream(
    results: Iterable[ImageResult], format: str, out: Path | None, given: Iterable[Path] = ()
) -> CountedRows:
    """Write results as they come, as JSON lines or CSV; or into a folder.

    Args:
        results: The results; they are read one at a time.
        format: "jsonl", "csv" or one of `FORMATS`.
        out: The file, written completely or not at all, or the folder; None = stdout.
        given: As of `write_folder`.

    Returns:
        The number of rows, and of unreadable images among them.

    Raises:
        UsageError: As `write_folder`; or the format needs a folder and `out` is None.
    """
    if format not in FORMATS:
        rows = CountedRows(result.row() for result in results)
        json_lines = (json.dumps(row, ensure_ascii=False) for row in rows)
        _write_lines(_csv_lines(rows) if format == "csv" else json_lines, out)
        if out is not None:
            kind = "CSV" if format == "csv" else "JSON lines"
            log.info(f"wrote {counted(rows.rows, 'row', 'rows')} to {out} as {kind}")
        return rows
    if out is None:
        raise UsageError(
            f"--format {format} needs --out, the folder to write",
            hint=f"--out FOLDER --format {format}",
        )
    rows = CountedRows(result.row() for result in write_folder(results, format, out, given))
    count = len(list(rows)) - rows.errors
    log.info(f"wrote {counted(count, 'prediction', 'predictions')} to {out}")
    return rows


def write_folder(
    results: Iterable[ImageResult], format: str, folder: Path, given: Iterable[Path] = ()
) -> list[ImageResult]:
    """Write results into a new folder, each at the path that its image has in its own folder.

    Unreadable images are left out. Images that would get the same name keep more of their path;
    names.csv then says which is which.

    Args:
        results: The results.
        format: One of `FORMATS`.
        folder: The folder.
        given: The folders that the images were found in.

    Returns:
        The results.

    Raises:
        UsageError: The folder exists and is not empty, or the format cannot store predictions of
            this type.
    """
    require_free(folder)
    all_results = list(results)
    predicted = [result for result in all_results if result.prediction is not None]
    types, write = FORMATS[format]
    if not _fits(predicted, types):
        fitting = [name for name, (types, _) in FORMATS.items() if _fits(predicted, types)]
        raise UsageError(
            f"the format {format!r} cannot store predictions of this type",
            where="--format",
            hint="--format " + "|".join(["jsonl", "csv", *fitting]),
        )
    if format in _TOOLS and any(result.content for result in predicted):
        raise UsageError(
            "annotation tools open image files, and these images are parts of other files",
            where="--format",
            hint="--format jsonl; or save them as images",
        )
    folder.mkdir(parents=True, exist_ok=True)
    named = _with_names(predicted, [path for path in given if path.is_dir()])
    write(named, folder, predicted[0].classes if predicted else ())
    _write_names(named, folder)
    return all_results


def _fits(results: list[ImageResult], types: tuple[type, ...]) -> bool:
    return all(isinstance(result.prediction, types) for result in results)


def _with_names(results: list[ImageResult], given: list[Path]) -> NamedResults:
    """Name each image by its path below the folder that was given, without the extension.

    Where two would be the same, all are named by their paths below the folder that contains them
    all; names that are the same even then keep their extension or get a number.
    """
    by_path = {result.path: result for result in results}  # an image given twice is written once
    names = {path: _below(Path(path), given) for path in by_path}
    if len(set(names.values())) < len(names):
        parents = [os.path.dirname(os.path.abspath(path)) for path in by_path]  # noqa: PTH100, PTH120
        common = [Path(os.path.commonpath(parents))]
        names = {path: _below(Path(os.path.abspath(path)), common) for path in by_path}  # noqa: PTH100
    counts = Counter(names.values())
    taken: set[str] = set()
    named = list[tuple[str, ImageResult]]()
    for path, result in by_path.items():
        name, number = names[path], 1
        if counts[name] > 1:
            name += Path(path).suffix
        unique = name
        while unique in taken:
            number += 1
            unique = f"{name}-{number}"
        taken.add(unique)
        named.append((unique, result))
    return named


def _below(path: Path, folders: list[Path]) -> str:
    """The path below the innermost of the folders, without extension; else the stem of its name."""
    inside = [folder for folder in folders if path.is_relative_to(folder)]
    relatives = (path.relative_to(folder) for folder in inside)
    relative = min(relatives, key=lambda each: len(each.parts), default=None)
    return _without_extension(relative or Path(path.name))


def _without_extension(path: Path) -> str:
    """A path without extension, with slashes; parts of files (scan.nii.gz#0012) keep all of it."""
    return (path if "#" in path.suffix else path.with_suffix("")).as_posix()


def _write_names(named: NamedResults, folder: Path) -> None:
    """Write names.csv if a name does not tell its image: name, path."""
    if all(_without_extension(Path(result.path)).endswith(name) for name, result in named):
        return
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["name", "path"])
    writer.writerows(protect_cells([name, result.path]) for name, result in named)
    write_text(folder / "names.csv", buffer.getvalue())


def _file(folder: Path, name: str, extension: str) -> Path:
    """The file of an image, in a folder that exists."""
    path = folder / f"{name}{extension}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


# --- lines


def _csv_lines(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield a header and a line for each row; nested values are JSON."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, _COLUMNS, lineterminator=_LINE_END)
    for row in chain([dict(zip(_COLUMNS, _COLUMNS, strict=True))], rows):
        buffer.seek(0)
        buffer.truncate()
        writer.writerow(
            {
                name: json.dumps(value) if isinstance(value, dict | list) else protect_cell(value)
                for name, value in row.items()
            }
        )
        yield buffer.getvalue().removesuffix(_LINE_END)


def _write_lines(lines: Iterable[str], out: Path | None) -> None:
    if out is None:
        console.lines(lines)
        return
    with atomic_write(out) as aside, aside.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


# --- folders


def _write_annotated_images(named: NamedResults, folder: Path, classes: tuple[str, ...]) -> None:
    for name, result in named:
        pixels, _ = read_image(result.source)
        drawn = draw_prediction(pixels, result.prediction, classes)
        write_image(drawn, _file(folder, name, ".jpg"))


def _write_masks(named: NamedResults, folder: Path, classes: tuple[str, ...]) -> None:
    """Write a PNG for each image, whose values are indices into classes.txt."""
    dtype = np.uint8 if len(classes) <= 256 else np.uint16
    for name, result in named:
        write_image(result.prediction.mask.astype(dtype), _file(folder, name, ".png"))
    _write_classes(folder, classes)


def _write_yolo(named: NamedResults, folder: Path, classes: tuple[str, ...]) -> None:
    """Write a text file for each image: class, center, width and height in [0, 1], score."""
    for name, result in named:
        height, width = read_size(result.source)
        boxes: Boxes = result.prediction
        lines = [
            f"{classes.index(label)} {(x0 + x1) / 2 / width:.6f} {(y0 + y1) / 2 / height:.6f} "
            f"{(x1 - x0) / width:.6f} {(y1 - y0) / height:.6f} {score:.6f}\n"
            for label, (x0, y0, x1, y1), score in zip(
                boxes.names, boxes.xyxy, _scores(boxes), strict=True
            )
        ]
        write_text(_file(folder, name, ".txt"), "".join(lines))
    _write_classes(folder, classes)


def _write_coco(named: NamedResults, folder: Path, classes: tuple[str, ...]) -> None:
    """Write predictions.json: images, categories, and annotations with scores.

    Masks are run lengths; regions become one annotation for each class.
    """
    images, annotations = [], list[dict[str, Any]]()
    for image_id, (_, result) in enumerate(named, start=1):
        height, width = read_size(result.source)
        images.append({"id": image_id, "file_name": result.path, "height": height, "width": width})
        to_rows = _box_rows if isinstance(result.prediction, Boxes) else _mask_rows
        annotations += [
            {"id": number, "image_id": image_id, **row}
            for number, row in enumerate(
                to_rows(result.prediction, classes), start=len(annotations) + 1
            )
        ]
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    content = {"images": images, "categories": categories, "annotations": annotations}
    write_text(folder / "predictions.json", json.dumps(content, ensure_ascii=False))


def _box_rows(boxes: Boxes, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    corners = boxes.xyxy.astype(float).tolist()
    masks = [
        {} if mask is None else {"segmentation": mask, "area": rle_area(mask)}
        for mask in boxes.masks or [None] * len(corners)
    ]
    return [
        {
            "category_id": classes.index(name) + 1,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": (x1 - x0) * (y1 - y0),
            "iscrowd": 0,
            "score": score,
            **mask,
        }
        for name, (x0, y0, x1, y1), score, mask in zip(
            boxes.names, corners, _scores(boxes), masks, strict=True
        )
    ]


def _mask_rows(regions: Regions, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    rows, mask = [], regions.mask
    for index in range(len(classes)):
        inside = mask == index
        if inside.any():
            y, x = inside.any(1).nonzero()[0], inside.any(0).nonzero()[0]
            rows.append(
                {
                    "category_id": index + 1,
                    "segmentation": encode_rle(inside),
                    "bbox": [int(x[0]), int(y[0]), int(x[-1] - x[0] + 1), int(y[-1] - y[0] + 1)],
                    "area": int(inside.sum()),
                    "iscrowd": 1,
                }
            )
    return rows


def _scores(boxes: Boxes) -> list[float]:
    return [1.0] * len(boxes.names) if boxes.scores is None else list(map(float, boxes.scores))


def _write_classes(folder: Path, classes: tuple[str, ...]) -> None:
    write_text(folder / "classes.txt", "".join(f"{name}\n" for name in classes))


FORMATS: dict[str, tuple[tuple[type, ...], Writer]] = {
    "images": ((Boxes, Regions), _write_annotated_images),
    "coco": ((Boxes, Regions), _write_coco),
    "yolo": ((Boxes,), _write_yolo),
    "masks": ((Regions,), _write_masks),
    "labelstudio": ((Labels, Boxes, Regions), write_labelstudio),
    "cvat": ((Labels, Boxes, Regions), write_cvat),
    "labelme": ((Labels, Boxes, Regions), write_labelme),
}
"""Name for --format -> the types of predictions that it can store, and the function to write it."""
