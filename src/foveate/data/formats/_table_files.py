"""Tables in folders: metadata.csv (Hugging Face), _classes.csv and _annotations.csv (Roboflow),
train.csv (Kaggle), boxes.csv.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from foveate.data.discovery import list_folder, list_subfolders
from foveate.data.formats import Fit
from foveate.data.split_names import split_in_name
from foveate.types import Split

# of tables that describe the folder that they are in
_NAMES = ("metadata", "_classes", "_annotations", "boxes")


def find_tables(path: Path, fits: Callable[[Path], bool]) -> list[tuple[Path, Split | None]]:
    """Return the tables at a path, with the split that their folder or name states.

    In a folder these are tables of a known name, in it or in its split folders, or else any tables
    in it, or in its split folders. If there are several, each needs a split; otherwise none is
    returned.

    Args:
        path: A table, or a folder.
        fits: Whether a file is a table of the wanted kind.

    Raises:
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
        tables = [(file, split_in_name(file.stem)) for file in list_folder(path) if fits(file)]
        if len(tables) == 1:
            return [(tables[0][0], None)]  # train.csv alone is all of the data
    if not tables:  # Task3_Training_GroundTruth/GroundTruth.csv beside Task3_Training_Input
        tables = [
            (file, split)
            for folder, split in folders.items()
            for file in list_folder(folder)
            if split and fits(file)
        ]
    return tables if len(tables) == 1 or all(split for _, split in tables) else []


def _data_folder(path: Path) -> Path:
    """The folder itself; or `data` in it where nothing else is, as in datasets of Hugging Face."""
    folders = list_subfolders(path)
    return folders[0] if [folder.name for folder in folders] == ["data"] else path


def fit_of_tables(path: Path, tables: list[tuple[Path, Split | None]]) -> Fit:
    """Return how well tables describe what is at a path: in a folder by their names."""
    is_named = path.is_file() or tables[0][0].stem.casefold() in _NAMES
    return Fit.STATED if is_named else Fit.LIKELY
