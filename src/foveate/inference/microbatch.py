"""Images in portions that fit into memory: halved when it is exhausted, and smaller from then on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from foveate.data.loading import even_slices
from foveate.types import Batch
from foveate.utils import log
from foveate.utils.memory import exhausted, release

T = TypeVar("T")


class MicroBatcher:
    """`most`: images at once; None = as many as come. `told`: is given each new number, and the one that was too large."""

    def __init__(
        self, most: int | None = None, told: Callable[[int, int], None] | None = None
    ) -> None:
        self.max_images, self.told = most, told or _said

    def of(self, count: int) -> list[slice]:
        """`count` images in portions of about one size."""
        return even_slices(count, self.max_images or max(1, count))

    def halve(self, error: Exception, count: int) -> None:
        """After a portion of `count` images took too much. Raises the error where that was not it, or one image is too much."""
        if count < 2 or not exhausted(error):
            raise error
        self.max_images = count // 2
        self.told(self.max_images, count)
        release()

    def each(self, batch: Batch, work: Callable[[Batch], T]) -> Iterator[tuple[Batch, T]]:
        """The portions of a batch, and what `work` made of each."""
        start = 0
        while start < len(batch):
            place = self.of(len(batch) - start)[0]
            part = batch.subset(slice(start, start + place.stop))
            try:
                found = work(part)
            except Exception as error:
                self.halve(error, len(part))
                continue
            yield part, found
            start += len(part)


def _said(now: int, before: int) -> None:
    log.warning(f"memory is exhausted by {before} images at once: going on with {now}")
