"""Files that list classes, as rows of names, values and colors.

A parser returns None for a file that is something else, where its name alone does not tell; and
raises ValueError for one that has a fault.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Color = tuple[int, int, int]

# files with colors, by preference; class_dict.csv and labelmap.txt come before them
COLOR_TABLES = (
    *("class_dict_seg.csv", "labels_class_dict.csv", "classes.csv", "colors.csv", "labels.csv"),
    *("label_colors.csv", "class_colors.csv", "colormap.csv", "color_map.csv", "palette.csv"),
)
COLOR_LINES = ("label_colors.txt", "label_color.txt", "colors.txt", "colormap.txt", "color_map.txt")
LEGENDS = ("config.json", "config_v2.0.json", "config_v1.2.json")  # Mapillary Vistas
ENTRIES = (
    *("legend.json", "label_map.json", "labels.json", "label_colors.json", "colors.json"),
    *("colormap.json", "color_map.json", "class_colors.json", "palette.json"),
    *("class_names.json", "class_map.json"),
)
NAME_LINES = ("label_names.txt", "labels.txt", "class_names.txt", "names.txt")

_NAMES = ("readable", "name", "class_name", "classname", "class name", "label", "class", "title")
_VALUES = (
    *("value", "pixel_value", "pixel value", "pixel", "id", "index", "class_id", "label_id"),
    *("class id", "label id"),
)
_COLORS = ("color", "colour", "rgb", "hex", "hex_color", "hex code", "color_hex", "colors")
_CHANNELS = (("r", "g", "b"), ("red", "green", "blue"))
_LISTS = ("labels", "classes", "categories", "legend")  # of entries in a JSON
_MAX_LINES = 1000
_HEX = re.compile(r"#?([0-9a-f]{6})", re.IGNORECASE)
_NUMBER = re.compile(r"\d{1,3}")
_NUMBERED_LINE = re.compile(r"(\d+)\s*[\s:=,]\s*(\D.*)")
_COLOR_FIRST = re.compile(r"(\d+)[\s,;]+(\d+)[\s,;]+(\d+)[\s,;:]+(\S.*)")
_COLOR_LAST = re.compile(r"(\S.*?)[\s,;:]+(\d+)[\s,;]+(\d+)[\s,;]+(\d+)[\s:;]*")


@dataclass(frozen=True)
class Row:
    """A class of a list: its name, and its value or color if the list states them."""

    name: str
    value: int | None = None
    color: Color | None = None
    is_ignored: bool = False


def parse_color(stated: object) -> Color | None:
    """Return a color: [r, g, b], 'r, g, b', '#rrggbb', 'rgb(r, g, b)' or {'r': ...}; else None."""
    if isinstance(stated, str):
        match = _HEX.fullmatch(stated.strip())
        if match and not stated.strip().isdecimal():
            packed = int(match[1], 16)
            return packed >> 16, packed >> 8 & 255, packed & 255
        return parse_color(_NUMBER.findall(stated))
    if isinstance(stated, Mapping):
        return parse_color([stated.get(channel) for channel in "rgb"])
    if not isinstance(stated, Sequence) or len(stated) not in (3, 4):
        return None
    try:
        red, green, blue = (int(channel) for channel in stated[:3])
    except (TypeError, ValueError):
        return None
    return (red, green, blue) if all(0 <= c <= 255 for c in (red, green, blue)) else None


# --- lines


def parse_lines(path: Path) -> list[Row]:
    """Parse a name per line, each perhaps after its value."""
    lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    numbered = [_NUMBERED_LINE.fullmatch(line.strip()) for line in lines]
    matches = [match for match in numbered if match]
    if lines and len(matches) == len(lines):
        return [Row(match[2], int(match[1])) for match in matches]
    return [Row(line) for line in lines]


def parse_short_lines(path: Path) -> list[Row] | None:
    """Parse names as `parse_lines`; None if these are no names of classes."""
    rows = [row for row in parse_lines(path) if row.name.strip()]
    if not rows or len(rows) > _MAX_LINES or any(re.search(r"[/\\,]|\.\w+$", r.name) for r in rows):
        return None
    return rows


def parse_color_lines(path: Path) -> list[Row] | None:
    """Parse lines such as '128 64 128 Road' or 'Road 128 64 128'; None if there are others."""
    rows = []
    for line in map(str.strip, path.read_text(encoding="utf-8-sig").splitlines()):
        if not line or line.startswith("#"):
            continue
        first, last = _COLOR_FIRST.fullmatch(line), _COLOR_LAST.fullmatch(line)
        if first is None and last is None:
            return None
        name, stated = (first[4], first.groups()[:3]) if first else ("", ())
        if first is None and last is not None:
            name, stated = last[1], last.groups()[1:]
        rows.append(Row(name.strip(), color=_require_color(stated, name)))
    return rows


def parse_object_info(path: Path) -> list[Row] | None:
    """Parse the list of ADE20K: Idx, ..., Name; 0 is everything else, which is ignored."""
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    cells = [line.split("\t") for line in lines if line.strip()]
    if not cells or cells[0][0].strip() != "Idx" or len({len(row) for row in cells}) > 1:
        return None
    names = [row[-1].split(",")[0].strip() for row in cells[1:]]
    if len(set(names)) < len(names):
        names = [row[-1].strip() for row in cells[1:]]
    rows = [Row(name, int(row[0])) for name, row in zip(names, cells[1:], strict=True)]
    return [Row("other", 0, is_ignored=True), *rows]


# --- tables


def parse_csv(path: Path) -> list[Row] | None:
    """Parse a table with columns of names, and of colors or values; None for other tables."""
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    delimiter = ";" if lines and ";" in lines[0] and "," not in lines[0] else ","
    cells = list(csv.reader(lines, skipinitialspace=True, delimiter=delimiter))
    header = [cell.strip().casefold() for cell in cells[0]] if cells else []
    name = _first(header, _NAMES)
    read_color = _color_reader(header)
    value = _first(header, _VALUES)
    if name is None or read_color is None:
        return None
    rows = []
    for row in cells[1:]:
        if any(cell.strip() for cell in row):
            row = [*row, *[""] * (len(header) - len(row))]
            number = int(row[value]) if value is not None else None
            rows.append(Row(row[name], number, _require_color(read_color(row), row[name])))
    return rows


def _color_reader(header: list[str]) -> Callable[[list[str]], object] | None:
    for channels in _CHANNELS:
        if set(channels) <= set(header):
            positions = [header.index(channel) for channel in channels]
            return lambda row: [row[position] for position in positions]
    column = _first(header, _COLORS)
    return None if column is None else lambda row: row[column]


def _first(header: Iterable[str], candidates: Iterable[str]) -> int | None:
    header = list(header)
    return next((header.index(name) for name in candidates if name in header), None)


def _require_color(stated: object, name: str) -> Color:
    color = parse_color(stated)
    if color is None:
        raise ValueError(f"the color of {name!r} is not three numbers from 0 to 255")
    return color


# --- JSON


def parse_entries(path: Path) -> list[Row] | None:
    """Parse names with colors as `parse_legend`, or without as `parse_json`."""
    return parse_legend(path) or parse_json(path)


def parse_json(path: Path) -> list[Row] | None:
    """Parse names in order, or names and values; None for other content."""
    return rows_of_json(json.loads(path.read_text(encoding="utf-8-sig")))


def rows_of_json(content: object) -> list[Row] | None:
    """Return the rows of ["sky", "road"], {"0": "sky"} or {"sky": 0}; None for other content.

    Raises:
        ValueError: A value is no number.
    """
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        return [Row(name) for name in content]
    if not isinstance(content, dict):
        return None
    if all(isinstance(name, str) for name in content.values()):
        return [Row(name, int(value)) for value, name in content.items()]
    if all(type(value) is int for value in content.values()):
        return [Row(name, value) for name, value in content.items()]
    return None


def parse_legend(path: Path) -> list[Row] | None:
    """Parse names and colors in one of their usual forms; None for other content.

    [{"name": "sky", "color": [r, g, b]}, ...], also in a list "labels"; {"sky": [r, g, b]}, and
    {"#rrggbb": "sky"}.
    """
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    if isinstance(content, dict):
        entries = next((content[key] for key in _LISTS if isinstance(content.get(key), list)), None)
        if entries is None:
            return _legend_of_pairs(content)
        content = entries
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        return None
    rows = [_legend_row(entry) for entry in content]
    return None if None in rows else [row for row in rows if row is not None]


def _legend_row(entry: dict[str, Any]) -> Row | None:
    """An entry with a name and a color; None for another one."""
    folded = {key.casefold(): value for key, value in entry.items()}
    name = next((folded[key] for key in _NAMES if isinstance(folded.get(key), str)), None)
    color = next((parse_color(folded[key]) for key in _COLORS if key in folded), None)
    value = next((folded[key] for key in _VALUES if type(folded.get(key)) is int), None)
    if name is None or color is None:
        return None
    return Row(name, value, color, is_ignored=folded.get("evaluate") is False)


def _legend_of_pairs(content: dict[str, Any]) -> list[Row] | None:
    by_name = [(name, parse_color(color)) for name, color in content.items()]
    if by_name and all(color is not None for _, color in by_name):
        return [Row(name, color=color) for name, color in by_name]
    by_color = [(name, parse_color(color)) for color, name in content.items()]
    if by_color and all(color and isinstance(name, str) for name, color in by_color):
        return [Row(name, color=color) for name, color in by_color]
    return None
