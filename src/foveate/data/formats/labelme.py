"""LabelMe: a .json file for each image, beside it or in another folder.

Polygons, masks and rectangles are read, circles as polygons. Lines and points have no area and are
dropped. Shapes of one label and one `group_id` are one object. Flags of an image are tags. DATA is
the folder, or one of the files. Folders such as train and val give the splits. A file labels.txt
gives the order of the classes, one per line; without it they are sorted.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from foveate.data.boxes import class_name
from foveate.data.discovery import is_image, walk_folders
from foveate.data.formats._box_table import NO_BOX
from foveate.data.formats._image_export import Parts, copy_images, require_labels
from foveate.data.formats._tool_files import (
    ImageLocator,
    files_by_extension,
    not_of_tool,
    read_head,
    read_json_file,
)
from foveate.data.formats._tool_tables import (
    ATTRIBUTES,
    CURVES,
    LOST,
    READ_AS,
    ROTATED,
    AnnotatedImage,
    Found,
    ToolFormat,
    ToolTable,
    bounds,
    ellipse,
    object_of,
    points,
)
from foveate.data.issues import skip_and_record
from foveate.data.split_names import split_in_folders
from foveate.data.survey import MANY_LABELS, survey_folder
from foveate.data.tools.labelme import LABELS, to_json
from foveate.errors import BrokenImage, DataError
from foveate.images.bitmaps import read_bitmap
from foveate.predictions import Boxes, Labels, Regions
from foveate.types import Issue, IssueKind, Sample, Table
from foveate.utils.paths import printable

_SAMPLE = 5  # files that are opened to recognize the format
_IGNORED = frozenset({"__ignore__", "_background_"})  # labels that LabelMe's exporters reserve

_RESERVED = IssueKind("labelme_reserved", "shapes labeled __ignore__ or _background_, dropped")
_UNANNOTATED = IssueKind(
    "labelme_unannotated", "images without a .json file of LabelMe, skipped", "warning"
)
_EMBEDDED = IssueKind(
    "labelme_embedded",
    "images that exist only inside of the .json file",
    "error",
    hint="save them as files: labelme_export_json FILE, or File > Save in LabelMe",
)
_SKIPPED = IssueKind("labelme_other_json", ".json files that are not LabelMe's, skipped")


class LabelMe(ToolFormat):
    """The files of LabelMe."""

    format: ClassVar[str] = "labelme"
    summary: ClassVar[str] = "LabelMe annotations"
    writes: ClassVar[tuple[type, ...]] = (Boxes, Labels, Regions)
    read_as: ClassVar[Mapping[type, str]] = READ_AS

    def find(self, path: Path) -> Found | None:
        """Files with shapes and the path of an image, of which a few are opened."""
        if path.is_file():
            heads = [read_head(path)] if path.suffix.lower() == ".json" else []
            files = [path]
        else:
            files = list(_json_files(path))
            heads = [read_head(file) for file in files[:: max(1, len(files) // _SAMPLE)][:_SAMPLE]]
        own = [head for head in heads if _is_labelme(head)]
        if 2 * len(own) <= len(heads):
            return None
        objects = any(b'"points"' in head for head in own)
        tags = any(_has_flags(head) for head in own)
        doubts = _doubts(path, len(files)) if path.is_dir() else ()
        return Found(tuple(files), objects or not tags, tags, doubts)

    def collect(self, path: Path) -> ToolTable:
        """Read all files; of the images only headers, if at all.

        Raises:
            DataError: There are none, or one of them cannot be used.
        """
        found = self.look(path)
        if found is None:
            raise not_of_tool(path, "LabelMe", "has `shapes` and `imagePath`")
        root = path if path.is_dir() else path.parent
        table, locator = ToolTable(root), ImageLocator(root)
        for file in found.files:
            with skip_and_record():
                _read_file(file, table, locator)
        if path.is_dir():
            _note_unannotated(path, table)
        table.stated_classes = _read_labels(root)
        table.notes += locator.notes()
        return table

    def write(self, table: Table, folder: Path) -> tuple[Issue, ...]:
        """Write the images, a .json file beside each, and labels.txt.

        The split of an image becomes the folder that it is in.
        """
        require_labels(table)
        notes: list[Issue] = []
        for image in copy_images(table, folder, notes, _in_split):
            content = to_json(image.path.name, image.size, image.drawn, table.classes)
            file = folder / image.path.with_suffix(".json")
            file.write_text(json.dumps(content, ensure_ascii=False, indent=2), encoding="utf-8")
        lines = "".join(f"{name}\n" for name in table.classes)
        (folder / LABELS).write_text(lines, encoding="utf-8")
        return tuple(notes)


def _in_split(sample: Sample, parts: Parts) -> Parts:
    return (sample.split, *parts) if sample.split else parts


# --- files


def _json_files(root: Path) -> Iterator[Path]:
    return (folder / name for folder, names in files_by_extension(root)[".json"] for name in names)


def _is_labelme(head: bytes) -> bool:
    """Whether a file is LabelMe's; old versions may write the image before anything else."""
    return head.startswith(b"{") and (
        (b'"shapes"' in head and b'"imagePath"' in head) or b'"imageData": "' in head
    )


def _has_flags(head: bytes) -> bool:
    """Whether flags are set before the first shape: those of the image."""
    flags = head.partition(b'"flags"')[2].partition(b"}")[0]
    return b"true" in flags and b'"label"' not in head.partition(b'"flags"')[0]


def _doubts(root: Path, count: int) -> tuple[str, ...]:
    """Few images in several folders have an annotation: the folders may be classes."""
    survey = survey_folder(root)
    if count >= MANY_LABELS * survey.images:
        return ()
    folders = sum(any(map(is_image, map(Path, names))) for _, names in walk_folders(root))
    doubt = f"only {count} of {survey.images} images have an annotation"
    return (doubt,) if folders > 1 else ()


def _note_unannotated(root: Path, table: ToolTable) -> None:
    known = {image.path for image in table.images}
    for folder, names in walk_folders(root):
        for name in names:
            if is_image(Path(name)) and folder / name not in known:
                table.log.add(_UNANNOTATED, table.key(folder / name))


def _read_labels(root: Path) -> list[str]:
    """The classes in labels.txt; none without it."""
    file = root / LABELS
    if not file.is_file():
        return []
    lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    return [line for line in lines if class_name(line) and line.strip() not in _IGNORED]


# --- JSON -> objects


def _read_file(file: Path, table: ToolTable, locator: ImageLocator) -> None:
    content, where = read_json_file(file), printable(file)
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        table.log.add(_SKIPPED, table.key(file))
        return
    stated = content.get("imagePath")
    names = [stated] if isinstance(stated, str) and stated.strip() else [f"{file.stem}.jpg"]
    path = locator.find(names, [file.parent])
    if not path.is_file() and content.get("imageData"):
        table.log.add(_EMBEDDED, table.key(path))
    stated_size = {"height": content.get("imageHeight"), "width": content.get("imageWidth")}
    split = split_in_folders(_folders(path, table.root) or _folders(file, table.root))
    image = AnnotatedImage(path, split, size=table.size_of(path, stated_size))
    flags = object_of(content.get("flags"))
    image.tags += [class_name(name) for name, value in flags.items() if value is True]
    for index, shape in enumerate(content["shapes"], start=1):
        with skip_and_record():
            _add_shape(shape, image, table, f"{where}, shape {index}")
    table.images.append(image)


def _folders(path: Path, root: Path) -> tuple[str, ...]:
    return path.relative_to(root).parts[:-1] if path.is_relative_to(root) else ()


def _add_shape(shape: Any, image: AnnotatedImage, table: ToolTable, where: str) -> None:
    if not isinstance(shape, dict) or not class_name(shape.get("label") or ""):
        raise DataError("the shape has no label", where=where, id="labelme_no_label")
    key, name = table.key(image.path), class_name(shape["label"])
    if name in _IGNORED:
        table.log.add(_RESERVED, key)
        return
    if any(object_of(shape.get("flags")).values()):
        table.log.add(ATTRIBUTES, key)
    kind, corners = shape.get("shape_type") or "polygon", points(shape.get("points"), where)
    if kind == "rectangle" and len(corners) >= 4:
        image.add_box(bounds(corners), name)
    elif kind in ("oriented_rectangle", "rotation") and len(corners) >= 6:
        image.add_box(bounds(corners), name, corners)
        table.log.add(ROTATED, key)
    elif kind == "polygon":
        group = shape.get("group_id")
        table.add_polygon(image, corners, name, group if isinstance(group, int | str) else None)
    elif kind == "circle" and len(corners) == 4:
        radius = math.dist(corners[:2], corners[2:])
        image.add_polygon(ellipse((corners[0], corners[1]), (radius, radius)), name)
        table.log.add(CURVES, key)
    elif kind == "mask" and len(corners) == 4:
        _add_mask(shape, corners, name, image, where)
    elif kind in ("rectangle", "circle", "mask"):
        table.log.add(NO_BOX, key)
    else:
        table.log.add(LOST, key, why=str(kind)[:40])


def _add_mask(
    shape: dict[str, Any], corners: list[float], name: str, image: AnnotatedImage, where: str
) -> None:
    """Add a mask, whose first point is its upper left corner."""
    try:
        part = read_bitmap(base64.b64decode(shape.get("mask") or "", validate=True))
        left, top = round(corners[0]), round(corners[1])
    except (BrokenImage, binascii.Error, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            "the mask of the shape cannot be decoded",
            where=where,
            why=str(error),
            id="labelme_invalid_mask",
        ) from None
    if image.size is not None:
        image.add_mask(part, top, left, image.size, name)
