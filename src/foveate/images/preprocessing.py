"""Framing: which part of an image a network sees, and merging the predictions of tiles.

Needs no torch. Lengths are pixels. Rectangles ("views") are (x0, y0, x1, y1) in pixels of the
upright original, sizes (height, width).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from foveate.images.codec import resize, with_long_side, with_short_side
from foveate.predictions import Boxes, Regions
from foveate.utils.rle import RLE, decode_rle, encode_rle_at

Framing = Literal["crop", "whole", "windows"]
"""The central square; all of it, padded to a square; or square tiles at full resolution."""
View = tuple[float, float, float, float]
MAX_OVERSIZE = 2  # times the network's side: of a mosaic, so that crops of it remain sharp
_MAX_STRIDE = 0.75  # of a tile's side, from one tile to the next


def decoded_short_side(size: int, framing: Framing) -> int | None:
    """Return the short side, px, that images are reduced to for a network's square of `size`.

    None for framings that need all pixels.
    """
    return size if framing == "crop" else None


def view_of(size: tuple[int, ...], square: int, framing: Framing) -> View:
    """Return the part of an upright original, or of a tile, that the network sees.

    Args:
        size: (height, width) of the original or the tile.
        square: Side of the network's input.
        framing: How the image is framed.
    """
    height, width = size
    if framing != "crop":
        side = max(size) if framing == "whole" else square
        return 0.0, 0.0, float(side), float(side)
    side = min(size)
    return (width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2


def place_on_square(size: tuple[int, int], square: int, framing: Framing) -> tuple[int, int]:
    """Return the (height, width) that a decoded image, or a tile, has on the network's square."""
    if framing == "crop":
        return with_short_side(size, square)
    return with_long_side(size, square) if framing == "whole" else size


def center_crop_window(height: int, width: int, side: int) -> tuple[int, int]:
    """Return the upper left corner, (top, left), of the central square."""
    return round((height - side) / 2), round((width - side) / 2)


def to_square(pixels: np.ndarray, square: int, framing: Framing) -> np.ndarray:
    """Return the network's input, (square, square, C), before normalization.

    Args:
        pixels: (h, w, C) uint8 or uint16, a decoded image or a tile.
        square: Side of the network's input.
        framing: "crop" takes the center; the others put all of it in the upper left, on black.
    """
    height, width = place_on_square((pixels.shape[0], pixels.shape[1]), square, framing)
    if (height, width) != pixels.shape[:2]:
        pixels = resize(pixels, (height, width))
    if framing == "crop":
        top, left = center_crop_window(height, width, square)
        return pixels[top : top + square, left : left + square]
    return np.pad(pixels, ((0, square - height), (0, square - width), (0, 0)))


def tile_corners(size: tuple[int, ...], side: int) -> list[tuple[int, int]]:
    """Return the upper left corners, (x, y), of the tiles that cover an image.

    Neighbors overlap by a quarter at least.
    """
    return [(x, y) for y in _tile_starts(size[0], side) for x in _tile_starts(size[1], side)]


def _tile_starts(length: int, side: int) -> list[int]:
    """Where tiles begin along an edge: the first at 0, the last at the end, evenly spread."""
    count = 1 if length <= side else 1 + math.ceil((length - side) / (_MAX_STRIDE * side))
    return [round(index * max(0, length - side) / max(1, count - 1)) for index in range(count)]


# --- merging tiles: each prediction comes with the (x, y) of the tile's upper left corner


def merge_region_tiles(
    parts: Sequence[tuple[tuple[int, int], Regions]], size: tuple[int, int]
) -> Regions:
    """Merge masks of tiles: each pixel from the tile in which it lies farthest from an edge.

    At the edges networks have the least context.
    """
    mask, depth = np.zeros(size, np.int16), np.full(size, -1.0)
    for (x, y), part in parts:
        tile = part.mask
        height, width = tile.shape
        tile_depth = _distance_to_edge(height, width)
        area = slice(y, y + height), slice(x, x + width)
        deeper = tile_depth > depth[area]
        mask[area][deeper], depth[area][deeper] = tile[deeper], tile_depth[deeper]
    return Regions(mask).compressed()


def _distance_to_edge(height: int, width: int) -> np.ndarray:
    """(H, W) float64."""
    rows, columns = np.arange(height), np.arange(width)
    nearest = np.minimum(rows, rows[::-1]), np.minimum(columns, columns[::-1])
    return np.minimum.outer(*nearest).astype(float)


def merge_box_tiles(
    parts: Sequence[tuple[tuple[int, int], Boxes]], size: tuple[int, int], suppress: float
) -> Boxes:
    """Merge boxes of tiles, by descending score.

    Of an object that several tiles see, whole or in part, the box with the highest score remains:
    the overlap of boxes from different tiles is measured relative to the smaller one (Akyon et al.
    2022).

    Args:
        parts: Corner and boxes of each tile.
        size: (height, width) of the image.
        suppress: Overlap from which the box with the lower score is dropped, in [0, 1].
    """
    boxes = np.concatenate(
        [part.xyxy + np.array([x, y, x, y], np.float32) for (x, y), part in parts]
    )
    names = np.array([name for _, part in parts for name in part.names], dtype=object)
    empty = np.zeros(0, np.float32)
    scores = np.concatenate([empty if part.scores is None else part.scores for _, part in parts])
    tiles = np.repeat(np.arange(len(parts)), [len(part.names) for _, part in parts])
    kept: list[int] = []
    for index in np.argsort(-scores, kind="stable"):
        same_class = [other for other in kept if names[other] == names[index]]
        rivals = [other for other in same_class if tiles[other] != tiles[index]]
        if not rivals or _share_of_smaller(boxes[index], boxes[rivals]).max() < suppress:
            kept.append(int(index))
    masks = None
    if all(part.masks is not None for _, part in parts):
        shifted = _shifted_masks(parts, size)
        masks = tuple(shifted[index] for index in kept)
    return Boxes(boxes[kept].reshape(-1, 4), tuple(names[kept].tolist()), scores[kept], masks=masks)


def _share_of_smaller(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(4,) and (N, 4) -> (N,): the intersection over the area of the smaller of the two."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    areas = np.minimum((box[2:] - box[:2]).prod(), (others[:, 2:] - others[:, :2]).prod(1))
    return np.asarray((high - low).clip(0).prod(1) / np.maximum(areas, 1e-9))


def _shifted_masks(
    parts: Sequence[tuple[tuple[int, int], Boxes]], size: tuple[int, int]
) -> list[RLE]:
    """The masks of the tiles in the whole image."""
    return [
        encode_rle_at(decode_rle(mask), y, x, size)
        for (x, y), part in parts
        for mask in part.masks or ()
    ]
