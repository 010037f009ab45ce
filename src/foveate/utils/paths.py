"""Paths as users give them, and as text that any file can hold."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

PathLike = str | Path
"""A path as the public functions take it."""


def as_path(path: PathLike | None) -> Path | None:
    """Return the path as a `Path`; None stays None."""
    return None if path is None else Path(path)


def as_paths(paths: PathLike | Iterable[PathLike]) -> list[Path]:
    """Return one path or several as a list."""
    return [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]


def printable(path: Path | str) -> str:
    """Return a path with forward slashes; bytes that are not UTF-8 are written as \\xNN."""
    text = path.as_posix() if isinstance(path, Path) else path
    return os.fsencode(text).decode("utf-8", "backslashreplace")
