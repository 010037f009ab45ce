"""The card of a segmentation data set: a small YAML file that says where images and masks lie and what the values mean.

It names what cannot be written beside the data (a read-only folder, say) or cannot be guessed from it:

    path: /data/camvid                        # where the rest counts from; left out: the card's own folder
    images: {train: train, val: val}          # a folder or a pattern (frames/*.jpg) for each split, or one for all
    masks: {train: trainannot, val: valannot}
    classes: [sky, building, pole, road]      # by value from 0; or {0: sky, 7: road}; left out: the class list in `path`
    ignore: [11]                              # values that nobody cares about

For masks in colour, `classes` gives the colours: {sky: [128, 128, 128], road: [128, 64, 128]}.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foveate.data.discovery import find_images, is_image
from foveate.data.formats._mask_values import ClassList, class_list, find_class_list
from foveate.data.splits import split_from_name
from foveate.errors import DataError, UnknownName
from foveate.types import Split
from foveate.utils.paths import printable
from foveate.utils.safe_yaml import parse_yaml

_KEYS = ("path", "images", "masks", "classes", "ignore")
_LARGEST = 1_000_000  # bytes; a card is a page
_WILD = frozenset("*?[")


@dataclass(frozen=True)
class Found:
    """A picture. `parts`: its path below the folder that was named, without the ending: what an image and its mask share."""

    path: Path
    split: Split | None
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Card:
    root: Path
    images: list[Found]
    masks: list[Found]
    known: ClassList | None = None  # None: it may lie in the root


def is_card(path: Path) -> bool:
    """Whether a YAML file speaks of images and masks; a data.yaml of YOLO names its classes in `names`."""
    if (
        path.suffix.lower() not in (".yaml", ".yml")
        or not path.is_file()
        or path.stat().st_size > _LARGEST
    ):
        return False
    try:
        content = _content(path)
    except DataError:
        return False
    return "masks" in content or ("images" in content and "names" not in content)


def read_card(path: Path) -> Card:
    """The card with all its pictures. Raises UnknownName for a key that it does not know, DataError for the rest."""
    content = _content(path)
    for key in content:
        if key not in _KEYS:
            raise UnknownName(str(key), _KEYS, kind="key of a data set card", where=printable(path))
    for key in ("images", "masks"):
        if key not in content:
            raise DataError(
                f"the card has no {key!r}",
                where=printable(path),
                hint=f"{key}: {{train: a folder, val: another}}",
            )
    root = path.parent / str(content.get("path") or ".")
    if not root.is_dir():
        raise DataError(
            "the card's path is not a folder",
            where=printable(path),
            why=f"there is no {printable(root)!r}",
        )
    return Card(
        root=root,
        images=list(_pictures(root, content["images"], "images", path)),
        masks=list(_pictures(root, content["masks"], "masks", path)),
        known=_classes(content, path) or find_class_list(root),
    )


def _content(path: Path) -> dict[Any, Any]:
    try:
        content = parse_yaml(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError) as error:
        raise DataError(
            "this file is not plain YAML", where=printable(path), why=str(error)
        ) from None
    if not isinstance(content, dict):
        raise DataError(
            "this card is not a list of keys",
            where=printable(path),
            hint="its keys are: " + ", ".join(_KEYS),
        )
    return content


def _pictures(root: Path, places: object, key: str, card: Path) -> Iterator[Found]:
    """The pictures of a folder or a pattern, or of one for each split."""
    by_split = places if isinstance(places, dict) else {None: places}
    for word, place in by_split.items():
        split = None if word is None else split_from_name(str(word))
        if word is not None and split is None:
            raise DataError(
                f"no split is called {str(word)!r}",
                where=f"{printable(card)}, {key}",
                hint="one of: train, val, test",
            )
        if not isinstance(place, str):
            raise DataError(
                f"{key} wants a folder or a pattern", where=printable(card), why=f"got {place!r}"
            )
        yield from _matching(root, place, split, f"{printable(card)}, {key}")


def _matching(root: Path, place: str, split: Split | None, where: str) -> Iterator[Found]:
    parts = Path(place).parts
    fixed = next((count for count, part in enumerate(parts) if _WILD & set(part)), len(parts))
    base, pattern = root.joinpath(*parts[:fixed]), "/".join(parts[fixed:])
    if not base.is_dir():
        raise DataError(
            "there is no such folder",
            where=where,
            why=printable(base),
            hint="paths count from `path` in the card",
        )
    found = sorted(base.glob(pattern)) if pattern else find_images(base)
    files = [file for file in found if is_image(file) and file.is_file()]
    if not files:
        raise DataError("there are no pictures here", where=where, why=printable(base / pattern))
    yield from (Found(file, split, file.relative_to(base).with_suffix("").parts) for file in files)


def _classes(content: dict[Any, Any], card: Path) -> ClassList | None:
    names, ignored = content.get("classes"), content.get("ignore") or []
    where = printable(card)
    if not isinstance(ignored, list) or not all(type(value) is int for value in ignored):
        raise DataError(
            "ignore wants a list of values",
            where=where,
            why=f"got {ignored!r}",
            hint="ignore: [11]",
        )
    if names is None:
        if ignored:
            raise DataError(
                "ignore needs classes beside it", where=where, hint="classes: [sky, road]"
            )
        return None
    if isinstance(names, list):
        return class_list(
            {value: _word(name, where) for value, name in enumerate(names)}, where, ignored
        )
    if isinstance(names, dict) and all(type(value) is int for value in names):
        return class_list(
            {value: _word(name, where) for value, name in names.items()}, where, ignored
        )
    if isinstance(names, dict) and all(_is_colour(colour) for colour in names.values()):
        by_value = {value: _word(name, where) for value, name in enumerate(names)}
        colours = [(red, green, blue) for red, green, blue in names.values()]
        if len(set(colours)) < len(colours):
            raise DataError("two classes have the same colour", where=where)
        return class_list(by_value, where, ignored, colours)
    hint = "classes: [sky, road], or {0: sky, 7: road}, or {sky: [128, 128, 128], road: [128, 64, 128]}"
    raise DataError("classes wants names", where=where, why=f"got {names!r}", hint=hint)


def _is_colour(colour: object) -> bool:
    return (
        isinstance(colour, list)
        and len(colour) == 3
        and all(type(value) is int and 0 <= value <= 255 for value in colour)
    )


def _word(name: object, where: str) -> str:
    """A name as text. YAML reads no, off and 1.0 as something else than the word."""
    if not isinstance(name, str | int) or isinstance(name, bool):
        raise DataError(f"the class {name!r} is not a word", where=where, hint="put it in quotes")
    return str(name)
