"""Data that no format reads: what is there, and the shortest way to have them read."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

from foveate.data.contents import describe_contents
from foveate.data.discovery import extension_of, find_images, list_folder
from foveate.data.foreign_data import find_foreign, way_with_archive, way_with_packed
from foveate.data.formats._patient_files import explain_patient_table
from foveate.data.records import class_columns, has_paths, is_table
from foveate.errors import DataError
from foveate.images.readers import ARCHIVE_EXTENSIONS
from foveate.utils.paths import printable


def no_format_fits(path: Path, formats: Iterable[str]) -> DataError:
    """Return why nothing recognizes data, and what to do.

    Args:
        path: The data.
        formats: The names of all formats.

    Raises:
        DataError: A folder cannot be listed.
    """
    if path.is_dir() and not list_folder(path):
        return DataError(
            "the folder is empty",
            where=path,
            hint="give a folder of images, or a table",
            id="empty_data",
        )
    if foreign := find_foreign(path):
        return foreign.error(path)
    if path.is_dir() and not sum(1 for _ in find_images(path)):  # all: raises if one is unlistable
        return _no_images(path)
    if path.is_file() and extension_of(path.name) in ARCHIVE_EXTENSIONS:
        return DataError(
            "this archive cannot be read in place",
            where=printable(path),
            why="only a .zip or plain .tar with a folder for each class can be",
            hint=way_with_archive(path),
            id="unread_archive",
        )
    if explained := "".join(explain_patient_table(path)):
        return DataError(
            "the table names patients and not images",
            where=printable(path),
            why=explained,
            hint="add a column path with the image of each row, and call that of the patients"
            " group",
            id="table_of_patients",
        )
    return DataError(
        "no format fits the data",
        where=path,
        why=f"it holds {describe_contents(path)}" if path.is_dir() else describe_contents(path),
        hint="put the images into a folder for each class, or give a table with the columns path"
        f" and label{_named_column(path)}; if the layout is one of these, name it: --format "
        + "|".join(formats),
        id="no_format_fits",
    )


def _no_images(path: Path) -> DataError:
    return DataError(
        "the folder contains no images",
        where=path,
        why=f"it holds {describe_contents(path)}",
        hint=way_with_packed(path) or "give the folder with the images",
        id="no_images",
    )


def _named_column(path: Path) -> str:
    """How to name the column that states the classes of a table there; empty without one."""
    files = list_folder(path) if path.is_dir() else [path]
    tables = [file for file in files if is_table(file) and has_paths(file)]
    columns = [name for table in tables for name in class_columns(table)]
    if not columns:
        return ""
    return f", or say which column it is: --set data.column={shlex.quote(printable(columns[0]))}"
