"""Files that are written completely or not at all, and never over others."""

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

# no space on the disk, in the quota, or for a file of this size
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# safetensors wraps the message of the system into one of its own
_FULL_MESSAGES = tuple(os.strerror(code) for code in _FULL)
PARTIAL_PREFIX = ".aside-"  # of names of files that are being written


def require_free(path: Path, message: str = "", hint: str = "") -> None:
    """Raise UsageError if there is a file or a folder with content at the path."""
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists():
        what = "the folder already exists and is not empty"
        if not path.is_dir():
            what = "the file already exists"
        raise UsageError(message or what, where=path, hint=hint or "--out ANOTHER_PATH")


@contextmanager
def atomic_write(path: Path, need: int = 0) -> Iterator[Path]:
    """Write a file or a folder aside; it is flushed to the disk and renamed afterwards.

    Args:
        path: Where the file or folder appears, complete.
        need: Its size in bytes, if known, for the error.

    Yields:
        The path to write to.

    Raises:
        DiskFull: There is no space left; what was at `path` before is still there.
        RunError: The file cannot be written for another reason.
    """
    aside = path.with_name(f"{PARTIAL_PREFIX}{os.getpid()}-{path.name}")
    try:
        make_folder(path.parent)
        yield aside
        for file in sorted(aside.rglob("*")) if aside.is_dir() else [aside]:
            _flush(file)
        _flush(aside)
        aside.replace(path)
        _flush(path.parent)
    except Exception as error:
        if not _is_disk_error(error):
            raise
        raise write_error(path, error, need) from None
    finally:
        if aside.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as `atomic_write` does."""
    with atomic_write(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a CSV file atomically."""
    with (
        atomic_write(path) as aside,
        aside.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises RunError where that is not possible."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError("the file cannot be read", where=path, why=str(error)) from None


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, so that they survive a power cut: each parent is flushed."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in reversed(missing):
        _flush(each.parent)


def free_disk_bytes(path: Path) -> int:
    """Return the free bytes of the disk that holds `path`, or will hold it."""
    existing = next(each for each in (path, *path.absolute().parents) if each.exists())
    return shutil.disk_usage(existing).free


def write_error(path: Path, error: Exception, need: int = 0) -> RunError:
    """Return the error for a file that could not be written: DiskFull if there is no space."""
    text = getattr(error, "strerror", None) or str(error)
    full = next((message for message in _FULL_MESSAGES if message in text), None)
    needed = f"{need / 1e6:.1f} MB needed, " if need else ""
    why = f"{full or text} ({needed}{free_disk_bytes(path.parent) / 1e6:.1f} MB free)"
    kind = DiskFull if full else RunError
    return kind(
        "the file could not be written",
        where=path,
        why=why,
        hint="free some space, then resume the run with --resume",
    )


def _is_disk_error(error: Exception) -> bool:
    """Whether the system refused to write; safetensors raises a class of its own then."""
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
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 by name of those files in `folder` that exist."""
    return {name: checksum(folder / name) for name in names if (folder / name).is_file()}


def cache_folder() -> Path:
    """Return $FOVEATE_CACHE, or `foveate` in the user's cache folder."""
    explicit = os.environ.get("FOVEATE_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(explicit) if explicit else Path(base) / "foveate"


def next_free_path(parent: Path, prefix: str = "") -> Path:
    """Return the first of parent/PREFIX1, parent/PREFIX2, ... that does not exist."""
    number = 1
    while (parent / f"{prefix}{number}").exists():
        number += 1
    return parent / f"{prefix}{number}"
