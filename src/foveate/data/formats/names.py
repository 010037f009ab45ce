"""A list of class names without any image, for models that classify by name (zero-shot)."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from foveate.data.formats import Fit, Format, Reading
from foveate.errors import DataError
from foveate.predictions import Labels
from foveate.types import Table
from foveate.utils.paths import printable


class Names(Format):
    """Class names in a text file, one per line."""

    summary: ClassVar[str] = "class names, one per line"
    target: ClassVar[type | None] = Labels

    def sniff(self, path: Path) -> Reading | None:
        """A text file."""
        is_text = path.is_file() and path.suffix.lower() == ".txt"
        return Reading(Fit.LIKELY) if is_text else None

    def read(self, path: Path) -> Table:
        """Read a table of classes without samples, in the order of the lines.

        Raises:
            DataError: The file is not text, is empty, or lists a class twice.
        """
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                "the list of class names cannot be read",
                where=printable(path),
                why=str(error),
                id="unreadable_names_file",
            ) from None
        first_lines: dict[str, int] = {}
        for number, name in enumerate((line.strip() for line in lines), start=1):
            if name in first_lines:
                raise DataError(
                    f"the class {name!r} is listed twice",
                    where=printable(path),
                    why=f"it is on lines {first_lines[name]} and {number}",
                    hint="remove one of them",
                    id="class_listed_twice",
                )
            if name:
                first_lines[name] = number
        if not first_lines:
            raise DataError(
                "the list of class names is empty",
                where=printable(path),
                hint="write one class per line",
                id="empty_class_names",
            )
        return Table(samples=(), classes=tuple(first_lines), format="names", root=path.parent)
