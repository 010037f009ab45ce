"""Classification of whole images: accuracy, F1, ranking and calibration, with intervals.

Letters: N images, K classes, M statistics.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from foveate.errors import DataError
from foveate.evaluation.calibration import (
    calibration_error,
    expected_error_if_calibrated,
    reliability_bins,
    risk_coverage_curve,
)
from foveate.evaluation.intervals import POSITIVE, Quantity, Statistics, Units, estimate
from foveate.evaluation.metrics import Metric
from foveate.evaluation.metrics._ranking import RankedScores, binary_scores, ranking_statistics
from foveate.evaluation.operating_point import OperatingPoint
from foveate.evaluation.proportions import class_averages, class_counts, divide, proportion
from foveate.predictions import Labels
from foveate.types import Score, Scores

_MOST_BLOCKS, _MIN_BLOCKS = 250, 50
_WORK = 50_000_000  # images x classes x blocks that rankings are computed without: about a second
_SINGLE_LABEL_ORDER = (
    "accuracy",
    "majority_accuracy",
    "balanced_accuracy",
    "macro_f1",
    "weighted_f1",
    "top_5",
    "log_loss",
    "auroc",
    "average_precision",
    "sensitivity",
    "specificity",
    "sensitivity_at_threshold",
    "specificity_at_threshold",
    "expected_calibration_error",
    "calibration_error_by_chance",
)


class LabelMetric(Metric):
    """Compares Labels with Labels; agrees with scikit-learn to 1e-9.

    All scores are in [0, 1] except `log_loss` (nats). With one class per image, in this order:

    - `accuracy`;
    - `majority_accuracy`: what always answering the most frequent class of the targets gives;
    - `balanced_accuracy`: the mean recall of the classes among the targets;
    - `macro_f1`: the mean F1 of the classes among targets or predictions;
    - `weighted_f1`: the same, weighted by target images;
    - `top_5`: only with more than five classes;
    - `log_loss`;
    - `auroc`, `average_precision`, `sensitivity`, `specificity`: only with two classes, both among
      the targets; the positive one is named by the settings, or else classes[1];
    - `sensitivity_at_threshold`, `specificity_at_threshold`: the same at the threshold that the
      settings name;
    - `expected_calibration_error`: 15 bins of equal width over the confidence (Guo et al. 2017);
    - `calibration_error_by_chance`: its mean if predictions were right exactly as often as their
      confidence says;
    - `set_coverage`, `set_size`: where every prediction has a prediction set, the proportion of
      sets that contain the true class, and the mean number of classes in a set.

    With any number of classes per image, in this order:

    - `mean_average_precision`: the mean over the classes that have a target image;
    - `auroc`: the mean over the classes that have images with and without them;
    - `macro_f1`: as above (scikit-learn's zero_division=nan);
    - `micro_f1`: over all pairs of image and class;
    - `exact_match`: the proportion of images with no class wrong.

    The F1s and the exact match read `names`, the first two read `scores`.

    What is undefined is left out, never nan: rankings where the targets have one class only, and
    all that reads scores where a prediction has none. Intervals are over groups where images have
    them: Wilson's for proportions and means over classes (`evaluation/proportions.py`), the
    jackknife's for the others (`evaluation/intervals.py`). The calibration error has none, because
    it is biased upwards.
    """

    reads = Labels
    class_score = "recall"

    def __init__(self, classes: tuple[str, ...], multilabel: bool = False) -> None:
        super().__init__(classes, multilabel)
        self._targets: list[list[int]] = []  # class indices of each image
        self._predicted: list[list[int]] = []
        self._scores: list[np.ndarray | None] = []
        self._sets: list[tuple[str, ...]] = []

    def update(self, prediction: Labels, target: Labels) -> None:
        """Add one image.

        Raises:
            DataError: A class is unknown, there are several names where one is due, or the scores
                are not K finite numbers.
        """
        targets = self._class_indices(target, "the target")
        predicted = self._class_indices(prediction, "the prediction")
        scores = None if prediction.scores is None else self._checked(prediction.scores)
        self._targets.append(targets)
        self._predicted.append(predicted)
        self._scores.append(scores)
        if prediction.uncertainty is not None:
            self._sets.append(prediction.uncertainty.prediction_set)

    def compute(self) -> Scores:
        """Return the scores listed above.

        Returns:
            `per_class`: class, precision, recall, f1, count (target images), and for multi-label
            average_precision and auroc, None where undefined; precision and recall of nothing are
            0. `tables`, not for multi-label: `classes`, `confusion` (K target rows by K predicted
            columns), where there are scores `reliability` and `risk`, and of two classes `binary`.

        Raises:
            DataError: There were no updates.
        """
        if not self._targets:
            raise DataError("there is nothing to score", why="no image has a label")
        scores, units = self._all_scores(), self.units(len(self._targets))
        if self.multilabel:
            target, predicted = self._one_hot(self._targets), self._one_hot(self._predicted)
            return _multilabel(self.classes, target, predicted, scores, units)
        target, predicted = (np.array(rows)[:, 0] for rows in (self._targets, self._predicted))
        result = _single_label(self.classes, target, predicted, scores, units)
        if scores is not None and len(self.classes) == 2:
            self._add_binary(result, target, predicted, scores)
        if len(self._sets) == len(target):
            result.numbers.update(_set_scores([self.classes[i] for i in target], self._sets, units))
        return result

    def _add_binary(
        self, result: Scores, target: np.ndarray, predicted: np.ndarray, scores: np.ndarray
    ) -> None:
        """Add the scores of the positive class, if both classes occur."""
        name = self.settings.get("positive") or self.classes[1]
        index = self._index[name]
        positive = target == index
        if positive.all() or not positive.any():
            return
        chosen: OperatingPoint | None = self.settings.get("operating_point")
        units, own = self.units(len(target)), scores[:, index]
        binary = binary_scores(name, positive, predicted == index, own, chosen, units)
        added = estimate(ranking_statistics(positive, own), units) | binary.numbers
        result.tables["binary"] = binary.table
        numbers = {**result.numbers, **added}
        result.numbers.clear()
        result.numbers.update(_in_order(numbers))

    def resampler(self) -> Callable[[np.ndarray], float]:
        """Return the accuracy on a resample; with multi-label the mAP, without scores macro F1."""
        if not self.multilabel:
            pairs = zip(self._targets, self._predicted, strict=True)
            hits = np.array([target == predicted for target, predicted in pairs])
            return lambda indices: float(hits[indices].mean())
        target, predicted = self._one_hot(self._targets), self._one_hot(self._predicted)
        scores = self._all_scores()
        if scores is None:
            f1 = _multilabel_f1(target, predicted)
            return lambda indices: float(f1.values(indices)[0])
        ranking = _multilabel_ranking(target, [*map(RankedScores, target.T, scores.T)])
        return lambda indices: float(ranking.values(indices)[0])

    def sample_loss(self, prediction: Labels, target: Labels) -> float:
        """Return the confidence of a wrong prediction, in [0, 1]; 1 without scores.

        For multi-label it is that of the class that is most confidently wrong, predicted or left
        out.

        Raises:
            DataError: As `update`.
        """
        targets = set(self._class_indices(target, "the target"))
        predicted = set(self._class_indices(prediction, "the prediction"))
        if targets == predicted:
            return 0.0
        if prediction.scores is None:
            return 1.0
        scores = self._checked(prediction.scores)
        wrong = targets ^ predicted if self.multilabel else predicted
        return float(max(scores[i] if i in predicted else 1 - scores[i] for i in wrong))

    def _all_scores(self) -> np.ndarray | None:
        """(N, K) float64; None unless every prediction has scores."""
        rows = [row for row in self._scores if row is not None]
        complete = rows and len(rows) == len(self._targets)
        return np.stack(rows).astype(np.float64) if complete else None

    def _class_indices(self, labels: Labels, who: str) -> list[int]:
        if not self.multilabel and len(labels.names) != 1:
            raise DataError(
                f"{who} must name one class, it names {len(labels.names)}", where=labels.names
            )
        return self.indices_of(labels.names, who)

    def _checked(self, scores: np.ndarray) -> np.ndarray:
        if scores.shape != (len(self.classes),):
            raise DataError(
                "a prediction needs a score for each class",
                why=f"its scores have shape {scores.shape}, the classes ({len(self.classes)},)",
            )
        if not np.isfinite(scores).all():
            raise DataError(
                "the model's scores are not finite numbers",
                why="its weights or activations overflowed",
                hint="a lower learning rate, or fp32",
            )
        return scores

    def _one_hot(self, rows: list[list[int]]) -> np.ndarray:
        """(N, K) bool: which classes each image has."""
        members = np.zeros((len(rows), len(self.classes)), dtype=bool)
        for row, columns in zip(members, rows, strict=True):
            row[columns] = True
        return members


# --- one class per image


def _single_label(
    classes: tuple[str, ...],
    target: np.ndarray,
    predicted: np.ndarray,
    scores: np.ndarray | None,
    units: Units,
) -> Scores:
    """Scores of (N,) class indices; `scores` are (N, K) probabilities or None."""
    size, count = len(classes), len(target)
    hits = predicted == target
    numbers = {"accuracy": proportion(hits, units)}
    numbers["majority_accuracy"] = Score(float(np.bincount(target).max() / count), count=count)
    numbers |= class_averages(target, predicted, size, units)
    if scores is not None:
        numbers |= estimate(_log_loss(target, scores), units)
        if size > 5:
            numbers["top_5"] = proportion(_in_top(5, scores, target), units)
    confusion = np.bincount(target * size + predicted, minlength=size * size).reshape(size, size)
    tables: dict[str, Any] = {"confusion": confusion.tolist(), "classes": list(classes)}
    if scores is not None:
        confidence = scores[np.arange(count), predicted]
        error = calibration_error(confidence, hits)
        by_chance = expected_error_if_calibrated(confidence)
        numbers["expected_calibration_error"] = Score(error, count=count)
        numbers["calibration_error_by_chance"] = Score(by_chance, count=count)
        tables["reliability"] = reliability_bins(confidence, hits)
        tables["risk"] = [part.tolist() for part in risk_coverage_curve(confidence, hits)]
    return Scores(
        _in_order(numbers), _rows(classes, *class_counts(target, predicted, size)), tables
    )


def _in_order(numbers: dict[str, Score]) -> dict[str, Score]:
    return {name: numbers[name] for name in _SINGLE_LABEL_ORDER if name in numbers}


def _log_loss(target: np.ndarray, scores: np.ndarray) -> Statistics:
    probabilities = scores[np.arange(len(target)), target]
    losses = -np.log(np.clip(probabilities, np.finfo(np.float64).eps, 1))
    return Statistics(
        (Quantity("log_loss", POSITIVE),), lambda indices: losses[indices].mean(keepdims=True)
    )


def _in_top(most: int, scores: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(N,) bool: whether the target is among the `most` highest scores.

    Of equal scores the later class wins, as in scikit-learn.
    """
    own = scores[np.arange(len(target)), target][:, None]
    later = np.arange(scores.shape[1]) > target[:, None]
    return np.asarray(((scores > own) | ((scores == own) & later)).sum(1) < most)


def _set_scores(targets: list[str], sets: list[tuple[str, ...]], units: Units) -> dict[str, Score]:
    """How often prediction sets contain the target, and how large they are."""
    covered = np.array([name in names for name, names in zip(targets, sets, strict=True)])
    size = Score(float(np.mean([len(names) for names in sets])), count=len(sets))
    return {"set_coverage": proportion(covered, units), "set_size": size}


# --- any number of classes per image


def _multilabel(
    classes: tuple[str, ...],
    target: np.ndarray,
    predicted: np.ndarray,
    scores: np.ndarray | None,
    units: Units,
) -> Scores:
    """Scores of (N, K) bool; `scores` are (N, K) probabilities or None."""
    numbers: dict[str, Score] = {}
    rows = _rows(classes, *(each.sum(0) for each in (target, predicted, target & predicted)))
    if scores is not None:
        rankings = [*map(RankedScores, target.T, scores.T)]
        rows = [row | _ranking_columns(each) for row, each in zip(rows, rankings, strict=True)]
        blocks = int(np.clip(_WORK // target.size, _MIN_BLOCKS, _MOST_BLOCKS))
        numbers |= estimate(_multilabel_ranking(target, rankings), units, blocks)
    numbers |= estimate(_multilabel_f1(target, predicted), units)
    numbers["exact_match"] = proportion((target == predicted).all(1), units)
    return Scores(numbers, rows)


def _multilabel_ranking(target: np.ndarray, rankings: list[RankedScores]) -> Statistics:
    def means(indices: np.ndarray) -> np.ndarray:
        weights = np.bincount(indices, minlength=len(target))
        return _mean_of_defined(np.stack([each.areas(weights) for each in rankings]))[::-1]

    names = ("mean_average_precision", "auroc")
    return Statistics(tuple(Quantity(name, members=target, wilson=True) for name in names), means)


def _multilabel_f1(target: np.ndarray, predicted: np.ndarray) -> Statistics:
    # as floats, because NumPy multiplies matrices of integers slowly
    as_floats = [each.astype(np.float64) for each in (target, predicted, target & predicted)]

    def f1s(indices: np.ndarray) -> np.ndarray:
        weights = np.bincount(indices, minlength=len(target)).astype(np.float64)
        return _multilabel_f1s(*(weights @ each for each in as_floats))

    members = target if (target.any(0) | ~predicted.any(0)).all() else None
    return Statistics((Quantity("macro_f1", members=members), Quantity("micro_f1")), f1s)


def _multilabel_f1s(target: np.ndarray, predicted: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """(2,) macro F1 and micro F1 of (K,) counts; nan where there is no class at all."""
    both = target + predicted
    if not both.any():
        return np.array([np.nan, np.nan])
    return np.array([divide(2 * correct, both)[both > 0].mean(), 2 * correct.sum() / both.sum()])


def _mean_of_defined(areas: np.ndarray) -> np.ndarray:
    """(2,) means of the columns of (K, 2) without nan; nan where a column has nothing else."""
    known = ~np.isnan(areas)
    sums, counts = np.where(known, areas, 0).sum(0), known.sum(0)
    return np.asarray(np.divide(sums, counts, out=np.full(2, np.nan), where=counts > 0))


# --- both


def _rows(
    classes: tuple[str, ...], target: np.ndarray, predicted: np.ndarray, correct: np.ndarray
) -> list[dict[str, Any]]:
    """A row for each class, of (K,) counts."""
    precision, recall = divide(correct, predicted), divide(correct, target)
    f1 = divide(2 * correct, target + predicted)
    keys = ("class", "precision", "recall", "f1", "count")
    columns = (column.tolist() for column in (precision, recall, f1, target))
    return [dict(zip(keys, row, strict=True)) for row in zip(classes, *columns, strict=True)]


def _ranking_columns(ranking: RankedScores) -> dict[str, float | None]:
    auroc, precision = ranking.areas().tolist()
    columns = {"average_precision": precision, "auroc": auroc}
    return {name: None if math.isnan(value) else value for name, value in columns.items()}
