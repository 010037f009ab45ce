"""Objects in a cell of a table, as Hugging Face's imagefolder and Parquet files have them.

    {"bbox": [[302, 109, 73, 52], ...], "categories": [0, ...]}
    [{"bbox": [302, 109, 73, 52], "category": "bolt"}, ...]

A box is x, y, width, height in pixels, as the documentation of Hugging Face states.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from foveate.data.boxes import class_name
from foveate.data.records import cell_text
from foveate.errors import DataError

_BOXES = ("bbox", "bboxes", "boxes", "box")
_CLASSES = (
    *("category", "categories", "label", "labels", "class", "classes", "name", "names"),
    *("category_id", "category_ids", "class_id", "class_ids"),
)

Corners = tuple[float, float, float, float]


def parse_objects(cell: Any, where: str) -> Iterator[tuple[Corners, str]]:
    """Yield the corners x0, y0, x1, y1 and the class of each object.

    Args:
        cell: What the column holds; nothing for an image without objects.
        where: The row, for messages.

    Raises:
        DataError: It is something else.
    """
    objects = cell if isinstance(cell, list) else _in_rows(cell, where) if cell else []
    for entry in objects:
        fields = entry if isinstance(entry, Mapping) else {}
        name = class_name(cell_text(_first(fields, _CLASSES)))
        if not name:
            raise _invalid("an object has no class", fields or entry, where)
        try:
            x, y, width, height = (float(each) for each in _first(fields, _BOXES))
        except (TypeError, ValueError, OverflowError):
            raise _invalid("the box of an object is not four numbers", fields, where) from None
        yield (x, y, x + width, y + height), name


def _in_rows(cell: Any, where: str) -> list[dict[str, Any]]:
    """Lists of boxes and of classes -> one entry for each object."""
    boxes = _first(cell, _BOXES) if isinstance(cell, Mapping) else None
    names = _first(cell, _CLASSES) if isinstance(cell, Mapping) else None
    if not isinstance(boxes, list) or not isinstance(names, list) or len(boxes) != len(names):
        raise _invalid("the objects are not as many boxes as classes", cell, where)
    return [{"bbox": box, "category": name} for box, name in zip(boxes, names, strict=True)]


def _first(fields: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((fields[name] for name in names if fields.get(name) is not None), None)


def _invalid(what: str, got: Any, where: str) -> DataError:
    return DataError(
        what,
        where=where,
        why=f"got {str(got)[:80]}",
        hint='write {"bbox": [[x, y, width, height], ...], "categories": [name, ...]} in pixels',
        id="invalid_objects",
    )
