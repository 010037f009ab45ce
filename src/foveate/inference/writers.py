"""Answers as files that people and other programs read: JSON lines, CSV, pictures, COCO JSON, YOLO text, index masks."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from foveate.errors import UsageError
from foveate.images import codec as images
from foveate.images.drawing import draw_prediction
from foveate.predictions import Boxes, ImageResult, Regions
from foveate.utils import console, log
from foveate.utils.files import refuse_taken, write_text, written_aside
from foveate.utils.rle import area, encoded

_COLUMNS = ["path", "answer", "confidence", "scores", "set", "abstain", "ood", "error"]
Named = list[tuple[str, ImageResult]]
"""(a name that no other picture has, the answer)"""


class Counted:
    """Passes rows on and counts them."""

    def __init__(self, rows: Iterable[dict[str, Any]]) -> None:
        self.source, self.rows, self.errors = rows, 0, 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in self.source:
            self.rows += 1
            self.errors += "error" in row
            yield row


def write_stream(answers: Iterable[ImageResult], form: str, out: Path | None) -> Counted:
    """Writes answers as JSON lines or CSV to stdout as they come, or to the file `out` complete or not at all; in one of FORMS into
    the folder `out`. Raises UsageError as `save` does, and when a folder has no name."""
    if form not in FORMS:
        counted = Counted(answer.row() for answer in answers)
        _write_lines(
            _csv(counted)
            if form == "csv"
            else (json.dumps(row, ensure_ascii=False) for row in counted),
            out,
        )
        return counted
    if out is None:
        raise UsageError(f"--format {form} writes a folder", hint=f"--out FOLDER --format {form}")
    counted = Counted(answer.row() for answer in write_folder(answers, form, out))
    log.info(f"{len(list(counted)) - counted.errors} answers in {out}")
    return counted


_END = "\r\n"  # of a line: what holds one of the two letters, a file's name, is put in quotes


def _csv(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """A header, then a line a row; what is nested is JSON."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, _COLUMNS, lineterminator=_END)
    for row in chain([dict(zip(_COLUMNS, _COLUMNS, strict=True))], rows):
        buffer.seek(0)
        buffer.truncate()
        writer.writerow(
            {
                name: json.dumps(value) if isinstance(value, dict | list) else value
                for name, value in row.items()
            }
        )
        yield buffer.getvalue().removesuffix(_END)


def _write_lines(lines: Iterable[str], out: Path | None) -> None:
    if out is None:
        console.lines(lines)
        return
    with written_aside(out) as aside, aside.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


def write_folder(answers: Iterable[ImageResult], form: str, folder: Path) -> list[ImageResult]:
    """Writes the answers into a new folder, in one of FORMS; gives them back. Pictures that could not be read are left out.

    Raises UsageError when the folder is taken, or when the answers are of a kind that this form does not hold.
    """
    refuse_taken(folder)
    found = list(answers)
    whole = [answer for answer in found if answer.prediction is not None]
    holds, write = FORMS[form]
    if any(not isinstance(answer.prediction, holds) for answer in whole):
        hint = "--format " + "|".join(
            ["jsonl", "csv", *(name for name, (kinds, _) in FORMS.items() if _fits(whole, kinds))]
        )
        raise UsageError(f"{form} cannot hold answers of this kind", where="--format", hint=hint)
    folder.mkdir(parents=True, exist_ok=True)
    write(_named(whole), folder, whole[0].classes if whole else ())
    return found


def _fits(answers: list[ImageResult], kinds: tuple[type, ...]) -> bool:
    return all(isinstance(answer.prediction, kinds) for answer in answers)


def _named(answers: list[ImageResult]) -> Named:
    """Each picture's own stem, with a number where two have the same."""
    taken: set[str] = set()
    found = []
    for answer in answers:
        stem, number = Path(answer.path).stem, 1
        name = stem
        while name in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name)
        found.append((name, answer))
    return found


def _pictures(named: Named, folder: Path, classes: tuple[str, ...]) -> None:
    for name, answer in named:
        images.write_image(
            draw_prediction(images.read_image(Path(answer.path))[0], answer.prediction, classes),
            folder / f"{name}.jpg",
        )


def _masks(named: Named, folder: Path, classes: tuple[str, ...]) -> None:
    """A PNG a picture, whose values are places in classes.txt."""
    kind = np.uint8 if len(classes) <= 256 else np.uint16
    for name, answer in named:
        images.write_image(answer.prediction.mask.astype(kind), folder / f"{name}.png")
    _write_classes(folder, classes)


def _yolo(named: Named, folder: Path, classes: tuple[str, ...]) -> None:
    """A text file a picture: class, middle, width and height as shares of the picture's, score."""
    for name, answer in named:
        height, width = images.read_size(Path(answer.path))
        boxes: Boxes = answer.prediction
        lines = [
            f"{classes.index(word)} {(x0 + x1) / 2 / width:.6f} {(y0 + y1) / 2 / height:.6f} {(x1 - x0) / width:.6f} "
            f"{(y1 - y0) / height:.6f} {score:.6f}\n"
            for word, (x0, y0, x1, y1), score in zip(
                boxes.names, boxes.xyxy, _scores(boxes), strict=True
            )
        ]
        write_text(folder / f"{name}.txt", "".join(lines))
    _write_classes(folder, classes)


def _coco(named: Named, folder: Path, classes: tuple[str, ...]) -> None:
    """predictions.json: images, categories and annotations with scores; masks as run lengths, those of regions a class each."""
    pictures, found = [], list[dict[str, Any]]()
    for number, (_, answer) in enumerate(named, start=1):
        height, width = images.read_size(Path(answer.path))
        pictures.append({"id": number, "file_name": answer.path, "height": height, "width": width})
        rows = (_box_rows if isinstance(answer.prediction, Boxes) else _mask_rows)(
            answer.prediction, classes
        )
        found += [
            {"id": len(found) + place, "image_id": number, **row}
            for place, row in enumerate(rows, start=1)
        ]
    categories = [{"id": place, "name": name} for place, name in enumerate(classes, start=1)]
    content = {"images": pictures, "categories": categories, "annotations": found}
    write_text(folder / "predictions.json", json.dumps(content, ensure_ascii=False))


def _box_rows(boxes: Boxes, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    corners = boxes.xyxy.astype(float).tolist()
    masks = [
        {} if mask is None else {"segmentation": mask, "area": area(mask)}
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
    rows = []
    for place in range(len(classes)):
        inside = regions.mask == place
        if inside.any():
            y, x = inside.any(1).nonzero()[0], inside.any(0).nonzero()[0]
            box = [int(x[0]), int(y[0]), int(x[-1] - x[0] + 1), int(y[-1] - y[0] + 1)]
            row = {
                "category_id": place + 1,
                "segmentation": encoded(inside),
                "bbox": box,
                "area": int(inside.sum()),
                "iscrowd": 1,
            }
            rows.append(row)
    return rows


def _write_classes(folder: Path, classes: tuple[str, ...]) -> None:
    write_text(folder / "classes.txt", "".join(f"{name}\n" for name in classes))


def _scores(boxes: Boxes) -> list[float]:
    return [1.0] * len(boxes.names) if boxes.scores is None else list(map(float, boxes.scores))


FORMS: dict[str, tuple[tuple[type, ...], Callable[[Named, Path, tuple[str, ...]], None]]] = {
    "pictures": ((Boxes, Regions), _pictures),
    "coco": ((Boxes, Regions), _coco),
    "yolo": ((Boxes,), _yolo),
    "masks": ((Regions,), _masks),
}
"""The word of --format -> the kinds of answers that it holds, and what writes it"""
