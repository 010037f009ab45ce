"""A part of a picture painted anew: the square round it goes to the painter, and what comes back replaces the part alone.

Letters: H, W of the picture, S the painter's side, px.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foveate.errors import DataError
from foveate.images.codec import resize

_ROUND = 1.5  # sides of the square, in sides of what is to be painted: the painter sees what is beside it


@dataclass(frozen=True)
class Hole:
    """`pixels`: (S, S, 3) uint8, the square as the painter sees it; `open`: (S, S) bool, where to paint. `place`: left and upper
    edge of the square in the picture, and its side, px; it may reach beyond the picture, whose edge is repeated there."""

    pixels: np.ndarray
    open: np.ndarray
    place: tuple[int, int, int]


def hole(pixels: np.ndarray, mask: np.ndarray, side: int) -> Hole:
    """The square round the white part of `mask` (H, W) bool. Raises DataError for a mask of another size than the picture, and for
    one that is empty."""
    if mask.shape != pixels.shape[:2]:
        sizes = " by ".join(map(str, mask.shape[::-1])), " by ".join(map(str, pixels.shape[1::-1]))
        hint = "a mask of the picture's size, white where to paint"
        raise DataError(f"the mask has {sizes[0]} px, the picture {sizes[1]}", hint=hint)
    if not mask.any():
        raise DataError(
            "the mask is black: there is nothing to paint", hint="white is where to paint"
        )
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    length = max(side, round(_ROUND * max(np.ptp(rows), np.ptp(columns)) + 1))
    length = max(min(length, min(mask.shape)), np.ptp(rows) + 1, np.ptp(columns) + 1)
    x, y = (
        _start(places, length, whole)
        for places, whole in ((columns, mask.shape[1]), (rows, mask.shape[0]))
    )
    shown, wanted = (_cut(values, x, y, length) for values in (pixels, mask))
    small = resize(wanted.astype(np.uint8) * 255, (side, side)) > 0
    return Hole(resize(shown, (side, side)), small, (x, y, length))


def _start(places: np.ndarray, length: int, whole: int) -> int:
    """Where a square of this length round these places begins: inside the picture where it can be."""
    middle = (int(places[0]) + int(places[-1]) + 1 - length) // 2
    return min(max(0, middle), max(0, whole - length))


def _cut(values: np.ndarray, x: int, y: int, length: int) -> np.ndarray:
    """The square, with the edge repeated where it reaches beyond."""
    height, width = values.shape[:2]
    beyond = [(0, max(0, y + length - height)), (0, max(0, x + length - width))]
    padded = np.pad(values, [*beyond, *[(0, 0)] * (values.ndim - 2)], mode="edge")
    return padded[y : y + length, x : x + length]


def filled(pixels: np.ndarray, mask: np.ndarray, hole: Hole, painted: np.ndarray) -> np.ndarray:
    """The picture with the `painted` square (S, S, 3) uint8 in it where the mask is white; every other pixel is as it was."""
    x, y, length = hole.place
    whole = resize(painted, (length, length))
    found, inside = pixels.copy(), _cut(mask, x, y, length)
    height, width = (
        min(length, limit - start) for limit, start in zip(mask.shape, (y, x), strict=True)
    )
    part = found[y : y + height, x : x + width]
    part[inside[:height, :width]] = whole[:height, :width][inside[:height, :width]]
    return found
