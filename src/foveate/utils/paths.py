"""Paths as users give them, and as text that any file can hold."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from pathlib import Path

from foveate.errors import UsageError, near_names

PathLike = str | Path
"""A path as the public functions take it."""


def to_path(path: PathLike) -> Path:
    """Return the path as a `Path`. Raises UsageError if it is something else."""
    if isinstance(path, str | os.PathLike):
        return Path(path)
    raise UsageError(f"a path must be text or a Path, got {path!r}")


def as_path(path: PathLike | None) -> Path | None:
    """Return the path as a `Path`; None stays None."""
    return None if path is None else to_path(path)


def as_paths(paths: PathLike | Iterable[PathLike]) -> list[Path]:
    """Return one path or several as a list. Raises UsageError if they are something else."""
    if isinstance(paths, str | os.PathLike) or not isinstance(paths, Iterable):
        return [to_path(paths)]
    return [to_path(path) for path in paths]


def require_exists(path: Path) -> Path:
    """Return the path; raise UsageError, with a similar name, if there is nothing at it."""
    if not path.exists():
        raise UsageError("the path does not exist", where=path, hint=did_you_mean_path(path))
    return path


def did_you_mean_path(path: Path) -> str | None:
    """Return a hint with the entry beside a missing `path` that resembles it; None without one."""
    if not path.parent.is_dir():
        return None
    names = [entry.name for entry in path.parent.iterdir() if entry.name != path.name]
    near = near_names(path.name, names, most=1)
    return f"did you mean {str(path.parent / near[0])!r}?" if near else None


def printable(path: Path | str) -> str:
    """Return a path with forward slashes; bytes that are not UTF-8 are written as \\xNN."""
    return without_surrogates(path.as_posix() if isinstance(path, Path) else path)


def relative_name(path: Path, root: Path) -> str:
    """Return the name of a file in a dataset: its path relative to the root, with forward slashes.

    It begins with ../ for a file outside of the root, and is the same wherever the program runs.
    """
    # compared as text: that is what it costs per image of a large dataset
    path, root = Path(os.path.normpath(path)), Path(os.path.normpath(root))
    if path.is_relative_to(root):
        return printable(path.relative_to(root))
    return printable(os.path.relpath(path, root).replace(os.sep, "/"))


def without_surrogates(text: str) -> str:
    """Return text that UTF-8 can hold: bytes of a file name that are not UTF-8 become \\xNN.

    Python keeps such bytes as surrogates; in a locale without UTF-8 all bytes above 127 of a name.
    """
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # surrogates that stand for no byte
        return text.encode("utf-8", "backslashreplace").decode("utf-8")


def require_outside(folder: Path, data: Path, what: str) -> None:
    """Raise UsageError if `what` would be written to a folder below the data."""
    if data.is_dir() and folder.resolve().is_relative_to(data.resolve()):
        raise UsageError(
            f"{what} would be written into the data, which are never modified",
            where=folder,
            hint=shlex.join(["--out", os.path.relpath(data.resolve().parent / folder.name)]),
        )
