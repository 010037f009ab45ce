"""Files that are there whole or not at all, and never over others."""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from foveate.errors import RunError, UsageError

ASIDE = ".aside-"  # before the names of files that are being written


def refuse_taken(folder: Path, what: str = "this folder is taken; nothing is overwritten", hint: str = "") -> None:
    """Raises UsageError when there is something at the path already; an empty folder is free."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(what, where=folder, hint=hint or "--out ANOTHER_FOLDER")


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A place to write a file or a folder; afterwards it is flushed to the disk and renamed to `path`.

    Raises RunError when the disk is full or not writable; what was at `path` is still there then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{ASIDE}{os.getpid()}-{path.name}")
    try:
        yield aside
        for file in sorted(aside.rglob("*")) if aside.is_dir() else [aside]:
            _flush(file)
        _flush(aside)
        aside.replace(path)
        _flush(path.parent)
    except OSError as error:
        free = shutil.disk_usage(path.parent).free
        why = f"{error.strerror or error} ({free / 1e6:.0f} MB free)"
        raise RunError("this file could not be written", where=path, why=why, hint="make room, then --resume the run") from None
    finally:
        if aside.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.unlink(missing_ok=True)


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A CSV, there whole or not at all. Raises RunError as `written_aside`."""
    with written_aside(path) as aside, aside.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])


def _flush(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows has no handle on a folder to flush
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
