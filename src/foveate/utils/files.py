"""Files that are there whole or not at all, and never over others."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from foveate.errors import DiskFull, RunError, UsageError

_FULL = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
)  # no room on the disk, in the quota, or for a file of this size
_FULL_WORDS = tuple(
    os.strerror(code) for code in _FULL
)  # safetensors wraps what the system says into words of its own
ASIDE = ".aside-"  # before the names of files that are being written


def refuse_taken(
    folder: Path, what: str = "this folder is taken; nothing is overwritten", hint: str = ""
) -> None:
    """Raises UsageError when there is something at the path already; an empty folder is free."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(what, where=folder, hint=hint or "--out ANOTHER_FOLDER")


@contextmanager
def written_aside(path: Path, need: int = 0) -> Iterator[Path]:
    """A place to write a file or a folder; afterwards it is flushed to the disk and renamed to `path`. `need`: its bytes, if known.

    Raises DiskFull when there is no room, RunError when it cannot be written; what was at `path` is still there then.
    """
    aside = path.with_name(f"{ASIDE}{os.getpid()}-{path.name}")
    try:
        made(path.parent)
        yield aside
        for file in sorted(aside.rglob("*")) if aside.is_dir() else [aside]:
            _flush(file)
        _flush(aside)
        aside.replace(path)
        _flush(path.parent)
    except Exception as error:
        if not _of_the_disk(error):
            raise
        raise unwritten(path, error, need) from None
    finally:
        if aside.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.unlink(missing_ok=True)


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A CSV, there whole or not at all. Raises RunError as `written_aside`."""
    with (
        written_aside(path) as aside,
        aside.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises RunError where that is not possible."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError("cannot read this file", where=path, why=str(error)) from None


def write_text(path: Path, text: str) -> None:
    """Write a text file, completely or not at all."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, completely or not at all."""
    write_text(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def made(folder: Path) -> None:
    """Makes a folder and those above it; after a power cut they are still there, for each one's parent is flushed too."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in reversed(missing):
        _flush(each.parent)


def free_bytes(path: Path) -> int:
    """Of the disk that holds `path`, or will hold it."""
    return shutil.disk_usage(
        next(each for each in (path, *path.absolute().parents) if each.exists())
    ).free


def unwritten(path: Path, error: Exception, need: int = 0) -> RunError:
    """The complaint about a file that could not be written."""
    said = getattr(error, "strerror", None) or str(error)
    words = next((words for words in _FULL_WORDS if words in said), said)
    needed = f"{need / 1e6:.1f} MB needed, " if need else ""
    why = f"{words} ({needed}{free_bytes(path.parent) / 1e6:.1f} MB free)"
    kind = DiskFull if words in _FULL_WORDS else RunError
    return kind(
        "this file could not be written",
        where=path,
        why=why,
        hint="make room, then --resume the run",
    )


def _of_the_disk(error: Exception) -> bool:
    """Whether the system has refused to write; safetensors tells of it by a class of its own."""
    return isinstance(error, OSError) or (
        type(error).__name__ == "SafetensorError" and "os error" in str(error)
    )


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


def cache_folder() -> Path:
    """FOVEATE_CACHE, or `foveate` in the user's cache folder."""
    stated = os.environ.get("FOVEATE_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(stated) if stated else Path(base) / "foveate"


def numbered(parent: Path, prefix: str = "") -> Path:
    """The first of parent/1, parent/2, ..., with the prefix before the number, that is not there yet."""
    number = 1
    while (parent / f"{prefix}{number}").exists():
        number += 1
    return parent / f"{prefix}{number}"


def checksums(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The checksums of those files in `folder` that exist, by name."""
    return {name: checksum(folder / name) for name in names if (folder / name).is_file()}
