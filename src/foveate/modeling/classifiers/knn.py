"""k-nearest-neighbor classification.

Letters: Q queries, N labeled images, D feature width, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

NUM_NEIGHBORS = 20  # the k of DINO (Caron et al. 2021)
_TEMPERATURE = 0.07  # of the votes (Wu et al. 2018)


def knn_vote(queries: Tensor, known: Tensor, labels: Tensor, k: int = NUM_NEIGHBORS) -> Tensor:
    """Class shares (Q, K) among the k nearest neighbors, weighted by exp(cosine / 0.07).

    Args:
        queries: (Q, D).
        known: (N, D), features of labeled images.
        labels: (N, K), one-hot or probabilities.
        k: Neighbors; all images if there are fewer.
    """
    cosines = functional.normalize(queries, dim=1) @ functional.normalize(known, dim=1).T
    nearest, indices = cosines.topk(min(k, len(known)), dim=1)
    return weighted_vote(nearest, labels[indices])


def weighted_vote(cosines: Tensor, labels: Tensor) -> Tensor:
    """Class shares (Q, K) from cosines (Q, k) of the neighbors and their labels (Q, k, K)."""
    weights = torch.softmax(cosines / _TEMPERATURE, dim=1)
    return (weights[..., None] * labels).sum(1)
