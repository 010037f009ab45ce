"""TODO-DOC foveate.data.scan."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from foveate.data.duplicates import gray_thumbnail, tint
from foveate.data.image_cache import ImageCache
from foveate.data.tables import label_names
from foveate.errors import BrokenImage, DataError
from foveate.images import codec as images
from foveate.images.preprocessing import Framing
from foveate.recipe import DataRecipe
from foveate.types import Sample, Table
from foveate.utils import log


@dataclass(frozen=True)
class ScannedTable:
    """The pictures that can be read. `hashes`: SHA-256 of each file. `thumbs`: (N, 32, 32) uint8 grey. `skipped`: path and why.
    `tints`: (N, 2, 64) int8, their colours, where they are known."""

    table: Table
    hashes: tuple[str, ...]
    thumbnails: np.ndarray
    pixels: ImageCache
    skipped: tuple[tuple[str, str], ...]
    tints: np.ndarray | None = None

    def subset(self, places: Sequence[int], table: Table) -> ScannedTable:
        """The pictures at these places; `table` is theirs."""
        hashes, tints = (
            tuple(self.hashes[place] for place in places),
            None if self.tints is None else self.tints[list(places)],
        )
        return replace(
            self, table=table, hashes=hashes, thumbnails=self.thumbnails[list(places)], tints=tints
        )


def scan(
    table: Table,
    size: int,
    framing: Framing,
    recipe: DataRecipe,
    advance: Callable[[], None] = lambda: None,
) -> ScannedTable:
    """Opens every picture once. A broken one is left out and named, or raised when the recipe is strict.

    Raises DataError when nothing is left, or when a class has lost all its pictures.
    """
    pixels = ImageCache(size, framing, recipe.cache_images)

    def look(sample: Sample) -> tuple[str, np.ndarray, np.ndarray] | BrokenImage:
        try:
            seen, _ = pixels.read(sample.path)
            return images.content_hash(sample.path), gray_thumbnail(seen), tint(seen)
        except BrokenImage as error:
            if recipe.strict:
                raise
            return error

    seen: list[tuple[str, np.ndarray, np.ndarray] | BrokenImage] = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for found in pool.map(look, table.samples):
            seen.append(found)
            advance()
    whole = [
        (sample, found)
        for sample, found in zip(table.samples, seen, strict=True)
        if not isinstance(found, BrokenImage)
    ]
    broken = [
        (sample, found)
        for sample, found in zip(table.samples, seen, strict=True)
        if isinstance(found, BrokenImage)
    ]
    _refuse_lost_classes(table, [sample for sample, _ in whole])
    return ScannedTable(
        table=table.with_samples(tuple(sample for sample, _ in whole)),
        hashes=tuple(found[0] for _, found in whole),
        thumbnails=np.stack([found[1] for _, found in whole]),
        tints=np.stack([found[2] for _, found in whole]),
        pixels=pixels,
        skipped=tuple((sample.key, error.why or error.what) for sample, error in broken),
    )


def without_images(table: Table) -> ScannedTable:
    """A table of names alone, as `scan` would give it."""
    return ScannedTable(table, (), np.empty((0, 32, 32), np.uint8), ImageCache(1, "whole", keep=False), ())


def _refuse_lost_classes(table: Table, left: list[Sample]) -> None:
    before, after = (
        {name for sample in samples for name in label_names(sample)}
        for samples in (table.samples, left)
    )
    lost = sorted(before - after)
    if lost or not left:
        what = (
            f"no picture of the class {lost[0]!r} can be read" if left else "no picture can be read"
        )
        raise DataError(
            what, where=table.root, hint="look at the files: foveate needs pictures of every class"
        )


def unreadable(
    samples: Sequence[Sample], pixels: ImageCache, strict: bool = False
) -> dict[Path, BrokenImage]:
    """The paths of pictures that cannot be read, and why; the first one is raised when strict."""
    found = {}
    for sample in samples:
        try:
            pixels.read(sample.path)
        except BrokenImage as error:
            if strict:
                raise
            found[sample.path] = error
    return found


def readable(samples: Sequence[Sample], pixels: ImageCache, strict: bool = False) -> list[Sample]:
    """Those whose pictures can be read; the others are named, or raise when strict."""
    errors = unreadable(samples, pixels, strict)
    for sample in samples:
        if sample.path in errors:
            log.warning(
                f"skipped {sample.key}: {errors[sample.path].why or errors[sample.path].what}"
            )
    return [sample for sample in samples if sample.path not in errors]
