"""Contact sheets: several images in one, with titles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from foveate.images.drawing import font_size, line_width
from foveate.images.text import TEXT_COLOR, WHITE, fit_text, font_for

_MARGIN, _TITLE_HEIGHT, _TITLE_FONT_SIZE = 3, 20, 12  # px, of `with_title`


def side_by_side(left: np.ndarray, right: np.ndarray, titles: tuple[str, str]) -> np.ndarray:
    """Return two images side by side on white, each under its title; neither is scaled.

    Args:
        left: (H, W, 3) uint8.
        right: (H, W, 3) uint8, of any size.
        titles: May be empty.
    """
    size = (max(left.shape[1], right.shape[1]), max(left.shape[0], right.shape[0]))
    letters, gap = font_size(size), 2 * line_width(size)
    top = round(1.7 * letters) if any(titles) else 0
    canvas = Image.new("RGB", (left.shape[1] + gap + right.shape[1], top + size[1]), WHITE)
    for pixels, start, title in ((left, 0, titles[0]), (right, left.shape[1] + gap, titles[1])):
        canvas.paste(Image.fromarray(pixels), (start, top))
        text = fit_text(title, letters, pixels.shape[1])
        center = (start + pixels.shape[1] / 2, top / 2)
        draw = ImageDraw.Draw(canvas)
        draw.text(center, text, TEXT_COLOR, font_for(text, letters), anchor="mm")
    return np.array(canvas)


def with_title(pixels: np.ndarray, title: str) -> np.ndarray:
    """Return (H, W, 3) uint8 under a line with its title, on white, with a narrow margin."""
    size = (pixels.shape[1] + 2 * _MARGIN, pixels.shape[0] + _TITLE_HEIGHT + _MARGIN)
    canvas = Image.new("RGB", size, WHITE)
    canvas.paste(Image.fromarray(pixels), (_MARGIN, _TITLE_HEIGHT))
    text = fit_text(title, _TITLE_FONT_SIZE, pixels.shape[1])
    center, font = (canvas.width / 2, _TITLE_HEIGHT / 2), font_for(text, _TITLE_FONT_SIZE)
    ImageDraw.Draw(canvas).text(center, text, TEXT_COLOR, font, anchor="mm")
    return np.array(canvas)


def image_grid(images: Sequence[np.ndarray], titles: Sequence[str], columns: int = 8) -> np.ndarray:
    """Return images in rows, each under its title.

    Args:
        images: (H, W, 3) uint8 each, of one size.
        titles: One for each image.
        columns: Images in a row.
    """
    framed = [with_title(image, title) for image, title in zip(images, titles, strict=True)]
    height, width = framed[0].shape[:2]
    rows = -(-len(framed) // columns)
    canvas = np.full((rows * height, min(len(framed), columns) * width, 3), 255, np.uint8)
    for index, image in enumerate(framed):
        y, x = index // columns * height, index % columns * width
        canvas[y : y + height, x : x + width] = image
    return canvas


def stack(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """Return two (H, W, 3) uint8, one above the other, at the left, on white."""
    width = max(upper.shape[1], lower.shape[1])
    canvas = np.full((len(upper) + len(lower), width, 3), 255, np.uint8)
    canvas[: len(upper), : upper.shape[1]] = upper
    canvas[len(upper) :, : lower.shape[1]] = lower
    return canvas
