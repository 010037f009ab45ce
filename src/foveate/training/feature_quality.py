"""How good features of images are, measured without training: rank, spread, retrieval, probes.

Letters: N images, D width of a feature, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from foveate.evaluation.intervals import paired_mean_difference
from foveate.modeling.classifiers import knn as knn_classifier
from foveate.types import Score

_RIDGE = 0.1  # penalty of the linear classifier, for features of length 1


@dataclass(frozen=True)
class FeatureQuality:
    """Measures of the features of some images.

    Attributes:
        rank: effective number of dimensions that they span (RankMe, Garrido et al. 2023).
        spread: mean standard deviation of the features, scaled to length 1; 0 if all are the same.
        self_retrieval: (N,) bool, whether the nearest neighbor of an augmented copy of an image is
            another copy of that image.
        knn: (N,) bool, whether a leave-one-out k-NN classifier is right; None without labels.
        linear: (N,) bool, whether a leave-one-out linear classifier is right; None without labels.
    """

    rank: float
    spread: float
    self_retrieval: np.ndarray
    knn: np.ndarray | None = None
    linear: np.ndarray | None = None

    @classmethod
    def measure(
        cls, features: Tensor, first: Tensor, second: Tensor, labels: np.ndarray | None
    ) -> FeatureQuality:
        """Measure features.

        Args:
            features: (N, D) of the images.
            first: (N, D) of an augmented copy of each image.
            second: (N, D) of another one.
            labels: (N,), class indices; None if they are unknown.
        """
        return cls(
            effective_rank(features),
            feature_spread(features),
            self_retrieval_hits(first, second),
            None if labels is None else knn_hits(features, labels),
            None if labels is None else linear_hits(features, labels),
        )

    def row(self) -> dict[str, float]:
        """Return the means over all images, by metric name."""
        hits = {"knn_accuracy": self.knn, "linear_accuracy": self.linear}
        accuracies = {name: float(each.mean()) for name, each in hits.items() if each is not None}
        return {
            **accuracies,
            "self_retrieval": float(self.self_retrieval.mean()),
            "rank": self.rank,
            "spread": self.spread,
        }

    def subset(self, indices: np.ndarray) -> FeatureQuality:
        """Return the measures of some of the images, as they were measured among all."""
        knn, linear = (None if each is None else each[indices] for each in (self.knn, self.linear))
        return FeatureQuality(self.rank, self.spread, self.self_retrieval[indices], knn, linear)


def knn_gain(now: FeatureQuality, start: FeatureQuality) -> Score | None:
    """Return the gain in k-NN accuracy, with a paired interval; None without labels."""
    if now.knn is None or start.knn is None:
        return None
    return Score(*paired_mean_difference(now.knn, start.knn), len(now.knn))


def effective_rank(features: Tensor) -> float:
    """(N, D) -> exponential of the entropy of the singular values (RankMe, equation 2).

    NaN if a feature is not finite.
    """
    if not bool(features.isfinite().all()):
        return float("nan")
    values = torch.linalg.svdvals(features.double())
    shares = values / values.sum().clamp(min=1e-12) + 1e-12
    return float((-(shares * shares.log()).sum()).exp())


def feature_spread(features: Tensor) -> float:
    """(N, D) -> mean standard deviation of the features, scaled to length 1, times root of D.

    It is 1 if they point in random directions, and 0 if all images look the same.
    """
    return float(functional.normalize(features, dim=1).std(0).mean() * features.shape[1] ** 0.5)


def self_retrieval_hits(first: Tensor, second: Tensor) -> np.ndarray:
    """(N, D) each -> (N,) bool: whether the nearest of the others is a copy of the same image."""
    cosines = functional.normalize(first, dim=1) @ functional.normalize(second, dim=1).T
    return (cosines.argmax(1) == torch.arange(len(first))).numpy()


def knn_hits(features: Tensor, labels: np.ndarray) -> np.ndarray:
    """(N, D), (N,) -> (N,) bool: whether the neighbors of an image vote for its class."""
    directions, classes = _normalize(features, labels)
    # below any cosine: an image does not vote for itself
    cosines = (directions @ directions.T).fill_diagonal_(-2.0)
    count = min(knn_classifier.NUM_NEIGHBORS, len(labels) - 1)
    nearest, indices = cosines.topk(count, dim=1)
    votes = knn_classifier.weighted_vote(nearest, classes[indices])
    return np.asarray(votes.argmax(1).numpy() == labels)


def linear_hits(features: Tensor, labels: np.ndarray) -> np.ndarray:
    """(N, D), (N,) -> (N,) bool: whether a linear classifier without the image is right.

    It is least squares with a small penalty. Leaving an image out takes no second solution: its
    error grows by its own share in its prediction (PRESS, Allen 1974).
    """
    rows, classes = (each.double() for each in _normalize(features, labels))
    targets = classes - classes.mean(0)
    inverse = torch.linalg.inv(rows @ rows.T + _RIDGE * torch.eye(len(rows), dtype=torch.float64))
    predictions = targets - (inverse @ targets) / inverse.diagonal()[:, None]
    return np.asarray((predictions + classes.mean(0)).argmax(1).numpy() == labels)


def _normalize(features: Tensor, labels: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return (N, D) features, centered and of length 1, and (N, K) one-hot classes."""
    one_hot = torch.from_numpy(np.eye(labels.max() + 1)[labels]).float()
    return functional.normalize(features - features.mean(0), dim=1), one_hot
