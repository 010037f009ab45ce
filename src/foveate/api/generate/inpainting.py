"""Inpainting: generate the square around a mask, and paste back only the masked pixels.

Letters: H, W of the image, S side of the generator's square, px.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foveate.errors import DataError
from foveate.images.codec import resize

# side of the square relative to the mask, so that the generator sees the surroundings
_CONTEXT = 1.5


@dataclass(frozen=True)
class InpaintingRegion:
    """The square that is generated.

    Attributes:
        pixels: (S, S, 3) uint8, input of the generator.
        mask: (S, S) bool, pixels to replace.
        box: Left, top and side of the square in the image, px; beyond the image its edge is
            repeated.
    """

    pixels: np.ndarray
    mask: np.ndarray
    box: tuple[int, int, int]


def find_region(pixels: np.ndarray, mask: np.ndarray, side: int) -> InpaintingRegion:
    """Return the square around the true pixels of `mask` (H, W) bool.

    Raises:
        DataError: The mask is empty, or of another size than the image.
    """
    if mask.shape != pixels.shape[:2]:
        sizes = " by ".join(map(str, mask.shape[::-1])), " by ".join(map(str, pixels.shape[1::-1]))
        hint = "a mask of the size of the image, white where to generate"
        raise DataError(f"the mask has {sizes[0]} px, the image {sizes[1]}", hint=hint)
    if not mask.any():
        raise DataError(
            "the mask is all black: nothing to generate", hint="mark the region in white"
        )
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    length = max(side, round(_CONTEXT * max(np.ptp(rows), np.ptp(columns)) + 1))
    length = max(min(length, min(mask.shape)), np.ptp(rows) + 1, np.ptp(columns) + 1)
    x, y = (
        _start(indices, length, whole)
        for indices, whole in ((columns, mask.shape[1]), (rows, mask.shape[0]))
    )
    square, square_mask = (_crop_padded(values, x, y, length) for values in (pixels, mask))
    small_mask = resize(square_mask.astype(np.uint8) * 255, (side, side)) > 0
    return InpaintingRegion(resize(square, (side, side)), small_mask, (x, y, length))


def _start(indices: np.ndarray, length: int, whole: int) -> int:
    """Start of a square of this length around the indices, inside the image if possible."""
    middle = (int(indices[0]) + int(indices[-1]) + 1 - length) // 2
    return min(max(0, middle), max(0, whole - length))


def _crop_padded(values: np.ndarray, x: int, y: int, length: int) -> np.ndarray:
    """The square, with the edge of the image repeated beyond it."""
    height, width = values.shape[:2]
    beyond = [(0, max(0, y + length - height)), (0, max(0, x + length - width))]
    padded = np.pad(values, [*beyond, *[(0, 0)] * (values.ndim - 2)], mode="edge")
    return padded[y : y + length, x : x + length]


def paste_region(
    pixels: np.ndarray, mask: np.ndarray, region: InpaintingRegion, generated: np.ndarray
) -> np.ndarray:
    """Paste the generated square (S, S, 3) uint8 where the mask is true; other pixels are
    unchanged.
    """
    x, y, length = region.box
    square = resize(generated, (length, length))
    result, square_mask = pixels.copy(), _crop_padded(mask, x, y, length)
    height, width = (
        min(length, limit - start) for limit, start in zip(mask.shape, (y, x), strict=True)
    )
    inside = square_mask[:height, :width]
    result[y : y + height, x : x + width][inside] = square[:height, :width][inside]
    return result
