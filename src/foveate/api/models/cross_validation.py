"""Cross-validated accuracy of frozen features: a linear classifier and nearest neighbors.

Letters: N images, D width of a feature, K classes.
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
class CrossValidation:
    """Out-of-fold results.

    Attributes:
        linear: (N,) bool, whether the linear classifier is correct.
        knn: (N,) bool, whether the nearest neighbors are correct.
        log_loss: Mean log loss of the linear classifier, nats.
    """

    linear: np.ndarray
    knn: np.ndarray
    log_loss: float


def subsample_images(table: Table, images: int, seed: int) -> Table:
    """Draw about `images` samples, stratified by class; 0 keeps all.

    Every class is kept, and no group of the data is divided.
    """
    count = len(table.samples)
    if not 0 < images < count:
        return table
    groups = [sample.group or sample.key for sample in table.samples]
    labels = [label_names(sample) for sample in table.samples]
    splits = make_splits(labels, groups, 1 - images / count, 0, seed)
    kept = [sample for sample, split in zip(table.samples, splits, strict=True) if split == "train"]
    return table.with_samples(tuple(kept))


def assign_folds(table: Table, groups: list[str], seed: int) -> np.ndarray:
    """Return the fold of each sample, (N,) int64; no group is divided.

    Raises:
        DataError: There is only one group.
    """
    if len(set(groups)) < 2:
        raise DataError(
            "all images are near-copies of each other, or belong to one group",
            where=table.root,
            hint="a comparison leaves some groups out in turn: give images of several groups",
        )
    return group_folds([label_names(sample) for sample in table.samples], groups, FOLDS, seed)


def one_hot_targets(table: Table) -> np.ndarray:
    """Return (N, K) float64: 1 for the class of each sample."""
    indices = [
        table.classes.index(name) for sample in table.samples for name in label_names(sample)
    ]
    return np.eye(len(table.classes))[indices]


def cross_validate(features: np.ndarray, targets: np.ndarray, folds: np.ndarray) -> CrossValidation:
    """Classify the images of each fold by classifiers fitted on the other folds.

    The cross-validation is nested: the regularization of the linear classifier, and the
    standardization of both, are chosen on the other folds too.

    Args:
        features: (N, D).
        targets: (N, K), one-hot.
        folds: (N,) fold of each image.
    """
    from scipy.special import softmax

    probabilities, votes = np.zeros(targets.shape), np.zeros(targets.shape)
    for fold in np.unique(folds):
        test = folds == fold
        solution = solve(features[~test], targets[~test], folds[~test], False)
        standardized = (features - solution.mean) / solution.scale
        logits = standardized[test] @ solution.weight.T + solution.bias
        probabilities[test] = softmax(logits, axis=1)
        rows, train = torch.from_numpy(standardized), torch.from_numpy(~test)
        train_targets = torch.from_numpy(targets[~test]).to(rows)
        votes[test] = knn_vote(rows[~train], rows[train], train_targets).numpy()
    labels = targets.argmax(1)
    own = probabilities[np.arange(len(labels)), labels]
    return CrossValidation(
        linear=probabilities.argmax(1) == labels,
        knn=votes.argmax(1) == labels,
        log_loss=float(-np.log(np.clip(own, 1e-7, 1)).mean()),
    )
