"""A table of boxes (.csv, .tsv, .jsonl, .ndjson, .parquet), a row a box: path, label, x0, y0, x1, y1, split, group, crowd.

Corners are pixels of the upright picture; the last three columns may be left out. A row with neither label nor corners says
that its image has no objects. A file classes.txt beside the table orders the classes, a name a line. DATA is the table, or a
folder that holds one called boxes.csv.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from foveate.data.boxes import Raw, class_name
from foveate.data.formats import Format
from foveate.data.formats._boxed import Gathering, classes_beside, copied, write_classes
from foveate.data.issues import skip_and_record
from foveate.data.records import (
    ALIASES,
    CORNERS,
    Record,
    has_boxes,
    is_table,
    place_of,
    records,
    row_of,
    split_of,
    word_of,
)
from foveate.errors import DataError
from foveate.types import Split, Table
from foveate.utils.paths import printable

_ALIASES = {**ALIASES, **CORNERS, "crowd": ("crowd", "iscrowd", "difficult")}
_REQUIRED = ("path", "label", *CORNERS)
_TABLE = "boxes.csv"
_YES, _NO = ("1", "true", "yes"), ("", "0", "false", "no")


class BoxesTable(Format):
    summary: ClassVar[str] = "a table of boxes"

    def sniff(self, path: Path) -> bool:
        path = _table_at(path)
        return is_table(path) and has_boxes(path)

    def read(self, path: Path) -> Table:
        """The table at `path`; of its images only the heads are read. Raises DataError, with the line where there is one."""
        path = _table_at(path)
        images = _images(
            records(path, _ALIASES, ("path",) if is_table(path) and has_boxes(path) else _REQUIRED),
            path,
        )
        if not images:
            raise DataError("this table has no rows", where=printable(path))
        gathering = Gathering(path.parent)
        for image in images:
            gathering.take(image.path, image.raw, image.split, image.group)
        used = [name for image in images for name in image.raw.names]
        if used and all(
            abs(number) <= 1 for image in images for corners in image.raw.xyxy for number in corners
        ):
            gathering.notes.append(
                "all corners lie between 0 and 1: should they be fractions of width and height, write pixels"
            )
        return gathering.table(classes_beside(path.parent, used, gathering.notes), "boxes_table")

    def write(self, table: Table, folder: Path) -> tuple[str, ...]:
        """boxes.csv, classes.txt and images/."""
        notes: list[str] = []
        with (folder / _TABLE).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "label", *CORNERS, "split", "group", "crowd"])
            for image in copied(table, folder / "images", notes):
                ends = [image.sample.split or "", image.sample.group or ""]
                for corners, name, crowd in image.rows():
                    writer.writerow([f"images/{image.place}", name, *corners, *ends, int(crowd)])
                if not image.boxes.names:
                    writer.writerow([f"images/{image.place}", "", "", "", "", "", *ends, ""])
        write_classes(table, folder)
        return tuple(notes)


def _table_at(path: Path) -> Path:
    return path / _TABLE if path.is_dir() else path


@dataclass
class _Image:
    """The rows of one image; `number` is the first."""

    number: int
    path: Path
    split: Split | None
    group: str | None
    raw: Raw = field(default_factory=Raw)


def _images(rows: Iterable[Record], table: Path) -> list[_Image]:
    images: dict[str, _Image] = {}
    for number, cells in rows:
        with skip_and_record():
            _take(number, cells, table, images)
    return list(images.values())


def _take(number: int, cells: dict[str, Any], table: Path, images: dict[str, _Image]) -> None:
    """Adds a row to the image that it names."""
    path, key = place_of(cells["path"], table, number)
    where = row_of(table, number)
    row = _Image(
        number, path, split_of(cells.get("split"), where), word_of(cells.get("group")) or None
    )
    image = images.setdefault(key, row)
    with skip_and_record():
        _refuse_contradiction(image, row, key, table)
    name = class_name(word_of(cells.get("label")))
    corners = [cells.get(corner) for corner in CORNERS]
    if name or any(word_of(corner) for corner in corners):
        box = _numbers(corners, where)
        if not name:
            hint = "a row without label and corners is an image without objects"
            raise DataError("this box has no label", where=where, hint=hint)
        image.raw.add(box, name, _flag(cells.get("crowd"), where))


def _refuse_contradiction(image: _Image, row: _Image, key: str, table: Path) -> None:
    for name in ("split", "group"):
        one, other = getattr(image, name), getattr(row, name)
        if one != other:
            where = f"{printable(table)}, rows {image.number} and {row.number}"
            raise DataError(
                f"two rows contradict each other on the {name} of {key!r}",
                where=where,
                why=f"{one!r} and {other!r}",
            )


def _numbers(cells: list[Any], where: str) -> tuple[float, float, float, float]:
    try:
        x0, y0, x1, y1 = (float(cell) for cell in cells)
    except (TypeError, ValueError, OverflowError):
        why = "x0, y0, x1, y1 are " + ", ".join(repr(str(cell))[:40] for cell in cells)
        raise DataError(
            "the corners of this box are not four numbers", where=where, why=why
        ) from None
    return x0, y0, x1, y1


def _flag(cell: object, where: str) -> bool:
    word = word_of(cell).casefold()
    if word not in (*_YES, *_NO):
        raise DataError(f"crowd is yes or no, not {word!r}", where=where, hint="1 or 0")
    return word in _YES
