"""The C library's allocator, told to keep what it is given back."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of mallopt(3)
_LARGE = 2**30  # bytes


@cache
def keep_pages() -> bool:
    """Lets glibc reuse the memory of freed tensors below 1 GiB; True where it could be told.

    By default it hands blocks of that size back to the system at once, and every activation of every batch is then paged
    in anew: with 600 images of 224 px that cost half the time of a probe (docs/log.md). Up to 1 GiB stays with the process.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return mallopt is not None and all(mallopt(word, _LARGE) for word in (_MMAP_THRESHOLD, _TRIM_THRESHOLD))


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
