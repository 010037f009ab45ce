"""Pascal VOC: Annotations/1.xml beside JPEGImages/1.jpg, in the folder or in the only folder in it that has them.

ImageSets/Main/train.txt, val.txt and test.txt give the splits. A file classes.txt orders the classes, a name a line; without
one they are sorted. `difficult` objects count as crowds: no answer has to find them.

Corners in VOC count pixels from 1 and include the last one: xmin = 1, xmax = 1 is the first column, 0 to 1 here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import ClassVar
from xml.etree import ElementTree
from xml.parsers import expat

from foveate.data.boxes import Raw, class_name, printed
from foveate.data.discovery import find_files, find_images, listed
from foveate.data.formats import Format
from foveate.data.formats._boxed import (
    NO_BOX,
    Gathering,
    Placed,
    classes_beside,
    copied,
    write_classes,
)
from foveate.data.issues import IssueKind, skip_and_record
from foveate.errors import DataError
from foveate.types import Split, Table
from foveate.utils.paths import printable

_XML, _IMAGES, _LISTS = "Annotations", "JPEGImages", "ImageSets/Main"
_SPLITS: tuple[Split, ...] = ("train", "val", "test")
_UNKNOWN = IssueKind("names in ImageSets/Main without an annotation, passed over", "warning")
_FROM_ZERO = IssueKind(
    "boxes that begin at 0, where Pascal VOC counts from 1: all of its boxes may be off by a pixel",
    "warning",
)
_BARE = IssueKind("images without an annotation file, left out", "warning")


class Voc(Format):
    summary: ClassVar[str] = "Pascal VOC, boxes in XML"

    def sniff(self, path: Path) -> bool:
        try:
            return len(_roots(path)) == 1
        except DataError:
            return False

    def read(self, path: Path) -> Table:
        """The table of the annotations. Raises DataError with the file where there is one."""
        roots = _roots(path)
        if len(roots) != 1:
            why = (
                "it has no folder Annotations with .xml files"
                if not roots
                else ", ".join(map(printable, roots)) + " have"
            )
            hint = "give the folder above Annotations"
            raise DataError(
                "this is not one Pascal VOC folder", where=printable(path), why=why, hint=hint
            )
        root, gathering = roots[0], Gathering(roots[0])
        annotations, images = _child(root, _XML), _child(root, _IMAGES) or _child(root, "images")
        assert annotations is not None
        files = {
            _stem(file, annotations): file
            for file in find_files(annotations)
            if file.suffix.lower() == ".xml"
        }
        found = _by_stem(images) if images else {}
        splits, used = _splits(root, set(files), gathering), list[str]()
        for stem, file in files.items():
            with skip_and_record():
                used += _take(
                    file,
                    stem,
                    found.pop(stem, None),
                    images or root / _IMAGES,
                    splits.get(stem),
                    gathering,
                )
        for bare in (
            file for file in found.values() if gathering.key(file) not in gathering.samples
        ):
            gathering.findings.add(_BARE, gathering.key(bare))
        return gathering.table(classes_beside(root, used, gathering.notes), "voc")

    def write(self, table: Table, folder: Path) -> tuple[str, ...]:
        """Annotations, JPEGImages, ImageSets/Main and classes.txt; a group is an element of its own."""
        notes: list[str] = []
        images = copied(table, folder / _IMAGES, notes)
        for image in images:
            file = folder / _XML / image.place.with_suffix(".xml")
            file.parent.mkdir(parents=True, exist_ok=True)
            _annotation(image).write(file, encoding="utf-8")
        (folder / _LISTS).mkdir(parents=True)
        for split in _SPLITS:
            lines = [
                f"{image.place.with_suffix('')}\n"
                for image in images
                if image.sample.split == split
            ]
            if lines:
                (folder / _LISTS / f"{split}.txt").write_text("".join(lines), encoding="utf-8")
        write_classes(table, folder)
        return tuple(notes)


# --- folders and lists


def _roots(path: Path) -> list[Path]:
    """The folder itself, or those directly in it, that have annotations."""
    if not path.is_dir():
        return []
    return (
        [path]
        if _holds_xml(path)
        else [child for child in listed(path) if child.is_dir() and _holds_xml(child)]
    )


def _holds_xml(folder: Path) -> bool:
    annotations = _child(folder, _XML)
    return annotations is not None and any(
        file.suffix.lower() == ".xml" for file in find_files(annotations)
    )


def _child(folder: Path, name: str) -> Path | None:
    return next(
        (
            child
            for child in listed(folder)
            if child.name.casefold() == name.casefold() and child.is_dir()
        ),
        None,
    )


def _stem(file: Path, folder: Path) -> str:
    return file.relative_to(folder).with_suffix("").as_posix()


def _by_stem(folder: Path) -> dict[str, Path]:
    return {_stem(file, folder): file for file in find_images(folder)}


def _splits(root: Path, stems: set[str], gathering: Gathering) -> dict[str, Split]:
    """The split of each annotation, from lists of names without their ending."""
    splits: dict[str, Split] = {}
    for split in _SPLITS:
        for line in _lines(root / _LISTS / f"{split}.txt"):
            stem = line if line in stems else line.strip()
            if stem not in stems:
                gathering.findings.add(_UNKNOWN, stem)
            elif splits.setdefault(stem, split) != split:
                gathering.findings.add(
                    IssueKind(
                        f"names in {split}.txt that an earlier split has, too, and keeps", "error"
                    ),
                    stem,
                )
    return splits


def _lines(file: Path) -> Iterator[str]:
    try:
        text = file.read_text(encoding="utf-8-sig") if file.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        why = str(error)
        raise DataError(
            "this list of images cannot be read",
            where=printable(file),
            why=why,
            hint="save it in UTF-8",
        ) from None
    return (line for line in text.split("\n") if line.strip())


# --- XML -> boxes


def _take(
    file: Path,
    stem: str,
    image: Path | None,
    folder: Path,
    split: Split | None,
    gathering: Gathering,
) -> list[str]:
    """Adds the image that `file` describes: the one called like it, or else the one that it names. Returns its classes."""
    tree = _parsed(file)
    if image is None:
        image = (folder / stem).with_name(
            PurePosixPath(_text(tree, "filename").replace("\\", "/")).name or f"{file.stem}.jpg"
        )
    raw = Raw()
    for thing in tree.iterfind("object"):
        with skip_and_record():
            name = class_name(_text(thing, "name"))
            if not name:
                raise DataError("an object has no name", where=printable(file))
            if (box := thing.find("bndbox")) is None:
                gathering.findings.add(NO_BOX, gathering.key(image))
            else:
                raw.add(
                    corners := _corners(box, file), name, _text(thing, "difficult") not in ("", "0")
                )
                if -1 in corners[:2]:
                    gathering.findings.add(_FROM_ZERO, gathering.key(image))
    width, height = (_size(tree, name) for name in ("width", "height"))
    stated = (height, width) if width and height else None
    gathering.take(image, raw, split, _text(tree, "group") or None, stated)
    return raw.names


def _parsed(file: Path) -> ElementTree.Element:
    """The tree of an XML file. A DOCTYPE, the only way to entities of one's own, is refused, and nothing outside is read."""
    builder, parser = ElementTree.TreeBuilder(), expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = lambda *_: _refuse_doctype(file)
    try:
        parser.Parse(file.read_bytes(), True)
        return builder.close()
    except (expat.ExpatError, OSError, ValueError, LookupError) as error:
        hint = "open it in a browser to see the place, or remove it with its image"
        raise DataError(
            "this annotation is not valid XML", where=printable(file), why=str(error), hint=hint
        ) from None


def _refuse_doctype(file: Path) -> None:
    why = "it could define entities that read other files or grow without end"
    raise DataError(
        "this annotation has a DOCTYPE",
        where=printable(file),
        why=why,
        hint="remove the line; VOC needs none",
    )


def _text(element: ElementTree.Element, name: str) -> str:
    return (element.findtext(name) or "").strip()


def _size(tree: ElementTree.Element, name: str) -> int:
    """0 when it is not stated or no number: many tools write 0."""
    text = _text(tree, f"size/{name}")
    return int(text) if text.isdecimal() else 0


def _corners(box: ElementTree.Element, file: Path) -> tuple[float, float, float, float]:
    texts = [_text(box, name) for name in ("xmin", "ymin", "xmax", "ymax")]
    try:
        x0, y0, x1, y1 = map(float, texts)
    except ValueError:
        why = "xmin, ymin, xmax, ymax are " + ", ".join(map(repr, texts))
        raise DataError(
            "the corners of an object are not four numbers", where=printable(file), why=why
        ) from None
    (x0, x1), (y0, y1) = _from_zero(x0, x1), _from_zero(y0, y1)
    return x0, y0, x1, y1


def _from_zero(first: float, last: float) -> tuple[float, float]:
    """Pixels first..last, counted from 1 -> where they begin and end. The wrong way round stays so: the audit counts it."""
    return (first, last - 1) if last < first - 1 else (first - 1, last)


# --- boxes -> XML


def _annotation(image: Placed) -> ElementTree.ElementTree[ElementTree.Element]:
    height, width = image.size
    tree = ElementTree.Element("annotation")
    _add(tree, folder=_IMAGES, filename=image.place.name)
    _add(ElementTree.SubElement(tree, "size"), width=width, height=height, depth=3)
    if image.sample.group:
        _add(tree, group=image.sample.group)
    for (x0, y0, x1, y1), name, crowd in image.rows():
        thing = ElementTree.SubElement(tree, "object")
        _add(thing, name=name, difficult=int(crowd))
        corners = {"xmin": x0 + 1, "ymin": y0 + 1, "xmax": x1, "ymax": y1}
        _add(
            ElementTree.SubElement(thing, "bndbox"),
            **{corner: _number(value) for corner, value in corners.items()},
        )
    ElementTree.indent(tree)
    return ElementTree.ElementTree(tree)


def _add(parent: ElementTree.Element, **texts: object) -> None:
    for name, text in texts.items():
        ElementTree.SubElement(parent, name).text = printed(str(text))


def _number(value: float) -> str:
    """Whole numbers as such, because many readers take nothing else; others with all their digits."""
    return str(int(value)) if value.is_integer() else repr(value)
