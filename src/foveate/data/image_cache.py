"""A cache of decoded images: in memory up to a share of it, then in an unnamed file on disk.

What fits into neither is decoded again each time.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import get_worker_info

from foveate.images.codec import read_image
from foveate.images.pixels import AS_STORED, Rendering
from foveate.images.preprocessing import Framing, decoded_short_side
from foveate.recipe import DataRecipe
from foveate.types import StoredImage, content_of
from foveate.utils import memory
from foveate.utils.cache import cache_folder

MEMORY_SHARE = 0.25  # of the memory that this process may use: the most that decoded pixels take
_DISK_SHARE = 0.5  # of the free disk space when the first image is written: the most that is used

Decoded = tuple[np.ndarray, tuple[int, int]]
"""(h, w, C) uint8, or uint16 where 16 bits are kept; and (H, W) of the upright original."""


def rendering_of(recipe: DataRecipe) -> Rendering:
    """Return how images become the channels of a network according to a recipe."""
    return Rendering(tuple(recipe.bands), recipe.value_range, recipe.bits)


class ImageCache:
    """Decodes images, always in the same way, and keeps the pixels while there is space.

    Images are reduced as the framing allows: "crop" brings the short side to the size of the
    network, "whole" reduces a long side of more than twice that size to it, "windows" keeps images
    whole.

    Args:
        size: Side of the network's input, px.
        framing: How an image is fitted to that square.
        keep: Whether to keep decoded images at all.
        rendering: How bands and values beyond 8 bits become channels.
    """

    def __init__(
        self, size: int, framing: Framing, keep: bool, rendering: Rendering = AS_STORED
    ) -> None:
        self.short_side, self.rendering = decoded_short_side(size, framing), rendering
        self.free_bytes = int(MEMORY_SHARE * memory.total_memory()) if keep else 0
        self.overflow = Overflow() if keep else None
        self._kept: dict[Path | StoredImage, Decoded] = {}

    def read(self, path: Path | StoredImage) -> Decoded:
        """Return the pixels, and the (H, W) of the upright original, as `Decoded`.

        Raises:
            BrokenImage: The image cannot be decoded.
        """
        if isinstance(path, StoredImage) and (decoded := path.decoded()) is not None:
            return decoded
        image = self._kept.get(path) or (self.overflow and self.overflow.get(path))
        if not image:
            image = read_image(content_of(path), self.short_side, self.rendering)
            self._keep(path, image)
        return image

    def _keep(self, path: Path | StoredImage, image: Decoded) -> None:
        if get_worker_info() is not None:  # the memory of a worker ends with the epoch
            return
        if image[0].nbytes <= self.free_bytes:
            self.free_bytes -= image[0].nbytes
            self._kept[path] = image
        elif self.overflow is not None:
            # from here on everything goes to the file: small images do not squeeze in one by one
            self.free_bytes = 0
            self.overflow.put(path, image)


class Overflow:
    """Decoded images, one after the other, in an unnamed file of the cache folder.

    The file vanishes with the process. Once the folder cannot be written to, or half of the free
    disk space is used, further images are not kept.
    """

    def __init__(self) -> None:
        # offset in the file; shape and type of the pixels; (H, W) of the original
        self._entries: dict[
            Path | StoredImage, tuple[int, tuple[int, ...], np.dtype[Any], tuple[int, int]]
        ] = {}
        self._lock = threading.Lock()  # a scan writes from several threads
        self._file: int | None = None  # its descriptor
        self._end = self._left = 0
        # without pread, reads in forked workers would move the file position that they share
        self._usable = hasattr(os, "pread")

    def put(self, path: Path | StoredImage, image: Decoded) -> None:
        """Append an image, if there is space for it."""
        pixels, size = np.ascontiguousarray(image[0]), image[1]
        with self._lock:
            try:
                file = self._open()
                if file is None or pixels.nbytes > self._left:
                    return
                if os.pwrite(file, pixels.data, self._end) < pixels.nbytes:
                    return
            except OSError:  # a full disk costs time, not the result
                self._usable = False
                return
            self._entries[path] = self._end, pixels.shape, pixels.dtype, size
            self._end, self._left = self._end + pixels.nbytes, self._left - pixels.nbytes

    def get(self, path: Path | StoredImage) -> Decoded | None:
        """Return an image that was kept; None otherwise."""
        entry = self._entries.get(path)
        if entry is None or self._file is None:
            return None
        offset, shape, dtype, size = entry
        content = os.pread(self._file, int(np.prod(shape)) * dtype.itemsize, offset)
        return np.frombuffer(bytearray(content), dtype).reshape(shape), size

    def _open(self) -> int | None:
        """Return the descriptor of the file, created on first use; None if unusable."""
        if self._usable and self._file is None:
            folder = cache_folder()
            folder.mkdir(parents=True, exist_ok=True)
            self._left = int(_DISK_SHARE * shutil.disk_usage(folder).free)
            self._file, name = tempfile.mkstemp(dir=folder)
            weakref.finalize(self, os.close, self._file)
            Path(name).unlink()
        return self._file if self._usable else None
