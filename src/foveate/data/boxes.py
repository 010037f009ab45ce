"""The validation of boxes, the same for all formats.

What can be repaired is repaired, what cannot is dropped, and all of it is counted.

Letters: N boxes; H, W size of the upright original. All lengths are pixels.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from foveate.predictions import Boxes
from foveate.types import IssueKind
from foveate.utils.rle import RLE, parse_segmentation

NOT_FINITE = IssueKind(
    "box_not_finite", "boxes with a coordinate that is not a finite number, dropped", "error"
)
INVERTED = IssueKind("box_inverted", "boxes with swapped corners, put in order", "warning")
NO_AREA = IssueKind("box_no_area", "boxes without an area, dropped", "error")
OUTSIDE = IssueKind("box_outside", "boxes outside their image, dropped", "error")
CLIPPED = IssueKind("box_clipped", "boxes that extend beyond their image, clipped", "warning")
DUPLICATE = IssueKind("box_duplicate", "exact duplicates of another box, dropped", "warning")
CROWD = IssueKind(
    "box_crowd", "boxes of a crowd or a difficult object, kept but ignored when matching"
)

# px; fractions with six digits put a box at the border of a large image so far outside
_ROUNDING = 0.01
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")


@dataclass
class RawBoxes:
    """The objects in one image as a file states them, not yet validated; one entry per object.

    Attributes:
        xyxy: x0, y0, x1, y1.
        names: Class names.
        crowd: Whether it is a crowd.
        masks: COCO's `segmentation` of each object, or None.
        keypoints: Points as in `Boxes`, or None.
    """

    xyxy: list[tuple[float, float, float, float]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    crowd: list[bool] = field(default_factory=list)
    masks: list[object] = field(default_factory=list)
    keypoints: list[np.ndarray | None] = field(default_factory=list)

    def add(
        self,
        corners: tuple[float, float, float, float],
        name: str,
        crowd: bool = False,
        mask: object = None,
        keypoints: np.ndarray | None = None,
    ) -> None:
        """Append an object."""
        self.xyxy.append(corners)
        self.names.append(name)
        self.crowd.append(crowd)
        self.masks.append(mask)
        self.keypoints.append(keypoints)


def validate_boxes(raw: RawBoxes, size: tuple[int, int]) -> tuple[Boxes, Counter[IssueKind]]:
    """Keep the valid boxes of an image of `size` (H, W), in their order.

    Returns:
        The boxes, and how many had each problem.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # infinite in float32, therefore dropped
        xyxy = np.array(raw.xyxy, dtype=np.float64).reshape(-1, 4).astype(np.float32)
    names, crowd = np.array(raw.names, dtype=object), np.array(raw.crowd, dtype=bool)
    indices = np.arange(len(names))
    problems: Counter[IssueKind] = Counter()

    def keep(valid: np.ndarray, problem: IssueKind) -> None:
        nonlocal xyxy, names, crowd, indices
        problems[problem] += int((~valid).sum())
        xyxy, names, crowd, indices = xyxy[valid], names[valid], crowd[valid], indices[valid]

    keep(np.asarray(np.isfinite(xyxy).all(axis=1)), NOT_FINITE)
    low, high = np.minimum(xyxy[:, :2], xyxy[:, 2:]), np.maximum(xyxy[:, :2], xyxy[:, 2:])
    problems[INVERTED] += int((low != xyxy[:, :2]).any(axis=1).sum())
    xyxy = np.concatenate([low, high], axis=1)
    keep(_has_area(xyxy), NO_AREA)
    limits = np.array([size[1], size[0]] * 2, dtype=np.float32)
    clipped = np.clip(xyxy, 0, limits)
    beyond = (np.abs(clipped - xyxy) > _ROUNDING).any(axis=1)
    problems[CLIPPED] += int((beyond & _has_area(clipped)).sum())
    xyxy = clipped
    keep(_has_area(xyxy), OUTSIDE)
    keep(_is_first(xyxy, names, crowd), DUPLICATE)
    problems[CROWD] += int(crowd.sum())
    boxes = Boxes(
        xyxy=xyxy,
        names=tuple(names.tolist()),
        crowd=crowd,
        masks=_valid_masks(raw.masks, indices, size),
        keypoints=_kept_keypoints(raw.keypoints, indices),
    )
    return boxes, +problems


def revalidate_boxes(boxes: Boxes, size: tuple[int, int]) -> tuple[Boxes, Counter[IssueKind]]:
    """Validate boxes again, for an image of another `size` (H, W); crowds are not counted twice."""
    crowd = [False] * len(boxes.names) if boxes.crowd is None else boxes.crowd.tolist()
    corners = [(x0, y0, x1, y1) for x0, y0, x1, y1 in boxes.xyxy.tolist()]
    raw = RawBoxes(
        corners, list(boxes.names), crowd, list(boxes.masks or ()), list(boxes.keypoints or ())
    )
    again, problems = validate_boxes(raw, size)
    del problems[CROWD]
    return again, problems


def _valid_masks(
    stated: Sequence[object], indices: np.ndarray, size: tuple[int, int]
) -> tuple[RLE, ...] | None:
    """The masks of the objects at `indices`; None if one of them has no valid mask."""
    if not indices.size or not any(stated):
        return None
    valid = [
        mask for index in indices if (mask := parse_segmentation(stated[index], size)) is not None
    ]
    return tuple(valid) if len(valid) == len(indices) else None


def _kept_keypoints(
    stated: Sequence[np.ndarray | None], indices: np.ndarray
) -> tuple[np.ndarray, ...] | None:
    """The keypoints of the objects at `indices`; None if no object has any."""
    if all(points is None or not len(points) for points in stated):
        return None
    none = np.zeros((0, 3), dtype=np.float32)
    kept = (stated[index] for index in indices)
    return tuple(none if points is None else points for points in kept)


def labeled_points(points: np.ndarray) -> int:
    """Return how many of (P, 3) keypoints are labeled."""
    return int((points[:, 2] > 0).sum())


def without_padding(points: np.ndarray) -> np.ndarray:
    """Return (P, 3) keypoints without those at the end that are not labeled."""
    labeled = np.flatnonzero(points[:, 2] > 0)
    return points[: labeled[-1] + 1 if len(labeled) else 0]


def _has_area(xyxy: np.ndarray) -> np.ndarray:
    """(N,) bool; a box of one pixel has an area."""
    return np.asarray((xyxy[:, 2:] > xyxy[:, :2]).all(axis=1))


def _is_first(xyxy: np.ndarray, names: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """(N,) bool: no earlier box has the same corners, name and flag."""
    first: dict[tuple[object, ...], int] = {}
    rows = zip(map(tuple, xyxy.tolist()), names.tolist(), crowd.tolist(), strict=True)
    return np.array([first.setdefault(row, i) == i for i, row in enumerate(rows)], dtype=bool)


def class_name(text: object) -> str:
    """Return a class name that every format can hold: on one line, without surrounding spaces."""
    return replace_unprintable(" ".join(str(text).split()))


def replace_unprintable(text: str) -> str:
    """Replace control characters, which neither XML nor a list of lines can hold, by "_"."""
    return _UNPRINTABLE.sub("_", text)
