"""Uncertainty: calibrated probabilities, prediction sets, abstention and out-of-distribution
images.

Letters: N images, M of them for validation, K classes, D width of a feature, P directions.
Everything is fitted to images that were not trained on, and read from a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from foveate.evaluation.coverage import conformal_limit
from foveate.evaluation.intervals import wilson
from foveate.predictions import Labels, Uncertainty

COVERAGE, RISK = 0.9, 0.1  # defaults: of prediction sets, and of the predictions that are given
MIN_IMAGES = 30  # validation images that a calibration needs
_MIN_TEMPERATURE, _MAX_TEMPERATURE = 0.05, 20.0
_BINS = 15  # of the calibration error, as in the paper
_ROUNDS = 200
_TINY = 1e-30
_DIGITS = 5
_MAX_DIRECTIONS = 64  # and at most a quarter of the images and of the features' width
_ARRAYS = ("nonconformity", "residuals", "ranked_confidence")  # the keys of calibration.json
_UNFAMILIAR = 0.99  # share of the validation images that an image is odder than


@dataclass(frozen=True)
class FeatureSpace:
    """The subspace in which the features of training images vary.

    An image of another kind has features outside of it, whatever the classifier makes of them (ViM,
    Wang et al. 2022).

    Attributes:
        mean: (D,) of the features.
        directions: (P, D) orthonormal, the first principal components.
    """

    mean: np.ndarray
    directions: np.ndarray

    @classmethod
    def fit(cls, features: np.ndarray) -> FeatureSpace:
        """Fit the space to (N, D) features of training images, N at least 8."""
        mean = features.mean(0)
        components = np.linalg.svd(features - mean, full_matrices=False)[2]
        count = min(_MAX_DIRECTIONS, len(features) // 4, features.shape[1] // 4)
        return cls(mean, components[:count])

    def residual(self, features: np.ndarray) -> np.ndarray:
        """Return (N,) in [0, 1]: the share of the squared distance from the mean that lies outside.

        Args:
            features: (N, D).
        """
        centered = features - self.mean
        inside = np.square(centered @ self.directions.T).sum(1)
        total = np.square(centered).sum(1).clip(min=_TINY)
        residual: np.ndarray = (1 - inside / total).clip(0, 1)
        return residual


@dataclass(frozen=True)
class Calibration:
    """What images that were not trained on say about the predictions of a classifier.

    Attributes:
        temperature: Divisor of the logits (Guo et al. 2017).
        nonconformity: (N,) ascending, 1 - the probability of the true class.
        residuals: (M,) ascending, the share of the features outside of `feature_space`.
        ranked_confidence: (N, 2), the confidence of each prediction, descending, and 1 where it was
            right.
        feature_space: Of the training images.
        units: Number of groups that the N images are of; N where they are independent.
    """

    temperature: float
    nonconformity: np.ndarray
    residuals: np.ndarray
    ranked_confidence: np.ndarray
    feature_space: FeatureSpace
    units: int

    @classmethod
    def fit(
        cls,
        scores: np.ndarray,
        targets: np.ndarray,
        features: np.ndarray,
        feature_space: FeatureSpace,
        temperature: float,
        units: int | None = None,
    ) -> Calibration:
        """Fit a calibration to images that the scores were not trained on.

        Args:
            scores: (N, K) probabilities before scaling, of validation images, and perhaps of
                training images by a classifier that was fitted without them.
            targets: (N,) indices of the true classes.
            features: (M, D) of the validation images.
            feature_space: Of the training images.
            temperature: From `fit_temperature`.
            units: Number of groups that the N images are of; None = N.
        """
        scaled = apply_temperature(scores, temperature)
        order = np.argsort(-scaled.max(1), kind="stable")
        ranked = np.stack([scaled.max(1), scaled.argmax(1) == targets], 1)[order]
        nonconformity = np.sort(1 - scaled[np.arange(len(targets)), targets])
        residuals = np.sort(feature_space.residual(features))
        units = len(targets) if units is None else units
        return cls(temperature, nonconformity, residuals, ranked, feature_space, units)

    def prediction_sets(self, scores: np.ndarray, coverage: float = COVERAGE) -> np.ndarray:
        """Return (N, K) bool: sets that contain the true class with the probability `coverage`.

        That holds for images like those of the calibration (conformal prediction, Sadinle et al.
        2019), on average over their draws; a `Promise` says how far one draw can be off. The most
        probable class is always in. A set holds all classes where there are too few images.

        Args:
            scores: (N, K) calibrated probabilities.
            coverage: In (0, 1).
        """
        limit = conformal_limit(self.nonconformity, self.units, coverage)
        members: np.ndarray = 1 - scores <= limit + 1e-12
        members[np.arange(len(scores)), scores.argmax(1)] = True
        return members

    def abstention_threshold(self, risk: float) -> float | None:
        """Return the confidence below which to abstain.

        From it on, predictions were wrong at most with the probability `risk`, by the upper end of
        Wilson's interval.

        Returns:
            0 where that holds for all predictions, None where it holds for none.
        """
        wrong = np.cumsum(1 - self.ranked_confidence[:, 1])
        upper = [wilson(float(errors), count)[1] for count, errors in enumerate(wrong, 1)]
        within = np.flatnonzero(np.array(upper) <= risk)
        if not len(within):
            return None
        last = int(within[-1])
        return 0.0 if last == len(wrong) - 1 else float(self.ranked_confidence[last, 0])

    def annotate(
        self,
        predictions: Sequence[Labels],
        features: np.ndarray,
        classes: tuple[str, ...],
        coverage: float,
        risk: float,
    ) -> list[Labels]:
        """Return the predictions with calibrated probabilities and their uncertainty.

        An image that is odder than nearly all validation images can show anything: its set holds
        all classes, and its prediction abstains.

        Args:
            predictions: With scores.
            features: (N, D) of their images.
            classes: Names in the order of the scores.
            coverage: Of the prediction sets, in (0, 1).
            risk: The highest accepted probability of a wrong prediction, in (0, 1).
        """
        if not predictions:
            return []
        raw = np.stack([_scores(prediction) for prediction in predictions])
        scores = apply_temperature(raw, self.temperature)
        threshold, sets = self.abstention_threshold(risk), self.prediction_sets(scores, coverage)
        residuals = self.feature_space.residual(features)
        percentiles = np.searchsorted(self.residuals, residuals, side="left") / len(self.residuals)
        sets[percentiles >= _UNFAMILIAR] = True
        annotated = []
        for prediction, row, members, residual, percentile in zip(
            predictions, scores, sets, residuals.tolist(), percentiles.tolist(), strict=True
        ):
            names = tuple(name for name, member in zip(classes, members, strict=True) if member)
            abstain = threshold is None or percentile >= _UNFAMILIAR or bool(row.max() < threshold)
            uncertainty = Uncertainty(names, abstain, residual, percentile)
            annotated.append(
                replace(prediction, scores=row.astype(np.float32), uncertainty=uncertainty)
            )
        return annotated

    def row(self) -> dict[str, Any]:
        """Return what calibration.json keeps, JSON-able; without the feature space."""
        arrays = {name: np.round(getattr(self, name), _DIGITS).tolist() for name in _ARRAYS}
        return {"temperature": self.temperature, "units": self.units, **arrays}

    @classmethod
    def from_row(cls, row: dict[str, Any], feature_space: FeatureSpace) -> Calibration:
        """Read what `row` returned."""
        nonconformity, residuals, ranked = (np.array(row[name], dtype=float) for name in _ARRAYS)
        temperature = float(row["temperature"])
        units = int(row["units"])
        return cls(temperature, nonconformity, residuals, ranked, feature_space, units)


def _scores(prediction: Labels) -> np.ndarray:
    assert prediction.scores is not None
    return prediction.scores.astype(float)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    """(N, K) -> (N, K)."""
    shifted = logits - logits.max(1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return result


def apply_temperature(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Return (N, K) probabilities whose logits are divided by the temperature."""
    logits = np.log(np.clip(scores, _TINY, 1))
    scaled: np.ndarray = np.exp(_log_softmax(logits / temperature))
    return scaled


def fit_temperature(scores: np.ndarray, targets: np.ndarray) -> float:
    """Return the temperature with the least log loss.

    Args:
        scores: (N, K) probabilities.
        targets: (N,) indices of the true classes.
    """
    from scipy.optimize import minimize_scalar

    logits, rows = np.log(np.clip(scores, _TINY, 1)), np.arange(len(targets))

    def loss(log_temperature: float) -> float:
        return float(-_log_softmax(logits / np.exp(log_temperature))[rows, targets].mean())

    bounds = (np.log(_MIN_TEMPERATURE), np.log(_MAX_TEMPERATURE))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))


def reliability_bins(
    confidence: np.ndarray, hits: np.ndarray, bins: int = 10
) -> list[dict[str, float]]:
    """Return mean confidence, accuracy and count of each bin of equal width that is not empty.

    Args:
        confidence: (N,) in [0, 1].
        hits: (N,) bool, whether the prediction was right.
        bins: Number of bins.
    """
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    members = (bin_of == index for index in range(bins))
    return [
        {
            "confidence": float(confidence[own].mean()),
            "accuracy": float(hits[own].mean()),
            "count": int(own.sum()),
        }
        for own in members
        if own.any()
    ]


def calibration_error(confidence: np.ndarray, hits: np.ndarray) -> float:
    """Return the expected calibration error (Guo et al. 2017).

    The gap between confidence and accuracy over 15 bins (low, high], weighted by images.

    Args:
        confidence: (N,) in [0, 1].
        hits: (N,) bool, whether the prediction was right.
    """
    bin_of = np.clip(np.ceil(confidence * _BINS).astype(int) - 1, 0, _BINS - 1)
    gaps = np.bincount(bin_of, weights=confidence - hits, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(hits))


def expected_error_if_calibrated(confidence: np.ndarray) -> float:
    """Return the mean calibration error if predictions were right exactly as often as they say.

    It is above 0, because N images fill no bin evenly.

    Args:
        confidence: (N,) in [0, 1].
    """
    rng = np.random.default_rng(0)
    draws = (rng.random(len(confidence)) < confidence for _ in range(_ROUNDS))
    return float(np.mean([calibration_error(confidence, hits) for hits in draws]))


def risk_coverage_curve(confidence: np.ndarray, hits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (N,) coverages and (N,) error rates of the most confident predictions.

    Args:
        confidence: (N,) in [0, 1].
        hits: (N,) bool, whether the prediction was right.
    """
    order = np.argsort(-confidence, kind="stable")
    counts = np.arange(1, len(order) + 1)
    return counts / len(order), np.cumsum(~hits[order]) / counts
