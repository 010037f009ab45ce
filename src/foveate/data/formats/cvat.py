"""CVAT's XML 1.1, for images and for videos.

Boxes (also rotated ones), polygons, ellipses and masks of images, and tracks of videos, whose
frames are images called frame_000000.png, ...; all frames of a video are a group. Tags are classes
of images. Subsets called train, validation and test give the splits. Lines, points, cuboids and
skeletons are dropped. DATA is the folder with annotations.xml, or that file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import ClassVar
from xml.etree import ElementTree

import numpy as np

from foveate.data.boxes import class_name
from foveate.data.discovery import find_images
from foveate.data.formats._image_export import Parts, copy_images, require_labels
from foveate.data.formats._tool_files import (
    ImageLocator,
    find_annotation_files,
    not_of_tool,
    root_of_file,
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
    number,
    points,
    rotate,
)
from foveate.data.formats._xml import parse_xml
from foveate.data.issues import skip_and_record
from foveate.data.split_names import split_in_folders, split_in_name
from foveate.data.tools.cvat import CvatImage, to_xml
from foveate.errors import DataError
from foveate.predictions import Boxes, Labels, Regions
from foveate.types import Issue, IssueKind, Sample, Table
from foveate.utils.paths import printable

_OBJECTS = re.compile(rb"<(box|polygon|mask|ellipse|polyline|points|cuboid|skeleton)[ >]")
_FRAME = re.compile(r"frame_(\d{6,})")
_WITHOUT_AREA = ("polyline", "points", "cuboid", "skeleton")

_BETWEEN = IssueKind(
    "cvat_between_keyframes",
    "frames between two key frames of a track, whose box there is not stated, skipped",
    "warning",
)


class Cvat(ToolFormat):
    """The XML of CVAT."""

    format: ClassVar[str] = "cvat"
    summary: ClassVar[str] = "CVAT annotations in XML"
    writes: ClassVar[tuple[type, ...]] = (Boxes, Labels, Regions)
    read_as: ClassVar[Mapping[type, str]] = READ_AS

    def find(self, path: Path) -> Found | None:
        """XML files with annotations of images or tracks."""
        heads = find_annotation_files(path, ".xml", _is_cvat)
        if not heads:
            return None
        objects = any(_OBJECTS.search(head) for head in heads.values())
        tags = any(b"<tag " in head for head in heads.values())
        return Found(tuple(heads), objects or not tags, tags)

    def collect(self, path: Path) -> ToolTable:
        """Read all files; of the images only headers, if at all.

        Raises:
            DataError: There are none, or one of them cannot be used.
        """
        found = self.look(path)
        if found is None:
            raise not_of_tool(path, "CVAT", "has <annotations> of images or tracks")
        table = ToolTable(root_of_file(path))
        locator = ImageLocator(table.root)
        for file in found.files:
            with skip_and_record():
                tree = parse_xml(file)
                table.stated_classes += _labels_of(tree)
                for element in tree.iterfind("image"):
                    with skip_and_record():
                        image = _read_image(element, file, table, locator)
                        if _FRAME.fullmatch(Path(element.get("name", "")).stem.casefold()):
                            image.group = _video(tree, element.get("task_id", ""), file)
                        table.images.append(image)
                if tree.find("track") is not None:
                    _Tracks(tree, file, table).add_images()
        table.notes += locator.notes()
        return table

    def write(self, table: Table, folder: Path) -> tuple[Issue, ...]:
        """Write annotations.xml and images/."""
        require_labels(table)
        notes: list[Issue] = []
        images = [
            CvatImage(str(image.path), image.size, image.drawn, image.sample.split)
            for image in copy_images(table, folder / "images", notes, _place)
        ]
        tree = to_xml(images, table.classes, printable(table.root.name) or "data")
        tree.write(folder / "annotations.xml", encoding="utf-8", xml_declaration=True)
        return tuple(notes)


def _place(sample: Sample, parts: Parts) -> Parts:
    """The path of an image; the name of a frame would replace a group that is stated."""
    *folders, name = parts
    is_frame = _FRAME.fullmatch(Path(name).stem.casefold())
    return (*folders, f"image_{name}" if is_frame and sample.group else name)


def _is_cvat(head: bytes) -> bool:
    return b"<annotations" in head and any(
        mark in head for mark in (b"<meta", b"<image ", b"<track ")
    )


def _labels_of(tree: ElementTree.Element) -> list[str]:
    """The labels of objects that the file states; those of tags and of parts of skeletons not."""
    return [
        label.findtext("name") or ""
        for label in tree.iterfind("meta//labels/label")
        if label.findtext("type") != "tag" and label.find("parent") is None
    ]


def _video(tree: ElementTree.Element, task: str, file: Path) -> str:
    """The name of the video of a task; of the task, or of the file, where it is not stated."""
    for element in tree.iterfind("meta//task"):
        if task in ("", element.findtext("id")):
            return element.findtext("source") or element.findtext("name") or task
    name = tree.findtext("meta//source") or tree.findtext("meta//name")
    return name or f"{file.parent.name}/{file.stem}"


# --- images


def _read_image(
    element: ElementTree.Element, file: Path, table: ToolTable, locator: ImageLocator
) -> AnnotatedImage:
    name, subset = element.get("name", ""), element.get("subset", "")
    if not name.strip():
        where = f"{printable(file)}, image {element.get('id', '?')}"
        raise DataError("the image has no name", where=where, id="cvat_no_name")
    folders = [folder / subset for folder in (file.parent / "images", file.parent) if subset]
    path = locator.find([name], [*folders, file.parent / "images", file.parent])
    inside = path.relative_to(table.root).parts[:-1] if path.is_relative_to(table.root) else ()
    split = split_in_name(subset) or split_in_folders(inside)
    image = AnnotatedImage(path, split, size=table.size_of(path, dict(element.attrib)))
    for child in element:
        where = f"{printable(file)}, image {name!r}"[:200]
        with skip_and_record():
            if child.tag == "tag":
                image.tags += filter(None, [class_name(child.get("label", ""))])
            else:
                _add_shape(child, child.get("label", ""), image, table, where)
    return image


def _add_shape(
    shape: ElementTree.Element, label: str, image: AnnotatedImage, table: ToolTable, where: str
) -> None:
    """Add a box, polygon, ellipse or mask; log other shapes."""
    name, key, stated = class_name(label), table.key(image.path), shape.attrib
    if not name:
        raise DataError("a shape has no label", where=where, id="cvat_no_label")
    degrees = number(stated, "rotation", where, 0.0)
    if shape.tag == "box":
        x0, y0, x1, y1 = (number(stated, key, where) for key in ("xtl", "ytl", "xbr", "ybr"))
        outline = [x0, y0, x1, y0, x1, y1, x0, y1]
        if degrees:
            outline = rotate(outline, ((x0 + x1) / 2, (y0 + y1) / 2), degrees)
            table.log.add(ROTATED, key)
        image.add_box(bounds(outline) if degrees else (x0, y0, x1, y1), name, outline)
    elif shape.tag == "polygon":
        table.add_polygon(image, _parse_points(stated.get("points", ""), where), name)
    elif shape.tag == "ellipse":
        x, y, rx, ry = (number(stated, key, where) for key in ("cx", "cy", "rx", "ry"))
        image.add_polygon(ellipse((x, y), (rx, ry), degrees), name)
        table.log.add(CURVES, key)
    elif shape.tag == "mask":
        _add_mask(shape, name, image, where)
    else:
        table.log.add(LOST, key, why=shape.tag[:40])
        return
    if any((each.text or "").strip() for each in shape.iterfind("attribute")):
        table.log.add(ATTRIBUTES, key)


def _parse_points(text: str, where: str) -> list[float]:
    """'1.5,2;3,4;...' -> [1.5, 2, 3, 4, ...]"""
    return points([pair.split(",") for pair in text.split(";")], where)


def _add_mask(shape: ElementTree.Element, name: str, image: AnnotatedImage, where: str) -> None:
    """Add run lengths of a part of the image, row by row; the first counts pixels outside."""
    try:
        keys = ("left", "top", "width", "height")
        left, top, width, height = (int(float(shape.get(key, ""))) for key in keys)
        runs = np.array(shape.get("rle", "").split(","), dtype=np.int64)
        if runs.min() < 0 or runs.sum() != width * height or min(width, height) < 1:
            raise ValueError(f"the runs have {runs.sum()} pixels, not {width} x {height}")
        inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    except (ValueError, OverflowError, MemoryError) as error:
        raise DataError(
            "the mask of an object cannot be decoded",
            where=where,
            why=str(error)[:200],
            id="cvat_invalid_mask",
        ) from None
    if image.size is not None:
        image.add_mask(inside, top, left, image.size, name)


# --- tracks


class _Tracks:
    """The tracks of a file: objects in frames of videos."""

    def __init__(self, tree: ElementTree.Element, file: Path, table: ToolTable) -> None:
        self.tree, self.file, self.table = tree, file, table
        self.where = printable(file)
        self.tracks = list(tree.iterfind("track"))

    def add_images(self) -> None:
        """Add the frames of each subset."""
        subsets = dict.fromkeys(track.get("subset", "") for track in self.tracks)
        for subset in subsets:
            tracks = [track for track in self.tracks if track.get("subset", "") == subset]
            tasks = {track.get("task_id", "") for track in tracks}
            if len(tasks) > 1:
                raise DataError(
                    f"the tracks belong to {len(tasks)} tasks, whose frames have the same names",
                    where=self.where,
                    hint="export each task on its own",
                    id="cvat_several_tasks",
                )
            self._add_frames(tracks, subset, tasks.pop())

    def _add_frames(self, tracks: list[ElementTree.Element], subset: str, task: str) -> None:
        frames = self._find_frames(subset)
        group, split = _video(self.tree, task, self.file), split_in_name(subset)
        images = {
            frame: AnnotatedImage(path, split, group, self.table.size_of(path))
            for frame, path in frames.items()
        }
        unknown = {frame for track in tracks for frame in _between_keyframes(track, images)}
        for frame in sorted(unknown):
            self.table.log.add(_BETWEEN, self.table.key(frames[frame]))
        for track in tracks:
            for shape in track:
                with skip_and_record():
                    self._add_shape(shape, track, images)
        self.table.images += [image for frame, image in images.items() if frame not in unknown]

    def _add_shape(
        self,
        shape: ElementTree.Element,
        track: ElementTree.Element,
        images: dict[int, AnnotatedImage],
    ) -> None:
        frame, outside = _frame_of(shape), shape.get("outside") == "1"
        if frame in images and not outside:
            where = f"{self.where}, track {track.get('id', '?')}, frame {frame}"
            _add_shape(shape, track.get("label", ""), images[frame], self.table, where)

    def _find_frames(self, subset: str) -> dict[int, Path]:
        """The images of the frames, by number; frames that are not there are left out."""
        numbered = list(_numbered(find_images(self.file.parent)))
        inside = [pair for pair in numbered if subset and subset in pair[1].parts]
        frames: dict[int, Path] = {}
        for frame, path in inside or numbered:
            if frames.setdefault(frame, path) is not path:
                raise DataError(
                    f"two images are frame {frame}",
                    where=self.where,
                    why=f"{printable(frames[frame])} and {printable(path)}",
                    hint="give the folder of one task, or its file",
                    id="cvat_same_frame",
                )
        if not frames:
            raise DataError(
                "the frames of the tracks are not there as images",
                where=self.where,
                why="no image is called like frame_000000.png",
                hint="export with images; or, for a task of images, as CVAT for images 1.1",
                id="cvat_no_frames",
            )
        return frames


def _numbered(images: Iterable[Path]) -> Iterator[tuple[int, Path]]:
    for path in images:
        match = _FRAME.fullmatch(path.stem.casefold())
        if match:
            yield int(match[1]), path


def _frame_of(shape: ElementTree.Element) -> int:
    text = shape.get("frame", "")
    return int(text) if text.isdecimal() and len(text) < 12 else -1


def _between_keyframes(
    track: ElementTree.Element, images: dict[int, AnnotatedImage]
) -> Iterator[int]:
    """Frames in which the object of a track is, but where is not stated.

    CVAT states the objects of all frames; other tools only those of key frames.
    """
    shapes = sorted((_frame_of(shape), shape.get("outside") == "1") for shape in track)
    for (frame, outside), (following, _) in pairwise(shapes):
        if not outside and following > frame + 1:
            yield from (each for each in images if frame < each < following)
