"""Memory of the process, the machine and the device."""

from __future__ import annotations

import gc
import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of mallopt(3)
_LARGE = 2**30  # bytes
_UNKNOWN = 2**32
_GROUPS = Path("/sys/fs/cgroup")
# messages of the CPU allocator, of devices, and of CUDA's libraries
_MESSAGES = ("can't allocate memory", "out of memory", "ALLOC_FAILED")


@cache
def keep_freed_memory() -> bool:
    """Let glibc reuse the memory of freed tensors below 1 GiB; return whether that worked.

    By default it returns blocks of that size to the system at once, and every activation of every
    batch is then paged in anew: with 600 images of 224 px that cost half the time of a probe
    (docs/log.md). Up to 1 GiB stays with the process.
    """
    mallopt = _mallopt()
    return mallopt is not None and all(
        mallopt(option, _LARGE) for option in (_MMAP_THRESHOLD, _TRIM_THRESHOLD)
    )


@cache
def use_one_arena() -> bool:
    """Let all threads that start from now on share one arena; return whether that worked.

    By default each has an arena of its own, in pieces of 64 MB: larger blocks are mapped and
    unmapped every time, and kept pages lie idle in one thread while another asks for more. A
    server's network, in a thread, spent a tenth of its time on that (docs/benchmarks.md).
    """
    mallopt = _mallopt()
    return mallopt is not None and bool(mallopt(_ARENA_MAX, 1))


def _mallopt() -> Any:
    """glibc's mallopt(3); None elsewhere (musl has none)."""
    if not sys.platform.startswith("linux"):
        return None
    import ctypes  # takes milliseconds, which --help does not spend

    return getattr(ctypes.CDLL(None), "mallopt", None)


def total_memory() -> int:
    """Return the bytes that this process may use: of the machine, or of its container.

    4 GiB where neither is known.
    """
    known = hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if known else _UNKNOWN
    return min([machine, *(limit for limit, _ in _containers())])


def available_memory() -> int | None:
    """Return the bytes that a new process could use without swapping, in this container.

    None where the system does not report it.
    """
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return None
    match = re.search(r"MemAvailable:\s+(\d+) kB", text)
    if match is None:
        return None
    return min([int(match[1]) * 1024, *(max(0, limit - used) for limit, used in _containers())])


def _containers() -> Iterator[tuple[int, int]]:
    """Yield the memory limit and the memory in use, bytes, of control groups (Linux, v2 and v1).

    Cached files that can be dropped at once do not count as used.
    """
    for limit, usage, statistics in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        with suppress(OSError, ValueError):  # there is no such file, or it holds "max"
            cached = re.search(
                r"^(?:total_)?inactive_file (\d+)$",
                (_GROUPS / statistics).read_text(),
                re.MULTILINE,
            )
            used = int((_GROUPS / usage).read_text()) - (int(cached[1]) if cached else 0)
            yield int((_GROUPS / limit).read_text()), used


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that no memory was left, on a device or in the machine."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in _MESSAGES)
    )


def release_memory() -> None:
    """Free what is no longer referenced, on the device too."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
