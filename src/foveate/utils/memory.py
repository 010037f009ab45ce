"""Memory: the C library's allocator, told to keep what it is given back; how much is free; how it is told that there is no more."""

from __future__ import annotations

import ctypes
import gc
import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of mallopt(3)
_LARGE = 2**30  # bytes
_UNKNOWN = 2**32
_GROUPS = Path("/sys/fs/cgroup")
_WORDS = (
    "can't allocate memory",
    "out of memory",
    "ALLOC_FAILED",
)  # of the processor's allocator, of devices, of CUDA's libraries


@cache
def keep_pages() -> bool:
    """Lets glibc reuse the memory of freed tensors below 1 GiB; True where it could be told.

    By default it hands blocks of that size back to the system at once, and every activation of every batch is then paged
    in anew: with 600 images of 224 px that cost half the time of a probe (docs/log.md). Up to 1 GiB stays with the process.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return mallopt is not None and all(
        mallopt(word, _LARGE) for word in (_MMAP_THRESHOLD, _TRIM_THRESHOLD)
    )


@cache
def one_arena() -> bool:
    """Lets all threads that begin from now on allocate where the first one does; True where it could be told.

    By default each has an arena of its own, of pieces of 64 MB: what is larger is mapped and unmapped every time, and kept pages
    lie idle in one thread while another asks for more. A server's network, in a thread, spent a tenth of its time
    on that (docs/benchmarks.md).
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_ARENA_MAX, 1))


def total() -> int:
    """Bytes of memory that this process may have: of the machine, or of the container around it; 4 GiB where neither tells."""
    known = hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if known else _UNKNOWN
    return min([machine, *(limit for limit, _ in _containers())])


def available() -> int | None:
    """Bytes of memory that a new process could have without swapping, in this container; None where the system does not tell."""
    try:
        found = re.search(
            r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii")
        )
    except OSError:
        return None
    return (
        min([int(found[1]) * 1024, *(max(0, limit - used) for limit, used in _containers())])
        if found
        else None
    )


def _containers() -> Iterator[tuple[int, int]]:
    """The limit of memory and what is used of it, bytes, where the container has one (control groups of Linux, version 2 and 1).
    Files that were read and may be forgotten at once do not count as used."""
    for most, now, kept in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        with suppress(OSError, ValueError):  # there is no such file, or it says "max"
            forgettable = re.search(
                r"^(?:total_)?inactive_file (\d+)$", (_GROUPS / kept).read_text(), re.MULTILINE
            )
            used = int((_GROUPS / now).read_text()) - (int(forgettable[1]) if forgettable else 0)
            yield int((_GROUPS / most).read_text()), used


def exhausted(error: BaseException) -> bool:
    """Whether this says that there was no memory left, on a device or in the machine."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)
    )


def release() -> None:
    """Gives back what nobody holds any more."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
