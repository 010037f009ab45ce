"""A table of paths and labels (.csv, .tsv, .jsonl, .ndjson, .parquet): columns path, label and, if wanted, split and group."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from foveate.data.formats import Format
from foveate.data.issues import Issue, IssueKind, Location, skip_and_record
from foveate.data.records import (
    ALIASES,
    Named,
    Parted,
    Record,
    has_boxes,
    has_labels,
    has_texts,
    is_table,
    named_by,
    present,
    records,
    row_of,
    without_split,
    word_of,
)
from foveate.errors import DataError
from foveate.predictions import Labels
from foveate.types import Sample, Table
from foveate.utils.paths import printable

_REQUIRED = ("path", "label")
_REPEATED = IssueKind("rows that name an image which an earlier row names", "warning")


class TableFile(Format):
    summary: ClassVar[str] = "a table of paths and labels"

    def sniff(self, path: Path) -> bool:
        return is_table(path) and not has_boxes(path) and (has_labels(path) or not has_texts(path))

    def read(self, path: Path) -> Table:
        """The table at `path`; its images are looked for beside it. Raises DataError, with the line where there is one."""
        rows, notes = list[_Row](), list[str]()
        for record in records(path, ALIASES, _REQUIRED):
            with skip_and_record():
                rows.append(_row(record, path))
        if not rows:
            raise DataError("this table has no rows", where=printable(path))
        multilabel = any(len(row.labels) != 1 for row in rows)
        rows = _merged(rows, multilabel, path, notes)
        rows = present(rows, path, notes)
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
class _Row(Named):
    labels: tuple[str, ...]

    def sample(self) -> Sample:
        return Sample(
            path=self.path,
            key=self.key,
            target=Labels(self.labels),
            split=self.split,
            group=self.group,
        )


# --- records -> rows


def _row(record: Record, table: Path) -> _Row:
    return _Row(*named_by(record, table), _labels(record[1]["label"], row_of(table, record[0])))


def _labels(cell: object, where: str) -> tuple[str, ...]:
    """The labels of one cell, each once, in its order."""
    if isinstance(cell, dict) or (
        isinstance(cell, list) and any(isinstance(item, dict | list) for item in cell)
    ):
        raise DataError(
            "this label is neither a word nor a list of words", where=where, why=f"got {cell!r}"
        )
    if isinstance(cell, Parted):
        cell = cell.replace(";", "|").split("|")
    words = [word_of(item) for item in (cell if isinstance(cell, list) else [cell])]
    return tuple(dict.fromkeys(word for word in words if word))


# --- rows -> rows


def _merged(rows: list[_Row], multilabel: bool, table: Path, notes: list[str]) -> list[_Row]:
    """One row for each image, sorted by key. Equal rows are one; several rows of a multi-label image add up."""
    kept: dict[str, _Row] = {}
    repeated: list[Location] = []
    for row in rows:
        first = kept.setdefault(row.key, row)
        if first is not row:
            repeated.append(Location(row.key, row_of(table, row.number)))
            with skip_and_record():
                kept[row.key] = _united(first, row, multilabel, table)
    if repeated:
        told = f"{len(repeated)} rows name an image that an earlier row names: " + (
            "united" if multilabel else "dropped"
        )
        notes.append(Issue(told, _REPEATED, len(repeated), tuple(repeated)))
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


def _remarks(rows: list[_Row], multilabel: bool) -> list[str]:
    """What was taken for granted, said aloud."""
    bare, several = sum(not row.labels for row in rows), sum(len(row.labels) > 1 for row in rows)
    notes = []
    if multilabel:
        notes.append(
            f"read as multi-label: {several} images hold several labels and {bare} hold none"
        )
    return notes + without_split(rows)
