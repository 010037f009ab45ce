"""YOLO: a data.yaml that names the classes and the images of each split; labels as text, a line an object.

DATA is the .yaml file, or the folder that holds it. images/train/1.jpg has its objects in labels/train/1.txt, or else beside
itself: `class cx cy width height` as fractions of the picture. A line of an outline (class x y x y x y ...) becomes the box
round it. No file, or an empty one: no objects. The YAML is data: what else it says (`download`) is passed over.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any, ClassVar

import yaml

from foveate.data.boxes import Raw, class_name
from foveate.data.discovery import find_images, listed
from foveate.data.formats import Format
from foveate.data.formats._boxed import Gathering, Placed, copied, is_there, lost
from foveate.data.issues import IssueKind, skip_and_record
from foveate.data.splits import split_from_name
from foveate.errors import DataError, did_you_mean
from foveate.types import Split, Table
from foveate.utils.paths import printable
from foveate.utils.safe_yaml import parse_yaml

_PREFERRED = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_LARGEST = 1_000_000  # bytes; a data.yaml is a page
_KEYS = {
    "names": re.compile(r"^['\"]?names['\"]?\s*:", re.MULTILINE),
    "train or val": re.compile(r"^['\"]?(train|val|valid|validation|test)['\"]?\s*:", re.MULTILINE),
}
_READ = frozenset({"path", "names", "nc", "kpt_shape"})
_OUTLINES = IssueKind("outlines turned into the box round them")
_BARE = IssueKind("images without a label file, taken for images without objects")
_SPLITS: tuple[Split, ...] = ("train", "val", "test")


class Yolo(Format):
    summary: ClassVar[str] = "YOLO labels under a data.yaml"

    def sniff(self, path: Path) -> bool:
        try:
            return len(_cards(path)) == 1
        except (DataError, OSError):
            return False

    def read(self, path: Path) -> Table:
        """The table of all images that data.yaml leads to. Raises DataError with the file and line."""
        card = _card_at(path)
        content = _content(card)
        names, gathering = _names(content, card), Gathering(card.parent)
        gathering.notes += _remarks(content, names, card)
        images = list(_images(content, card, gathering))
        labels = {image: _labels_of(image) for image, _ in images}
        if images and not any(labels.values()):
            looked = printable(_beside_images(images[0][0]))
            raise DataError(
                "no image has a label file",
                where=printable(card),
                why=f"there is no {looked}, for one",
            )
        for image, split in images:
            with skip_and_record():
                _take(image, labels[image], split, names, "kpt_shape" in content, gathering)
        return gathering.table(names.values(), "yolo")

    def write(self, table: Table, folder: Path) -> tuple[str, ...]:
        """data.yaml, images/, labels/ and train.txt, val.txt, test.txt, which list the images."""
        text = "kept as boxes like others"
        notes = lost(table, crowd=text, group=True, split="listed under train")
        images = copied(table, folder / "images", notes)
        content: dict[str, Any] = {}
        for split in _SPLITS:
            mine = [image for image in images if (image.sample.split or "train") == split]
            if mine:
                lines = "".join(f"./images/{image.place}\n" for image in mine)
                (folder / f"{split}.txt").write_text(lines, encoding="utf-8")
                content[split] = f"{split}.txt"
        for image in images:
            file = folder / _beside_images(Path("images", image.place))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(_lines_of(image, table.classes)), encoding="utf-8")
        content["names"] = dict(enumerate(table.classes))
        (folder / "data.yaml").write_text(
            yaml.safe_dump(content, allow_unicode=True, sort_keys=False), encoding="utf-8"
        )
        return tuple(notes)


# --- data.yaml


def _cards(path: Path) -> list[Path]:
    """The .yaml files at a path that name classes and images; a usual name counts more than others."""
    found = [file for file in (listed(path) if path.is_dir() else [path]) if _is_card(file)]
    return [file for file in found if file.name.lower() in _PREFERRED] or found


def _is_card(file: Path) -> bool:
    if (
        file.suffix.lower() not in (".yaml", ".yml")
        or not file.is_file()
        or file.stat().st_size > _LARGEST
    ):
        return False
    text = file.read_text(encoding="utf-8-sig", errors="replace")
    return all(pattern.search(text) for pattern in _KEYS.values())


def _card_at(path: Path) -> Path:
    if path.is_file():
        return path
    cards = _cards(path)
    if len(cards) != 1:
        why = (
            "several do: " + ", ".join(card.name for card in cards)
            if cards
            else "no .yaml file names classes and images"
        )
        raise DataError(
            "this folder has not one data.yaml",
            where=printable(path),
            why=why,
            hint="give the .yaml file itself",
        )
    return cards[0]


def _content(card: Path) -> dict[str, Any]:
    text, where = _text(card), printable(card)
    try:
        content = parse_yaml(text)
    except ValueError as error:
        hint = "no tags such as !!python are allowed"
        raise DataError(
            "this file is not plain YAML", where=where, why=str(error), hint=hint
        ) from None
    if not isinstance(content, dict) or "names" not in content:
        raise DataError("this file names no classes", where=where, hint="names: [cat, dog]")
    return {str(key): value for key, value in content.items()}


def _names(content: dict[str, Any], card: Path) -> dict[int, str]:
    """Class number -> name, in the order of numbers."""
    names = content["names"]
    pairs = (
        enumerate(names)
        if isinstance(names, list)
        else names.items()
        if isinstance(names, dict)
        else ()
    )
    found = {
        number: class_name(name)
        for number, name in pairs
        if type(number) is int and type(name) in (str, int, float)
    }
    if not found or len(found) != len(names) or not all(found.values()):
        hint = "names: [cat, dog], or {0: cat, 1: dog}; a word such as no or yes in quotes"
        raise DataError(
            "names is not a list of words, nor a number and a word for each class",
            where=printable(card),
            hint=hint,
        )
    return dict(sorted(found.items()))


def _remarks(content: dict[str, Any], names: dict[int, str], card: Path) -> list[str]:
    unread = [key for key in content if key not in _READ and split_from_name(key) is None]
    notes = (
        [f"passed over in {card.name}, nothing of it is run: {', '.join(unread)}"] if unread else []
    )
    if "nc" in content and content["nc"] != len(names):
        notes.append(f"nc and names disagree in {card.name}: the {len(names)} names count")
    if "kpt_shape" in content:
        notes.append("key points are passed over: the boxes count")
    return notes


# --- images and labels


def _images(
    content: dict[str, Any], card: Path, gathering: Gathering
) -> Iterator[tuple[Path, Split]]:
    """All images, split by split. A place that is not there is noted; DataError when none is."""
    stated = [
        (split, place)
        for key, value in content.items()
        if (split := split_from_name(key))
        for place in _listed(value, card)
    ]
    bases = [card.parent / content["path"]] if isinstance(content.get("path"), str) else []
    missing = []
    for split, place in sorted(stated, key=lambda pair: _SPLITS.index(pair[0])):
        tries = [base / place for base in (*bases, card.parent)]
        tries.append(
            card.parent / place.removeprefix("../")
        )  # Roboflow writes ../train/images for train/images
        found = next((folder for folder in tries if folder.is_dir() or is_there(folder)), None)
        if found is None:
            missing.append(f"{split}: {place!r}")
            continue
        for image in (
            find_images(found)
            if found.is_dir()
            else _lines(found, [found.parent, *bases, card.parent])
        ):
            yield image, split
    if len(missing) == len(stated):
        entries = [entry.name for entry in listed(card.parent) if entry.is_dir()]
        hints = (did_you_mean(PurePath(place).name, entries) for _, place in stated)
        otherwise = f"paths count from `path`, or from {printable(card.parent)!r}"
        hint = next(filter(None, hints), otherwise)
        why = "not there: " + ", ".join(missing) if missing else "it states no train, val or test"
        raise DataError("data.yaml leads to no images", where=printable(card), why=why, hint=hint)
    gathering.notes += [f"a place of images is not there, passed over: {text}" for text in missing]


def _listed(value: object, card: Path) -> list[str]:
    places = value if isinstance(value, list) else [] if value is None else [value]
    named = [place for place in places if isinstance(place, str)]
    if len(named) < len(places):
        raise DataError(
            "train, val and test want a folder or a list of folders", where=printable(card)
        )
    return [place for place in named if place]


def _lines(file: Path, bases: list[Path]) -> Iterator[Path]:
    """The images that a list of paths names."""
    for line in _text(file).split("\n"):
        if name := line.rstrip("\r"):
            yield next((base / name for base in bases if is_there(base / name)), bases[0] / name)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            "this file cannot be read as text", where=printable(file), why=str(error)
        ) from None


def _labels_of(image: Path) -> Path | None:
    return next(
        (file for file in (_beside_images(image), image.with_suffix(".txt")) if is_there(file)),
        None,
    )


def _beside_images(image: Path) -> Path:
    """a/images/b/1.jpg -> a/labels/b/1.txt; of several folders `images` the last is meant, as everywhere with YOLO."""
    parts = list(image.parts)
    for place in reversed(range(len(parts) - 1)):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _take(
    image: Path,
    labels: Path | None,
    split: Split,
    names: dict[int, str],
    points: bool,
    gathering: Gathering,
) -> None:
    size = gathering.measured(image)
    if size is None:
        return
    raw, outlines = Raw(), 0
    for number, line in enumerate(_text(labels).splitlines() if labels else [], start=1):
        with skip_and_record():
            if line.strip():
                values = _numbers(
                    line, names, points, f"{printable(labels or image)}, line {number}"
                )
                outlines += len(values) > 5
                raw.add(_corners(values[1:], size), names[int(values[0])])
    if labels is None:
        gathering.findings.add(_BARE, gathering.key(image))
    if outlines:
        gathering.findings.add(_OUTLINES, gathering.key(image), outlines)
    gathering.take(image, raw, split, stated=size)


def _numbers(line: str, names: dict[int, str], points: bool, where: str) -> list[float]:
    """The class and the four numbers of a box, or six and more of an outline."""
    try:
        values = [float(word) for word in line.split()]
    except ValueError:
        raise DataError(
            "this label is not made of numbers", where=where, why=f"got {line.strip()[:80]!r}"
        ) from None
    if not values[0].is_integer() or int(values[0]) not in names:
        why = f"the classes are {min(names)} to {max(names)}"
        raise DataError(
            f"no class has the number {line.split()[0]}",
            where=where,
            why=why,
            hint="check `names` in data.yaml",
        )
    if points and len(values) > 5:
        values = values[:5]
    if len(values) < 5 or len(values) % 2 == 0:
        hint = "class, centre x, centre y, width, height; or class and at least three points x, y"
        raise DataError(
            f"this label has {len(values)} numbers", where=where, why="a box has 5", hint=hint
        )
    return values


def _corners(values: list[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Fractions -> pixels. An outline with a number that is none has no box: four of them tell the audit."""
    height, width = size
    if any(map(math.isnan, values)):
        return math.nan, math.nan, math.nan, math.nan
    if len(values) == 4:
        x, y, wide, high = values
        return (
            (x - wide / 2) * width,
            (y - high / 2) * height,
            (x + wide / 2) * width,
            (y + high / 2) * height,
        )
    xs, ys = values[::2], values[1::2]
    return min(xs) * width, min(ys) * height, max(xs) * width, max(ys) * height


def _lines_of(image: Placed, classes: tuple[str, ...]) -> Iterator[str]:
    height, width = image.size
    places = {name: place for place, name in enumerate(classes)}
    for (x0, y0, x1, y1), name, _ in image.rows():
        numbers = (
            (x0 + x1) / 2 / width,
            (y0 + y1) / 2 / height,
            (x1 - x0) / width,
            (y1 - y0) / height,
        )
        yield f"{places[name]} {' '.join(map(repr, numbers))}\n"
