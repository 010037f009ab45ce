"""Classes of images against the truth: scikit-learn's numbers, each with its interval.

Letters: N images, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from foveate.errors import DataError
from foveate.intervals import bootstrap, wilson
from foveate.metrics import Metric
from foveate.types import Labels, Score, Scores

_BINS = 15
_TOP = 5


class LabelMetric(Metric):
    """Single-label: accuracy first; with two classes the second one is the positive one. Multi-label: mean average precision
    first, macro over the classes that have both kinds of images."""

    reads: ClassVar[type] = Labels

    def __init__(self, classes: tuple[str, ...], multilabel: bool = False) -> None:
        super().__init__(classes, multilabel)
        self._places = {name: place for place, name in enumerate(classes)}
        self._truth: list[np.ndarray] = []
        self._answer: list[np.ndarray] = []
        self._scores: list[np.ndarray] = []

    def update(self, prediction: Labels, truth: Labels) -> None:
        if prediction.scores is None:
            raise DataError("a prediction without scores cannot be measured")
        self._truth.append(self._marked(truth.names))
        self._answer.append(self._marked(prediction.names))
        self._scores.append(np.asarray(prediction.scores, dtype=np.float64))

    def compute(self) -> Scores:
        if not self._truth:
            raise DataError("there are no images with a truth to measure on")
        truth, answer, scores = np.stack(self._truth), np.stack(self._answer), np.stack(self._scores)
        return self._of_sets(truth, answer, scores) if self.multilabel else self._of_one(truth.argmax(1), answer.argmax(1), scores)

    def _marked(self, names: tuple[str, ...]) -> np.ndarray:
        """(K,) 1 for the classes that hold."""
        unknown = [name for name in names if name not in self._places]
        if unknown:
            raise DataError(f"no class is called {unknown[0]!r}", why=f"the run knows: {', '.join(self.classes[:20])}")
        marked = np.zeros(len(self.classes), dtype=np.int64)
        marked[[self._places[name] for name in names]] = 1
        return marked

    # --- one class an image

    def _of_one(self, truth: np.ndarray, answer: np.ndarray, scores: np.ndarray) -> Scores:
        count, k = len(truth), len(self.classes)
        confusion = _confusion(truth, answer, k)
        numbers = {"accuracy": _share(truth == answer)}
        for name, of in (("balanced_accuracy", _balanced), ("macro_f1", _macro_f1), ("weighted_f1", _weighted_f1)):
            interval = bootstrap(lambda drawn, of=of: of(_confusion(truth[drawn], answer[drawn], k)), count)  # type: ignore[misc]
            numbers[name] = Score(of(confusion), *interval, count)
        if k > _TOP:
            above = (scores > scores[np.arange(count), truth][:, None]).sum(1)
            numbers["top_5"] = _share(above < _TOP)
        numbers |= self._of_chances(truth, scores)
        return Scores(numbers, self._rows(confusion), {"confusion": confusion.tolist(), "classes": list(self.classes)})

    def _of_chances(self, truth: np.ndarray, scores: np.ndarray) -> dict[str, Score]:
        count = len(truth)
        losses = -np.log(np.clip(scores[np.arange(count), truth], 1e-15, 1))
        found = {
            "log_loss": Score(float(losses.mean()), *bootstrap(lambda drawn: float(losses[drawn].mean()), count), count),
            "expected_calibration_error": Score(_calibration(truth, scores), count=count),
        }
        if len(self.classes) == 2 and 0 < truth.sum() < count:
            for name, of in (("auroc", _auroc), ("average_precision", _average_precision)):
                found[name] = _ranked(of, truth, scores[:, 1])
        return found

    def _rows(self, confusion: np.ndarray) -> list[dict[str, Any]]:
        """The classification report; 0 where a share is undefined."""
        right, truths, answers = np.diag(confusion), confusion.sum(1), confusion.sum(0)
        precision, recall, f1 = _divided(right, answers), _divided(right, truths), _divided(2 * right, truths + answers)
        return [
            {"class": name, "precision": float(p), "recall": float(r), "f1": float(f), "count": int(n)}
            for name, p, r, f, n in zip(self.classes, precision, recall, f1, truths, strict=True)
        ]

    # --- any number of classes an image

    def _of_sets(self, truth: np.ndarray, answer: np.ndarray, scores: np.ndarray) -> Scores:
        count = len(truth)
        defined = [k for k in range(truth.shape[1]) if 0 < truth[:, k].sum() < count]
        numbers: dict[str, Score] = {}
        if defined:
            for name, of in (("mean_average_precision", _average_precision), ("auroc", _auroc)):
                numbers[name] = _ranked(lambda t, s, of=of: _mean_over(of, t, s), truth[:, defined], scores[:, defined])  # type: ignore[misc]
        for name, f1 in (("macro_f1", _set_macro_f1), ("micro_f1", _set_micro_f1)):
            interval = bootstrap(lambda drawn, f1=f1: f1(truth[drawn], answer[drawn]), count)  # type: ignore[misc]
            numbers[name] = Score(f1(truth, answer), *interval, count)
        numbers["exact_match"] = _share((truth == answer).all(1))
        return Scores(numbers, self._set_rows(truth, answer, scores, defined))

    def _set_rows(self, truth: np.ndarray, answer: np.ndarray, scores: np.ndarray, defined: list[int]) -> list[dict[str, Any]]:
        right, truths, answers = (truth & answer).sum(0), truth.sum(0), answer.sum(0)
        precision, recall, f1 = _divided(right, answers), _divided(right, truths), _divided(2 * right, truths + answers)
        return [
            {
                "class": name,
                "precision": float(precision[k]),
                "recall": float(recall[k]),
                "f1": float(f1[k]),
                "average_precision": _average_precision(truth[:, k], scores[:, k]) if k in defined else None,
                "auroc": _auroc(truth[:, k], scores[:, k]) if k in defined else None,
                "count": int(truths[k]),
            }
            for k, name in enumerate(self.classes)
        ]


def _share(hits: np.ndarray) -> Score:
    return Score(float(hits.mean()), *wilson(int(hits.sum()), len(hits)), len(hits))


def _ranked(of: Callable[[np.ndarray, np.ndarray], float], truth: np.ndarray, scores: np.ndarray) -> Score:
    """A ranking number; a resample without both kinds of images is undefined."""

    def drawn_value(drawn: np.ndarray) -> float:
        some = truth[drawn]
        return of(some, scores[drawn]) if np.all((some.sum(0) > 0) & (some.sum(0) < len(some))) else float("nan")

    return Score(of(truth, scores), *bootstrap(drawn_value, len(truth), rounds=200), len(truth))


def _confusion(truth: np.ndarray, answer: np.ndarray, k: int) -> np.ndarray:
    """(K, K) counts; rows are the truth."""
    return np.bincount(truth * k + answer, minlength=k * k).reshape(k, k)


def _divided(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros(len(above)), where=below > 0)


def _f1(confusion: np.ndarray) -> np.ndarray:
    return _divided(2 * np.diag(confusion), confusion.sum(0) + confusion.sum(1))


def _macro_f1(confusion: np.ndarray) -> float:
    seen = confusion.sum(0) + confusion.sum(1) > 0
    return float(_f1(confusion)[seen].mean())


def _weighted_f1(confusion: np.ndarray) -> float:
    return float(_f1(confusion) @ confusion.sum(1) / confusion.sum())


def _balanced(confusion: np.ndarray) -> float:
    seen = confusion.sum(1) > 0
    return float((np.diag(confusion)[seen] / confusion.sum(1)[seen]).mean())


def _calibration(truth: np.ndarray, scores: np.ndarray) -> float:
    """Mean gap between confidence and accuracy over 15 equal bins of confidence (Guo et al. 2017)."""
    sure, hits = scores.max(1), scores.argmax(1) == truth
    bins = np.minimum((sure * _BINS).astype(int), _BINS - 1)
    gaps = np.bincount(bins, weights=sure - hits, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(truth))


def _set_macro_f1(truth: np.ndarray, answer: np.ndarray) -> float:
    return float(_divided(2 * (truth & answer).sum(0), truth.sum(0) + answer.sum(0)).mean())


def _set_micro_f1(truth: np.ndarray, answer: np.ndarray) -> float:
    total = truth.sum() + answer.sum()
    return float(2 * (truth & answer).sum() / total) if total else 0.0


def _mean_over(of: Callable[[np.ndarray, np.ndarray], float], truth: np.ndarray, scores: np.ndarray) -> float:
    return float(np.mean([of(truth[:, k], scores[:, k]) for k in range(truth.shape[1])]))


def _auroc(truth: np.ndarray, scores: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(truth, scores))


def _average_precision(truth: np.ndarray, scores: np.ndarray) -> float:
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(truth, scores))
