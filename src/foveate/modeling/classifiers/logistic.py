"""Logistic regression on fixed features, with cross-validated regularization.

Own L-BFGS instead of scikit-learn's: in coordinates scaled by the curvature it needs a twentieth
of the steps (docs/log). Letters: N images, D width of a feature, R <= min(N, D) rank of the
features, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from foveate.modeling.classifiers.ridge import solve_ridge
from foveate.modeling.classifiers.solution import RotatedFeatures, Solution, rotate
from foveate.utils.threads import one_thread

# C of scikit-learn, strongest penalty first
STRENGTHS = tuple(10.0**power for power in (-5, -4, -3.5, -3, -2.5, -2, -1.5, -1, 0))
_ITERATIONS = 1000
_TOLERANCE = 3e-5  # of the gradient, in coordinates scaled by the root of the curvature
_MIN_CURVATURE = 1e-3  # lower bound of the curvature
_FOLDS = 5

Linear = tuple[np.ndarray, np.ndarray]  # (K, R) coefficients and (K,) bias


@dataclass(frozen=True)
class LabeledFeatures:
    """Features of the training images by a frozen backbone.

    Attributes:
        features: (N, D) float32.
        targets: (N, K) in {0, 1}; or (N, 1) standardized numbers.
        folds: (N,) int, for cross-validation; no group is in two of them.
        multilabel: Whether an image may have several classes.
        grouped: Whether some images form a group, such as near-duplicates.
        numeric: Whether the targets are numbers.
    """

    features: np.ndarray
    targets: np.ndarray
    folds: np.ndarray
    multilabel: bool = False
    grouped: bool = False
    numeric: bool = False

    @cached_property
    def rotated(self) -> RotatedFeatures:
        return rotate(self.features)

    @cached_property
    def solution(self) -> Solution:
        if self.numeric:
            return solve_ridge(self.rotated, self.targets, self.folds)
        return solve(self.rotated, self.targets, self.folds, self.multilabel)


def solve(
    features: np.ndarray | RotatedFeatures, targets: np.ndarray, folds: np.ndarray, multilabel: bool
) -> Solution:
    """Fit the classifier with the lowest cross-validated log loss.

    Args:
        features: (N, D) float32, or already rotated.
        targets: (N, K) in {0, 1}.
        folds: (N,) int.
        multilabel: Whether an image may have several classes.
    """
    rotated = features if isinstance(features, RotatedFeatures) else rotate(features)
    paths = _paths(rotated.rows, targets, folds, multilabel)
    tried = _cross_validate(rotated.rows, targets, folds, multilabel, paths)
    strength = min(tried, key=lambda c: (tried[c], c))
    by_fold = {fold: path[STRENGTHS.index(strength)] for fold, path in paths.items()}
    initial = _average(list(by_fold.values())) if by_fold else None
    coefficients, bias = _fit_path(rotated.rows, targets, [strength], multilabel, initial)[0]
    weight = rotated.to_features(coefficients).astype(np.float32)
    probabilities = _out_of_fold(
        rotated.rows, targets, folds, strength, multilabel, by_fold, initial
    )
    return Solution(
        rotated.mean, rotated.scale, weight, bias.astype(np.float32), strength, tried, probabilities
    )


def out_of_fold(
    features: np.ndarray | RotatedFeatures,
    targets: np.ndarray,
    folds: np.ndarray,
    strength: float,
    multilabel: bool,
    initial: Solution | None = None,
) -> np.ndarray:
    """Return probabilities (N, K) of each image by a classifier fitted without its fold.

    Images of fold -1 are trained on in every fold; their probabilities are 0.

    `initial`: a solution for all images with the same features and strength. It only sets the
    starting point of the optimization.
    """
    rotated = features if isinstance(features, RotatedFeatures) else rotate(features)
    start = None if initial is None else (rotated.from_features(initial.weight), initial.bias)
    return _out_of_fold(rotated.rows, targets, folds, strength, multilabel, {}, start)


def _out_of_fold(
    rows: np.ndarray,
    targets: np.ndarray,
    folds: np.ndarray,
    strength: float,
    multilabel: bool,
    by_fold: dict[int, Linear],
    initial: Linear | None,
) -> np.ndarray:
    """As `out_of_fold`; `by_fold`: classifiers without a fold that are known already."""
    probabilities = np.zeros(targets.shape)
    for fold in np.unique(folds[folds >= 0]).tolist():
        training = folds != fold
        linear = (
            by_fold.get(fold)
            or _fit_path(rows[training], targets[training], [strength], multilabel, initial)[0]
        )
        probabilities[~training] = _predict(rows[~training], linear, multilabel)
    return probabilities


def _predict(rows: np.ndarray, linear: Linear, multilabel: bool) -> np.ndarray:
    """Probabilities (N, K)."""
    return _probabilities(rows @ linear[0].T + linear[1], multilabel)


def _average(linears: list[Linear]) -> Linear:
    weights, biases = zip(*linears, strict=True)
    return np.mean(weights, axis=0), np.mean(biases, axis=0)


def _paths(
    rows: np.ndarray, targets: np.ndarray, folds: np.ndarray, multilabel: bool
) -> dict[int, list[Linear]]:
    """Fold -> classifiers of all strengths fitted without it, for the first usable folds."""
    usable = [
        fold for fold in np.unique(folds).tolist() if _has_two_classes(targets[folds != fold])
    ][:_FOLDS]
    return {
        fold: _fit_path(rows[folds != fold], targets[folds != fold], list(STRENGTHS), multilabel)
        for fold in usable
    }


def _cross_validate(
    rows: np.ndarray,
    targets: np.ndarray,
    folds: np.ndarray,
    multilabel: bool,
    paths: dict[int, list[Linear]],
) -> dict[float, float]:
    """C -> mean log loss of left-out images."""
    if not paths:
        return {1e-2: float("nan")}
    losses = np.zeros(len(STRENGTHS))
    for fold, path in paths.items():
        held_out = folds == fold
        fold_losses = [
            _log_loss(_predict(rows[held_out], plane, multilabel), targets[held_out], multilabel)
            for plane in path
        ]
        losses += np.array(fold_losses) * held_out.sum()
    count = int(np.isin(folds, list(paths)).sum())
    return {c: float(loss / count) for c, loss in zip(STRENGTHS, losses, strict=True)}


def _has_two_classes(targets: np.ndarray) -> bool:
    return bool((targets.sum(0) > 0).sum() > 1)


def _fit_path(
    rows: np.ndarray,
    targets: np.ndarray,
    strengths: list[float],
    multilabel: bool,
    initial: Linear | None = None,
) -> list[Linear]:
    """Classifiers for each C, each started from the one before, the first from `initial`."""
    present = targets.sum(0) > 0
    if multilabel:
        # labels that all or no images have need no fit
        varying = present & (targets.sum(0) < len(targets))
        paths = _regularization_path(
            rows, targets[:, varying], strengths, True, _select_classes(initial, varying)
        )
        return [_for_all_classes(path, varying, np.where(present, 20.0, -20.0)) for path in paths]
    if present.sum() == 2:  # two classes need one logit
        second = _regularization_path(
            rows,
            targets[:, present][:, 1:],
            strengths,
            True,
            _second_minus_first(_select_classes(initial, present)),
        )
        paths = [
            (np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2)
            for weight, bias in second
        ]
    else:
        paths = _regularization_path(
            rows, targets[:, present], strengths, False, _select_classes(initial, present)
        )
    # a class without images gets a very low bias
    return [_for_all_classes(path, present, np.full(len(present), -20.0)) for path in paths]


def _select_classes(linear: Linear | None, classes: np.ndarray) -> Linear | None:
    return linear and (linear[0][classes], linear[1][classes])


def _second_minus_first(linear: Linear | None) -> Linear | None:
    """The second of two classes minus the first."""
    return linear and (linear[0][1:] - linear[0][:1], linear[1][1:] - linear[1][:1])


def _for_all_classes(linear: Linear, fitted: np.ndarray, bias: np.ndarray) -> Linear:
    """The classifier for all K classes, of which `fitted` (K,) bool were fitted."""
    weight, biases = np.zeros((len(fitted), linear[0].shape[1])), bias.copy()
    weight[fitted], biases[fitted] = linear
    return weight, biases


def _regularization_path(
    rows: np.ndarray,
    targets: np.ndarray,
    strengths: list[float],
    multilabel: bool,
    initial: Linear | None,
) -> list[Linear]:
    """Minimize mean log loss + |weight|^2 / (2 C N) by L-BFGS for each C.

    `multilabel`: independent sigmoids instead of a softmax. Coordinates are scaled by the root of
    the curvature: lengths of directions differ by a factor of 100,000, and the descent would take
    twenty times as many steps otherwise (docs/log).
    """
    from scipy.optimize import minimize

    if not targets.shape[1]:
        return [(np.empty((0, rows.shape[1])), np.empty(0))] * len(strengths)
    squares = np.einsum("nr,nr->r", rows, rows, dtype=np.float64)[:, None] / len(rows)
    weight, bias = (
        (initial[0].T, initial[1])
        if initial
        else (np.zeros((rows.shape[1], targets.shape[1])), np.zeros(targets.shape[1]))
    )
    solutions: list[Linear] = []
    with one_thread():
        for strength in strengths:
            penalty = 1 / (strength * len(rows))
            probabilities = _probabilities(rows @ weight.astype(rows.dtype) + bias, multilabel)
            curvature = np.maximum((probabilities * (1 - probabilities)).mean(0), _MIN_CURVATURE)
            units = np.concatenate(
                [1 / np.sqrt(curvature * squares + penalty), 1 / np.sqrt(curvature)[None]]
            )
            start = (np.concatenate([weight, bias[None]]) / units).ravel()
            options = {"maxiter": _ITERATIONS, "gtol": _TOLERANCE, "maxls": 50}
            result = minimize(
                _penalized_loss,
                start,
                (rows, targets, penalty, units, multilabel),
                "L-BFGS-B",
                jac=True,
                options=options,
            )
            parameters = result.x.reshape(units.shape) * units
            weight, bias = parameters[:-1], parameters[-1]
            solutions.append((weight.T, bias))
    return solutions


def _penalized_loss(
    scaled: np.ndarray,
    rows: np.ndarray,
    targets: np.ndarray,
    penalty: float,
    units: np.ndarray,
    multilabel: bool,
) -> tuple[float, np.ndarray]:
    """Penalized loss and its gradient at parameters scaled by `units`, (R + 1, K), bias last."""
    parameters = scaled.reshape(units.shape) * units
    loss, probabilities = _loss_and_probabilities(
        rows @ parameters[:-1].astype(rows.dtype) + parameters[-1], targets, multilabel
    )
    errors = (probabilities - targets) / len(rows)
    gradient = np.concatenate(
        [rows.T @ errors.astype(rows.dtype) + penalty * parameters[:-1], errors.sum(0)[None]]
    )
    return loss + penalty / 2 * float((parameters[:-1] ** 2).sum()), (gradient * units).ravel()


def _loss_and_probabilities(
    logits: np.ndarray, targets: np.ndarray, multilabel: bool
) -> tuple[float, np.ndarray]:
    """Mean log loss, computed from logits for numerical stability, and probabilities."""
    if multilabel:
        losses, probabilities = np.logaddexp(0, logits).sum(1), _probabilities(logits, True)
    else:  # scipy's softmax and logsumexp would take twice as long
        highest = logits.max(1, keepdims=True)
        shares = np.exp(logits - highest)
        total = shares.sum(1, keepdims=True)
        losses, probabilities = (np.log(total) + highest)[:, 0], shares / total
    return float((losses - (targets * logits).sum(1)).mean()), probabilities


def _probabilities(logits: np.ndarray, multilabel: bool) -> np.ndarray:
    from scipy.special import expit, softmax

    return np.asarray(expit(logits) if multilabel else softmax(logits, axis=1))


def _log_loss(probabilities: np.ndarray, targets: np.ndarray, multilabel: bool) -> float:
    probabilities = np.clip(probabilities, 1e-7, 1 - 1e-7)
    loss = -(targets * np.log(probabilities)).sum(1)
    if multilabel:
        loss -= ((1 - targets) * np.log(1 - probabilities)).sum(1)
    return float(loss.mean())
