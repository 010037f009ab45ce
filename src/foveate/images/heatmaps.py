"""Where a network looked, as pictures: bright where it mattered, dim elsewhere. Letters: H, W of the picture, h, w of a map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from foveate.images.codec import thumbnail
from foveate.images.sheets import image_grid

_HEAT = 0.6  # how much of a picture under heat is heat
_SCALE = (
    (30, 20, 80),
    (110, 30, 110),
    (190, 55, 85),
    (240, 120, 40),
    (250, 225, 90),
)  # from dark to bright
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


def heat_overlay(pixels: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 and (H, W) of any scale, at least 0 -> the picture, greyed, under colours, dark for
    little and bright for much."""
    share = np.asarray(seen, dtype=np.float32) / max(float(seen.max()), 1e-12)
    grey = np.repeat(pixels.mean(-1, keepdims=True), 3, -1)
    heat = _coloured(share.clip(0, 1))
    return np.asarray((1 - _HEAT) * grey + _HEAT * heat).round().astype(np.uint8)


def _coloured(share: np.ndarray) -> np.ndarray:
    """(H, W) in [0, 1] -> (H, W, 3), along a scale that stays in order when it is printed in grey."""
    stops = np.linspace(0, 1, len(_SCALE))
    return np.stack(
        [np.interp(share, stops, [colour[channel] for colour in _SCALE]) for channel in range(3)],
        -1,
    )


def attention_sheet(
    pixels: np.ndarray, maps: np.ndarray, words: Sequence[str], side: int, most: int
) -> np.ndarray:
    """The picture, and then for each of the first `most` words where it was looked for: `maps` (T, h, w). (H', W', 3) uint8 of
    pictures of at most `side` px, six in a row, each under its word."""
    small = thumbnail(pixels, side)
    pictures = [small, *(spotlight(small, seen) for seen in maps[:most])]
    return image_grid(pictures, ["", *words[: len(pictures) - 1]], _ACROSS)
