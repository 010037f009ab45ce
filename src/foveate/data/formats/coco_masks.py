"""COCO annotations as a class for every pixel: polygons and run lengths, the larger painted first, so that small things show.

The same files hold boxes, and are taken for detection unless this format is named: `foveate fit DATA --format coco_masks`.
DATA is one file (instances_train2017.json), or a folder with one or more, in it, in annotations/ or in its split folders.
Pixels of no object are `background`, the first class. A crowd counts as its class.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from foveate.data.formats import Format
from foveate.data.formats._boxed import is_there
from foveate.data.formats._coco_files import annotation_files, image_folders, split_of
from foveate.data.issues import Issue, IssueKind, Location, skip_and_record
from foveate.errors import BrokenImage, DataError
from foveate.images import codec as images
from foveate.predictions import Regions
from foveate.types import Sample, Split, Table
from foveate.utils.paths import printable
from foveate.utils.rle import decode_rle, parse_segmentation

_BACKGROUND = "background"
_MISSING = IssueKind("images that are missing, dropped with their masks", "error")
_BOX_ONLY = IssueKind("objects with a box only, which are background here", "warning")

Shape = tuple[int, Any]
"""The place of a class, and COCO's segmentation: [[x0, y0, ...], ...] or {'size': [H, W], 'counts': text or numbers}"""


class CocoMasks(Format):
    summary: ClassVar[str] = "COCO polygons as masks"

    def sniff(self, path: Path) -> bool:
        """Never: a COCO file is taken for detection unless this format is named."""
        return False

    def read(self, path: Path) -> Table:
        """The table of one file or of all files of a folder. Only heads of images are read."""
        files = [_File.of(file) for file in _files(path)]
        used = {file.names[shape["category_id"]] for file in files for shape in file.shapes()}
        if not used:
            raise DataError(
                "no object here has a mask",
                where=printable(path),
                hint="for boxes, use --format coco",
            )
        order = list(
            dict.fromkeys(
                name for file in files for name in file.names.values() if name != _BACKGROUND
            )
        )
        classes = (_BACKGROUND, *(name for name in order if name in used))
        notes = [
            f"no object is a {name!r}: the class is left out" for name in order if name not in used
        ]
        root = path if path.is_dir() else path.parent
        samples = [sample for file in files for sample in file.samples(root, classes, notes)]
        if not samples:
            raise DataError(
                "the images of these annotations are missing", where=printable(path), why=notes[-1]
            )
        notes += [note for file in files for note in file.notes]
        return Table(
            tuple(sorted(samples, key=lambda sample: sample.key)),
            classes,
            "coco_masks",
            root,
            notes=tuple(notes),
        )


def _files(path: Path) -> list[Path]:
    files = [path] if path.is_file() else annotation_files(path)
    if not files:
        raise DataError(
            "there are no COCO annotations here",
            where=printable(path),
            hint="give the .json file itself",
        )
    return files


@dataclass
class _File:
    """One file of annotations. `names`: category id -> class, in the order of ids."""

    path: Path
    images: list[dict[str, Any]]
    names: dict[int, str]
    by_image: dict[int, list[dict[str, Any]]]
    split: Split | None
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, path: Path) -> _File:
        try:
            content = json.loads(path.read_text(encoding="utf-8-sig"))
            names = {
                int(item["id"]): str(item["name"])
                for item in sorted(content["categories"], key=lambda item: item["id"])
            }
            pictures = [
                {**_named(item), **{side: int(item[side]) for side in ("height", "width")}}
                for item in content["images"]
            ]
            by_image: dict[int, list[dict[str, Any]]] = {picture["id"]: [] for picture in pictures}
            bare = 0
            for shape in content["annotations"]:
                with skip_and_record():
                    _refuse_unknown(shape, names, by_image, path)
                    bare += not shape.get("segmentation")
                    by_image[shape["image_id"]] += [shape] if shape.get("segmentation") else []
        except (
            OSError,
            ValueError,
            TypeError,
            KeyError,
            AttributeError,
            OverflowError,
            RecursionError,
        ) as error:
            why = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            raise DataError(
                "this is not a file of COCO annotations", where=printable(path), why=why
            ) from None
        file = cls(path, pictures, names, by_image, split_of(path))
        if bare:
            told = f"{bare} objects in {path.name!r} have a box only: they are background here"
            file.notes.append(Issue(told, _BOX_ONLY, bare, (Location(path.name),)))
        return file

    def shapes(self) -> Iterator[dict[str, Any]]:
        return (shape for shapes in self.by_image.values() for shape in shapes)

    def samples(self, root: Path, classes: tuple[str, ...], notes: list[str]) -> Iterator[Sample]:
        missing = []
        beside = (
            self.path.parent.parent
            if self.path.parent.name.casefold() == "annotations"
            else self.path.parent
        )
        folders = [*image_folders(self.path, root), *image_folders(self.path, beside)]
        for picture in self.images:
            path = _picture_path(folders, picture["file_name"])
            if path is None:
                missing.append(picture["file_name"])
                continue
            size = (picture["height"], picture["width"])
            with skip_and_record():
                _refuse_other_size(path, size)
            ordered = sorted(self.by_image[picture["id"]], key=_area, reverse=True)
            shapes = tuple(
                (classes.index(self.names[shape["category_id"]]), shape["segmentation"])
                for shape in ordered
            )
            key = printable(path.relative_to(root) if path.is_relative_to(root) else path)
            yield Sample(
                path,
                key,
                Regions(partial(painted, shapes, size, f"{printable(self.path)}, {key}")),
                self.split,
            )
        if missing:
            shown = ", ".join(map(repr, missing[:3])) + (", ..." if len(missing) > 3 else "")
            told = f"{len(missing)} of {len(self.images)} images of {self.path.name!r} are missing and dropped: {shown}"
            notes.append(Issue(told, _MISSING, len(missing), tuple(map(Location, missing))))


def _area(shape: dict[str, Any]) -> float:
    """As it is stated; 0 where it is not."""
    area = shape.get("area")
    return float(min(area, 1e18)) if isinstance(area, int | float) and area == area else 0.0


def _named(item: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(item["file_name"], str):
        raise ValueError(f"file_name is {item['file_name']!r}"[:200])
    return {"id": item["id"], "file_name": item["file_name"]}


def painted(shapes: tuple[Shape, ...], size: tuple[int, int], where: str) -> np.ndarray:
    """(H, W) int64 places; later shapes lie on top, and 0 is left where there is none. `size` is (H, W)."""
    mask = np.zeros(size, dtype=np.int64)
    for place, shape in shapes:
        try:
            mask[_inside(shape, size)] = place
        except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
            why = f"it fits no picture of {size[1]} x {size[0]} px: {error}"
            raise DataError(
                "a shape of this image cannot be painted", where=where, why=why
            ) from None
    return mask


def _inside(shape: Any, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool. Polygons of less than three corners are nothing."""
    if isinstance(shape, list):
        shape = [polygon for polygon in shape if len(polygon) >= 6]
        if not shape:
            return np.zeros(size, dtype=bool)
    runs = parse_segmentation(shape, size)
    if runs is None:
        raise ValueError("neither polygons nor run lengths of this size")
    return decode_rle(runs)


def _refuse_unknown(
    shape: dict[str, Any], names: dict[int, str], images_: Collection[int], path: Path
) -> None:
    where = f"{printable(path)}, annotation {shape.get('id', '?')}"
    if shape["category_id"] not in names:
        raise DataError(
            f"no category has the id {shape['category_id']!r}",
            where=where,
            hint="add it to categories",
        )
    if shape["image_id"] not in images_:
        raise DataError(f"no image has the id {shape['image_id']!r}", where=where)


def _picture_path(folders: list[Path], name: str) -> Path | None:
    return next((folder / name for folder in folders if is_there(folder / name)), None)


def _refuse_other_size(path: Path, size: tuple[int, int]) -> None:
    try:
        got = images.read_size(path)
    except BrokenImage:  # skipped, and counted, when it is read
        return
    if got != size:
        why = (
            f"the image is {got[1]} x {got[0]} px, its annotations are for {size[1]} x {size[0]} px"
        )
        raise DataError(
            "an image is not as large as its annotations say", where=printable(path), why=why
        )
