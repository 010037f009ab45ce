"""Class lists for masks: which value or color is which class.

A class list is in the root of the data, or beside the masks:

    classes.txt, codes.txt   one name per line, the first is value 0; also label_names.txt, or lines
                             such as 0: sky
    classes.json             ["sky", "road"], {"0": "sky", "7": "road"} or {"sky": 0, "road": 7};
                             entries with name and color as well: config.json (Mapillary),
                             label_map.json, legend.json, ...
    labelmap.txt             name:r,g,b:: per line (CVAT), for masks in color
    label_colors.txt         r g b name per line (CamVid)
    class_dict.csv           name,r,g,b with this header, for masks in color; also classes.csv,
                             colors.csv, ..., with a column of hexadecimal colors
    _classes.csv             Pixel Value,Class with this header (Roboflow), also beside masks
    objectInfo150.txt        of ADE20K

Classes called void, ignore or unlabeled, and names that start with '-', are ignored: their pixels
are neither trained on nor scored.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from foveate.data.formats._list_files import (
    COLOR_LINES,
    COLOR_TABLES,
    ENTRIES,
    LEGENDS,
    NAME_LINES,
    Row,
    parse_color,
    parse_color_lines,
    parse_csv,
    parse_entries,
    parse_legend,
    parse_lines,
    parse_object_info,
    parse_short_lines,
)
from foveate.errors import DataError
from foveate.utils.paths import printable

_VOID = frozenset({"void", "ignore", "ignored", "unlabelled", "unlabeled"})
_MAX_BYTES = 1_000_000  # of a class list


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
    void = {value for value, name in names.items() if is_ignored_name(name)}
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


def is_ignored_name(name: str) -> bool:
    """Whether a class of this name is ignored: void, and names that start with '-'."""
    plain = name.strip()
    return plain.startswith("-") or plain.casefold() in _VOID


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
                if known := reader(file):
                    return known
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
    return _listed(parse_lines(path), path)


def _from_json(path: Path) -> ClassList:
    rows = parse_entries(path)
    if rows is None:
        raise ValueError('it must be like ["sky", "road"] or {"0": "sky", "7": "road"}')
    return _listed(rows, path)


def _from_labelmap(path: Path) -> ClassList:
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    rows = [line.split(":") for line in lines if line and not line.startswith("#")]
    if not all(len(row) >= 2 for row in rows):
        raise ValueError("each line must be like name:r,g,b::")
    return _with_colors([row[0] for row in rows], [row[1].split(",") for row in rows], path)


def _from_csv(path: Path) -> ClassList:
    rows = parse_csv(path)
    if rows is None:
        raise ValueError("its first line must be name,r,g,b")
    return _listed(rows, path)


def _from_pixel_values(path: Path) -> ClassList:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines) if any(row)]
    if not rows or [cell.casefold() for cell in rows[0][:2]] != ["pixel value", "class"]:
        raise ValueError("its first line must be Pixel Value,Class")
    return make_class_list({int(row[0]): row[1] for row in rows[1:]}, printable(path))


def _if_it_is_one(parse: Callable[[Path], list[Row] | None], path: Path) -> ClassList | None:
    """The class list in a file whose name is also that of other files; None if it is none."""
    if path.stat().st_size > _MAX_BYTES:
        return None
    try:
        rows = parse(path)
    except (OSError, ValueError, csv.Error, RecursionError):
        return None
    return _listed(rows, path) if rows else None


def _listed(rows: list[Row], path: Path) -> ClassList:
    """Entries as a class list: by their values, or else by their order."""
    values = [row.value for row in rows]
    if None in values:
        values = list(range(len(rows)))
    by_value = {value: row for value, row in zip(values, rows, strict=True) if value is not None}
    if len(by_value) < len(rows):
        raise ValueError("two classes have the same value")
    names = {value: row.name for value, row in by_value.items()}
    ignored = [value for value, row in by_value.items() if row.is_ignored]
    colors = [row.color for row in by_value.values() if row.color is not None]
    if len(colors) < len(rows):
        return make_class_list(names, printable(path), ignored)
    _require_different(colors)
    return make_class_list(names, printable(path), ignored, colors)


def _with_colors(names: list[str], cells: list[list[str]], path: Path) -> ClassList:
    rows = []
    for name, cell in zip(names, cells, strict=True):
        color = parse_color(cell)
        if color is None:
            raise ValueError(f"the color of {name!r} is not three numbers from 0 to 255")
        rows.append(Row(name, color=color))
    return _listed(rows, path)


def _require_different(colors: list[tuple[int, int, int]]) -> None:
    duplicates = [color for color, count in Counter(colors).items() if count > 1]
    if duplicates:
        raise ValueError(f"two classes have the color {duplicates[0]}")


_READERS: dict[str, Callable[[Path], ClassList | None]] = {
    "class_dict.csv": _from_csv,
    "labelmap.txt": _from_labelmap,
    **dict.fromkeys(COLOR_TABLES, partial(_if_it_is_one, parse_csv)),
    **dict.fromkeys(COLOR_LINES, partial(_if_it_is_one, parse_color_lines)),
    **dict.fromkeys(LEGENDS, partial(_if_it_is_one, parse_legend)),
    **dict.fromkeys(ENTRIES, partial(_if_it_is_one, parse_entries)),
    "classes.txt": _from_lines,
    "codes.txt": _from_lines,
    "classes.json": _from_json,
    "_classes.csv": _from_pixel_values,
    "objectInfo150.txt": partial(_if_it_is_one, parse_object_info),
    **dict.fromkeys(NAME_LINES, partial(_if_it_is_one, parse_short_lines)),
}
