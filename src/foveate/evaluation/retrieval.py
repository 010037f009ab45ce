"""Pictures and sentences in one space: which finds which.

Letters: I pictures, K sentences, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from foveate.evaluation.intervals import wilson
from foveate.types import Score

CUTOFFS = (1, 5, 10)


def ranks(alike: Tensor, own: Tensor) -> np.ndarray:
    """(A, B) likeness of what asks and what is found, (A, B) bool, what is right -> (A,) int: how many wrong ones are as near as
    the nearest right one, or nearer. Ties count as lost, so that a model to which all things are alike finds nothing."""
    best = alike.masked_fill(~own, -torch.inf).max(1, keepdim=True).values
    found: np.ndarray = ((alike >= best) & ~own).sum(1).numpy()
    return found


def recall_at_cutoffs(found: np.ndarray) -> list[Score]:
    """The share of those whose right one is among the first 1, 5 and 10, with Wilson's interval."""
    hits = [int((found < cut).sum()) for cut in CUTOFFS]
    return [Score(count / len(found), *wilson(count, len(found)), len(found)) for count in hits]


def cosine_similarities(pictures: Tensor, sentences: Tensor) -> Tensor:
    """(I, D), (K, D) -> (I, K) cosines."""
    return functional.normalize(pictures, dim=1) @ functional.normalize(sentences, dim=1).T


def relevance_matrix(theirs: Sequence[Sequence[str]], sentences: Sequence[str]) -> Tensor:
    """Each picture's sentences, and all different ones -> (I, K) bool; a sentence of several pictures belongs to all of them."""
    places = {sentence: place for place, sentence in enumerate(sentences)}
    found = torch.zeros(len(theirs), len(sentences), dtype=torch.bool)
    for row, own in enumerate(theirs):
        found[row, [places[sentence] for sentence in own]] = True
    return found
