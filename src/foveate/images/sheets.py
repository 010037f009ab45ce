"""TODO-DOC foveate.images.sheets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from foveate.images.drawing import _letters, _line
from foveate.images.text import _INK, _PAPER, _fitted, _font


def side_by_side(left: np.ndarray, right: np.ndarray, titles: tuple[str, str]) -> np.ndarray:
    """Two pictures, each under its title, on white; neither is scaled."""
    size = (max(left.shape[1], right.shape[1]), max(left.shape[0], right.shape[0]))
    letters, gap = _letters(size), 2 * _line(size)
    top = round(1.7 * letters) if any(titles) else 0
    canvas = Image.new("RGB", (left.shape[1] + gap + right.shape[1], top + size[1]), _PAPER)
    for pixels, start, title in ((left, 0, titles[0]), (right, left.shape[1] + gap, titles[1])):
        canvas.paste(Image.fromarray(pixels), (start, top))
        text = _fitted(title, letters, pixels.shape[1])
        ImageDraw.Draw(canvas).text(
            (start + pixels.shape[1] / 2, top / 2), text, _INK, _font(text, letters), anchor="mm"
        )
    return np.array(canvas)


def titled(pixels: np.ndarray, title: str) -> np.ndarray:
    """(H, W, 3) uint8 under a line with its title, on white, with a narrow margin."""
    margin, line = 3, 20
    canvas = Image.new(
        "RGB", (pixels.shape[1] + 2 * margin, pixels.shape[0] + line + margin), _PAPER
    )
    canvas.paste(Image.fromarray(pixels), (margin, line))
    text = _fitted(title, 12, pixels.shape[1])
    ImageDraw.Draw(canvas).text(
        (canvas.width / 2, line / 2), text, _INK, _font(text, 12), anchor="mm"
    )
    return np.array(canvas)


def tiled(pictures: Sequence[np.ndarray], titles: Sequence[str], across: int = 8) -> np.ndarray:
    """Pictures of one size, (H, W, 3) uint8 each, in rows of `across`, each under its title."""
    framed = [titled(picture, title) for picture, title in zip(pictures, titles, strict=True)]
    height, width = framed[0].shape[:2]
    canvas = np.full(
        (-(-len(framed) // across) * height, min(len(framed), across) * width, 3), 255, np.uint8
    )
    for place, picture in enumerate(framed):
        y, x = place // across * height, place % across * width
        canvas[y : y + height, x : x + width] = picture
    return canvas


def stacked(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """The one above the other, (H, W, 3) uint8 each, at the left; white beside the narrower one."""
    canvas = np.full(
        (len(upper) + len(lower), max(upper.shape[1], lower.shape[1]), 3), 255, np.uint8
    )
    canvas[: len(upper), : upper.shape[1]] = upper
    canvas[len(upper) :, : lower.shape[1]] = lower
    return canvas
