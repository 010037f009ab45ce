"""Heat maps and attention maps over images. Letters: H, W of the image, h, w of a map, T words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from foveate.images.codec import thumbnail
from foveate.images.sheets import image_grid

_HEAT_OPACITY = 0.6
_COLOR_SCALE = (  # from low to high; remains in order when it is printed in gray
    (30, 20, 80),
    (110, 30, 110),
    (190, 55, 85),
    (240, 120, 40),
    (250, 225, 90),
)
_MIN_BRIGHTNESS = 0.2  # of the image, where the attention is lowest
_COLUMNS = 6  # images in a row of a sheet


def spotlight(pixels: np.ndarray, attention: np.ndarray) -> np.ndarray:
    """Return the image as bright as the attention is high.

    Args:
        pixels: (H, W, 3) uint8.
        attention: (h, w) of any scale; its minimum is dim, its maximum as bright as the image.
    """
    low, high = float(attention.min()), float(attention.max())
    scaled = (attention.astype(np.float32) - low) / max(high - low, 1e-9)
    size = (pixels.shape[1], pixels.shape[0])
    light = np.asarray(Image.fromarray(scaled).resize(size, Image.Resampling.BICUBIC)).clip(0, 1)
    brightness = _MIN_BRIGHTNESS + (1 - _MIN_BRIGHTNESS) * light[..., None]
    return np.asarray(pixels * brightness).round().astype(np.uint8)


def heat_overlay(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Return the image in gray under colors, dark for low and bright for high.

    Args:
        pixels: (H, W, 3) uint8.
        heat: (H, W), at least 0, of any scale.
    """
    scaled = np.asarray(heat, dtype=np.float32) / max(float(heat.max()), 1e-12)
    gray = np.repeat(pixels.mean(-1, keepdims=True), 3, -1)
    colors = _heat_colors(scaled.clip(0, 1))
    blended = np.asarray((1 - _HEAT_OPACITY) * gray + _HEAT_OPACITY * colors)
    return blended.round().astype(np.uint8)


def _heat_colors(values: np.ndarray) -> np.ndarray:
    """(H, W) in [0, 1] -> (H, W, 3)."""
    stops = np.linspace(0, 1, len(_COLOR_SCALE))
    channels = zip(*_COLOR_SCALE, strict=True)
    return np.stack([np.interp(values, stops, channel) for channel in channels], -1)


def attention_sheet(
    pixels: np.ndarray, maps: np.ndarray, words: Sequence[str], side: int, max_words: int
) -> np.ndarray:
    """Return the image, and then for each word where the network looked before it wrote it.

    Args:
        pixels: (H, W, 3) uint8.
        maps: (T, h, w) attention.
        words: T words, which become titles.
        side: Longest side of each image, px.
        max_words: Words to show at most.
    """
    small = thumbnail(pixels, side)
    images = [small, *(spotlight(small, attention) for attention in maps[:max_words])]
    return image_grid(images, ["", *words[: len(images) - 1]], _COLUMNS)
