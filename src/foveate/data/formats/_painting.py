"""Outlines and run lengths of objects, painted over each other as a class for every pixel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from foveate.errors import DataError
from foveate.images.codec import read_size
from foveate.utils.rle import decode_rle, nested_polygons, parse_segmentation

Shape = tuple[int, Any]
"""A class index, and COCO's segmentation of an object: polygons [[x0, y0, ...], ...], or run
lengths {'size': [H, W], 'counts': text or numbers}."""


def paint_image(
    shapes: tuple[Shape, ...], size: tuple[int, int] | None, path: Path, where: str
) -> np.ndarray:
    """Paint the objects of an image, as `paint`.

    Args:
        shapes: The objects; later ones cover earlier ones.
        size: (H, W) of the image; None = that of its file, where the annotations state none.
        path: The image.
        where: The image, for messages.

    Raises:
        BrokenImage: `size` is None, and the file cannot be read.
        DataError: A segmentation does not fit the image.
    """
    return paint(shapes, size or read_size(path), where)


def paint(shapes: tuple[Shape, ...], size: tuple[int, int], where: str) -> np.ndarray:
    """Paint objects over each other.

    Args:
        shapes: The objects; later ones cover earlier ones.
        size: (H, W) of the image.
        where: The image, for messages.

    Returns:
        (H, W) int64 class indices, 0 where there is no object.

    Raises:
        DataError: A segmentation does not fit the image.
    """
    mask = np.zeros(size, dtype=np.int64)
    for index, segmentation in shapes:
        try:
            mask[_inside(segmentation, size)] = index
        except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
            raise DataError(
                "an object of the image cannot be painted",
                where=where,
                why=f"its segmentation does not fit an image of {size[1]} x {size[0]} px: {error}",
                id="coco_invalid_segmentation",
            ) from None
    return mask


def _inside(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool. Polygons with fewer than three corners have no area."""
    segmentation = nested_polygons(segmentation)
    if isinstance(segmentation, list):
        segmentation = [polygon for polygon in segmentation if len(polygon) >= 6]
        if not segmentation:
            return np.zeros(size, dtype=bool)
    runs = parse_segmentation(segmentation, size)
    if runs is None:
        raise ValueError("it is neither polygons nor run lengths of this size")
    return decode_rle(runs)
