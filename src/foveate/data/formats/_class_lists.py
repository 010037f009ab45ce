"""Class lists for masks: which value or color is which class.

A class list is in the root of the data:

    classes.txt, codes.txt   one name per line, the first is value 0
    classes.json             ["sky", "road"] or {"0": "sky", "7": "road"}
    labelmap.txt             name:r,g,b:: per line (CVAT), for masks in color
    class_dict.csv           name,r,g,b with this header, for masks in color
    _classes.csv             Pixel Value,Class with this header (Roboflow), also beside masks

Classes called void, ignore or unlabeled, and names that start with '-', are ignored: their pixels
are neither trained on nor scored.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from foveate.errors import DataError
from foveate.utils.paths import printable

_VOID = frozenset({"void", "ignore", "ignored", "unlabelled", "unlabeled"})


@dataclass(frozen=True)
class ClassList:
    """Class names by value.

    Attributes:
        names: Value -> name, ignored classes included.
        ignored: Values that are ignored.
        source: The file, for messages.
        colors: Packed color -> value; empty if masks hold the values themselves.
    """

    names: dict[int, str]
    ignored: frozenset[int]
    source: str
    colors: dict[int, int] = field(default_factory=dict)

    @property
    def kept(self) -> list[int]:
        """The values of classes that are not ignored, in order."""
        return [value for value in sorted(self.names) if value not in self.ignored]


def make_class_list(
    names: dict[int, str],
    source: str,
    ignored: Iterable[int] = (),
    colors: Iterable[tuple[int, int, int]] = (),
) -> ClassList:
    """Validate a class list.

    Args:
        names: Value -> name; a leading '-' marks an ignored class.
        source: The file, for messages.
        ignored: Further values to ignore.
        colors: The color of each class, in the order of `names`.

    Raises:
        DataError: There are no names, an empty one, or one twice.
    """
    plain = {value: name.strip().removeprefix("-").strip() for value, name in names.items()}
    void = {
        value
        for value, name in names.items()
        if name.strip().startswith("-") or plain[value].casefold() in _VOID
    }
    all_ignored = frozenset({*void, *ignored})
    kept = [name for value, name in plain.items() if value not in all_ignored]
    if not kept:
        raise DataError("the class list is empty", where=source, id="empty_class_list")
    if not all(kept):
        raise DataError(
            "a class in the class list has no name", where=source, id="class_list_without_name"
        )
    duplicates = [name for name, count in Counter(kept).items() if count > 1]
    if duplicates:
        raise DataError(
            f"two classes are called {duplicates[0]!r}", where=source, id="class_list_duplicate"
        )
    packed = {pack_color(*color): value for value, color in zip(names, colors, strict=False)}
    return ClassList(plain, all_ignored, source, packed)


def pack_color(red: int, green: int, blue: int) -> int:
    """Return a color as one integer."""
    return red << 16 | green << 8 | blue


def unpack_color(color: int) -> tuple[int, int, int]:
    """Return red, green and blue of a packed color."""
    return color >> 16, color >> 8 & 255, color & 255


def find_class_list(root: Path) -> ClassList | None:
    """Read the class list in `root`, one with colors by preference; None if there is none.

    Raises:
        DataError: It cannot be read.
    """
    for name, reader in _READERS.items():
        file = root / name
        if file.is_file():
            try:
                return reader(file)
            # ValueError: JSON, numbers, bytes that are not UTF-8
            except (OSError, ValueError, csv.Error, RecursionError) as error:
                raise DataError(
                    "the class list cannot be read",
                    where=printable(file),
                    why=str(error),
                    id="unreadable_class_list",
                ) from None
    return None


def _from_lines(path: Path) -> ClassList:
    lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    return make_class_list(dict(enumerate(lines)), printable(path))


def _from_json(path: Path) -> ClassList:
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    names = dict(enumerate(content)) if isinstance(content, list) else content
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ValueError('it must be like ["sky", "road"] or {"0": "sky", "7": "road"}')
    return make_class_list({int(value): name for value, name in names.items()}, printable(path))


def _from_labelmap(path: Path) -> ClassList:
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    rows = [line.split(":") for line in lines if line and not line.startswith("#")]
    if not all(len(row) >= 2 for row in rows):
        raise ValueError("each line must be like name:r,g,b::")
    return _with_colors([row[0] for row in rows], [row[1].split(",") for row in rows], path)


def _from_csv(path: Path) -> ClassList:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    rows = [row for row in csv.reader(lines, skipinitialspace=True) if any(row)]
    if not rows or [cell.strip().casefold() for cell in rows[0][:4]] != ["name", "r", "g", "b"]:
        raise ValueError("its first line must be name,r,g,b")
    return _with_colors([row[0] for row in rows[1:]], [row[1:4] for row in rows[1:]], path)


def _from_pixel_values(path: Path) -> ClassList:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines) if any(row)]
    if not rows or [cell.casefold() for cell in rows[0][:2]] != ["pixel value", "class"]:
        raise ValueError("its first line must be Pixel Value,Class")
    return make_class_list({int(row[0]): row[1] for row in rows[1:]}, printable(path))


def _with_colors(names: list[str], cells: list[list[str]], path: Path) -> ClassList:
    colors = [tuple(int(cell) for cell in row) for row in cells]
    for name, color in zip(names, colors, strict=True):
        if len(color) != 3 or not all(0 <= channel <= 255 for channel in color):
            raise ValueError(f"the color of {name!r} is not three numbers from 0 to 255")
    duplicates = [color for color, count in Counter(colors).items() if count > 1]
    if duplicates:
        raise ValueError(f"two classes have the color {duplicates[0]}")
    triples = [(red, green, blue) for red, green, blue in colors]
    return make_class_list(dict(enumerate(names)), printable(path), colors=triples)


_READERS: dict[str, Callable[[Path], ClassList]] = {
    "class_dict.csv": _from_csv,
    "labelmap.txt": _from_labelmap,
    "classes.txt": _from_lines,
    "codes.txt": _from_lines,
    "classes.json": _from_json,
    "_classes.csv": _from_pixel_values,
}
