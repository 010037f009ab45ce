"""Micro-batches that fit into memory: halved when it is exhausted, and smaller from then on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from foveate.data.loading import even_slices
from foveate.messages import counted
from foveate.types import Batch
from foveate.utils import log
from foveate.utils.memory import is_out_of_memory, release_memory

T = TypeVar("T")


class MicroBatcher:
    """Divides batches into parts that fit into memory.

    Args:
        max_images: Images at once; None = the whole batch.
        on_shrink: Called with each new maximum, and with the number of images that was too large;
            logs a warning by default.
    """

    def __init__(
        self, max_images: int | None = None, on_shrink: Callable[[int, int], None] | None = None
    ) -> None:
        self.max_images, self.on_shrink = max_images, on_shrink or _warn

    def slices(self, count: int) -> list[slice]:
        """Divide `count` images into parts of about the same size."""
        return even_slices(count, self.max_images or max(1, count))

    def halve(self, error: Exception, count: int) -> None:
        """Halve the maximum after `count` images did not fit into memory.

        Raises:
            Exception: `error` itself, if it has another cause, or if one image is too large.
        """
        if count < 2 or not is_out_of_memory(error):
            raise error
        self.max_images = count // 2
        self.on_shrink(self.max_images, count)
        release_memory()

    def map(self, batch: Batch, function: Callable[[Batch], T]) -> Iterator[tuple[Batch, T]]:
        """Yield the parts of a batch, each with what `function` returns for it."""
        start = 0
        while start < len(batch):
            size = self.slices(len(batch) - start)[0].stop
            part = batch.subset(slice(start, start + size))
            try:
                result = function(part)
            except Exception as error:
                self.halve(error, len(part))
                continue
            yield part, result
            start += len(part)


def _warn(size: int, previous: int) -> None:
    images = counted(previous, "image", "images")
    log.warning(f"out of memory with {images} at once; continuing with {size}")
