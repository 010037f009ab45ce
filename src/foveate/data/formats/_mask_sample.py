"""What a sample of masks holds, and what is said about values that are no classes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from foveate.data.formats._class_lists import ClassList
from foveate.data.formats._mask_files import is_lossy, read_layers_of, read_values
from foveate.data.formats._mask_levels import Levels, find_levels
from foveate.data.formats._mask_values import MAX_SAMPLE, pack, read_pixels
from foveate.errors import BrokenImage, DataError
from foveate.images.codec import read_image
from foveate.messages import counted, percent
from foveate.types import Issue, remark
from foveate.utils.paths import printable

MAX_VALUES = 64  # more different values than these are not classes
BORDER = 255  # Pascal VOC's value for the borders of objects, which is ignored
ENDS = 32  # gray levels by which JPEG changes black and white
_SAMPLE_OF_LEVELS = 12  # masks that are looked at pixel by pixel
_MAX_COUNTED = 200_000  # different colors


@dataclass
class Statistics:
    """What a sample of the masks holds.

    Attributes:
        total: Number of all masks.
        paths: The masks in the sample that can be read.
        values: Number of pixels of each value.
        colors: Number of pixels of each packed color.
        first: The first file with a value or color.
        colored: The first mask that is not a grayscale or palette image.
        layers: Number of layers -> the first mask that has so many; of masks with several.
        uncovered: Whether a pixel of such a mask is in no layer.
        overlap: Share of the pixels of such masks that are in several layers.
        lossy: Whether all masks are JPEGs.
    """

    total: int
    paths: list[Path] = field(default_factory=list)
    values: Counter[int] = field(default_factory=Counter)
    colors: Counter[int] = field(default_factory=Counter)
    first: dict[tuple[str, int], Path] = field(default_factory=dict)
    colored: Path | None = None
    layers: dict[int, Path] = field(default_factory=dict)
    uncovered: bool = False
    overlap: float = 0.0
    lossy: bool = True

    @property
    def sample(self) -> str:
        """How large the sample is, for messages."""
        return f"{len(self.paths)} of {counted(self.total, 'mask', 'masks')}"

    def add(self, path: Path, with_colors: bool) -> None:
        """Count a mask. Raises BrokenImage."""
        layers = read_layers_of(path)
        if layers is not None:
            self.layers.setdefault(len(layers), path)
            covered = layers.sum(axis=0)
            self.uncovered = self.uncovered or bool((covered == 0).any())
            self.overlap = max(self.overlap, float((covered > 1).mean()))
        else:
            values = read_values(path)
            if values is None or with_colors:
                self._count("colors", self.colors, pack(read_image(path)[0]), path)
            if values is None:
                self.colored = self.colored or path
            else:
                self._count("values", self.values, values, path)
        self.lossy = self.lossy and is_lossy(path)
        self.paths.append(path)

    def _count(self, kind: str, counts: Counter[int], mask: np.ndarray, path: Path) -> None:
        values, pixels = np.unique(mask, return_counts=True)
        if len(counts) > _MAX_COUNTED:
            return
        for value, count in zip(values.tolist(), pixels.tolist(), strict=True):
            counts[value] += count
            self.first.setdefault((kind, value), path)

    def fits_colors(self, known: ClassList) -> bool:
        """Whether to read the masks by color: colors fit the list, or values do not."""
        return (
            (set(self.colors) <= set(known.colors) and len(self.colors) > 1)
            or self.colored is not None
            or not set(self.values) <= {*known.names, *known.ignored, BORDER}
        )

    def find_levels(self, channels: int, known: tuple[tuple[int, ...], ...] = ()) -> Levels | str:
        """Return the levels of masks that may be smeared, or what speaks against it."""
        step = -(-len(self.paths) // _SAMPLE_OF_LEVELS)
        pixels = [read_pixels(path, channels) for path in self.paths[::step]]
        return find_levels(pixels, self.lossy, known)


def read_sample(masks: list[Path], with_colors: bool) -> Statistics:
    """Read a sample of masks.

    Args:
        masks: All masks.
        with_colors: Whether to count the colors of masks that have values.

    Raises:
        DataError: None of them can be read.
    """
    statistics, problem = Statistics(len(masks)), ""
    positions = np.linspace(0, len(masks) - 1, min(len(masks), MAX_SAMPLE))
    indices = sorted({round(position) for position in positions})
    for index in indices:
        try:
            statistics.add(masks[index], with_colors)
        except BrokenImage as error:  # skipped, and counted, when it is needed
            problem = problem or str(error)
    if not statistics.paths:
        raise DataError("none of the masks can be read", why=problem, id="no_readable_mask")
    return statistics


def not_class_masks(where: Path | None, why: str) -> DataError:
    """Return the error on images that are no masks."""
    return DataError(
        "the masks do not look like class masks",
        where=printable(where or ""),
        why=why,
        hint="a mask must hold the index of a class in each pixel; save it as PNG",
        id="not_class_masks",
    )


def smeared_by_jpeg(statistics: Statistics, why: str) -> DataError:
    """Return the error on JPEGs whose classes cannot be told apart."""
    return DataError(
        "the masks are JPEGs, and their classes cannot be told apart",
        where=printable(statistics.paths[0]),
        why=f"{why} ({statistics.sample})",
        hint="save them as PNG, at best from the tool that made them: JPEG changes values",
        id="masks_smeared_by_jpeg",
    )


def smeared_note(statistics: Statistics, levels: Levels, named: str) -> Issue:
    """Return a note on pixels that lie between the levels, which are `named`."""
    values: dict[str, Any] = {
        "share": percent(levels.between, 2),
        "sample": statistics.sample,
        "levels": named,
    }
    if levels.lossy:
        text = (
            "the masks are JPEGs, which smear values: {share} of the pixels in {sample} lie between"
            " {levels}, and are read as the nearest"
        )
        return remark("masks_jpeg", text, **values)
    text = (
        "the edges in the masks are smoothed: {share} of the pixels in {sample} lie between"
        " {levels}, and are read as the nearest"
    )
    return remark("masks_anti_aliased", text, **values)
