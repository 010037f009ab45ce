"""COCO: boxes, and optionally masks, of many images in one .json file, or in one file per split.

DATA is such a file, or a folder that contains some: in it, in annotations/
(instances_train2017.json) or in its split folders (Roboflow's train/_annotations.coco.json). Images
are beside the file, in the root, in images/ or in a folder named like the split. Classes are in the
order of their ids, which may have gaps. An image may have a `group`, an extension of COCO. Masks
(polygons, or run lengths in either form) are read if every object has one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from foveate.data.boxes import RawBoxes, class_name, labeled_points
from foveate.data.formats import Fit, Format, Reading
from foveate.data.formats._box_table import NO_BOX, BoxTableBuilder
from foveate.data.formats._coco_export import write_files
from foveate.data.formats._coco_files import (
    Entry,
    annotation_files,
    category_names,
    id_in,
    image_folders,
    image_path,
    read_lists,
    require_annotation_files,
    root_of,
    split_of_file,
    stated_size,
)
from foveate.data.formats._image_export import CopiedImage, copy_images
from foveate.data.formats._keypoints import (
    INVALID,
    KEPT,
    parse_coco,
    skeleton_of_category,
    to_annotation,
    to_categories,
)
from foveate.data.issues import skip_and_record
from foveate.errors import DataError
from foveate.messages import counted
from foveate.predictions import Boxes
from foveate.types import Issue, IssueKind, Table, remark
from foveate.utils.paths import printable
from foveate.utils.rle import nested_polygons, rle_area

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
_ALL_CROWD = IssueKind(
    "coco_all_crowd",
    "files in which every object is marked as a crowd; they are read as ordinary objects",
    "warning",
)


class Coco(Format):
    """COCO's annotations of objects."""

    summary: ClassVar[str] = "COCO boxes in JSON"
    target: ClassVar[type | None] = Boxes
    writes: ClassVar[tuple[type, ...]] = (Boxes,)

    def sniff(self, path: Path) -> Reading | None:
        """An annotation file of objects, or a folder with some."""
        try:
            return Reading(Fit.STATED) if annotation_files(path) else None
        except (DataError, OSError):
            return None

    def read(self, path: Path) -> Table:
        """Read one file, or all files of a folder; of the images only headers, if at all.

        Raises:
            DataError: A file is not COCO annotations, an entry is faulty, or there is no valid box.
        """
        builder = BoxTableBuilder(root_of(path))
        classes = [
            name
            for file in require_annotation_files(path)
            for name in _File(file, builder).add_images()
        ]
        builder.require_all_masks()
        return builder.build(classes, "coco")

    def write(self, table: Table, folder: Path) -> tuple[Issue, ...]:
        """Write images/ and annotations/instances_{train,val,test}.json.

        Images without a split are listed in annotations/instances.json.
        """
        notes: list[Issue] = []
        images = copy_images(table, folder / "images", notes)
        write_files(images, to_categories(table), _objects_of, folder)
        return tuple(notes)


# --- JSON -> boxes


class _File:
    """Reads one annotation file into a builder."""

    def __init__(self, path: Path, builder: BoxTableBuilder) -> None:
        self.path, self.where, self.builder = path, printable(path), builder
        content = read_lists(path, ("images", "annotations", "categories"), "annotations")
        self.categories, self.annotations = content["categories"], content["annotations"]
        self.names = category_names(self.categories, self.where)
        self.images = self._by_id(content["images"])
        self.raw = {id: RawBoxes() for id in self.images}
        # annotation tools mark each mask of a brush as a crowd
        self.is_all_crowd = bool(self.annotations) and all(
            entry.get("iscrowd") for entry in self.annotations
        )

    def add_images(self) -> list[str]:
        """Add the images with their boxes; return the classes in order."""
        self._note_gaps()
        self._add_skeletons()
        if self.is_all_crowd:
            self.builder.log.add(_ALL_CROWD, self.path.name)
        used = self._read_annotations()
        folders = list(image_folders(self.path, self.builder.root))
        for id, entry in self.images.items():
            with skip_and_record():
                group = entry.get("group")
                self.builder.add_image(
                    image_path(entry, folders, self.where),
                    self.raw[id],
                    split_of_file(self.path),
                    str(group) if group else None,
                    stated_size(entry),
                )
        headings = self._headings(used)
        return [name for name in self.names.values() if name not in headings]

    def _by_id(self, entries: list[Entry]) -> dict[Any, Entry]:
        images: dict[Any, Entry] = {}
        for entry in entries:
            with skip_and_record():
                id = id_in(entry, "id", self.where)
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
                name, id = self._class_of(entry, where), id_in(entry, "image_id", where)
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
        id = id_in(entry, "category_id", where)
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
        segmentation = nested_polygons(entry.get("segmentation") or None)
        polygons = segmentation if isinstance(segmentation, list) else []
        if any(len(polygon) < 6 for polygon in polygons if isinstance(polygon, list)):
            self.builder.log.add(_FEW_CORNERS, image, why=where)
        if entry.get("bbox"):
            corners = _parse_bbox(entry["bbox"], where)
        elif polygons:
            corners = _bounds(polygons, where)
        else:
            self.builder.log.add(NO_BOX, image)
            return
        crowd = bool(entry.get("iscrowd")) and not self.is_all_crowd
        self.raw[id].add(corners, name, crowd, segmentation, self._keypoints_of(entry, image))

    def _keypoints_of(self, entry: Entry, image: str) -> np.ndarray | None:
        """The keypoints of an object; None without one that is labeled."""
        if not entry.get("keypoints") or entry.get("num_keypoints") == 0:
            return None
        try:
            points = parse_coco(entry["keypoints"])
        except ValueError as error:
            self.builder.log.add(INVALID, image, why=str(error)[:80])
            return None
        if not labeled_points(points):
            return None
        self.builder.log.add(KEPT, self.path.name)
        return points

    def _add_skeletons(self) -> None:
        for category in self.categories:
            name = class_name(category.get("name", ""))
            if skeleton := skeleton_of_category(category, name):
                self.builder.skeletons.setdefault(name, skeleton)

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


def _bounds(polygons: list[Any], where: str) -> tuple[float, float, float, float]:
    """The box around polygons."""
    try:
        xs = [float(x) for polygon in polygons for x in polygon[::2]]
        ys = [float(y) for polygon in polygons for y in polygon[1::2]]
        return min(xs), min(ys), max(xs), max(ys)
    except (TypeError, ValueError, OverflowError):
        raise DataError(
            "the segmentation is not lists of numbers",
            where=where,
            why=f"got {str(polygons)[:80]}",
            id="coco_invalid_polygon",
        ) from None


# --- boxes -> JSON


def _objects_of(image: CopiedImage) -> Iterator[Entry]:
    """Yield the objects of an image, with the name of their class as `category`."""
    boxes = image.boxes
    masks = boxes.masks or [None] * len(boxes.names)
    points = boxes.keypoints or [np.zeros((0, 3))] * len(boxes.names)
    for (corners, name, crowd), mask, own in zip(image.objects(), masks, points, strict=True):
        x0, y0, x1, y1 = corners
        entry = {
            "category": name,
            "iscrowd": int(crowd),
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": (x1 - x0) * (y1 - y0) if mask is None else rle_area(mask),
        }
        yield entry | ({} if mask is None else {"segmentation": mask}) | to_annotation(own)
