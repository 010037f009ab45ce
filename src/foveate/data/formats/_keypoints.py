"""Keypoints of objects in the files of COCO and YOLO.

They are not trained on, but kept, so that `foveate convert` can write them again. P: number of
points of an object.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from foveate.data.boxes import labeled_points
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


def most_points(table: Table) -> Counter[str]:
    """Return the largest number of points of an object, by class; only of classes with some."""
    most = Counter[str]()
    for sample in table.samples:
        if isinstance(sample.target, Boxes) and sample.target.keypoints:
            for name, points in zip(sample.target.names, sample.target.keypoints, strict=True):
                most[name] = max(most[name], len(points))
    return +most


# --- COCO


def parse_coco(stated: object) -> np.ndarray:
    """Return COCO's x, y, v, x, y, v, ... as (P, 3) float32.

    Raises:
        ValueError: They are something else.
    """
    try:
        numbers = np.array(stated, dtype=np.float32)
    except (TypeError, OverflowError) as error:
        raise ValueError(str(error)) from None
    if numbers.ndim != 1 or numbers.size % 3 or numbers.size > 3 * _MAX_POINTS:
        raise ValueError("not three numbers for each point")
    if not np.isfinite(numbers).all():
        raise ValueError("a number is not finite")
    return numbers.reshape(-1, 3)


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


def to_categories(table: Table) -> list[dict[str, Any]]:
    """Return the categories of COCO for the classes of a table, without ids."""
    most, by_class = most_points(table), {each.class_name: each for each in table.skeletons}
    categories = []
    for name in table.classes:
        skeleton = by_class.get(name, Skeleton(name))
        points = list(skeleton.names) or [str(number + 1) for number in range(most[name])]
        edges = [[one + 1, other + 1] for one, other in skeleton.edges]
        stated = {"keypoints": points, "skeleton": edges} if points else {}
        categories.append({"name": name, **stated})
    return categories


def to_annotation(points: np.ndarray) -> dict[str, Any]:
    """Return what an annotation of COCO states about the keypoints of an object."""
    if not len(points):
        return {}
    flat = [number for x, y, state in points.tolist() for number in (x, y, int(state))]
    return {"keypoints": flat, "num_keypoints": labeled_points(points)}


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

    def parse(self, values: list[float], size: tuple[int, int]) -> np.ndarray:
        """Return the numbers after a box, fractions of the (H, W) of the image, as (P, 3) float32.

        Raises:
            ValueError: They are not as many as stated.
        """
        if len(values) != self.count * self.width or not np.isfinite(values).all():
            raise ValueError(f"not {self.width} numbers for each of {self.count} points")
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
    count = max(most_points(table).values(), default=0)
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
