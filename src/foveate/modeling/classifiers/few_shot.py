"""Closed-form classifiers for a few images per class, on features of a frozen backbone.

Letters: N images, D width of a feature, K classes. Features are centered, targets are one-hot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from scipy.special import log_softmax

from foveate.modeling.classifiers.logistic import LabeledFeatures
from foveate.modeling.classifiers.solution import Solution
from foveate.utils.threads import one_thread

Fitter = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""features (N, D) and targets (N, K) -> weights (K, D) and bias (K,) of scores of arbitrary scale.
"""

_SCALES = 10.0 ** np.arange(-1, 2.51, 0.125)  # candidates, from scores to logits
DEFAULT_SCALE = 10.0  # if no fold can tell
_ABSENT_LOGIT = -1e4  # the logit of a class without images
# of ridge regression, relative to the mean squared length of a feature
PENALTIES = 10.0 ** np.arange(-3, 2.1, 0.5)
_ITERATIONS = 300  # of LP++; the loss has converged by then


def solve_few_shot(
    features: LabeledFeatures, fit: Fitter, unit: bool, default_scale: float
) -> tuple[Solution, float]:
    """Fit on all images and scale scores to logits.

    Args:
        features: Features, targets and folds.
        fit: The closed-form classifier.
        unit: Scale features to length 1 after centering (CL2N, Wang et al. 2019).
        default_scale: The scale if no fold can tell.

    Returns:
        The classifier, and the scale, chosen by log loss on left-out folds.
    """
    scale = best_scale(features, fit, unit, default_scale)
    with one_thread():
        mean = features.features.mean(0)
        weight, bias = _all_classes(
            fit, _center(features.features, mean, unit), features.targets, scale
        )
    solution = Solution(
        mean, np.ones_like(mean), weight.astype(np.float32), bias.astype(np.float32), scale, {}
    )
    return solution, scale


def centroids(features: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nearest class mean: minus half the squared distance, up to a constant (Snell et al. 2017)."""
    means = targets.T @ features / targets.sum(0)[:, None]
    return means, -0.5 * (means**2).sum(1)


def ridge(penalty: float) -> Fitter:
    """Ridge regression on one-hot targets, in its dual form (Rifkin and Lippert 2007)."""

    def fit(features: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        products = features @ features.T
        penalty_matrix = penalty * np.trace(products) / len(products) * np.eye(len(products))
        share = targets.mean(0)
        return np.linalg.solve(products + penalty_matrix, targets - share).T @ features, share

    return fit


def best_penalty(features: LabeledFeatures, unit: bool) -> tuple[float, dict[float, float]]:
    """Return the penalty with the lowest squared error on left-out folds, and all errors.

    The penalty is 1 if there are too few images to choose by.
    """
    tried = {}
    with one_thread():
        for penalty in PENALTIES:
            left_out = list(_left_out_scores(features, ridge(float(penalty)), unit))
            if not left_out:
                return 1.0, {}
            tried[float(penalty)] = float(
                np.mean(
                    np.concatenate(
                        [((scores - targets) ** 2).sum(1) for scores, targets in left_out]
                    )
                )
            )
    return min(tried, key=lambda penalty: tried[penalty]), tried


def lpplus(alpha: float) -> Fitter:
    """Logits f (w_k + alpha_k t_k) by block majorize-minimize descent (LP++, Huang et al. 2024).

    The t_k are text embeddings in the paper and class means here. Descent starts at w = 0 and one
    `alpha` for all classes. Steps are 1 / L for each block, with L from the bound 1/2 on the
    curvature of the softmax (Boehning 1992): no step can raise the loss, and there is no learning
    rate.
    """

    def fit(features: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        towards, count = centroids(features, targets)[0], len(features)
        known = features @ towards.T
        weight, blend = np.zeros_like(towards), np.full(len(towards), alpha)
        step = 2 * count / max(float(np.linalg.eigvalsh(features @ features.T)[-1]), 1e-12)
        blend_step = 2 * count / max(float((known**2).sum(0).max()), 1e-12)
        for _ in range(_ITERATIONS):
            weight -= step * (_gradient(features @ weight.T + blend * known, targets).T @ features)
            blend -= blend_step * (
                _gradient(features @ weight.T + blend * known, targets) * known
            ).sum(0)
        return weight + blend[:, None] * towards, np.zeros(len(towards))

    return fit


def best_scale(
    features: LabeledFeatures, fit: Fitter, unit: bool, default_scale: float = DEFAULT_SCALE
) -> float:
    """Return the factor from scores to logits with the lowest log loss on left-out folds.

    `default_scale` if there are too few images to choose by.
    """
    with one_thread():
        left_out = list(_left_out_scores(features, fit, unit))
    if not left_out:
        return default_scale
    losses = [
        sum(-(log_softmax(scale * scores, axis=1) * targets).sum() for scores, targets in left_out)
        for scale in _SCALES
    ]
    return float(_SCALES[int(np.argmin(losses))])


def _gradient(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Gradient (N, K) of the mean cross entropy with respect to the logits."""
    return np.asarray((np.exp(log_softmax(logits, axis=1)) - targets) / len(logits))


def _center(features: np.ndarray, mean: np.ndarray, unit: bool) -> np.ndarray:
    rows = features.astype(np.float64) - mean
    return np.asarray(
        rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12) if unit else rows
    )


def _all_classes(
    fit: Fitter, features: np.ndarray, targets: np.ndarray, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Weights and bias for all K classes; those without images get a very low logit."""
    present = targets.sum(0) > 0
    weight, bias = np.zeros((len(present), features.shape[1])), np.full(len(present), _ABSENT_LOGIT)
    scores, shift = fit(features, targets[:, present])
    weight[present], bias[present] = scale * scores, scale * shift
    return weight, bias


def _left_out_scores(
    features: LabeledFeatures, fit: Fitter, unit: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Scores and targets of each fold by a fit on the others; folds with an unseen class are
    skipped.
    """
    for fold in np.unique(features.folds):
        training = features.folds != fold
        present = features.targets[training].sum(0) > 0
        if present.sum() < 2 or features.targets[~training][:, ~present].any():
            continue
        mean = features.features[training].mean(0)
        weight, bias = fit(
            _center(features.features[training], mean, unit), features.targets[training][:, present]
        )
        yield (
            _center(features.features[~training], mean, unit) @ weight.T + bias,
            features.targets[~training][:, present],
        )
