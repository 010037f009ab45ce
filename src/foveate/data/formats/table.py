"""A table of paths and labels (.csv, .tsv, .jsonl, .ndjson, .parquet), or a folder with one.

Columns: path, label (or another common name, or the one that data.column names) and optionally
split and group; or path and a column of 0 and 1 per class. The path may be a name or an id of an
image anywhere below the table.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from foveate.data.foreign_data import foreign_file
from foveate.data.formats import FORMATS, Fit, Format, Reading
from foveate.data.formats._amounts import EITHER, doubts_about_labels, numbers_of_column
from foveate.data.formats._label_names import are_named, name_numbers, renamed
from foveate.data.formats._patient_files import find_patient_table
from foveate.data.formats._table_export import write_table
from foveate.data.formats._table_files import (
    find_tables,
    left_out_notes,
    sniff_tables,
)
from foveate.data.image_rows import ImageFinder, ImageRow, drop_missing, partial_split_notes
from foveate.data.issues import counted_issue, skip_and_record
from foveate.data.record_files import Record, row_location
from foveate.data.records import (
    ALIASES,
    cell_text,
    columns_beside_findings,
    finding_columns,
    first_labels,
    flag_text,
    has_boxes,
    has_column,
    has_labels,
    has_paths,
    has_texts,
    is_table,
    number_columns,
    one_hot_columns,
    path_names,
    read_records,
    spelled_columns,
)
from foveate.errors import DataError
from foveate.messages import Message
from foveate.predictions import Labels, Number, Text
from foveate.types import Issue, IssueKind, Location, Sample, Split, Table, remark
from foveate.utils.paths import printable

_MAX_WHY = 300  # characters of the columns in a message
_PLACES = (*ALIASES["split"], *ALIASES["group"])
_MAX_LIST = 10_000  # characters of a list in a cell

_UNLABELED = IssueKind(
    "unlabeled_rows",
    "rows without a label, left out",
    "warning",
    hint="label them; if an empty cell means that an image has no class, write a name such as none",
)
_REPEATED = IssueKind("repeated_rows", "rows that name the same image as an earlier row", "warning")


class TableFile(Format):
    """A table with one row per image, or several for a multi-label image."""

    summary: ClassVar[str] = "a table of paths and labels"
    target: ClassVar[type | None] = Labels
    writes: ClassVar[tuple[type, ...]] = (Labels, Number, Text)
    read_as: ClassVar[Mapping[type, str]] = {Number: "numbers", Text: "captions"}
    takes_column: ClassVar[bool] = True

    def sniff(self, path: Path) -> Reading | None:
        """A table with labels and without boxes, or a folder with such tables."""
        reading = sniff_tables(path, self._fits if path.is_dir() else self._may_fit, self._doubts)
        if reading is None:
            return None
        settled = all(EITHER in doubt for doubt in reading.doubts)  # --task classify answers it
        is_complete = path.is_dir() or self._fits(path)
        fit = reading.fit if is_complete else Fit.POSSIBLE
        return replace(reading, fit=fit, settled_by_target=settled)

    def read(self, path: Path) -> Table:
        """Read the table, or those of a folder; paths of images are relative to a table's folder.

        Raises:
            DataError: It cannot be read, a row is faulty, or no image exists.
        """
        tables = find_tables(path, self._fits) if path.is_dir() else [(path, None)]
        if self.column and not any(has_column(table, self.column) for table, _ in tables):
            raise _no_column(path, self.column)
        if not tables:
            raise DataError(
                "the folder has no table of paths and labels",
                where=printable(path),
                hint="give the table itself; it needs the columns path and label",
                id="no_table_in_folder",
            )
        root = path if path.is_dir() else path.parent
        rows, notes = list[_Row](), list[Issue]()
        for table, split in tables:
            rows += _read_rows(table, root, split, self.column, notes)
        notes += [] if self.column else _finding_notes([table for table, _ in tables], rows)
        if not rows:
            raise DataError("the table has no rows", where=printable(path), id="empty_table")
        rows = _without_unlabeled(_split_commas(rows, notes), path, notes)
        rows = _with_names(rows, [table for table, _ in tables], root, notes)
        multilabel = any(len(row.labels) != 1 for row in rows)
        rows = drop_missing(_merge(rows, multilabel, path, notes), path, notes)
        notes += _multilabel_note(rows) if multilabel else []
        notes += partial_split_notes(rows)
        notes += left_out_notes(path, tables, self._fits)
        return Table(
            samples=tuple(row.sample() for row in rows),
            classes=tuple(sorted({name for row in rows for name in row.labels})),
            format="table",
            root=root,
            multilabel=multilabel,
            notes=tuple(notes),
        )

    def write(self, table: Table, folder: Path) -> tuple[Issue, ...]:
        """Write labels.csv, or the table of numbers or captions, and images/."""
        other = self.read_as.get(type(table.samples[0].target))
        if other:
            return FORMATS.get(other)().write(table, folder)
        return write_table(table, folder / "labels.csv", "label", _label_cells)

    def _fits(self, file: Path) -> bool:
        """Whether a file is a table of paths and labels, and not of boxes."""
        if not is_table(file) or has_boxes(file) or not has_paths(file):
            return False
        if self.column:
            return has_column(file, self.column)
        return has_labels(file) or bool(one_hot_columns(file) or finding_columns(file))

    def _may_fit(self, file: Path) -> bool:
        """Whether a table that a user named is meant so, even if a column is missing."""
        if not is_table(file) or has_boxes(file) or foreign_file(file):
            return False
        if self.column:
            return self._fits(file)
        return find_patient_table(file) is None and (has_labels(file) or not has_texts(file))

    def _doubts(self, table: Path) -> Iterator[str]:
        if self.column:
            wanted = self.column.strip().casefold()
            for name, numbers in number_columns(table).items():
                is_it = name.strip().casefold() == wanted
                if is_it and numbers_of_column(name, numbers) != "classes":
                    yield f"the column {self.column!r} holds numbers ({EITHER})"
            return
        if others := columns_beside_findings(table):
            names = ", ".join(repr(printable(name)) for name in others)[:_MAX_WHY]
            way = "--set data.column=NAME reads one of these"
            yield f"beside columns of findings it has {names}; {way}"
        labels = first_labels(table)
        named = are_named([text for each in labels if (text := cell_text(each))], table.parent)
        yield from () if named else doubts_about_labels(labels, table)


def _label_cells(sample: Sample) -> tuple[str]:
    """The cell of an image: cat|dog, or a written list where that would be read otherwise."""
    assert isinstance(sample.target, Labels)
    names = sample.target.names
    is_plain = names and not any(set("|;[") & set(name) for name in names)
    return ("|".join(names) if is_plain else repr(list(names)),)


def _no_column(path: Path, column: str) -> DataError:
    tables = find_tables(path, lambda file: is_table(file) and has_paths(file))
    columns = dict.fromkeys(name for table, _ in tables for name in spelled_columns(table))
    names = ", ".join(map(printable, columns))
    return DataError(
        f"the table has no column {column!r}",
        where=printable(path),
        why=f"its columns are: {names}"[:_MAX_WHY] if names else None,
        hint="name the column of the labels or numbers with --set data.column=NAME",
        id="no_such_column",
    )


def _read_rows(
    table: Path, root: Path, split: Split | None, column: str, notes: list[Issue]
) -> list[_Row]:
    """The rows of a table; `split`: of those that state none; `column`: that of the labels."""
    rows, finder = list[_Row](), ImageFinder(table, root)
    classes = [] if column else one_hot_columns(table) or finding_columns(table)
    aliases = {**ALIASES, **{name: (name.strip().casefold(),) for name in classes}}
    if column:
        aliases["label"] = (column.strip().casefold(),)
    required = ("path", *(classes or ("label",)))
    for record in read_records(table, aliases, required):
        with skip_and_record():
            number, path, key, own, group = finder.fields(record)
            labels = (
                tuple(name.strip() for name in classes if flag_text(record.cells[name]) == "1")
                if classes
                else _parse_labels(record, table)
            )
            is_unlabeled = not classes and not cell_text(record.cells["label"])
            uncertain = sum(flag_text(record.cells[name]) == "-1" for name in classes)
            rows.append(
                _Row(number, path, key, own or split, group, labels, is_unlabeled, uncertain)
            )
    notes += finder.notes()
    return rows


@dataclass(frozen=True)
class _Row(ImageRow):
    labels: tuple[str, ...]
    is_unlabeled: bool = False  # an empty cell, which is no list of labels
    uncertain: int = 0  # columns of findings that say neither yes nor no

    def sample(self) -> Sample:
        return Sample(self.path, self.key, Labels(self.labels), self.split, self.group)


def _finding_notes(tables: list[Path], rows: list[_Row]) -> list[Issue]:
    """How columns of findings were read, and which others were not."""
    found = dict.fromkeys(name for table in tables for name in finding_columns(table))
    if not found:
        return []
    columns = dict.fromkeys(name for table in tables for name in spelled_columns(table))
    known = {name for table in tables for name in (*path_names(table), *_PLACES)}
    ignored = [name for name in columns if name not in found and name.casefold() not in known]
    notes = [
        remark(
            "findings_read",
            "the classes are the columns with nothing but 0, 1, -1 and gaps ({names}): 1 is yes,"
            " 0 and a gap are no",
            names=", ".join(map(printable, found))[:_MAX_WHY],
        )
    ]
    if ignored:
        names = ", ".join(map(printable, ignored))[:_MAX_WHY]
        notes.append(
            remark("columns_beside_findings", "columns that are not read: {names}", names=names)
        )
    if count := sum(row.uncertain for row in rows):
        text = "{count:cell is|cells are} -1 (uncertain): read as no, left out of yes"
        notes.append(remark("uncertain_findings", text, "warning", count=count))
    return notes


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
        items = _written_list(cell) or cell.replace(";", "|").split("|")
    names = [cell_text(item) for item in items]
    return tuple(dict.fromkeys(name for name in names if name))


def _written_list(cell: str) -> list[Any] | None:
    """The items of a list that was written as text, as pandas does: ['bolt', 'nut'] or [1, 2]."""
    text = cell.strip()
    if not (text.startswith("[") and text.endswith("]") and len(text) <= _MAX_LIST):
        return None
    try:
        items = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    is_plain = isinstance(items, list) and all(isinstance(each, str | int) for each in items)
    return items or [""] if is_plain else None


def _split_commas(rows: list[_Row], notes: list[Issue]) -> list[_Row]:
    """Split labels that are made of the names of others: "bolt, nut" where bolt and nut exist.

    By commas they are several labels, which is noted; by spaces they may be, which is a warning.
    """
    names = {name for row in rows for name in row.labels}
    if combined := _made_of_others(names, ","):
        text = "{count:label|labels} such as {example} read as several labels"
        notes.append(
            remark("labels_with_commas", text, count=len(combined), example=repr(min(combined)))
        )
        rows = [replace(row, labels=_split(row.labels, combined)) for row in rows]
    elif combined := _made_of_others(names, " "):
        text = (
            "{count:class is|classes are} made of the names of others, such as {example}; for"
            " several labels write cat|dog"
        )
        example = repr(min(combined))
        notes.append(
            remark("labels_with_spaces", text, "warning", count=len(combined), example=example)
        )
    return rows


def _without_unlabeled(rows: list[_Row], table: Path, notes: list[Issue]) -> list[_Row]:
    """Without rows whose cell is empty, where no row has several labels: they are not labeled yet.

    Among several labels, an empty cell says that an image has none of them.
    """
    unlabeled = [row for row in rows if row.is_unlabeled]
    if len(unlabeled) in (0, len(rows)) or any(len(row.labels) > 1 for row in rows):
        return rows
    places = [Location(row.key, row_location(table, row.number)) for row in unlabeled]
    notes.append(counted_issue(_UNLABELED, places))
    return [row for row in rows if not row.is_unlabeled]


def _with_names(rows: list[_Row], tables: list[Path], root: Path, notes: list[Issue]) -> list[_Row]:
    """The rows with the names of classes that are numbered, where a file beside them has these."""
    labels = {name for row in rows for name in row.labels}
    names = name_numbers(labels, [*(table.parent for table in tables), root], notes)
    if not names:
        return rows
    return [replace(row, labels=tuple(renamed(each, names) for each in row.labels)) for row in rows]


def _made_of_others(names: set[str], separator: str) -> dict[str, list[str]]:
    """Names that consist of names without the separator, and their parts; if it is all of them."""
    parts = {
        name: [part.strip() for part in name.split(separator)]
        for name in names
        if separator in name.strip()
    }
    atoms = names - parts.keys()
    return parts if all(part in atoms for own in parts.values() for part in own) else {}


def _split(labels: tuple[str, ...], combined: dict[str, list[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part for name in labels for part in combined.get(name, [name])))


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
