"""COCO annotations as a class for every pixel.

Larger objects are painted first, so that small ones remain visible. Pixels of no object are
`background`, the first class. A crowd counts as its class.

The same files contain boxes, and are read as such unless this format is named:
`foveate fit DATA --format coco_masks`. DATA is one file (instances_train2017.json), or a folder
that contains some: in it, in annotations/ or in its split folders.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from foveate.data.formats import Fit, Format, Reading
from foveate.data.formats._box_table import is_file
from foveate.data.formats._coco_export import write_files
from foveate.data.formats._coco_files import (
    Entry,
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
from foveate.data.formats._painting import paint_image
from foveate.data.formats.coco import Coco
from foveate.data.issues import quoted, skip_and_record
from foveate.data.tools import BACKGROUND, class_masks, cropped
from foveate.errors import BrokenImage, DataError
from foveate.images.codec import read_size
from foveate.messages import Message
from foveate.predictions import Regions
from foveate.types import Issue, IssueKind, Location, Sample, Table, remark
from foveate.utils.paths import printable, relative_name
from foveate.utils.rle import encode_rle_at

_MISSING = IssueKind("missing_images_of_masks", "missing images, dropped with their masks", "error")
_BOX_ONLY = IssueKind(
    "object_without_mask", "objects with a box only, which count as background", "warning"
)


class CocoMasks(Format):
    """COCO's annotations of objects, as regions."""

    summary: ClassVar[str] = "COCO polygons as masks"
    target: ClassVar[type | None] = Regions
    writes: ClassVar[tuple[type, ...]] = (Regions,)
    is_painted: ClassVar[bool] = True

    def sniff(self, path: Path) -> Reading | None:
        """A file of COCO, which is read as boxes unless masks are wanted."""
        return Reading(Fit.POSSIBLE) if Coco().sniff(path) else None

    def read(self, path: Path) -> Table:
        """Read one file, or all files of a folder; of the images only headers.

        Raises:
            DataError: A file is not COCO annotations, an annotation is faulty, or there are no
                masks or no images.
        """
        files = [_File(file) for file in require_annotation_files(path)]
        used = {file.class_of(entry) for file in files for entry in file.objects()}
        if not used:
            raise DataError(
                "no object has a mask",
                where=printable(path),
                hint="to train on boxes, use --format coco",
                id="no_object_mask",
            )
        names = dict.fromkeys(name for file in files for name in file.names.values())
        names.pop(BACKGROUND, None)
        classes = (BACKGROUND, *(name for name in names if name in used))
        text = "no object is a {name}: the class is left out"
        notes = [
            remark("class_without_objects", text, name=repr(name))
            for name in names
            if name not in used
        ]
        root = root_of(path)
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

    def write(self, table: Table, folder: Path) -> tuple[Issue, ...]:
        """Write as COCO's boxes: an object, with run lengths, for each class of an image."""
        notes: list[Issue] = []
        categories = [{"name": name} for name in table.classes if name != BACKGROUND]
        images = copy_images(table, folder / "images", notes)
        write_files(images, categories, partial(_objects_of, classes=table.classes), folder)
        return tuple(notes)


def _objects_of(image: CopiedImage, classes: tuple[str, ...]) -> Iterator[Entry]:
    """Yield the area of each class of an image, with the name of the class as `category`."""
    for name, inside in class_masks(image.regions, classes):
        part, top, left = cropped(inside) or (inside, 0, 0)
        yield {
            "category": name,
            "iscrowd": 0,
            "bbox": [left, top, part.shape[1], part.shape[0]],
            "area": int(part.sum()),
            "segmentation": encode_rle_at(part, top, left, image.size),
        }


class _File:
    """One annotation file.

    Attributes:
        path: The file.
        names: Category id -> class, in the order of ids.
        notes: Notes on the file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.where, self.notes = path, printable(path), list[Issue]()
        content = read_lists(path, ("images", "annotations", "categories"), "annotations")
        self.names = category_names(content["categories"], self.where)
        self.images = {id_in(entry, "id", self.where): entry for entry in content["images"]}
        self._by_image: dict[Any, list[Entry]] = {id: [] for id in self.images}
        self._add_annotations(content["annotations"])

    def _add_annotations(self, entries: list[Entry]) -> None:
        without_mask = 0
        for entry in entries:
            with skip_and_record():
                image = self._image_of(entry)
                if entry.get("segmentation"):
                    self._by_image[image].append(entry)
                else:
                    without_mask += 1
        if without_mask:
            text = "{count:object|objects} in {file} with a box only: counted as background"
            file = self.path.name
            message = Message(
                "issues.object_without_mask.note", text, count=without_mask, file=repr(file)
            )
            self.notes.append(Issue(_BOX_ONLY, message, without_mask, (Location(file),)))

    def _image_of(self, entry: Entry) -> int | float | str:
        """The id of the image of an annotation, whose class is known."""
        where = f"{self.where}, annotation {entry.get('id', '?')}"
        category, image = id_in(entry, "category_id", where), id_in(entry, "image_id", where)
        if category not in self.names:
            raise DataError(
                f"no category has the id {category!r}",
                where=where,
                hint="add it to categories, or remove the annotation",
                id="coco_unknown_category",
            )
        if image not in self._by_image:
            raise DataError(
                f"no image has the id {image!r}",
                where=where,
                hint="add it to images, or remove the annotation",
                id="coco_unknown_image",
            )
        return image

    def class_of(self, entry: Entry) -> str:
        """Return the class of an annotation."""
        return self.names[id_in(entry, "category_id", self.where)]

    def objects(self) -> Iterator[Entry]:
        """Yield the annotations with a mask."""
        return (entry for entries in self._by_image.values() for entry in entries)

    def samples(self, root: Path, classes: tuple[str, ...], notes: list[Issue]) -> Iterator[Sample]:
        """Yield the images that exist; add a note on the others."""
        missing = []
        in_annotations = self.path.parent.name.casefold() == "annotations"
        beside = self.path.parent.parent if in_annotations else self.path.parent
        folders = [*image_folders(self.path, root), *image_folders(self.path, beside)]
        for id, entry in self.images.items():
            path = image_path(entry, folders, self.where)
            if is_file(path):
                yield self._sample(id, path, root, classes)
            else:
                missing.append(entry["file_name"])
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

    def _sample(self, id: Any, path: Path, root: Path, classes: tuple[str, ...]) -> Sample:
        size = stated_size(self.images[id])
        if size is not None:
            with skip_and_record():
                _require_size(path, size)
        entries = sorted(self._by_image[id], key=_stated_area, reverse=True)
        shapes = tuple(
            (classes.index(self.class_of(entry)), entry["segmentation"]) for entry in entries
        )
        key = relative_name(path, root)
        mask = partial(paint_image, shapes, size, path, f"{self.where}, {key}")
        group = self.images[id].get("group")  # an extension of COCO
        split = split_of_file(self.path)
        return Sample(path, key, Regions(mask), split, str(group) if group else None)


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
