"""Scores of one class as a ranking: areas under curves, ROC, sensitivity and specificity.

Letters: N images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from foveate.evaluation.intervals import Quantity, Statistics, Units
from foveate.evaluation.operating_point import OperatingPoint
from foveate.evaluation.proportions import proportion
from foveate.types import Score

_MAX_POINTS = 400  # of a curve


class RankedScores:
    """The scores of one class, sorted once: a resample only changes the weights of its images.

    Args:
        positive: (N,) bool, which images have the class.
        scores: (N,) of the class.
    """

    def __init__(self, positive: np.ndarray, scores: np.ndarray) -> None:
        self._order = np.argsort(-scores, kind="stable")
        self._positive = positive[self._order].astype(np.float64)
        # images with equal scores are one step of the curve: the index of the last one of each
        steps = np.flatnonzero(np.diff(scores[self._order]))
        self._step_ends = np.append(steps, len(scores) - 1)

    def areas(self, weights: np.ndarray | None = None) -> np.ndarray:
        """Return (2,): the area under the ROC curve (trapezoids) and the average precision (steps).

        Args:
            weights: (N,) how often each image counts; default: once.

        Returns:
            nan where undefined.
        """
        counts = np.ones(len(self._order)) if weights is None else weights[self._order]
        true_positives = np.cumsum(counts * self._positive)[self._step_ends]
        retrieved = np.cumsum(counts)[self._step_ends]
        positives, negatives = true_positives[-1], retrieved[-1] - true_positives[-1]
        if positives == 0:
            return np.array([np.nan, np.nan])
        gains = np.diff(true_positives, prepend=0)
        precision = true_positives / np.maximum(retrieved, 1)  # 0 / 0 is 0
        false_positives = np.diff(retrieved - true_positives, prepend=0)
        trapezoids = (false_positives * (true_positives - gains / 2)).sum()
        auroc = trapezoids / (positives * negatives) if negatives else np.nan
        return np.array([auroc, (gains * precision).sum() / positives])

    def roc(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the ROC curve from (0, 0) to (1, 1): false positive rates and sensitivities."""
        true_positives = np.cumsum(self._positive)[self._step_ends]
        false_positives = self._step_ends + 1 - true_positives
        rates = [
            np.concatenate([[0.0], counts / max(1.0, float(counts[-1]))])
            for counts in (false_positives, true_positives)
        ]
        step = -(-len(rates[0]) // _MAX_POINTS)
        kept = np.union1d(np.arange(0, len(rates[0]), step), [len(rates[0]) - 1])
        return rates[0][kept], rates[1][kept]


def ranking_statistics(positive: np.ndarray, scores: np.ndarray) -> Statistics:
    """Return the area under the ROC curve and the average precision of one class.

    Args:
        positive: (N,) bool, which images have the class.
        scores: (N,) of the class.
    """
    ranking = RankedScores(positive, scores)

    def areas(indices: np.ndarray) -> np.ndarray:
        return ranking.areas(np.bincount(indices, minlength=len(positive)))

    either, own = np.stack([positive, ~positive], 1), positive[:, None]
    auroc = Quantity("auroc", members=either, wilson=True)
    return Statistics((auroc, Quantity("average_precision", members=own, wilson=True)), areas)


@dataclass(frozen=True)
class BinaryScores:
    """Sensitivity and specificity of a binary classification.

    Attributes:
        numbers: Each by name; those that are undefined are left out.
        table: For the ROC plot: positive, roc (false positive rates and sensitivities), points (the
            scores of the predictions and of the threshold) and operating_point, where there is one.
    """

    numbers: dict[str, Score]
    table: dict[str, Any]


def binary_scores(
    name: str,
    positive: np.ndarray,
    predicted: np.ndarray,
    scores: np.ndarray,
    chosen: OperatingPoint | None,
    units: Units,
) -> BinaryScores:
    """Score a binary classification as predicted, and at a threshold.

    Args:
        name: The positive class.
        positive: (N,) bool, the true classes, both of which occur.
        predicted: (N,) bool, the predicted ones.
        scores: (N,) probabilities of the positive class.
        chosen: The threshold, if one was chosen.
        units: Of the images.
    """
    false_positive_rates, sensitivities = RankedScores(positive, scores).roc()
    decisions = {"": predicted}
    if chosen is not None:
        decisions["_at_threshold"] = scores >= chosen.threshold
    numbers: dict[str, Score] = {}
    points = []
    for suffix, decision in decisions.items():
        sensitivity = proportion(decision[positive], units.subset(positive))
        specificity = proportion(~decision[~positive], units.subset(~positive))
        numbers |= {f"sensitivity{suffix}": sensitivity, f"specificity{suffix}": specificity}
        points.append({"sensitivity": sensitivity.value, "specificity": specificity.value})
    table = {
        "positive": name,
        "roc": [false_positive_rates.tolist(), sensitivities.tolist()],
        "points": points,
        "operating_point": None if chosen is None else vars(chosen),
    }
    return BinaryScores(numbers, table)
