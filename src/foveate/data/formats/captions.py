"""A table of paths and sentences (.csv, .tsv, .jsonl, .ndjson, .parquet): columns path, text and, if wanted, split and group.

In JSON and Parquet a text may be a list of sentences; in any table an image with several rows has a sentence of each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from foveate.data.formats import Format
from foveate.data.issues import skip_and_record
from foveate.data.records import (
    ALIASES,
    TEXTS,
    Named,
    Record,
    has_texts,
    is_table,
    named_by,
    present,
    records,
    row_of,
    without_split,
)
from foveate.errors import DataError
from foveate.predictions import Text
from foveate.types import Sample, Table
from foveate.utils.paths import printable

_COLUMNS = {**{name: ALIASES[name] for name in ("path", "split", "group")}, "text": TEXTS}


class Captions(Format):
    summary: ClassVar[str] = "a table of paths and sentences"

    def sniff(self, path: Path) -> bool:
        return is_table(path) and has_texts(path)

    def read(self, path: Path) -> Table:
        """The table at `path`; its images are looked for beside it. Raises DataError, with the line where there is one."""
        rows, notes = list[_Row](), list[str]()
        for record in records(path, _COLUMNS, ("path", "text")):
            with skip_and_record():
                rows.append(_row(record, path))
        if not rows:
            raise DataError("this table has no rows", where=printable(path))
        rows = present(_merged(rows, path), path, notes)
        notes += without_split(rows)
        samples = tuple(
            Sample(row.path, row.key, Text(row.sentences), row.split, row.group) for row in rows
        )
        return Table(
            samples=samples, classes=(), format="captions", root=path.parent, notes=tuple(notes)
        )


@dataclass(frozen=True)
class _Row(Named):
    sentences: tuple[str, ...]


def _row(record: Record, table: Path) -> _Row:
    return _Row(*named_by(record, table), sentences_of(record[1]["text"], row_of(table, record[0])))


def sentences_of(cell: Any, where: str) -> tuple[str, ...]:
    """The sentences of a cell, each once, blanks made one. Raises DataError for none, for an empty one and for what is no text."""
    found = cell if isinstance(cell, list) else [cell]
    if not found or not all(isinstance(each, str) for each in found):
        raise DataError(
            "this text is neither a sentence nor a list of them",
            where=where,
            why=f"got {str(cell)[:80]}",
        )
    sentences = [" ".join(each.split()) for each in found]
    if not all(sentences):
        raise DataError(
            "this image has an empty sentence",
            where=where,
            hint="write one, or leave the image out",
        )
    return tuple(dict.fromkeys(sentences))


def _merged(rows: list[_Row], table: Path) -> list[_Row]:
    """One row for each image, sorted by key, with the sentences of all its rows."""
    kept: dict[str, _Row] = {}
    for row in rows:
        first = kept.setdefault(row.key, row)
        with skip_and_record():
            if (first.split, first.group) != (row.split, row.group):
                where = f"{printable(table)}, rows {first.number} and {row.number}"
                raise DataError(
                    f"two rows put {row.key!r} into different splits or groups",
                    where=where,
                    hint="let them agree",
                )
        kept[row.key] = replace(
            first, sentences=tuple(dict.fromkeys(first.sentences + row.sentences))
        )
    return [kept[key] for key in sorted(kept)]
