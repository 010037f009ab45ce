"""How well noise is taken off pictures that were not learnt from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from foveate.errors import DataError
from foveate.evaluation.intervals import bootstrap
from foveate.evaluation.metrics import Metric, with_interval
from foveate.predictions import DenoisingResult
from foveate.types import Scores


class DenoisedMetric(Metric):
    """`explained`: the mean share of the noise that was told from the picture, at most 1 (1 - the
    squared error of the answers over the square of what was asked). Higher is better; of two
    painters the better one is not always the one whose pictures people like more. The truth is the
    image itself, and is not looked at here.
    """

    reads = DenoisingResult
    class_score = "explained"

    def __init__(self, classes: tuple[str, ...] = (), multilabel: bool = False) -> None:
        super().__init__(classes, multilabel)
        self._shares: list[float] = []

    def update(self, prediction: DenoisingResult, truth: Any) -> None:
        self._shares.append(prediction.explained)

    def compute(self) -> Scores:
        if not self._shares:
            raise DataError("there is nothing to score", why="no image has a truth")
        shares, count = np.array(self._shares), len(self._shares)
        ends = bootstrap(lambda places: float(shares[places].mean()), count)
        return Scores({"explained": with_interval(float(shares.mean()), ends, count)})

    def sample_losses(self, prediction: DenoisingResult, truth: Any) -> float:
        """The share that was not told."""
        return max(0.0, 1 - prediction.explained)

    def resampler(self) -> Callable[[np.ndarray], float]:
        shares = np.array(self._shares)
        return lambda places: float(shares[places].mean())
