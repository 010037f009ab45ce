"""Denoising: how much of the noise a generator recognizes on held-out images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from foveate.errors import DataError
from foveate.evaluation.intervals import EXPLAINED, Quantity, Statistics, estimate
from foveate.evaluation.metrics import Metric
from foveate.predictions import DenoisingResult
from foveate.types import Scores


class DenoisedMetric(Metric):
    """Averages the explained share of the noise.

    `explained`: 1 - the squared error of the predictions over the square of their targets, at most
    1; higher is better. Of two generators the better one here is not always the one whose images
    people prefer. The target is the image itself and is not read.
    """

    reads = DenoisingResult
    class_score = "explained"

    def __init__(self, classes: tuple[str, ...] = (), multilabel: bool = False) -> None:
        super().__init__(classes, multilabel)
        self._shares: list[float] = []

    def update(self, prediction: DenoisingResult, target: Any) -> None:
        """Add one image."""
        self._shares.append(prediction.explained)

    def compute(self) -> Scores:
        """Return the mean with its interval.

        Raises:
            DataError: There were no updates.
        """
        if not self._shares:
            raise DataError("there is nothing to score", why="there are no images")
        shares = np.array(self._shares)
        statistics = Statistics(
            (Quantity("explained", EXPLAINED),),
            lambda indices: shares[indices].mean(keepdims=True),
        )
        return Scores(estimate(statistics, self.units(len(shares))))

    def sample_loss(self, prediction: DenoisingResult, target: Any) -> float:
        """Return the share of the noise that is not explained."""
        return max(0.0, 1 - prediction.explained)

    def resampler(self) -> Callable[[np.ndarray], float]:
        """Return a function that computes the mean on a resample."""
        shares = np.array(self._shares)
        return lambda indices: float(shares[indices].mean())
