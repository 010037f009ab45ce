"""Labels in text files of public data sets: KITTI, DOTA, VisDrone, MOT, WIDER FACE, CUB, CelebA,
lists of files with the numbers of their classes (Caffe), and the CSV of RetinaNet.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from foveate.data.discovery import EXTENSIONS
from foveate.data.formats._exports import Export, ExportedImage, csv_rows, entry_at, text_lines
from foveate.data.split_names import split_in_name
from foveate.types import Split

_ENDINGS = (".jpg", ".png", ".jpeg", ".bmp", ".tif")  # of images that are named by their stem
_NUMBER = rb"-?\d+(?:\.\d+)?"
_IMAGE = rb"[^,\n]*\.(?i:" + b"|".join(each[1:].encode() for each in sorted(EXTENSIONS)) + rb")"
_VISDRONE = (
    *("ignored regions", "pedestrian", "people", "bicycle", "car", "van", "truck", "tricycle"),
    *("awning-tricycle", "bus", "motor", "others"),
)
_MOT = (
    *("", "pedestrian", "person on vehicle", "car", "bicycle", "motorbike"),
    *("non motorized vehicle", "static person", "distractor", "occluder", "occluder on the ground"),
    *("occluder full", "reflection"),
)


def _beside(stem: str, *folders: str) -> list[str]:
    """The names that the image of a label file may have, in folders near it."""
    places = [f"../{folder}/{stem}" for folder in folders]
    return [*(place + ending for place in (*places, stem) for ending in _ENDINGS), stem]


def _words_split(file: Path) -> Split | None:
    """The split that a word of a file name states: wider_face_train_bbx_gt.txt."""
    words = re.split(r"[^a-z]+", file.stem.casefold())
    return next((split for word in words if (split := split_in_name(word))), None)


# --- a file for each image


def _from_kitti(file: Path) -> Iterator[ExportedImage]:
    """Lines of class, truncation, occlusion, angle, four corners and seven numbers in space."""
    names = _beside(file.stem, "image_2", "images", "image", "image_02")
    image = ExportedImage(names, str(file))
    for line, where in text_lines(file):
        with entry_at(where):
            name, *numbers = line.split()
            if name == "DontCare":
                image.lost.append("regions that do not count (DontCare)")
            else:
                image.add_box(numbers[3:7], name)
    yield image


def _from_dota(file: Path) -> Iterator[ExportedImage]:
    """Lines of four corners, class and difficulty, after two lines on the image."""
    image = ExportedImage(_beside(file.stem, "images", "image"), str(file))
    for line, where in text_lines(file):
        if line.startswith(("imagesource:", "gsd:")):
            continue
        with entry_at(where):
            *numbers, name = line.split()[:9]
            image.add_rotated_box([float(number) for number in numbers], name)
    yield image


def _from_visdrone(file: Path) -> Iterator[ExportedImage]:
    """Lines of left, top, width, height, score, class, truncation and occlusion."""
    image = ExportedImage(_beside(file.stem, "images"), str(file))
    for line, where in text_lines(file):
        with entry_at(where):
            x, y, width, height, score, kind = line.split(",")[:6]
            if not int(score) or not int(kind):
                image.lost.append("regions that do not count")
            else:
                image.add_sized_box(x, y, width, height, _VISDRONE[int(kind)])
    yield image


# --- a file for many images


def _from_mot(file: Path) -> Iterator[ExportedImage]:
    """Lines of frame, track, left, top, width, height, whether it counts, and class."""
    sequence, images = file.parent.parent.name, dict[int, ExportedImage]()
    labels = file.parent / "labels.txt"  # as CVAT writes it
    names = ["", *(line for line, _ in text_lines(labels))] if labels.is_file() else _MOT
    for line, where in text_lines(file):
        with entry_at(where):
            frame, _, x, y, width, height, counts, *rest = line.split(",")
            found = _beside(f"{int(frame):06}", "img1")
            new = ExportedImage(found, where, group=sequence)
            image = images.setdefault(int(frame), new)
            if float(counts):
                image.add_sized_box(x, y, width, height, names[int(rest[0]) if rest else 1])
            else:
                image.lost.append("objects that do not count")
    yield from images.values()


def _from_wider(file: Path) -> Iterator[ExportedImage]:
    """The name of an image, the number of its faces, and a line for each: x, y, width, height."""
    image: ExportedImage | None = None
    for line, where in text_lines(file):
        words = line.split()
        if re.search(r"\.\w+$", line) and not re.fullmatch(r"[-\d. ]+", line):
            if image is not None:
                yield image
            folders = (f"../WIDER_{split}/images/{line}" for split in ("train", "val", "test"))
            names = [*folders, line, line.rpartition("/")[2]]
            image = ExportedImage(names, where, split=_words_split(file))
        elif len(words) >= 4 and image is not None and any(map(float, words[2:4])):
            with entry_at(where):
                x, y, width, height = words[:4]
                image.add_sized_box(x, y, width, height, "face")
    if image is not None:
        yield image


def _from_retinanet(file: Path) -> Iterator[ExportedImage]:
    """Rows of path, corners and class, without a header; empty ones of an image without objects."""
    images: dict[str, ExportedImage] = {}
    for row, where in csv_rows(file):
        with entry_at(where):
            new = ExportedImage([row[0]], where, split=_words_split(file))
            image = images.setdefault(row[0], new)
            if any(row[1:]):
                image.add_box(row[1:5], row[5])
    yield from images.values()


# --- classes of images


def _from_cub(file: Path) -> Iterator[ExportedImage]:
    """Numbers of images with those of their classes; images.txt and others say what these are."""

    def read(name: str) -> dict[str, str]:
        lines = text_lines(file.parent / name) if (file.parent / name).is_file() else ()
        pairs = (line.partition(" ") for line, _ in lines)
        return {number: value for number, _, value in pairs}

    paths, classes, parts = read("images.txt"), read("classes.txt"), read("train_test_split.txt")
    for line, where in text_lines(file):
        with entry_at(where):
            number, kind = line.split()
            split: Split | None = None
            if parts:
                split = "train" if parts[number] == "1" else "test"
            image = ExportedImage([f"images/{paths[number]}"], where, split=split)
            image.add_tag(classes.get(kind, kind))
            yield image


def _from_celeba(file: Path) -> Iterator[ExportedImage]:
    """After their number and the names of the attributes, 1 or -1 for each of an image."""
    names: list[str] = []
    for line, where in text_lines(file):
        words = line.split()
        if len(words) == 1 and not names:
            continue
        if not names:
            names = words
            continue
        with entry_at(where):
            image = ExportedImage([words[0]], where)
            for name, flag in zip(names, words[1:], strict=True):
                if int(flag) == 1:
                    image.add_tag(name)
            yield image


def _from_list(file: Path) -> Iterator[ExportedImage]:
    """Lines of a path and the number of a class, or its identifier in WordNet."""
    for line, where in text_lines(file):
        with entry_at(where):
            path, name = line.rsplit(maxsplit=1)
            image = ExportedImage([path], where, split=_words_split(file))
            image.add_tag(int(name) if name.isdecimal() else name)
            yield image


def _lines(*patterns: bytes) -> re.Pattern[bytes]:
    """Matches a text whose first lines are as stated; the last one may be cut off."""
    return re.compile(rb"\s*" + rb"\s*\n".join(patterns) + rb"\s*(?:\n|$)")


_TEXT, _ANY = (".txt",), re.compile(rb"")
_LISTED = _IMAGE + rb"[ \t]+(?:\d{1,4}|n\d{8})"  # n01440764, as in ImageNet
_EIGHT = rb" ".join([_NUMBER] * 8)
_DOTA_LINE = _EIGHT + rb" [^\s\d.+-]\S* [0-2]"
NUMBER_LISTS = Export(
    "Caffe (a list of paths and numbers of classes)",
    _TEXT,
    _lines(_LISTED, _LISTED).match,
    _from_list,
    objects=re.compile(rb"(?!)"),
    tags=_ANY,
)
"""Lists whose classes have no names of their own."""
TEXTS = (
    Export(
        "KITTI",
        _TEXT,
        _lines(rb"[A-Za-z_]\w*(?: " + _NUMBER + rb"){14,15}").match,
        _from_kitti,
        objects=_ANY,
        one_each=True,
    ),
    Export(
        "DOTA",
        _TEXT,
        re.compile(rb"\s*(?:imagesource:.*\n)?\s*(?:gsd:.*\n)?\s*" + _DOTA_LINE).match,
        _from_dota,
        objects=_ANY,
        one_each=True,
    ),
    Export(
        "VisDrone",
        _TEXT,
        _lines(rb"(?:\d+,){4}[01],(?:\d|1[01]),-?[01],-?[0-2],?").match,
        _from_visdrone,
        objects=_ANY,
        one_each=True,
    ),
    Export(
        "MOT Challenge",
        _TEXT,
        _lines(rb"\d+,-?\d+(?:," + _NUMBER + rb"){4},[01](?:," + _NUMBER + rb"){1,3}").match,
        _from_mot,
        objects=_ANY,
        names=re.compile(r"gt\.txt"),
    ),
    Export(
        "WIDER FACE",
        _TEXT,
        _lines(_IMAGE, rb"\d+", rb"\d+ \d+ \d+ \d+(?: \d+)*").match,
        _from_wider,
        objects=_ANY,
    ),
    Export(
        "CUB-200",
        _TEXT,
        _lines(rb"\d+ \d+").match,
        _from_cub,
        objects=re.compile(rb"(?!)"),
        tags=_ANY,
        names=re.compile(r"image_class_labels\.txt"),
    ),
    Export(
        "CelebA",
        _TEXT,
        re.compile(rb"\s*\d+[ \r]*\n[^\n]+\n\S+(?:[ \t]+-?1)+\s*\n").match,
        _from_celeba,
        objects=re.compile(rb"(?!)"),
        tags=_ANY,
    ),
    NUMBER_LISTS,
    Export(
        "RetinaNet (CSV without a header)",
        (".csv",),
        _lines(_IMAGE + rb"(?:," + _NUMBER + rb"){4},[^,\n]*[^,\n\d.][^,\n]*").match,
        _from_retinanet,
        objects=_ANY,
    ),
)
"""Labels in text files."""
