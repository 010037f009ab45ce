"""Files of rows (.csv, .tsv, .jsonl, .ndjson, .parquet) -> records with our own column names."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

from foveate.data.issues import Issue, IssueKind, Location, skip_and_record
from foveate.data.splits import split_from_name
from foveate.errors import DataError, near_names
from foveate.types import Sample, Split
from foveate.utils.paths import printable

ALIASES = {
    "path": ("path", "file", "filename", "image", "image_path", "filepath"),
    "label": ("label", "labels", "class", "category"),
    "split": ("split",),
    "group": ("group",),
}
CORNERS = {
    "x0": ("x0", "xmin", "x_min"),
    "y0": ("y0", "ymin", "y_min"),
    "x1": ("x1", "xmax", "x_max"),
    "y1": ("y1", "ymax", "y_max"),
}
TEXTS = ("text", "texts", "caption", "captions", "sentence", "sentences")
MISSING = IssueKind("images that are missing, dropped with their rows", "error")
_GLANCE = 100  # records that are looked at before the names of the columns are told

Aliases = dict[str, tuple[str, ...]]
Record = tuple[
    int, dict[str, Any]
]  # the number of the line (of the row, in Parquet; both from 1) and its cells


def records(path: Path, aliases: Aliases, required: tuple[str, ...]) -> Iterator[Record]:
    """The rows of a table, their cells under our names. Raises DataError, with the line where there is one."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            "this is no table", where=printable(path), hint="one of: " + ", ".join(READERS)
        )
    return _named(reader(path), path, aliases, required)


def is_table(path: Path) -> bool:
    return path.suffix.lower() in READERS and path.is_file()


def has_boxes(path: Path) -> bool:
    """Whether a table has the columns of boxes: path, label and four corners. False, too, when it cannot be read."""
    columns = _columns(path)
    return all(
        columns.intersection(names)
        for names in (ALIASES["path"], ALIASES["label"], *CORNERS.values())
    )


def has_texts(path: Path) -> bool:
    """Whether a table has a path and a text; False, too, when it cannot be read."""
    columns = _columns(path)
    return all(columns.intersection(names) for names in (ALIASES["path"], TEXTS))


def has_labels(path: Path) -> bool:
    """Whether a table has a column of labels."""
    return bool(_columns(path).intersection(ALIASES["label"]))


def _columns(path: Path) -> set[str]:
    """The columns of the first rows that can be read; it is for `read` to say what is wrong with the rest."""
    columns: set[str] = set()
    with suppress(DataError, OSError):
        for _, cells in islice(READERS[path.suffix.lower()](path), _GLANCE):
            columns.update(name.strip().casefold() for name in cells)
    return columns


def traits(path: Path) -> dict[Path, dict[str, str]]:
    """What else a table says of its images: of each its cells as text, under the names of columns that are none of ours.

    Raises DataError where there is no such column."""
    if not is_table(path):
        raise DataError(
            "this is no table", where=printable(path), hint="one of: " + ", ".join(READERS)
        )
    ours = {alias for aliases in (*ALIASES.values(), *CORNERS.values(), TEXTS) for alias in aliases}
    others = [] if path.suffix.lower() == ".parquet" else sorted(_columns(path) - ours)
    found: dict[Path, dict[str, str]] = {}
    for number, cells in records(
        path, {"path": ALIASES["path"], **{name: (name,) for name in others}}, ("path",)
    ):
        found[place_of(cells["path"], path, number)[0]] = {
            name: word_of(cells.get(name)) for name in others
        }
    if not others:
        hint = "a .csv, .tsv or .jsonl with a column path and such as site, sex, year"
        raise DataError("this table has no column to slice by", where=printable(path), hint=hint)
    return found


# --- bytes -> records


def _read_csv(path: Path) -> Iterator[Record]:
    """Lines that are blank, or hold only separators, are left out; one label cell may hold several, parted by | or ;."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = next((line for line in file if line.strip()), "")
            reader = csv.DictReader(
                chain([header], file), delimiter=_delimiter(header, path), strict=True
            )
            yield 1, dict.fromkeys(reader.fieldnames or [], _HEADER)
            for cells in reader:
                if any(cells.values()):
                    yield (
                        reader.line_num,
                        {
                            name: Parted(cell or "")
                            for name, cell in cells.items()
                            if name is not None
                        },
                    )
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(
            "this table cannot be read",
            where=printable(path),
            why=str(error),
            hint="save it in UTF-8",
        ) from None


class Parted(str):
    """A cell of a CSV, where several labels are parted by | or ;."""


_HEADER = (
    Parted()
)  # the cells of the header's own record, which only carries the names of the columns


def _delimiter(header: str, path: Path) -> str:
    if path.suffix.lower() == ".tsv":
        return "\t"
    return ";" if ";" in header and "," not in header else ","


def _read_lines(path: Path) -> Iterator[Record]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                cells = None
                with skip_and_record():
                    cells = _object(line, number, path) if line.strip() else None
                if cells is not None:
                    yield number, cells
    except UnicodeDecodeError as error:
        raise DataError(
            "this table cannot be read",
            where=printable(path),
            why=str(error),
            hint="save it in UTF-8",
        ) from None


def _object(line: str, number: int, path: Path) -> dict[str, Any]:
    try:
        cells = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(
            "this line is not JSON", where=row_of(path, number), why=str(error)
        ) from None
    if not isinstance(cells, dict):
        raise DataError(
            "this line is not a JSON object",
            where=row_of(path, number),
            hint='{"path": "a.jpg", "label": "cat"}',
        )
    return cells


def _read_parquet(path: Path) -> Iterator[Record]:
    import pyarrow
    from pyarrow import parquet

    known = {
        alias
        for aliases in (*ALIASES.values(), *CORNERS.values(), TEXTS, ("crowd",))
        for alias in aliases
    }
    try:
        table = parquet.ParquetFile(path)
        names = table.schema_arrow.names
        yield 0, dict.fromkeys(names, _HEADER)
        wanted = [name for name in names if name.strip().casefold() in known]
        rows = (row for batch in table.iter_batches(columns=wanted) for row in batch.to_pylist())
        yield from enumerate(rows, start=1)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            "this Parquet file cannot be read",
            where=printable(path),
            why=str(error).replace("\n", " "),
        ) from None


READERS = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_lines,
    ".ndjson": _read_lines,
    ".parquet": _read_parquet,
}


# --- columns and cells


def _named(
    found: Iterable[Record], path: Path, aliases: Aliases, required: tuple[str, ...]
) -> Iterator[Record]:
    """The records with our own column names; lines of JSON may each have columns of their own."""
    known: dict[tuple[str, ...], dict[str, str]] = {}
    for number, cells in found:
        columns = tuple(cells)
        if columns not in known:
            known[columns] = _chosen(
                list(columns), row_of(path, number) if known else printable(path), aliases, required
            )
        if not all(cell is _HEADER for cell in cells.values()):
            yield number, {name: cells[column] for name, column in known[columns].items()}


def _chosen(
    columns: list[str], where: str, aliases: Aliases, required: tuple[str, ...]
) -> dict[str, str]:
    """Our name -> the column that has it; of several the one whose alias is listed first."""
    spelt = {column.strip().casefold(): column for column in reversed(columns)}
    chosen = {
        name: next(spelt[alias] for alias in words if alias in spelt)
        for name, words in aliases.items()
        if any(alias in spelt for alias in words)
    }
    for name in required:
        if name not in chosen:
            near = [
                column for alias in aliases[name] for column in near_names(alias, columns, most=1)
            ]
            hint = (
                f"rename {near[0]!r} to {name!r}"
                if near
                else f"name a column {' or '.join(aliases[name])}"
            )
            why = "the columns are: " + ", ".join(columns)
            raise DataError(f"the table has no column {name!r}", where=where, why=why, hint=hint)
    return chosen


def place_of(cell: object, table: Path, number: int) -> tuple[Path, str]:
    """The image that a row names, and its key. Paths count from the folder of the table."""
    if not isinstance(cell, str) or not cell.strip():
        raise DataError(
            "this row names no image", where=row_of(table, number), why=f"its path is {cell!r}"
        )
    path = Path(os.path.normpath(table.parent / cell.strip()))
    root = Path(os.path.normpath(table.parent))
    return path, printable(path.relative_to(root) if path.is_relative_to(root) else path)


@dataclass(frozen=True)
class Named:
    """What every row that names an image says of it."""

    number: int
    path: Path
    key: str
    split: Split | None
    group: str | None


R = TypeVar("R", bound=Named)


def named_by(record: Record, table: Path) -> tuple[int, Path, str, Split | None, str | None]:
    """The fields of `Named` in a record; raises DataError with the line."""
    number, cells = record
    path, key = place_of(cells["path"], table, number)
    return (
        number,
        path,
        key,
        split_of(cells.get("split"), row_of(table, number)),
        word_of(cells.get("group")) or None,
    )


def without_split(rows: Sequence[Named | Sample]) -> list[str]:
    """A note where some images name a split and others none."""
    unsplit = sum(row.split is None for row in rows)
    return [f"{unsplit} of {len(rows)} images name no split"] if 0 < unsplit < len(rows) else []


def present(rows: list[R], table: Path, notes: list[str]) -> list[R]:
    """The rows whose image exists, a note on the others; DataError when none does."""
    missing = [row for row in rows if not row.path.is_file()]
    names = ", ".join(repr(row.key) for row in missing[:3]) + (", ..." if len(missing) > 3 else "")
    if len(missing) == len(rows):
        why = f"not one of the {len(rows)} images is there: {names}"
        hint = f"paths count from the folder of the table, {printable(table.parent)!r}"
        raise DataError(
            "the images of this table are missing", where=printable(table), why=why, hint=hint
        )
    if missing:
        told = f"{len(missing)} of {len(rows)} images are missing and dropped: {names}"
        places = tuple(Location(row.key, row_of(table, row.number)) for row in missing)
        notes.append(Issue(told, MISSING, len(missing), places))
    gone = {row.key for row in missing}
    return [row for row in rows if row.key not in gone]


def word_of(cell: object) -> str:
    """A cell as text: nothing and not-a-number are empty; 3.0 is '3', for a gap in a column of integers makes it floats."""
    if cell is None or cell != cell:
        return ""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell).strip()


def split_of(cell: object, where: str) -> Split | None:
    word = word_of(cell)
    split = split_from_name(word)
    if word and split is None:
        raise DataError(
            f"no split is called {word!r}", where=where, hint="one of: train, val, test"
        )
    return split


def row_of(path: Path, number: int) -> str:
    return f"{printable(path)}, row {number}"
