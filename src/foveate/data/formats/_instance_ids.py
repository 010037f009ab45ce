"""Masks whose values number the objects of an image: how they are recognized, and their objects.

Cellpose, StarDist and many others write 0 for the background and 1 to n for the n objects of an
image. Read as classes, object 17 of one image and object 17 of another would be the same class.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import ndimage

from foveate.data.boxes import RawBoxes
from foveate.data.formats._mask_files import is_lossy, read_values
from foveate.errors import BrokenImage
from foveate.utils.rle import encode_rle_at

OBJECT = "object"
_NAMED = re.compile(r"_cp_masks$", re.IGNORECASE)  # Cellpose
_SAMPLE = 8  # masks that are looked at
_MAX_CONNECTED = 40  # objects of a mask whose pixels are tested for being connected
_CERTAIN = 8  # objects in an image from which the values of masks are hardly classes
_DOUBTFUL = 4
_MOST_CLASSES = 64  # more are no classes
_SHARE = 0.9  # of masks whose values run from 1 to n, and of objects that are in one piece
_EIGHT = np.ones((3, 3), dtype=bool)  # pixels that touch at a corner are connected


@dataclass(frozen=True)
class Numbering:
    """The evidence that the values of masks number objects.

    Attributes:
        most: The largest number of objects in a mask of the sample.
        certainty: "certain"; or "doubtful": they may be classes as well.
    """

    most: int
    certainty: Literal["certain", "doubtful"]


def find_numbering(masks: Sequence[Path]) -> Numbering | None:
    """Return the evidence that the values of masks number objects; None if they do not.

    A few masks are opened.
    """
    counts, tests = list[int](), list[tuple[bool, int, int, bool]]()
    for index in np.unique(np.linspace(0, len(masks) - 1, min(len(masks), _SAMPLE)).round()):
        path = masks[int(index)]
        values = _numbers(path)
        if values is None:
            return None
        numbers = np.unique(values[values > 0])
        if len(numbers):
            counts.append(len(numbers))
            connected, tested = _count_connected(values, numbers)
            runs = numbers[-1] <= 1.25 * len(numbers) and numbers[0] <= 0.25 * len(numbers) + 1
            tests.append((bool(runs), connected, tested, values.dtype.itemsize > 1))
    if not counts or max(counts) < 2:
        return None
    if sum(connected for _, connected, _, _ in tests) < _SHARE * sum(t for _, _, t, _ in tests):
        return None
    certainty = _certainty(counts, tests, all(_NAMED.search(mask.stem) for mask in masks[:_SAMPLE]))
    return Numbering(max(counts), certainty) if certainty else None


def _certainty(
    counts: list[int], tests: list[tuple[bool, int, int, bool]], is_named: bool
) -> Literal["certain", "doubtful"] | None:
    most, varied = max(counts), len(set(counts)) > 1
    if is_named or most > _MOST_CLASSES:
        return "certain"
    if sum(runs for runs, _, _, _ in tests) < _SHARE * len(tests):
        return None
    is_wide = all(wide for _, _, _, wide in tests)  # classes fit into a byte
    if (most >= _CERTAIN and varied) or (most >= _DOUBTFUL and varied and is_wide):
        return "certain"
    return "doubtful" if most >= _DOUBTFUL and (varied or len(counts) == 1) else None


def _numbers(path: Path) -> np.ndarray | None:
    """The values of a mask; None if they cannot be numbers of objects."""
    if is_lossy(path):
        return None
    try:
        values = read_values(path)
    except BrokenImage:
        return None
    return None if values is None or values.min() < 0 or values.max() > 2**24 else values


def _count_connected(values: np.ndarray, numbers: np.ndarray) -> tuple[int, int]:
    """How many of the first objects are in one piece, and how many were tested."""
    tested = numbers[:_MAX_CONNECTED]
    connected = 0
    for number, (rows, columns) in find_objects(values, tested):
        pieces = ndimage.label(values[rows, columns] == number, structure=_EIGHT)[1]
        connected += pieces == 1
    return connected, len(tested)


def find_objects(
    values: np.ndarray, numbers: np.ndarray
) -> Iterator[tuple[int, tuple[slice, slice]]]:
    """Yield some values of a mask, each with the rows and columns that it spans.

    Args:
        values: The mask, (H, W).
        numbers: The values, sorted.
    """
    positions = np.minimum(np.searchsorted(numbers, values), len(numbers) - 1)
    labels = np.where(numbers[positions] == values, positions + 1, 0)
    for number, spans in zip(numbers.tolist(), ndimage.find_objects(labels), strict=False):
        if spans is not None:
            yield int(number), (spans[0], spans[1])


def add_objects(raw: RawBoxes, values: np.ndarray, names: dict[int, str] | str) -> None:
    """Add the objects of a mask, each with its box and outline.

    Args:
        raw: What they are added to.
        values: The mask, (H, W); 0 is the background.
        names: The class of each value (others are left out), or of all of them.
    """
    numbers = np.unique(values[values > 0])
    if not isinstance(names, str):
        numbers = np.array([number for number in numbers.tolist() if number in names])
    if not len(numbers):
        return
    size = (values.shape[0], values.shape[1])
    for number, (rows, columns) in find_objects(values, numbers):
        mask = encode_rle_at(
            values[rows, columns] == number, int(rows.start), int(columns.start), size
        )
        corners = (columns.start, rows.start, columns.stop, rows.stop)
        raw.add(corners, names if isinstance(names, str) else names[number], mask=mask)
