"""Predictions against truth -> numbers. The only place where a metric is computed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from foveate.shelf import Shelf
from foveate.types import Prediction, Scores


class Metric(ABC):
    """Collects pairs with `update`, answers with `compute`.

    `reads`: the Prediction type that it compares. Made with the run's class names in order.
    """

    reads: ClassVar[type]

    def __init__(self, classes: tuple[str, ...], multilabel: bool = False) -> None:
        self.classes, self.multilabel = classes, multilabel

    @abstractmethod
    def update(self, prediction: Any, truth: Any) -> None:
        """One image: both arguments are of the type `reads`."""

    @abstractmethod
    def compute(self) -> Scores:
        """Numbers over all updates so far; raises DataError when there were none."""


METRICS: Shelf[Metric] = Shelf("foveate.metrics", Metric, "metric")


def metric_for(answer: type[Prediction], classes: tuple[str, ...], multilabel: bool = False) -> Metric:
    """The metric that reads this type of answer."""
    for name in METRICS.names():
        metric = METRICS.load(name)
        if metric.reads is answer:
            return metric(classes, multilabel)
    raise LookupError(f"no metric reads {answer.__name__}")
