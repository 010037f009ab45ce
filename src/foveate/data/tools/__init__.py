"""Files of annotation tools as text: what is annotated or predicted on an image, in their words.

Formats write datasets with these modules, and `foveate predict` writes predictions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from foveate.predictions import Boxes, Regions
from foveate.utils.rle import RLE, decode_rle

BACKGROUND = "background"
"""The class of pixels without an object, which no tool has."""


def scores_of(boxes: Boxes) -> list[float | None]:
    """Return the score of each box; None where there are none."""
    if boxes.scores is None:
        return [None] * len(boxes.names)
    return [round(float(score), 6) for score in boxes.scores]


def masks_of(boxes: Boxes) -> list[RLE | None]:
    """Return the mask of each box; None where there are none."""
    return list(boxes.masks) if boxes.masks else [None] * len(boxes.names)


def cropped(mask: RLE | np.ndarray) -> tuple[np.ndarray, int, int] | None:
    """Return the part of a mask that is not empty, and its top and left; None for an empty mask."""
    inside = decode_rle(mask) if isinstance(mask, dict) else mask
    rows, columns = np.nonzero(inside.any(axis=1))[0], np.nonzero(inside.any(axis=0))[0]
    if not len(rows):
        return None
    top, left = int(rows[0]), int(columns[0])
    return inside[top : rows[-1] + 1, left : columns[-1] + 1], top, left


def drawn_classes(classes: tuple[str, ...], targets: Iterable[object]) -> tuple[str, ...]:
    """Return the classes that can be drawn: among regions not that of pixels without an object."""
    regions = any(isinstance(target, Regions) for target in targets)
    return tuple(name for name in classes if not regions or name != BACKGROUND)


def class_masks(regions: Regions, classes: tuple[str, ...]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each class that occurs, but for the background, and where it is: (H, W) bool."""
    mask = regions.mask
    for index, name in enumerate(classes):
        inside = mask == index
        if name != BACKGROUND and inside.any():
            yield name, inside
