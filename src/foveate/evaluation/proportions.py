"""Shares and means over classes of classified images, with intervals that hold for rare classes.

Where every image of a rare class is right, its images do not show how much it could vary. So before
the spread is measured, each class gives a little of its weight to one unit that is all right and
one that is all wrong; the numbers themselves stay as they are. The spread tells how many
independent images a number is worth, and the interval is Wilson's for that many.

Letters: N images, B blocks of units, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from foveate.evaluation.intervals import (
    MIN_FREEDOM,
    Units,
    degrees_of_freedom,
    freedom_of_classes,
    jackknife_variance,
    t_quantile,
    wilson,
    with_interval,
)
from foveate.predictions import NoInterval
from foveate.types import Score

# how much of a unit is right, and how much is wrong, in what is added to a class. Half of an image
# keeps coverage even from low to high accuracies; groups are seldom all right or all wrong
_ADDED, _ADDED_TO_GROUPS = 0.5, 0.35
_IMAGES_OF_CLASS = 6  # on average; with fewer, F1s are biased
_AVERAGES = ("balanced_accuracy", "macro_f1", "weighted_f1")


def proportion(hits: np.ndarray, units: Units) -> Score:
    """Return the share of images that are hits, with its interval.

    Args:
        hits: (N,) bool, N > 0.
        units: Of the images.
    """
    share, count = float(hits.mean()), len(hits)
    if not units.grouped:
        return with_interval(share, wilson(int(hits.sum()), count), units)
    if units.too_few is not None:
        return with_interval(share, units.too_few, units)
    # all images are of one class, and those that are no hits are predicted as another
    target, predicted = np.zeros(count, dtype=np.int64), np.where(hits, 0, 1)
    spread = _Spread.of(target, predicted, 2, units)
    return with_interval(share, spread.ends(share, _share_of_first), units)


def class_averages(
    target: np.ndarray, predicted: np.ndarray, size: int, units: Units
) -> dict[str, Score]:
    """Return balanced accuracy, macro F1 and weighted F1 with their intervals.

    The first two are means over classes: they have no interval where a class that counts is in
    hardly any unit, and macro F1 has none where a class is predicted that no image has. The F1s,
    which few images per class bias, have none where there are fewer than six per class.

    Args:
        target: (N,) int64, indices of the classes.
        predicted: (N,) int64, likewise.
        size: K.
        units: Of the images.
    """
    counts = class_counts(target, predicted, size)
    values = dict(zip(_AVERAGES, _averages(counts).tolist(), strict=True))
    if units.too_few is not None:
        return {name: with_interval(value, units.too_few, units) for name, value in values.items()}
    spread = _Spread.of(target, predicted, size, units)
    freedom = freedom_of_classes(spread.present)
    scarce = len(target) < _IMAGES_OF_CLASS * int((spread.present > 0).sum())
    invented = bool(counts[1, counts[0] == 0].any())
    result = {}
    for index, (name, value) in enumerate(values.items()):
        rare = name != "weighted_f1" and freedom < MIN_FREEDOM
        if rare or (invented and name == "macro_f1") or (scarce and name != "balanced_accuracy"):
            result[name] = with_interval(value, NoInterval.RARE_CLASS, units)
            continue
        most = np.inf if name == "weighted_f1" else freedom
        ends = spread.ends(value, partial(_average, index), most)
        result[name] = with_interval(value, ends, units)
    return result


def class_counts(target: np.ndarray, predicted: np.ndarray, size: int) -> np.ndarray:
    """Return (3, K): target, predicted and correctly predicted images of each class.

    Args:
        target: (N,) int64, indices of the classes.
        predicted: (N,) int64, likewise.
        size: K.
    """
    columns = (target, predicted, target[target == predicted])
    return np.stack([np.bincount(column, minlength=size) for column in columns])


def divide(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return part / whole, 0 where whole is 0."""
    return np.asarray(np.divide(part, whole, out=np.zeros(whole.shape), where=whole > 0))


def _averages(counts: np.ndarray) -> np.ndarray:
    """(..., 3, K) -> (..., 3) as _AVERAGES."""
    target, predicted, correct = np.moveaxis(counts, -2, 0)
    f1, recall = divide(2 * correct, target + predicted), divide(correct, target)
    classes, seen = (target > 0).sum(-1), (target + predicted > 0).sum(-1)
    weighted = (f1 * target).sum(-1) / target.sum(-1)
    return np.stack([recall.sum(-1) / classes, f1.sum(-1) / seen, weighted], -1)


def _average(index: int, counts: np.ndarray) -> np.ndarray:
    """(..., 3, K) -> (...) one of _AVERAGES."""
    return np.asarray(_averages(counts)[..., index])


def _share_of_first(counts: np.ndarray) -> np.ndarray:
    """(..., 3, K) -> (...) the recall of the first class."""
    return np.asarray(counts[..., 2, 0] / counts[..., 0, 0])


@dataclass(frozen=True)
class _Spread:
    """How much class counts vary between units, with what is added to each class.

    Attributes:
        blocks: (B, 3, K) counts of each block of units.
        added: (K,) images that are right, and as many that are wrong, in what is added to a class.
        present: (K,) the number of units with each class.
        units: Of the images.
    """

    blocks: np.ndarray
    added: np.ndarray
    present: np.ndarray
    units: Units

    @classmethod
    def of(cls, target: np.ndarray, predicted: np.ndarray, size: int, units: Units) -> _Spread:
        pairs = np.unique(np.stack([units.of_image, target], 1), axis=0)
        present = np.bincount(pairs[:, 1], minlength=size)
        part = _ADDED_TO_GROUPS if units.grouped else _ADDED
        # as much is taken from the units of a class as is added to it
        kept = present / (present + 2 * part)
        images = np.bincount(target, minlength=size)
        added = part * kept * divide(images, present.astype(np.float64))
        numbers, block = kept[target], units.blocks()
        count = int(block.max()) + 1
        correct = target == predicted
        rows = ((target, numbers), (predicted, numbers), (target, numbers * correct))
        sums = [np.bincount(block * size + column, w, count * size) for column, w in rows]
        blocks = np.stack([each.reshape(count, size) for each in sums], 1)
        return cls(blocks, added, present, units)

    def ends(
        self,
        value: float,
        statistic: Callable[[np.ndarray], np.ndarray],
        most_freedom: float = np.inf,
    ) -> tuple[float, float]:
        """Return Wilson's interval for as many images as the spread of a share is worth.

        Args:
            value: The share as it was measured.
            statistic: The share of (..., 3, K) counts.
            most_freedom: The most degrees of freedom.
        """
        total = self.blocks.sum(0)
        for part in self._additions():
            total = total + part
        shares = [statistic(total - self.blocks)]
        shares += [np.atleast_1d(statistic(total - part)) for part in self._additions()]
        influence = np.concatenate(shares)
        influence, share = influence.mean() - influence, float(statistic(total))
        size = share * (1 - share) / jackknife_variance(influence)
        # a group that is all wrong among others that are all right is no outlier
        freedom = min(self.units.count - 1, most_freedom)
        if not self.units.grouped:
            freedom = min(freedom, degrees_of_freedom(influence))
        return wilson(value * size, size, t_quantile(freedom))

    def _additions(self) -> Iterator[np.ndarray]:
        """(3, K) counts of what is added to each class: a unit that is right, one that is wrong."""
        shape = (3, len(self.added))
        for index in np.flatnonzero(self.present):
            amount, others = self.added[index], self.present > 0
            if others.sum() == 1:  # any other class will do
                others = np.ones(len(others), dtype=bool)
            others[index] = False
            right, wrong = np.zeros(shape), np.zeros(shape)
            right[:, index] = wrong[0, index] = amount
            wrong[1, others] = amount / max(1, others.sum())
            yield right
            yield wrong
