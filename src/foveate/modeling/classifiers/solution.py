"""Standardized features in few directions, and the linear solutions on them.

Letters: N images, D width of a feature, R <= min(N, D) rank of the features, K classes or numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

_CHUNK = 4096  # images
_RANK_TOLERANCE = 1e-10  # of the largest squared singular value: below it is rounding


@dataclass(frozen=True)
class Solution:
    """A linear classifier or regression: weight (K, D) and bias (K,) on (features - mean) / scale.

    Attributes:
        strength: The chosen C, or penalty of a ridge regression.
        tried: C -> log loss, or penalty -> mean squared error, on left-out folds.
        out_of_fold: (N, K) probabilities or numbers of each image, fitted without its fold;
            None for classifiers that have none.
    """

    mean: np.ndarray
    scale: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    strength: float
    tried: dict[float, float]
    out_of_fold: np.ndarray | None = None


@dataclass(frozen=True)
class RotatedFeatures:
    """Standardized features, rotated into the R directions that they span.

    An L2 penalty is invariant to rotation, and the problem is smaller.

    Attributes:
        rows: (N, R) float32.
        rotation: (R, N) over the `standardized` features (N, D), or (R, D) if these are None.
    """

    mean: np.ndarray
    scale: np.ndarray
    rows: np.ndarray
    rotation: np.ndarray
    standardized: np.ndarray | None

    def to_features(self, coefficients: np.ndarray) -> np.ndarray:
        """Coefficients (K, R) as weights (K, D) of the standardized features."""
        weight = coefficients @ self.rotation
        return np.asarray(weight if self.standardized is None else weight @ self.standardized)

    def from_features(self, weight: np.ndarray) -> np.ndarray:
        """Convert weights (K, D) of the standardized features to coefficients (K, R)."""
        return np.asarray(
            (weight if self.standardized is None else weight @ self.standardized.T)
            @ self.rotation.T
        )

    def leading(self, count: int) -> RotatedFeatures:
        """Return the features in the `count` directions with the highest variance."""
        return replace(self, rows=self.rows[:, -count:], rotation=self.rotation[-count:])


def rotate(features: np.ndarray) -> RotatedFeatures:
    """Rotate features (N, D) for `solve` and `out_of_fold`.

    Exact; directions of zero length are left out. Uses the smaller of the two Gram matrices,
    because D may be twenty times N.
    """
    mean, scale = _mean_and_scale(features)
    if len(features) < features.shape[1]:
        standardized = (features - mean) / scale
        exact = standardized.astype(np.float64)
        squares, axes = _principal_axes(exact @ exact.T)
        return RotatedFeatures(
            mean,
            scale,
            (axes * np.sqrt(squares)).astype(np.float32),
            (axes / np.sqrt(squares)).T,
            standardized,
        )

    def chunks() -> Iterator[np.ndarray]:
        """Standardized float64 features in chunks; all at once would triple the memory."""
        for start in range(0, len(features), _CHUNK):
            yield ((features[start : start + _CHUNK] - mean) / scale).astype(np.float64)

    _, axes = _principal_axes(sum(part.T @ part for part in chunks()))
    return RotatedFeatures(
        mean,
        scale,
        np.concatenate([(part @ axes).astype(np.float32) for part in chunks()]),
        axes.T,
        None,
    )


def _principal_axes(products: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nonzero eigenvalues of a Gram matrix, and their eigenvectors."""
    squares, axes = np.linalg.eigh(products)
    kept = squares > _RANK_TOLERANCE * squares[-1]
    return squares[kept], axes[:, kept]


def _mean_and_scale(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means (D,) and scales (D,): root of the feature's variance plus that of the median feature.

    Plain standard deviations would magnify nearly constant features a thousandfold, and with them
    any image of another kind, or any change of the backbone.
    """
    spread = features.std(0)
    return features.mean(0), np.sqrt(spread**2 + np.median(spread) ** 2) + 1e-6
