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
_MAX_TESTED = 40  # objects of a mask whose pixels are looked at
_BYTE = 255  # larger values are hardly classes
_MIN_FILL = 0.2  # of the boxes around objects; lines and bands cover less of theirs
_MAX_CHANGES = 0.3  # share of the pixels of objects at which values change
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
    tests = list[_Test]()
    for index in np.unique(np.linspace(0, len(masks) - 1, min(len(masks), _SAMPLE)).round()):
        values = _numbers(masks[int(index)])
        if values is None:
            return None
        numbers = np.unique(values[values > 0])
        if len(numbers):
            tests.append(_test(values, numbers))
    if not tests or max(test.count for test in tests) < 2:
        return None
    tested = sum(min(test.count, _MAX_TESTED) for test in tests)
    if sum(test.connected for test in tests) < _SHARE * tested:
        return None
    if np.median([test.fill for test in tests]) < _MIN_FILL or any(
        test.is_banded for test in tests
    ):
        return None
    is_named = all(_NAMED.search(mask.stem) for mask in masks[:_SAMPLE])
    certainty = _certainty(tests, is_named)
    return Numbering(max(test.count for test in tests), certainty) if certainty else None


@dataclass(frozen=True)
class _Test:
    """What the values of a mask are like.

    Attributes:
        count: Number of different values but 0.
        largest: The largest value.
        connected: How many of the first objects are in one piece.
        fill: Median share of the box around an object that it covers.
        is_banded: Whether values change at many pixels, as in a gradient.
    """

    count: int
    largest: int
    connected: int
    fill: float
    is_banded: bool

    @property
    def runs(self) -> bool:
        """Whether the values run from 1 to n without a gap."""
        return self.largest == self.count


def _test(values: np.ndarray, numbers: np.ndarray) -> _Test:
    connected, fills = 0, list[float]()
    for number, (rows, columns) in find_objects(values, numbers[:_MAX_TESTED]):
        inside = values[rows, columns] == number
        connected += ndimage.label(inside, structure=_EIGHT)[1] == 1
        fills.append(float(inside.mean()))
    left, right = values[:, :-1], values[:, 1:]
    changes = ((left != right) & (left > 0) & (right > 0)).sum() / (values > 0).sum()
    is_banded = bool(changes > _MAX_CHANGES)
    return _Test(len(numbers), int(numbers[-1]), connected, float(np.median(fills)), is_banded)


def _certainty(tests: list[_Test], is_named: bool) -> Literal["certain", "doubtful"] | None:
    most, varied = max(test.count for test in tests), len({test.count for test in tests}) > 1
    largest = max(test.largest for test in tests)
    if is_named or most > _MOST_CLASSES or largest > _BYTE:
        return "certain"
    if most < _DOUBTFUL or sum(test.runs for test in tests) < _SHARE * len(tests):
        return None
    if varied and most >= _CERTAIN:
        return "certain"
    return "doubtful" if varied or len(tests) == 1 else None


def _numbers(path: Path) -> np.ndarray | None:
    """The values of a mask; None if they cannot be numbers of objects."""
    if is_lossy(path):
        return None
    try:
        values = read_values(path)
    except BrokenImage:
        return None
    return None if values is None or values.min() < 0 or values.max() > 2**24 else values


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
