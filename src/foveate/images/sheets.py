"""TODO-DOC foveate.images.sheets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from foveate.images.drawing import font_size, line_width
from foveate.images.text import TEXT_COLOR, WHITE, fit_text, font_for


def side_by_side(left: np.ndarray, right: np.ndarray, titles: tuple[str, str]) -> np.ndarray:
    """Two pictures, each under its title, on white; neither is scaled."""
    size = (max(left.shape[1], right.shape[1]), max(left.shape[0], right.shape[0]))
    letters, gap = font_size(size), 2 * line_width(size)
    top = round(1.7 * letters) if any(titles) else 0
    canvas = Image.new("RGB", (left.shape[1] + gap + right.shape[1], top + size[1]), WHITE)
    for pixels, start, title in ((left, 0, titles[0]), (right, left.shape[1] + gap, titles[1])):
        canvas.paste(Image.fromarray(pixels), (start, top))
        text = fit_text(title, letters, pixels.shape[1])
        ImageDraw.Draw(canvas).text(
            (start + pixels.shape[1] / 2, top / 2), text, TEXT_COLOR, font_for(text, letters), anchor="mm"
        )
    return np.array(canvas)


def with_title(pixels: np.ndarray, title: str) -> np.ndarray:
    """(H, W, 3) uint8 under a line with its title, on white, with a narrow margin."""
    margin, line = 3, 20
    canvas = Image.new(
        "RGB", (pixels.shape[1] + 2 * margin, pixels.shape[0] + line + margin), WHITE
    )
    canvas.paste(Image.fromarray(pixels), (margin, line))
    text = fit_text(title, 12, pixels.shape[1])
    ImageDraw.Draw(canvas).text(
        (canvas.width / 2, line / 2), text, TEXT_COLOR, font_for(text, 12), anchor="mm"
    )
    return np.array(canvas)


def image_grid(pictures: Sequence[np.ndarray], titles: Sequence[str], across: int = 8) -> np.ndarray:
    """Pictures of one size, (H, W, 3) uint8 each, in rows of `across`, each under its title."""
    framed = [with_title(picture, title) for picture, title in zip(pictures, titles, strict=True)]
    height, width = framed[0].shape[:2]
    canvas = np.full(
        (-(-len(framed) // across) * height, min(len(framed), across) * width, 3), 255, np.uint8
    )
    for place, picture in enumerate(framed):
        y, x = place // across * height, place % across * width
        canvas[y : y + height, x : x + width] = picture
    return canvas


def stack(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """The one above the other, (H, W, 3) uint8 each, at the left; white beside the narrower one."""
    canvas = np.full(
        (len(upper) + len(lower), max(upper.shape[1], lower.shape[1]), 3), 255, np.uint8
    )
    canvas[: len(upper), : upper.shape[1]] = upper
    canvas[len(upper) :, : lower.shape[1]] = lower
    return canvas
