"""Predictions against truth -> numbers. The only place where a metric is computed."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import numpy as np

from foveate.errors import DataError
from foveate.evaluation.intervals import bootstrap, two_sample_difference
from foveate.predictions import Prediction
from foveate.registry import Shelf
from foveate.types import Score, Scores


class Metric(ABC):
    """Collects pairs with `update`, answers with `compute`, ranks single answers with `badness`.

    `reads`: the Prediction type that it compares. `per_class`: the key of a class's row that says how well it is found. Made with
    the run's class names in order.
    """

    reads: ClassVar[type]
    per_class: ClassVar[str]

    def __init__(self, classes: tuple[str, ...], multilabel: bool = False) -> None:
        self.classes, self.multilabel = classes, multilabel
        self._places = {name: place for place, name in enumerate(classes)}

    @abstractmethod
    def update(self, prediction: Any, truth: Any) -> None:
        """One image: both arguments are of the type `reads`."""

    @abstractmethod
    def compute(self) -> Scores:
        """Numbers over all updates so far; raises DataError when there were none."""

    @abstractmethod
    def sample_losses(self, prediction: Any, truth: Any) -> float:
        """How bad the answer to one image is: 0 when all of it is right, and higher is worse. Ranks images for a report; the
        scale is each metric's own. Changes nothing that `compute` says."""

    @abstractmethod
    def resampler(self) -> Callable[[np.ndarray], float]:
        """A function that gives the main number of `compute` on a resample of the images: (M,) places of updates, of which some
        occur several times and some not at all; nan where it is undefined there."""

    def indices_of(self, names: Iterable[str], who: str) -> list[int]:
        """Places of class names in `classes`; raises DataError, which begins with `who`, for a class that the run does not know."""
        try:
            return [self._places[name] for name in names]
        except KeyError as error:
            why = f"it knows {len(self.classes)}"
            raise DataError(
                f"{who} names a class that the run does not know: {error.args[0]!r}", why=why
            ) from None


def with_interval(value: float, ends: tuple[float, float], count: int) -> Score:
    """An interval always holds its value: rare classes that resamples miss can push it aside. One without width is dropped."""
    low, high = ends
    if math.isnan(low) or low == high:
        return Score(float(value), count=count)
    return Score(float(value), min(low, float(value)), max(high, float(value)), count)


def paired_difference(ours: Metric, theirs: Metric, count: int, rounds: int = 1000) -> Score:
    """How much more `ours` has in the main number than `theirs`, over updates with the same `count` images in the same order.

    The interval is a paired bootstrap's: both are measured on the same resamples, so that what the images have in common,
    that some are hard, counts for neither.
    """
    mine, other = ours.resampler(), theirs.resampler()

    def difference(places: np.ndarray) -> float:
        return mine(places) - other(places)

    return Score(difference(np.arange(count)), *bootstrap(difference, count, rounds=rounds), count)


def unpaired_difference(home: Metric, away: Metric, counts: tuple[int, int]) -> Score:
    """How much less `away` has in the main number than `home`, over other images: `counts` of both. Its count is that of `away`."""
    here, there = home.resampler(), away.resampler()
    value = here(np.arange(counts[0])) - there(np.arange(counts[1]))
    return with_interval(value, two_sample_difference(here, there, counts), counts[1])


METRICS: Shelf[Metric] = Shelf("foveate.evaluation.metrics", Metric, "metric")


def metric_for(
    answer: type[Prediction], classes: tuple[str, ...], multilabel: bool = False
) -> Metric:
    """The metric that reads this type of answer."""
    for name in METRICS.names():
        metric = METRICS.load(name)
        if metric.reads is answer:
            return metric(classes, multilabel)
    raise LookupError(f"no metric reads {answer.__name__}")
