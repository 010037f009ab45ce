"""A table of boxes (.csv, .tsv, .jsonl, .ndjson, .parquet), one row per box.

Columns: path, label, x0, y0, x1, y1 and optionally split, group and crowd; or path and `objects`, a
list for each image as Hugging Face has it (`_object_lists`). Corners are pixels of the upright
image. A row with neither label nor corners states that its image has no objects. A file
classes.txt beside the table gives the order of the classes, one per line. DATA is the table, or a
folder that contains one, such as boxes.csv, or one in each split folder (Roboflow's
train/_annotations.csv).
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from foveate.data.boxes import RawBoxes, class_name
from foveate.data.discovery import is_image, list_folder
from foveate.data.formats import Format, Reading
from foveate.data.formats._box_table import BoxTableBuilder, order_classes
from foveate.data.formats._image_export import copy_images, write_classes
from foveate.data.formats._label_names import name_numbers, renamed
from foveate.data.formats._object_lists import parse_objects
from foveate.data.formats._table_files import find_tables, fit_of_tables
from foveate.data.image_rows import ImageFinder, ImageRow
from foveate.data.issues import quoted, skip_and_record
from foveate.data.record_files import Record, row_location
from foveate.data.records import (
    ALIASES,
    CORNERS,
    OBJECTS,
    cell_text,
    has_boxes,
    is_table,
    parse_numbers,
    read_records,
)
from foveate.errors import DataError
from foveate.predictions import Boxes
from foveate.types import Issue, Table, remark
from foveate.utils.csv_cells import protect_cells
from foveate.utils.paths import printable

_ALIASES = {**ALIASES, **CORNERS, "crowd": ("crowd", "iscrowd", "difficult"), OBJECTS: (OBJECTS,)}
_REQUIRED = ("path", "label", *CORNERS)
_TABLE = "boxes.csv"
_YES, _NO = ("1", "true", "yes"), ("", "0", "false", "no")


class BoxesTable(Format):
    """A table with one row per box."""

    summary: ClassVar[str] = "a table of boxes"
    target: ClassVar[type | None] = Boxes
    writes: ClassVar[tuple[type, ...]] = (Boxes,)

    def sniff(self, path: Path) -> Reading | None:
        """A table with a path, a label and four corners."""
        try:
            tables = find_tables(path, _has_boxes)
        except DataError:
            return None
        return Reading(fit_of_tables(path, tables)) if tables else None

    def read(self, path: Path) -> Table:
        """Read the table; of its images only the headers.

        Raises:
            DataError: It cannot be read, a row is faulty, or there is no valid box.
        """
        tables = find_tables(path, _has_boxes) if path.is_dir() else [(path, None)]
        if not tables:
            raise DataError(
                "the folder has no table of boxes",
                where=printable(path),
                hint="give the table itself; it needs the columns " + ", ".join(_REQUIRED),
                id="no_box_table_in_folder",
            )
        root = path if path.is_dir() else path.parent
        builder, images = BoxTableBuilder(root), list[_Image]()
        for table, split in tables:
            # lines of JSON may each have other columns: a row without objects has only a path
            required = ("path",) if _has_boxes(table) else _REQUIRED
            finder = ImageFinder(table, root)
            own = _group_by_image(read_records(table, _ALIASES, required), finder)
            builder.notes += finder.notes()
            images += [replace(image, split=image.split or split) for image in own]
        if not images:
            raise DataError("the table has no rows", where=printable(path), id="empty_table")
        stated = [name for image in images for name in image.raw.names]
        names = name_numbers(stated, [root, *(table.parent for table, _ in tables)], builder.notes)
        sizes = []
        for image in images:
            image.raw.names[:] = [renamed(name, names) for name in image.raw.names]
            row = image.path, image.raw, image.split, image.group
            sizes.append(builder.add_image(*row, key=image.key))
        _require_widths(images, sizes, path)
        used = [name for image in images for name in image.raw.names]
        coordinates = (x for image in images for corners in image.raw.xyxy for x in corners)
        if used and all(abs(x) <= 1 for x in coordinates):
            text = (
                "all corners are between 0 and 1; if they are fractions of width and height,"
                " convert them to pixels"
            )
            builder.notes.append(remark("corners_below_one", text))
        if path.is_dir():
            builder.notes += _without_row(images)
        return builder.build(order_classes(root, used, builder.notes), "boxes_table")

    def write(self, table: Table, folder: Path) -> tuple[Issue, ...]:
        """Write boxes.csv, classes.txt and images/."""
        notes: list[Issue] = []
        with (folder / _TABLE).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "label", *CORNERS, "split", "group", "crowd"])
            for image in copy_images(table, folder / "images", notes):
                path, last = f"images/{image.path}", [image.sample.split, image.sample.group]
                for corners, name, crowd in image.objects():
                    row = [path, name, *corners, *last, int(crowd)]
                    writer.writerow(protect_cells(row))
                if not image.boxes.names:
                    writer.writerow(protect_cells([path, "", "", "", "", "", *last, ""]))
        write_classes(table, folder)
        return tuple(notes)


def _without_row(images: Iterable[_Image]) -> Iterator[Issue]:
    """Yield a note on images that lie beside those of the table and have no row."""
    listed = {image.path for image in images if isinstance(image.path, Path)}
    folders = dict.fromkeys(path.parent for path in listed)
    beside = (path for folder in folders for path in list_folder(folder) if is_image(path))
    left = [path.name for path in beside if path not in listed]
    if left:
        text = (
            "{count:image|images} beside those of the table without a row, left out: {names}; a row"
            " with neither label nor corners states that an image has no objects"
        )
        yield remark("images_without_row", text, count=len(left), names=quoted(left))


def _has_boxes(path: Path) -> bool:
    return is_table(path) and has_boxes(path)


@dataclass(frozen=True)
class _Image(ImageRow):
    """An image: its first row, and the objects of all its rows.

    `in_list`: they are in a list, with x, y, width and height.
    """

    raw: RawBoxes = field(default_factory=RawBoxes)
    in_list: bool = False


def _group_by_image(records: Iterable[Record], finder: ImageFinder) -> list[_Image]:
    images: dict[str, _Image] = {}
    for record in records:
        with skip_and_record():
            _add_row(record, finder, images)
    return list(images.values())


def _add_row(record: Record, finder: ImageFinder, images: dict[str, _Image]) -> None:
    """Add the object of a row to the image that the row names."""
    where, cells = row_location(finder.table, record.number), record.cells
    row = _Image(*finder.fields(record), in_list=OBJECTS in cells)
    image = images.setdefault(row.key, row)
    with skip_and_record():
        _require_agreement(image, row, finder.table)
    if OBJECTS in cells:
        for box, name in parse_objects(cells[OBJECTS], where):
            image.raw.add(box, name)
        return
    name = class_name(cell_text(cells.get("label")))
    corners = [cells.get(corner) for corner in CORNERS]
    if name or any(cell_text(corner) for corner in corners):
        box = _parse_corners(corners, finder.table, where)
        if not name:
            raise DataError(
                "the box has no label",
                where=where,
                hint="fill in the label; for an image without objects leave the corners empty too",
                id="box_without_label",
            )
        image.raw.add(box, name, _parse_flag(cells.get("crowd"), where))


def _require_widths(images: list[_Image], sizes: list[tuple[int, int] | None], path: Path) -> None:
    """Refuse objects that are written with corners, where x, y, width, height are expected."""
    beyond, total = 0, 0
    for image, size in zip(images, sizes, strict=True):
        if size is None or not image.in_list:
            continue
        for x, y, right, bottom in image.raw.xyxy:
            width, height = right - x, bottom - y
            if not (x < width <= size[1] + 1 and y < height <= size[0] + 1):
                return  # no corners
            beyond += right > size[1] + 1 or bottom > size[0] + 1
            total += 1
    if 2 * beyond > total:
        raise DataError(
            "the boxes in the column 'objects' seem to be corners",
            where=printable(path),
            why=f"as x, y, width, height {beyond} of {total} reach beyond their image; as corners"
            " all are inside",
            hint="write x, y, width, height, as Hugging Face does; or a row for each box with the"
            " columns path, label, x0, y0, x1, y1",
            id="objects_as_corners",
        )


def _require_agreement(image: _Image, row: _Image, table: Path) -> None:
    for name in ("split", "group"):
        one, other = getattr(image, name), getattr(row, name)
        if one != other:
            raise DataError(
                f"two rows contradict each other on the {name} of {row.key!r}",
                where=f"{printable(table)}, rows {image.number} and {row.number}",
                why=f"{one!r} and {other!r}",
                hint=f"give all rows of an image the same {name}",
                id="contradicting_box_rows",
            )


def _parse_corners(cells: list[Any], table: Path, where: str) -> tuple[float, float, float, float]:
    numbers = parse_numbers(list(map(cell_text, cells)), table)
    try:
        x0, y0, x1, y1 = (
            float(cell if number is None else number)  # "nan", which is dropped later
            for number, cell in zip(numbers, cells, strict=True)
        )
    except (TypeError, ValueError, OverflowError):
        got = ", ".join(repr(str(cell))[:40] for cell in cells)
        raise DataError(
            "the corners of the box are not four numbers",
            where=where,
            why=f"x0, y0, x1, y1 are {got}",
            hint="write pixels of the upright image",
            id="invalid_box_corners",
        ) from None
    return x0, y0, x1, y1


def _parse_flag(cell: object, where: str) -> bool:
    text = cell_text(cell).casefold()
    if text not in (*_YES, *_NO):
        raise DataError(
            f"the crowd flag is neither yes nor no: {text!r}",
            where=where,
            hint="write 1 or 0",
            id="invalid_crowd_flag",
        )
    return text in _YES
