"""Files of tables (.csv, .tsv, .jsonl, .ndjson, .parquet) -> records with their own columns."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from foveate.data.issues import skip_and_record
from foveate.data.parquet_rows import read_parquet
from foveate.errors import DataError
from foveate.utils.csv_cells import original_cell
from foveate.utils.paths import printable

TABLE_EXTENSIONS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")


class Record(NamedTuple):
    """A row of a table.

    Attributes:
        number: The line; in Parquet the row. Both count from 1.
        cells: Values by column name.
        is_header: Whether the cells are only placeholders: the record tells the column names.
        is_delimited: Whether a cell may hold several labels, separated by | or ; (CSV).
    """

    number: int
    cells: dict[str, Any]
    is_header: bool = False
    is_delimited: bool = False


def read_file(path: Path, matters: Callable[[str], bool]) -> Iterator[Record]:
    """Yield the records of a table; the first one may only tell the columns.

    Args:
        path: The table.
        matters: Of Parquet, whether a column of this name is loaded, whatever it holds.

    Raises:
        DataError: It is not a table, or cannot be read.
    """
    extension = path.suffix.lower()
    if extension not in TABLE_EXTENSIONS:
        raise not_a_table(path)
    if extension == ".parquet":
        return _read_parquet(path, matters)
    return _read_csv(path) if extension in (".csv", ".tsv") else _read_json_lines(path)


def not_a_table(path: Path) -> DataError:
    return DataError(
        "the file is not a table",
        where=printable(path),
        hint="give a file with one of these extensions: " + ", ".join(TABLE_EXTENSIONS),
        id="not_a_table",
    )


def _read_csv(path: Path) -> Iterator[Record]:
    """Lines that are blank, or contain only separators, are skipped."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = next((line for line in file if line.strip()), "")
            rows = csv.DictReader(
                chain([header], file), delimiter=delimiter(header, path), strict=True
            )
            yield Record(1, dict.fromkeys(rows.fieldnames or []), is_header=True)
            for row in rows:
                if any(row.values()):
                    cells = {
                        name: original_cell(cell or "")
                        for name, cell in row.items()
                        if name is not None
                    }
                    yield Record(rows.line_num, cells, is_delimited=True)
    except (csv.Error, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from None


def delimiter(header: str, path: Path) -> str:
    """Return what separates the columns of a .csv or .tsv, by its first line."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    return ";" if ";" in header and "," not in header else ","


def _read_json_lines(path: Path) -> Iterator[Record]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                cells = None
                with skip_and_record():
                    cells = _parse_line(line, number, path) if line.strip() else None
                if cells is not None:
                    yield Record(number, cells)
    except UnicodeDecodeError as error:
        raise _unreadable(path, error) from None


def _parse_line(line: str, number: int, path: Path) -> dict[str, Any]:
    try:
        cells = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(
            "the line is not valid JSON",
            where=row_location(path, number),
            why=str(error),
            id="line_invalid_json",
        ) from None
    if not isinstance(cells, dict):
        raise DataError(
            "the line is not a JSON object",
            where=row_location(path, number),
            why=f"got {line.strip()[:80]}",
            hint='write one object per line: {"path": "a.jpg", "label": "cat"}',
            id="line_not_object",
        )
    return cells


def _read_parquet(path: Path, matters: Callable[[str], bool]) -> Iterator[Record]:
    for number, cells in read_parquet(path, matters):
        yield Record(number, cells, is_header=not number)


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(
        "the table cannot be read",
        where=printable(path),
        why=str(error),
        hint="save it as plain text in UTF-8",
        id="unreadable_table",
    )


def row_location(path: Path, number: int) -> str:
    """Return how messages name a row."""
    return f"{printable(path)}, row {number}"
