"""COCO panoptic: a JSON of segments, and a PNG per image whose colors are ids of segments.

    annotations/panoptic_train2017.json    annotations/panoptic_train2017/000000000009.png
    train2017/000000000009.jpg

The color of a pixel is the id of its segment: R + 256 G + 65536 B; 0 is no segment, and ignored.
The class of a segment is that of its category, of things (a car) as well as of stuff (the sky);
which pixels belong to which thing is lost. A crowd counts as its class.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from foveate.data.discovery import list_folder
from foveate.data.formats import Fit, Format, Reading
from foveate.data.formats._box_table import is_file
from foveate.data.formats._coco_files import (
    SPLIT_ORDER,
    Entry,
    category_names,
    id_in,
    image_folders,
    image_path,
    is_panoptic,
    read_lists,
    root_of,
    split_of_file,
)
from foveate.data.formats._mask_pairs import key_of
from foveate.data.formats._mask_values import pack
from foveate.data.formats.masks import require_equal_size
from foveate.data.issues import counted_issue, skip_and_record
from foveate.errors import BrokenImage, DataError
from foveate.images.codec import read_image, read_size
from foveate.predictions import IGNORE_INDEX, Regions
from foveate.types import Issue, IssueKind, Location, Sample, Table, remark
from foveate.utils.paths import printable

_NO_IMAGE = IssueKind(
    "panoptic_missing_image", "missing images, dropped with their segments", "error"
)
_NO_MASK = IssueKind("panoptic_missing_mask", "missing PNGs of segments, dropped", "error")


class CocoPanoptic(Format):
    """COCO's panoptic annotations, as regions."""

    summary: ClassVar[str] = "COCO panoptic segments as masks"
    target: ClassVar[type | None] = Regions

    def sniff(self, path: Path) -> Reading | None:
        """A panoptic annotation file, or a folder with some."""
        try:
            return Reading(Fit.LIKELY) if _panoptic_files(path) else None
        except (DataError, OSError):
            return None

    def read(self, path: Path) -> Table:
        """Read one file, or all files of a folder; of images and PNGs only headers.

        Raises:
            DataError: A file is not COCO panoptic, an entry is faulty, or there are no images.
        """
        files = _panoptic_files(path) or ([path] if path.is_file() else [])
        if not files:
            raise DataError(
                "there are no panoptic annotations of COCO in this folder",
                where=printable(path),
                hint="give the .json file itself",
                id="panoptic_no_annotations",
            )
        root, notes = root_of(path), list[Issue]()
        read = [_File(file, root, notes) for file in files]
        names = list(dict.fromkeys(name for file in read for name in file.names.values()))
        used = {name for file in read for name in file.used}
        classes = tuple(name for name in names if name in used)
        samples = [sample for file in read for sample in file.samples(classes)]
        if not samples:
            raise DataError(
                "the images of these annotations do not exist",
                where=printable(path),
                why="; ".join(map(str, notes)) or None,
                hint="put the images beside the annotations, and the PNGs into a folder with the"
                " name of the .json file",
                id="panoptic_no_images",
            )
        notes.append(_things_note(read, classes, len(names)))
        ordered = tuple(sorted(samples, key=lambda sample: sample.key))
        return Table(ordered, classes, "coco_panoptic", root, notes=tuple(notes))


def _panoptic_files(path: Path) -> list[Path]:
    """The panoptic annotation files at a path, those of train first."""
    if path.is_file():
        return [path] if is_panoptic(path) else []
    folders = [path, path / "annotations"]
    files = [
        file
        for folder in folders
        if folder.is_dir()
        for file in list_folder(folder)
        if is_panoptic(file)
    ]
    return sorted(files, key=lambda file: (SPLIT_ORDER.index(split_of_file(file)), file))


def _things_note(files: list[_File], classes: tuple[str, ...], count: int) -> Issue:
    text = (
        "{things:class|classes} of things and {stuff} of stuff: which pixels belong to which thing"
        " is lost, and pixels of no segment are ignored; {crowds:crowd|crowds} read as the class of"
        " the members; {unused:category|categories} without segments left out"
    )
    things = {name for file in files for name in file.things} & set(classes)
    return remark(
        "panoptic_things",
        text,
        things=len(things),
        stuff=len(classes) - len(things),
        crowds=sum(file.crowds for file in files),
        unused=count - len(classes),
    )


class _File:
    """One annotation file.

    Attributes:
        names: Category id -> class, in the order of ids.
        things: The classes of things.
        used: The classes of its segments.
        crowds: Number of segments that are crowds.
    """

    def __init__(self, path: Path, root: Path, notes: list[Issue]) -> None:
        self.path, self.root, self.where, self.notes = path, root, printable(path), notes
        content = read_lists(path, ("images", "annotations", "categories"), "annotations")
        self.names = category_names(content["categories"], self.where)
        self.things = {
            self.names[id]
            for entry in content["categories"]
            if entry.get("isthing") and (id := entry.get("id")) in self.names
        }
        self.used, self.crowds = set[str](), 0
        self._images = {id_in(entry, "id", self.where): entry for entry in content["images"]}
        self._annotations = content["annotations"]
        self._segments = [self._parse(entry) for entry in self._annotations]

    def _parse(self, entry: Entry) -> dict[int, str] | None:
        """Segment id -> class; None for an entry with a fault."""
        where = f"{self.where}, image {entry.get('image_id', '?')}"
        segments = entry.get("segments_info")
        with skip_and_record():
            if id_in(entry, "image_id", where) not in self._images:
                raise DataError(
                    f"no image has the id {entry['image_id']!r}",
                    where=where,
                    hint="add it to images, or remove the annotation",
                    id="coco_unknown_image",
                )
            if not isinstance(segments, list) or not isinstance(entry.get("file_name"), str):
                raise DataError(
                    "the annotation is not a panoptic one",
                    where=where,
                    why=f"its keys are: {', '.join(entry)}",
                    hint="it needs file_name and segments_info; objects are read by --format coco",
                    id="panoptic_entry",
                )
            classes = dict(self._class_of(segment, where) for segment in segments)
            self.used.update(classes.values())
            self.crowds += sum(bool(segment.get("iscrowd")) for segment in segments)
            return classes
        return None

    def _class_of(self, segment: Any, where: str) -> tuple[int, str]:
        id = segment.get("id") if isinstance(segment, dict) else None
        category = segment.get("category_id") if isinstance(segment, dict) else None
        if type(id) is not int or category not in self.names:
            raise DataError(
                f"a segment has no id, or no category that is listed: {str(segment)[:80]}",
                where=where,
                hint="add its category to categories, or remove the annotation",
                id="panoptic_segment",
            )
        return id, self.names[category]

    def samples(self, classes: tuple[str, ...]) -> Iterator[Sample]:
        """Yield the images that exist; add notes on the others."""
        folders = list(image_folders(self.path, self.root))
        missing: dict[IssueKind, list[Location]] = {_NO_IMAGE: [], _NO_MASK: []}
        for entry, segments in zip(self._annotations, self._segments, strict=True):
            if segments is None:
                continue
            image_entry = self._images[id_in(entry, "image_id", self.where)]
            image = image_path(image_entry, folders, self.where)
            mask = self._mask_path(entry["file_name"])
            if not is_file(image):
                missing[_NO_IMAGE].append(Location(printable(str(image_entry["file_name"]))))
            elif not is_file(mask):
                missing[_NO_MASK].append(Location(printable(entry["file_name"])))
            else:
                _check_size(image, mask)
                indices = {id: classes.index(name) for id, name in segments.items()}
                target = Regions(partial(read_segments, mask, indices))
                key = key_of(image, self.root)
                yield Sample(image, key, target, split_of_file(self.path))
        self.notes += [counted_issue(kind, names) for kind, names in missing.items() if names]

    def _mask_path(self, name: str) -> Path:
        """Where the PNG of an entry is: in a folder that is called like the file, or beside it."""
        stem = self.path.stem
        folders = [self.path.with_suffix(""), self.path.parent, self.root / stem, self.root]
        folders += [folder / "masks" for folder in (self.path.parent, self.root)]
        paths = [folder / name.replace("\\", "/") for folder in folders]
        return next((path for path in paths if is_file(path)), paths[0])


def _check_size(image: Path, mask: Path) -> None:
    """Raise DataError if the sizes differ; what cannot be opened is skipped when it is read."""
    try:
        image_size, own_size = read_size(image), read_size(mask)
    except BrokenImage:
        return
    with skip_and_record():
        require_equal_size(image, image_size, mask, own_size)


def read_segments(path: Path, indices: dict[int, int]) -> np.ndarray:
    """Read a PNG of segments as (H, W) int64 class indices.

    Args:
        path: The PNG.
        indices: Segment id -> class index; 0 and other ids are ignored.

    Raises:
        BrokenImage: It cannot be decoded.
    """
    packed = pack(read_image(path)[0][..., ::-1])  # blue is the highest byte of an id
    ids, inverse = np.unique(packed, return_inverse=True)
    classes = np.array([indices.get(int(id), IGNORE_INDEX) for id in ids], dtype=np.int64)
    return classes[inverse].reshape(packed.shape)
