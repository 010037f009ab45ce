"""Shared by the formats of boxes: images and raw boxes -> a Table."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from foveate.data.boxes import RawBoxes, class_name, validate_boxes
from foveate.data.image_rows import partial_split_notes
from foveate.data.issues import IssueLog, counted_issue, is_collecting, issue_log
from foveate.errors import BrokenImage, DataError
from foveate.images.codec import read_size
from foveate.predictions import Boxes
from foveate.types import (
    Issue,
    IssueKind,
    Location,
    Sample,
    Skeleton,
    Split,
    StoredImage,
    Table,
    content_of,
    remark,
)
from foveate.utils.paths import printable, relative_name

CLASSES = "classes.txt"
NO_BOX = IssueKind("object_without_box", "objects without a box, dropped", "error")
_MISSING = IssueKind("missing_images_of_boxes", "missing images, dropped with their boxes", "error")
_UNREADABLE = IssueKind(
    "unreadable_image_size",
    "images whose size cannot be read, dropped with their boxes",
    "error",
    "files",
)
_OTHER_SIZE = IssueKind(
    "stated_size_differs",
    "images whose annotations state a size that they do not have",
    "warning",
    hint="check whether the boxes were drawn before the image was resized, or rotated according to"
    " EXIF: boxes must refer to the upright image",
)
_NO_MASK = IssueKind(
    "object_mask_missing",
    "images with an object without a mask of the image's size; therefore only boxes are read",
    "warning",
)
_REPEATED = IssueKind(
    "image_listed_twice", "images that are listed twice; the first entry is kept", "warning"
)


@dataclass
class BoxTableBuilder:
    """Collects the images of a dataset and validates their boxes.

    Attributes:
        root: Keys are relative to it; an image outside has its full path as key.
        log: Problems of images and boxes; they become notes of the table.
        notes: Further notes.
        samples: The images so far, by key.
        stated: Number of boxes before validation.
        skeletons: The keypoints of classes, by class.
    """

    root: Path
    log: IssueLog = field(default_factory=issue_log)
    notes: list[Issue] = field(default_factory=list)
    samples: dict[str, Sample] = field(default_factory=dict)
    stated: int = 0
    skeletons: dict[str, Skeleton] = field(default_factory=dict)

    def add_image(
        self,
        path: Path | StoredImage,
        raw: RawBoxes,
        split: Split | None = None,
        group: str | None = None,
        stated_size: tuple[int, int] | None = None,
        key: str = "",
    ) -> tuple[int, int] | None:
        """Add an image and its boxes; one that is missing or broken is logged and left out.

        Args:
            path: The image.
            raw: Its objects, in pixels.
            split: The split that the data assign it to.
            group: The group that the data assign it to.
            stated_size: Its (H, W) according to the annotations; by default it is read from the
                header of the file.
            key: Its name in the table; needed for an image that is not a file.

        Returns:
            Its (H, W); None if it was left out.
        """
        key = key if isinstance(path, StoredImage) else self.key(path)
        if key in self.samples:
            self.log.add(_REPEATED, key)
            return None
        if isinstance(path, Path):
            if is_collecting() and stated_size is not None:
                self._check_size(path, key, stated_size)
            path = Path(os.path.normpath(path))
        # a mask must have the size of the image itself, whatever the annotations state
        trusted = stated_size is not None and not any(raw.masks) and _exists(path)
        size = stated_size if trusted else self.measure(path, key)
        if any(raw.masks) and stated_size not in (None, size):
            raw.masks.clear()
        if size is not None:
            self.stated += len(raw.names)
            boxes, problems = validate_boxes(raw, size)
            for problem, count in problems.items():
                self.log.add(problem, key, count)
            self.samples[key] = Sample(path, key, boxes, split, group)
        return size

    def require_all_masks(self) -> None:
        """Drop all masks, and note it, if some objects have none.

        Training and scores would count those as empty.
        """
        targets = {
            key: sample.target
            for key, sample in self.samples.items()
            if isinstance(sample.target, Boxes)
        }
        without = [key for key, boxes in targets.items() if boxes.names and boxes.masks is None]
        if without and any(boxes.masks for boxes in targets.values()):
            self.notes.append(counted_issue(_NO_MASK, [Location(key) for key in without]))
            self.drop_masks()

    def drop_masks(self) -> None:
        """Keep the boxes of all objects without their masks."""
        for key, sample in self.samples.items():
            if isinstance(sample.target, Boxes):
                self.samples[key] = replace(sample, target=replace(sample.target, masks=None))

    def _check_size(self, path: Path, key: str, stated: tuple[int, int]) -> None:
        """Log an image of another size; one that cannot be read is found when it is opened."""
        with suppress(BrokenImage):
            height, width = read_size(path)
            if (height, width) != stated:
                why = f"stated {stated[1]} x {stated[0]} px, actual {width} x {height} px"
                self.log.add(_OTHER_SIZE, key, why=why)

    def measure(self, image: Path | StoredImage, key: str = "") -> tuple[int, int] | None:
        """Return the (H, W) of an image; None, and log it, if it is missing or broken.

        Args:
            image: The image.
            key: Its name, if it is not that of its path.
        """
        key = key or (self.key(image) if isinstance(image, Path) else "")
        if not _exists(image):
            self.log.add(_MISSING, key)
            return None
        try:
            return read_size(content_of(image))
        except BrokenImage as error:
            self.log.add(_UNREADABLE, key, why=error.why or error.what)
        return None

    def key(self, path: Path) -> str:
        """Return the name of an image in the table."""
        return relative_name(path, self.root)

    def build(self, classes: Iterable[str], format: str) -> Table:
        """Return the table.

        Args:
            classes: The classes in order.
            format: The name of the format.

        Raises:
            DataError: There are no images, no classes, or no valid box among many.
        """
        samples = tuple(self.samples[key] for key in sorted(self.samples))
        self.notes += partial_split_notes(samples)
        notes, names = (*self.notes, *self.log.issues()), tuple(dict.fromkeys(classes))
        where, why = printable(self.root), "; ".join(map(str, notes))
        if not samples:
            raise DataError(
                "there are no images with boxes",
                where=where,
                why=why or "the annotations list no image",
                hint="check where the images are, and how the annotations refer to them",
                id="no_images_with_boxes",
            )
        if self.stated and not any(
            isinstance(sample.target, Boxes) and sample.target.names for sample in samples
        ):
            hint = "check whether the format expects pixels or fractions of width and height"
            raise DataError(
                "none of the boxes is valid", where=where, why=why, hint=hint, id="no_valid_box"
            )
        if not names:
            raise DataError(
                "there are no classes",
                where=where,
                why="none of the images has an annotated object",
                id="no_classes",
            )
        return Table(
            samples=samples,
            classes=names,
            format=format,
            root=self.root,
            notes=notes,
            skeletons=tuple(self.skeletons.values()),
        )


def _exists(image: Path | StoredImage) -> bool:
    return isinstance(image, StoredImage) or is_file(image)


def is_file(path: Path) -> bool:
    """Whether a file exists; False for what cannot be a path (too long a name, say)."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def order_classes(folder: Path, used: Iterable[str], notes: list[Issue]) -> list[str]:
    """Return the classes in the order of classes.txt, if `folder` has one, then the others sorted.

    Args:
        folder: Where classes.txt may be.
        used: Classes that boxes have.
        notes: A note on each class that is not in the file is added here.

    Raises:
        DataError: The file cannot be read.
    """
    file, names = folder / CLASSES, sorted(set(used))
    if not file.is_file():
        return names
    try:
        listed = [class_name(line) for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            "the list of class names cannot be read",
            where=printable(file),
            why=str(error),
            hint="save it as plain text in UTF-8",
            id="unreadable_class_names",
        ) from None
    others = [name for name in names if name not in set(listed)]
    text = "the class {name} is not in {file}: added at the end"
    notes += [remark("class_not_listed", text, name=repr(name), file=CLASSES) for name in others]
    return [name for name in (*listed, *others) if name]
