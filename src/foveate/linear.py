"""A linear classifier solved on fixed features: logistic regression with its regularisation cross-validated.

Letters: N images, D width of a feature, R <= min(N, D) directions that the features span, K classes.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

STRENGTHS = tuple(10.0**power for power in (-5, -4, -3.5, -3, -2.5, -2, -1.5, -1, 0))  # C of scikit-learn, strongest penalty first
_ITERATIONS = 1000
_TOLERANCE = 1e-5
_FOLDS = 5
_NOTHING = 1e-10  # of the largest square: below, a direction is rounding


@dataclass(frozen=True)
class Known:
    """Training images as a frozen backbone describes them. `features`: (N, D) float32. `targets`: (N, K) in {0, 1}. `folds`: (N,)
    int, by which settings are chosen: no group is in two. `multilabel`: whether several classes may hold at once."""

    features: np.ndarray
    targets: np.ndarray
    folds: np.ndarray
    multilabel: bool = False


@dataclass(frozen=True)
class Solution:
    """`weight` (K, D) and `bias` (K,) act on features minus `middle` (D,), over `scale` (D,). `strength`: the C that was
    chosen. `tried`: C -> log loss."""

    middle: np.ndarray
    scale: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    strength: float
    tried: dict[float, float]


def solve(features: np.ndarray, targets: np.ndarray, folds: np.ndarray, multilabel: bool) -> Solution:
    """features (N, D) float32, targets (N, K) in {0, 1}, folds (N,) int -> the classifier of least cross-validated log loss.

    Features are standardised and turned into the R directions that they span (a rotation: the solution is the same, the
    work smaller); the rotation is folded into the weights that come back.
    """
    middle, scale = _standard(features)
    reduced, basis = _rotated((features - middle) / scale)
    tried = _cross_validated(reduced, targets, folds, multilabel)
    strength = min(tried, key=lambda c: (tried[c], c))
    path = [c for c in STRENGTHS if c <= strength]
    coefficients, bias = _fitted(reduced, targets, path, multilabel)[-1]
    weight = coefficients @ basis
    return Solution(middle, scale, weight.astype(np.float32), bias.astype(np.float32), strength, tried)


def out_of_fold(features: np.ndarray, targets: np.ndarray, folds: np.ndarray, strength: float, multilabel: bool) -> np.ndarray:
    """(N, K) probabilities of each image by a classifier that was solved without the image's fold."""
    middle, scale = _standard(features)
    reduced, _ = _rotated((features - middle) / scale)
    answers = np.zeros(targets.shape)
    for fold in np.unique(folds):
        left = folds != fold
        coefficients, bias = _fitted(reduced[left], targets[left], [strength], multilabel)[0]
        answers[~left] = _probabilities(reduced[~left] @ coefficients.T + bias, multilabel)
    return answers


def _standard(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(D,) means and (D,) scales: the root of the feature's variance and that of the middle feature. Plain deviations would
    stretch what hardly varies here a thousandfold, and a picture of another kind, or a backbone that moves, with it."""
    spread = features.std(0)
    return features.mean(0), np.sqrt(spread**2 + np.median(spread) ** 2) + 1e-6


def _rotated(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, D) -> (N, R) coordinates and the (R, D) orthonormal directions. Exact: an L2 penalty does not see a rotation.

    Through the (N, N) matrix of inner products, because D may be twenty times N. Directions of no length are left out.
    """
    if len(features) >= features.shape[1]:
        return features, np.eye(features.shape[1], dtype=features.dtype)
    features = features.astype(np.float64)
    squares, left = np.linalg.eigh(features @ features.T)
    real = squares > _NOTHING * squares[-1]
    reduced = left[:, real] * np.sqrt(squares[real])
    return reduced, reduced.T @ features / squares[real][:, None]


def _cross_validated(features: np.ndarray, targets: np.ndarray, folds: np.ndarray, multilabel: bool) -> dict[float, float]:
    """C -> mean log loss over left-out images."""
    kept = [fold for fold in np.unique(folds) if _teachable(targets[folds != fold])][:_FOLDS]
    if not kept:
        return {1e-2: float("nan")}
    losses = np.zeros(len(STRENGTHS))
    for fold in kept:
        left = folds != fold
        for place, (coefficients, bias) in enumerate(_fitted(features[left], targets[left], list(STRENGTHS), multilabel)):
            answers = _probabilities(features[~left] @ coefficients.T + bias, multilabel)
            losses[place] += _log_loss(answers, targets[~left], multilabel) * (~left).sum()
    count = sum(int((folds == fold).sum()) for fold in kept)
    return {c: float(loss / count) for c, loss in zip(STRENGTHS, losses, strict=True)}


def _teachable(targets: np.ndarray) -> bool:
    return bool((targets.sum(0) > 0).sum() > 1)


def _fitted(
    features: np.ndarray, targets: np.ndarray, strengths: list[float], multilabel: bool
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(K, R) coefficients and (K,) bias for each C in turn, each started from the one before."""
    columns = [targets[:, k] for k in range(targets.shape[1])] if multilabel else [targets.argmax(1)]
    paths = [_path(features, column, strengths) for column in columns]
    if multilabel:
        return [
            (np.concatenate([path[i][0] for path in paths]), np.concatenate([path[i][1] for path in paths]))
            for i in range(len(strengths))
        ]
    present = np.unique(columns[0])
    return [_spread(coefficients, bias, present, targets.shape[1]) for coefficients, bias in paths[0]]


def _path(features: np.ndarray, answers: np.ndarray, strengths: list[float]) -> list[tuple[np.ndarray, np.ndarray]]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(answers)) == 1:  # a label that all images share, or none has
        certain = np.array([20.0 if answers[0] else -20.0])
        return [(np.zeros((1, features.shape[1])), certain)] * len(strengths)
    model = LogisticRegression(max_iter=_ITERATIONS, tol=_TOLERANCE, warm_start=True)
    found = []
    with warnings.catch_warnings(), threadpool_limits(1):  # products this small lose more to waiting threads than they gain
        warnings.simplefilter("ignore", ConvergenceWarning)  # the weakest penalties may stop early: a regularisation too
        for strength in strengths:
            model.set_params(C=strength).fit(features, answers)
            found.append((model.coef_.copy(), model.intercept_.copy()))
    return found


def _spread(coefficients: np.ndarray, bias: np.ndarray, present: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows for all K classes: two classes are solved as one row, and a class without images gets a hopeless bias."""
    if len(present) == 2 and len(coefficients) == 1:
        coefficients, bias = np.concatenate([-coefficients, coefficients]) / 2, np.concatenate([-bias, bias]) / 2
    every = np.zeros((classes, coefficients.shape[1]))
    shift = np.full(classes, -20.0)
    every[present], shift[present] = coefficients, bias
    return every, shift


def _probabilities(logits: np.ndarray, multilabel: bool) -> np.ndarray:
    from scipy.special import expit, softmax

    return np.asarray(expit(logits) if multilabel else softmax(logits, axis=1))


def _log_loss(answers: np.ndarray, targets: np.ndarray, multilabel: bool) -> float:
    answers = np.clip(answers, 1e-7, 1 - 1e-7)
    loss = -(targets * np.log(answers)).sum(1)
    if multilabel:
        loss -= ((1 - targets) * np.log(1 - answers)).sum(1)
    return float(loss.mean())
