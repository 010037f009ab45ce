"""Names of classes, one a line, and no image at all: for networks that answer by name."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from foveate.data.formats import Format
from foveate.errors import DataError
from foveate.types import Table
from foveate.utils.paths import printable


class Names(Format):
    summary: ClassVar[str] = "names of classes, a line each"

    def sniff(self, path: Path) -> bool:
        return path.is_file() and path.suffix.lower() == ".txt"

    def read(self, path: Path) -> Table:
        """A table of classes without samples, in the order of the lines; empty lines are skipped. Raises DataError for a file that
        is no text, holds no name, or one of them twice."""
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                "this list of names cannot be read", where=printable(path), why=str(error)
            ) from None
        first: dict[str, int] = {}
        for number, name in enumerate((line.strip() for line in lines), start=1):
            if name in first:
                why = f"it stands in lines {first[name]} and {number}"
                raise DataError(
                    f"the class {name!r} is named twice",
                    where=printable(path),
                    why=why,
                    hint="remove one of them",
                )
            if name:
                first[name] = number
        if not first:
            raise DataError(
                "there is no name in this file",
                where=printable(path),
                hint="write a class in each line",
            )
        return Table(samples=(), classes=tuple(first), format="names", root=path.parent)
