"""Silence for Pillow, whose warnings are about files that are read or refused anyway."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

_lock = threading.Lock()
_open_count = 0
_filters: warnings.catch_warnings[None] | None = None


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Silence Pillow's warnings, in any number of threads.

    warnings.catch_warnings changes the filters of the whole process (until Python 3.14): of two
    threads that overlap, the one that leaves last would restore the filters of the other one, and
    the warnings would stay silent. So the first thread that enters sets them, and the last one that
    leaves restores them.
    """
    global _open_count, _filters
    with _lock:
        _open_count += 1
        if _open_count == 1:
            _filters = warnings.catch_warnings()
            _filters.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    try:
        yield
    finally:
        with _lock:
            _open_count -= 1
            if _open_count == 0 and _filters is not None:
                _filters.__exit__(None, None, None)
                _filters = None
