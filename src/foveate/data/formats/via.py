"""VGG Image Annotator (VIA) 1 and 2: a project, or annotations as JSON or CSV.

Rectangles and polygons are read, circles and ellipses as polygons; points and lines are dropped.
The class of a region is its only attribute, or the one called class, label, name, type or the like;
regions without attributes are all of one class. File attributes are tags, if one of them is a
class. DATA is the file, or the folder that contains it; folders such as train and val, each with
its own file, give the splits.
"""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from foveate.data.boxes import class_name
from foveate.data.formats._image_export import copy_images
from foveate.data.formats._tool_files import (
    ImageLocator,
    find_annotation_files,
    not_of_tool,
    read_json_file,
    root_of_file,
)
from foveate.data.formats._tool_tables import (
    ATTRIBUTES,
    CURVES,
    LOST,
    AnnotatedImage,
    Found,
    ToolFormat,
    ToolTable,
    ellipse,
    number,
    object_of,
    objects_in,
    points,
)
from foveate.data.issues import skip_and_record
from foveate.data.split_names import split_in_folders
from foveate.errors import DataError
from foveate.predictions import Boxes
from foveate.types import Issue, IssueKind, Table, remark
from foveate.utils.paths import printable

_METADATA, _ATTRIBUTES = "_via_img_metadata", "_via_attributes"
_CSV_HEADER = b"filename,file_size,file_attributes,region_count"
_PROJECT = "via_project.json"
_CLASS_NAMES = ("class", "label", "name", "type", "category", "object", "object_name", "class_name")
_OTHER_ATTRIBUTES = ("caption", "image_url", "public_domain", "split")  # of images
_ONLY_CLASS = "object"  # of regions without attributes
_SEVERAL_CLASSES = IssueKind(
    "via_several_classes", "regions with several checked classes; the first one is read", "warning"
)


@dataclass
class _Entry:
    """An image of a file.

    Attributes:
        name: Its file name or URL.
        regions: Shape and attributes of each region.
        attributes: Of the image.
    """

    name: str
    regions: list[tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=list)
    attributes: dict[str, Any] = field(default_factory=dict)


class Via(ToolFormat):
    """The files of the VGG Image Annotator."""

    format: ClassVar[str] = "via"
    summary: ClassVar[str] = "VGG Image Annotator (VIA) annotations"
    writes: ClassVar[tuple[type, ...]] = (Boxes,)

    def find(self, path: Path) -> Found | None:
        """JSON and CSV files with the words of VIA."""
        heads = find_annotation_files(path, ".json", _is_json)
        heads |= find_annotation_files(path, ".csv", _is_csv)
        if not heads:
            return None
        objects = any(b'"name"' in _shape_words(head) for head in heads.values())
        tags = any(_has_file_attributes(head) for head in heads.values())
        return Found(_without_copies(heads), objects or not tags, tags)

    def collect(self, path: Path) -> ToolTable:
        """Read all files; of the images only headers, if at all.

        Raises:
            DataError: There are none, one of them cannot be used, or it is not clear which
                attribute is the class.
        """
        found = self.look(path)
        if found is None:
            raise not_of_tool(path, "VIA", "has `regions` with `shape_attributes`")
        table = ToolTable(root_of_file(path))
        locator, entries = ImageLocator(table.root), list[tuple[Path, _Entry]]()
        for file in found.files:
            with skip_and_record():
                stated, own = _read_file(file)
                table.stated_classes += stated
                entries += [(file, entry) for entry in own]
        regions = [attributes for _, entry in entries for _, attributes in entry.regions]
        attribute = _class_attribute(regions, path)
        if regions and attribute is None:
            text = "the regions have no attributes: all of them are of one class, {name}"
            table.notes.append(remark("via_one_class", text, name=repr(_ONLY_CLASS)))
        tag = _tag_attribute([entry.attributes for _, entry in entries])
        for file, entry in entries:
            with skip_and_record():
                _add_image(entry, file, attribute, tag, table, locator)
        table.notes += locator.notes()
        return table

    def write(self, table: Table, folder: Path) -> tuple[Issue, ...]:
        """Write via_project.json and images/; the split of an image is a file attribute."""
        notes: list[Issue] = []
        metadata = {}
        for image in copy_images(table, folder / "images", notes):
            size = (folder / "images" / image.path).stat().st_size
            name = f"images/{image.path}"
            metadata[f"{name}{size}"] = {
                "filename": name,
                "size": size,
                "regions": [
                    {"shape_attributes": _rectangle(corners), "region_attributes": {"class": label}}
                    for corners, label, _ in image.objects()
                ],
                "file_attributes": {"split": image.sample.split} if image.sample.split else {},
            }
        content = _project(metadata, table.classes)
        text = json.dumps(content, ensure_ascii=False)
        (folder / _PROJECT).write_text(text, encoding="utf-8")
        return tuple(notes)


# --- recognizing


def _is_json(head: bytes) -> bool:
    return head.startswith(b"{") and (
        b'"_via_img_metadata"' in head or (b'"regions"' in head and b'"file_attributes"' in head)
    )


def _is_csv(head: bytes) -> bool:
    return head.removeprefix(b"#").replace(b'"', b"").startswith(_CSV_HEADER)


def _shape_words(head: bytes) -> bytes:
    """What follows the first shape, in JSON or in CSV, where quotes are doubled."""
    return head.replace(b'""', b'"').partition(b'"shape_attributes"')[2] or (
        head.replace(b'""', b'"') if _is_csv(head) else b""
    )


def _has_file_attributes(head: bytes) -> bool:
    parts = head.split(b'"file_attributes"')[1:]
    return any(part.lstrip(b" :\t\r\n{")[:1] == b'"' for part in parts)


def _without_copies(heads: dict[Path, bytes]) -> tuple[Path, ...]:
    """The files; a project beside an export of the same folder stands for both."""
    projects = {file.parent for file, head in heads.items() if b'"_via_img_metadata"' in head}
    json_folders = {file.parent for file in heads if file.suffix.lower() == ".json"}
    return tuple(
        file
        for file, head in heads.items()
        if b'"_via_img_metadata"' in head
        or (
            file.parent not in projects
            and (file.suffix.lower() == ".json" or file.parent not in json_folders)
        )
    )


# --- files -> entries


def _read_file(file: Path) -> tuple[list[str], list[_Entry]]:
    """The classes that a project states, and the images."""
    if file.suffix.lower() == ".csv":
        return [], list(_from_csv(file))
    content = read_json_file(file)
    images = content.get(_METADATA, content) if isinstance(content, dict) else None
    if not isinstance(images, dict):
        raise DataError("the file has no images of VIA", where=printable(file), id="via_no_images")
    options = _options(content)
    return options, [entry for value in images.values() for entry in _from_json(value, file)]


def _options(project: dict[str, Any]) -> list[str]:
    """The classes of the attribute that is the class, in their order."""
    settings = project.get(_ATTRIBUTES)
    regions = settings.get("region") if isinstance(settings, dict) else None
    if not isinstance(regions, dict):
        return []
    name = _obvious(list(regions))
    options = regions[name].get("options") if name and isinstance(regions[name], dict) else None
    return list(options) if isinstance(options, dict) else []


def _from_json(value: Any, file: Path) -> Iterator[_Entry]:
    with skip_and_record():
        name = value.get("filename") if isinstance(value, dict) else None
        if not isinstance(name, str) or not name.strip():
            raise DataError("an image has no filename", where=printable(file), id="via_no_filename")
        regions = value.get("regions")
        regions = list(regions.values()) if isinstance(regions, dict) else regions  # of VIA 1
        entry = _Entry(name, attributes=object_of(value.get("file_attributes")))
        for region in objects_in(regions):
            shape = object_of(region.get("shape_attributes"))
            entry.regions.append((shape, object_of(region.get("region_attributes"))))
        yield entry


def _from_csv(file: Path) -> Iterator[_Entry]:
    """One row for each region; an image without regions has one row with an empty shape."""
    entries: dict[str, _Entry] = {}
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            for row in csv.DictReader(opened):
                cells = {str(key).lstrip("#"): cell for key, cell in row.items()}
                name = cells.get("filename") or ""
                if name.strip():
                    attributes = object_of(json.loads(cells.get("file_attributes") or "{}"))
                    entry = entries.setdefault(name, _Entry(name, attributes=attributes))
                    shape = object_of(json.loads(cells.get("region_shape_attributes") or "{}"))
                    others = object_of(json.loads(cells.get("region_attributes") or "{}"))
                    entry.regions += [(shape, others)] if shape else []
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise DataError(
            "the CSV of VIA cannot be read",
            where=printable(file),
            why=str(error)[:200],
            id="via_invalid_csv",
        ) from None
    yield from entries.values()


# --- attributes


def _class_attribute(regions: list[dict[str, Any]], path: Path) -> str | None:
    """The attribute that is the class of a region; None if there are no attributes.

    Raises:
        DataError: Several could be.
    """
    used = Counter(name for attributes in regions for name in attributes)
    # of check boxes any number can be ticked: beside one other attribute they are remarks
    ticked = {name for each in regions for name, value in each.items() if isinstance(value, dict)}
    name = _obvious(list(used)) or _obvious([each for each in used if each not in ticked])
    if used and name is None:
        values = {
            attribute: sorted({str(each[attribute]) for each in regions if attribute in each})[:3]
            for attribute in used
        }
        shown = "; ".join(
            f"{attribute!r} with {', '.join(map(repr, values[attribute]))}" for attribute in values
        )
        raise DataError(
            "it is not clear which attribute of the regions is their class",
            where=printable(path),
            why=f"they have {shown}"[:400],
            hint="rename the attribute to class",
            id="via_no_class_attribute",
        )
    return name


def _obvious(names: list[str]) -> str | None:
    """The only name, or the only one that means a class."""
    by_folded = {name.strip().casefold().replace(" ", "_"): name for name in names}
    meant = [by_folded[name] for name in _CLASS_NAMES if name in by_folded]
    return meant[0] if meant else names[0] if len(names) == 1 else None


def _tag_attribute(files: list[dict[str, Any]]) -> str | None:
    """The attribute that is the class of an image; None if there is none, or it is not clear."""
    used = dict.fromkeys(
        name for attributes in files for name, value in attributes.items() if value
    )
    return _obvious([name for name in used if name not in _OTHER_ATTRIBUTES])


def _names_in(value: Any) -> list[str]:
    """Classes in an attribute: a text, or the boxes that are checked."""
    chosen = [key for key, on in value.items() if on] if isinstance(value, dict) else [value]
    return [class_name(each) for each in chosen if each and class_name(each)]


# --- entries -> objects


def _add_image(
    entry: _Entry,
    file: Path,
    attribute: str | None,
    tag: str | None,
    table: ToolTable,
    locator: ImageLocator,
) -> None:
    path = locator.find([entry.name], [file.parent, file.parent / "images"])
    stated = entry.attributes.get("split")
    inside = path.relative_to(table.root).parts[:-1] if path.is_relative_to(table.root) else ()
    split = split_in_folders([stated] if isinstance(stated, str) else inside)
    image = AnnotatedImage(path, split, tags=_names_in(entry.attributes.get(tag or "")))
    for index, (shape, attributes) in enumerate(entry.regions, start=1):
        with skip_and_record():
            where = f"{printable(file)}, {entry.name!r}, region {index}"[:300]
            names = _names_in(attributes.get(attribute)) if attribute else [_ONLY_CLASS]
            if not names:
                raise DataError(
                    "a region has no class",
                    where=where,
                    why=f"its attribute {attribute!r} is empty or missing",
                    id="via_no_class",
                )
            _add_shape(shape, names[0], image, table, where)
            if len(names) > 1:
                table.log.add(_SEVERAL_CLASSES, table.key(path), why=", ".join(names)[:200])
            if any(_names_in(value) for name, value in attributes.items() if name != attribute):
                table.log.add(ATTRIBUTES, table.key(path))
    table.images.append(image)


def _add_shape(
    shape: dict[str, Any], name: str, image: AnnotatedImage, table: ToolTable, where: str
) -> None:
    kind, key = shape.get("name"), table.key(image.path)
    if kind == "rect":
        x, y, width, height = (number(shape, key, where) for key in ("x", "y", "width", "height"))
        image.add_box((x, y, x + width, y + height), name)
    elif kind in ("polygon", "polyline") and (kind == "polygon" or _is_closed(shape)):
        xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
        if not isinstance(xs, list) or not isinstance(ys, list) or len(xs) != len(ys):
            xs, ys = [None], [None]  # no numbers
        table.add_polygon(image, points(zip(xs, ys, strict=True), where), name)
    elif kind in ("circle", "ellipse"):
        x, y = number(shape, "cx", where), number(shape, "cy", where)
        rx, ry = ("r", "r") if kind == "circle" else ("rx", "ry")
        radii = number(shape, rx, where), number(shape, ry, where)
        degrees = math.degrees(number(shape, "theta", where, 0.0))
        image.add_polygon(ellipse((x, y), radii, degrees), name)
        table.log.add(CURVES, key)
    else:
        table.log.add(LOST, key, why=str(kind)[:40])


def _is_closed(shape: dict[str, Any]) -> bool:
    """Whether a line ends where it begins: some versions save polygons so."""
    xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
    return (
        isinstance(xs, list)
        and isinstance(ys, list)
        and len(xs) == len(ys) > 3
        and (xs[0], ys[0]) == (xs[-1], ys[-1])
    )


# --- objects -> JSON


def _rectangle(corners: list[float]) -> dict[str, Any]:
    x0, y0, x1, y1 = corners
    return {"name": "rect", "x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0}


def _project(metadata: dict[str, Any], classes: tuple[str, ...]) -> dict[str, Any]:
    """A project that VIA 2 opens."""
    attribute = {
        "type": "dropdown",
        "description": "",
        "options": dict.fromkeys(classes, ""),
        "default_options": {},
    }
    split = {"type": "text", "description": "", "default_value": ""}
    return {
        "_via_settings": {
            "ui": {},
            "core": {"buffer_size": 18, "filepath": {}, "default_filepath": ""},
            "project": {"name": "foveate"},
        },
        _METADATA: metadata,
        _ATTRIBUTES: {"region": {"class": attribute}, "file": {"split": split}},
        "_via_data_format_version": "2.0.10",
        "_via_image_id_list": list(metadata),
    }
