"""Rows of tables that name images: where these are, and what the rows say about all of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from foveate.data.foreign_data import way_with_packed
from foveate.data.image_names import ImageIndex, index_images, last_name
from foveate.data.issues import quoted
from foveate.data.record_files import Record, not_a_table, row_location
from foveate.data.records import (
    ALIASES,
    cell_text,
    is_table,
    other_columns,
    path_names,
    read_records,
)
from foveate.data.split_names import split_from_name, split_in_folders
from foveate.errors import DataError
from foveate.messages import Message
from foveate.types import Issue, IssueKind, Location, Sample, Split, StoredImage, remark
from foveate.utils.paths import printable, relative_name

MISSING = IssueKind("missing_images_of_rows", "missing images, dropped with their rows", "error")


_MAX_SHOWN = 60  # characters of a stated path in a message


@dataclass(frozen=True)
class ImageRow:
    """What every row tells about its image.

    Attributes:
        number: As in Record.
        path: The image file, or the image in the table.
        key: Its name, as in Sample.
        split: The split that the row states.
        group: The group that the row states.
    """

    number: int
    path: Path | StoredImage
    key: str
    split: Split | None
    group: str | None

    @property
    def is_missing(self) -> bool:
        """Whether its file does not exist."""
        return isinstance(self.path, Path) and not self.path.is_file()


Row = TypeVar("Row", bound=ImageRow)


class ImageFinder:
    """Finds the images that the rows of a table name.

    A name leads to a file relative to the table; or else to the only image below the table's folder
    (below `root`, if there is none) that has this name, with or without its extension, in any
    Unicode normalization. Before that, folders at the beginning of a path that are not there are
    left out: data/train/1.jpg leads to train/1.jpg. So files may have moved, and ids need no
    extension. An image in a folder of another split than the stated one is another image: it is
    not taken. Backslashes separate folders, as Windows writes paths, where no file has them in its
    name.

    Args:
        table: The table.
        root: Keys are relative to it; the folder of the table by default.
    """

    def __init__(self, table: Path, root: Path | None = None) -> None:
        self.table, self.by_name = table, 0
        self._example = ("", "")  # the first that was found by name: as stated, and its key
        self._folder = Path(os.path.normpath(table.parent))
        self._root = Path(os.path.normpath(root)) if root else self._folder
        self._index: ImageIndex | None = None

    def fields(
        self, record: Record
    ) -> tuple[int, Path | StoredImage, str, Split | None, str | None]:
        """Return the fields of an `ImageRow`.

        Raises:
            DataError: The row names no image, or an unknown split.
        """
        path, key = self.find(record.cells["path"], record.number)
        split = parse_split(record.cells.get("split"), row_location(self.table, record.number))
        return record.number, path, key, split, cell_text(record.cells.get("group")) or None

    def find(self, cell: object, number: int) -> tuple[Path | StoredImage, str]:
        """Return the image that a row holds or names, as `find_file`, and its key."""
        if isinstance(cell, StoredImage):
            return cell, f"{self._relative(Path(os.path.normpath(self.table)))}#{number:06d}"
        return self.find_file(cell, number)

    def find_file(self, cell: object, number: int) -> tuple[Path, str]:
        """Return the path of the image that a row names, and its key.

        Args:
            cell: The path or name.
            number: The row, for messages.

        Raises:
            DataError: The cell is empty, or neither text nor a whole number.
        """
        name = str(cell) if isinstance(cell, int) and not isinstance(cell, bool) else cell
        if not isinstance(name, str) or not name.strip():
            raise DataError(
                "the row names no image",
                where=row_location(self.table, number),
                why=f"its path is {str(cell)[:80]!r}",
                hint="fill in the path, or delete the row",
                id="row_without_image",
            )
        name = name.strip()
        path = Path(os.path.normpath(self._folder / name))
        if not path.is_file() and "\\" in name:
            name = name.replace("\\", "/")
            path = Path(os.path.normpath(self._folder / name))
        if not path.is_file():
            path = self._without_first_folders(name) or self._by_name(name) or path
        return path, self._relative(path)

    def _relative(self, path: Path) -> str:
        return relative_name(path, self._root)

    def notes(self) -> list[Issue]:
        """Return notes on a column of an unknown name, and on images found by name alone."""
        names, notes = path_names(self.table), list[Issue]()
        if names != ALIASES["path"]:
            text = "the images are those that the column {column} names"
            notes.append(remark("images_of_column", text, column=repr(printable(names[0]))))
        if not self.by_name:
            return notes
        stated, found = self._example
        text = (
            "{count:image was|images were} found by name, not at the stated path, such as {stated}"
            " -> {found}"
        )
        count = self.by_name
        found_note = remark("images_found_by_name", text, count=count, stated=stated, found=found)
        return [*notes, found_note]

    def _without_first_folders(self, name: str) -> Path | None:
        """The file at the longest end of a path that has a folder and no other split before it."""
        parts = name.split("/")
        for start in range(1, len(parts) - 1):
            end = parts[start:]
            if ".." in end or split_in_folders(parts[:start]):
                continue
            path = Path(os.path.normpath(self._folder / "/".join(end)))
            if path.is_file():
                self._count(name, self._relative(path))
                return path
        return None

    def _count(self, name: str, key: str) -> None:
        self.by_name += 1
        self._example = self._example if self.by_name > 1 else (name[-_MAX_SHOWN:], key)

    def _by_name(self, name: str) -> Path | None:
        if self._index is None:
            inside = self._folder.is_relative_to(self._root)
            self._index = index_images(self._folder) or index_images(
                self._root if inside else self._folder
            )
        last = last_name(name)
        found = self._index.get(last, ())
        if len(found) != 1:
            return None
        key = self._relative(found[0])
        stated_split, split = _split_of_folders(name), _split_of_folders(key)
        if stated_split and split and stated_split != split:
            return None
        if "." in last:
            self._count(name, key)
        return found[0]


def _split_of_folders(name: str) -> Split | None:
    """The split that the folders of a name speak of; the innermost decides."""
    return split_in_folders(reversed(name.split("/")[:-1]))


def parse_split(cell: object, where: str) -> Split | None:
    """Return the split that a cell names; None for an empty cell.

    Raises:
        DataError: The cell is not the name of a split.
    """
    name = cell_text(cell)
    split = split_from_name(name)
    if name and split is None:
        raise DataError(
            f"no split is called {name!r}",
            where=where,
            hint="write one of: train, val, test",
            id="unknown_split",
        )
    return split


def read_attributes(path: Path) -> dict[Path, dict[str, str]]:
    """Read what else a table tells about its images: all columns that are not standard ones.

    Returns:
        Image path -> column -> cell as text.

    Raises:
        DataError: It is not a table, or has no further column.
    """
    if not is_table(path):
        raise not_a_table(path)
    names = [] if path.suffix.lower() == ".parquet" else other_columns(path)
    if not names:
        raise DataError(
            "the table has no columns besides the standard ones",
            where=printable(path),
            hint="give a .csv, .tsv or .jsonl with the column path and others, such as site or age",
        )
    aliases = {"path": ALIASES["path"], **{name: (name,) for name in names}}
    attributes: dict[Path, dict[str, str]] = {}
    finder = ImageFinder(path)
    for record in read_records(path, aliases, ("path",)):
        image, _ = finder.find_file(record.cells["path"], record.number)
        attributes[image] = {name: cell_text(record.cells.get(name)) for name in names}
    return attributes


def drop_missing(rows: list[Row], table: Path, notes: list[Issue]) -> list[Row]:
    """Return the rows whose image exists; add a note on the others.

    Raises:
        DataError: Not one image exists.
    """
    missing = [row for row in rows if row.is_missing]
    examples = quoted([row.key for row in missing])
    if len(missing) == len(rows):
        raise _none_exists(missing, table)
    if missing:
        message = Message(
            "issues.missing_images_of_rows.note",
            "{count} of {total:image|images} are missing and dropped: {names}",
            count=len(missing),
            total=len(rows),
            names=examples,
        )
        locations = tuple(Location(row.key, row_location(table, row.number)) for row in missing)
        notes.append(Issue(MISSING, message, len(missing), locations))
    missing_keys = {row.key for row in missing}
    return [row for row in rows if row.key not in missing_keys]


def _none_exists(rows: Sequence[ImageRow], table: Path) -> DataError:
    """Why no row leads to an image: each name leads to several, or there is none."""
    folder, where = table if table.is_dir() else table.parent, printable(table)
    why = f"none of {len(rows)} paths leads to a file"
    index = index_images(folder)
    names = [last_name(printable(row.path)) for row in rows if isinstance(row.path, Path)]
    doubled = [found for name in names if len(found := index.get(name, ())) > 1]
    if doubled:
        first, second = (printable(path.relative_to(folder)) for path in doubled[0])
        return DataError(
            "the names in the table lead to several images each",
            where=where,
            why=f"{why}, and the names of {len(doubled)} lead to two or more:"
            f" {Path(first).name!r} to {first!r} and {second!r}",
            hint=f"write the folder into the path, such as {first!r}, or take away the images that"
            " are not meant",
            id="ambiguous_table_images",
        )
    packed = None if index else way_with_packed(folder)
    return DataError(
        "the images of the table do not exist",
        where=where,
        why=f"{why}: {quoted([row.key for row in rows])}",
        hint=packed or f"paths are relative to the folder of the table, {printable(folder)!r}",
        id="missing_table_images",
    )


def partial_split_notes(rows: Sequence[ImageRow | Sample]) -> list[Issue]:
    """Return a note if some images state a split and others do not."""
    count = sum(row.split is None for row in rows)
    if not 0 < count < len(rows):
        return []
    text = "{count} of {total:image|images} state no split"
    return [remark("partial_split", text, count=count, total=len(rows))]
