"""Semantic segmentation: overlap, pixel accuracy and agreement of the outlines, with intervals.

Letters: I images, H height and W width of a mask, K classes, N pixels of an outline.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from foveate.errors import DataError
from foveate.evaluation.intervals import Quantity, Statistics, estimate
from foveate.evaluation.metrics import Metric
from foveate.predictions import IGNORE_INDEX, Regions
from foveate.types import Scores

_TOLERANCE = 0.0075  # of the image's diagonal, how far apart two outlines may lie
# (down, right) to half of a pixel's eight neighbors: the other half meets it from there
_NEIGHBORS = ((0, 1), (1, 0), (1, 1), (1, -1))
_NAMES = ("mean_iou", "dice", "pixel_accuracy", "boundary_f1")
_MOST_BLOCKS, _MIN_BLOCKS = 250, 50
_WORK = 200_000_000  # images x counts of the classes x blocks left out: about a second


class RegionMetric(Metric):
    """Compares Regions with Regions; agrees with scikit-learn to 1e-9.

    All scores are in [0, 1]; pixels that the target marks as ignored count nowhere. In this order:

    - `mean_iou`: the mean intersection over union of the classes with a pixel in targets or
      predictions;
    - `dice`: the mean over the same classes of twice the intersection over the sum; with exactly
      two classes that of the foreground alone, classes[1]. Left out where the foreground never
      occurs;
    - `pixel_accuracy`;
    - `boundary_f1`: the harmonic mean of the proportion of a predicted outline near the target
      outline and that of the target outline near the predicted one (Csurka et al. 2013), by class
      and image with a pixel of the class, averaged over images and then over classes. Near is
      0.0075 of the image's diagonal, rounded up to whole pixels as DAVIS does (Perazzi et al.
      2016). Outlines are the pixels of a class beside one of another, corners included; the edge of
      the image and ignored pixels make none, and where neither side has an outline they agree.

    All have the jackknife's intervals over images or their groups. Only counts are kept of each
    image.
    """

    reads = Regions
    class_score = "iou"

    def __init__(self, classes: tuple[str, ...], multilabel: bool = False) -> None:
        super().__init__(classes, multilabel)
        self._confusion = np.zeros((len(classes), len(classes)), dtype=np.int64)
        # for each image (3, K) int64 pixels: of the target, predicted, correctly predicted
        self._pixels: list[np.ndarray] = []
        # for each image (K,) boundary F1, nan where the class has no pixel
        self._boundary_f1: list[np.ndarray] = []

    def update(self, prediction: Regions, target: Regions) -> None:
        """Add one image.

        Raises:
            DataError: The masks differ in size, are not (H, W) integers, or have an unknown class.
        """
        predicted, true = self._read(prediction, target)
        confusion = _confusion_of(predicted, true, len(self.classes))
        pixels = _margins(confusion)
        present = np.flatnonzero(pixels[:2].any(0))
        self._confusion += confusion
        self._pixels.append(pixels)
        self._boundary_f1.append(_boundary_f1(predicted, true, present, len(self.classes)))

    def compute(self) -> Scores:
        """Return the scores listed above.

        Returns:
            `per_class`: class, iou, dice, precision, recall, boundary_f1, count (target pixels);
            None where undefined. `tables`: `confusion`, K target rows by K predicted columns in
            pixels, and `classes`.

        Raises:
            DataError: There were no updates, or all pixels are ignored.
        """
        if not self._confusion.any():
            why = "every pixel is marked as ignored" if self._pixels else "no image has a mask"
            raise DataError("there is nothing to score", why=why)
        sums = self._summable()
        blocks = int(np.clip(_WORK // sums.size, _MIN_BLOCKS, _MOST_BLOCKS))
        numbers = estimate(self._statistics(), self.units(len(sums)), blocks)
        tables = {"confusion": self._confusion.tolist(), "classes": list(self.classes)}
        rows = _rows(self.classes, sums.sum(0).reshape(5, len(self.classes)))
        return Scores(numbers, rows, tables)

    def resampler(self) -> Callable[[np.ndarray], float]:
        """Return a function that computes the mean IoU on a resample."""
        statistics = self._statistics()
        return lambda indices: float(statistics.values(indices)[0])

    def sample_loss(self, prediction: Regions, target: Regions) -> float:
        """Return 1 - the mean IoU of the classes in this image, in [0, 1].

        Raises:
            DataError: As `update`.
        """
        predicted, true = self._read(prediction, target)
        iou, _ = _iou_and_dice(*_margins(_confusion_of(predicted, true, len(self.classes))))
        return float(1 - np.nanmean(iou)) if not np.isnan(iou).all() else 0.0

    def _summable(self) -> np.ndarray:
        """(I, 5 K), so that a resample is a weighted sum of rows.

        The five: pixels of the target, predicted, correct; boundary F1; whether there is one.
        """
        boundary_f1 = np.stack(self._boundary_f1)
        defined = ~np.isnan(boundary_f1)
        parts = [np.stack(self._pixels), np.where(defined, boundary_f1, 0)[:, None]]
        return np.concatenate([*parts, defined[:, None]], axis=1).reshape(len(defined), -1)

    def _statistics(self) -> Statistics:
        rows = self._summable()
        members = rows[:, : len(self.classes)] > 0

        def means(indices: np.ndarray) -> np.ndarray:
            weights = np.bincount(indices, minlength=len(rows)).astype(np.float64)
            return _means((weights @ rows).reshape(5, len(self.classes)))

        by_class = {name: None if name == "pixel_accuracy" else members for name in _NAMES}
        if len(self.classes) == 2:
            by_class["dice"] = members[:, 1:]
        return Statistics(tuple(Quantity(name, members=m) for name, m in by_class.items()), means)

    def _read(self, prediction: Regions, target: Regions) -> tuple[np.ndarray, np.ndarray]:
        """Both masks, (H, W) int64, IGNORE_INDEX in both where the target is ignored."""
        predicted = self._checked(prediction.mask, "the prediction", 0)
        true = self._checked(target.mask, "the target", IGNORE_INDEX)
        if predicted.shape != true.shape:
            sizes = [" x ".join(map(str, mask.shape)) for mask in (predicted, true)]
            raise DataError(
                "the masks of the prediction and of the target differ in size",
                why=f"height x width: {sizes[0]} and {sizes[1]} pixels",
            )
        return np.where(true == IGNORE_INDEX, IGNORE_INDEX, predicted), true

    def _checked(self, mask: np.ndarray, who: str, least: int) -> np.ndarray:
        mask = np.asarray(mask)
        if mask.ndim != 2 or mask.dtype.kind not in "biu":
            raise DataError(
                f"{who} needs a mask of (H, W) integers",
                why=f"it has shape {mask.shape} and type {mask.dtype}",
            )
        if mask.size and not least <= int(mask.min()) <= int(mask.max()) < len(self.classes):
            reach = f"its mask reaches from {mask.min()} to {mask.max()}"
            raise DataError(
                f"{who} has pixels of a class that the run does not know",
                why=f"{reach}, the classes from 0 to {len(self.classes) - 1}",
            )
        return mask.astype(np.int64, copy=False)


def _confusion_of(predicted: np.ndarray, target: np.ndarray, size: int) -> np.ndarray:
    """(K, K) int64 pixels, target rows by predicted columns."""
    known = target != IGNORE_INDEX
    cells = target[known] * size + predicted[known]
    return np.bincount(cells, minlength=size * size).reshape(size, size)


def _margins(confusion: np.ndarray) -> np.ndarray:
    """(3, K) pixels of the target, predicted, and correctly predicted."""
    return np.stack([confusion.sum(1), confusion.sum(0), np.diag(confusion)])


def _iou_and_dice(
    target: np.ndarray, predicted: np.ndarray, correct: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(K,) IoU and (K,) Dice of (K,) counts; nan for a class without a pixel."""
    both = target + predicted
    return _divide(correct, both - correct), _divide(2 * correct, both)


def _means(sums: np.ndarray) -> np.ndarray:
    """(5, K) sums over images -> (4,) as _NAMES; nan where undefined."""
    target, predicted, correct, boundary_f1, defined = sums
    if not target.any():
        return np.full(4, np.nan)
    iou, dice = _iou_and_dice(target, predicted, correct)
    return np.array(
        [
            np.nanmean(iou),
            dice[1] if len(dice) == 2 else np.nanmean(dice),
            correct.sum() / target.sum(),
            np.nanmean(_divide(boundary_f1, defined)),
        ]
    )


def _divide(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, nan where whole is 0."""
    return np.asarray(np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0))


def _rows(classes: tuple[str, ...], sums: np.ndarray) -> list[dict[str, Any]]:
    """A row for each class, of (5, K) sums."""
    target, predicted, correct, boundary_f1, defined = sums
    iou, dice = _iou_and_dice(target, predicted, correct)
    columns = {
        "iou": iou,
        "dice": dice,
        "precision": _divide(correct, predicted),
        "recall": _divide(correct, target),
        "boundary_f1": _divide(boundary_f1, defined),
    }
    return [
        {
            "class": name,
            **{
                key: None if math.isnan(each[i]) else float(each[i])
                for key, each in columns.items()
            },
            "count": int(target[i]),
        }
        for i, name in enumerate(classes)
    ]


def _outline(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) -> (N, 2) pixels that touch another class and (N,) their classes, in one pass."""
    edge = np.zeros(mask.shape, dtype=bool)
    height, width = mask.shape
    for down, right in _NEIGHBORS:
        here = slice(0, height - down), slice(max(0, -right), width - max(0, right))
        there = slice(down, height), slice(max(0, right), width + min(0, right))
        one, other = mask[here], mask[there]
        differ = (one != other) & (one != IGNORE_INDEX) & (other != IGNORE_INDEX)
        edge[here] |= differ
        edge[there] |= differ
    return np.argwhere(edge), mask[edge]


def _boundary_f1(
    predicted: np.ndarray, target: np.ndarray, present: np.ndarray, size: int
) -> np.ndarray:
    """(K,) by class, nan for the classes that are not `present`."""
    tolerance = math.ceil(_TOLERANCE * math.hypot(*target.shape))
    pixels, classes = _outline(predicted)
    target_pixels, target_classes = _outline(target)
    scores = np.full(size, np.nan)
    for index in present:
        outline, expected = pixels[classes == index], target_pixels[target_classes == index]
        if not len(outline) or not len(expected):
            scores[index] = float(len(outline) == len(expected))
            continue
        precision = _near(outline, expected, tolerance)
        recall = _near(expected, outline, tolerance)
        both = precision + recall
        scores[index] = 2 * precision * recall / both if both else 0.0
    return scores


def _near(points: np.ndarray, others: np.ndarray, tolerance: int) -> float:
    """The proportion of (N, 2) `points` with one of `others` within `tolerance` pixels.

    By a tree, because outlines are thin and images large.
    """
    from scipy.spatial import cKDTree

    tree = cKDTree(others, compact_nodes=False, balanced_tree=False)
    # squared distances are whole numbers, and the bound of the tree is exclusive
    bound = math.sqrt(tolerance**2 + 0.5)
    return float(np.isfinite(tree.query(points, distance_upper_bound=bound)[0]).mean())
