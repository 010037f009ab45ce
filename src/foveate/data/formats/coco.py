"""COCO: boxes, and optionally masks, of many images in one .json file, or in one file per split.

DATA is such a file, or a folder that contains some: in it, in annotations/
(instances_train2017.json) or in its split folders (Roboflow's train/_annotations.coco.json). Images
are beside the file, in the root, in images/ or in a folder named like the split. Classes are in the
order of their ids, which may have gaps. An image may have a `group`, an extension of COCO. Masks
(polygons, or run lengths in either form) are read if every object has one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

from foveate.data.boxes import RawBoxes, class_name
from foveate.data.formats import Format
from foveate.data.formats._box_export import CopiedImage, copy_images
from foveate.data.formats._box_table import NO_BOX, BoxTableBuilder, is_file
from foveate.data.formats._coco_files import (
    SPLIT_ORDER,
    annotation_files,
    image_folders,
    read_lists,
    root_of,
    split_of_file,
)
from foveate.data.issues import counted_issue, skip_and_record
from foveate.errors import DataError
from foveate.messages import counted
from foveate.predictions import Boxes
from foveate.types import Issue, IssueKind, Location, Table, remark
from foveate.utils.paths import printable
from foveate.utils.rle import rle_area

_UNLISTED_IMAGE = IssueKind(
    "coco_unlisted_image", "annotations of images that are not listed, dropped", "error"
)
_FEW_CORNERS = IssueKind(
    "coco_few_corners", "polygons with fewer than three corners, which have no area", "warning"
)
_ID_GAPS = IssueKind(
    "coco_id_gaps",
    "files whose category ids have gaps; classes are matched by name, in the order of the ids",
)
_NO_MASK = IssueKind(
    "coco_no_mask",
    "images with an object without a mask of the image's size; therefore only boxes are read",
    "warning",
)

Entry = dict[str, Any]


class Coco(Format):
    """COCO's annotations of objects."""

    summary: ClassVar[str] = "COCO boxes in JSON"

    def sniff(self, path: Path) -> bool:
        """An annotation file of objects, or a folder with some."""
        try:
            return bool(annotation_files(path))
        except (DataError, OSError):
            return False

    def read(self, path: Path) -> Table:
        """Read one file, or all files of a folder; of the images only headers, if at all.

        Raises:
            DataError: A file is not COCO annotations, an entry is faulty, or there is no valid box.
        """
        files = annotation_files(path) or [path]
        if path.is_dir() and files == [path]:
            raise DataError(
                "there are no COCO annotations in this folder",
                where=printable(path),
                hint="give the .json file itself",
                id="coco_no_annotations",
            )
        builder = BoxTableBuilder(root_of(path))
        classes = [name for file in files for name in _File(file, builder).add_images()]
        _require_all_masks(builder)
        return builder.build(classes, "coco")

    def write(self, table: Table, folder: Path) -> tuple[Issue, ...]:
        """Write images/ and annotations/instances_{train,val,test}.json.

        Images without a split are listed in annotations/instances.json.
        """
        notes: list[Issue] = []
        images = list(enumerate(copy_images(table, folder / "images", notes), start=1))
        ids = count(1)
        (folder / "annotations").mkdir(exist_ok=True)
        for split in SPLIT_ORDER:
            of_split = [(id, image) for id, image in images if image.sample.split == split]
            content = _to_json(of_split, table.classes, ids)
            if content["images"]:
                name = f"instances_{split}.json" if split else "instances.json"
                text = json.dumps(content, ensure_ascii=False)
                (folder / "annotations" / name).write_text(text, encoding="utf-8")
        return tuple(notes)


# --- JSON -> boxes


class _File:
    """Reads one annotation file into a builder."""

    def __init__(self, path: Path, builder: BoxTableBuilder) -> None:
        self.path, self.where, self.builder = path, printable(path), builder
        content = read_lists(path, ("images", "annotations", "categories"), "annotations")
        self.categories, self.annotations = content["categories"], content["annotations"]
        self.names = _category_names(self.categories, self.where)
        self.images = self._by_id(content["images"])
        self.raw = {id: RawBoxes() for id in self.images}

    def add_images(self) -> list[str]:
        """Add the images with their boxes; return the classes in order."""
        self._note_gaps()
        used = self._read_annotations()
        folders = list(image_folders(self.path, self.builder.root))
        for id, entry in self.images.items():
            with skip_and_record():
                group = entry.get("group")
                self.builder.add_image(
                    _image_path(entry, folders, self.where),
                    self.raw[id],
                    split_of_file(self.path),
                    str(group) if group else None,
                    _stated_size(entry),
                )
        headings = self._headings(used)
        return [name for name in self.names.values() if name not in headings]

    def _by_id(self, entries: list[Entry]) -> dict[Any, Entry]:
        images: dict[Any, Entry] = {}
        for entry in entries:
            with skip_and_record():
                id = _id_in(entry, "id", self.where)
                if images.setdefault(id, entry) is not entry:
                    raise DataError(
                        f"two images have the id {id!r}",
                        where=self.where,
                        id="coco_duplicate_image",
                    )
        return images

    def _note_gaps(self) -> None:
        ids = [id for id in self.names if isinstance(id, int)]
        if ids and max(ids) - min(ids) >= len(ids):
            categories = counted(len(ids), "category", "categories")
            why = f"{categories} with ids from {min(ids)} to {max(ids)}"
            self.builder.log.add(_ID_GAPS, self.path.name, why=why)

    def _read_annotations(self) -> set[str]:
        """Assign the objects to their images; return the classes that occur."""
        used, unlisted = set[str](), 0
        for entry in self.annotations:
            where = f"{self.where}, annotation {entry.get('id', '?')}"
            with skip_and_record():
                name, id = self._class_of(entry, where), _id_in(entry, "image_id", where)
                used.add(name)
                if id in self.raw:
                    self._add_object(entry, id, name, where)
                else:
                    self.builder.log.add(_UNLISTED_IMAGE, f"image_id {id}")
                    unlisted += 1
        if unlisted and unlisted == len(self.annotations):
            raise DataError(
                "no annotation belongs to an image",
                where=self.where,
                why="no image_id is the id of one of the images",
                id="coco_no_annotated_image",
            )
        return used

    def _class_of(self, entry: Entry, where: str) -> str:
        id = _id_in(entry, "category_id", where)
        if id not in self.names:
            raise DataError(
                f"no category has the id {id!r}",
                where=where,
                why="the ids are: " + ", ".join(map(repr, list(self.names)[:20])),
                hint="add it to categories, or remove the annotation",
                id="coco_unknown_category",
            )
        return self.names[id]

    def _add_object(self, entry: Entry, id: Any, name: str, where: str) -> None:
        image = str(self.images[id].get("file_name"))
        if not entry.get("bbox"):
            self.builder.log.add(NO_BOX, image)
            return
        segmentation = entry.get("segmentation") or None
        polygons = segmentation if isinstance(segmentation, list) else []
        if any(len(polygon) < 6 for polygon in polygons if isinstance(polygon, list)):
            self.builder.log.add(_FEW_CORNERS, image, why=where)
        corners = _parse_bbox(entry["bbox"], where)
        self.raw[id].add(corners, name, bool(entry.get("iscrowd")), segmentation)

    def _headings(self, used: set[str]) -> set[str]:
        """The category that Roboflow adds as the parent of the others, and that no object has."""
        parents = {class_name(entry.get("supercategory") or "") for entry in self.categories}
        roots = {
            class_name(entry["name"])
            for entry in self.categories
            if entry.get("supercategory") == "none"
        }
        headings = (parents & roots) - used
        for name in sorted(headings):
            text = "the category {name} is only a heading of others, not a class"
            note = remark("coco_heading", text, name=repr(name))
            if note not in self.builder.notes:  # of another split
                self.builder.notes.append(note)
        return headings


def _category_names(categories: list[Entry], where: str) -> dict[Any, str]:
    """Category id -> class, in the order of ids; two ids of one name are one class."""
    names: dict[Any, str] = {}
    for entry in categories:
        with skip_and_record():
            id, name = _id_in(entry, "id", where), class_name(entry.get("name", ""))
            if not name:
                raise DataError(
                    f"the category {id!r} has no name", where=where, id="coco_unnamed_category"
                )
            if names.setdefault(id, name) != name:
                why = f"{names[id]!r} and {name!r}"
                raise DataError(
                    f"two categories have the id {id!r}",
                    where=where,
                    why=why,
                    id="coco_duplicate_category",
                )
    return dict(sorted(names.items(), key=lambda item: (isinstance(item[0], str), item[0])))


def _id_in(entry: Entry, key: str, where: str) -> int | float | str:
    id = entry.get(key)
    if not isinstance(id, int | float | str):
        raise DataError(
            f"an entry has no {key!r}",
            where=where,
            why=f"its keys are: {', '.join(entry)}",
            id="coco_missing_key",
        )
    return id


def _parse_bbox(bbox: object, where: str) -> tuple[float, float, float, float]:
    """x, y, width, height -> x0, y0, x1, y1."""
    try:
        x, y, width, height = map(float, bbox)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):
        raise DataError(
            "the bbox is not four numbers",
            where=where,
            why=f"got {str(bbox)[:80]}",
            hint="write x, y, width, height in pixels",
            id="coco_invalid_bbox",
        ) from None
    return x, y, x + width, y + height


def _stated_size(entry: Entry) -> tuple[int, int] | None:
    """(H, W) according to the annotations."""
    height, width = entry.get("height"), entry.get("width")
    valid = isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0
    return (height, width) if valid else None  # type: ignore[return-value]


def _image_path(entry: Entry, folders: list[Path], where: str) -> Path:
    name = entry.get("file_name")
    if not isinstance(name, str) or not name.strip():
        raise DataError(
            f"the image {entry['id']!r} has no file_name", where=where, id="coco_no_file_name"
        )
    names = dict.fromkeys((name, name.replace("\\", "/")))  # the second is for files from Windows
    paths = (folder / name for name in names for folder in folders)
    return next((path for path in paths if is_file(path)), folders[0] / name)


def _require_all_masks(builder: BoxTableBuilder) -> None:
    """Drop all masks if some objects have none: training and scores would count those as empty."""
    targets = {
        key: sample.target
        for key, sample in builder.samples.items()
        if isinstance(sample.target, Boxes)
    }
    without = [key for key, boxes in targets.items() if boxes.names and boxes.masks is None]
    if not without or not any(boxes.masks for boxes in targets.values()):
        return
    builder.notes.append(counted_issue(_NO_MASK, [Location(key) for key in without]))
    for key, boxes in targets.items():
        sample = builder.samples[key]
        builder.samples[key] = replace(sample, target=replace(boxes, masks=None))


# --- boxes -> JSON


def _to_json(
    images: list[tuple[int, CopiedImage]], classes: tuple[str, ...], ids: Iterator[int]
) -> dict[str, list[Entry]]:
    """The content of one file.

    Args:
        images: With their ids.
        classes: All classes.
        ids: Of annotations; they are unique across files.
    """
    category_ids = {name: id for id, name in enumerate(classes, start=1)}
    image_entries: list[Entry] = []
    annotations: list[Entry] = []
    for image_id, image in images:
        height, width = image.size
        entry = {"id": image_id, "file_name": str(image.path), "width": width, "height": height}
        image_entries.append(entry | ({"group": image.sample.group} if image.sample.group else {}))
        masks = image.boxes.masks or [None] * len(image.boxes.names)
        for ((x0, y0, x1, y1), name, crowd), mask in zip(image.objects(), masks, strict=True):
            annotation = {
                "id": next(ids),
                "image_id": image_id,
                "category_id": category_ids[name],
                "iscrowd": int(crowd),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": (x1 - x0) * (y1 - y0) if mask is None else rle_area(mask),
            }
            annotations.append(annotation | ({} if mask is None else {"segmentation": mask}))
    categories = [{"id": id, "name": name} for name, id in category_ids.items()]
    return {"images": image_entries, "annotations": annotations, "categories": categories}
