"""TODO-DOC foveate.utils.paths."""

from __future__ import annotations

import os
from pathlib import Path


def printable(path: Path | str) -> str:
    """A path with forward slashes as text that any file can hold: bytes that are not UTF-8 are written as \\xNN."""
    text = path.as_posix() if isinstance(path, Path) else path
    return os.fsencode(text).decode("utf-8", "backslashreplace")
