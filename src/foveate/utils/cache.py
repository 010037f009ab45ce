"""The cache folder: what can be computed again, and is kept within a size.

It holds features of frozen backbones, each in one file. Any of them may be deleted at any time: it
costs time, not results.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from foveate.errors import UsageError

SUFFIX = ".safetensors"
_DEFAULT_GB = 5.0
_TEMPORARY = ".tmp"


@dataclass(frozen=True)
class CacheEntry:
    """A file in the cache folder.

    Attributes:
        path: The file.
        bytes: Its size.
        used: When it was written or read last, seconds since 1970.
    """

    path: Path
    bytes: int
    used: float


def cache_folder() -> Path:
    """Return $FOVEATE_CACHE, or `foveate` in the user's cache folder."""
    explicit = os.environ.get("FOVEATE_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(explicit) if explicit else Path(base) / "foveate"


def max_cache_bytes() -> int:
    """Return the size that the cache may have: $FOVEATE_CACHE_GB, or 5 GB.

    Raises:
        UsageError: The variable is not a number, or negative.
    """
    text = os.environ.get("FOVEATE_CACHE_GB", "")
    try:
        gigabytes = float(text) if text else _DEFAULT_GB
    except ValueError:
        gigabytes = -1.0
    if not 0 <= gigabytes < float("inf"):
        why = f"it is {text[:40]!r}"
        raise UsageError(
            "FOVEATE_CACHE_GB is not a size", why=why, hint="a number of GB, such as 5"
        )
    return int(gigabytes * 1e9)


def cache_entries() -> list[CacheEntry]:
    """Return the files in the cache folder, the one that was used last first."""
    entries = [
        CacheEntry(path, status.st_size, status.st_mtime)
        for path, status in _files()
        if path.suffix == SUFFIX
    ]
    return sorted(entries, key=lambda entry: -entry.used)


def mark_used(file: Path) -> None:
    """Note that a file was read, so that others are deleted before it."""
    with suppress(OSError):
        os.utime(file)


def limit_cache(limit: int) -> None:
    """Delete the files that were not used for longest, until the others have `limit` bytes."""
    total = 0
    for entry in cache_entries():
        total += entry.bytes
        if total > limit:
            _delete(entry.path)


def clear_cache() -> tuple[int, int]:
    """Delete the files of the cache, also those that another process has not finished.

    Returns:
        The number of files and of bytes that were deleted.
    """
    deleted = [
        status.st_size
        for path, status in _files()
        if path.suffix in (SUFFIX, _TEMPORARY) and _delete(path)
    ]
    return len(deleted), sum(deleted)


def _files() -> Iterator[tuple[Path, os.stat_result]]:
    with suppress(OSError):
        for entry in os.scandir(cache_folder()):
            with suppress(OSError):
                if entry.is_file(follow_symlinks=False):
                    yield Path(entry.path), entry.stat(follow_symlinks=False)


def _delete(path: Path) -> bool:
    """Whether the file is gone; another process may have been faster."""
    try:
        path.unlink()
    except OSError:
        return False
    return True
