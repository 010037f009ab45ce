"""COCO annotations as a class for every pixel.

Larger objects are painted first, so that small ones remain visible. Pixels of no object are
`background`, the first class. A crowd counts as its class.

The same files contain boxes, and are read as such unless this format is named:
`foveate fit DATA --format coco_masks`. DATA is one file (instances_train2017.json), or a folder
that contains some: in it, in annotations/ or in its split folders.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from foveate.data.formats import Format
from foveate.data.formats._box_table import is_file
from foveate.data.formats._coco_files import annotation_files, image_folders, split_of_file
from foveate.data.issues import quoted, skip_and_record
from foveate.errors import BrokenImage, DataError
from foveate.images.codec import read_size
from foveate.messages import Message
from foveate.predictions import Regions
from foveate.types import Issue, IssueKind, Location, Sample, Table, remark
from foveate.utils.paths import printable
from foveate.utils.rle import decode_rle, parse_segmentation

_BACKGROUND = "background"
_MISSING = IssueKind("missing_images_of_masks", "missing images, dropped with their masks", "error")
_BOX_ONLY = IssueKind(
    "object_without_mask", "objects with a box only, which count as background", "warning"
)
_MALFORMED = (
    *(OSError, ValueError, TypeError, KeyError),
    *(AttributeError, OverflowError, RecursionError),
)

Shape = tuple[int, Any]
"""A class index, and COCO's segmentation of an object: polygons [[x0, y0, ...], ...], or run
lengths {'size': [H, W], 'counts': text or numbers}."""


class CocoMasks(Format):
    """COCO's annotations of objects, as regions."""

    summary: ClassVar[str] = "COCO polygons as masks"

    def sniff(self, path: Path) -> bool:
        """Never: a COCO file is read as boxes unless this format is named."""
        return False

    def read(self, path: Path) -> Table:
        """Read one file, or all files of a folder; of the images only headers.

        Raises:
            DataError: A file is not COCO annotations, an annotation is faulty, or there are no
                masks or no images.
        """
        files = [_File.read(file) for file in _annotation_files(path)]
        used = {file.names[entry["category_id"]] for file in files for entry in file.objects()}
        if not used:
            raise DataError(
                "no object has a mask",
                where=printable(path),
                hint="to train on boxes, use --format coco",
                id="no_object_mask",
            )
        names = dict.fromkeys(name for file in files for name in file.names.values())
        names.pop(_BACKGROUND, None)
        classes = (_BACKGROUND, *(name for name in names if name in used))
        text = "no object is a {name}: the class is left out"
        notes = [
            remark("class_without_objects", text, name=repr(name))
            for name in names
            if name not in used
        ]
        root = path if path.is_dir() else path.parent
        samples = [sample for file in files for sample in file.samples(root, classes, notes)]
        if not samples:
            raise DataError(
                "the images of these annotations do not exist",
                where=printable(path),
                why=str(notes[-1]),
                hint="put them beside the annotations, or into a folder images",
                id="coco_missing_images",
            )
        notes += [note for file in files for note in file.notes]
        ordered = tuple(sorted(samples, key=lambda sample: sample.key))
        return Table(ordered, classes, "coco_masks", root, notes=tuple(notes))


def _annotation_files(path: Path) -> list[Path]:
    files = [path] if path.is_file() else annotation_files(path)
    if not files:
        raise DataError(
            "there are no COCO annotations in this folder",
            where=printable(path),
            hint="give the .json file itself",
            id="coco_no_annotations",
        )
    return files


@dataclass
class _File:
    """One annotation file.

    Attributes:
        path: The file.
        images: id, file_name, height and width of each image.
        names: Category id -> class, in the order of ids.
        by_image: Image id -> annotations with a mask.
        notes: Notes on the file.
    """

    path: Path
    images: list[dict[str, Any]]
    names: dict[int, str]
    by_image: dict[int, list[dict[str, Any]]]
    notes: list[Issue] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> _File:
        try:
            content = json.loads(path.read_text(encoding="utf-8-sig"))
            categories = sorted(content["categories"], key=lambda entry: entry["id"])
            names = {int(entry["id"]): str(entry["name"]) for entry in categories}
            images = [_parse_image(entry) for entry in content["images"]]
            file = cls(path, images, names, {image["id"]: [] for image in images})
            file._add_annotations(content["annotations"])
        except _MALFORMED as error:
            why = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            raise DataError(
                "the file does not contain COCO annotations",
                where=printable(path),
                why=why,
                id="coco_invalid_annotations",
            ) from None
        return file

    def _add_annotations(self, entries: list[dict[str, Any]]) -> None:
        without_mask = 0
        for entry in entries:
            with skip_and_record():
                self._require_known_ids(entry)
                if entry.get("segmentation"):
                    self.by_image[entry["image_id"]].append(entry)
                else:
                    without_mask += 1
        if without_mask:
            text = "{count:object|objects} in {file} with a box only: counted as background"
            file = self.path.name
            message = Message(
                "issues.object_without_mask.note", text, count=without_mask, file=repr(file)
            )
            self.notes.append(Issue(_BOX_ONLY, message, without_mask, (Location(file),)))

    def _require_known_ids(self, entry: dict[str, Any]) -> None:
        where = f"{printable(self.path)}, annotation {entry.get('id', '?')}"
        if entry["category_id"] not in self.names:
            raise DataError(
                f"no category has the id {entry['category_id']!r}",
                where=where,
                hint="add it to categories, or remove the annotation",
                id="coco_unknown_category",
            )
        if entry["image_id"] not in self.by_image:
            raise DataError(
                f"no image has the id {entry['image_id']!r}",
                where=where,
                hint="add it to images, or remove the annotation",
                id="coco_unknown_image",
            )

    def objects(self) -> Iterator[dict[str, Any]]:
        """Yield the annotations with a mask."""
        return (entry for entries in self.by_image.values() for entry in entries)

    def samples(self, root: Path, classes: tuple[str, ...], notes: list[Issue]) -> Iterator[Sample]:
        """Yield the images that exist; add a note on the others."""
        missing = []
        in_annotations = self.path.parent.name.casefold() == "annotations"
        beside = self.path.parent.parent if in_annotations else self.path.parent
        folders = [*image_folders(self.path, root), *image_folders(self.path, beside)]
        for image in self.images:
            paths = (folder / image["file_name"] for folder in folders)
            path = next((path for path in paths if is_file(path)), None)
            if path is None:
                missing.append(image["file_name"])
            else:
                yield self._sample(image, path, root, classes)
        if missing:
            message = Message(
                "issues.missing_images_of_masks.note",
                "{count} of {total:image|images} of {file} are missing and dropped: {names}",
                count=len(missing),
                total=len(self.images),
                file=repr(self.path.name),
                names=quoted(missing),
            )
            notes.append(Issue(_MISSING, message, len(missing), tuple(map(Location, missing))))

    def _sample(
        self, image: dict[str, Any], path: Path, root: Path, classes: tuple[str, ...]
    ) -> Sample:
        size = (image["height"], image["width"])
        with skip_and_record():
            _require_size(path, size)
        entries = sorted(self.by_image[image["id"]], key=_stated_area, reverse=True)
        shapes = tuple(
            (classes.index(self.names[entry["category_id"]]), entry["segmentation"])
            for entry in entries
        )
        key = printable(path.relative_to(root) if path.is_relative_to(root) else path)
        mask = partial(paint, shapes, size, f"{printable(self.path)}, {key}")
        return Sample(path, key, Regions(mask), split_of_file(self.path))


def _parse_image(entry: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(entry["file_name"], str):
        raise ValueError(f"file_name is {entry['file_name']!r}"[:200])
    sides = {side: int(entry[side]) for side in ("height", "width")}
    return {"id": entry["id"], "file_name": entry["file_name"], **sides}


def _stated_area(entry: dict[str, Any]) -> float:
    """0 if none is stated."""
    area = entry.get("area")
    return float(min(area, 1e18)) if isinstance(area, int | float) and area == area else 0.0


def _require_size(path: Path, size: tuple[int, int]) -> None:
    try:
        actual = read_size(path)
    except BrokenImage:  # skipped, and counted, when it is read
        return
    if actual != size:
        raise DataError(
            "the image does not have the size that its annotations state",
            where=printable(path),
            why=f"it has {actual[1]} x {actual[0]} px, the annotations state"
            f" {size[1]} x {size[0]} px",
            id="coco_size_differs",
        )


def paint(shapes: tuple[Shape, ...], size: tuple[int, int], where: str) -> np.ndarray:
    """Paint objects over each other.

    Args:
        shapes: The objects; later ones cover earlier ones.
        size: (H, W) of the image.
        where: The image, for messages.

    Returns:
        (H, W) int64 class indices, 0 where there is no object.

    Raises:
        DataError: A segmentation does not fit the image.
    """
    mask = np.zeros(size, dtype=np.int64)
    for index, segmentation in shapes:
        try:
            mask[_inside(segmentation, size)] = index
        except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
            raise DataError(
                "an object of the image cannot be painted",
                where=where,
                why=f"its segmentation does not fit an image of {size[1]} x {size[0]} px: {error}",
                id="coco_invalid_segmentation",
            ) from None
    return mask


def _inside(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool. Polygons with fewer than three corners have no area."""
    if isinstance(segmentation, list):
        segmentation = [polygon for polygon in segmentation if len(polygon) >= 6]
        if not segmentation:
            return np.zeros(size, dtype=bool)
    runs = parse_segmentation(segmentation, size)
    if runs is None:
        raise ValueError("it is neither polygons nor run lengths of this size")
    return decode_rle(runs)
