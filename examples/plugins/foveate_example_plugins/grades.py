"""How far predicted grades are from the true ones, in steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np

from foveate.errors import DataError
from foveate.evaluation.intervals import POSITIVE, Quantity, Statistics, estimate
from foveate.evaluation.metrics import Metric
from foveate.evaluation.proportions import proportion
from foveate.predictions import Labels
from foveate.types import Scores
from foveate_example_plugins._types import Grade


class GradeMetric(Metric):
    """`within_one`: the share of images at most one step off; `mean_absolute_error`: steps."""

    reads: ClassVar[type] = Grade
    class_score: ClassVar[str] = "within_one"

    def __init__(self, classes: tuple[str, ...], multilabel: bool = False) -> None:
        super().__init__(classes, multilabel)
        self._steps: list[int] = []

    def update(self, prediction: Grade, truth: Labels) -> None:
        predicted, target = (self.classes.index(each.names[0]) for each in (prediction, truth))
        self._steps.append(abs(predicted - target))

    def compute(self) -> Scores:
        if not self._steps:
            raise DataError("there is nothing to score", why="no image has a label")
        steps, units = np.array(self._steps), self.units(len(self._steps))
        error = Statistics(
            (Quantity("mean_absolute_error", POSITIVE),),
            lambda indices: steps[indices].mean(keepdims=True),
        )
        return Scores(
            {  # the first number is the main one: higher must be better
                "within_one": proportion(steps <= 1, units),
                "accuracy": proportion(steps == 0, units),
                **estimate(error, units),
            }
        )

    def sample_loss(self, prediction: Grade, truth: Labels) -> float:
        return float(
            abs(self.classes.index(prediction.names[0]) - self.classes.index(truth.names[0]))
        )

    def resampler(self) -> Callable[[np.ndarray], float]:
        close = np.array(self._steps) <= 1
        return lambda indices: float(close[indices].mean())
