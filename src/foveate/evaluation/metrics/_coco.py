"""Objects matched as COCO matches them, by their boxes or by their masks; and COCO's own tables of precision and recall.

Letters: D answers, G true objects, N either, T limits of the IoU, R recalls, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from foveate.utils.rle import area

LIMITS = np.linspace(0.5, 0.95, 10)
MOST = 100  # answers of one class in one image that COCO looks at

Kind = Literal["bbox", "segm"]


@dataclass(frozen=True)
class Objects:
    """One image's objects. `xywh`: (N, 4) float64 boxes. `places`: (N,) int64 classes. `scores`: (N,) float64. `crowd`: (N,) bool.
    `masks`: (N,) Runs, or None where only boxes are known."""

    xywh: np.ndarray
    places: np.ndarray
    scores: np.ndarray
    crowd: np.ndarray
    masks: np.ndarray | None = None

    def part(self, chosen: np.ndarray) -> Objects:
        masks = None if self.masks is None else self.masks[chosen]
        return Objects(
            self.xywh[chosen], self.places[chosen], self.scores[chosen], self.crowd[chosen], masks
        )

    def shapes(self, kind: Kind) -> Any:
        """What COCO compares: boxes or run lengths."""
        if kind == "bbox" or self.masks is None:
            return self.xywh
        return [{**mask, "counts": mask["counts"].encode("ascii")} for mask in self.masks]


def matched(overlaps: np.ndarray, crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T, D) bool, twice: whether an answer found a true box, and whether it is ignored for having found but a crowd.

    `overlaps`: (D, G) of one class in one image, the surest answer first; `crowd`: (G,). COCO's rule: each answer takes the
    free box that it overlaps most, of equals the last; a crowd takes any number of answers.
    """
    shape = (len(LIMITS), len(overlaps))
    hits, ignored = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    free, limits = np.ones((len(LIMITS), len(crowd)), dtype=bool), np.arange(len(LIMITS))
    for answer in np.flatnonzero((overlaps >= LIMITS[0]).any(1)):
        enough = overlaps[answer] >= LIMITS[:, None]
        nearest = np.where(enough & free & ~crowd, overlaps[answer], 0)
        best = len(crowd) - 1 - nearest[:, ::-1].argmax(1)
        hit = nearest[limits, best] > 0
        free[limits[hit], best[hit]] = False
        hits[:, answer], ignored[:, answer] = hit, ~hit & (enough & crowd).any(1)
    return hits, ignored


def overlaps_of(answers: Objects, truths: Objects, kind: Kind = "bbox") -> np.ndarray:
    """(D, G) float64: intersection over union; over the answer's own area where the truth is a crowd."""
    from faster_coco_eval.core import mask as coco

    if not len(answers.places) or not len(truths.places):
        return np.zeros((len(answers.places), len(truths.places)))
    return np.asarray(
        coco.iou(answers.shapes(kind), truths.shapes(kind), truths.crowd.astype(int).tolist())
    )


def hits_of(answers: Objects, truths: Objects, kind: Kind) -> tuple[np.ndarray, np.ndarray]:
    """(T, D) bool, twice: as `matched` says, over all classes of an image."""
    hits = np.zeros((len(LIMITS), len(answers.places)), dtype=bool)
    ignored = np.zeros_like(hits)
    for place in np.intersect1d(truths.places, answers.places):
        mine, theirs = answers.places == place, truths.part(truths.places == place)
        hits[:, mine], ignored[:, mine] = matched(
            overlaps_of(answers.part(mine), theirs, kind), theirs.crowd
        )
    return hits, ignored


def judged(
    truths: list[Objects], answers: list[Objects], classes: tuple[str, ...], kind: Kind = "bbox"
) -> tuple[np.ndarray, np.ndarray]:
    """COCO's own tables, precision (T, R, K, 4) and recall (T, K, 4); the last axis: all areas, small, medium, large. -1 where
    there is no true box."""
    from faster_coco_eval import COCO, COCOeval_faster

    frame = {
        "images": [
            {"id": number, **_extent(pair)}
            for number, pair in enumerate(zip(truths, answers, strict=True), 1)
        ],
        "categories": [{"id": place, "name": name} for place, name in enumerate(classes, 1)],
    }
    sides = (COCO(frame | {"annotations": _annotations(side, kind)}) for side in (truths, answers))
    judge = COCOeval_faster(*sides, iouType=kind)
    judge.params.maxDets = [MOST]
    judge.evaluate()
    judge.accumulate()
    return np.asarray(judge.eval["precision"])[..., 0], np.asarray(judge.eval["recall"])[..., 0]


def _extent(pair: tuple[Objects, Objects]) -> dict[str, int]:
    """The image's sides, which COCO asks for where there are masks."""
    sizes = [mask["size"] for each in pair if each.masks is not None for mask in each.masks]
    height, width = sizes[0] if sizes else (1, 1)
    return {"height": height, "width": width}


def _annotations(images: list[Objects], kind: Kind) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number, each in enumerate(images, 1):
        parts = each.xywh.tolist(), each.places.tolist(), each.scores.tolist(), each.crowd.tolist()
        masks = (
            each.masks if kind == "segm" and each.masks is not None else [None] * len(each.places)
        )
        for box, place, score, crowd, mask in zip(*parts, masks, strict=True):
            row = {
                "image_id": number,
                "category_id": place + 1,
                "bbox": box,
                "score": score,
                "iscrowd": int(crowd),
            }
            rows.append(
                row | {"area": box[2] * box[3]}
                if mask is None
                else row | {"area": area(mask), "segmentation": mask}
            )
    return [
        row | {"id": number} for number, row in enumerate(rows, 1)
    ]  # 0 would read as 'unmatched'
