"""What a network sees of a picture when it answers: the central square, the whole, or windows. Needs no torch.

Lengths are pixels. Rectangles ('views') are (x0, y0, x1, y1) in pixels of the upright original, sizes (height, width).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from foveate.images.codec import resize, with_long_side, with_short_side
from foveate.predictions import Boxes, Regions
from foveate.utils.rle import Runs, decoded, placed

Framing = Literal["crop", "whole", "windows"]
"""What a network sees of a picture: the central square; all of it, padded to a square; or squares of it at full resolution."""
View = tuple[float, float, float, float]
MAX_OVERSIZE = 2  # times the network's side: what a picture is reduced to at most, so that windows cut out of it stay sharp
_STEP = 0.75  # of its side: how far a window is from the next at the most


def resized_sides(size: int, framing: Framing) -> tuple[int | None, int | None]:
    """The short and the long side to which a picture is decoded for a network's square of `size`."""
    return {"crop": (size, None), "whole": (None, MAX_OVERSIZE * size), "windows": (None, None)}[framing]


def view_of(size: tuple[int, ...], square: int, framing: Framing) -> View:
    """What is shown of an upright original, or of a window, of this (height, width) in a network's `square`, px."""
    height, width = size
    if framing != "crop":
        side = max(size) if framing == "whole" else square
        return 0.0, 0.0, float(side), float(side)
    side = min(size)
    return (width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2


def place_on_square(size: tuple[int, int], square: int, framing: Framing) -> tuple[int, int]:
    """The height and width that a decoded picture, or a window, has on a network's `square`."""
    if framing == "crop":
        return with_short_side(size, square)
    return with_long_side(size, square) if framing == "whole" else size


def center_crop_window(height: int, width: int, side: int) -> tuple[int, int]:
    """The upper left corner, (top, left), of the central square."""
    return round((height - side) / 2), round((width - side) / 2)


def to_square(pixels: np.ndarray, square: int, framing: Framing) -> np.ndarray:
    """(h, w, 3) uint8 as it was decoded, or a window -> (square, square, 3): the middle of it; or all of it in the upper left, on
    black."""
    height, width = place_on_square((pixels.shape[0], pixels.shape[1]), square, framing)
    if (height, width) != pixels.shape[:2]:
        pixels = resize(pixels, (height, width))
    if framing == "crop":
        top, left = center_crop_window(height, width, square)
        return pixels[top : top + square, left : left + square]
    return np.pad(pixels, ((0, square - height), (0, square - width), (0, 0)))


def tile_corners(size: tuple[int, ...], side: int) -> list[tuple[int, int]]:
    """The upper left corners, (x, y), of the windows of `side` that cover a picture; neighbours overlap by a quarter at least."""
    return [(x, y) for y in _starts(size[0], side) for x in _starts(size[1], side)]


def _starts(length: int, side: int) -> list[int]:
    """Where windows of `side` begin along a picture's edge: the first at 0, the last at the end, evenly spread."""
    count = 1 if length <= side else 1 + math.ceil((length - side) / (_STEP * side))
    return [round(place * max(0, length - side) / max(1, count - 1)) for place in range(count)]


# --- one answer of those to the windows of a picture, each with the (x, y) of its upper left corner


def merge_region_tiles(
    parts: Sequence[tuple[tuple[int, int], Regions]], size: tuple[int, int]
) -> Regions:
    """Every pixel from the window in whose middle it lies deepest: at their edges networks see least."""
    mask, depth = np.zeros(size, np.int16), np.full(size, -1.0)
    for (x, y), part in parts:
        seen = part.mask
        height, width = seen.shape
        inner = _depth(height, width)
        place = slice(y, y + height), slice(x, x + width)
        better = inner > depth[place]
        mask[place][better], depth[place][better] = seen[better], inner[better]
    return Regions(mask).compressed()


def _depth(height: int, width: int) -> np.ndarray:
    """(H, W): distance to the nearest edge."""
    rows, columns = np.arange(height), np.arange(width)
    return np.minimum.outer(
        np.minimum(rows, rows[::-1]), np.minimum(columns, columns[::-1])
    ).astype(float)


def merge_box_tiles(
    parts: Sequence[tuple[tuple[int, int], Boxes]], size: tuple[int, int], suppress: float
) -> Boxes:
    """The boxes of all windows, the surest first. Of an object that several windows see, whole or in part, the surest box
    stays: the overlap of boxes from different windows is measured against the smaller one (Akyon et al. 2022)."""
    boxes = np.concatenate(
        [part.xyxy + np.array([x, y, x, y], np.float32) for (x, y), part in parts]
    )
    names = np.array([name for _, part in parts for name in part.names], dtype=object)
    scores = np.concatenate(
        [np.zeros(0, np.float32) if part.scores is None else part.scores for _, part in parts]
    )
    windows = np.repeat(np.arange(len(parts)), [len(part.names) for _, part in parts])
    kept: list[int] = []
    for place in np.argsort(-scores, kind="stable"):
        rivals = [
            other
            for other in kept
            if names[other] == names[place] and windows[other] != windows[place]
        ]
        if not rivals or _share_of_smaller(boxes[place], boxes[rivals]).max() < suppress:
            kept.append(int(place))
    masks = (
        _shifted_masks(parts, size) if all(part.masks is not None for _, part in parts) else None
    )
    chosen = None if masks is None else tuple(masks[place] for place in kept)
    return Boxes(
        boxes[kept].reshape(-1, 4), tuple(names[kept].tolist()), scores[kept], masks=chosen
    )


def _share_of_smaller(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(4,) and (N, 4) -> (N,): the intersection over the area of the smaller of the two."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    areas = np.minimum((box[2:] - box[:2]).prod(), (others[:, 2:] - others[:, :2]).prod(1))
    return np.asarray((high - low).clip(0).prod(1) / np.maximum(areas, 1e-9))


def _shifted_masks(
    parts: Sequence[tuple[tuple[int, int], Boxes]], size: tuple[int, int]
) -> list[Runs]:
    """The masks of the windows in the whole picture."""
    return [
        placed(decoded(mask), y, x, size) for (x, y), part in parts for mask in part.masks or ()
    ]
