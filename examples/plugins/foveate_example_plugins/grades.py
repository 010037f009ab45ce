"""How far predicted grades are from the true ones, in steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np

from foveate.errors import DataError
from foveate.evaluation.intervals import bootstrap
from foveate.evaluation.metrics import Metric, with_interval
from foveate.predictions import Labels
from foveate.types import Score, Scores
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
        steps = np.array(self._steps)
        return Scores(
            {  # the first number is the main one: higher must be better
                "within_one": _score(steps <= 1),
                "accuracy": _score(steps == 0),
                "mean_absolute_error": _score(steps),
            }
        )

    def sample_loss(self, prediction: Grade, truth: Labels) -> float:
        return float(
            abs(self.classes.index(prediction.names[0]) - self.classes.index(truth.names[0]))
        )

    def resampler(self) -> Callable[[np.ndarray], float]:
        close = np.array(self._steps) <= 1
        return lambda indices: float(close[indices].mean())


def _score(values: np.ndarray) -> Score:
    """The mean with a 95 % bootstrap interval over images."""
    ends = bootstrap(lambda indices: float(values[indices].mean()), len(values))
    return with_interval(float(values.mean()), ends, len(values))
