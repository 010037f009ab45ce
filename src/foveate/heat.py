"""Where a network looked, as pictures: bright where it mattered, dim elsewhere. Letters: H, W of the picture, h, w of a map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from foveate.drawing import titled
from foveate.images import thumbnail

_DIM = 0.2  # of the brightness, where nothing was looked at
_ACROSS = 6  # pictures in a row of a sheet


def spotlight(pixels: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 and (h, w) of any scale -> (H, W, 3) uint8: as bright as the map is high, its least value dim, its greatest
    as the picture is."""
    low, high = float(seen.min()), float(seen.max())
    scaled = (seen.astype(np.float32) - low) / max(high - low, 1e-9)
    shape = (pixels.shape[1], pixels.shape[0])
    light = np.asarray(Image.fromarray(scaled).resize(shape, Image.Resampling.BICUBIC)).clip(0, 1)
    return np.asarray(pixels * (_DIM + (1 - _DIM) * light[..., None])).round().astype(np.uint8)


def sheet(pixels: np.ndarray, maps: np.ndarray, words: Sequence[str], side: int, most: int) -> np.ndarray:
    """The picture, and then for each of the first `most` words where it was looked for: `maps` (T, h, w). (H', W', 3) uint8 of
    pictures of at most `side` px, six in a row, each under its word."""
    small = thumbnail(pixels, side)
    pictures = [titled(small, "")] + [titled(spotlight(small, seen), word) for seen, word in zip(maps[:most], words, strict=False)]
    height, width = pictures[0].shape[:2]
    rows = -(-len(pictures) // _ACROSS)
    canvas = np.full((rows * height, min(len(pictures), _ACROSS) * width, 3), 255, np.uint8)
    for place, picture in enumerate(pictures):
        y, x = place // _ACROSS * height, place % _ACROSS * width
        canvas[y : y + height, x : x + width] = picture
    return canvas
