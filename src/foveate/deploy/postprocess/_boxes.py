"""From the raw outputs of a detector to boxes, with NumPy only.

Letters: A anchors, K classes, N boxes. Boxes are x0, y0, x1, y1.
"""

import numpy as np


def select_boxes(
    boxes: np.ndarray,
    scores: np.ndarray,
    *,
    min_score: float,
    max_candidates: int,
    nms: bool,
    nms_iou: float,
    max_boxes: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Select the boxes of one square.

    Args:
        boxes: (A, 4).
        scores: (A, K).
        min_score: Only higher scores are considered.
        max_candidates: Only so many of the highest scores are considered.
        nms: Whether to suppress overlapping boxes of the same class.
        nms_iou: Intersection over union above which the box with the lower score is suppressed.
        max_boxes: Greatest number of boxes.

    Returns:
        (N, 4) boxes, (N,) scores and (N,) indices of classes, by descending score.
    """
    anchors, classes = (scores > min_score).nonzero()
    values = scores[anchors, classes]
    order = np.argsort(-values, kind="stable")[:max_candidates]
    boxes, values, classes = boxes[anchors[order]], values[order], classes[order]
    kept = _non_maximum_suppression(boxes, classes, nms_iou) if nms else np.arange(len(values))
    return boxes[kept[:max_boxes]], values[kept[:max_boxes]], classes[kept[:max_boxes]]


def to_image_pixels(
    boxes: np.ndarray, view: tuple[float, ...], size: tuple[int, int], side: int
) -> np.ndarray:
    """Map boxes from a square to the image, and clip them to it.

    Args:
        boxes: (N, 4), px of the square.
        view: The rectangle (x0, y0, x1, y1) of the upright image that the square shows, px.
        size: (H, W) of the image.
        side: Side of the square, px.

    Returns:
        (N, 4) float32, px of the image.
    """
    corner = np.array([view[0], view[1]] * 2, np.float32)
    scale = np.array([(view[2] - view[0]) / side, (view[3] - view[1]) / side] * 2, np.float32)
    height, width = size
    clipped: np.ndarray = np.clip(boxes * scale + corner, 0, [width, height, width, height])
    return clipped.astype(np.float32)


def _non_maximum_suppression(boxes: np.ndarray, classes: np.ndarray, max_iou: float) -> np.ndarray:
    """Return the indices of the boxes to keep, class by class; boxes come by descending score."""
    kept = np.ones(len(boxes), bool)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    for index in range(len(boxes)):
        if kept[index]:
            rest = slice(index + 1, None)
            low = np.maximum(boxes[index, :2], boxes[rest, :2])
            high = np.minimum(boxes[index, 2:], boxes[rest, 2:])
            intersection = (high - low).clip(0).prod(1)
            union = areas[index] + areas[rest] - intersection
            overlap = intersection / np.maximum(union, 1e-9)
            kept[rest] &= ~((overlap > max_iou) & (classes[rest] == classes[index]))
    return kept.nonzero()[0]
