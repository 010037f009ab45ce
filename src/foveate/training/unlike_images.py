"""What a score could fall to on images unlike the training images: look-alike clusters left out.

Images of a class are often taken on the same occasion, so that no split of them tells how a model
fares on another one. Leaving out whole clusters of look-alikes stands in for such a difference.

Letters: N images, R directions of the features, K classes.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from foveate.evaluation.intervals import MIN_UNITS, wilson
from foveate.modeling.classifiers.logistic import out_of_fold
from foveate.modeling.classifiers.solution import RotatedFeatures, Solution
from foveate.utils.threads import one_thread

_CLUSTERS = (3, 5)  # of each class; chosen in docs/benchmarks/unlike.md
_MIN_GROUPS = 5  # of a class that is scored
_MAX_IMAGES = 5000
DIRECTIONS = 128
"""Of the features that clusters are sought in: more take longer and change little."""
_STARTS = 4  # of k-means
# the fewer the classes, the more it depends on which of their clusters are left out together, and
# the less time a repetition takes
_CLASSES_TO_AVERAGE = 20
_LEAST_HELD, _MOST_HELD = 2, 3  # clusters of a class that are held out, of three times as many
_HELD_CLUSTERS = 12  # that are aimed at: the noise of a score depends on their number
_MIN_KEPT = 2 / 3  # of the groups of a class
_MIN_HELD_IMAGES = 20


@dataclass(frozen=True)
class UnlikeAccuracy:
    """Accuracy on images whose look-alikes were not trained on.

    The images of each class are divided into a number of clusters of similar images. A classifier
    is fitted without one cluster of each class and applied to these clusters; every image is left
    out once. The fewer the clusters, the more unlike are the images that are left out.

    Attributes:
        low: The lower accuracy of the numbers of clusters that were tried.
        high: The higher one.
        images: Number of images that were left out once.
        by_clusters: Accuracy by number of clusters of a class.
    """

    low: float
    high: float
    images: int
    by_clusters: dict[int, float]

    def row(self) -> dict[str, Any]:
        """Return a JSON-able row."""
        by_clusters = {str(count): accuracy for count, accuracy in self.by_clusters.items()}
        return asdict(self) | {"by_clusters": by_clusters}


def measure_unlike(
    features: RotatedFeatures,
    targets: np.ndarray,
    groups: Sequence[str],
    solution: Solution,
    seed: int,
) -> UnlikeAccuracy | None:
    """Measure the accuracy on left-out clusters of look-alikes, 3 and 5 of each class.

    Classes with fewer than 5 groups are trained on and not scored. Of more than 5,000 images a
    random 5,000 are used.

    Args:
        features: Of N images of one class each.
        targets: (N, K) in {0, 1}.
        groups: The group of each image; a group is never divided.
        solution: For all images, with probabilities out of fold; its strength is used.
        seed: Of k-means and of the clusters that are left out together.

    Returns:
        The accuracy; None if it would tell nothing: less than half of the images or fewer than two
        classes can be scored, or the solution is no better than always answering one class.
    """
    if not _beats_majority(solution, targets):
        return None
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(targets))[:_MAX_IMAGES])
    leading = features.leading(DIRECTIONS)
    leading, targets = replace(leading, rows=leading.rows[chosen]), targets[chosen]
    classes, names = targets.argmax(1), [groups[index] for index in chosen.tolist()]
    members = _members(classes, names)
    scored = np.isin(classes, list(members))
    if len(members) < 2 or 2 * scored.sum() < len(scored):
        return None

    def accuracy(clusters: int) -> float:
        folds = look_alike_folds(leading.rows, classes, names, clusters, rng)
        probabilities = out_of_fold(
            leading, targets, folds, solution.strength, False, initial=solution
        )
        return float((probabilities.argmax(1) == classes)[scored].mean())

    rounds = math.ceil(_CLASSES_TO_AVERAGE / len(members))
    by_clusters = {
        clusters: float(np.mean([accuracy(clusters) for _ in range(rounds)]))
        for clusters in _CLUSTERS
    }
    values = by_clusters.values()
    return UnlikeAccuracy(min(values), max(values), int(scored.sum()), by_clusters)


def look_alike_folds(
    rows: np.ndarray,
    classes: np.ndarray,
    groups: Sequence[str],
    clusters: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw folds that hold one cluster of look-alikes of each class.

    A group with images of several classes is in the fold that has most of its images.

    Args:
        rows: (N, R) features.
        classes: (N,) the class of each image.
        groups: The group of each image; a group is never divided.
        clusters: Number of clusters of a class.
        rng: Of k-means and of the clusters that share a fold.

    Returns:
        (N,) int, 0 to clusters - 1; -1 for images of classes with fewer than 5 groups.
    """
    folds = np.full(len(classes), -1)
    for units in _members(classes, groups).values():
        cluster = _cluster(rows, units, clusters, int(rng.integers(2**31)))
        fold_of = rng.permutation(clusters)
        for unit, number in zip(units, cluster.tolist(), strict=True):
            folds[unit] = fold_of[number]
    return _undivided(folds, groups)


def held_out_clusters(
    rows: np.ndarray, classes: np.ndarray, groups: Sequence[str], seed: int
) -> list[str | None]:
    """Draw clusters of look-alikes to hold out from training: a third of each class, or less.

    Two of six clusters of a class; of fewer than six classes, three of nine. Classes with fewer
    than 5 groups are left whole, and every class keeps two thirds of its groups.

    Args:
        rows: (N, R) features of the training images.
        classes: (N,) the class of each image.
        groups: The group of each image; a group is never divided.
        seed: Of k-means and of the choice.

    Returns:
        (N) the name of the cluster that an image is held out with; None for images to train on,
        which are all if so few could be held out that they would tell nothing.
    """
    members, rng = _members(classes, groups), np.random.default_rng(seed)
    aim = math.ceil(_HELD_CLUSTERS / max(1, len(members)))
    each = min(max(aim, _LEAST_HELD), _MOST_HELD)
    cluster_of: dict[str, str] = {}  # of the groups that are held out
    for number, units in members.items():
        clusters = _cluster(rows, units, 3 * each, int(rng.integers(2**31)))
        spare, drawn = len(units) - math.ceil(_MIN_KEPT * len(units)), 0
        for one in rng.permutation(np.unique(clusters)).tolist():
            own = [groups[units[index][0]] for index in np.flatnonzero(clusters == one)]
            if drawn < each and len(own) <= spare:
                cluster_of |= dict.fromkeys(own, f"unlike {number}-{one}")
                spare, drawn = spare - len(own), drawn + 1
    _return_to_classes(cluster_of, classes, groups)
    held = [cluster_of.get(group) for group in groups]
    if len(set(cluster_of.values())) < MIN_UNITS or len(held) - held.count(None) < _MIN_HELD_IMAGES:
        return [None] * len(held)
    return held


def _return_to_classes(
    cluster_of: dict[str, str], classes: np.ndarray, groups: Sequence[str]
) -> None:
    """Hold out fewer clusters where a class keeps too little: groups can be of several classes."""
    of_class: dict[int, set[str]] = defaultdict(set)
    for number, group in zip(classes.tolist(), groups, strict=True):
        of_class[number].add(group)
    for own in of_class.values():
        held = Counter(cluster_of[group] for group in own & cluster_of.keys())
        for cluster, count in sorted(held.items(), key=lambda item: (item[1], item[0])):
            if len(own) - held.total() >= _MIN_KEPT * len(own):
                break
            held[cluster] -= count
            for group in [name for name, each in cluster_of.items() if each == cluster]:
                del cluster_of[group]


def _beats_majority(solution: Solution, targets: np.ndarray) -> bool:
    """Whether the solution is better, beyond the noise, than always answering one class."""
    assert solution.out_of_fold is not None
    hits = solution.out_of_fold.argmax(1) == targets.argmax(1)
    return bool(wilson(int(hits.sum()), len(hits))[0] > targets.mean(0).max())


def _members(classes: np.ndarray, groups: Sequence[str]) -> dict[int, list[np.ndarray]]:
    """Class -> the images of each of its groups, for classes with enough groups."""
    members: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, (number, group) in enumerate(zip(classes.tolist(), groups, strict=True)):
        members[number][group].append(index)
    return {
        number: [np.array(indices) for indices in by_group.values()]
        for number, by_group in members.items()
        if len(by_group) >= _MIN_GROUPS
    }


def _cluster(rows: np.ndarray, units: list[np.ndarray], clusters: int, seed: int) -> np.ndarray:
    """The cluster of each group of images, by the mean of its features."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    means = np.stack([rows[unit].mean(0) for unit in units])
    k_means = KMeans(min(clusters, len(units)), n_init=_STARTS, random_state=seed)
    # many small problems; equal images may make fewer clusters
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return np.asarray(k_means.fit_predict(means, sample_weight=[len(unit) for unit in units]))


def _undivided(folds: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """The same folds, with every group in the fold that has most of its images."""
    votes: dict[str, Counter[int]] = defaultdict(Counter)
    for fold, group in zip(folds.tolist(), groups, strict=True):
        if fold >= 0:
            votes[group][fold] += 1
    most = {group: counter.most_common(1)[0][0] for group, counter in votes.items()}
    return np.array([most.get(group, -1) for group in groups])
