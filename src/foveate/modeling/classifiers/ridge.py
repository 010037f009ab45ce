"""Ridge regression of numbers on fixed features, with the penalty chosen by cross-validation.

Letters: N images, R rank of the features, K numbers for each image, P penalties.
"""

from __future__ import annotations

import numpy as np

from foveate.modeling.classifiers.solution import RotatedFeatures, Solution
from foveate.utils.threads import one_thread

PENALTIES = tuple(10.0 ** (power / 2) for power in range(-8, 9))
"""Relative to the mean squared length of a feature vector."""


def solve_ridge(rotated: RotatedFeatures, targets: np.ndarray, folds: np.ndarray) -> Solution:
    """Fit the numbers with the penalty that has the lowest squared error on left-out folds.

    Args:
        rotated: The features.
        targets: (N, K) numbers, standardized.
        folds: (N,) int.

    Returns:
        The solution; its `strength` is the penalty and `tried` has mean squared errors, nan where
        there is only one fold.
    """
    rows = rotated.rows.astype(np.float64)
    with one_thread():
        tried, left_out = _cross_validate(rows, targets, folds)
        penalty = min(tried, key=lambda each: (tried[each], -each))
        weight, bias = (each[0] for each in _path(rows, targets, (penalty,)))
    return Solution(
        rotated.mean,
        rotated.scale,
        rotated.to_features(weight).astype(np.float32),
        bias.astype(np.float32),
        penalty,
        tried,
        None if left_out is None else left_out[PENALTIES.index(penalty)],
    )


def _cross_validate(
    rows: np.ndarray, targets: np.ndarray, folds: np.ndarray
) -> tuple[dict[float, float], np.ndarray | None]:
    """Penalty -> mean squared error, and (P, N, K) predictions for images that were left out."""
    parts = np.unique(folds)
    if len(parts) < 2:
        return {1.0: float("nan")}, None
    predicted = np.empty((len(PENALTIES), *targets.shape))
    for fold in parts:
        held_out = folds == fold
        weights, biases = _path(rows[~held_out], targets[~held_out], PENALTIES)
        predicted[:, held_out] = rows[held_out] @ weights.transpose(0, 2, 1) + biases[:, None]
    errors = np.square(predicted - targets).mean((1, 2))
    return dict(zip(PENALTIES, errors.tolist(), strict=True)), predicted


def _path(
    rows: np.ndarray, targets: np.ndarray, penalties: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """(P, K, R) weights and (P, K) biases for each penalty, from one decomposition."""
    center, mean = rows.mean(0), targets.mean(0)
    centered = rows - center
    squares, axes = np.linalg.eigh(centered.T @ centered)
    along = axes.T @ (centered.T @ (targets - mean))  # (R, K)
    unit = max(float(squares.clip(min=0).sum()) / len(rows), 1e-12)
    limits = np.array(penalties)[:, None, None] * unit
    weights = (axes @ (along / (squares.clip(min=0)[:, None] + limits))).transpose(0, 2, 1)
    return weights, mean - weights @ center
