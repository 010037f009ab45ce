"""A class for every pixel: overlap, agreement and how well the outlines follow, with intervals.

Letters: H height, W width of a mask, K classes, I images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from foveate.errors import DataError
from foveate.evaluation.intervals import bootstraps
from foveate.evaluation.metrics import Metric, with_interval
from foveate.predictions import IGNORE_INDEX, Regions
from foveate.types import Scores

_TOLERANCE = 0.0075  # of the image's diagonal, how far apart two outlines may lie
_STEPS = (
    (0, 1),
    (1, 0),
    (1, 1),
    (1, -1),
)  # to half of a pixel's eight neighbours: the other half sees it from there
_ROUNDS = 400
_FEWEST_ROUNDS = 100
_WORK = (
    400_000_000  # images x counts of a class x rounds that a bootstrap may cost: a second or two
)


class RegionMetric(Metric):
    """Compares Regions with Regions; agrees with scikit-learn to 1e-9. All numbers are in [0, 1];
    pixels that the truth marks as ignored count nowhere.

    In this order: `mean_iou`, the mean intersection over union of the classes with a pixel in truth
        or answers; `dice`, the
    mean over the same classes of twice the intersection over the sum, and with exactly two classes
    that of the foreground alone, classes[1]; `pixel_accuracy`; `boundary_f1`, which asks how much
    of an answer's outline lies near the true one, how much of the true one near the answer's, and
    takes the harmonic mean (Csurka et al. 2013): by class and image with a pixel of the class,
    averaged over images and then over classes. Near is 0.0075 of the image's diagonal, rounded up
    to whole pixels as DAVIS does (Perazzi et al. 2016). Outlines are the pixels of a class beside
    one of another, corners included; the picture's edge and ignored pixels make none, and where
    neither side has an outline they agree.

    All have percentile bootstraps over images. `dice` is left out where the foreground never
    occurs. Only counts are kept.
    """

    reads = Regions
    class_score = "iou"

    def __init__(self, classes: tuple[str, ...], multilabel: bool = False) -> None:
        super().__init__(classes, multilabel)
        self._confusion = np.zeros((len(classes), len(classes)), dtype=np.int64)
        self._pixels: list[
            np.ndarray
        ] = []  # (3, K) int64 an image: true, answered, rightly answered
        self._outlines: list[
            np.ndarray
        ] = []  # (K,) boundary F1 an image, nan where the class has no pixel

    def update(self, prediction: Regions, truth: Regions) -> None:
        """One image. Raises DataError for masks of different sizes, for what is not (H, W)
        integers, and for a class that the run does not know."""
        answer, true = self._read(prediction, truth)
        confusion = _counted(answer, true, len(self.classes))
        pixels = _margins(confusion)
        self._confusion += confusion
        self._pixels.append(pixels)
        self._outlines.append(
            _boundary_f1(answer, true, np.flatnonzero(pixels[:2].any(0)), len(self.classes))
        )

    def compute(self) -> Scores:
        """The numbers listed above. `per_class`: class, iou, dice, precision, recall, boundary_f1,
        count (true pixels); None where undefined. `tables`: `confusion`, K rows of truth by K
        columns of answers in pixels, and `classes`. Raises DataError without updates and when all
        pixels are ignored."""
        if not self._confusion.any():
            why = (
                "every pixel is marked as ignored"
                if self._pixels
                else "no image has both an answer and a true mask"
            )
            raise DataError("there is nothing to score", why=why)
        flat, means = self._flat(), self._resampled_means()
        rounds = int(np.clip(_WORK // flat.size, _FEWEST_ROUNDS, _ROUNDS))
        names = ("mean_iou", "dice", "pixel_accuracy", "boundary_f1")
        count, size = len(flat), len(self.classes)
        values = means(np.arange(count))
        found = zip(names, values, bootstraps(means, count, rounds=rounds), strict=True)
        numbers = {
            name: with_interval(value, ends, count)
            for name, value, ends in found
            if not math.isnan(value)
        }
        tables = {"confusion": self._confusion.tolist(), "classes": list(self.classes)}
        return Scores(numbers, _rows(self.classes, flat.sum(0).reshape(5, size)), tables)

    def resampler(self) -> Callable[[np.ndarray], float]:
        means = self._resampled_means()
        return lambda places: float(means(places)[0])

    def _flat(self) -> np.ndarray:
        """A row an image, 5 x K: true, answered, right, boundary F1, whether there is one; a
        resample is a weighted sum of rows."""
        outlines = np.stack(self._outlines)
        seen = ~np.isnan(outlines)
        rows = np.concatenate(
            [np.stack(self._pixels), np.where(seen, outlines, 0)[:, None], seen[:, None]], axis=1
        )
        return rows.reshape(len(rows), -1)

    def _resampled_means(self) -> Callable[[np.ndarray], np.ndarray]:
        flat = self._flat()

        def means(places: np.ndarray) -> np.ndarray:
            weights = np.bincount(places, minlength=len(flat)).astype(np.float64)
            return _means((weights @ flat).reshape(5, len(self.classes)))

        return means

    def sample_losses(self, prediction: Regions, truth: Regions) -> float:
        """1 - the mean intersection over union of the classes in this image, in [0, 1]. Raises
        DataError as `update` does."""
        answer, true = self._read(prediction, truth)
        iou = _each(*_margins(_counted(answer, true, len(self.classes))))[0]
        return float(1 - np.nanmean(iou)) if not np.isnan(iou).all() else 0.0

    def _read(self, prediction: Regions, truth: Regions) -> tuple[np.ndarray, np.ndarray]:
        """Both masks, (H, W) int64, -1 in both where the truth is ignored."""
        answer, true = (
            self._checked(prediction.mask, "the prediction", 0),
            self._checked(truth.mask, "the truth", IGNORE_INDEX),
        )
        if answer.shape != true.shape:
            sizes = [" x ".join(map(str, mask.shape)) for mask in (answer, true)]
            raise DataError(
                f"the prediction's mask has {sizes[0]} pixels (height x width), the truth's has {sizes[1]}"
            )
        return np.where(true == IGNORE_INDEX, IGNORE_INDEX, answer), true

    def _checked(self, mask: np.ndarray, who: str, least: int) -> np.ndarray:
        mask = np.asarray(mask)
        if mask.ndim != 2 or mask.dtype.kind not in "biu":
            raise DataError(
                f"{who} needs a mask of (H, W) integers, it has shape {mask.shape} and holds {mask.dtype}"
            )
        if mask.size and not least <= int(mask.min()) <= int(mask.max()) < len(self.classes):
            why = f"its mask reaches from {mask.min()} to {mask.max()}, the classes from 0 to {len(self.classes) - 1}"
            raise DataError(f"{who} has pixels of a class that the run does not know", why=why)
        return mask.astype(np.int64, copy=False)


def _counted(answer: np.ndarray, true: np.ndarray, size: int) -> np.ndarray:
    """(K, K) int64 pixels, rows of truth by columns of answers."""
    cared = true != IGNORE_INDEX
    return np.bincount(true[cared] * size + answer[cared], minlength=size * size).reshape(
        size, size
    )


def _margins(confusion: np.ndarray) -> np.ndarray:
    """(3, K): true, answered and rightly answered pixels."""
    return np.stack([confusion.sum(1), confusion.sum(0), np.diag(confusion)])


def _each(
    true: np.ndarray, answered: np.ndarray, right: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(K,) intersection over union and (K,) Dice, nan for a class without a pixel."""
    return _over(right, true + answered - right), _over(2 * right, true + answered)


def _means(sums: np.ndarray) -> np.ndarray:
    """(4,): mean IoU, Dice, pixel accuracy, boundary F1, of (5, K) sums over images; nan where
    undefined."""
    true, answered, right, outlines, seen = sums
    if not true.any():
        return np.full(4, np.nan)
    iou, dice = _each(true, answered, right)
    foreground = dice[1] if len(dice) == 2 else np.nanmean(dice)
    return np.array(
        [np.nanmean(iou), foreground, right.sum() / true.sum(), np.nanmean(_over(outlines, seen))]
    )


def _over(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, nan where whole is 0."""
    return np.asarray(np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0))


def _rows(classes: tuple[str, ...], sums: np.ndarray) -> list[dict[str, Any]]:
    true, answered, right, outlines, seen = sums
    shares = (
        *_each(true, answered, right),
        _over(right, answered),
        _over(right, true),
        _over(outlines, seen),
    )
    keys = ("class", "iou", "dice", "precision", "recall", "boundary_f1", "count")
    columns = (
        [None if math.isnan(value) else value for value in share.tolist()] for share in shares
    )
    return [
        dict(zip(keys, row, strict=True))
        for row in zip(classes, *columns, true.astype(int).tolist(), strict=True)
    ]


def _outline(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, 2) pixels that touch another class and (N,) their classes. `mask`: (H, W), all its
    classes in one pass."""
    edge = np.zeros(mask.shape, dtype=bool)
    height, width = mask.shape
    for down, right in _STEPS:
        here = slice(0, height - down), slice(max(0, -right), width - max(0, right))
        there = slice(down, height), slice(max(0, right), width + min(0, right))
        differ = (
            (mask[here] != mask[there])
            & (mask[here] != IGNORE_INDEX)
            & (mask[there] != IGNORE_INDEX)
        )
        edge[here] |= differ
        edge[there] |= differ
    return np.argwhere(edge), mask[edge]


def _boundary_f1(
    answer: np.ndarray, true: np.ndarray, present: np.ndarray, size: int
) -> np.ndarray:
    """(K,) by class, nan for the classes that are not `present`."""
    reach = math.ceil(_TOLERANCE * math.hypot(*true.shape))
    (answered, answer_places), (wanted, true_places) = _outline(answer), _outline(true)
    found = np.full(size, np.nan)
    for place in present:
        mine, theirs = answered[answer_places == place], wanted[true_places == place]
        if not len(mine) or not len(theirs):
            found[place] = float(len(mine) == len(theirs))
            continue
        precision, recall = _near(mine, theirs, reach), _near(theirs, mine, reach)
        found[place] = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return found


def _near(points: np.ndarray, others: np.ndarray, reach: int) -> float:
    """The share of `points` with one of `others` within `reach` pixels; a tree, because outlines
    are thin and pictures large."""
    from scipy.spatial import cKDTree

    tree = cKDTree(others, compact_nodes=False, balanced_tree=False)
    limit = math.sqrt(
        reach**2 + 0.5
    )  # squared distances are whole numbers, and the tree's limit is exclusive
    return float(np.isfinite(tree.query(points, distance_upper_bound=limit)[0]).mean())
