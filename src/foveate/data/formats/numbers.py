"""A table of paths and numbers (.csv, .tsv, .jsonl, .ndjson, .parquet), or a folder with one.

Columns: path, value (or another common name, or the one that data.column names) and optionally
split and group. Images without a usable number are left out and counted.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

from foveate.data.formats import Fit, Format, Reading
from foveate.data.formats._amounts import (
    EITHER,
    MAX_NUMBERED_CLASSES,
    describe_columns,
    nearly_all_differ,
    numbers_of_column,
)
from foveate.data.formats._label_names import are_named
from foveate.data.formats._table_export import write_table
from foveate.data.formats._table_files import (
    find_tables,
    left_out_notes,
    sniff_tables,
)
from foveate.data.image_rows import ImageFinder, ImageRow, drop_missing, partial_split_notes
from foveate.data.issues import counted_issue, skip_and_record
from foveate.data.record_files import row_location
from foveate.data.records import (
    ALIASES,
    NUMBERS,
    cell_text,
    class_columns,
    finding_columns,
    has_boxes,
    has_labels,
    has_paths,
    has_texts,
    is_table,
    number_columns,
    parse_numbers,
    read_records,
)
from foveate.errors import DataError
from foveate.predictions import Number
from foveate.types import Issue, IssueKind, Location, Sample, Split, Table, remark
from foveate.utils.paths import printable

_ROW = {name: ALIASES[name] for name in ("path", "split", "group")}
_PLAIN = frozenset({"value", "values", *ALIASES["label"]})  # columns that plainly hold the target
_MAX_SHOWN = 40  # characters of a cell in a message

_UNUSABLE = IssueKind(
    "unusable_numbers",
    "images without a usable number, left out",
    "warning",
    hint="write a finite number with a decimal point, such as 3.5",
)


class NumberTable(Format):
    """A table with one row, and one number, per image."""

    summary: ClassVar[str] = "a table of paths and numbers"
    target: ClassVar[type | None] = Number
    writes: ClassVar[tuple[type, ...]] = (Number,)
    takes_column: ClassVar[bool] = True

    def sniff(self, path: Path) -> Reading | None:
        """A table with images and one column of numbers, or a folder with such tables."""
        reading = sniff_tables(path, self._fits, self._doubts)
        if reading is None or reading.fit is Fit.POSSIBLE:  # it is unclear which table is meant
            return reading
        return replace(reading, settled_by_target=True)

    def read(self, path: Path) -> Table:
        """Read the table, or those of a folder; paths of images are relative to a table's folder.

        Raises:
            DataError: It cannot be read, has no column of numbers, or no image has a number.
        """
        tables = find_tables(path, self._fits) if path.is_dir() else [(path, None)]
        if not tables:
            raise DataError(
                "the folder has no table of paths and numbers",
                where=printable(path),
                hint="give the table itself; it needs the columns path and value",
                id="no_numbers_in_folder",
            )
        root = path if path.is_dir() else path.parent
        rows, notes, unusable = list[_Row](), list[Issue](), list[Location]()
        for table, split in tables:
            rows += self._read_rows(table, root, split, notes, unusable)
        if unusable:
            notes.append(counted_issue(_UNUSABLE, unusable))
        if not rows:
            raise DataError(
                "no image has a number",
                where=printable(path),
                why="; ".join(map(str, unusable[:3])),
                hint=_UNUSABLE.hint,
                id="no_numbers",
            )
        rows = drop_missing(_merge(rows, path), path, notes)
        notes += partial_split_notes(rows)
        notes += left_out_notes(path, tables, self._fits)
        samples = tuple(
            Sample(row.path, row.key, Number(row.value), row.split, row.group) for row in rows
        )
        return Table(samples, (), "numbers", root, notes=tuple(notes))

    def write(self, table: Table, folder: Path) -> tuple[Issue, ...]:
        """Write values.csv and images/."""
        return write_table(table, folder / "values.csv", "value", _number_cells)

    def _fits(self, file: Path) -> bool:
        """Whether a file is a table of images with a column of numbers."""
        if not is_table(file) or has_boxes(file) or not has_paths(file):
            return False
        return self._column(file) is not None

    def _column(self, table: Path) -> str | None:
        """The column with the numbers; None if there is none, or it is unclear which it is."""
        columns = {name.strip().casefold(): name for name in number_columns(table)}
        if self.column:
            return columns.get(self.column.strip().casefold())
        known = [columns[name] for name in NUMBERS if name in columns]
        if known:
            return known[0]
        return next(iter(columns.values())) if len(columns) == 1 and not has_labels(table) else None

    def _doubts(self, table: Path) -> Iterator[str]:
        """What speaks against numbers: labels of another kind, or those that may be classes."""
        column = self._column(table)
        if column is None:
            return
        numbers, name = number_columns(table)[column], column.strip().casefold()
        if self.column:
            yield from _doubts_about_named(column, numbers)
            return
        is_label = name in ALIASES["label"]
        if is_label and (named := are_named(list(map(str, numbers)), table.parent)):
            yield f"{named} has names for these numbers, as classes have"
            return
        different = len(set(numbers))
        others = {} if name in _PLAIN or has_labels(table) else class_columns(table)
        if others:
            yield f"it also has {describe_columns(others)}; --task regress learns {column!r}"
        if name not in NUMBERS:
            named = f"--task classify --set data.column={shlex.quote(printable(column))}"
            few = different <= MAX_NUMBERED_CLASSES and all(map(float.is_integer, numbers))
            yield (
                f"its numbers are in the column {column!r}; --task regress if they are to learn"
                + (f", {named} if they are classes" if few else "")
            )
        elif finding_columns(table):
            yield f"it has columns of findings beside {column!r}; --task regress learns it"
        elif has_texts(table) or (has_labels(table) and name not in ALIASES["label"]):
            yield f"it has other labels beside {column!r}; --task regress learns these numbers"
        elif name not in ALIASES["label"] or nearly_all_differ(different, len(numbers)):
            return
        elif all(map(float.is_integer, numbers)):
            few = different <= MAX_NUMBERED_CLASSES
            kind = "rather classes than amounts" if few else "perhaps the numbers of classes"
            yield f"the labels are {different} different whole numbers: {kind} ({EITHER})"

    def _read_rows(
        self,
        table: Path,
        root: Path,
        split: Split | None,
        notes: list[Issue],
        unusable: list[Location],
    ) -> list[_Row]:
        """The rows with a number; `split`: of those that state none."""
        column = self._column(table) if is_table(table) else "value"
        if column is None:
            raise self._no_column(table)
        stated, finder = list[tuple[Any, str]](), ImageFinder(table, root)
        aliases = {**_ROW, "number": (column.strip().casefold(),)}
        for record in read_records(table, aliases, ("path", "number")):
            with skip_and_record():
                stated.append((finder.fields(record), cell_text(record.cells["number"])))
        rows = list[_Row]()
        values = parse_numbers([text for _, text in stated], table)
        for (fields, text), value in zip(stated, values, strict=True):
            number, path, key, own, group = fields
            if value is None:
                why = f"got {text[:_MAX_SHOWN]!r}" if text else "its cell is empty"
                unusable.append(Location(key, f"{why}, row {number}"))
            else:
                rows.append(_Row(number, path, key, own or split, group, value))
        usable = [row.value for row in rows]
        if usable:
            text = "numbers from the column {column}: {least:g} to {most:g}, median {median:g}"
            notes.append(
                remark(
                    "numbers_read",
                    text,
                    column=repr(column),
                    least=min(usable),
                    most=max(usable),
                    median=median(usable),
                )
            )
        notes += finder.notes()
        return rows

    def _no_column(self, table: Path) -> DataError:
        names = ", ".join(map(repr, number_columns(table))) or "none"
        what = "it is unclear which column of the table has the numbers"
        if self.column or names == "none":
            called = f" {self.column!r}" if self.column else ""
            what = f"the table has no column of numbers{called}"
        return DataError(
            what,
            where=printable(table),
            why=f"its columns of numbers are: {names}",
            hint="call it value, or name it with --set data.column=NAME",
            id="no_number_column",
        )


def _number_cells(sample: Sample) -> tuple[str]:
    assert isinstance(sample.target, Number)
    return (repr(sample.target.value),)


def _doubts_about_named(column: str, numbers: list[float]) -> Iterator[str]:
    """What speaks against numbers in a column that the user named."""
    meaning = numbers_of_column(column, numbers)
    if meaning != "amounts":
        text = f"{len(set(numbers))} different whole numbers among {len(numbers)}"
        more = ", and is named like classes" if meaning == "classes" else ""
        yield f"the column {column!r} holds {text}{more} ({EITHER})"


@dataclass(frozen=True)
class _Row(ImageRow):
    value: float


def _merge(rows: list[_Row], table: Path) -> list[_Row]:
    """One row per image, sorted by key; equal rows are one."""
    merged: dict[str, _Row] = {}
    for row in rows:
        first = merged.setdefault(row.key, row)
        with skip_and_record():
            for name in ("value", "split", "group"):
                one, other = getattr(first, name), getattr(row, name)
                if one != other:
                    where = row_location(table, row.number)
                    raise DataError(
                        f"two rows contradict each other on the {name} of {row.key!r}",
                        where=f"{where}; the first is row {first.number}",
                        why=f"{one!r} and {other!r}",
                        hint="keep one row per image, such as the mean of several measurements",
                        id="contradicting_number_rows",
                    )
    return [merged[key] for key in sorted(merged)]
