"""How images and answers lie on disk. A format looks at a path (`sniff`) and reads it into a Table (`read`).

Some can also be written (`write`): foveate convert.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from foveate.errors import DataError, UnknownName, UsageError
from foveate.registry import Registry
from foveate.types import Table
from foveate.utils.paths import did_you_mean_path


class Format(ABC):
    """One way to lay out data. `summary` is the sentence that says the guess aloud ("a folder per class")."""

    summary: ClassVar[str]

    @abstractmethod
    def sniff(self, path: Path) -> bool:
        """True when `path` looks like this format; cheap, never raises for a path that exists."""

    @abstractmethod
    def read(self, path: Path) -> Table:
        """The table at `path`; raises DataError with what to try. Images are not opened here."""

    def write(self, table: Table, folder: Path) -> tuple[str, ...]:
        """Lays `table` out in `folder`, which is empty; images are copied. Returns notes on what it could not hold."""
        raise UsageError(
            "this format cannot be written",
            why=f"it is {self.summary}",
            hint="one of: " + ", ".join(writable()),
        )


FORMATS: Registry[Format] = Registry("foveate.data.formats", Format, "format")


def writable() -> list[str]:
    """The formats that can be written."""
    return [name for name in FORMATS.names() if FORMATS.get(name).write is not Format.write]


def writer(name: str) -> Format:
    """The format `name` to write in. Raises UnknownName with near names, UsageError when it can only be read."""
    if name not in FORMATS.names():
        raise UnknownName(name, writable(), kind="format that can be written")
    if name not in writable():
        raise UsageError(
            f"the format {name!r} cannot be written", hint="one of: " + ", ".join(writable())
        )
    return FORMATS.get(name)()


def read_table(path: Path, name: str = "auto") -> Table:
    """Reads `path` with the format `name`, or with the one that recognises it.

    Raises UsageError when the path is missing (near names suggested), DataError when no format or several recognise it.
    """
    if not path.exists():
        hint = did_you_mean_path(path) or "give a folder of images or a table"
        raise UsageError("there is nothing at this path", where=path, hint=hint)
    if name != "auto":
        return FORMATS.get(name)().read(path)
    found = [word for word in FORMATS.names() if FORMATS.get(word)().sniff(path)]
    if len(found) != 1:
        raise DataError(
            f"{'several formats fit' if found else 'no format fits'} this data"
            + (f": {', '.join(found)}" if found else ""),
            where=path,
            hint="name one with --format " + "|".join(found or FORMATS.names()),
        )
    return FORMATS.get(found[0])().read(path)
