"""Semantic segmentation: overlap, objects found, and agreement of the outlines, with intervals.

Letters: I images, H height and W width of a mask, K classes, N pixels of an outline, Z sizes of
objects.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
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
_BACKGROUND = "background"  # the class that is no object
_SIZES = ("small", "medium", "large")
_MAX_AREAS = (32**2, 96**2)  # px, of small and of medium objects, as COCO has them
_NAMES = ("mean_iou", "dice", "dice_per_image")
_OBJECT_NAMES = ("object_recall", *(f"object_recall_{size}" for size in _SIZES))
_OTHER_NAMES = ("pixel_accuracy", "boundary_f1")
_MOST_BLOCKS, _MIN_BLOCKS = 250, 50
_WORK = 200_000_000  # images x counts of the classes x blocks left out: about a second


@dataclass(frozen=True)
class _ImageCounts:
    """What is kept of an image.

    Attributes:
        pixels: (3, K) int64, of the target, predicted, correctly predicted.
        boundary_f1: (K,), nan where the class has no pixel.
        objects: (2, Z) int64, found and all.
    """

    pixels: np.ndarray
    boundary_f1: np.ndarray
    objects: np.ndarray


class RegionMetric(Metric):
    """Compares Regions with Regions; agrees with scikit-learn to 1e-9.

    All scores are in [0, 1]; pixels that the target marks as ignored count nowhere:

    - `mean_iou`: the mean intersection over union of the classes with a pixel in targets or
      predictions;
    - `dice`: the mean over the same classes of twice the intersection over the sum; with exactly
      two classes that of the foreground alone: of the one that is not `background`, or classes[1].
      Left out where the foreground never occurs. The pixels of all images count together, so that
      a few large regions outweigh many small ones; hence the next two;
    - `dice_per_image`: the mean over images of the Dice of the foreground there, as nnU-Net reports
      it: of the classes but `background` with a pixel in target or prediction. Images without one
      are left out (Maier-Hein et al. 2024, "Metrics reloaded");
    - `object_recall`, where one class is `background`: the proportion of objects of which any pixel
      is predicted, as lesions are counted (Carass et al. 2017). An object is a connected region of
      a class of the target, corners included. Also for small, medium and large ones, up to 32 x 32
      and up to 96 x 96 px and beyond, as COCO has them;
    - `pixel_accuracy`;
    - `boundary_f1`: the harmonic mean of the proportion of a predicted outline near the target
      outline and that of the target outline near the predicted one (Csurka et al. 2013), by class
      and image with a pixel of the class, averaged over images and then over classes. Near is
      0.0075 of the image's diagonal, rounded up to whole pixels as DAVIS does (Perazzi et al.
      2016). Outlines are the pixels of a class beside one of another, corners included; the edge of
      the image and ignored pixels make none, and where neither side has an outline they agree.

    The mean IoU comes first, or the Dice where there are a background and one other class: half of
    the mean IoU would be that of the background, which is always good. All have the jackknife's
    intervals over images or their groups. Only counts are kept of each image.
    """

    reads = Regions
    class_score = "iou"

    def __init__(self, classes: tuple[str, ...], multilabel: bool = False) -> None:
        super().__init__(classes, multilabel)
        self._confusion = np.zeros((len(classes), len(classes)), dtype=np.int64)
        self._images: list[_ImageCounts] = []
        self._has_background = _BACKGROUND in classes
        self._foreground = [i for i, name in enumerate(classes) if name != _BACKGROUND]
        if len(classes) == 2 and not self._has_background:
            self._foreground = [1]
        self._is_binary = self._has_background and len(classes) == 2

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
        boundary_f1 = _boundary_f1(predicted, true, present, len(self.classes))
        objects = _objects(predicted, true, self._object_classes)
        self._images.append(_ImageCounts(pixels, boundary_f1, objects))

    def compute(self) -> Scores:
        """Return the scores listed above.

        Returns:
            `per_class`: class, iou, dice, precision, recall, boundary_f1, count (target pixels);
            None where undefined. `tables`: `confusion`, K target rows by K predicted columns in
            pixels, `classes`, and where one class is the background `objects`, the number of those
            found and of all by size.

        Raises:
            DataError: There were no updates, or all pixels are ignored.
        """
        if not self._confusion.any():
            why = "every pixel is marked as ignored" if self._images else "no image has a mask"
            raise DataError("there is nothing to score", why=why)
        sums = self._summable()
        blocks = int(np.clip(_WORK // sums.size, _MIN_BLOCKS, _MOST_BLOCKS))
        numbers = estimate(self._statistics(), self.units(len(sums)), blocks)
        tables: dict[str, Any] = {
            "confusion": self._confusion.tolist(),
            "classes": list(self.classes),
        }
        if self._has_background:
            counts = np.sum([each.objects for each in self._images], axis=0).T.tolist()
            tables["objects"] = dict(zip(_SIZES, counts, strict=True))
        rows = _rows(self.classes, self._by_class(sums.sum(0)))
        return Scores(numbers, rows, tables)

    def resampler(self) -> Callable[[np.ndarray], float]:
        """Return a function that computes the main score on a resample."""
        statistics = self._statistics()
        return lambda indices: float(statistics.values(indices)[0])

    def sample_loss(self, prediction: Regions, target: Regions) -> float:
        """Return 1 - the mean IoU, or the Dice, of the classes in this image, in [0, 1].

        Raises:
            DataError: As `update`.
        """
        predicted, true = self._read(prediction, target)
        iou, dice = _iou_and_dice(*_margins(_confusion_of(predicted, true, len(self.classes))))
        scores = dice[self._foreground] if self._is_binary else iou
        return float(1 - np.nanmean(scores)) if not np.isnan(scores).all() else 0.0

    @property
    def _object_classes(self) -> list[int]:
        """The classes whose connected regions are objects: all but the background, if any."""
        return self._foreground if self._has_background else []

    @property
    def _names(self) -> tuple[str, ...]:
        """The names of the scores in their order."""
        first = (*_NAMES[1:], *_OBJECT_NAMES, _NAMES[0]) if self._is_binary else _NAMES
        objects = _OBJECT_NAMES if self._has_background and not self._is_binary else ()
        return (*first, *objects, *_OTHER_NAMES)

    def _summable(self) -> np.ndarray:
        """(I, 5 K + 2 + 2 Z), so that a resample is a weighted sum of rows.

        By class: pixels of the target, predicted, correct; boundary F1; whether there is one. Then
        Dice of the foreground in the image, and whether there is one; objects found, and all.
        """
        pixels = np.stack([each.pixels for each in self._images])
        boundary_f1 = np.stack([each.boundary_f1 for each in self._images])
        defined = ~np.isnan(boundary_f1)
        parts = [pixels, np.where(defined, boundary_f1, 0)[:, None], defined[:, None]]
        by_class = np.concatenate(parts, axis=1).reshape(len(pixels), -1)
        dice, has_dice = _dice_per_image(pixels[:, :, self._foreground])
        objects = np.stack([each.objects for each in self._images]).reshape(len(pixels), -1)
        return np.concatenate([by_class, dice[:, None], has_dice[:, None], objects], axis=1)

    def _by_class(self, sums: np.ndarray) -> np.ndarray:
        """(5, K) of the sums of rows of `_summable`."""
        return sums[: 5 * len(self.classes)].reshape(5, -1)

    def _statistics(self) -> Statistics:
        rows, names, size = self._summable(), self._names, len(self.classes)
        members = rows[:, :size] > 0

        def values(indices: np.ndarray) -> np.ndarray:
            weights = np.bincount(indices, minlength=len(rows)).astype(np.float64)
            sums = weights @ rows
            numbers = self._pooled(self._by_class(sums)) | _means_of(*_split(sums[5 * size :]))
            return np.array([numbers[name] for name in names])

        counts = rows[:, -len(_SIZES) :]
        of_objects = np.concatenate([counts.sum(1, keepdims=True), counts], axis=1) > 0
        rest_on: dict[str, np.ndarray | None] = {
            "mean_iou": members,
            "dice": members[:, self._foreground] if size == 2 else members,
            "dice_per_image": rows[:, 5 * size + 1 :][:, :1] > 0,
            "pixel_accuracy": None,
            "boundary_f1": members,
            **{name: of_objects[:, [i]] for i, name in enumerate(_OBJECT_NAMES)},
        }
        return Statistics(tuple(Quantity(name, members=rest_on[name]) for name in names), values)

    def _pooled(self, sums: np.ndarray) -> dict[str, float]:
        """The scores of (5, K) sums over images; nan where undefined."""
        target, predicted, correct, boundary_f1, defined = sums
        if not target.any():
            return dict.fromkeys(("mean_iou", "dice", *_OTHER_NAMES), math.nan)
        iou, dice = _iou_and_dice(target, predicted, correct)
        return {
            "mean_iou": float(np.nanmean(iou)),
            "dice": float(dice[self._foreground[0]] if len(dice) == 2 else np.nanmean(dice)),
            "pixel_accuracy": float(correct.sum() / target.sum()),
            "boundary_f1": float(np.nanmean(_divide(boundary_f1, defined))),
        }

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


def _split(sums: np.ndarray) -> tuple[float, float, np.ndarray, np.ndarray]:
    """The sums of Dice and of images with one; (Z,) objects found, and all."""
    found, count = sums[2:].reshape(2, -1)
    return float(sums[0]), float(sums[1]), found, count


def _means_of(dice: float, images: float, found: np.ndarray, count: np.ndarray) -> dict[str, float]:
    """The scores of images and of objects; nan where there are none."""
    pairs = [(dice, images), (found.sum(), count.sum()), *zip(found, count, strict=True)]
    shares = [float(part / whole) if whole else math.nan for part, whole in pairs]
    return dict(zip(("dice_per_image", *_OBJECT_NAMES), shares, strict=True))


def _objects(predicted: np.ndarray, target: np.ndarray, classes: list[int]) -> np.ndarray:
    """(2, Z) objects of the classes in the target by size: of which a pixel is predicted, and all.

    An object is a connected region of a class, corners included.
    """
    from scipy import ndimage

    counts = np.zeros((2, len(_SIZES)), np.int64)
    for index in classes:
        labels, count = ndimage.label(target == index, np.ones((3, 3)))
        if not count:
            continue
        sizes = np.digitize(np.bincount(labels.ravel())[1:], _MAX_AREAS, right=True)
        touched = np.bincount(labels[predicted == index], minlength=count + 1)[1:] > 0
        counts += np.stack(
            [np.bincount(each, minlength=len(_SIZES)) for each in (sizes[touched], sizes)]
        )
    return counts


def _dice_per_image(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(I,) mean Dice of the classes in each image, 0 where there are none; (I,) if there are any.

    Args:
        pixels: (I, 3, K) of the target, predicted, and correctly predicted.
    """
    target, predicted, correct = pixels.swapaxes(0, 1)
    both = target + predicted
    dice = np.divide(2 * correct, both, out=np.zeros(both.shape), where=both > 0)
    count = (both > 0).sum(1)
    return dice.sum(1) / np.maximum(count, 1), count > 0


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
