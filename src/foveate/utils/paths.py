"""Paths as users give them, and as text that any file can hold."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from foveate.errors import near_names

PathLike = str | Path
"""A path as the public functions take it."""


def as_path(path: PathLike | None) -> Path | None:
    """Return the path as a `Path`; None stays None."""
    return None if path is None else Path(path)


def as_paths(paths: PathLike | Iterable[PathLike]) -> list[Path]:
    """Return one path or several as a list."""
    return [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]


def did_you_mean_path(path: Path) -> str | None:
    """Return a hint with the entry beside a missing `path` that resembles it; None without one."""
    if not path.parent.is_dir():
        return None
    names = [entry.name for entry in path.parent.iterdir() if entry.name != path.name]
    near = near_names(path.name, names, most=1)
    return f"did you mean {str(path.parent / near[0])!r}?" if near else None


def printable(path: Path | str) -> str:
    """Return a path with forward slashes; bytes that are not UTF-8 are written as \\xNN."""
    text = path.as_posix() if isinstance(path, Path) else path
    return os.fsencode(text).decode("utf-8", "backslashreplace")
