"""Metrics: predictions against targets. The only place where a score is computed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from foveate.errors import DataError
from foveate.evaluation.intervals import Units, difference_interval, leave_blocks_out
from foveate.predictions import Prediction
from foveate.registry import Registry
from foveate.types import Score, Scores


class Metric(ABC):
    """Base class of metrics: `update` with each image, then `compute`.

    Attributes:
        reads: The prediction type that it compares.
        class_score: The column of `Scores.per_class` that says how well a class is recognized.
        classes: Class names of the run, in order.
        multilabel: Whether an image may have any number of classes.
        settings: What the task tells of the run, such as its positive class.
        groups: The group of each image that was added, None for one on its own; empty if no image
            has one.
    """

    reads: ClassVar[type]
    class_score: ClassVar[str]
    settings: Mapping[str, Any] = MappingProxyType({})
    groups: Sequence[str | None] = ()

    def __init__(self, classes: tuple[str, ...], multilabel: bool = False) -> None:
        self.classes, self.multilabel = classes, multilabel
        self._index = {name: index for index, name in enumerate(classes)}

    @abstractmethod
    def update(self, prediction: Any, target: Any) -> None:
        """Add one image; both arguments are of the type `reads`."""

    @abstractmethod
    def compute(self) -> Scores:
        """Return the scores of all images so far.

        Raises:
            DataError: There were none.
        """

    @abstractmethod
    def sample_loss(self, prediction: Any, target: Any) -> float:
        """Return how wrong the prediction of one image is, to rank images in a report.

        0 means that all of it is right, and higher is worse; the scale is each metric's own. It
        changes nothing that `compute` returns.
        """

    @abstractmethod
    def resampler(self) -> Callable[[np.ndarray], float]:
        """Return a function that computes the main score on a resample of the images.

        Its argument are the (M,) indices of updates, some repeated and some absent; it returns nan
        where the score is undefined there.
        """

    def units(self, count: int) -> Units:
        """Return what intervals are computed over: the groups of the `count` images, or these."""
        return Units.of(self.groups) if any(self.groups) else Units.single(count)

    def indices_of(self, names: Iterable[str], who: str) -> list[int]:
        """Return the indices of class names in `classes`.

        Args:
            names: Class names.
            who: Where they stand, such as "the target"; the error begins with it.

        Raises:
            DataError: The run does not know one of the classes.
        """
        try:
            return [self._index[name] for name in names]
        except KeyError as error:
            raise DataError(
                f"{who} names a class that the run does not know: {error.args[0]!r}",
                why=f"it knows {len(self.classes)}",
            ) from None


def paired_difference(metric: Metric, baseline: Metric, count: int) -> Score:
    """Return the main score of `metric` minus that of `baseline`, on the same images.

    Both are computed without the same images, one unit after the other, so that what makes an image
    hard for both counts for neither. Where all differences are equal, the interval has no width;
    where there is only one unit, there is none.

    Args:
        metric: Metric that was updated with `count` images.
        baseline: Metric that was updated with the same images in the same order.
        count: Number of images.
    """
    score_metric, score_baseline = metric.resampler(), baseline.resampler()

    def difference(indices: np.ndarray) -> np.ndarray:
        return np.array([score_metric(indices) - score_baseline(indices)])

    units, value = metric.units(count), float(difference(np.arange(count))[0])
    if units.count < 2:
        return Score(value, count=count, groups=units.groups, no_interval=units.too_few)
    left_out = leave_blocks_out(difference, units.blocks())[:, 0]
    ends = difference_interval(value, left_out[~np.isnan(left_out)])
    return Score(value, *ends, count, units.groups)


METRICS: Registry[Metric] = Registry("foveate.evaluation.metrics", Metric, "metric")


def metric_for(
    prediction_type: type[Prediction],
    classes: tuple[str, ...],
    multilabel: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> Metric:
    """Return a new metric that reads this prediction type.

    Args:
        prediction_type: The type.
        classes: Class names of the run, in order.
        multilabel: Whether an image may have any number of classes.
        settings: As of `Metric`.

    Raises:
        LookupError: There is none.
    """
    for name in METRICS.names():
        plugin = METRICS.get(name)
        if plugin.reads is prediction_type:
            metric = plugin(classes, multilabel)
            metric.settings = dict(settings or {})
            return metric
    raise LookupError(f"no metric reads {prediction_type.__name__}")
