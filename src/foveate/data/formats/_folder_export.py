"""Writes a folder for each class, in a folder for each split."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from foveate.data.discovery import is_hidden
from foveate.data.formats._folder_names import parse_folder_name
from foveate.data.formats._image_export import Parts, copy_images
from foveate.errors import UsageError
from foveate.messages import counted
from foveate.predictions import Labels
from foveate.types import Issue, Sample, Table
from foveate.utils.paths import printable

_NO_FOLDER = re.compile(r"[/\\\x00-\x1f]")  # what the name of a folder cannot contain
_MAX_BYTES = 255  # of the name of a folder
_TABLE = "--to table"


def write_class_folders(table: Table, folder: Path) -> tuple[Issue, ...]:
    """Write the images of a table into a folder for each class.

    If some images have a split, those without are put under train.

    Args:
        table: The dataset.
        folder: Where to write.

    Returns:
        Notes on images that were renamed.

    Raises:
        UsageError: An image has several classes or none, or the names of the classes cannot be
            those of folders.
    """
    _require_one_class(table)
    _require_names(table)
    notes: list[Issue] = []
    default = "train" if any(sample.split for sample in table.samples) else None
    is_single = len({_class_of(sample) for sample in table.samples}) == 1

    def place(sample: Sample, parts: Parts) -> Parts:
        # folders below a single class would be taken for the classes
        kept = () if is_single else parts[:-1]
        name = _class_of(sample)
        inner = tuple(each for each in kept if each != name and parse_folder_name(each) is None)
        split = sample.split or default
        return (*((split,) if split else ()), name, *inner, parts[-1])

    copy_images(table, folder, notes, place)
    return tuple(notes)


def fold_class_name(name: str) -> str:
    """Return the name of a class without case and spaces, in which splits may differ."""
    return "".join(name.split()).casefold()


def _class_of(sample: Sample) -> str:
    assert isinstance(sample.target, Labels)
    return sample.target.names[0]


def _require_one_class(table: Table) -> None:
    others = [
        sample.key
        for sample in table.samples
        if isinstance(sample.target, Labels) and len(sample.target.names) != 1
    ]
    if others:
        raise UsageError(
            "images with several classes, or none, have no place in a folder for each class",
            where=printable(table.root),
            why=f"{counted(len(others), 'image', 'images')}, such as {others[0]!r}",
            hint=_TABLE,
        )


def _require_names(table: Table) -> None:
    """Refuse names that folders cannot have, or that would be one class when read again."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in sorted({_class_of(sample) for sample in table.samples}):
        alike[fold_class_name(name)].append(name)
        if _NO_FOLDER.search(name) or is_hidden(name) or len(name.encode()) > _MAX_BYTES:
            raise UsageError(
                f"the class {name[:80]!r} cannot be the name of a folder",
                where=printable(table.root),
                hint=_TABLE,
            )
    for names in alike.values():
        if len(names) > 1:
            raise UsageError(
                f"the classes {names[0]!r} and {names[1]!r} differ only in case or spaces, which"
                " folders may not tell apart",
                where=printable(table.root),
                hint=_TABLE,
            )
