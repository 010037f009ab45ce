"""Supervisely: a project with meta.json, and a folder with ann/ and img/ for each dataset.

The annotation of DATASET/img/1.jpg is DATASET/ann/1.jpg.json. Rectangles, polygons with holes,
bitmaps and rotated boxes are read; points, lines, graphs and cuboids are dropped. Tags of images
are tags, and tags called train, val or test, or else datasets of these names, give the splits. DATA
is the folder of the project, or a folder that contains it alone.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from foveate.data.boxes import class_name
from foveate.data.discovery import find_images
from foveate.data.formats._tool_files import (
    files_by_extension,
    not_of_tool,
    read_head,
    read_json_file,
)
from foveate.data.formats._tool_tables import (
    ATTRIBUTES,
    LOST,
    ROTATED,
    AnnotatedImage,
    Corners,
    Found,
    ToolFormat,
    ToolTable,
    bounds,
    cut_out,
    number,
    points,
    rotate,
)
from foveate.data.issues import skip_and_record
from foveate.data.split_names import split_from_name, split_in_folders
from foveate.errors import BrokenImage, DataError
from foveate.images.bitmaps import read_bitmap
from foveate.types import IssueKind
from foveate.utils.paths import printable

_META, _ANNOTATIONS, _IMAGES = "meta.json", "ann", "img"
_SAMPLE = 5  # annotations that are opened to recognize what there is
_MAX_BITMAP = 2**28  # bytes of a bitmap without compression


_UNANNOTATED = IssueKind(
    "supervisely_unannotated", "images without an annotation in ann, skipped", "warning"
)


class Supervisely(ToolFormat):
    """A project of Supervisely."""

    format: ClassVar[str] = "supervisely"
    summary: ClassVar[str] = "Supervisely annotations"

    def find(self, path: Path) -> Found | None:
        """A folder with meta.json, and folders `ann` below it; a few of their files are opened."""
        if not path.is_dir():
            return None
        by_folder = dict(files_by_extension(path)[".json"])
        roots = [
            folder
            for folder, names in by_folder.items()
            if _META in names and folder in (path, *_children(path, by_folder))
        ]
        if len(roots) != 1 or b'"classes"' not in read_head(roots[0] / _META):
            return None
        files = [
            folder / name
            for folder, names in by_folder.items()
            if folder.name == _ANNOTATIONS and folder.is_relative_to(roots[0])
            for name in names
        ]
        if not files:
            return None
        heads = [read_head(file) for file in files[:: max(1, len(files) // _SAMPLE)][:_SAMPLE]]
        objects = any(b'"classTitle"' in head for head in heads)
        tags = any(_has_tags(head) for head in heads)
        return Found((roots[0] / _META, *files), objects or not tags, tags)

    def collect(self, path: Path) -> ToolTable:
        """Read all annotations; of the images only headers, if at all.

        Raises:
            DataError: There are none, or one of them cannot be used.
        """
        found = self.look(path)
        if found is None:
            raise not_of_tool(path, "Supervisely", "is meta.json above folders ann and img")
        meta, *files = found.files
        table = ToolTable(meta.parent)
        table.stated_classes = _classes(meta)
        for folder in dict.fromkeys(file.parent for file in files):
            images = {image.name: image for image in find_images(folder.parent / _IMAGES)}
            for file in (each for each in files if each.parent == folder):
                with skip_and_record():
                    image = images.pop(file.name.removesuffix(".json"), None)
                    _read_file(file, image, table)
            for image in images.values():
                table.log.add(_UNANNOTATED, table.key(image))
        return table


def _children(path: Path, folders: Iterable[Path]) -> list[Path]:
    """The folders directly in a path."""
    return [folder for folder in folders if folder.parent == path]


def _has_tags(head: bytes) -> bool:
    """Whether the tags before the objects, those of the image, name a class."""
    tags = re.search(rb'"tags"\s*:\s*\[(.*?)\]', head, re.DOTALL)
    named = re.findall(rb'"name"\s*:\s*"([^"]*)"', tags[1]) if tags else []
    return any(split_from_name(name.decode("utf-8", "replace")) is None for name in named)


def _classes(meta: Path) -> list[str]:
    content = read_json_file(meta)
    classes = content.get("classes") if isinstance(content, dict) else None
    if not isinstance(classes, list):
        raise DataError(
            "the project states no classes", where=printable(meta), id="supervisely_no_classes"
        )
    return [str(each.get("title", "")) for each in classes if isinstance(each, dict)]


# --- JSON -> objects


def _read_file(file: Path, path: Path | None, table: ToolTable) -> None:
    content, where = read_json_file(file), printable(file)
    if not isinstance(content, dict) or not isinstance(content.get("objects"), list):
        raise DataError(
            "the annotation has no list of objects", where=where, id="supervisely_no_objects"
        )
    path = path or file.parent.parent / _IMAGES / file.name.removesuffix(".json")
    split = split_in_folders(file.parent.relative_to(table.root).parts[:-1])
    image = AnnotatedImage(path, split, size=table.size_of(path, content.get("size")))
    tags = content.get("tags")
    for tag in tags if isinstance(tags, list) else []:
        name = class_name(tag.get("name") or "") if isinstance(tag, dict) else class_name(tag)
        if split_from_name(name):
            image.split = split_from_name(name)
        elif name:
            value = tag.get("value") if isinstance(tag, dict) else None
            image.tags.append(f"{name}: {class_name(value)}" if value else name)
    for index, entry in enumerate(content["objects"], start=1):
        with skip_and_record():
            _add_object(entry, image, table, f"{where}, object {index}")
    table.images.append(image)


def _add_object(entry: Any, image: AnnotatedImage, table: ToolTable, where: str) -> None:
    name = class_name(entry.get("classTitle") or "") if isinstance(entry, dict) else ""
    if not name:
        raise DataError("an object has no class", where=where, id="supervisely_no_class")
    kind, key = entry.get("geometryType") or entry.get("shape"), table.key(image.path)
    stated = entry.get("points")
    exterior = stated.get("exterior") if isinstance(stated, dict) else stated
    if kind == "rectangle":
        image.add_box(bounds(_corners(exterior, where)), name)
    elif kind == "oriented_bbox":
        corners = bounds(_corners(exterior, where))
        degrees = math.degrees(number(entry, "angle", where, 0.0))
        outline = rotate(_rectangle(corners), _center(corners), degrees)
        image.add_box(bounds(outline), name, outline)
        table.log.add(ROTATED, key)
    elif kind == "polygon":
        holes = stated.get("interior") if isinstance(stated, dict) else None
        _add_polygon(
            points(exterior, where),
            holes if isinstance(holes, list) else [],
            name,
            image,
            table,
            where,
        )
    elif kind in ("bitmap", "alpha_mask"):
        _add_bitmap(entry.get("bitmap"), name, image, where)
    else:
        table.log.add(LOST, key, why=str(kind)[:40])
        return
    if entry.get("tags"):
        table.log.add(ATTRIBUTES, key)


def _corners(exterior: Any, where: str) -> list[float]:
    """Two opposite corners of a rectangle."""
    corners = points(exterior, where)
    if len(corners) != 4:
        raise DataError(
            "a rectangle does not have two corners",
            where=where,
            why=f"got {str(exterior)[:80]}",
            id="supervisely_corners",
        )
    return corners


def _rectangle(corners: Corners) -> list[float]:
    x0, y0, x1, y1 = corners
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def _center(corners: Corners) -> tuple[float, float]:
    return (corners[0] + corners[2]) / 2, (corners[1] + corners[3]) / 2


def _add_polygon(
    exterior: list[float],
    holes: list[Any],
    name: str,
    image: AnnotatedImage,
    table: ToolTable,
    where: str,
) -> None:
    count = len(image.outlined)
    table.add_polygon(image, exterior, name)
    if holes and image.size is not None and len(image.outlined) > count:
        interiors = [points(hole, where) for hole in holes]
        image.raw.masks[-1] = cut_out(exterior, interiors, image.size) or image.raw.masks[-1]


def _add_bitmap(bitmap: Any, name: str, image: AnnotatedImage, where: str) -> None:
    """Add a PNG in base64, mostly compressed once more, at its `origin` (left, top)."""
    try:
        content = base64.b64decode(bitmap["data"], validate=True)
        if not content.startswith(b"\x89PNG"):
            content = zlib.decompressobj().decompress(content, _MAX_BITMAP)
        left, top = (int(value) for value in bitmap["origin"])
        part = read_bitmap(content)
    except (BrokenImage, binascii.Error, zlib.error, TypeError, ValueError, KeyError) as error:
        raise DataError(
            "the bitmap of an object cannot be decoded",
            where=where,
            why=str(error)[:200],
            id="supervisely_invalid_bitmap",
        ) from None
    if image.size is not None:
        image.add_mask(part, top, left, image.size, name)
