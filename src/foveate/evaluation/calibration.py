"""How sure an answer is: chances that hold, sets that cover, doubts, and pictures unlike any that were learnt from.

Letters: N images, K classes. Everything is learnt on validation images, which the training has not seen, and read from a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from foveate.evaluation.intervals import wilson
from foveate.predictions import Labels, Uncertainty

COVERAGE, RISK = 0.9, 0.1  # of sets, and of answers that are given, unless others are asked
MIN_IMAGES = 30  # validation images below which nothing is said
_SHARPEST, _FLATTEST = 0.05, 20.0  # temperatures
_BINS = 15  # of the calibration error, as in the paper
_ROUNDS = 200
_TINY = 1e-30
_DIGITS = 5
_DIRECTIONS = 64  # of the training images' features at the most, and a quarter of the images and of the features' width
_LISTS = ("strange", "outside", "sure")


@dataclass(frozen=True)
class FeatureSpace:
    """The directions in which features of training images differ from each other. `middle`: (D,), `directions`: (P, D) of length 1.

    A picture of another kind has features that lead elsewhere, whatever the classifier makes of them (ViM, Wang et al. 2022)."""

    middle: np.ndarray
    directions: np.ndarray

    @classmethod
    def fit(cls, features: np.ndarray) -> FeatureSpace:
        """(N, D) of training images, N at least 8."""
        middle = features.mean(0)
        found = np.linalg.svd(features - middle, full_matrices=False)[2]
        return cls(middle, found[: min(_DIRECTIONS, len(features) // 4, features.shape[1] // 4)])

    def residual(self, features: np.ndarray) -> np.ndarray:
        """(N, D) -> (N,) in [0, 1]: the share of the squared distance from the middle that none of the directions explains."""
        apart = features - self.middle
        inside = np.square(apart @ self.directions.T).sum(1)
        found: np.ndarray = (1 - inside / np.square(apart).sum(1).clip(min=_TINY)).clip(0, 1)
        return found


@dataclass(frozen=True)
class Calibration:
    """`temperature`: by which logits are divided (Guo et al. 2017). `strange`: (N,) sorted, 1 less the chance of the true class, of
    the validation images. `outside`: (N,) sorted, the share of their features that lies outside of what is `familiar`. `sure`:
    (N, 2), the confidence of each answer, the greatest first, and 1 where it was right."""

    temperature: float
    nonconformity: np.ndarray
    residuals: np.ndarray
    ranked_confidence: np.ndarray
    feature_space: FeatureSpace

    @classmethod
    def fit(
        cls,
        scores: np.ndarray,
        truths: np.ndarray,
        features: np.ndarray,
        familiar: FeatureSpace,
        temperature: float,
    ) -> Calibration:
        """From chances (N, K) before scaling, places of true classes (N,) and features (N, D)."""
        scaled = apply_temperature(scores, temperature)
        best = scaled.argmax(1)
        order = np.argsort(-scaled.max(1), kind="stable")
        sure = np.stack([scaled.max(1), best == truths], 1)[order]
        strange = 1 - scaled[np.arange(len(truths)), truths]
        return cls(
            temperature, np.sort(strange), np.sort(familiar.residual(features)), sure, familiar
        )

    def prediction_sets(self, scores: np.ndarray, coverage: float = COVERAGE) -> np.ndarray:
        """(N, K) calibrated chances -> (N, K) bool, sets that hold the true class with this chance where pictures are like those of
        the validation (split conformal prediction: Sadinle et al. 2019). All classes where there are too few of those."""
        rank = int(np.ceil((len(self.nonconformity) + 1) * coverage))
        limit = np.inf if rank > len(self.nonconformity) else self.nonconformity[rank - 1]
        found: np.ndarray = 1 - scores <= limit + 1e-12
        return found

    def abstention_threshold(self, risk: float) -> float | None:
        """The confidence from which on the answers were wrong at most with this chance, by the upper end of Wilson's interval; 0
        where that holds for all answers, None where it holds for none."""
        counts = np.arange(1, len(self.ranked_confidence) + 1)
        wrong = np.cumsum(1 - self.ranked_confidence[:, 1])
        ends = np.array(
            [wilson(float(each), int(count))[1] for each, count in zip(wrong, counts, strict=True)]
        )
        good = np.flatnonzero(ends <= risk)
        if not len(good):
            return None
        last = int(good[-1])
        return (
            0.0
            if last == len(self.ranked_confidence) - 1
            else float(self.ranked_confidence[last, 0])
        )

    def annotate(
        self,
        answers: Sequence[Labels],
        features: np.ndarray,
        classes: tuple[str, ...],
        coverage: float,
        risk: float,
    ) -> list[Labels]:
        """The answers with chances that hold, and with what is sure about each; `features`: (N, D) of their images."""
        if not answers:
            return []
        scores = apply_temperature(
            np.stack([_scores(answer) for answer in answers]), self.temperature
        )
        limit, among = self.abstention_threshold(risk), self.prediction_sets(scores, coverage)
        outside = self.feature_space.residual(features)
        odd = np.searchsorted(self.residuals, outside, side="left") / len(self.residuals)
        found = []
        for answer, row, own, *strange in zip(
            answers, scores, among, outside.tolist(), odd.tolist(), strict=True
        ):
            names = tuple(name for name, there in zip(classes, own, strict=True) if there)
            sure = Uncertainty(names, limit is None or bool(row.max() < limit), *strange)
            found.append(replace(answer, scores=row.astype(np.float32), uncertainty=sure))
        return found

    def row(self) -> dict[str, Any]:
        """JSON-able."""
        lists = {name: np.round(getattr(self, name), _DIGITS).tolist() for name in _LISTS}
        return {"temperature": self.temperature, **lists}

    @classmethod
    def from_row(cls, row: dict[str, Any], familiar: FeatureSpace) -> Calibration:
        strange, outside, sure = (np.array(row[name], dtype=float) for name in _LISTS)
        return cls(float(row["temperature"]), strange, outside, sure, familiar)


def _scores(answer: Labels) -> np.ndarray:
    assert answer.scores is not None
    return answer.scores.astype(float)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    """(N, K) -> (N, K)."""
    moved = logits - logits.max(1, keepdims=True)
    found: np.ndarray = moved - np.log(np.exp(moved).sum(1, keepdims=True))
    return found


def apply_temperature(scores: np.ndarray, temperature: float) -> np.ndarray:
    """(N, K) chances -> the same from logits divided by the temperature."""
    found: np.ndarray = np.exp(_log_softmax(np.log(np.clip(scores, _TINY, 1)) / temperature))
    return found


def fit_temperature(scores: np.ndarray, truths: np.ndarray) -> float:
    """The temperature of the least log loss."""
    from scipy.optimize import minimize_scalar

    logs, rows = np.log(np.clip(scores, _TINY, 1)), np.arange(len(truths))

    def loss(power: float) -> float:
        return float(-_log_softmax(logs / np.exp(power))[rows, truths].mean())

    return float(
        np.exp(
            minimize_scalar(loss, bounds=(np.log(_SHARPEST), np.log(_FLATTEST)), method="bounded").x
        )
    )


def reliability_bins(
    confidence: np.ndarray, right: np.ndarray, bins: int = 10
) -> list[dict[str, float]]:
    """(N,), (N,) bool -> for each bin of equal width with answers in it: mean confidence, share that was right, count."""
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    inside = [(place, places == place) for place in range(bins)]
    return [
        {
            "confidence": float(confidence[own].mean()),
            "accuracy": float(right[own].mean()),
            "count": int(own.sum()),
        }
        for _, own in inside
        if own.any()
    ]


def calibration_error(confidence: np.ndarray, hits: np.ndarray) -> float:
    """(N,), (N,) bool -> the gap between confidence and accuracy over bins (low, high], weighted by images (Guo et al. 2017)."""
    bins = np.clip(np.ceil(confidence * _BINS).astype(int) - 1, 0, _BINS - 1)
    gaps = np.bincount(bins, weights=confidence - hits, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(hits))


def expected_error_if_calibrated(confidence: np.ndarray) -> float:
    """(N,) -> the mean of that error where answers are right exactly as often as they say: N images fill no bin evenly."""
    rng = np.random.default_rng(0)
    return float(
        np.mean(
            [
                calibration_error(confidence, rng.random(len(confidence)) < confidence)
                for _ in range(_ROUNDS)
            ]
        )
    )


def risk_coverage_curve(confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The share that is answered, from the surest answer to all, and the share of wrong ones among these."""
    order = np.argsort(-confidence, kind="stable")
    counts = np.arange(1, len(order) + 1)
    return counts / len(order), np.cumsum(~right[order]) / counts
