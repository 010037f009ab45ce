"""The audit of boxes, the same for all formats: what can be put right is, what cannot is dropped, and all of it is counted.

Letters: N boxes, H height, W width of the upright original picture; all lengths are pixels.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from foveate.data.issues import IssueKind
from foveate.predictions import Boxes
from foveate.utils.rle import RLE, parse_segmentation

NOT_FINITE = IssueKind("boxes with a corner that is not a finite number, dropped", "error")
INVERTED = IssueKind("boxes with corners the wrong way round, swapped back", "warning")
NO_AREA = IssueKind("boxes without an area, dropped", "error")
OUTSIDE = IssueKind("boxes that lie outside their image, dropped", "error")
CLIPPED = IssueKind("boxes that reach out of their image, clipped", "warning")
REPEATED = IssueKind("boxes that repeat another one exactly, dropped", "warning")
CROWD = IssueKind("boxes round a crowd or a difficult object, kept and not held against an answer")

_ROUNDING = 0.01  # px; fractions with six digits put a box that touches the border of a large picture so far outside
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")


@dataclass
class Raw:
    """What a file says of the objects in one image, unchecked: a row of x0, y0, x1, y1, a name and a flag for each.

    `masks`: for each what COCO calls its `segmentation`, or None.
    """

    xyxy: list[tuple[float, float, float, float]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    crowd: list[bool] = field(default_factory=list)
    masks: list[object] = field(default_factory=list)

    def add(
        self,
        corners: tuple[float, float, float, float],
        name: str,
        crowd: bool = False,
        mask: object = None,
    ) -> None:
        self.xyxy.append(corners)
        self.names.append(name)
        self.crowd.append(crowd)
        self.masks.append(mask)


def cleaned(raw: Raw, size: tuple[int, int]) -> tuple[Boxes, Counter[str]]:
    """The sound boxes of an image of `size` (H, W), in their order, and how many boxes had each problem."""
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # too large for float32 is infinite, and dropped
        xyxy = np.array(raw.xyxy, dtype=np.float64).reshape(-1, 4).astype(np.float32)
    names, crowd = np.array(raw.names, dtype=object), np.array(raw.crowd, dtype=bool)
    places = np.arange(len(names))
    found: Counter[str] = Counter()

    def keep(sound: np.ndarray, problem: str) -> None:
        nonlocal xyxy, names, crowd, places
        found[problem] += int((~sound).sum())
        xyxy, names, crowd, places = xyxy[sound], names[sound], crowd[sound], places[sound]

    keep(np.asarray(np.isfinite(xyxy).all(axis=1)), NOT_FINITE)
    low, high = np.minimum(xyxy[:, :2], xyxy[:, 2:]), np.maximum(xyxy[:, :2], xyxy[:, 2:])
    found[INVERTED] += int((low != xyxy[:, :2]).any(axis=1).sum())
    xyxy = np.concatenate([low, high], axis=1)
    keep(_has_area(xyxy), NO_AREA)
    limits = np.array([size[1], size[0]] * 2, dtype=np.float32)
    inside = np.clip(xyxy, 0, limits)
    found[CLIPPED] += int(
        ((np.abs(inside - xyxy) > _ROUNDING).any(axis=1) & _has_area(inside)).sum()
    )
    xyxy = inside
    keep(_has_area(xyxy), OUTSIDE)
    keep(_first_of_equals(xyxy, names, crowd), REPEATED)
    found[CROWD] += int(crowd.sum())
    return Boxes(
        xyxy=xyxy, names=tuple(names.tolist()), crowd=crowd, masks=_masks(raw.masks, places, size)
    ), +found


def refitted(boxes: Boxes, size: tuple[int, int]) -> tuple[Boxes, Counter[str]]:
    """Boxes that were clean, for an image of another `size` (H, W). Crowds are counted no second time."""
    crowd = [False] * len(boxes.names) if boxes.crowd is None else boxes.crowd.tolist()
    corners = [(x0, y0, x1, y1) for x0, y0, x1, y1 in boxes.xyxy.tolist()]
    again, found = cleaned(Raw(corners, list(boxes.names), crowd, list(boxes.masks or ())), size)
    del found[CROWD]
    return again, found


def _masks(
    stated: list[object], places: np.ndarray, size: tuple[int, int]
) -> tuple[RLE, ...] | None:
    """The masks of the objects at `places`; None when one of them has none that can be read."""
    if not places.size or not any(stated):
        return None
    known = [mask for place in places if (mask := parse_segmentation(stated[place], size)) is not None]
    return tuple(known) if len(known) == len(places) else None


def _has_area(xyxy: np.ndarray) -> np.ndarray:
    """(N,) bool; a box of one pixel has one."""
    return np.asarray((xyxy[:, 2:] > xyxy[:, :2]).all(axis=1))


def _first_of_equals(xyxy: np.ndarray, names: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """(N,) bool: no box before it has the same corners, name and flag."""
    seen: set[tuple[object, ...]] = set()
    rows = list(zip(map(tuple, xyxy.tolist()), names.tolist(), crowd.tolist(), strict=True))
    return np.array([not (row in seen or seen.add(row)) for row in rows], dtype=bool)  # type: ignore[func-returns-value]


def class_name(text: object) -> str:
    """A class as every format can hold it: in one line, without spaces at its ends."""
    return printed(" ".join(str(text).split()))


def printed(text: str) -> str:
    """Without control characters, which neither XML nor a list of lines can hold."""
    return _UNPRINTABLE.sub("_", text)
