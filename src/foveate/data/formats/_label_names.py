"""Names of classes that a data set numbers: in a file beside the table or the folders.

    label_map.json           {"0": "blight", "1": "healthy"}, {"blight": 0, "healthy": 1},
                             ["blight", "healthy"] or [{"id": 0, "name": "blight"}, ...]
    config.json              any of these at the key id2label, label2id, names, classes, ...
    classes.txt, labels.txt  a name per line
    classes.csv              a column of numbers, and one of names

They are used where they name every number that is a label, in one way only. A file of other
content is passed over.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from foveate.data.boxes import class_name
from foveate.data.discovery import EXTENSIONS, extension_of, list_folder, remember
from foveate.data.formats._list_files import Row, parse_short_lines, rows_of_json
from foveate.data.issues import quoted
from foveate.data.records import finite_number
from foveate.errors import DataError
from foveate.types import Issue, remark
from foveate.utils.paths import printable

_SPEAKING = re.compile(  # names of files that speak of classes
    r"label|class|categor|disease|id2|2id|idx|index|to_?name|^names?$|^map$|mapping", re.IGNORECASE
)
_KEYS = ("id2label", "label2id", "class_to_idx", "idx_to_class", "names", "classes", "labels")
_LISTS_OF_ENTRIES = ("categories", *_KEYS)
_NAMES, _NUMBERS = ("name", "label", "class", "title", "class_name"), ("id", "index", "value")
_EXTENSIONS = (".json", ".txt", ".csv")
_MAX_BYTES, _MAX_FILES, _MAX_CLASSES = 2**20, 30, 5000

Names = dict[int, str]
"""Number of a class -> its name."""


def name_numbers(labels: Iterable[str], folders: Iterable[Path], notes: list[Issue]) -> Names:
    """Return the names of classes that are numbered; none where nothing names all of them.

    Args:
        labels: The labels.
        folders: Where a list of names may be.
        notes: What was used, or why not, is added here.
    """
    numbers = numbers_of(labels)
    if not numbers:
        return {}
    stated = {
        file: names for folder in dict.fromkeys(folders) for file, names in lists_in(folder).items()
    }
    fitting = {
        file: names
        for file, own in stated.items()
        if (names := _complete(own, numbers)) is not None
    }
    kinds = {tuple(names[number] for number in sorted(numbers)) for names in fitting.values()}
    files = quoted([printable(file.name) for file in fitting or stated])
    if len(kinds) == 1:
        names = next(iter(fitting.values()))
        number = min(numbers)
        text = "the names of the numbered classes are those in {file}, such as {number}: {name}"
        notes.append(
            remark("label_names", text, file=files, number=number, name=repr(names[number]))
        )
        return names
    if kinds:
        text = "{file} name the numbered classes differently, so that they keep their numbers"
        notes.append(remark("label_names_differ", text, "warning", file=files))
    elif stated:
        text = (
            "{file} may name the classes, but not each of the numbers {first} to {last} once, so"
            " that they keep their numbers"
        )
        first, last = min(numbers), max(numbers)
        notes.append(
            remark("label_names_unfit", text, "warning", file=files, first=first, last=last)
        )
    return {}


def numbers_of(labels: Iterable[str]) -> set[int]:
    """Return the numbers that labels are; none if one of them is no whole number."""
    numbers = [finite_number(label) for label in set(labels)]
    whole = {int(number) for number in numbers if number is not None and number.is_integer()}
    return whole if len(whole) == len(numbers) else set()


def renamed(label: str, names: Mapping[int, str]) -> str:
    """Return the name of a label; the label itself, if there are no names."""
    return names[int(float(label))] if names else label


def are_named(labels: Collection[str], folder: Path) -> str:
    """Return which file in a folder names all of the numbers that labels are; else nothing."""
    numbers = numbers_of(labels)
    if not numbers:
        return ""
    fitting = (
        printable(file.name)
        for file, names in lists_in(folder).items()
        if _complete(names, numbers) is not None
    )
    return next(fitting, "")


def lists_in(folder: Path) -> dict[Path, list[Row]]:
    """Return the files in a folder that list classes; each is opened once."""
    return remember(("lists of names", folder), lambda: dict(_lists_in(folder)))


def _lists_in(folder: Path) -> Iterator[tuple[Path, list[Row]]]:
    try:
        files = [file for file in list_folder(folder) if file.suffix.lower() in _EXTENSIONS]
    except DataError:
        return
    speaking = [file for file in files if file.suffix != ".txt" or _SPEAKING.search(file.stem)]
    for file in speaking if len(speaking) <= _MAX_FILES else ():
        try:
            rows = _rows(file) if file.stat().st_size <= _MAX_BYTES else None
        except (OSError, ValueError, csv.Error, RecursionError):
            continue
        # lists of images, perhaps with their labels, name no classes
        words = (word for row in rows or () for word in row.name.split())
        if rows and len(rows) <= _MAX_CLASSES and not any(map(_is_image, words)):
            yield file, rows


def _is_image(name: str) -> bool:
    return extension_of(name) in EXTENSIONS


def _complete(rows: list[Row], numbers: set[int]) -> Names | None:
    """The names by number, if there is one for each of them, and no two are the same.

    A list without numbers counts from 0; or from 1, where it would else lack a name.
    """
    if all(row.value is None for row in rows):
        first = 1 if max(numbers) == len(rows) and min(numbers) >= 1 else 0
        if first == 0 and min(numbers) >= 1 and max(numbers) < len(rows) - 1:
            return None  # it may begin at either
        names = {index: row.name for index, row in enumerate(rows, start=first)}
    else:
        names = {row.value: row.name for row in rows if row.value is not None}
    used = [class_name(names.get(number, "")) for number in sorted(numbers)]
    if not all(used) or len(set(used)) < len(used):
        return None
    return {number: class_name(name) for number, name in names.items()}


# --- files -> rows


def _rows(file: Path) -> list[Row] | None:
    """The classes in a file; None for other content."""
    speaks = _SPEAKING.search(file.stem) is not None
    if file.suffix.lower() == ".txt":
        return parse_short_lines(file)
    if file.suffix.lower() == ".csv":
        return _from_csv(file) if speaks else None
    content = json.loads(file.read_text(encoding="utf-8-sig"))
    if isinstance(content, dict):
        if {"images", "annotations"} & content.keys():  # annotations of their own
            return None
        inner = next((content[key] for key in _LISTS_OF_ENTRIES if key in content), None)
        if isinstance(inner, dict | list):
            return _from_json(inner)
        if all(key.strip().isdecimal() for key in content):
            return _from_json(content)  # {"0": "blight"} can hardly be anything else
    return _from_json(content) if speaks else None


def _from_json(content: Any) -> list[Row] | None:
    if isinstance(content, list) and all(isinstance(each, dict) for each in content):
        return _from_entries(content)
    if isinstance(content, dict):  # {"0": ["n01440764", "tench"]}
        content = {
            key: value[-1] if isinstance(value, list) and value else value
            for key, value in content.items()
        }
    return rows_of_json(content)


def _from_entries(entries: list[dict[str, Any]]) -> list[Row] | None:
    rows = []
    for entry in entries:
        name = next((entry[key] for key in _NAMES if isinstance(entry.get(key), str)), None)
        value = next((entry[key] for key in _NUMBERS if type(entry.get(key)) is int), None)
        if name is None or value is None:
            return None
        rows.append(Row(name, value))
    return rows


def _from_csv(file: Path) -> list[Row] | None:
    """Two columns, one of different whole numbers and one of names."""
    with file.open(encoding="utf-8-sig", newline="") as opened:
        lines = [line for line in csv.reader(opened) if any(cell.strip() for cell in line)]
    if len(lines) < 2 or any(len(line) != 2 for line in lines):
        return None
    for number, name in ((0, 1), (1, 0)):
        values = [line[number].strip() for line in lines[1:]]
        if all(value.isdecimal() for value in values) and len(set(values)) == len(values):
            pairs = zip(lines[1:], values, strict=True)
            return [Row(line[name].strip(), int(value)) for line, value in pairs]
    return None
