"""Tables of images (.csv, .tsv, .jsonl, .ndjson, .parquet) -> records with standard columns."""

from __future__ import annotations

import math
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from difflib import SequenceMatcher
from itertools import chain, islice
from pathlib import Path
from typing import Any

from foveate.data.discovery import remember
from foveate.data.image_names import image_columns
from foveate.data.record_files import (
    TABLE_EXTENSIONS,
    Record,
    delimiter,
    read_file,
    row_location,
)
from foveate.data.split_names import split_in_name
from foveate.errors import DataError
from foveate.utils.paths import printable

Aliases = dict[str, tuple[str, ...]]
"""Standard column name -> names that a table may use for it, preferred first."""

ALIASES: Aliases = {
    "path": (
        *("path", "file", "filename", "file_name", "image", "image_path", "filepath", "file_path"),
        *("image_name", "image_file", "img", "img_path", "image_id", "image index", "id_code"),
        "id",
    ),
    "label": (
        *("label", "labels", "class", "classes", "category", "class_name", "target"),
        "finding labels",
    ),
    "split": ("split",),
    "group": ("group",),
}
CORNERS: Aliases = {
    "x0": ("x0", "xmin", "x_min"),
    "y0": ("y0", "ymin", "y_min"),
    "x1": ("x1", "xmax", "x_max"),
    "y1": ("y1", "ymax", "y_max"),
}
NUMBERS = ("value", "values", "number", "score", "count", "age", "grade", "target", "label")
"""Names of columns with a number for each image, preferred first."""
_GROUP_RANKS = (  # columns whose images belong together, the surest first
    ("patient", "participant", "subject"),
    ("case", "lesion", "specimen"),
    ("study", "scan", "slide", "volume"),
    ("track", "video", "clip"),
    ("sequence", "session", "site"),
)
OBJECTS = "objects"
"""Name of a column with all objects of an image, as Hugging Face has it."""
TEXTS = ("text", "texts", "caption", "captions", "sentence", "sentences")
_STANDARD = frozenset(chain(*ALIASES.values(), *CORNERS.values(), TEXTS, ("crowd", OBJECTS)))
_COUNTERS = frozenset({"", "index", "unnamed: 0"})  # columns that number the rows
_MAX_PREVIEW = 100  # records that are read to learn the columns of a table
_MAX_SCAN = 20_000  # records that are read to learn which values repeat: rows may be sorted by them
_MAX_CLASSES, _MIN_REPEATS = 50, 2  # different values of a column of classes, and rows of each
_COMMA_NUMBER = re.compile(r"[+-]?\d+,\d+")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
_NEAR, _MIN_CONTAINED = 0.8, 4  # from which similarity, or length of a part, on names are near
# of columns that describe an image, but are hardly what is to be learned
_ABOUT = frozenset(
    (
        *("sex", "gender", "male", "female", "race", "ethnicity", "country", "age"),
        *("view", "viewposition", "view position", "view_position", "frontal/lateral", "ap/pa"),
        *("eye", "laterality"),
    )
)
_FINDINGS = {"", "0", "1", "-1"}  # cells of CheXpert: a gap, no, yes, uncertain
_MANY_FINDINGS = 5  # columns of findings beside which another number is hardly what is meant


def is_table(path: Path) -> bool:
    """Whether `path` is a file with the extension of a table."""
    return path.suffix.lower() in TABLE_EXTENSIONS and path.is_file()


def has_labels(path: Path) -> bool:
    """Whether a table has a column of labels; False if it cannot be read."""
    return bool(_columns(path).intersection(ALIASES["label"]))


def has_paths(path: Path) -> bool:
    """Whether a table has a column of images; False if it cannot be read."""
    return bool(_columns(path).intersection(path_names(path)))


def has_boxes(path: Path) -> bool:
    """Whether a table has a path, and a label and four corners or a column of objects.

    False if it cannot be read.
    """
    columns = _columns(path)
    has_corners = all(columns.intersection(n) for n in (ALIASES["label"], *CORNERS.values()))
    return (OBJECTS in columns or has_corners) and has_paths(path)


def has_texts(path: Path) -> bool:
    """Whether a table has a path and a text; False if it cannot be read."""
    return bool(_columns(path).intersection(TEXTS)) and has_paths(path)


def first_labels(path: Path) -> list[Any]:
    """Return the labels of the first rows of a table, as they are; none if it cannot be read."""
    labels: list[Any] = []
    with suppress(DataError, OSError):
        records = read_records(path, {"label": ALIASES["label"]}, ("label",))
        labels += (record.cells["label"] for record in islice(records, _MAX_PREVIEW))
    return labels


def one_hot_columns(path: Path) -> list[str]:
    """Return the columns of a table that state classes by 0 or -1 and 1: all but the image's.

    None where the table has a column of labels, or another column holds anything else.
    """
    if not is_table(path) or has_labels(path):
        return []
    others = _row_columns(path)
    others |= {name for name in _columns(path) if group_rank(name) is not None}
    names, values = dict[str, None](), set[str]()
    with suppress(DataError, OSError):
        for record in islice(_records(path), _MAX_PREVIEW):
            own = [name for name in record.cells if name.strip().casefold() not in others]
            names |= dict.fromkeys(own)
            if not record.is_header:
                values |= {flag_text(record.cells[name]) for name in own}
    # CelebA writes -1 and 1
    return list(names) if len(names) > 1 and values in ({"0", "1"}, {"-1", "1"}) else []


def finding_columns(path: Path) -> list[str]:
    """Return the columns of a table with nothing but 0, 1, -1 and gaps, beside others (CheXpert).

    At least two, each with a 1; none where the table has a column of labels, of plain numbers, or
    only columns of 0 and 1.
    """
    return remember(("findings", path), lambda: _finding_columns(path))


def _finding_columns(path: Path) -> list[str]:
    targets = {*ALIASES["label"], *NUMBERS} - _ABOUT
    if not is_table(path) or _columns(path) & targets or one_hot_columns(path):
        return []
    others = _COUNTERS | _ABOUT | _row_columns(path)
    values: dict[str, set[str]] = {}
    with suppress(DataError, OSError):
        for record in islice(_records(path), _MAX_SCAN):
            for name, cell in {} if record.is_header else record.cells.items():
                if len(own := values.setdefault(name, set())) <= len(_FINDINGS):
                    own.add(flag_text(cell))
    found = [
        name
        for name, own in values.items()
        if "1" in own <= _FINDINGS
        and name.strip().casefold() not in others
        and group_rank(name) is None
    ]
    return found if len(found) > 1 else []


def columns_beside_findings(path: Path) -> list[str]:
    """Return what may be meant instead of the findings of a table; nothing if it has none."""
    findings = finding_columns(path)
    if not findings:
        return []
    others = list(class_columns(path))
    if len(findings) < _MANY_FINDINGS:
        numbers = number_columns(path).items()
        others += (name for name, own in numbers if not set(own) <= {-1, 0, 1})
    return [
        name
        for name in others
        if name not in findings
        and name.strip().casefold() not in _ABOUT
        and group_rank(name) is None
    ]


def number_columns(path: Path) -> dict[str, list[float]]:
    """Return the columns of a table of which most of the first cells are numbers, and these.

    Columns of the image, its split and group are left out, and those that number the rows.
    """
    others = _COUNTERS | _row_columns(path)
    cells: dict[str, list[str]] = {}
    with suppress(DataError, OSError, KeyError):
        records = _records(path)
        for record in islice(records, _MAX_PREVIEW):
            for name, cell in record.cells.items():
                if not record.is_header and name.strip().casefold() not in others:
                    cells.setdefault(name, []).append(cell_text(cell))
    columns = {}
    for name, texts in cells.items():
        numbers = [number for number in parse_numbers(texts, path) if number is not None]
        if 2 * len(numbers) > len([text for text in texts if text]):
            columns[name] = numbers
    return columns


def class_columns(path: Path) -> dict[str, list[str]]:
    """Return the columns of a table that may state classes: few different texts, which repeat.

    Columns of the image, its split (by name or values) and group are left out, and those that
    number the rows.

    Returns:
        Column -> its different values, the most frequent first. Columns that hardly state what is
        to be learned, such as `sex`, are the last.
    """
    counts: dict[str, Counter[str]] = {}
    with suppress(DataError, OSError, KeyError):
        records = _records(path)
        for record in islice(records, _MAX_SCAN):
            for name, cell in {} if record.is_header else record.cells.items():
                if isinstance(cell, str | bool) and (text := cell_text(cell)):
                    counts.setdefault(name, Counter())[text] += 1
    others = _COUNTERS | _row_columns(path)
    columns = {
        name: [value for value, _ in count.most_common()]
        for name, count in counts.items()
        if name.strip().casefold() not in others and _may_be_classes(name, count)
    }
    return dict(sorted(columns.items(), key=lambda item: item[0].strip().casefold() in _ABOUT))


def _may_be_classes(name: str, count: Counter[str]) -> bool:
    if group_rank(name) is not None:
        return False
    numbers = sum(finite_number(text) is not None for text in count)
    few = 2 <= len(count) <= min(_MAX_CLASSES, count.total() // _MIN_REPEATS)
    return few and 2 * numbers < len(count) and not all(map(split_in_name, count))


def has_column(path: Path, name: str) -> bool:
    """Whether a table has a column, without regard to case; False if it cannot be read."""
    return name.strip().casefold() in _columns(path)


def other_columns(path: Path) -> list[str]:
    """Return the columns of a table that have no standard meaning, in lower case and sorted."""
    return sorted(_columns(path) - _STANDARD)


def column_names(path: Path) -> list[str]:
    """Return all columns of a table, in lower case and sorted; none if it cannot be read."""
    return sorted(_columns(path))


def spelled_columns(path: Path) -> list[str]:
    """Return all columns of a table in its own order and spelling; none if it cannot be read."""
    columns: dict[str, None] = {}
    with suppress(DataError, OSError):
        for record in islice(_records(path), _MAX_PREVIEW):
            columns |= dict.fromkeys(record.cells)
    return list(columns)


def path_names(path: Path) -> tuple[str, ...]:
    """Return the names, in lower case, that a table may use for the column of its images.

    These are the known ones. If it has none of them, they are those of its columns whose values
    lead to images.
    """
    return remember(("path names", path), lambda: _path_names(path))


def _path_names(path: Path) -> tuple[str, ...]:
    cells: dict[str, list[Any]] = {}
    if not is_table(path) or _columns(path).intersection(ALIASES["path"]):
        return ALIASES["path"]
    with suppress(DataError, OSError):
        for record in islice(_records(path), _MAX_PREVIEW):
            for name, cell in {} if record.is_header else record.cells.items():
                cells.setdefault(name.strip().casefold(), []).append(cell)
        return tuple(image_columns(cells, path.parent)) or ALIASES["path"]
    return ALIASES["path"]


def _image_column(path: Path) -> tuple[str, ...]:
    """As `path_names`; one, if none of the known names is there. Raises if there are several."""
    names = path_names(path)
    if names != ALIASES["path"] and len(names) > 1:
        raise DataError(
            "several columns of the table lead to images, and it is unclear which is meant",
            where=printable(path),
            why="these could be it: " + ", ".join(repr(printable(name)) for name in names),
            hint="rename the one that names the image of a row to 'path'",
            id="several_image_columns",
        )
    return names


def _row_columns(path: Path) -> set[str]:
    """The columns, in lower case, that state the image, the split and the group of a row."""
    return {*path_names(path), *ALIASES["split"], *ALIASES["group"]}


def group_rank(column: str) -> int | None:
    """Return how surely a column states groups, 0 for the surest; None if it does not."""
    name = re.sub(r"[^a-z]", "", column.casefold())
    name = re.sub(r"(?:id|no|nr|num|number|name|key|uid)$", "", name) or name
    ranks = [rank for rank, names in enumerate(_GROUP_RANKS) if name in names]
    return ranks[0] if ranks else None


def _columns(path: Path) -> set[str]:
    """The columns of the first readable records; problems are for `read_records` to report."""
    return {name.strip().casefold() for name in spelled_columns(path)}


def read_records(path: Path, aliases: Aliases, required: tuple[str, ...]) -> Iterator[Record]:
    """Yield the rows of a table under standard column names; other columns are left out.

    Args:
        path: The table.
        aliases: The columns to read.
        required: Standard names of columns without which the table is refused.

    Raises:
        DataError: It is not a table, cannot be read, or lacks a column.
    """
    if "path" in required and aliases["path"] == ALIASES["path"]:
        aliases = {**aliases, "path": _image_column(path)}
    return _with_standard_names(_records(path), path, aliases, required)


def _records(path: Path) -> Iterator[Record]:
    return read_file(path, _may_matter)


def _may_matter(column: str) -> bool:
    return column.strip().casefold() in _STANDARD or group_rank(column) is not None


# --- columns


def _with_standard_names(
    records: Iterable[Record], path: Path, aliases: Aliases, required: tuple[str, ...]
) -> Iterator[Record]:
    """Rename columns; lines of JSON may each have other columns."""
    known: dict[tuple[str, ...], dict[str, str]] = {}
    for record in records:
        columns = tuple(record.cells)
        if columns not in known:
            where = row_location(path, record.number) if known else printable(path)
            known[columns] = _match_columns(list(columns), where, aliases, required, path)
        if not record.is_header:
            matches = known[columns]
            yield record._replace(
                cells={name: record.cells[column] for name, column in matches.items()}
            )


def _match_columns(
    columns: list[str], where: str, aliases: Aliases, required: tuple[str, ...], path: Path
) -> dict[str, str]:
    """Standard name -> column of the table; of several the one whose alias is preferred."""
    by_folded = {column.strip().casefold(): column for column in reversed(columns)}
    matches = {}
    for name, candidates in aliases.items():
        present = [by_folded[alias] for alias in candidates if alias in by_folded]
        if present:
            matches[name] = present[0]
        elif name in required:
            raise DataError(
                f"the table has no column {name!r}",
                where=where,
                why="its columns are: " + (", ".join(map(printable, columns)) or "none"),
                hint=_column_hint(name, columns, aliases, path),
                id="missing_column",
            )
    return matches


def _column_hint(name: str, columns: list[str], aliases: Aliases, path: Path) -> str:
    """How to say which column is meant: one that is nearly called so, or that states classes."""
    candidates = aliases[name]
    near = [column for column in columns if any(_is_near(alias, column) for alias in candidates)]
    if near:
        return f"rename the column {near[0]!r} to {name!r}"
    if name == "path":
        return "rename the column that names the images to 'path'"
    hint = f"name the column {' or '.join(candidates)}"
    if name != "label" or not CORNERS.keys().isdisjoint(aliases):
        return hint
    likely = next(iter(class_columns(path)), "NAME")
    return f"{hint}; or say which it is: --set data.column={shlex.quote(likely)}"


def _is_near(one: str, other: str) -> bool:
    """Whether a name is a slip of another one, or contains it; short ones resemble too much."""
    shorter, longer = sorted((one.casefold(), other.strip().casefold()), key=len)
    if len(shorter) < _MIN_CONTAINED:
        return False
    return shorter in longer or SequenceMatcher(None, shorter, longer).ratio() >= _NEAR


# --- cells


def cell_text(cell: object) -> str:
    """Return a cell as text; None and NaN are empty.

    3.0 becomes "3": a gap in a column of integers turns it into floats.
    """
    if cell is None or cell != cell:
        return ""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell).strip()


def finite_number(text: str) -> float | None:
    """Return the number that a text states; None if it states none, or no finite one."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def parse_numbers(texts: Sequence[str], path: Path) -> list[float | None]:
    """Return the number that each text of a column states; None where it states none.

    "1,5" is 1.5 in a table that separates its columns otherwise, such as by semicolons. Where all
    could be thousands ("1,500"), it is none.

    Args:
        texts: The texts.
        path: The table.
    """
    with_comma = [text for text in texts if _COMMA_NUMBER.fullmatch(text)]
    are_decimal = not all(map(_THOUSANDS.fullmatch, with_comma))
    if are_decimal and remember(("free commas", path), lambda: _has_free_commas(path)):
        texts = [
            text.replace(",", ".") if _COMMA_NUMBER.fullmatch(text) else text for text in texts
        ]
    return [finite_number(text) for text in texts]


def _has_free_commas(path: Path) -> bool:
    """Whether commas do not separate the columns of a table."""
    if path.suffix.lower() not in (".csv", ".tsv"):
        return False
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        header = next((line for line in file if line.strip()), "")
    return delimiter(header, path) != ","


def flag_text(cell: object) -> str:
    """Return a cell of a column of 0 and 1 as text; "1.0", as pandas writes it, is "1"."""
    return cell_text(cell).removesuffix(".0")
