"""Classes of whole images: accuracy, F1, ranking and calibration, with intervals; one class an image or any number."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from foveate.errors import DataError
from foveate.evaluation.calibration import (
    calibration_error,
    expected_error_if_calibrated,
    reliability,
    risk_coverage_curve,
)
from foveate.evaluation.intervals import bootstraps, wilson
from foveate.evaluation.metrics import Metric, with_interval
from foveate.predictions import Labels
from foveate.types import Score, Scores

_ROUNDS = 400
_FEWEST_ROUNDS = 100
_WORK = (
    100_000_000  # images x classes x rounds that a bootstrap of rankings may cost: a second or two
)


class LabelMetric(Metric):
    """Compares Labels with Labels; agrees with scikit-learn to 1e-9. All numbers are in [0, 1] but `log_loss` (nats).

    One class an image, in this order:
    `accuracy`; `balanced_accuracy`, the mean recall of the classes in the truth; `macro_f1`, the mean F1 of the classes in
    truth or answers; `weighted_f1`, weighted by true images; `top_5`, only with more than five classes; `log_loss`;
    `auroc` and `average_precision`, only with two classes, of which classes[1] is the positive one;
    `expected_calibration_error`, 15 bins of equal width over the confidence of the answer (Guo et al. 2017);
    `calibration_error_by_chance`, its mean where as many answers are right exactly as often as they say; where every
    answer has one, `set_coverage`, the share of sets that hold the true class, and `set_size`, the mean number of classes in a set.

    Any number of classes an image, in this order: `mean_average_precision`, the mean over the classes that have a true
    image; `auroc`, the mean over the classes that have images with and without; `macro_f1`, as above (scikit-learn's
    zero_division=nan); `micro_f1`, over all pairs of image and class; `exact_match`, the share of images with no class
    wrong. The F1s and the exact match read `names`, the first two read `scores`.

    What is undefined is left out, never nan: ranking where the truth holds one class only, and everything that reads scores
    where a prediction has none. Shares have Wilson intervals, the others percentile bootstraps over images. A bootstrap
    whose resamples do not vary (one image, or all right) says nothing and is left out, and so is that of the calibration
    error, which resampling biases upwards.
    """

    reads = Labels
    per_class = "recall"

    def __init__(self, classes: tuple[str, ...], multilabel: bool = False) -> None:
        super().__init__(classes, multilabel)
        self._truths: list[list[int]] = []
        self._answers: list[list[int]] = []
        self._scores: list[np.ndarray | None] = []
        self._sets: list[tuple[str, ...]] = []

    def update(self, prediction: Labels, truth: Labels) -> None:
        """One image. Raises DataError for a class that the run does not know, for two names where one is due, and for
        scores that are not K finite numbers."""
        truths, answers = self._found(truth, "the truth"), self._found(prediction, "the prediction")
        scores = None if prediction.scores is None else self._checked(prediction.scores)
        self._truths.append(truths)
        self._answers.append(answers)
        self._scores.append(scores)
        if prediction.uncertainty is not None:
            self._sets.append(prediction.uncertainty.prediction_set)

    def compute(self) -> Scores:
        """The numbers listed above. `per_class`: class, precision, recall, f1, count (true images), and for multi-label
        average_precision and auroc, None where undefined; precision and recall of nothing are 0. `tables`, not for
        multi-label: `confusion`, K rows of truth by K columns of answers, and `classes`. Raises DataError without updates."""
        if not self._truths:
            raise DataError(
                "there is nothing to score", why="no image has both an answer and a true label"
            )
        if self.multilabel:
            return _many(
                self.classes,
                self._held(self._truths),
                self._held(self._answers),
                self._all_scores(),
            )
        truths, answers = (np.array(places)[:, 0] for places in (self._truths, self._answers))
        found = _single(self.classes, truths, answers, self._all_scores())
        if len(self._sets) == len(truths):
            covered = [
                self.classes[place] in names
                for place, names in zip(truths, self._sets, strict=True)
            ]
            found.numbers.update(_of_sets(covered, self._sets))
        return found

    def resampler(self) -> Callable[[np.ndarray], float]:
        if not self.multilabel:
            hits = np.array(
                [truth == answer for truth, answer in zip(self._truths, self._answers, strict=True)]
            )
            return lambda places: float(hits[places].mean())
        truth, answer, scores = (
            self._held(self._truths),
            self._held(self._answers),
            self._all_scores(),
        )
        if scores is None:
            return lambda places: float(
                _set_means(*(held[places].sum(0) for held in (truth, answer, truth & answer)))[0]
            )
        rankings = [
            _Ranking(truth[:, place], scores[:, place]) for place in range(len(self.classes))
        ]
        return lambda places: float(
            _resampled_areas(rankings, np.bincount(places, minlength=len(truth)))[0]
        )

    def _all_scores(self) -> np.ndarray | None:
        """(N, K) float64; None unless every answer has scores."""
        rows = [row for row in self._scores if row is not None]
        return (
            np.stack(rows).astype(np.float64) if rows and len(rows) == len(self._truths) else None
        )

    def sample_losses(self, prediction: Labels, truth: Labels) -> float:
        """The confidence of a wrong answer, in [0, 1]; for multi-label that of the class most surely wrong, said or left out.
        Without scores 1 when wrong. Raises DataError as `update` does."""
        truths, answers = (
            set(self._found(truth, "the truth")),
            set(self._found(prediction, "the prediction")),
        )
        if truths == answers:
            return 0.0
        if prediction.scores is None:
            return 1.0
        scores = self._checked(prediction.scores)
        wrong = truths ^ answers if self.multilabel else answers
        return float(
            max(scores[place] if place in answers else 1 - scores[place] for place in wrong)
        )

    def _found(self, labels: Labels, who: str) -> list[int]:
        if not self.multilabel and len(labels.names) != 1:
            raise DataError(
                f"{who} must name one class, it names {len(labels.names)}", where=labels.names
            )
        return self.indices_of(labels.names, who)

    def _checked(self, scores: np.ndarray) -> np.ndarray:
        if scores.shape != (len(self.classes),):
            raise DataError(
                f"a prediction needs a score for each of {len(self.classes)} classes, it has shape {scores.shape}"
            )
        if not np.isfinite(scores).all():
            hint = "a lower learning rate, or fp32"
            raise DataError(
                "the model's scores are not finite numbers",
                why="its weights or activations overflowed",
                hint=hint,
            )
        return scores

    def _held(self, places: list[list[int]]) -> np.ndarray:
        """(N, K) bool: which classes hold."""
        held = np.zeros((len(places), len(self.classes)), dtype=bool)
        for row, columns in zip(held, places, strict=True):
            row[columns] = True
        return held


def _single(
    classes: tuple[str, ...], truth: np.ndarray, answer: np.ndarray, scores: np.ndarray | None
) -> Scores:
    """`truth`, `answer`: (N,) places in classes. `scores`: (N, K) or None."""
    size, count = len(classes), len(truth)
    hits = answer == truth
    totals = (
        np.bincount(truth, minlength=size),
        np.bincount(answer, minlength=size),
        np.bincount(truth[hits], minlength=size),
    )
    numbers = {"accuracy": _share(hits)}
    values = dict(
        zip(("balanced_accuracy", "macro_f1", "weighted_f1"), _means(*totals), strict=True)
    )
    read: list[Callable[[np.ndarray], np.ndarray]] = [
        lambda places: _means(*_counted(truth, answer, places, size))
    ]
    if scores is not None:
        chances = np.clip(scores[np.arange(count), truth], np.finfo(np.float64).eps, 1)
        losses = -np.log(chances)
        values["log_loss"] = losses.mean()
        read.append(lambda places: losses[places].mean(keepdims=True))
        if size == 2 and 0 < truth.sum() < count:
            ranking = _Ranking(truth == 1, scores[:, 1])
            values |= zip(("auroc", "average_precision"), ranking.areas(), strict=True)
            read.append(lambda places: ranking.areas(np.bincount(places, minlength=count)))
    drawn = bootstraps(
        lambda places: np.concatenate([part(places) for part in read]), count, rounds=_ROUNDS
    )
    for (name, value), ends in zip(values.items(), drawn, strict=True):
        if name == "log_loss" and scores is not None and size > 5:
            numbers["top_5"] = _share(_in_top(5, scores, truth))
        numbers[name] = with_interval(value, ends, count)
    if scores is not None:
        sure = scores[np.arange(count), answer]
        numbers["expected_calibration_error"] = Score(calibration_error(sure, hits), count=count)
        numbers["calibration_error_by_chance"] = Score(expected_error_if_calibrated(sure), count=count)
    confusion = np.bincount(truth * size + answer, minlength=size * size).reshape(size, size)
    tables: dict[str, Any] = {"confusion": confusion.tolist(), "classes": list(classes)}
    if scores is not None:
        tables |= {
            "reliability": reliability(sure, hits),
            "risk": [part.tolist() for part in risk_coverage_curve(sure, hits)],
        }
    return Scores(numbers, _rows(classes, *totals), tables)


def _of_sets(covered: list[bool], sets: list[tuple[str, ...]]) -> dict[str, Score]:
    """How often the true class was in the set, and how large the sets were."""
    sizes = Score(float(np.mean([len(names) for names in sets])), count=len(sets))
    return {"set_coverage": _share(np.array(covered)), "set_size": sizes}


def _many(
    classes: tuple[str, ...], truth: np.ndarray, answer: np.ndarray, scores: np.ndarray | None
) -> Scores:
    """`truth`, `answer`: (N, K) bool. `scores`: (N, K) or None."""
    count, size = truth.shape
    both = truth & answer
    totals = truth.sum(0), answer.sum(0), both.sum(0)
    values: dict[str, float] = {}
    read: list[Callable[[np.ndarray], np.ndarray]] = []
    rows, rounds = _rows(classes, *totals), _ROUNDS
    if scores is not None:
        rankings = [_Ranking(truth[:, place], scores[:, place]) for place in range(size)]
        areas = np.stack([ranking.areas() for ranking in rankings])
        rows = [row | _ranked(*pair) for row, pair in zip(rows, areas.tolist(), strict=True)]
        values |= zip(("mean_average_precision", "auroc"), _defined_mean(areas)[::-1], strict=True)
        rounds = int(np.clip(_WORK // (count * size), _FEWEST_ROUNDS, _ROUNDS))
        read.append(lambda places: _resampled_areas(rankings, np.bincount(places, minlength=count)))
    values |= zip(("macro_f1", "micro_f1"), _set_means(*totals), strict=True)
    # as floats, because numpy multiplies matrices of integers slowly
    truth_f, answer_f, both_f = (held.astype(np.float32) for held in (truth, answer, both))

    def sets(places: np.ndarray) -> np.ndarray:
        weights = np.bincount(places, minlength=count).astype(np.float32)
        return _set_means(weights @ truth_f, weights @ answer_f, weights @ both_f)

    read.append(sets)
    drawn = bootstraps(
        lambda places: np.concatenate([part(places) for part in read]), count, rounds=rounds
    )
    pairs = zip(values.items(), drawn, strict=True)
    numbers = {
        name: with_interval(value, ends, count)
        for (name, value), ends in pairs
        if not math.isnan(value)
    }
    numbers["exact_match"] = _share((truth == answer).all(1))
    return Scores(numbers, rows)


class _Ranking:
    """One class's scores, sorted once, so that a resample costs no sort: its images are weights on the sorted ones.

    `positive`: (N,) bool. `scores`: (N,), higher is surer.
    """

    def __init__(self, positive: np.ndarray, scores: np.ndarray) -> None:
        self._order = np.argsort(-scores, kind="stable")
        self._positive = positive[self._order].astype(np.float64)
        sorted_scores = scores[self._order]
        self._ends = np.append(
            np.flatnonzero(np.diff(sorted_scores)), len(scores) - 1
        )  # images of one score count as one step

    def areas(self, weights: np.ndarray | None = None) -> np.ndarray:
        """(2,): the area under the ROC curve (trapezoids) and the average precision (steps); nan where undefined.

        `weights`: (N,) how often each image counts.
        """
        counts = np.ones(len(self._order)) if weights is None else weights[self._order]
        found = np.cumsum(counts * self._positive)[self._ends]
        seen = np.cumsum(counts)[self._ends]
        positives, negatives = found[-1], seen[-1] - found[-1]
        if positives == 0:
            return np.array([np.nan, np.nan])
        gained = np.diff(found, prepend=0)
        precision = found / np.maximum(seen, 1)  # nothing seen yet is nothing gained
        false = seen - found
        missed = np.diff(false, prepend=0)
        area = (
            (missed * (found - gained / 2)).sum() / (positives * negatives) if negatives else np.nan
        )
        return np.array([area, (gained * precision).sum() / positives])


def _counted(
    truth: np.ndarray, answer: np.ndarray, places: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(K,) true, answered and rightly answered images of each class in a resample: the margins of its confusion matrix."""
    truth, answer = truth[places], answer[places]
    right = truth[truth == answer]
    return (
        np.bincount(truth, minlength=size),
        np.bincount(answer, minlength=size),
        np.bincount(right, minlength=size),
    )


def _over(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, 0 where whole is 0."""
    return np.asarray(np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0))


def _means(true: np.ndarray, answered: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(3,): balanced accuracy, macro F1, weighted F1; each class by its (K,) counts."""
    f1 = _over(2 * right, true + answered)
    recall = _over(right, true)
    return np.array(
        [recall[true > 0].mean(), f1[true + answered > 0].mean(), (f1 * true).sum() / true.sum()]
    )


def _set_means(true: np.ndarray, answered: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(2,): macro F1 and micro F1; nan where neither truth nor answers hold any class."""
    both = true + answered
    if not both.any():
        return np.array([np.nan, np.nan])
    return np.array([_over(2 * right, both)[both > 0].mean(), 2 * right.sum() / both.sum()])


def _defined_mean(areas: np.ndarray) -> np.ndarray:
    """(2,): the mean of each column of (K, 2), nans left out; nan where a column holds nothing else."""
    known = ~np.isnan(areas)
    sums, counts = np.where(known, areas, 0).sum(0), known.sum(0)
    return np.asarray(np.divide(sums, counts, out=np.full(2, np.nan), where=counts > 0))


def _resampled_areas(rankings: list[_Ranking], weights: np.ndarray) -> np.ndarray:
    return _defined_mean(np.stack([ranking.areas(weights) for ranking in rankings]))[::-1]


def _in_top(most: int, scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(N,) bool: whether the true class is among the `most` surest; of equal ones the later class wins, as in scikit-learn."""
    own = scores[np.arange(len(truth)), truth][:, None]
    later = np.arange(scores.shape[1]) > truth[:, None]
    return np.asarray(((scores > own) | ((scores == own) & later)).sum(1) < most)


def _share(hits: np.ndarray) -> Score:
    right, count = int(hits.sum()), len(hits)
    return Score(right / count, *wilson(right, count), count)


def _rows(
    classes: tuple[str, ...], true: np.ndarray, answered: np.ndarray, right: np.ndarray
) -> list[dict[str, Any]]:
    columns = (_over(right, answered), _over(right, true), _over(2 * right, true + answered), true)
    keys = ("class", "precision", "recall", "f1", "count")
    lists = (column.tolist() for column in columns)
    return [dict(zip(keys, row, strict=True)) for row in zip(classes, *lists, strict=True)]


def _ranked(auroc: float, precision: float) -> dict[str, float | None]:
    """The columns that rankings add to a class's row."""
    found = {"average_precision": precision, "auroc": auroc}
    return {name: None if math.isnan(value) else value for name, value in found.items()}
