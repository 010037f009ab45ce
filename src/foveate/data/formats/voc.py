"""Pascal VOC: Annotations/1.xml and JPEGImages/1.jpg, or 1.xml beside 1.jpg (labelImg, Roboflow).

DATA is the folder above them, or a folder that contains one such folder. Folders such as train and
valid give the splits of images that have their annotation beside them. ImageSets/Main/train.txt,
val.txt and test.txt give the splits. A file classes.txt gives the order of the classes, one per
line; without it they are sorted. `difficult` objects are read as crowds: ignored when matching.

Corners in VOC count pixels from 1 and include the last one: xmin = 1, xmax = 1 is the first column,
0 to 1 here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import ClassVar
from xml.etree import ElementTree

from foveate.data.boxes import RawBoxes, class_name, replace_unprintable
from foveate.data.discovery import (
    find_files,
    find_images,
    is_image,
    list_subfolders,
    walk_folders,
)
from foveate.data.formats import Fit, Format, Reading
from foveate.data.formats._box_table import NO_BOX, BoxTableBuilder, order_classes
from foveate.data.formats._image_export import CopiedImage, copy_images, write_classes
from foveate.data.formats._xml import parse_xml
from foveate.data.issues import skip_and_record
from foveate.data.split_names import split_in_folders
from foveate.data.survey import MANY_LABELS, survey_folder
from foveate.errors import DataError
from foveate.predictions import Boxes
from foveate.types import Issue, IssueKind, Split, Table
from foveate.utils.paths import printable

_XML, _IMAGES, _LISTS = "Annotations", "JPEGImages", "ImageSets/Main"
_SPLITS: tuple[Split, ...] = ("train", "val", "test")
_YES = ("1", "true", "yes")  # some tools write "Unspecified"
_HEAD = 4096  # bytes that are read to recognize an annotation

_NO_ANNOTATION = IssueKind(
    "voc_listed_without_annotation",
    "names in ImageSets/Main without an annotation, skipped",
    "warning",
)
_IN_TWO_SPLITS = IssueKind(
    "voc_in_two_splits", "names in several lists of ImageSets/Main; the first split counts", "error"
)
_FROM_ZERO = IssueKind(
    "voc_from_zero",
    "boxes that start at 0, although Pascal VOC counts from 1: all boxes may be off by one pixel",
    "warning",
)
_UNANNOTATED = IssueKind("voc_unannotated", "images without an annotation file, skipped", "warning")


class Voc(Format):
    """The format of the Pascal VOC challenge."""

    summary: ClassVar[str] = "Pascal VOC boxes in XML"
    target: ClassVar[type | None] = Boxes
    writes: ClassVar[tuple[type, ...]] = (Boxes,)

    def sniff(self, path: Path) -> Reading | None:
        """A folder with Annotations, with exactly one such folder, or with XML beside images."""
        try:
            fits = len(_roots(path)) == 1 or _has_annotations_beside(path)
            return Reading(Fit.STATED) if fits else None
        except (DataError, OSError):
            return None

    def read(self, path: Path) -> Table:
        """Read the annotations; of the images headers only, if at all.

        Raises:
            DataError: An annotation is faulty, or there are no images or valid boxes.
        """
        if not _roots(path) and _has_annotations_beside(path):
            return _read_beside(path)
        root = _root_at(path)
        builder = BoxTableBuilder(root)
        annotations, images = _child(root, _XML), _child(root, _IMAGES) or _child(root, "images")
        assert annotations is not None
        files = {
            _stem(file, annotations): file
            for file in find_files(annotations)
            if file.suffix.lower() == ".xml"
        }
        by_stem = {_stem(file, images): file for file in find_images(images)} if images else {}
        splits, used = _read_splits(root, set(files), builder), list[str]()
        for stem, file in files.items():
            with skip_and_record():
                image = by_stem.pop(stem, None)
                tree = parse_xml(file)
                if image is None:
                    image = _stated_image(tree, file, (images or root / _IMAGES) / stem)
                used += _add_image(tree, file, image, splits.get(stem), builder)
        for file in by_stem.values():
            key = builder.key(file)
            if key not in builder.samples:
                builder.log.add(_UNANNOTATED, key)
        return builder.build(order_classes(root, used, builder.notes), "voc")

    def write(self, table: Table, folder: Path) -> tuple[Issue, ...]:
        """Write Annotations, JPEGImages, ImageSets/Main and classes.txt.

        A group becomes an element `group`, an extension of VOC.
        """
        notes: list[Issue] = []
        images = copy_images(table, folder / _IMAGES, notes)
        for image in images:
            file = folder / _XML / image.path.with_suffix(".xml")
            file.parent.mkdir(parents=True, exist_ok=True)
            _to_xml(image).write(file, encoding="utf-8")
        (folder / _LISTS).mkdir(parents=True)
        for split in _SPLITS:
            of_split = [image for image in images if image.sample.split == split]
            if of_split:
                lines = "".join(f"{image.path.with_suffix('')}\n" for image in of_split)
                (folder / _LISTS / f"{split}.txt").write_text(lines, encoding="utf-8")
        write_classes(table, folder)
        return tuple(notes)


def _read_beside(root: Path) -> Table:
    """Read images that have their annotation beside them."""
    builder, used = BoxTableBuilder(root), list[str]()
    for folder, names in walk_folders(root):
        images = {Path(name).stem: folder / name for name in names if is_image(Path(name))}
        split = split_in_folders(folder.relative_to(root).parts)
        for file in (folder / name for name in names if name.lower().endswith(".xml")):
            with skip_and_record():
                tree, image = parse_xml(file), images.pop(file.stem, None)
                image = image or _stated_image(tree, file, folder / file.stem)
                used += _add_image(tree, file, image, split, builder)
        for file in images.values():
            builder.log.add(_UNANNOTATED, builder.key(file))
    return builder.build(order_classes(root, used, builder.notes), "voc")


def _has_annotations_beside(root: Path) -> bool:
    """Whether at least half of the images have an annotation of Pascal VOC beside them."""
    if not root.is_dir():
        return False
    survey = survey_folder(root)
    beside = survey.labels[".xml"]
    if survey.share(beside) < MANY_LABELS:
        return False
    with (root / beside.file).open("rb") as file:
        return b"<annotation" in file.read(_HEAD)


# --- folders and lists


def _root_at(path: Path) -> Path:
    roots = _roots(path)
    if len(roots) != 1:
        raise DataError(
            "the folder is not a Pascal VOC dataset",
            where=printable(path),
            why="several folders in it have Annotations: " + ", ".join(map(printable, roots))
            if roots
            else "it has no folder Annotations with .xml files",
            hint="give the folder above Annotations",
            id="not_voc",
        )
    return roots[0]


def _roots(path: Path) -> list[Path]:
    """The folder itself, or its subfolders, that have annotations."""
    if not path.is_dir():
        return []
    if _has_annotations(path):
        return [path]
    return [child for child in list_subfolders(path) if _has_annotations(child)]


def _has_annotations(folder: Path) -> bool:
    annotations = _child(folder, _XML)
    return annotations is not None and any(
        file.suffix.lower() == ".xml" for file in find_files(annotations)
    )


def _child(folder: Path, name: str) -> Path | None:
    """The subfolder of this name, in any case."""
    for child in list_subfolders(folder):
        if child.name.casefold() == name.casefold():
            return child
    return None


def _stem(file: Path, folder: Path) -> str:
    return file.relative_to(folder).with_suffix("").as_posix()


def _read_splits(root: Path, stems: set[str], builder: BoxTableBuilder) -> dict[str, Split]:
    """The split of each annotation, from lists of names without extension."""
    splits: dict[str, Split] = {}
    for split in _SPLITS:
        for line in _read_lines(root / _LISTS / f"{split}.txt"):
            stem = line if line in stems else line.strip()
            if stem not in stems:
                builder.log.add(_NO_ANNOTATION, stem)
            elif splits.setdefault(stem, split) != split:
                builder.log.add(_IN_TWO_SPLITS, stem, why=f"{splits[stem]} and {split}")
    return splits


def _read_lines(file: Path) -> Iterator[str]:
    try:
        text = file.read_text(encoding="utf-8-sig") if file.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            "the list of images cannot be read",
            where=printable(file),
            why=str(error),
            hint="save it as plain text in UTF-8",
            id="unreadable_image_list",
        ) from None
    return (line for line in text.split("\n") if line.strip())


# --- XML -> boxes


def _stated_image(tree: ElementTree.Element, file: Path, default: Path) -> Path:
    """The image that an annotation names, in the folder of `default`; else a JPEG named like it."""
    name = PurePosixPath(_text(tree, "filename").replace("\\", "/")).name
    return default.with_name(name or f"{file.stem}.jpg")


def _add_image(
    tree: ElementTree.Element,
    file: Path,
    image: Path,
    split: Split | None,
    builder: BoxTableBuilder,
) -> list[str]:
    """Add an image and its objects; return their classes."""
    raw = RawBoxes()
    for element in tree.iterfind("object"):
        with skip_and_record():
            name = class_name(_text(element, "name"))
            if not name:
                raise DataError("an object has no name", where=printable(file), id="voc_no_name")
            box = element.find("bndbox")
            if box is None:
                builder.log.add(NO_BOX, builder.key(image))
                continue
            corners = _parse_corners(box, file)
            raw.add(corners, name, _text(element, "difficult").casefold() in _YES)
            if -1 in corners[:2]:
                builder.log.add(_FROM_ZERO, builder.key(image))
    height, width = _stated_side(tree, "height"), _stated_side(tree, "width")
    stated_size = (height, width) if width and height else None
    builder.add_image(image, raw, split, _text(tree, "group") or None, stated_size)
    return raw.names


def _text(element: ElementTree.Element, name: str) -> str:
    return (element.findtext(name) or "").strip()


def _stated_side(tree: ElementTree.Element, name: str) -> int:
    """0 if it is not stated or not a number; many tools write 0."""
    text = _text(tree, f"size/{name}")
    return int(text) if text.isdecimal() else 0


def _parse_corners(box: ElementTree.Element, file: Path) -> tuple[float, float, float, float]:
    texts = [_text(box, name) for name in ("xmin", "ymin", "xmax", "ymax")]
    try:
        x0, y0, x1, y1 = map(float, texts)
    except ValueError:
        why = "xmin, ymin, xmax, ymax are " + ", ".join(map(repr, texts))
        raise DataError(
            "the corners of an object are not four numbers",
            where=printable(file),
            why=why,
            id="voc_invalid_corners",
        ) from None
    (x0, x1), (y0, y1) = _from_zero(x0, x1), _from_zero(y0, y1)
    return x0, y0, x1, y1


def _from_zero(first: float, last: float) -> tuple[float, float]:
    """Pixels first..last, counted from 1 -> their begin and end.

    Swapped corners stay swapped: the validation counts them.
    """
    return (first, last - 1) if last < first - 1 else (first - 1, last)


# --- boxes -> XML


def _to_xml(image: CopiedImage) -> ElementTree.ElementTree[ElementTree.Element]:
    height, width = image.size
    tree = ElementTree.Element("annotation")
    _add(tree, folder=_IMAGES, filename=image.path.name)
    _add(ElementTree.SubElement(tree, "size"), width=width, height=height, depth=3)
    if image.sample.group:
        _add(tree, group=image.sample.group)
    for (x0, y0, x1, y1), name, crowd in image.objects():
        element = ElementTree.SubElement(tree, "object")
        _add(element, name=name, difficult=int(crowd))
        corners = {"xmin": x0 + 1, "ymin": y0 + 1, "xmax": x1, "ymax": y1}
        _add(
            ElementTree.SubElement(element, "bndbox"),
            **{corner: _number(value) for corner, value in corners.items()},
        )
    ElementTree.indent(tree)
    return ElementTree.ElementTree(tree)


def _add(parent: ElementTree.Element, **texts: object) -> None:
    for name, text in texts.items():
        ElementTree.SubElement(parent, name).text = replace_unprintable(str(text))


def _number(value: float) -> str:
    """Integers without a fraction, as many readers require; others with all their digits."""
    return str(int(value)) if value.is_integer() else repr(value)
