"""cache: show what is kept to save time, or delete it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from foveate.messages import counted
from foveate.utils.cache import (
    CacheEntry,
    cache_entries,
    cache_folder,
    clear_cache,
    max_cache_bytes,
)

_MAX_ROWS = 20  # that are printed
_DAY = 86_400.0


@dataclass(frozen=True)
class CacheResult:
    """The cache of features.

    Attributes:
        folder: Where it is.
        max_bytes: The size that it may have.
        entries: Its files, the one that was used last first.
        deleted: Number of files and of bytes that were deleted; None if it was not cleared.
    """

    columns: ClassVar[list[str]] = ["file", "size", "last used"]
    folder: Path
    max_bytes: int
    entries: list[CacheEntry] = field(default_factory=list)
    deleted: tuple[int, int] | None = None

    @property
    def rows(self) -> list[list[str]]:
        """Name, size and age of the files that were used last."""
        return [
            [entry.path.name, _megabytes(entry.bytes), _age(entry.used)]
            for entry in self.entries[:_MAX_ROWS]
        ]

    def numbers(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "max_bytes": self.max_bytes,
            "files": len(self.entries),
            "bytes": sum(entry.bytes for entry in self.entries),
            "deleted": None
            if self.deleted is None
            else dict(zip(_COUNTS, self.deleted, strict=True)),
        }

    def lines(self) -> list[str]:
        if self.deleted is not None:
            count, size = self.deleted
            files = counted(count, "file", "files")
            return [f"deleted {files} ({_megabytes(size)}) from {self.folder}"]
        total = _megabytes(sum(entry.bytes for entry in self.entries))
        files, limit = counted(len(self.entries), "file", "files"), _megabytes(self.max_bytes)
        lines = [f"{files}, {total} of at most {limit}, in {self.folder}"]
        if len(self.entries) > _MAX_ROWS:
            lines.append(f"and {len(self.entries) - _MAX_ROWS:,} more that were used earlier")
        return lines


_COUNTS = ("files", "bytes")


def show_cache() -> CacheResult:
    """Return what is in the cache."""
    return CacheResult(cache_folder(), max_cache_bytes(), cache_entries())


def clear_features() -> CacheResult:
    """Delete what is in the cache."""
    return CacheResult(cache_folder(), max_cache_bytes(), deleted=clear_cache())


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _age(used: float) -> str:
    days = int((time.time() - used) / _DAY)
    return "today" if days < 1 else f"{counted(days, 'day', 'days')} ago"
