"""Decoded pictures, kept: in memory while they fit into a share of it, then in a file without a name, and decoded again beyond."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import weakref
from pathlib import Path
from typing import Protocol

import numpy as np
from torch.utils.data import get_worker_info

from foveate.images import codec as images
from foveate.images.preprocessing import Framing, resized_sides
from foveate.utils import memory
from foveate.utils.files import cache_folder

MEMORY_SHARE = 0.25  # of the memory that this process may have: what decoded pixels may take of it
_DISK_SHARE = 0.5  # of what was free on the disk when the first picture was put there

Decoded = tuple[np.ndarray, tuple[int, int]]  # (h, w, 3) uint8, and (H, W) of the upright original


class StoredImage(Protocol):
    """A picture that is no file of its own."""

    def content(self) -> Path | bytes:
        """What the decoder reads."""


def source_of(place: Path | StoredImage) -> Path | bytes:
    """What the decoder reads."""
    return place if isinstance(place, Path) else place.content()


class ImageCache:
    """Decoded pictures, kept while there is room; a picture is always decoded the same way.

    `size`: side of the network's square, px. Where it shows the central square, the short side is brought to it; where it
    shows the whole, pictures of more than twice its side are reduced to that; where it looks through windows, they stay.
    """

    def __init__(self, size: int, framing: Framing, keep: bool) -> None:
        self.sides = resized_sides(size, framing)
        self.room = int(MEMORY_SHARE * memory.total()) if keep else 0
        self.overflow = Overflow() if keep else None
        self._kept: dict[Path | StoredImage, Decoded] = {}

    def read(self, place: Path | StoredImage) -> Decoded:
        """(h, w, 3) uint8, and (H, W) of the upright original; raises BrokenImage."""
        found = self._kept.get(place) or (self.overflow and self.overflow.get(place))
        if not found:
            found = images.read_image(source_of(place), *self.sides)
            self._keep(place, found)
        return found

    def _keep(self, place: Path | StoredImage, found: Decoded) -> None:
        if get_worker_info() is not None:  # a loader process forgets at the end of the epoch
            return
        if found[0].nbytes <= self.room:
            self.room -= found[0].nbytes
            self._kept[place] = found
        elif self.overflow is not None:
            self.room = 0  # from here on everything goes to the file: small pictures do not squeeze in one by one
            self.overflow.put(place, found)


class Overflow:
    """Decoded pictures one after the other in a file of the cache folder that has no name and is gone with the process. Where
    nothing can be written there any more, or half of the disk's room is taken, further pictures are not kept."""

    def __init__(self) -> None:
        self._places: dict[Path | StoredImage, tuple[int, tuple[int, ...], tuple[int, int]]] = {}
        self._lock = threading.Lock()  # a scan puts from several threads
        self._file: int | None = None  # its descriptor
        self._end = self._left = 0
        self._open = hasattr(
            os, "pread"
        )  # reads from processes that were forked off would move a shared position otherwise

    def put(self, place: Path | StoredImage, found: Decoded) -> None:
        pixels, size = np.ascontiguousarray(found[0]), found[1]
        with self._lock:
            try:
                file = self._begun()
                if (
                    file is None
                    or pixels.nbytes > self._left
                    or os.pwrite(file, pixels.data, self._end) < pixels.nbytes
                ):
                    return
            except OSError:  # a full disk costs time, not the result
                self._open = False
                return
            self._places[place] = self._end, pixels.shape, size
            self._end, self._left = self._end + pixels.nbytes, self._left - pixels.nbytes

    def get(self, place: Path | StoredImage) -> Decoded | None:
        found = self._places.get(place)
        if found is None or self._file is None:
            return None
        start, shape, size = found
        content = os.pread(self._file, int(np.prod(shape)), start)
        return np.frombuffer(bytearray(content), np.uint8).reshape(shape), size

    def _begun(self) -> int | None:
        """The file; None where there shall be none."""
        if self._open and self._file is None:
            folder = cache_folder()
            folder.mkdir(parents=True, exist_ok=True)
            self._left = int(_DISK_SHARE * shutil.disk_usage(folder).free)
            self._file, name = tempfile.mkstemp(dir=folder)
            weakref.finalize(self, os.close, self._file)
            Path(name).unlink()
        return self._file if self._open else None
