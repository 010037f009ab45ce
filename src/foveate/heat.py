"""Where a network looked, as pictures: bright where it mattered, dim elsewhere. Letters: H, W of the picture, h, w of a map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from foveate.drawing import tiled
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
    pictures = [small, *(spotlight(small, seen) for seen in maps[:most])]
    return tiled(pictures, ["", *words[: len(pictures) - 1]], _ACROSS)
