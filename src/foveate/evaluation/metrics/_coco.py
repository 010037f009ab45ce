"""Matching of objects by COCO's rule, by boxes or masks, and COCO's tables of precision and recall.

Letters: D predictions, G target objects, N either, T thresholds of the IoU, R recalls, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from foveate.utils.rle import rle_area

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
MAX_DETECTIONS = 100  # predictions of one class in one image that COCO looks at

IouType = Literal["bbox", "segm"]


@dataclass(frozen=True)
class Objects:
    """The objects of one image.

    Attributes:
        xywh: (N, 4) float64 boxes, pixels.
        classes: (N,) int64 class indices.
        scores: (N,) float64.
        crowd: (N,) bool, COCO iscrowd.
        masks: (N,) RLE, or None where only boxes are known.
    """

    xywh: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    crowd: np.ndarray
    masks: np.ndarray | None = None

    def subset(self, rows: np.ndarray) -> Objects:
        """Return some of the objects; `rows` are indices or (N,) bool."""
        masks = None if self.masks is None else self.masks[rows]
        return Objects(
            self.xywh[rows], self.classes[rows], self.scores[rows], self.crowd[rows], masks
        )

    def shapes(self, kind: IouType) -> Any:
        """Return what COCO compares: boxes, or run lengths."""
        if kind == "bbox" or self.masks is None:
            return self.xywh
        return [{**mask, "counts": mask["counts"].encode("ascii")} for mask in self.masks]


def match(ious: np.ndarray, crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Match predictions to target objects of one class in one image.

    COCO's rule: each prediction takes the unmatched object that it overlaps most, of equal ones the
    last; a crowd takes any number of predictions.

    Args:
        ious: (D, G), by descending score of the predictions.
        crowd: (G,) bool.

    Returns:
        Two (T, D) bool: whether a prediction matches an object, and whether it is ignored because
        it matches only a crowd.
    """
    shape = (len(IOU_THRESHOLDS), len(ious))
    hits, ignored = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    free = np.ones((len(IOU_THRESHOLDS), len(crowd)), dtype=bool)
    rows = np.arange(len(IOU_THRESHOLDS))
    for prediction in np.flatnonzero((ious >= IOU_THRESHOLDS[0]).any(1)):
        enough = ious[prediction] >= IOU_THRESHOLDS[:, None]
        candidates = np.where(enough & free & ~crowd, ious[prediction], 0)
        best = len(crowd) - 1 - candidates[:, ::-1].argmax(1)
        hit = candidates[rows, best] > 0
        free[rows[hit], best[hit]] = False
        hits[:, prediction] = hit
        ignored[:, prediction] = ~hit & (enough & crowd).any(1)
    return hits, ignored


def iou_matrix(predictions: Objects, targets: Objects, kind: IouType = "bbox") -> np.ndarray:
    """Return (D, G) float64 IoUs; for a crowd the intersection over the prediction's own area."""
    from faster_coco_eval.core import mask as coco

    if not len(predictions.classes) or not len(targets.classes):
        return np.zeros((len(predictions.classes), len(targets.classes)))
    crowd = targets.crowd.astype(int).tolist()
    return np.asarray(coco.iou(predictions.shapes(kind), targets.shapes(kind), crowd))


def match_image(
    predictions: Objects, targets: Objects, kind: IouType
) -> tuple[np.ndarray, np.ndarray]:
    """Match the objects of one image, each class by itself; returns as `match`."""
    hits = np.zeros((len(IOU_THRESHOLDS), len(predictions.classes)), dtype=bool)
    ignored = np.zeros_like(hits)
    for index in np.intersect1d(targets.classes, predictions.classes):
        own, targets_of_class = predictions.classes == index, targets.classes == index
        objects = targets.subset(targets_of_class)
        ious = iou_matrix(predictions.subset(own), objects, kind)
        hits[:, own], ignored[:, own] = match(ious, objects.crowd)
    return hits, ignored


def coco_tables(
    targets: list[Objects],
    predictions: list[Objects],
    classes: tuple[str, ...],
    kind: IouType = "bbox",
) -> tuple[np.ndarray, np.ndarray]:
    """Return COCO's own tables: precision (T, R, K, 4) and recall (T, K, 4).

    The last axis is all areas, small, medium, large. -1 where there is no target object.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    images = [
        {"id": number, **_image_size(pair)}
        for number, pair in enumerate(zip(targets, predictions, strict=True), 1)
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
    frame = {"images": images, "categories": categories}
    ground_truth, detections = (
        COCO(frame | {"annotations": _annotations(objects, kind)})
        for objects in (targets, predictions)
    )
    evaluation = COCOeval_faster(ground_truth, detections, iouType=kind)
    evaluation.params.maxDets = [MAX_DETECTIONS]
    evaluation.evaluate()
    evaluation.accumulate()
    precision, recall = (np.asarray(evaluation.eval[name]) for name in ("precision", "recall"))
    return precision[..., 0], recall[..., 0]


def _image_size(pair: tuple[Objects, Objects]) -> dict[str, int]:
    """Height and width of the image, which COCO needs for masks."""
    sizes = [mask["size"] for each in pair if each.masks is not None for mask in each.masks]
    height, width = sizes[0] if sizes else (1, 1)
    return {"height": height, "width": width}


def _annotations(images: list[Objects], kind: IouType) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number, objects in enumerate(images, 1):
        count = len(objects.classes)
        known = kind == "segm" and objects.masks is not None
        masks: Any = objects.masks if known else [None] * count
        columns = (objects.xywh, objects.classes, objects.scores, objects.crowd)
        lists = (column.tolist() for column in columns)
        for box, index, score, crowd, mask in zip(*lists, masks, strict=True):
            row = {
                "id": len(rows) + 1,  # 0 would read as 'unmatched'
                "image_id": number,
                "category_id": index + 1,
                "bbox": box,
                "score": score,
                "iscrowd": int(crowd),
                "area": box[2] * box[3] if mask is None else rle_area(mask),
            }
            rows.append(row if mask is None else row | {"segmentation": mask})
    return rows
