"""Shared by the formats of annotation tools: images with objects and tags -> a Table.

A tool's file states boxes, outlines and tags of images side by side. Its format reads the boxes,
with the outlines as masks; the formats `outlines` and `tags` read the rest of the same files.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from foveate.data.boxes import RawBoxes, class_name
from foveate.data.discovery import remember
from foveate.data.formats import Fit, Format, Reading
from foveate.data.formats._box_table import BoxTableBuilder, is_file
from foveate.data.formats._coco_files import stated_size
from foveate.data.issues import IssueLog, skip_and_record
from foveate.errors import BrokenImage, DataError
from foveate.images.codec import read_size
from foveate.predictions import Boxes, Labels, Regions
from foveate.types import Issue, IssueKind, Sample, Split, Table, remark
from foveate.utils.paths import printable
from foveate.utils.rle import decode_rle, encode_rle, encode_rle_at, parse_segmentation

Corners = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels."""

_MAX_SIDE = 1_000_000  # px of an image
_CORNERS_OF_CURVE = 64  # of the polygon that replaces a circle or an ellipse
_MANY_OUTLINES = 0.5  # share of objects with an outline from which boxes count as outlines, too

READ_AS: dict[type, str] = {Labels: "tags", Regions: "outlines"}
"""The formats that read other targets than boxes from the files of tools."""
LOST = IssueKind(
    "tool_lost_shapes", "shapes without an area (points, lines and the like), dropped", "warning"
)
ATTRIBUTES = IssueKind("tool_attributes", "objects with attributes, which are not read")
CURVES = IssueKind("tool_curves", "circles and ellipses, replaced by polygons of 64 corners")
ROTATED = IssueKind("tool_rotated", "rotated boxes, replaced by the upright boxes around them")
_FEW_CORNERS = IssueKind(
    "tool_few_corners", "polygons with fewer than three corners, dropped", "warning"
)
_BOXES_AS_MASKS = IssueKind(
    "tool_boxes_as_masks", "boxes among outlines; their masks are the whole boxes", "warning"
)
_OUTLINES_AS_BOXES = IssueKind(
    "tool_outlines_as_boxes", "outlines among many boxes, replaced by their bounding boxes"
)
_JOINED = IssueKind("tool_joined", "polygons of a group, joined to one object")
_UNTAGGED = IssueKind("tool_untagged", "images without a tag, skipped", "warning")
_MISSING = IssueKind("missing_images_of_tags", "missing images, dropped with their tags", "error")


@dataclass
class AnnotatedImage:
    """What a tool states about an image.

    Attributes:
        path: The image.
        split: Its split, if stated.
        group: Its group, if stated: a video, say.
        size: (H, W), if stated.
        raw: Its objects.
        outlined: For each object, whether it has an outline; the mask of others is their box.
        tags: Classes of the whole image.
        joined: Number of polygons that were joined to an earlier one of their group.
    """

    path: Path
    split: Split | None = None
    group: str | None = None
    size: tuple[int, int] | None = None
    raw: RawBoxes = field(default_factory=RawBoxes)
    outlined: list[bool] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    joined: int = 0
    _groups: dict[object, int] = field(default_factory=dict)

    def add_box(
        self, corners: Corners, name: str, outline: list[float] | None = None, crowd: bool = False
    ) -> None:
        """Add a box; a rotated one with its `outline` x, y, x, y, ..."""
        x0, y0, x1, y1 = corners
        self.raw.add(corners, name, crowd, [outline or [x0, y0, x1, y0, x1, y1, x0, y1]])
        self.outlined.append(False)

    def add_polygon(self, points: list[float], name: str, group: object = None) -> None:
        """Add a polygon x, y, x, y, ... of at least three corners.

        Args:
            points: The polygon.
            name: Its class.
            group: Polygons of the same class and group are one object.
        """
        index = self._groups.get((name, group)) if group is not None else None
        if index is not None:
            polygons: Any = self.raw.masks[index]
            polygons.append(points)
            self.raw.xyxy[index] = bounds([x for polygon in polygons for x in polygon])
            self.joined += 1
            return
        if group is not None:
            self._groups[name, group] = len(self.outlined)
        self.raw.add(bounds(points), name, False, [points])
        self.outlined.append(True)

    def add_mask(
        self, part: np.ndarray, top: int, left: int, size: tuple[int, int], name: str
    ) -> None:
        """Add a mask; one without a pixel in the image is left out.

        Args:
            part: The part of it that is not empty, (h, w) bool.
            top: The first row of the part; may be negative.
            left: The first column of the part; may be negative.
            size: (H, W) of the image.
            name: The class.
        """
        part = part[max(0, -top) : max(0, size[0] - top), max(0, -left) : max(0, size[1] - left)]
        top, left = max(0, top), max(0, left)
        rows, columns = np.nonzero(part.any(axis=1))[0], np.nonzero(part.any(axis=0))[0]
        if not len(rows):
            return
        x, y = left + columns[[0, -1]], top + rows[[0, -1]]
        corners = float(x[0]), float(y[0]), float(x[1] + 1), float(y[1] + 1)
        self.raw.add(corners, name, False, encode_rle_at(part, top, left, size))
        self.outlined.append(True)


class ToolTable(BoxTableBuilder):
    """Collects annotated images, and makes a table of their objects or of their tags.

    Attributes:
        images: The images.
        stated_classes: Classes in the order of the file; others follow sorted.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.images: list[AnnotatedImage] = []
        self.stated_classes: list[str] = []

    def add_polygon(
        self, image: AnnotatedImage, points: list[float], name: str, group: object = None
    ) -> None:
        """Add a polygon to an image, as `AnnotatedImage.add_polygon`; log one without an area."""
        if len(points) < 6:
            self.log.add(_FEW_CORNERS, self.key(image.path))
        else:
            image.add_polygon(points, name, group)

    def size_of(self, path: Path, stated: Any = None) -> tuple[int, int] | None:
        """Return the (H, W) of an image; None if it is missing or broken, which is logged later.

        Args:
            path: The image.
            stated: What the annotations state: `height` and `width`; if valid, it is trusted.
        """
        size = stated_size(stated) if isinstance(stated, dict) else None
        if size is not None and max(size) <= _MAX_SIDE:
            return size
        try:
            return read_size(path) if is_file(path) else None
        except BrokenImage:
            return None

    def boxes(self, format: str) -> Table:
        """Return the table of objects: with masks, if at least half of them have outlines.

        Raises:
            DataError: As `build`; or there are no objects but tags.
        """
        self._choose_masks()
        for image in self.images:
            with skip_and_record():
                self.add_image(image.path, image.raw, image.split, image.group, image.size)
            if image.joined:
                self.log.add(_JOINED, self.key(image.path), image.joined)
        tagged = sum(bool(image.tags) for image in self.images)
        if tagged:
            text = "{count:image has|images have} tags, which only --format tags reads"
            self.notes.append(remark("tool_tags_unread", text, count=tagged))
        self.require_all_masks()
        used = {name for image in self.images for name in image.raw.names}
        stated = [class_name(name) for name in self.stated_classes]
        return self.build([*filter(None, stated), *sorted(used - {*stated})], format)

    def _choose_masks(self) -> None:
        """Decide whether objects have masks; log those that get or lose one by that."""
        flags = [flag for image in self.images for flag in image.outlined]
        with_masks = any(flags) and sum(flags) >= _MANY_OUTLINES * len(flags)
        for image in self.images:
            others = image.outlined.count(not with_masks)
            if not with_masks:
                image.raw.masks[:] = [None] * len(image.raw.masks)
            if others:
                kind = _BOXES_AS_MASKS if with_masks else _OUTLINES_AS_BOXES
                self.log.add(kind, self.key(image.path), others)

    def labels(self, format: str) -> Table:
        """Return the table of tags: multi-label, if an image has several.

        Raises:
            DataError: No image that exists has a tag.
        """
        samples, issues = dict[str, Sample](), IssueLog()
        for image in self.images:
            key, names = self.key(image.path), tuple(dict.fromkeys(image.tags))
            if not names:
                issues.add(_UNTAGGED, key)
            elif not is_file(image.path):
                issues.add(_MISSING, key)
            else:
                target = Labels(names)
                samples[key] = Sample(image.path, key, target, image.split, image.group)
        notes = [*self.notes, *self._object_note(), *issues.issues()]
        if not samples:
            raise DataError(
                "no image has a tag",
                where=printable(self.root),
                why="; ".join(map(str, notes)) or None,
                hint="tags are classes of whole images; for objects name another --format",
                id="no_image_tags",
            )
        classes = sorted({name for image in self.images for name in image.tags})
        ordered = tuple(samples[key] for key in sorted(samples))
        several = any(len(image.tags) > 1 for image in self.images)
        return Table(ordered, tuple(classes), format, self.root, several, tuple(notes))

    def _object_note(self) -> list[Issue]:
        count = sum(len(image.outlined) for image in self.images)
        text = "{count:object|objects} with boxes or outlines, which are not read with the tags"
        return [remark("tool_objects_unread", text, count=count)] if count else []


@dataclass(frozen=True)
class Found:
    """What a look at the files of a tool shows.

    Attributes:
        files: The files of annotations.
        objects: Whether there are objects in what was looked at.
        tags: Whether there are tags in what was looked at.
        doubts: What else the folders may be, as in Reading; wanted boxes settle it.
    """

    files: tuple[Path, ...]
    objects: bool = True
    tags: bool = False
    doubts: tuple[str, ...] = ()


class ToolFormat(Format):
    """The format of an annotation tool: boxes, outlines and tags in the same files.

    Attributes:
        format: Its name.
    """

    format: ClassVar[str]
    target: ClassVar[type | None] = Boxes
    outlines: ClassVar[bool] = True

    @abstractmethod
    def find(self, path: Path) -> Found | None:
        """Return the files of the tool at a path; None without one.

        Raises:
            DataError: A folder cannot be listed.
            OSError: A file cannot be read.
        """

    @abstractmethod
    def collect(self, path: Path) -> ToolTable:
        """Read the annotations; of the images only headers, if at all.

        Raises:
            DataError: They cannot be used.
        """

    def look(self, path: Path) -> Found | None:
        """Return what `find` does, once for a path; None where that is not possible."""
        return remember(("found", type(self), path), lambda: self._look(path))

    def _look(self, path: Path) -> Found | None:
        try:
            return self.find(path)
        except (DataError, OSError):
            return None

    def sniff(self, path: Path) -> Reading | None:
        """Files of the tool with objects, or with neither objects nor tags."""
        found = self.look(path)
        if found is None or (found.tags and not found.objects):
            return None
        return Reading(Fit.STATED, found.doubts, settled_by_target=True)

    def read(self, path: Path) -> Table:
        """Read the objects of all images; of the images only headers, if at all.

        Raises:
            DataError: The annotations cannot be used, or there are no images or valid boxes.
        """
        return self.collect(path).boxes(self.format)


# --- JSON


def objects_in(value: object) -> list[dict[str, Any]]:
    """Return the objects of a JSON list; none if it is no list."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def object_of(value: object) -> dict[str, Any]:
    """Return a JSON object; an empty one for anything else."""
    return value if isinstance(value, dict) else {}


# --- shapes


def bounds(points: Sequence[float]) -> Corners:
    """Return the box around x, y, x, y, ..."""
    return min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])


def ellipse(
    center: tuple[float, float], radii: tuple[float, float], degrees: float = 0
) -> list[float]:
    """Return a polygon x, y, x, y, ... of 64 corners for an ellipse.

    Args:
        center: x and y, px.
        radii: Half its width and half its height, px.
        degrees: Its clockwise rotation about the center.
    """
    angles = [2 * math.pi * step / _CORNERS_OF_CURVE for step in range(_CORNERS_OF_CURVE)]
    points = [
        each
        for angle in angles
        for each in (
            center[0] + radii[0] * math.cos(angle),
            center[1] + radii[1] * math.sin(angle),
        )
    ]
    return rotate(points, center, degrees) if degrees else points


def rotate(points: list[float], center: tuple[float, float], degrees: float) -> list[float]:
    """Return x, y, x, y, ... after a clockwise rotation about a center."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    moved = zip(points[::2], points[1::2], strict=True)
    return [
        each
        for x, y in ((x - center[0], y - center[1]) for x, y in moved)
        for each in (center[0] + x * cosine - y * sine, center[1] + x * sine + y * cosine)
    ]


def cut_out(
    exterior: list[float], interiors: list[list[float]], size: tuple[int, int]
) -> object | None:
    """Return the run lengths of a polygon with holes; None where it does not fit the image.

    Args:
        exterior: x, y, x, y, ...
        interiors: The holes.
        size: (H, W) of the image.
    """
    outer = parse_segmentation([exterior], size)
    inner = [parse_segmentation([hole], size) for hole in interiors if len(hole) >= 6]
    if outer is None or None in inner:
        return None
    mask = decode_rle(outer)
    for hole in inner:
        assert hole is not None
        mask &= ~decode_rle(hole)
    return encode_rle(mask)


def points(pairs: object, where: str) -> list[float]:
    """Return x, y, x, y, ... of a list of [x, y].

    Raises:
        DataError: It is something else.
    """
    try:
        return [float(each) for x, y in pairs for each in (x, y)]  # type: ignore[attr-defined]
    except (TypeError, ValueError, OverflowError):
        raise _not_numbers(pairs, where) from None


def number(entry: Mapping[str, Any], key: str, where: str, default: float | None = None) -> float:
    """Return a number of an entry.

    Raises:
        DataError: It is missing, and there is no default; or it is no number.
    """
    value = entry.get(key, default)
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise _not_numbers(value, f"{where}: {key}") from None


def _not_numbers(value: object, where: str) -> DataError:
    return DataError(
        "the coordinates of an object are not numbers",
        where=where,
        why=f"got {str(value)[:80]}",
        id="tool_invalid_numbers",
    )
