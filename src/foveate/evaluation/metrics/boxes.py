"""Detection: COCO's mean average precision of boxes and masks, and F1 at the best score threshold.

Letters: I images, D predictions, G target boxes, T thresholds of the IoU (0.5, 0.55 ... 0.95),
R recalls (0, 0.01 ... 1), K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from foveate.errors import DataError
from foveate.evaluation.intervals import Quantity, Statistics, Units, estimate
from foveate.evaluation.metrics import Metric
from foveate.evaluation.metrics._coco import (
    IOU_THRESHOLDS,
    MAX_DETECTIONS,
    Objects,
    coco_tables,
    iou_matrix,
    match_image,
)
from foveate.predictions import Boxes
from foveate.types import Score, Scores

_RECALLS = np.linspace(0, 1, 101)
_AT_75 = 5  # index of 0.75 in IOU_THRESHOLDS
_AREAS = ("small", "medium", "large")  # COCO's ranges after the first, which is all
_SAME_OBJECT = 0.5  # IoU from which two boxes are the same object, where one threshold has to do
_DEFAULT_THRESHOLD = 0.5  # of the score, where no prediction is right
_MOST_BLOCKS, _MIN_BLOCKS = 250, 50
_WORK = 25_000_000  # (predictions + thresholds x hits) x blocks left out: about a second

Matches = tuple[np.ndarray, np.ndarray]
"""Hits and ignored of an image, (T, D) bool each, as `match_image` returns them."""


class BoxMetric(Metric):
    """Compares Boxes with Boxes; agrees with pycocotools to 1e-6. All scores are in [0, 1].

    In this order:

    - `map`: the mean over classes and over the IoU thresholds 0.5, 0.55 ... 0.95 of the average
      precision (101 recalls, at most 100 predictions per class and image, crowds ignored);
    - `map_50`, `map_75`: at one threshold;
    - `map_small`, `map_medium`, `map_large`: of target boxes up to 32², up to 96² and above 96²
      square pixels (the area of the box; COCO's own files give that of the outline);
    - `mar_100`: the mean of the greatest recalls;
    - `f1`: of all classes together at IoU 0.5 and at the score threshold where it is greatest;
    - `mask_map`, `mask_map_50`, `mask_map_75`: where all predictions and all target objects have
      masks, as the first three with the IoU of the masks.

    What is undefined is left out: a range of areas without a target box. `map`, `map_50`, `map_75`,
    `mar_100` and those of masks have the jackknife's intervals over images or their groups. With
    few boxes per class an average precision is biased upwards, which no interval makes up for; the
    ranges of areas have none. `f1` has none either, because its threshold was chosen on the same
    images. The count of a score is the images, that of
    a class its target boxes. Equal scores rank in the order of the images, as in COCO.
    """

    reads = Boxes
    class_score = "map"

    def __init__(self, classes: tuple[str, ...], multilabel: bool = False) -> None:
        super().__init__(classes, multilabel)
        self._targets: list[Objects] = []
        self._predictions: list[Objects] = []
        self._matches: list[Matches] = []
        self._mask_matches: list[Matches | None] = []  # None where an image has no masks
        self._threshold = _DEFAULT_THRESHOLD

    def update(self, prediction: Boxes, target: Boxes) -> None:
        """Add one image.

        Raises:
            DataError: A class is unknown, the prediction has no scores in [0, 1], the boxes are not
                (N, 4) finite numbers with x0 <= x1 and y0 <= y1, or the masks differ in size.
        """
        targets, predictions = self._read_target(target), self._read_prediction(prediction)
        sizes = {tuple(mask["size"]) for each in (target, prediction) for mask in each.masks or ()}
        if len(sizes) > 1:
            raise DataError(
                "the masks of an image are of different sizes",
                why=f"(height, width): {sorted(sizes)}",
            )
        known = targets.masks is not None or not len(targets.classes)
        has_masks = known and predictions.masks is not None
        self._mask_matches.append(match_image(predictions, targets, "segm") if has_masks else None)
        self._matches.append(match_image(predictions, targets, "bbox"))
        self._targets.append(targets)
        self._predictions.append(predictions)

    def compute(self) -> Scores:
        """Return the scores listed above.

        Returns:
            `per_class`: class, map, map_50, precision, recall, f1 (the last three at IoU 0.5 and
                the
            best threshold), count (target boxes, no crowds), and mask_map where there are masks;
            None where undefined. `tables`:

            - `threshold`: the score in [0, 1] where `f1` is greatest, halfway to the next lower
              one;
            - `classes`: with 'background' at the end;
            - `confusion`: target rows by predicted columns at that threshold. By descending score a
              prediction takes the target box that it overlaps most, from IoU 0.5, whatever its
              class; the rest goes to the background;
            - `pr`: for each class with a target box 101 precisions at IoU 0.5, at the recalls 0,
              0.01 ... 1.

        Raises:
            DataError: There were no updates, or no target box.
        """
        if not self._targets:
            raise DataError("there is nothing to score", why="no image has target boxes")
        classes, images = self._target_boxes()
        if not len(classes):
            raise DataError(
                "there is nothing to score", why="no image has a target box that is not a crowd"
            )
        count = len(self._targets)
        precision, recall = coco_tables(self._targets, self._predictions, self.classes)
        ranked = _Ranked.of(self._predictions, self._matches)
        self._threshold, f1 = ranked.best_threshold(len(classes))
        values = {
            "map": precision[..., 0],
            "map_50": precision[0, :, :, 0],
            "map_75": precision[_AT_75, :, :, 0],
            **{f"map_{area}": precision[..., index] for index, area in enumerate(_AREAS, 1)},
            "mar_100": recall[..., 0],
        }
        units = self.units(count)
        numbers = _numbers(values, _statistics(ranked, classes, images, count), units)
        numbers["f1"] = Score(f1, count=count)
        counts = np.bincount(classes, minlength=len(self.classes))
        rows = self._rows(precision[..., 0], ranked, counts)
        if None not in self._mask_matches:
            numbers |= self._mask_numbers(classes, images, rows)
        return Scores(numbers, rows, self._tables(precision[0, :, :, 0]))

    def sample_loss(self, prediction: Boxes, target: Boxes) -> float:
        """Return the number of objects that are missed, invented or of another class.

        Measured at IoU 0.5 and the threshold that the last `compute` found (0.5 before). Of equal
        numbers the greater proportion of all objects is worse.

        Raises:
            DataError: As `update`.
        """
        rows, columns = self._pairs(self._read_prediction(prediction), self._read_target(target))
        wrong = int((rows != columns).sum())
        return wrong + wrong / (len(rows) + 1)

    def resampler(self) -> Callable[[np.ndarray], float]:
        """Return a function that computes `map` on a resample."""
        ranked, count = _Ranked.of(self._predictions, self._matches), len(self._targets)
        statistics = _statistics(ranked, *self._target_boxes(), count)[0]
        return lambda indices: float(statistics.values(indices)[0])

    def _target_boxes(self) -> tuple[np.ndarray, np.ndarray]:
        """(G,) classes and (G,) images of the target boxes, without crowds."""
        classes = [targets.classes[~targets.crowd] for targets in self._targets]
        images = np.repeat(np.arange(len(self._targets)), [len(each) for each in classes])
        return np.concatenate(classes), images

    def _read_target(self, boxes: Boxes) -> Objects:
        return self._read(boxes, "the target", np.ones(len(boxes.names)))

    def _read_prediction(self, boxes: Boxes) -> Objects:
        """By descending score, and of each class no more than COCO looks at."""
        if boxes.scores is None or np.shape(boxes.scores) != (len(boxes.names),):
            raise DataError("a prediction needs a score for each of its boxes")
        scores = np.asarray(boxes.scores, dtype=np.float64)
        if not np.isfinite(scores).all():
            raise DataError(
                "the model's scores are not finite numbers",
                why="its weights or activations overflowed",
                hint="a lower learning rate, or fp32",
            )
        if ((scores < 0) | (scores > 1)).any():
            why = f"they reach from {scores.min()} to {scores.max()}"
            raise DataError("the scores of a prediction must lie in [0, 1]", why=why)
        objects = self._read(boxes, "the prediction", scores)
        order = np.argsort(-scores, kind="stable")
        classes = objects.classes[order]
        kept = [np.flatnonzero(classes == each)[:MAX_DETECTIONS] for each in np.unique(classes)]
        return objects.subset(order[np.sort(np.concatenate(kept))] if kept else order)

    def _read(self, boxes: Boxes, who: str, scores: np.ndarray) -> Objects:
        count = len(boxes.names)
        xywh = _checked_xywh(boxes.xyxy, count, who)
        crowd = np.zeros(count) if boxes.crowd is None else np.asarray(boxes.crowd)
        classes = np.array(self.indices_of(boxes.names, who), dtype=np.int64)
        if boxes.masks is not None and len(boxes.masks) != count:
            raise DataError(
                f"{who} needs a mask for each of its boxes",
                why=f"boxes: {count}, masks: {len(boxes.masks)}",
            )
        masks = None if boxes.masks is None else np.array(boxes.masks, dtype=object)
        return Objects(xywh, classes, scores, crowd.astype(bool), masks)

    def _mask_numbers(
        self, classes: np.ndarray, images: np.ndarray, rows: list[dict[str, Any]]
    ) -> dict[str, Score]:
        """Scores by masks; the `rows` of the classes get theirs. `classes`, `images`: (G,)."""
        count = len(self._targets)
        tables = coco_tables(self._targets, self._predictions, self.classes, "segm")
        precision = tables[0][..., 0]
        for index, row in enumerate(rows):
            row["mask_map"] = _mean(precision[:, :, index])
        matches = [each for each in self._mask_matches if each is not None]
        ranked = _Ranked.of(self._predictions, matches)
        values = {"map": precision, "map_50": precision[0], "map_75": precision[_AT_75]}
        statistics = _statistics(ranked, classes, images, count)
        numbers = _numbers(values, statistics, self.units(count))
        return {f"mask_{name}": score for name, score in numbers.items()}

    def _tables(self, precision: np.ndarray) -> dict[str, Any]:
        """`precision`: (R, K) at IoU 0.5."""
        curves = zip(self.classes, precision.T.round(4).tolist(), strict=True)
        return {
            "threshold": self._threshold,
            "classes": [*self.classes, "background"],
            "confusion": self._confusion().tolist(),
            "pr": {name: curve for name, curve in curves if curve[0] >= 0},
        }

    def _pairs(self, predictions: Objects, targets: Objects) -> tuple[np.ndarray, np.ndarray]:
        """Target and predicted classes at the threshold, one entry per object; K is the background.

        A prediction that matches only a crowd of its class is left out.
        """
        predictions = predictions.subset(predictions.scores >= self._threshold)
        crowds, targets = targets.subset(targets.crowd), targets.subset(~targets.crowd)
        background = len(self.classes)
        in_crowd = iou_matrix(predictions, crowds) >= _SAME_OBJECT
        excused = (in_crowd & (predictions.classes[:, None] == crowds.classes)).any(1)
        matched, unmatched = np.full(len(targets.classes), background), []
        free = np.ones(len(targets.classes), dtype=bool)
        ious = iou_matrix(predictions, targets)
        for index, row, excuse in zip(predictions.classes, ious, excused, strict=True):
            candidates = np.where(free & (row >= _SAME_OBJECT), row, 0)
            if candidates.any():  # of equal overlaps the one of its own class
                best = np.lexsort((targets.classes == index, candidates))[-1]
                free[best], matched[best] = False, index
            elif not excuse:
                unmatched.append(index)
        rows = np.concatenate([targets.classes, [background] * len(unmatched)])
        return rows.astype(np.int64), np.concatenate([matched, unmatched]).astype(np.int64)

    def _confusion(self) -> np.ndarray:
        """(K + 1, K + 1) int64 objects, target rows by predicted columns, the background last."""
        side = len(self.classes) + 1
        counts = np.zeros(side * side, dtype=np.int64)
        for predictions, targets in zip(self._predictions, self._targets, strict=True):
            rows, columns = self._pairs(predictions, targets)
            np.add.at(counts, rows * side + columns, 1)
        return counts.reshape(side, side)

    def _rows(
        self, precision: np.ndarray, ranked: _Ranked, targets: np.ndarray
    ) -> list[dict[str, Any]]:
        """`precision`: (T, R, K). `targets`: (K,) boxes."""
        counted = ~ranked.ignored[0] & (ranked.scores >= self._threshold)
        size = len(self.classes)
        predicted = np.bincount(ranked.classes[counted], minlength=size)
        correct = np.bincount(ranked.classes[counted & ranked.hits[0]], minlength=size)
        return [
            {
                "class": name,
                "map": _mean(precision[:, :, i]),
                "map_50": _mean(precision[0, :, i]),
                "precision": _divide(correct[i], predicted[i]),
                "recall": _divide(correct[i], targets[i]),
                "f1": _divide(2 * correct[i], predicted[i] + targets[i]),
                "count": int(targets[i]),
            }
            for i, name in enumerate(self.classes)
        ]


def _checked_xywh(boxes: np.ndarray, count: int, who: str) -> np.ndarray:
    """(count, 4) xyxy -> float64 xywh."""
    xyxy = np.asarray(boxes, dtype=np.float64)
    if xyxy.shape != (count, 4) and (count or xyxy.size):
        raise DataError(
            f"{who} needs four numbers for each of its boxes",
            why=f"boxes: {count}, shape of the numbers: {xyxy.shape}",
        )
    xyxy = xyxy.reshape(count, 4)
    low, high = xyxy[:, :2], xyxy[:, 2:]
    if not np.isfinite(xyxy).all() or (low > high).any():
        valid = np.isfinite(xyxy).all(1) & (low <= high).all(1)
        raise DataError(
            f"{who} has an invalid box: {xyxy[~valid][0].tolist()}",
            why="x0 <= x1 and y0 <= y1 must be finite numbers",
        )
    return np.concatenate([low, high - low], axis=1)


@dataclass(frozen=True)
class _Ranked:
    """All predictions by descending score.

    Attributes:
        images: (D,) indices.
        classes: (D,) indices.
        scores: (D,).
        hits: (T, D) bool, whether a prediction matches a target box.
        ignored: (T, D) bool, whether it does not count because it matches a crowd.
    """

    images: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    hits: np.ndarray
    ignored: np.ndarray

    @classmethod
    def of(cls, predictions: list[Objects], matches: list[Matches]) -> _Ranked:
        scores = np.concatenate([each.scores for each in predictions])
        order = np.argsort(-scores, kind="stable")
        images = np.repeat(np.arange(len(predictions)), [len(each.scores) for each in predictions])
        classes = np.concatenate([each.classes for each in predictions])
        hits = np.concatenate([hits for hits, _ in matches], axis=1)
        ignored = np.concatenate([ignored for _, ignored in matches], axis=1)
        return cls(images[order], classes[order], scores[order], hits[:, order], ignored[:, order])

    def best_threshold(self, boxes: int) -> tuple[float, float]:
        """Return the score threshold of the greatest F1 at IoU 0.5 (the highest), and that F1."""
        counted = ~self.ignored[0]
        scores, correct = self.scores[counted], np.cumsum(self.hits[0, counted])
        # predictions with equal scores stand or fall together: the last one of each
        ends = np.flatnonzero(np.diff(scores, append=-1))
        f1 = 2 * correct[ends] / (ends + 1 + boxes)
        if not f1.any():
            return _DEFAULT_THRESHOLD, 0.0
        best = int(f1.argmax())
        last, following = scores[ends[best]], scores[ends[min(best + 1, len(ends) - 1)]]
        return float((last + following) / 2), float(f1[best])


class _Curve:
    """The ranked predictions of one class, prepared so that a resample costs two running sums.

    Precision and recall rise at hits only, so that the predictions that hit at some threshold say
    all there is to say about it.
    """

    def __init__(self, ranked: _Ranked, index: int, boxes: np.ndarray) -> None:
        """`boxes`: (G,) the images of the target boxes of the class `index`."""
        own = ranked.classes == index
        hits = ranked.hits[:, own]
        self._steps = np.flatnonzero(hits.any(0))
        until_last_hit = slice(0, int(self._steps[-1]) + 1 if len(self._steps) else 0)
        counted = ~ranked.ignored[:, own][:, until_last_hit]
        self._counted = counted[:1] if counted.all() else counted  # without crowds all T are equal
        self._images, self._boxes = ranked.images[own][until_last_hit], boxes
        self._hits = hits[:, self._steps]
        self.work = self._counted.size + self._hits.size

    def measure(self, weights: np.ndarray) -> np.ndarray:
        """(I,) weights of images -> (2, T): average precision and greatest recall.

        nan where no target box is left.
        """
        total = weights[self._boxes].sum()
        if not total:
            return np.full((2, len(IOU_THRESHOLDS)), np.nan)
        if not len(self._steps):
            return np.zeros((2, len(IOU_THRESHOLDS)))
        weight = weights[self._images]
        true_positives = np.cumsum(self._hits * weight[self._steps], axis=1)
        retrieved = np.cumsum(self._counted * weight, axis=1)[:, self._steps]
        precision = true_positives / np.maximum(1, retrieved)  # 0 / 0 is 0
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        recall = true_positives / total
        reached = np.diff(np.searchsorted(_RECALLS, recall, side="right"), axis=1, prepend=0)
        return np.stack([(envelope * reached).sum(1) / len(_RECALLS), recall[:, -1]])


def _numbers(
    tables: dict[str, np.ndarray], means: tuple[Statistics, int], units: Units
) -> dict[str, Score]:
    """Scores that COCO's tables give, with intervals for those that `means` has too.

    Args:
        tables: What each score is the mean of, -1 where undefined.
        means: As `_statistics` returns them.
        units: Of the images.
    """
    own = {name: mean for name, table in tables.items() if (mean := _mean(table)) is not None}
    without = Score(0.0, count=len(units.of_image))
    estimated = estimate(means[0], units, means[1])
    return {name: replace(estimated.get(name, without), value=mean) for name, mean in own.items()}


def _statistics(
    ranked: _Ranked, classes: np.ndarray, images: np.ndarray, count: int
) -> tuple[Statistics, int]:
    """map, map_50, map_75 and mar_100, and how many blocks may be left out.

    Args:
        ranked: All predictions.
        classes: (G,) of the target boxes.
        images: (G,) of the target boxes.
        count: Number of images.
    """
    curves = _curves(ranked, classes, images)
    work = sum(curve.work + 1 for curve in curves)
    members = np.zeros((count, int(classes.max()) + 1), dtype=bool)
    members[images, classes] = True
    names = ("map", "map_50", "map_75", "mar_100")
    quantities = tuple(Quantity(name, members=members) for name in names)
    statistics = Statistics(quantities, _resampled_means(curves, count))
    return statistics, int(np.clip(_WORK // work, _MIN_BLOCKS, _MOST_BLOCKS))


def _curves(ranked: _Ranked, classes: np.ndarray, images: np.ndarray) -> list[_Curve]:
    """One for each class with a target box."""
    return [_Curve(ranked, index, images[classes == index]) for index in np.unique(classes)]


def _resampled_means(curves: list[_Curve], count: int) -> Callable[[np.ndarray], np.ndarray]:
    """A function of the indices of a resample: (4,) map, map_50, map_75 and mar_100."""

    def means(indices: np.ndarray) -> np.ndarray:
        weights = np.bincount(indices, minlength=count).astype(np.float64)
        measured = np.stack([curve.measure(weights) for curve in curves])
        known = measured[~np.isnan(measured[:, 0, 0])]
        if not len(known):
            return np.full(4, np.nan)
        precision, recall = known.mean(0)
        return np.array([precision.mean(), precision[0], precision[_AT_75], recall.mean()])

    return means


def _mean(values: np.ndarray) -> float | None:
    """The mean of what is defined; None where all of it is COCO's -1."""
    known = values[values > -1]
    return float(known.mean()) if known.size else None


def _divide(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None
