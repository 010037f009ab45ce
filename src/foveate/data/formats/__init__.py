"""Dataset formats: how images and annotations are stored on disk.

A format recognizes a path (`sniff`) and reads it as a Table (`read`). Some can be written as well
(`write`), for `foveate convert`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from foveate.data.discovery import find_images, list_folder
from foveate.errors import DataError, UnknownName, UsageError
from foveate.registry import Registry
from foveate.types import Issue, Table
from foveate.utils.paths import did_you_mean_path


class Format(ABC):
    """A dataset format.

    Attributes:
        summary: What it is, in a few words ("a folder per class"); printed with the guess.
    """

    summary: ClassVar[str]

    @abstractmethod
    def sniff(self, path: Path) -> bool:
        """Whether `path`, which exists, looks like this format. It is cheap and never raises."""

    @abstractmethod
    def read(self, path: Path) -> Table:
        """Read the dataset at `path`; images are not decoded.

        Raises:
            DataError: The annotations cannot be used.
        """

    def write(self, table: Table, folder: Path) -> tuple[Issue, ...]:
        """Write a dataset into `folder`, which is empty; images are copied.

        Returns:
            Notes on what the format cannot represent.

        Raises:
            UsageError: The format cannot be written.
        """
        raise UsageError(
            "this format cannot be written",
            why=f"it is {self.summary}",
            hint="choose one of: " + ", ".join(writable()),
        )


FORMATS: Registry[Format] = Registry("foveate.data.formats", Format, "format")


def writable() -> list[str]:
    """Return the names of the formats that can be written."""
    return [name for name in FORMATS.names() if FORMATS.get(name).write is not Format.write]


def writer(name: str) -> Format:
    """Return the format `name`, to write in.

    Raises:
        UnknownName: There is no such format.
        UsageError: It can only be read.
    """
    if name not in FORMATS.names():
        raise UnknownName(name, writable(), kind="format that can be written")
    if name not in writable():
        hint = "choose one of: " + ", ".join(writable())
        raise UsageError(f"the format {name!r} cannot be written", hint=hint)
    return FORMATS.get(name)()


def read_table(path: Path, name: str = "auto") -> Table:
    """Read the dataset at `path`.

    Args:
        path: A folder, a table or an annotation file.
        name: The format; "auto": the one that recognizes the data.

    Raises:
        UsageError: The path does not exist.
        DataError: No format recognizes the data, or several do; or it cannot be read.
    """
    if not path.exists():
        hint = did_you_mean_path(path) or "give a folder of images, or a table"
        raise UsageError("the path does not exist", where=path, hint=hint)
    if name != "auto":
        return FORMATS.get(name)().read(path)
    names = [candidate for candidate in FORMATS.names() if FORMATS.get(candidate)().sniff(path)]
    if not names:
        raise _no_format_fits(path)
    if len(names) > 1:
        hint = "choose one with --format " + "|".join(names)
        raise DataError(
            f"several formats fit the data: {', '.join(names)}",
            where=path,
            hint=hint,
            id="several_formats_fit",
        )
    return FORMATS.get(names[0])().read(path)


def _no_format_fits(path: Path) -> DataError:
    """Why nothing recognizes the data: a folder that cannot be listed, no images, or no labels."""
    if path.is_dir():
        if not list_folder(path):
            hint = "give a folder of images, or a table"
            return DataError("the folder is empty", where=path, hint=hint, id="empty_data")
        if not sum(1 for _ in find_images(path)):  # all: raises where a folder cannot be listed
            return DataError("the folder contains no images", where=path, id="no_images")
    hint = "name the format with --format " + "|".join(FORMATS.names())
    return DataError("no format fits the data", where=path, hint=hint, id="no_format_fits")
