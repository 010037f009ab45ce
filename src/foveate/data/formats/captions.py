"""A table of paths and captions (.csv, .tsv, .jsonl, .ndjson, .parquet), or a .json of both.

Columns: path, text and optionally split and group. In JSON and Parquet a text may be a list of
sentences. In any table an image may have several rows, each with a sentence. The .json is an
object with the name of each image and its sentence or sentences: {"a.jpg": "a red fox"}.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from foveate.data.discovery import EXTENSIONS, extension_of
from foveate.data.formats import Format, Reading
from foveate.data.formats._table_export import write_table
from foveate.data.formats._table_files import find_tables, fit_of_tables
from foveate.data.image_rows import ImageFinder, ImageRow, drop_missing, partial_split_notes
from foveate.data.issues import skip_and_record
from foveate.data.record_files import Record, row_location
from foveate.data.records import (
    ALIASES,
    TEXTS,
    has_texts,
    is_table,
    read_records,
)
from foveate.errors import DataError
from foveate.predictions import Text
from foveate.types import Issue, Sample, Split, Table
from foveate.utils.paths import printable

_HEAD = 4096  # characters by which a .json is recognized
_FIRST_ENTRY = re.compile(r'\s*\{\s*"([^"\\]+)"\s*:\s*(?:"|\[\s*")')
_COLUMNS = {**{name: ALIASES[name] for name in ("path", "split", "group")}, "text": TEXTS}


class Captions(Format):
    """A table of captions."""

    summary: ClassVar[str] = "a table of paths and captions"
    target: ClassVar[type | None] = Text
    writes: ClassVar[tuple[type, ...]] = (Text,)

    def sniff(self, path: Path) -> Reading | None:
        """A table with a path and a text, or a folder with such tables."""
        try:
            tables = find_tables(path, _has_captions)
        except DataError:
            return None
        return Reading(fit_of_tables(path, tables)) if tables else None

    def read(self, path: Path) -> Table:
        """Read the table, or those of a folder; paths of images are relative to a table's folder.

        Raises:
            DataError: It cannot be read, a row is faulty, or no image exists.
        """
        tables = find_tables(path, _has_captions) if path.is_dir() else [(path, None)]
        root = path if path.is_dir() else path.parent
        rows, notes = list[_Row](), list[Issue]()
        for table, split in tables:
            rows += _read_rows(table, root, split, notes)
        if not rows:
            raise DataError("the table has no rows", where=printable(path), id="empty_table")
        rows = drop_missing(_merge(rows, path), path, notes)
        notes += partial_split_notes(rows)
        samples = tuple(
            Sample(row.path, row.key, Text(row.sentences), row.split, row.group) for row in rows
        )
        return Table(samples, (), "captions", root, notes=tuple(notes))

    def write(self, table: Table, folder: Path) -> tuple[Issue, ...]:
        """Write captions.csv, with a row for each sentence, and images/."""
        return write_table(table, folder / "captions.csv", "text", _sentences_of)


def _sentences_of(sample: Sample) -> tuple[str, ...]:
    assert isinstance(sample.target, Text)
    return sample.target.sentences


def _has_captions(file: Path) -> bool:
    return (is_table(file) and has_texts(file)) or has_captions_by_name(file)


def has_captions_by_name(file: Path) -> bool:
    """Whether a .json begins with the name of an image and its sentence or sentences."""
    if file.suffix.lower() != ".json" or not file.is_file():
        return False
    try:
        with file.open(encoding="utf-8-sig", errors="replace") as text:
            first = _FIRST_ENTRY.match(text.read(_HEAD))
    except OSError:
        return False
    return first is not None and extension_of(first[1]) in EXTENSIONS


def _read_mapping(file: Path) -> Iterator[Record]:
    """Yield the entries of a .json, numbered from 1.

    Raises:
        DataError: It is not valid JSON, or not an object.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError, OSError) as error:
        raise DataError(
            "the file is not valid JSON", where=printable(file), why=str(error), id="invalid_json"
        ) from None
    if not isinstance(content, dict):
        raise DataError(
            "the file is not an object of names and sentences",
            where=printable(file),
            hint='write {"a.jpg": "a red fox", "b.jpg": ["one sentence", "another one"]}',
            id="not_a_mapping",
        )
    for number, (name, text) in enumerate(content.items(), start=1):
        yield Record(number, {"path": name, "text": text})


def _read_rows(table: Path, root: Path, split: Split | None, notes: list[Issue]) -> list[_Row]:
    """The rows of a table; `split`: of those that state none."""
    rows, finder = list[_Row](), ImageFinder(table, root)
    is_mapping = table.suffix.lower() == ".json"
    columns = ("path", "text")
    for record in _read_mapping(table) if is_mapping else read_records(table, _COLUMNS, columns):
        with skip_and_record():
            number, path, key, own, group = finder.fields(record)
            sentences = parse_sentences(record.cells["text"], row_location(table, number))
            rows.append(_Row(number, path, key, own or split, group, sentences))
    notes += finder.notes()
    return rows


@dataclass(frozen=True)
class _Row(ImageRow):
    sentences: tuple[str, ...]


def parse_sentences(value: Any, where: str) -> tuple[str, ...]:
    """Return the sentences of an image, each once, with single spaces.

    Args:
        value: A text, or a list of texts.
        where: Where it is, for messages.

    Raises:
        DataError: It is neither, or a sentence is empty.
    """
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise DataError(
            "the caption is neither a text nor a list of texts",
            where=where,
            why=f"got {str(value)[:80]}",
            id="invalid_caption",
        )
    sentences = [" ".join(text.split()) for text in texts]
    if not all(sentences):
        hint = "write a caption, or remove the image"
        raise DataError("the caption is empty", where=where, hint=hint, id="empty_caption")
    return tuple(dict.fromkeys(sentences))


def _merge(rows: list[_Row], table: Path) -> list[_Row]:
    """One row per image, sorted by key, with the sentences of all its rows."""
    merged: dict[str, _Row] = {}
    for row in rows:
        first = merged.setdefault(row.key, row)
        with skip_and_record():
            if (first.split, first.group) != (row.split, row.group):
                raise DataError(
                    f"two rows put {row.key!r} into different splits or groups",
                    where=f"{printable(table)}, rows {first.number} and {row.number}",
                    why=f"{(first.split, first.group)} and {(row.split, row.group)}",
                    hint="give all rows of an image the same split and group",
                    id="contradicting_caption_rows",
                )
        sentences = tuple(dict.fromkeys(first.sentences + row.sentences))
        merged[row.key] = replace(first, sentences=sentences)
    return [merged[key] for key in sorted(merged)]
