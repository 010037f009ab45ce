"""Tables in folders: metadata.csv (Hugging Face), _classes.csv and _annotations.csv (Roboflow),
train.csv (Kaggle), boxes.csv.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from foveate.data.discovery import list_folder, list_subfolders
from foveate.data.formats import Fit, Reading
from foveate.data.issues import quoted
from foveate.data.split_names import split_in_name
from foveate.errors import DataError
from foveate.types import Issue, Split, remark
from foveate.utils.paths import printable

# of tables that describe the folder that they are in
_NAMES = ("metadata", "_classes", "_annotations", "boxes")


def find_tables(path: Path, fits: Callable[[Path], bool]) -> list[tuple[Path, Split | None]]:
    """Return the tables at a path, with the split that their folder or name states.

    In a folder these are tables of a known name, in it or in its split folders, or else any tables
    in it, or in its split folders. Of several in it those with a split in their names are taken.
    Samples of what is to be handed in (sample_submission.csv) do not count.

    Args:
        path: A table, or a folder.
        fits: Whether a file is a table of the wanted kind.

    Raises:
        SeveralTables: There are several, and not each has a split.
        DataError: A folder cannot be listed.
    """
    if path.is_file():
        return [(path, None)] if fits(path) else []
    path = _data_folder(path)
    splits = {child: split_in_name(child.name) for child in list_subfolders(path)}
    folders = {path: None, **{child: split for child, split in splits.items() if split}}
    tables = [
        (file, split)
        for folder, split in folders.items()
        for file in list_folder(folder)
        if file.stem.casefold() in _NAMES and fits(file)
    ]
    if not tables:
        found = _loose_tables(path, fits)
        tables = _with_splits([(file, split_in_name(file.stem)) for file in found])
        if len(tables) == 1:
            return [(tables[0][0], None)]  # train.csv alone is all of the data
    if not tables:  # Task3_Training_GroundTruth/GroundTruth.csv beside Task3_Training_Input
        tables = [
            (file, split)
            for folder, split in folders.items()
            for file in list_folder(folder)
            if split and fits(file)
        ]
    if len(tables) > 1 and not all(split for _, split in tables):
        raise SeveralTables(path, [file for file, _ in tables])
    return tables


class SeveralTables(DataError):
    """A folder with several tables, and nothing says which is meant.

    Attributes:
        doubt: The same as a doubt of a reading.
    """

    def __init__(self, path: Path, tables: list[Path]) -> None:
        names = quoted([printable(table.relative_to(path)) for table in tables])
        self.doubt = f"the folder has several such tables: {names}; give the one that is meant"
        super().__init__(
            "the folder has several tables, and it is unclear which is meant",
            where=printable(path),
            why=f"these could be it: {names}",
            hint="give the table itself; or call the tables train, val and test, to read them all",
            id="several_tables",
        )


def left_out_notes(
    path: Path, tables: Iterable[tuple[Path, Split | None]], fits: Callable[[Path], bool]
) -> list[Issue]:
    """Return a note on tables in a folder that could have been read as well, but were not.

    Args:
        path: As of `find_tables`.
        tables: What it returned.
        fits: As there.
    """
    read = {file for file, _ in tables}
    if path.is_file() or any(file.stem.casefold() in _NAMES for file in read):
        return []
    left = [file for file in _loose_tables(_data_folder(path), fits) if file not in read]
    if not left:
        return []
    text = "{count:table was|tables were} left out, since others are named after splits: {names}"
    names = quoted([printable(file.name) for file in left])
    return [remark("tables_left_out", text, "warning", count=len(left), names=names)]


def _loose_tables(folder: Path, fits: Callable[[Path], bool]) -> list[Path]:
    """The tables in a folder, without those that show how predictions are handed in (Kaggle)."""
    files = [file for file in list_folder(folder) if "submission" not in file.stem.casefold()]
    return [file for file in files if fits(file)]


def _with_splits(tables: list[tuple[Path, Split | None]]) -> list[tuple[Path, Split | None]]:
    """Those with a split; all of them, if there are none."""
    return [(file, split) for file, split in tables if split] or tables


def _data_folder(path: Path) -> Path:
    """The folder itself; or `data` in it where nothing else is, as in datasets of Hugging Face."""
    folders = list_subfolders(path)
    return folders[0] if [folder.name for folder in folders] == ["data"] else path


def sniff_tables(
    path: Path,
    fits: Callable[[Path], bool],
    doubts: Callable[[Path], Iterable[str]] = lambda table: (),
) -> Reading | None:
    """Return how well the tables at a path fit a format; None if there are none.

    Args:
        path: A table, or a folder.
        fits: Whether a file is a table of the format.
        doubts: What speaks against a table.
    """
    try:
        tables = find_tables(path, fits)
    except SeveralTables as error:
        return Reading(Fit.POSSIBLE, (error.doubt,))
    except DataError:
        return None
    if not tables:
        return None
    found = dict.fromkeys(doubt for table, _ in tables for doubt in doubts(table))
    return Reading(fit_of_tables(path, tables), tuple(found))


def fit_of_tables(path: Path, tables: list[tuple[Path, Split | None]]) -> Fit:
    """Return how well tables describe what is at a path: in a folder by their names."""
    is_named = path.is_file() or tables[0][0].stem.casefold() in _NAMES
    return Fit.STATED if is_named else Fit.LIKELY
