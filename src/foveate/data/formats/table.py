"""A table of paths and labels (.csv, .tsv, .jsonl, .ndjson, .parquet).

Columns: path, label and optionally split and group.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from foveate.data.formats import Format
from foveate.data.issues import skip_and_record
from foveate.data.records import (
    ALIASES,
    ImageRow,
    Record,
    cell_text,
    drop_missing,
    has_boxes,
    has_labels,
    has_texts,
    image_fields,
    is_table,
    partial_split_notes,
    read_records,
    row_location,
)
from foveate.errors import DataError
from foveate.messages import Message
from foveate.predictions import Labels
from foveate.types import Issue, IssueKind, Location, Sample, Table, remark
from foveate.utils.paths import printable

_REQUIRED = ("path", "label")
_REPEATED = IssueKind("repeated_rows", "rows that name the same image as an earlier row", "warning")


class TableFile(Format):
    """A table with one row per image, or several for a multi-label image."""

    summary: ClassVar[str] = "a table of paths and labels"

    def sniff(self, path: Path) -> bool:
        """A table without the columns of boxes; with labels, or at least without text."""
        return is_table(path) and not has_boxes(path) and (has_labels(path) or not has_texts(path))

    def read(self, path: Path) -> Table:
        """Read the table; paths of images are relative to its folder.

        Raises:
            DataError: It cannot be read, a row is faulty, or no image exists.
        """
        rows, notes = list[_Row](), list[Issue]()
        for record in read_records(path, ALIASES, _REQUIRED):
            with skip_and_record():
                rows.append(_parse(record, path))
        if not rows:
            raise DataError("the table has no rows", where=printable(path), id="empty_table")
        multilabel = any(len(row.labels) != 1 for row in rows)
        rows = drop_missing(_merge(rows, multilabel, path, notes), path, notes)
        notes += _multilabel_note(rows) if multilabel else []
        notes += partial_split_notes(rows)
        return Table(
            samples=tuple(row.sample() for row in rows),
            classes=tuple(sorted({name for row in rows for name in row.labels})),
            format="table",
            root=path.parent,
            multilabel=multilabel,
            notes=tuple(notes),
        )


@dataclass(frozen=True)
class _Row(ImageRow):
    labels: tuple[str, ...]

    def sample(self) -> Sample:
        return Sample(self.path, self.key, Labels(self.labels), self.split, self.group)


def _parse(record: Record, table: Path) -> _Row:
    return _Row(*image_fields(record, table), _parse_labels(record, table))


def _parse_labels(record: Record, table: Path) -> tuple[str, ...]:
    """The labels of a row, each once, in their order."""
    cell = record.cells["label"]
    items = cell if isinstance(cell, list) else [cell]
    if any(isinstance(item, dict | list) for item in items):
        raise DataError(
            "the label is neither a text nor a list of texts",
            where=row_location(table, record.number),
            why=f"got {cell!r}"[:200],
            hint='write "cat", or ["cat", "dog"] for several labels',
            id="invalid_label",
        )
    if record.is_delimited:
        items = cell.replace(";", "|").split("|")
    names = [cell_text(item) for item in items]
    return tuple(dict.fromkeys(name for name in names if name))


def _merge(rows: list[_Row], multilabel: bool, table: Path, notes: list[Issue]) -> list[_Row]:
    """One row per image, sorted by key.

    Equal rows are merged into one; several rows of a multi-label image add up.
    """
    merged: dict[str, _Row] = {}
    repeated: list[Location] = []
    for row in rows:
        first = merged.setdefault(row.key, row)
        if first is not row:
            repeated.append(Location(row.key, row_location(table, row.number)))
            with skip_and_record():
                merged[row.key] = _merge_two(first, row, multilabel, table)
    if repeated:
        text = (
            "{count:row|rows} named the same image as an earlier row: their labels were added"
            if multilabel
            else "{count:row|rows} named the same image as an earlier row: dropped"
        )
        id = f"issues.repeated_rows.{'added' if multilabel else 'dropped'}"
        message = Message(id, text, count=len(repeated))
        notes.append(Issue(_REPEATED, message, len(repeated), tuple(repeated)))
    return [merged[key] for key in sorted(merged)]


def _merge_two(first: _Row, row: _Row, multilabel: bool, table: Path) -> _Row:
    if multilabel:
        first = replace(first, labels=tuple(dict.fromkeys(first.labels + row.labels)))
    for name in ("labels", "split", "group"):
        one, other = getattr(first, name), getattr(row, name)
        if one != other and not (multilabel and name == "labels"):
            raise DataError(
                f"two rows contradict each other on the {name.rstrip('s')} of {row.key!r}",
                where=f"{printable(table)}, rows {first.number} and {row.number}",
                why=f"{one!r} and {other!r}",
                hint="keep one row per image; several labels go into one cell: cat|dog",
                id="contradicting_label_rows",
            )
    return first


def _multilabel_note(rows: list[_Row]) -> list[Issue]:
    text = "read as multi-label: {several:image|images} with several labels, {without} without any"
    several, without = sum(len(row.labels) > 1 for row in rows), sum(not row.labels for row in rows)
    return [remark("multilabel", text, several=several, without=without)]
