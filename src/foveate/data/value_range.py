"""The range of the stored values of images of more than 8 bits, measured over a data set.

Images that are each stretched by themselves lose what distinguishes a dark one from a bright one.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from foveate.data.stored_images import SliceOfFile, SlideTile
from foveate.errors import BrokenImage
from foveate.images.codec import read_stored_values
from foveate.images.depth import has_deep_values
from foveate.images.pixels import Rendering
from foveate.types import Sample

_LOOKED_AT, _MEASURED = 16, 100  # images: whether any is deep, and of which values are read
_MAX_VALUES = 10_000  # of an image
_PERCENTILES = (0.1, 99.9)
_DEPTHS = (10, 12, 14)  # bits that cameras and scanners store in 16


def measure_value_range(
    samples: Sequence[Sample], rendering: Rendering
) -> tuple[float, float] | None:
    """Return the values that are to become black and white.

    Args:
        samples: The images; some of them are read.
        rendering: States which bands count.

    Returns:
        For fractions and for integers beyond 16 bits 0 to 1, 0 to 255, or percentiles; for 16 bits
        of which fewer are used 0 to the highest value of these; None for other images, and where
        deep images of several kinds are mixed.
    """
    if not holds_deep_images(samples):
        return None
    parts, kinds = list[np.ndarray](), set[str]()
    for sample in spread_samples(samples, _MEASURED):
        with suppress(BrokenImage):
            values = read_stored_values(sample.source, rendering)
            if values.dtype.itemsize > 1:
                kinds.add("16 bits" if values.dtype == np.uint16 else values.dtype.kind)
                step = max(1, values.size // _MAX_VALUES)
                parts.append(values.ravel()[::step].astype(np.float64))
    pooled = np.concatenate(parts) if parts else np.zeros(0)
    pooled = pooled[np.isfinite(pooled)]
    if not pooled.size or len(kinds) > 1:
        return None  # fractions and integers in one data set have no common scale
    return _range_of_16_bits(pooled) if kinds == {"16 bits"} else _range_of_others(pooled)


def holds_deep_images(samples: Sequence[Sample]) -> bool:
    """Whether some of the images, of which a few are looked at, have more than 8 bits."""
    return any(is_deep(sample) for sample in spread_samples(samples, _LOOKED_AT))


def is_deep(sample: Sample) -> bool:
    """Whether an image has more than 8 bits, and keeps them when it is decoded."""
    if isinstance(sample.path, SliceOfFile | SlideTile):  # of 8 bits, and slow to read
        return False
    with suppress(BrokenImage):
        return has_deep_values(sample.source)
    return False


def _range_of_16_bits(values: np.ndarray) -> tuple[float, float] | None:
    highest = float(values.max())
    for bits in _DEPTHS:
        if 255 < highest < 2**bits:
            return 0.0, float(2**bits - 1)
    return None


def _range_of_others(values: np.ndarray) -> tuple[float, float] | None:
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 255:
        return (0.0, 1.0) if high <= 1 else (0.0, 255.0)
    low, high = (float(value) for value in np.percentile(values, _PERCENTILES))
    return (low, high) if high > low else None


def spread_samples(samples: Sequence[Sample], count: int) -> Sequence[Sample]:
    """Return at most `count` of the samples, evenly spread."""
    return samples[:: max(1, len(samples) // count)][:count]
