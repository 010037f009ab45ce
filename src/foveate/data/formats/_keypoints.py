"""Keypoints of objects in the files of COCO and YOLO.

They are not trained on, but kept, so that `foveate convert` can write them again. P: number of
points of an object.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from foveate.predictions import Boxes
from foveate.types import IssueKind, Skeleton, Table

KEPT = IssueKind(
    "keypoints_kept", "objects with keypoints, which convert keeps and which are not trained on"
)
INVALID = IssueKind(
    "invalid_keypoints",
    "objects whose keypoints are not as many numbers as stated, read without keypoints",
    "warning",
)
_MAX_POINTS = 1000  # of an object


def labeled_points(points: np.ndarray) -> int:
    """Return how many of (P, 3) points are labeled."""
    return int((points[:, 2] > 0).sum())


def without_padding(points: np.ndarray) -> np.ndarray:
    """Return (P, 3) points without those at the end that are not labeled."""
    labeled = np.flatnonzero(points[:, 2] > 0)
    return points[: labeled[-1] + 1 if len(labeled) else 0]


def have_keypoints(table: Table) -> bool:
    """Whether an object of a table has keypoints."""
    return any(isinstance(each.target, Boxes) and each.target.keypoints for each in table.samples)


# --- COCO


def parse_coco(stated: object) -> np.ndarray | None:
    """Return COCO's x, y, v, x, y, v, ... as (P, 3) float32; None if they are something else."""
    try:
        numbers = np.array(stated, dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        return None
    if numbers.ndim != 1 or numbers.size % 3 or numbers.size > 3 * _MAX_POINTS:
        return None
    return numbers.reshape(-1, 3) if np.isfinite(numbers).all() else None


def skeleton_of_category(category: Mapping[str, Any], name: str) -> Skeleton | None:
    """Return the keypoints that a category of COCO states; None if it states none."""
    names = category.get("keypoints")
    if not isinstance(names, list) or not names or len(names) > _MAX_POINTS:
        return None
    edges = category.get("skeleton")
    pairs = [
        (edge[0] - 1, edge[1] - 1)
        for edge in (edges if isinstance(edges, list) else ())
        if isinstance(edge, list) and len(edge) == 2 and all(type(each) is int for each in edge)
    ]
    return Skeleton(name, tuple(map(str, names)), tuple(pairs))


def to_category(name: str, table: Table) -> dict[str, Any]:
    """Return what a category of COCO states about the keypoints of a class; empty without any."""
    skeleton = next((each for each in table.skeletons if each.class_name == name), None)
    names = list(skeleton.names) if skeleton else []
    names = names or [str(number) for number in range(1, _most_points(table, name) + 1)]
    if not names:
        return {}
    edges = [[one + 1, other + 1] for one, other in (skeleton.edges if skeleton else ())]
    return {"keypoints": names, "skeleton": edges}


def to_annotation(points: np.ndarray) -> dict[str, Any]:
    """Return what an annotation of COCO states about the keypoints of an object."""
    if not len(points):
        return {}
    flat = [number for x, y, state in points.tolist() for number in (x, y, int(state))]
    return {"keypoints": flat, "num_keypoints": labeled_points(points)}


def _most_points(table: Table, name: str | None = None) -> int:
    """The largest number of points of an object, of all classes or of one."""
    return max(
        (
            len(points)
            for sample in table.samples
            if isinstance(sample.target, Boxes) and sample.target.keypoints
            for own, points in zip(sample.target.names, sample.target.keypoints, strict=True)
            if name in (None, own)
        ),
        default=0,
    )


# --- YOLO


@dataclass(frozen=True)
class YoloPoints:
    """How the labels of a YOLO dataset state keypoints.

    Attributes:
        count: P, the same for all classes.
        width: Numbers of a point: 2 for x and y, 3 for these and whether it is visible.
    """

    count: int
    width: int

    def parse(self, values: list[float], size: tuple[int, int]) -> np.ndarray | None:
        """Return the numbers after a box, fractions of the (H, W) of the image, as (P, 3) float32.

        None if they are not as many as stated.
        """
        if len(values) != self.count * self.width or not np.isfinite(values).all():
            return None
        numbers = np.array(values, dtype=np.float64).reshape(self.count, self.width)
        points = np.zeros((self.count, 3), dtype=np.float32)
        points[:, :2] = numbers[:, :2] * (size[1], size[0])
        if self.width == 3:
            points[:, 2] = numbers[:, 2]
        else:  # what is not labeled is negative, or 0 as in COCO
            points[:, 2] = 2 * ((numbers >= 0).all(axis=1) & numbers.any(axis=1))
        return points


def yolo_points(content: Mapping[str, Any]) -> YoloPoints | None:
    """Return how the labels state keypoints according to a data.yaml; None if there are none."""
    shape = content.get("kpt_shape")
    if not isinstance(shape, list) or not all(type(each) is int for each in shape):
        return None
    if len(shape) != 2 or not 0 < shape[0] <= _MAX_POINTS or shape[1] not in (2, 3):
        return None
    return YoloPoints(*shape)


def yolo_skeletons(content: Mapping[str, Any], classes: Mapping[int, str]) -> list[Skeleton]:
    """Return the keypoints of the classes of a data.yaml."""
    stated, flipped = content.get("kpt_names"), content.get("flip_idx")
    by_class = stated if isinstance(stated, dict) else {}
    is_flip = isinstance(flipped, list) and all(type(each) is int for each in flipped)
    mirrored = tuple(flipped) if is_flip and flipped else ()
    skeletons = []
    for index, name in classes.items():
        names = by_class.get(index)
        own = tuple(map(str, names)) if isinstance(names, list) else ()
        if own or mirrored:
            skeletons.append(Skeleton(name, own, mirrored=mirrored))
    return skeletons


def to_yaml(table: Table) -> dict[str, Any]:
    """Return what a data.yaml states about the keypoints of a table; empty without any."""
    count = _most_points(table)
    if not count:
        return {}
    by_class = {each.class_name: each for each in table.skeletons}
    content: dict[str, Any] = {"kpt_shape": [count, 3]}
    mirrored = {each.mirrored for each in table.skeletons if each.mirrored}
    if len(mirrored) == 1 and len(min(mirrored)) == count:
        content["flip_idx"] = list(min(mirrored))
    if any(each.names for each in table.skeletons):
        content["kpt_names"] = {
            index: list(by_class[name].names)
            for index, name in enumerate(table.classes)
            if name in by_class and by_class[name].names
        }
    return content


def to_yolo(points: np.ndarray, count: int, size: tuple[int, int]) -> Iterable[str]:
    """Return the numbers of an object's keypoints as text, filled up to `count` points."""
    height, width = size
    for x, y, state in points.tolist():
        yield from (repr(x / width), repr(y / height), str(int(state)))
    yield from ("0",) * (3 * (count - len(points)))
