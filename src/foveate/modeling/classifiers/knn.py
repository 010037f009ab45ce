"""What the nearest known images vote for. Letters: Q images asked, N known, D width of a feature, K classes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

NEIGHBOURS = 20  # the k of DINO (Caron et al. 2021)
_TEMPERATURE = 0.07  # of cosines in a vote (Wu et al. 2018)


def knn_vote(asked: Tensor, known: Tensor, answers: Tensor, count: int = NEIGHBOURS) -> Tensor:
    """asked (Q, D), known (N, D) with answers (N, K) -> (Q, K): the share of each class in the votes of the `count` nearest, all
    where there are fewer. A vote weighs exp(cosine / 0.07)."""
    cosines = functional.normalize(asked, dim=1) @ functional.normalize(known, dim=1).T
    nearest, places = cosines.topk(min(count, len(known)), dim=1)
    return weighted(nearest, answers[places])


def weighted(cosines: Tensor, answers: Tensor) -> Tensor:
    """cosines (Q, k) of the nearest, with their answers (Q, k, K) -> (Q, K)."""
    weights = torch.softmax(cosines / _TEMPERATURE, dim=1)
    return (weights[..., None] * answers).sum(1)
