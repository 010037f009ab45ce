"""From what a detector says of all its places to objects, with NumPy alone.

Letters: A places, K classes, N objects. Boxes are x0, y0, x1, y1.
"""

import numpy as np


def objects_of(
    boxes: np.ndarray,
    scores: np.ndarray,
    *,
    least: float,
    candidates: int,
    suppress: float,
    alone: bool,
    most: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(A, 4) and (A, K) of one square -> (N, 4), (N,) and (N,) places of classes, the surest first.

    Of the scores above `least`, the `candidates` greatest are looked at; where a place may stand `alone` for an object, nothing is
    suppressed; else of two boxes of a class that overlap by more than `suppress` the surer one stays. At most `most` are kept.
    """
    places, classes = (scores > least).nonzero()
    values = scores[places, classes]
    order = np.argsort(-values, kind="stable")[:candidates]
    boxes, values, classes = boxes[places[order]], values[order], classes[order]
    kept = np.arange(len(values)) if alone else _kept(boxes, classes, suppress)
    return boxes[kept[:most]], values[kept[:most]], classes[kept[:most]]


def in_picture(
    boxes: np.ndarray, view: tuple[float, ...], size: tuple[int, int], side: int
) -> np.ndarray:
    """(N, 4) on a square of `side` px that shows the rectangle `view` -> pixels of the upright picture of `size` (H, W), cut at its
    edges."""
    corner = np.array([view[0], view[1]] * 2, np.float32)
    scale = np.array([(view[2] - view[0]) / side, (view[3] - view[1]) / side] * 2, np.float32)
    height, width = size
    found: np.ndarray = np.clip(boxes * scale + corner, 0, [width, height, width, height]).astype(
        np.float32
    )
    return found


def _kept(boxes: np.ndarray, classes: np.ndarray, suppress: float) -> np.ndarray:
    """(N,) boxes that come with the surest first -> the places of those that stay (greedy suppression, class by class)."""
    stays = np.ones(len(boxes), bool)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    for place in range(len(boxes)):
        if stays[place]:
            behind = slice(place + 1, None)
            low, high = (
                np.maximum(boxes[place, :2], boxes[behind, :2]),
                np.minimum(boxes[place, 2:], boxes[behind, 2:]),
            )
            shared = (high - low).clip(0).prod(1)
            overlap = shared / np.maximum(areas[place] + areas[behind] - shared, 1e-9)
            stays[behind] &= ~((overlap > suppress) & (classes[behind] == classes[place]))
    return stays.nonzero()[0]
