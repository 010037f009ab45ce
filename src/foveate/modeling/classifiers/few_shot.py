"""Classifiers from a formula, for a few images of each class: on features of a frozen backbone, without a step.

Letters: N images, D width of a feature, K classes. Features are centred, targets are one-hot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from scipy.special import log_softmax
from threadpoolctl import threadpool_limits

from foveate.modeling.classifiers.logistic import LabeledFeatures, Solution

Fitter = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""features (N, D) and targets (N, K) -> weights (K, D) and bias (K,): scores, whose scale means nothing."""

_SCALES = 10.0 ** np.arange(-1, 2.51, 0.125)  # that turn scores into logits
USUAL = 10.0  # where no fold can tell
_UNKNOWN = -1e4  # the logit of a class without an image
PENALTIES = 10.0 ** np.arange(
    -3, 2.1, 0.5
)  # of ridge regression, in shares of the mean square length of a feature
_ITERATIONS = 300  # of LP++: the loss hardly moves any more


def solved(known: LabeledFeatures, fit: Fitter, unit: bool, usual: float) -> tuple[Solution, float]:
    """The fitter's classifier of all images, with logits instead of scores, and the factor between them: that of least log loss
    on left-out folds, `usual` where no fold can tell. `unit`: features are brought to length 1 after centring (CL2N, Wang et al.
    2019)."""
    scale = best_scale(known, fit, unit, usual)
    with threadpool_limits(1):
        middle = known.features.mean(0)
        weight, bias = _every_class(
            fit, _centred(known.features, middle, unit), known.targets, scale
        )
    solution = Solution(
        middle, np.ones_like(middle), weight.astype(np.float32), bias.astype(np.float32), scale, {}
    )
    return solution, scale


def centroids(features: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Half the negative squared distance to the mean of each class, up to what all classes share (Snell et al. 2017)."""
    means = targets.T @ features / targets.sum(0)[:, None]
    return means, -0.5 * (means**2).sum(1)


def ridge(penalty: float) -> Fitter:
    """Least squares on one-hot targets with a squared penalty, solved in the space of the images (Rifkin and Lippert 2007)."""

    def fit(features: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        products = features @ features.T
        shrink = penalty * np.trace(products) / len(products) * np.eye(len(products))
        share = targets.mean(0)
        return np.linalg.solve(products + shrink, targets - share).T @ features, share

    return fit


def best_penalty(known: LabeledFeatures, unit: bool) -> tuple[float, dict[float, float]]:
    """The penalty of least mean squared error on left-out folds, and the errors of all; 1 where no fold can tell."""
    tried = {}
    with threadpool_limits(1):
        for penalty in PENALTIES:
            found = list(_left_out(known, ridge(float(penalty)), unit))
            if not found:
                return 1.0, {}
            tried[float(penalty)] = float(
                np.mean(np.concatenate([((scores - truth) ** 2).sum(1) for scores, truth in found]))
            )
    return min(tried, key=lambda penalty: tried[penalty]), tried


def lpplus(alpha: float) -> Fitter:
    """Logits f (w_k + alpha_k t_k) by block-wise majorise-minimise descent of the cross entropy (LP++, Huang et al. 2024).

    The paper's t_k are embeddings of sentences; here they are the class means. It begins at w = 0 and one `alpha` for all classes.
    Steps are 1 / L for each block, with L from the bound 1/2 on the curvature of the softmax (Boehning 1992), so that no step can
    raise the loss: there is no rate to choose.
    """

    def fit(features: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        towards, count = centroids(features, targets)[0], len(features)
        known = features @ towards.T
        weight, blend = np.zeros_like(towards), np.full(len(towards), alpha)
        step = 2 * count / max(float(np.linalg.eigvalsh(features @ features.T)[-1]), 1e-12)
        blend_step = 2 * count / max(float((known**2).sum(0).max()), 1e-12)
        for _ in range(_ITERATIONS):
            weight -= step * (_slope(features @ weight.T + blend * known, targets).T @ features)
            blend -= blend_step * (
                _slope(features @ weight.T + blend * known, targets) * known
            ).sum(0)
        return weight + blend[:, None] * towards, np.zeros(len(towards))

    return fit


def best_scale(known: LabeledFeatures, fit: Fitter, unit: bool, usual: float = USUAL) -> float:
    """The factor of least log loss that turns the fitter's scores into logits, on left-out folds; `usual` where none can tell."""
    with threadpool_limits(1):
        found = list(_left_out(known, fit, unit))
    if not found:
        return usual
    losses = [
        sum(-(log_softmax(scale * scores, axis=1) * truth).sum() for scores, truth in found)
        for scale in _SCALES
    ]
    return float(_SCALES[int(np.argmin(losses))])


def _slope(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(N, K): of the mean cross entropy by the logits."""
    return np.asarray((np.exp(log_softmax(logits, axis=1)) - targets) / len(logits))


def _centred(features: np.ndarray, middle: np.ndarray, unit: bool) -> np.ndarray:
    rows = features.astype(np.float64) - middle
    return np.asarray(
        rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12) if unit else rows
    )


def _every_class(
    fit: Fitter, features: np.ndarray, targets: np.ndarray, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Logits for all K classes; those without an image are hopeless."""
    there = targets.sum(0) > 0
    weight, bias = np.zeros((len(there), features.shape[1])), np.full(len(there), _UNKNOWN)
    found, shift = fit(features, targets[:, there])
    weight[there], bias[there] = scale * found, scale * shift
    return weight, bias


def _left_out(known: LabeledFeatures, fit: Fitter, unit: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Scores and targets of each fold, by what the others know; folds with a class that the others lack tell nothing."""
    for fold in np.unique(known.folds):
        left = known.folds != fold
        there = known.targets[left].sum(0) > 0
        if there.sum() < 2 or known.targets[~left][:, ~there].any():
            continue
        middle = known.features[left].mean(0)
        weight, bias = fit(
            _centred(known.features[left], middle, unit), known.targets[left][:, there]
        )
        yield (
            _centred(known.features[~left], middle, unit) @ weight.T + bias,
            known.targets[~left][:, there],
        )
