"""Regression: errors, explained variance and rank correlation, with intervals and baselines.

Letters: N images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from foveate.errors import DataError
from foveate.evaluation.intervals import (
    CORRELATION,
    EXPLAINED,
    PLAIN,
    POSITIVE,
    Quantity,
    Statistics,
    estimate,
)
from foveate.evaluation.metrics import Metric
from foveate.evaluation.proportions import proportion
from foveate.predictions import Number
from foveate.types import Score, Scores

_MAX_POINTS = 2000  # of the scatter plot
_QUANTITIES = (
    Quantity("r2", EXPLAINED),
    Quantity("mae", POSITIVE),
    Quantity("rmse", POSITIVE),
    Quantity("spearman", CORRELATION),
)
_BASELINES = (
    Quantity("median_mae", POSITIVE),
    Quantity("mean_rmse", POSITIVE),
    Quantity("mae_gain", PLAIN),
)


class NumberMetric(Metric):
    """Compares Number with Number; agrees with scikit-learn and SciPy to 1e-9. In this order:

    - `r2`: the share of the variance that is explained, 1 - squared errors / squared distances from
      the mean of these images; 0 for constant targets (1 if they are all predicted exactly);
    - `mae`: mean absolute error, in the unit of the numbers;
    - `rmse`: root of the mean squared error;
    - `spearman`: rank correlation; only where targets and predictions vary;
    - `median_mae`: the mean absolute error of always predicting the median of the training numbers,
      `mean_rmse`: the root mean squared error of always predicting their mean, and
      `mae_gain`: `median_mae` minus `mae`, on the same images; where the run tells these numbers;
    - `interval_coverage`: the proportion of prediction intervals that hold the true number, and
      `interval_width`: their mean width; where every prediction has an interval.

    Intervals are the jackknife's over images or their groups (`evaluation/intervals.py`), that of
    the coverage Wilson's.
    """

    reads = Number
    class_score = "r2"

    def __init__(self, classes: tuple[str, ...] = (), multilabel: bool = False) -> None:
        super().__init__(classes, multilabel)
        self._targets: list[float] = []
        self._predicted: list[float] = []
        self._ends: list[tuple[float, float]] = []

    def update(self, prediction: Number, target: Number) -> None:
        """Add one image.

        Raises:
            DataError: One of the two is not a finite number.
        """
        if not math.isfinite(prediction.value):
            raise DataError(
                "the model's predictions are not finite numbers",
                why="its weights or activations overflowed",
                hint="a lower learning rate, or fp32",
            )
        if not math.isfinite(target.value):
            raise DataError("the target is not a finite number", why=f"got {target.value}")
        self._targets.append(target.value)
        self._predicted.append(prediction.value)
        if prediction.low is not None and prediction.high is not None:
            self._ends.append((prediction.low, prediction.high))

    def compute(self) -> Scores:
        """Return the scores listed above.

        Returns:
            `tables`: `scatter`, with the lists true, predicted, low and high of at most 2,000
            images; without intervals the last two are empty.

        Raises:
            DataError: There were no updates.
        """
        if not self._targets:
            raise DataError("there is nothing to score", why="no image has a number")
        target, predicted = np.array(self._targets), np.array(self._predicted)
        count = len(target)
        units = self.units(count)
        numbers = estimate(_statistics(target, predicted, self.settings), units)
        low, high = np.array(self._ends).reshape(-1, 2).T
        if len(low) == count:
            coverage = proportion((low <= target) & (target <= high), units)
            width = Score(float((high - low).mean()), count=count)
            numbers |= {"interval_coverage": coverage, "interval_width": width}
        columns = {"true": target, "predicted": predicted, "low": low, "high": high}
        step = -(-count // _MAX_POINTS)
        scatter = {name: values[::step].tolist() for name, values in columns.items()}
        return Scores(numbers, tables={"scatter": scatter}, as_percent=False)

    def resampler(self) -> Callable[[np.ndarray], float]:
        """Return a function that computes R2 on a resample."""
        target, predicted = np.array(self._targets), np.array(self._predicted)
        return lambda indices: _r2(target[indices], predicted[indices])

    def sample_loss(self, prediction: Number, target: Number) -> float:
        """Return the absolute error, in the unit of the numbers."""
        return abs(prediction.value - target.value)


def _statistics(target: np.ndarray, predicted: np.ndarray, settings: Any) -> Statistics:
    """_QUANTITIES, and _BASELINES where the settings tell what they need."""
    absolute, squared = np.abs(predicted - target), np.square(predicted - target)
    baselines = np.empty((0, len(target)))
    if "median" in settings:
        of_median = np.abs(settings["median"] - target)
        baselines = np.stack([of_median, np.square(settings["mean"] - target)])

    def values(indices: np.ndarray) -> np.ndarray:
        mae = absolute[indices].mean()
        scores = [
            _r2(target[indices], predicted[indices]),
            mae,
            math.sqrt(squared[indices].mean()),
            _spearman(target[indices], predicted[indices]),
        ]
        if len(baselines):
            of_median, of_mean = baselines[:, indices].mean(1)
            scores += [of_median, math.sqrt(of_mean), of_median - mae]
        return np.array(scores)

    return Statistics((*_QUANTITIES, *(_BASELINES if len(baselines) else ())), values)


def _r2(target: np.ndarray, predicted: np.ndarray) -> float:
    """As r2_score of scikit-learn: finite, also for constant targets."""
    residual = float(np.square(target - predicted).sum())
    total = float(np.square(target - target.mean()).sum())
    if total == 0:
        return float(residual == 0)
    return 1 - residual / total


def _spearman(target: np.ndarray, predicted: np.ndarray) -> float:
    """The correlation of ranks, equal values with their mean rank; nan where one is constant."""
    ranks = np.stack([_ranks(target), _ranks(predicted)])
    ranks -= ranks.mean(1, keepdims=True)
    squares = np.square(ranks).sum(1)
    return float(ranks[0] @ ranks[1] / math.sqrt(squares.prod())) if squares.all() else math.nan


def _ranks(values: np.ndarray) -> np.ndarray:
    """(N,) ranks from 0 on. scipy.stats.rankdata is slower, and called hundreds of times."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts + 1) / 2)[inverse])
