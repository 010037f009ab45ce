"""What frozen backbones are worth on given images: a linear classifier and nearest neighbours on
the features of each.

Letters: N images, M of them known, D width of a feature, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from foveate.data.splits import group_folds, make_splits
from foveate.data.tables import label_names
from foveate.errors import DataError
from foveate.modeling.classifiers.knn import knn_vote
from foveate.modeling.classifiers.logistic import solve
from foveate.types import Table

FOLDS = 5


@dataclass(frozen=True)
class Judged:
    """How the images of left-out folds were answered.

    `linear`, `knn`: (N,) bool, true where the answer is right. `log_loss`: mean of the linear
    classifier's, nats.
    """

    linear: np.ndarray
    knn: np.ndarray
    log_loss: float


def drawn(table: Table, images: int, seed: int) -> Table:
    """About `images` of the table's samples, 0 for all: stratified by class, every class kept, no
    group of the data divided.
    """
    count = len(table.samples)
    if not 0 < images < count:
        return table
    groups = [sample.group or sample.key for sample in table.samples]
    places = make_splits(
        [label_names(sample) for sample in table.samples], groups, 1 - images / count, 0, seed
    )
    kept = [sample for sample, place in zip(table.samples, places, strict=True) if place == "train"]
    return table.with_samples(tuple(kept))


def folds_of(table: Table, groups: list[str], seed: int) -> np.ndarray:
    """(N,) int64: the fold of each sample; no group is divided.

    Raises DataError where there is but one group.
    """
    if len(set(groups)) < 2:
        what = "all these images are near-copies of each other, or of one group"
        raise DataError(
            what,
            where=table.root,
            hint="a comparison leaves some groups out in turn: give images of several",
        )
    return group_folds([label_names(sample) for sample in table.samples], groups, FOLDS, seed)


def targets_of(table: Table) -> np.ndarray:
    """(N, K) float64: 1 for the class of each sample."""
    places = [table.classes.index(name) for sample in table.samples for name in label_names(sample)]
    return np.eye(len(table.classes))[places]


def judged(features: np.ndarray, targets: np.ndarray, folds: np.ndarray) -> Judged:
    """features (N, D), targets (N, K), folds (N,): each fold is answered by what the other folds
    know.

    Nested: the linear classifier's regularisation, and the standardisation of both, are chosen
    inside the other folds too.
    """
    from scipy.special import softmax

    chances, tallies = np.zeros(targets.shape), np.zeros(targets.shape)
    for fold in np.unique(folds):
        asked = folds == fold
        solution = solve(features[~asked], targets[~asked], folds[~asked], False)
        standard = (features - solution.mean) / solution.scale
        chances[asked] = softmax(standard[asked] @ solution.weight.T + solution.bias, axis=1)
        rows, known = torch.from_numpy(standard), torch.from_numpy(~asked)
        tallies[asked] = knn_vote(
            rows[~known], rows[known], torch.from_numpy(targets[~asked]).to(rows)
        ).numpy()
    truth = targets.argmax(1)
    losses = -np.log(np.clip(chances[np.arange(len(truth)), truth], 1e-7, 1))
    return Judged(chances.argmax(1) == truth, tallies.argmax(1) == truth, float(losses.mean()))
