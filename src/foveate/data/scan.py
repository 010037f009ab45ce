"""Opening every image once: which can be read, and what duplicates are recognized by."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from foveate.data.duplicates import THUMBNAIL_SIZE, gray_thumbnail, tint
from foveate.data.image_cache import ImageCache, rendering_of
from foveate.data.issues import quoted
from foveate.data.tables import label_names
from foveate.errors import BrokenImage, DataError
from foveate.images.codec import content_hash
from foveate.images.jpeg import ends_early
from foveate.images.pixels import as_rgb
from foveate.images.preprocessing import Framing
from foveate.messages import counted
from foveate.recipe import DataRecipe
from foveate.types import Sample, StoredImage, Table
from foveate.utils import log

_MAX_THREADS = 8
_CHUNK = 1000  # images that are handed to the threads at once

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What copies of an image are recognized by.

    Attributes:
        digest: SHA-256 of the file.
        thumbnail: (64, 64) uint8 grayscale.
        tint: (2, 64) int8, its colors, as in `duplicates.tint`.
    """

    digest: str
    thumbnail: np.ndarray
    tint: np.ndarray

    @classmethod
    def of(cls, source: Path | bytes, pixels: np.ndarray) -> Fingerprint:
        """Return the fingerprint of a file, or its content, and its decoded pixels.

        Raises:
            BrokenImage: The file cannot be read.
        """
        colors = as_rgb(pixels)
        return cls(content_hash(source), gray_thumbnail(colors), tint(colors))


def scan_images(
    samples: Sequence[Sample],
    inspect: Callable[[Sample], T],
    strict: bool = False,
    advance: Callable[[], None] = lambda: None,
) -> Iterator[T | BrokenImage]:
    """Inspect every image, in several threads; yield the results in the order of the samples.

    Args:
        samples: The images.
        inspect: What to do with each; may raise BrokenImage.
        strict: Whether to raise the first BrokenImage, instead of yielding it.
        advance: Called after each image.

    Raises:
        BrokenImage: An image cannot be read, and `strict`.
    """

    def attempt(sample: Sample) -> T | BrokenImage:
        try:
            return inspect(sample)
        except BrokenImage as error:
            if strict:
                raise
            return error

    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as pool:
        for start in range(0, len(samples), _CHUNK):
            for result in pool.map(attempt, samples[start : start + _CHUNK]):
                yield result
                advance()


@dataclass(frozen=True)
class ScannedTable:
    """The readable images of a table.

    Attributes:
        table: Their samples.
        hashes: SHA-256 of each file.
        thumbnails: (N, 64, 64) uint8 grayscale.
        pixels: The cache that they were decoded into.
        skipped: Key of each unreadable image, and why.
        tints: (N, 2, 64) int8, their colors, if known.
    """

    table: Table
    hashes: tuple[str, ...]
    thumbnails: np.ndarray
    cache: ImageCache
    skipped: tuple[tuple[str, str], ...]
    tints: np.ndarray | None = None

    def subset(self, indices: Sequence[int], table: Table) -> ScannedTable:
        """Return some of the images; `table` has their samples."""
        return replace(
            self,
            table=table,
            hashes=tuple(self.hashes[index] for index in indices),
            thumbnails=self.thumbnails[list(indices)],
            tints=None if self.tints is None else self.tints[list(indices)],
        )


def scan(
    table: Table,
    size: int,
    framing: Framing,
    recipe: DataRecipe,
    advance: Callable[[], None] = lambda: None,
) -> ScannedTable:
    """Open every image of a table once, and keep the pixels.

    Args:
        table: The dataset.
        size: Side of the network's input, px.
        framing: How an image is fitted to that square.
        recipe: Whether a broken image is an error (`strict`), and whether pixels are cached.
        advance: Called after each image.

    Raises:
        BrokenImage: An image cannot be read, and the recipe is strict.
        DataError: No image can be read, or none of a class.
    """
    cache = ImageCache(size, framing, recipe.cache_images, rendering_of(recipe))
    cut_off = list[str]()

    def inspect(sample: Sample) -> Fingerprint:
        pixels, _ = cache.read(sample.path)
        source = sample.source
        cut_off.extend([sample.key] if ends_early(source) else [])
        return Fingerprint.of(source, pixels)

    results = list(scan_images(table.samples, inspect, recipe.strict, advance))
    pairs = list(zip(table.samples, results, strict=True))
    whole = [(each, result) for each, result in pairs if not isinstance(result, BrokenImage)]
    broken = [(each, result) for each, result in pairs if isinstance(result, BrokenImage)]
    if cut_off:
        files = counted(len(cut_off), "image file ends early", "image files end early")
        log.warning(f"{files}, and the lowest rows are missing: {quoted(sorted(cut_off))}")
    _require_every_class(table, [sample for sample, _ in whole], [error for _, error in broken])
    return ScannedTable(
        table=table.with_samples(tuple(sample for sample, _ in whole)),
        hashes=tuple(fingerprint.digest for _, fingerprint in whole),
        thumbnails=np.stack([fingerprint.thumbnail for _, fingerprint in whole]),
        tints=np.stack([fingerprint.tint for _, fingerprint in whole]),
        cache=cache,
        skipped=tuple((sample.key, error.why or error.what) for sample, error in broken),
    )


def without_images(table: Table) -> ScannedTable:
    """Return a table of class names without images as `scan` would."""
    cache = ImageCache(1, "whole", keep=False)
    return ScannedTable(
        table, (), np.empty((0, THUMBNAIL_SIZE, THUMBNAIL_SIZE), np.uint8), cache, ()
    )


def _require_every_class(table: Table, readable: list[Sample], errors: list[BrokenImage]) -> None:
    before, after = (
        {name for sample in samples for name in label_names(sample)}
        for samples in (table.samples, readable)
    )
    lost = sorted(before - after)
    if lost or not readable:
        raise DataError(
            f"no image of the class {lost[0]!r} can be read"
            if readable
            else "none of the images can be read",
            where=table.root,
            why=f"of the first one: {errors[0].brief}" if errors else None,
            hint=(errors[0].hint if errors and not readable else None)
            or "run foveate check on the data to see why",
        )


def find_unreadable(
    samples: Sequence[Sample], cache: ImageCache, strict: bool = False
) -> dict[Path | StoredImage, BrokenImage]:
    """Return the images that cannot be read, and why.

    Raises:
        BrokenImage: An image cannot be read, and `strict`.
    """
    errors = {}
    for sample in samples:
        try:
            cache.read(sample.path)
        except BrokenImage as error:
            if strict:
                raise
            errors[sample.path] = error
    return errors


def drop_unreadable(
    samples: Sequence[Sample], cache: ImageCache, strict: bool = False
) -> list[Sample]:
    """Return the samples whose images can be read; warn of the others.

    Raises:
        BrokenImage: An image cannot be read, and `strict`.
    """
    errors = find_unreadable(samples, cache, strict)
    for sample in samples:
        if sample.path in errors:
            error = errors[sample.path]
            log.warning(f"skipped {sample.key}: {error.why or error.what}")
    return [sample for sample in samples if sample.path not in errors]
