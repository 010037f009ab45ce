"""Retrieval between images and captions in one embedding space.

Letters: I images, K captions, D width, Q queries, C candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from foveate.evaluation.intervals import Units
from foveate.evaluation.proportions import proportion
from foveate.types import Score

CUTOFFS = (1, 5, 10)


def ranks(similarities: Tensor, relevant: Tensor) -> np.ndarray:
    """Return how many wrong candidates are at least as similar as the best relevant one.

    Ties count as lost, so that a model to which all things are alike retrieves nothing.

    Args:
        similarities: (Q, C) of queries and candidates.
        relevant: (Q, C) bool.

    Returns:
        (Q,) int, 0 for the best.
    """
    best = similarities.masked_fill(~relevant, -torch.inf).max(1, keepdim=True).values
    counts: np.ndarray = ((similarities >= best) & ~relevant).sum(1).numpy()
    return counts


def recall_at_cutoffs(ranks: np.ndarray, units: Units) -> list[Score]:
    """Return the recall at 1, 5 and 10 with intervals.

    Args:
        ranks: (Q,), 0 for the best.
        units: Of the queries; captions of one image belong together.
    """
    return [proportion(ranks < cutoff, units) for cutoff in CUTOFFS]


def cosine_similarities(images: Tensor, captions: Tensor) -> Tensor:
    """Return (I, K) cosines of (I, D) and (K, D) embeddings."""
    return functional.normalize(images, dim=1) @ functional.normalize(captions, dim=1).T


def relevance_matrix(captions_of: Sequence[Sequence[str]], captions: Sequence[str]) -> Tensor:
    """Return (I, K) bool: which of the captions belong to which image.

    Args:
        captions_of: Captions of each image.
        captions: The K different ones; one of several images belongs to all of them.
    """
    index = {caption: column for column, caption in enumerate(captions)}
    relevant = torch.zeros(len(captions_of), len(captions), dtype=torch.bool)
    for row, own in enumerate(captions_of):
        relevant[row, [index[caption] for caption in own]] = True
    return relevant
