"""Objects in boxes and masks: mean average precision as COCO measures it, and how the answers fare at one threshold of the score.

Letters: D answers, G true boxes, T limits of the IoU (0.5, 0.55 ... 0.95), R recalls (0, 0.01 ... 1), K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from foveate.errors import DataError
from foveate.evaluation.intervals import bootstraps
from foveate.evaluation.metrics import Metric, with_interval
from foveate.evaluation.metrics._coco import LIMITS, MOST, Objects, hits_of, judged, overlaps_of
from foveate.predictions import Boxes
from foveate.types import Score, Scores

_RECALLS = np.linspace(0, 1, 101)
_AT_75 = 5  # the place of 0.75 among the limits
_AREAS = ("small", "medium", "large")  # COCO's ranges after the first, which is all
_UNKNOWN = (math.nan, math.nan)
_SAME = 0.5  # IoU from which two boxes are the same object, wherever one number has to do
_UNTUNED = 0.5  # the threshold of the score where no answer is right
_ROUNDS = 400
_FEWEST_ROUNDS = 100
_WORK = 50_000_000  # (answers + limits x hits) x rounds that a bootstrap may cost: a second or two


class BoxMetric(Metric):
    """Compares Boxes with Boxes; agrees with pycocotools to 1e-6. All numbers are in [0, 1].

    In this order: `map`, the mean over classes and over the IoU limits 0.5, 0.55 ... 0.95 of the average precision (101
    recalls, at most 100 answers a class and image, crowds ignored); `map_50` and `map_75`, at one limit; `map_small`,
    `map_medium`, `map_large`, of true boxes up to 32², up to 96² and above 96² square pixels (the area is the box's: COCO's
    own files give the outline's); `mar_100`, the mean of the greatest recalls; `f1` of all classes together at IoU 0.5 and at
    the threshold of the score where it is greatest. Where all answers and all true objects have masks: `mask_map`, `mask_map_50`
    and `mask_map_75`, as the first three, with the IoU of the masks.

    What is undefined is left out: a range of areas without a true box. `map`, `map_50`, `map_75`, `mar_100` and those of masks
    have bootstraps over images, mirrored at the value: few boxes a class flatter an average precision, and resampling flatters
    it once more. With less than some 20 boxes a class they are still too narrow. `f1` has none, because its threshold was chosen
    on the same images. The count of a number is the images, that of a class its true boxes. Equal scores rank as the images
    came, as in COCO.
    """

    reads = Boxes
    per_class = "map"

    def __init__(self, classes: tuple[str, ...], multilabel: bool = False) -> None:
        super().__init__(classes, multilabel)
        self._truths: list[Objects] = []
        self._answers: list[Objects] = []
        self._hits: list[np.ndarray] = []  # (T, D) bool an image
        self._ignored: list[np.ndarray] = []
        self._drawn: list[
            tuple[np.ndarray, np.ndarray] | None
        ] = []  # the same two by masks, None where they are not known
        self._threshold = _UNTUNED

    def update(self, prediction: Boxes, truth: Boxes) -> None:
        """One image. Raises DataError for a class that the run does not know, for an answer without scores in [0, 1], and
        for boxes that are not (N, 4) finite numbers with x0 <= x1 and y0 <= y1, for masks of different sizes."""
        truths, answers = self._truth(truth), self._answer(prediction)
        sizes = {tuple(mask["size"]) for each in (truth, prediction) for mask in each.masks or ()}
        if len(sizes) > 1:
            raise DataError(
                "the masks of an image are of different sizes",
                why=f"(height, width): {sorted(sizes)}",
            )
        hits, ignored = hits_of(answers, truths, "bbox")
        known = answers.masks is not None and (truths.masks is not None or not len(truths.places))
        self._drawn.append(hits_of(answers, truths, "segm") if known else None)
        self._truths.append(truths)
        self._answers.append(answers)
        self._hits.append(hits)
        self._ignored.append(ignored)

    def compute(self) -> Scores:
        """The numbers listed above. `per_class`: class, map, map_50, precision, recall, f1 (the last three at IoU 0.5 and the
        best threshold), count (true boxes, no crowds), and mask_map where there are masks; None where undefined.

        `tables`: `threshold`, the score in [0, 1] where `f1` is greatest, halfway to the next lower score; `classes`, with
        'background' at the end; `confusion`, rows of truth by columns of answers at that threshold: the surest answer first takes
        the true box that it overlaps most, from IoU 0.5, whatever the class, and the rest go to the background; `pr`, by class
        with a true box 101 precisions at IoU 0.5, of the recalls 0, 0.01 ... 1.

        Raises DataError without updates and without a true box.
        """
        if not self._truths:
            raise DataError(
                "there is nothing to score", why="no image has both an answer and true boxes"
            )
        boxes, images = self._true_boxes()
        if not len(boxes):
            raise DataError(
                "there is nothing to score", why="no image has a true box that is not a crowd"
            )
        precision, recall = judged(self._truths, self._answers, self.classes)
        ranked = _Ranked.of(self._answers, self._hits, self._ignored)
        self._threshold, f1 = ranked.best(len(boxes))
        values = {
            "map": precision[..., 0],
            "map_50": precision[0, :, :, 0],
            "map_75": precision[_AT_75, :, :, 0],
        }
        values |= {f"map_{area}": precision[..., place] for place, area in enumerate(_AREAS, 1)}
        values["mar_100"] = recall[..., 0]
        numbers = _numbers(
            values, _drawn(ranked, boxes, images, len(self._truths)), len(self._truths)
        )
        numbers["f1"] = Score(f1, count=len(self._truths))
        curves = zip(self.classes, precision[0, :, :, 0].T.round(4).tolist(), strict=True)
        tables = {
            "threshold": self._threshold,
            "classes": [*self.classes, "background"],
            "confusion": self._confusion().tolist(),
            "pr": {name: curve for name, curve in curves if curve[0] >= 0},
        }
        rows = self._rows(
            precision[..., 0], ranked, np.bincount(boxes, minlength=len(self.classes))
        )
        if drawn := [found for found in self._drawn if found is not None]:
            numbers |= self._mask_numbers(drawn, boxes, images, rows)
        return Scores(numbers, rows, tables)

    def sample_losses(self, prediction: Boxes, truth: Boxes) -> float:
        """How many objects are missed, invented or taken for another class, at IoU 0.5 and the threshold that the last `compute`
        found (0.5 before); of equal numbers the greater share of all objects is worse. Raises DataError as `update` does."""
        rows, columns = self._pairs(self._answer(prediction), self._truth(truth))
        wrong = int((rows != columns).sum())
        return wrong + wrong / (len(rows) + 1)

    def resampler(self) -> Callable[[np.ndarray], float]:
        boxes, images = self._true_boxes()
        means = _means_of(
            _curves(_Ranked.of(self._answers, self._hits, self._ignored), boxes, images),
            len(self._truths),
        )
        return lambda places: float(means(places)[0])

    def _true_boxes(self) -> tuple[np.ndarray, np.ndarray]:
        """(G,) classes and (G,) images of the true boxes, without crowds."""
        boxes = np.concatenate([truth.places[~truth.crowd] for truth in self._truths])
        return boxes, np.repeat(
            np.arange(len(self._truths)), [(~truth.crowd).sum() for truth in self._truths]
        )

    def _truth(self, boxes: Boxes) -> Objects:
        return self._read(boxes, "the truth", np.ones(len(boxes.names)))

    def _answer(self, boxes: Boxes) -> Objects:
        """The surest first, and of each class no more than COCO looks at."""
        if boxes.scores is None or np.shape(boxes.scores) != (len(boxes.names),):
            raise DataError("a prediction needs a score for each of its boxes")
        scores = np.asarray(boxes.scores, dtype=np.float64)
        if not np.isfinite(scores).all():
            hint = "a lower learning rate, or fp32"
            raise DataError(
                "the model's scores are not finite numbers",
                why="its weights or activations overflowed",
                hint=hint,
            )
        if ((scores < 0) | (scores > 1)).any():
            why = f"they reach from {scores.min()} to {scores.max()}"
            raise DataError("the scores of a prediction must lie in [0, 1]", why=why)
        found = self._read(boxes, "the prediction", scores)
        order = np.argsort(-scores, kind="stable")
        places = found.places[order]
        kept = [np.flatnonzero(places == place)[:MOST] for place in np.unique(places)]
        return found.part(order[np.sort(np.concatenate(kept))] if kept else order)

    def _read(self, boxes: Boxes, who: str, scores: np.ndarray) -> Objects:
        count = len(boxes.names)
        xyxy = np.asarray(boxes.xyxy, dtype=np.float64)
        if xyxy.shape != (count, 4) and (count or xyxy.size):
            raise DataError(
                f"{who} needs four numbers for each of {count} boxes, it has shape {xyxy.shape}"
            )
        xyxy = xyxy.reshape(count, 4)
        low, high = xyxy[:, :2], xyxy[:, 2:]
        if not np.isfinite(xyxy).all() or (low > high).any():
            odd = xyxy[~(np.isfinite(xyxy).all(1) & (low <= high).all(1))][0].tolist()
            raise DataError(
                f"{who} has a box that is none: {odd}",
                why="x0 <= x1 and y0 <= y1 must be finite numbers",
            )
        crowd = (
            np.zeros(count, dtype=bool)
            if boxes.crowd is None
            else np.asarray(boxes.crowd, dtype=bool)
        )
        places = np.array(self.indices_of(boxes.names, who), dtype=np.int64)
        if boxes.masks is not None and len(boxes.masks) != count:
            raise DataError(
                f"{who} needs a mask for each of {count} boxes, it has {len(boxes.masks)}"
            )
        masks = None if boxes.masks is None else np.array(boxes.masks, dtype=object)
        return Objects(np.concatenate([low, high - low], axis=1), places, scores, crowd, masks)

    def _mask_numbers(
        self,
        drawn: list[tuple[np.ndarray, np.ndarray]],
        boxes: np.ndarray,
        images: np.ndarray,
        rows: list[dict[str, Any]],
    ) -> dict[str, Score]:
        """Nothing where an image has no masks; else the rows of the classes get theirs. `boxes`, `images`: as `_drawn` wants."""
        count = len(self._truths)
        if len(drawn) < count:
            return {}
        precision = judged(self._truths, self._answers, self.classes, "segm")[0][..., 0]
        for place, row in enumerate(rows):
            row["mask_map"] = _mean(precision[:, :, place])
        ends = _drawn(
            _Ranked.of(self._answers, *map(list, zip(*drawn, strict=True))), boxes, images, count
        )
        found = _numbers(
            {"map": precision, "map_50": precision[0], "map_75": precision[_AT_75]}, ends, count
        )
        return {f"mask_{name}": score for name, score in found.items()}

    def _pairs(self, answers: Objects, truths: Objects) -> tuple[np.ndarray, np.ndarray]:
        """Classes of the truth and of the answers at the threshold, an object a place; K is the background. An answer that
        found nothing but a crowd of its class is left out."""
        answers = answers.part(answers.scores >= self._threshold)
        crowds, truths = truths.part(truths.crowd), truths.part(~truths.crowd)
        overlaps, background = overlaps_of(answers, truths), len(self.classes)
        excused = (
            (overlaps_of(answers, crowds) >= _SAME) & (answers.places[:, None] == crowds.places)
        ).any(1)
        taken, rows, columns = np.full(len(truths.places), background), [], []
        free = np.ones(len(truths.places), dtype=bool)
        for place, row, excuse in zip(answers.places, overlaps, excused, strict=True):
            near = np.where(free & (row >= _SAME), row, 0)
            if near.any():  # of equal overlaps the one of its own class
                chosen = np.lexsort((truths.places == place, near))[-1]
                free[chosen], taken[chosen] = False, place
            elif not excuse:
                rows.append(background)
                columns.append(place)
        return np.concatenate([truths.places, rows]).astype(np.int64), np.concatenate(
            [taken, columns]
        ).astype(np.int64)

    def _confusion(self) -> np.ndarray:
        """(K + 1, K + 1) int64 objects at the threshold, rows of truth by columns of answers, the background last."""
        side = len(self.classes) + 1
        counts = np.zeros(side * side, dtype=np.int64)
        for answers, truths in zip(self._answers, self._truths, strict=True):
            rows, columns = self._pairs(answers, truths)
            np.add.at(counts, rows * side + columns, 1)
        return counts.reshape(side, side)

    def _rows(
        self, precision: np.ndarray, ranked: _Ranked, true: np.ndarray
    ) -> list[dict[str, Any]]:
        """`precision`: (T, R, K). `true`: (K,) boxes."""
        counted = ~ranked.ignored[0] & (ranked.scores >= self._threshold)
        size = len(self.classes)
        answered = np.bincount(ranked.places[counted], minlength=size)
        right = np.bincount(ranked.places[counted & ranked.hits[0]], minlength=size)
        return [
            {
                "class": name,
                "map": _mean(precision[:, :, place]),
                "map_50": _mean(precision[0, :, place]),
                "precision": _over(right[place], answered[place]),
                "recall": _over(right[place], true[place]),
                "f1": _over(2 * right[place], answered[place] + true[place]),
                "count": int(true[place]),
            }
            for place, name in enumerate(self.classes)
        ]


@dataclass(frozen=True)
class _Ranked:
    """All answers, the surest first. `images`, `places`, `scores`: (D,). `hits`, `ignored`: (T, D) bool, whether an answer found
    a true box, and whether it does not count because it found a crowd."""

    images: np.ndarray
    places: np.ndarray
    scores: np.ndarray
    hits: np.ndarray
    ignored: np.ndarray

    @classmethod
    def of(
        cls, answers: list[Objects], hits: list[np.ndarray], ignored: list[np.ndarray]
    ) -> _Ranked:
        scores = np.concatenate([each.scores for each in answers])
        order = np.argsort(-scores, kind="stable")
        images = np.repeat(np.arange(len(answers)), [len(each.scores) for each in answers])
        places = np.concatenate([each.places for each in answers])
        found, excused = np.concatenate(hits, axis=1), np.concatenate(ignored, axis=1)
        return cls(images[order], places[order], scores[order], found[:, order], excused[:, order])

    def best(self, boxes: int) -> tuple[float, float]:
        """The threshold of the score where F1 at IoU 0.5 is greatest, of several the highest; and that F1."""
        counted = ~self.ignored[0]
        scores, right = self.scores[counted], np.cumsum(self.hits[0, counted])
        ends = np.flatnonzero(
            np.diff(scores, append=-1)
        )  # answers of one score stand or fall together
        f1 = 2 * right[ends] / (ends + 1 + boxes)
        if not f1.any():
            return _UNTUNED, 0.0
        best = int(f1.argmax())
        last, after = scores[ends[best]], scores[ends[min(best + 1, len(ends) - 1)]]
        return float((last + after) / 2), float(f1[best])


class _Curve:
    """One class's ranked answers, made ready so that a resample costs two running sums.

    Precision and recall rise at hits only, so that the answers that hit at some limit say all there is to say about it.
    """

    def __init__(self, ranked: _Ranked, place: int, boxes: np.ndarray) -> None:
        """`boxes`: (G,) the images of the true boxes."""
        mine = ranked.places == place
        hits = ranked.hits[:, mine]
        self._steps = np.flatnonzero(hits.any(0))
        seen = slice(0, int(self._steps[-1]) + 1 if len(self._steps) else 0)
        counted = ~ranked.ignored[:, mine][:, seen]
        self._counted = (
            counted[:1] if counted.all() else counted
        )  # without crowds all limits count the same
        self._images, self._hits, self._boxes = (
            ranked.images[mine][seen],
            hits[:, self._steps],
            boxes,
        )
        self.work = self._counted.size + self._hits.size

    def measured(self, weights: np.ndarray) -> np.ndarray:
        """(2, T): average precision and greatest recall; nan where no true box is left. `weights`: how often each image counts."""
        total = weights[self._boxes].sum()
        if not total:
            return np.full((2, len(LIMITS)), np.nan)
        if not len(self._steps):
            return np.zeros((2, len(LIMITS)))
        drawn = weights[self._images]
        found = np.cumsum(self._hits * drawn[self._steps], axis=1)
        precision = found / np.maximum(
            1, np.cumsum(self._counted * drawn, axis=1)[:, self._steps]
        )  # nothing seen: nothing found
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        recall = found / total
        reached = np.diff(np.searchsorted(_RECALLS, recall, side="right"), axis=1, prepend=0)
        return np.stack([(envelope * reached).sum(1) / len(_RECALLS), recall[:, -1]])


def _numbers(
    values: dict[str, np.ndarray], drawn: dict[str, tuple[float, float]], count: int
) -> dict[str, Score]:
    """`values`: what each number is the mean of, -1 where undefined. `drawn`: percentiles of resamples."""
    means = {name: mean for name, table in values.items() if (mean := _mean(table)) is not None}
    return {
        name: with_interval(mean, _mirrored(mean, drawn.get(name, _UNKNOWN)), count)
        for name, mean in means.items()
    }


def _mirrored(value: float, ends: tuple[float, float]) -> tuple[float, float]:
    """The reversed percentile interval (Davison & Hinkley 1997, 5.2.1), in [0, 1]: what resampling adds is taken off. On
    made-up detectors, 100 images and 10 classes, it held the true value 7 to 8 times of 10, the percentile interval 1 to 2."""
    if math.isclose(*ends, abs_tol=1e-9):  # no resample differs, but for the order of the sums
        return _UNKNOWN
    low, high = 2 * value - ends[1], 2 * value - ends[0]
    return max(low, 0.0), min(high, 1.0)


def _drawn(
    ranked: _Ranked, boxes: np.ndarray, images: np.ndarray, count: int
) -> dict[str, tuple[float, float]]:
    """Percentiles of resamples of map, map_50, map_75 and mar_100. `boxes`, `images`: (G,) classes and images of the true
    boxes; `count`: images."""
    curves = _curves(ranked, boxes, images)
    rounds = int(np.clip(_WORK // sum(curve.work + 1 for curve in curves), _FEWEST_ROUNDS, _ROUNDS))
    ends = bootstraps(_means_of(curves, count), count, rounds=rounds)
    return dict(zip(("map", "map_50", "map_75", "mar_100"), ends, strict=True))


def _curves(ranked: _Ranked, boxes: np.ndarray, images: np.ndarray) -> list[_Curve]:
    """One for each class with a true box."""
    return [_Curve(ranked, place, images[boxes == place]) for place in np.unique(boxes)]


def _means_of(curves: list[_Curve], count: int) -> Callable[[np.ndarray], np.ndarray]:
    """A function of a resample's places: (4,) map, map_50, map_75 and mar_100."""

    def means(places: np.ndarray) -> np.ndarray:
        weights = np.bincount(places, minlength=count).astype(np.float64)
        measured = np.stack([curve.measured(weights) for curve in curves])
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


def _over(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None
