"""A table of paths and labels (.csv, .tsv, .jsonl, .ndjson, .parquet): columns path, label and, if wanted, split and group."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

from foveate.errors import DataError, near_names
from foveate.formats import Format
from foveate.images import printable
from foveate.splits import split_named
from foveate.types import Labels, Sample, Split, Table

_ALIASES = {
    "path": ("path", "file", "filename", "image", "image_path", "filepath"),
    "label": ("label", "labels", "class", "category"),
    "split": ("split",),
    "group": ("group",),
}
_REQUIRED = ("path", "label")

Record = tuple[int, dict[str, Any]]  # the number of the line (of the row, in Parquet; both from 1) and its cells


class TableFile(Format):
    summary: ClassVar[str] = "a table of paths and labels"

    def sniff(self, path: Path) -> bool:
        return path.suffix.lower() in _READERS and path.is_file()

    def read(self, path: Path) -> Table:
        """The table at `path`; its images are looked for beside it. Raises DataError, with the line where there is one."""
        reader = _READERS.get(path.suffix.lower())
        if reader is None:
            raise DataError("this is no table", where=printable(path), hint="one of: " + ", ".join(_READERS))
        rows, notes = [_row(record, path) for record in _named(reader(path), path)], list[str]()
        if not rows:
            raise DataError("this table has no rows", where=printable(path))
        multilabel = any(len(row.labels) != 1 for row in rows)
        rows = _merged(rows, multilabel, path, notes)
        rows = _present(rows, path, notes)
        notes += _remarks(rows, multilabel)
        return Table(
            samples=tuple(row.sample() for row in rows),
            classes=tuple(sorted({name for row in rows for name in row.labels})),
            format="table",
            root=path.parent,
            multilabel=multilabel,
            notes=tuple(notes),
        )


@dataclass(frozen=True)
class _Row:
    number: int
    path: Path
    key: str
    labels: tuple[str, ...]
    split: Split | None
    group: str | None

    def sample(self) -> Sample:
        return Sample(path=self.path, key=self.key, truth=Labels(self.labels), split=self.split, group=self.group)


# --- bytes -> records


def _read_csv(path: Path) -> Iterator[Record]:
    """Lines that are blank, or hold only separators, are left out; one label cell may hold several, parted by | or ;."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = next((line for line in file if line.strip()), "")
            reader = csv.DictReader(chain([header], file), delimiter=_delimiter(header, path), strict=True)
            yield 1, dict.fromkeys(reader.fieldnames or [], _HEADER)
            for cells in reader:
                if any(cells.values()):
                    yield reader.line_num, {name: _Parted(cell or "") for name, cell in cells.items() if name is not None}
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError("this table cannot be read", where=printable(path), why=str(error), hint="save it in UTF-8") from None


class _Parted(str):
    """A cell of a CSV, where several labels are parted by | or ;."""


_HEADER = _Parted()  # the cells of the header's own record, which only carries the names of the columns


def _delimiter(header: str, path: Path) -> str:
    if path.suffix.lower() == ".tsv":
        return "\t"
    return ";" if ";" in header and "," not in header else ","


def _read_lines(path: Path) -> Iterator[Record]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, _object(line, number, path)
    except UnicodeDecodeError as error:
        raise DataError("this table cannot be read", where=printable(path), why=str(error), hint="save it in UTF-8") from None


def _object(line: str, number: int, path: Path) -> dict[str, Any]:
    try:
        cells = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError("this line is not JSON", where=_at(path, number), why=str(error)) from None
    if not isinstance(cells, dict):
        raise DataError("this line is not a JSON object", where=_at(path, number), hint='{"path": "a.jpg", "label": "cat"}')
    return cells


def _read_parquet(path: Path) -> Iterator[Record]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(path)
        names = table.schema_arrow.names
        yield 0, dict.fromkeys(names, _HEADER)
        wanted = [name for name in names if any(name.strip().casefold() in aliases for aliases in _ALIASES.values())]
        rows = (row for batch in table.iter_batches(columns=wanted) for row in batch.to_pylist())
        yield from enumerate(rows, start=1)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError("this Parquet file cannot be read", where=printable(path), why=str(error).replace("\n", " ")) from None


_READERS = {".csv": _read_csv, ".tsv": _read_csv, ".jsonl": _read_lines, ".ndjson": _read_lines, ".parquet": _read_parquet}


# --- records -> rows


def _named(records: Iterable[Record], path: Path) -> Iterator[Record]:
    """The records with our own column names; lines of JSON may each have columns of their own."""
    known: dict[tuple[str, ...], dict[str, str]] = {}
    for number, cells in records:
        columns = tuple(cells)
        if columns not in known:
            known[columns] = _chosen(list(columns), _at(path, number) if known else printable(path))
        if not all(cell is _HEADER for cell in cells.values()):
            yield number, {name: cells[column] for name, column in known[columns].items()}


def _chosen(columns: list[str], where: str) -> dict[str, str]:
    """Our name -> the column that has it; of several the one whose alias is listed first."""
    spelt = {column.strip().casefold(): column for column in reversed(columns)}
    chosen = {
        name: next(spelt[alias] for alias in aliases if alias in spelt)
        for name, aliases in _ALIASES.items()
        if any(alias in spelt for alias in aliases)
    }
    for name in _REQUIRED:
        if name not in chosen:
            near = [column for alias in _ALIASES[name] for column in near_names(alias, columns, most=1)]
            hint = f"rename {near[0]!r} to {name!r}" if near else f"name a column {' or '.join(_ALIASES[name])}"
            why = "the columns are: " + ", ".join(columns)
            raise DataError(f"the table has no column {name!r}", where=where, why=why, hint=hint)
    return chosen


def _row(record: Record, table: Path) -> _Row:
    number, cells = record
    place = cells["path"]
    if not isinstance(place, str) or not place.strip():
        raise DataError("this row names no image", where=_at(table, number), why=f"its path is {place!r}")
    path = Path(os.path.normpath(table.parent / place.strip()))
    root = Path(os.path.normpath(table.parent))
    key = printable(path.relative_to(root) if path.is_relative_to(root) else path)
    labels = _labels(cells["label"], _at(table, number))
    return _Row(number, path, key, labels, _split(cells.get("split"), _at(table, number)), _word(cells.get("group")) or None)


def _labels(cell: object, where: str) -> tuple[str, ...]:
    """The labels of one cell, each once, in its order."""
    if isinstance(cell, dict) or (isinstance(cell, list) and any(isinstance(item, dict | list) for item in cell)):
        raise DataError("this label is neither a word nor a list of words", where=where, why=f"got {cell!r}")
    if isinstance(cell, _Parted):
        cell = cell.replace(";", "|").split("|")
    words = [_word(item) for item in (cell if isinstance(cell, list) else [cell])]
    return tuple(dict.fromkeys(word for word in words if word))


def _word(cell: object) -> str:
    """A cell as text: nothing and not-a-number are empty; 3.0 is '3', for a gap in a column of integers makes it floats."""
    if cell is None or cell != cell:
        return ""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell).strip()


def _split(cell: object, where: str) -> Split | None:
    word = _word(cell)
    split = split_named(word)
    if word and split is None:
        raise DataError(f"no split is called {word!r}", where=where, hint="one of: train, val, test")
    return split


def _at(path: Path, number: int) -> str:
    return f"{printable(path)}, row {number}"


# --- rows -> rows


def _merged(rows: list[_Row], multilabel: bool, table: Path, notes: list[str]) -> list[_Row]:
    """One row for each image, sorted by key. Equal rows are one; several rows of a multi-label image add up."""
    kept: dict[str, _Row] = {}
    repeated = 0
    for row in rows:
        first = kept.setdefault(row.key, row)
        if first is not row:
            repeated += 1
            kept[row.key] = _united(first, row, multilabel, table)
    if repeated:
        notes.append(f"{repeated} rows name an image that an earlier row names: " + ("united" if multilabel else "dropped"))
    return [kept[key] for key in sorted(kept)]


def _united(first: _Row, row: _Row, multilabel: bool, table: Path) -> _Row:
    if multilabel:
        first = replace(first, labels=tuple(dict.fromkeys(first.labels + row.labels)))
    for name in ("labels", "split", "group"):
        one, other = getattr(first, name), getattr(row, name)
        if one != other and not (multilabel and name == "labels"):
            raise DataError(
                f"two rows contradict each other on the {name.rstrip('s')} of {row.key!r}",
                where=f"{printable(table)}, rows {first.number} and {row.number}",
                why=f"{one!r} and {other!r}",
                hint="keep one row for each image; an image with several labels has them in one cell: cat|dog",
            )
    return first


def _present(rows: list[_Row], table: Path, notes: list[str]) -> list[_Row]:
    """The rows whose image exists; DataError when none does."""
    missing = [row for row in rows if not row.path.is_file()]
    names = ", ".join(repr(row.key) for row in missing[:3]) + (", ..." if len(missing) > 3 else "")
    if len(missing) == len(rows):
        why = f"not one of the {len(rows)} images is there: {names}"
        raise DataError("the images of this table are missing", where=printable(table), why=why, hint=_relative_to(table))
    if missing:
        notes.append(f"{len(missing)} of {len(rows)} images are missing and dropped: {names}")
    gone = {row.key for row in missing}
    return [row for row in rows if row.key not in gone]


def _relative_to(table: Path) -> str:
    return f"paths count from the folder of the table, {printable(table.parent)!r}"


def _remarks(rows: list[_Row], multilabel: bool) -> list[str]:
    """What was taken for granted, said aloud."""
    bare, several = sum(not row.labels for row in rows), sum(len(row.labels) > 1 for row in rows)
    unsplit = sum(row.split is None for row in rows)
    notes = []
    if multilabel:
        notes.append(f"read as multi-label: {several} images hold several labels and {bare} hold none")
    if 0 < unsplit < len(rows):
        notes.append(f"{unsplit} of {len(rows)} images name no split")
    return notes
