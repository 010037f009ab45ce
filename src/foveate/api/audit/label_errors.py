"""Label errors, redundant images and learning curves from out-of-fold probabilities.

Letters: N images, K classes, D width of a feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from foveate.data.splits import group_folds
from foveate.modeling.classifiers.logistic import out_of_fold, solve
from foveate.types import Score

FOLDS, REPEATS = 5, 3
SHARES = (0.25, 0.5, 0.75, 1.0)  # of the data, to which the learning curve is fitted
_MIN_PER_CLASS = 4  # images of a class in a share of the data: with fewer, folds lack the class


@dataclass(frozen=True)
class LabelIssue:
    """A label that the rest of the data contradicts (confident learning, Northcutt et al. 2021).

    Attributes:
        index: Index of the image.
        suggested: Index of the class that is more plausible.
        label_probability: Out-of-fold probability of the given label.
        suggested_probability: Out-of-fold probability of the suggested class.
        strong: Whether the suggested class is more probable than the label, and at least as
            probable as on average for images of that class.
    """

    index: int
    suggested: int
    label_probability: float
    suggested_probability: float
    strong: bool


def find_label_issues(
    probabilities: np.ndarray, labels: np.ndarray, share: float = 0.1
) -> list[LabelIssue]:
    """Return the labels to review.

    All strong suspicions, and as many others as make up `share` of the data, each sorted by the
    margin of the suggested class over the label.

    Args:
        probabilities: (N, K), out of fold.
        labels: (N,) class indices.
        share: Share of the data to list.
    """
    given, best, rival = _rivals(probabilities, labels)
    limits = np.full(probabilities.shape[1], np.inf)
    present = np.unique(labels)
    limits[present] = [probabilities[labels == each, each].mean() for each in present]
    strong = (rival >= limits[best]) & (rival > given)
    order = np.lexsort((given - rival, ~strong))
    count = max(int(strong.sum()), round(share * len(labels)))
    chosen = order[:count].tolist()
    return [
        LabelIssue(row, int(best[row]), float(given[row]), float(rival[row]), bool(strong[row]))
        for row in chosen
    ]


def are_learnable(probabilities: np.ndarray, labels: np.ndarray) -> bool:
    """Return whether the labels have anything to do with what a classifier answers out of fold.

    If they had not, each class would be answered as often among its own images as among all, so
    that the mean of the recalls would be that of these shares. It has to lie above it by two
    standard deviations. Labels that nobody can learn contradict the rest of the data by chance.

    Args:
        probabilities: (N, K), out of fold.
        labels: (N,) class indices.
    """
    answers, present = probabilities.argmax(1), np.unique(labels)
    counts = np.array([(labels == each).sum() for each in present])
    shares = np.array([(answers == each).mean() for each in present])
    recalls = np.array([(answers[labels == each] == each).mean() for each in present])
    deviation = np.sqrt((shares * (1 - shares) / counts).sum()) / len(present)
    return bool(recalls.mean() > shares.mean() + 2 * deviation)


def rank_by_margin(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Image indices (N,), by the margin of the best other class over the label."""
    own, _, likely = _rivals(probabilities, labels)
    order: np.ndarray = np.argsort(own - likely, kind="stable")
    return order


def _rivals(
    probabilities: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N,) each: probability of the label, best other class, and its probability."""
    rows, others = np.arange(len(labels)), probabilities.copy()
    others[rows, labels] = -1.0
    best = others.argmax(1)
    return probabilities[rows, labels], best, probabilities[rows, best]


def out_of_fold_probabilities(
    features: np.ndarray, labels: np.ndarray, groups: Sequence[str], classes: int, seed: int
) -> tuple[np.ndarray, float]:
    """Return out-of-fold probabilities (N, K) from features (N, D), and the chosen C."""
    targets = np.eye(classes)[labels]
    solution = solve(features, targets, _folds(labels, groups, seed), False)
    assert solution.out_of_fold is not None
    return solution.out_of_fold, solution.strength


def _folds(labels: np.ndarray, groups: Sequence[str], seed: int) -> np.ndarray:
    return group_folds([(str(label),) for label in labels], list(groups), FOLDS, seed)


@dataclass(frozen=True)
class Forecast:
    """Extrapolated learning curve.

    Attributes:
        points: Number of images and accuracy at each share of the data.
        extra: Number of additional images.
        score: Expected accuracy with `extra` more images.
        curve: a, b, c of a - b * images ** -c; None if no power law fits.
    """

    points: list[tuple[int, Score]]
    extra: int
    score: Score | None
    curve: tuple[float, float, float] | None


def extrapolate_accuracy(
    features: np.ndarray,
    labels: np.ndarray,
    groups: Sequence[str],
    classes: int,
    strength: float,
    more: int,
    seed: int,
) -> Forecast:
    """Extrapolate accuracy to `more` images by a power law (Hestness et al. 2017).

    The curve is fitted to cross-validated classifiers on shares of the data. The interval is that
    of the repetitions: over draws of images like these.
    """
    accuracies = {
        share: _fold_accuracies(features, labels, groups, classes, strength, share, seed)
        for share in SHARES
    }
    used = {share: values for share, values in accuracies.items() if len(values) > 1}
    points = [
        (round(share * (1 - 1 / FOLDS) * len(labels)), _score(values, len(labels)))
        for share, values in used.items()
    ]
    if len(points) < 3:
        return Forecast(points, more, None, None)
    sizes = np.array([count for count, _ in points], dtype=float)
    curves = [
        _fit_power_law(sizes, np.array([values[draw % len(values)] for values in used.values()]))
        for draw in range(FOLDS * REPEATS)
    ]
    curve = _fit_power_law(sizes, np.array([score.value for _, score in points]))
    ends = np.array([_power_law(each, sizes[-1] + more) for each in curves if each is not None])
    if curve is None or len(ends) < FOLDS:
        return Forecast(points, more, None, None)
    value = _power_law(curve, sizes[-1] + more)
    low, high = np.quantile(ends, [0.025, 0.975])
    return Forecast(
        points,
        more,
        Score(value, min(float(low), value), max(float(high), value), len(labels)),
        curve,
    )


def _fold_accuracies(
    features: np.ndarray,
    labels: np.ndarray,
    groups: Sequence[str],
    classes: int,
    strength: float,
    share: float,
    seed: int,
) -> np.ndarray:
    """Accuracy of each fold and repetition; empty if a class has too few images at this share, or
    all belong together.
    """
    fewest = np.bincount(labels).min()
    if fewest * share * (1 - 1 / FOLDS) < _MIN_PER_CLASS / 2 or fewest < _MIN_PER_CLASS:
        return np.empty(0)
    targets, accuracies = np.eye(classes)[labels], []
    for repeat in range(REPEATS):
        rng = np.random.default_rng([seed, repeat])
        folds = _folds(labels, groups, seed + repeat)
        for fold in range(FOLDS):
            rest, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
            if not len(test) or len(np.unique(labels[rest])) < 2:
                continue  # few groups leave folds empty
            kept = np.concatenate(
                [_subsample(rest[labels[rest] == each], share, rng) for each in np.unique(labels)]
            )
            # fold 1 is predicted by a classifier fitted to fold 0
            parts = np.repeat([0, 1], [len(kept), len(test)])
            rows = np.concatenate([kept, test])
            probabilities = out_of_fold(features[rows], targets[rows], parts, strength, False)
            predicted = probabilities[parts == 1].argmax(1)
            accuracies.append(float((predicted == labels[test]).mean()))
    return np.array(accuracies)


def _subsample(indices: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    chosen: np.ndarray = rng.permutation(indices)[: max(1, round(share * len(indices)))]
    return chosen


def _score(accuracies: np.ndarray, count: int) -> Score:
    half = 1.96 * float(accuracies.std(ddof=1)) / len(accuracies) ** 0.5
    mean = float(accuracies.mean())
    return Score(mean, mean - half, mean + half, count)


def _fit_power_law(sizes: np.ndarray, values: np.ndarray) -> tuple[float, float, float] | None:
    """Fit a, b, c of a - b * size ** -c with 0 <= a <= 1 and b, c >= 0; None if that fails."""
    start = (min(0.99, float(values.max()) + 0.02), 1.0, 0.5)
    bounds = ([0, 0, 0.05], [1, 50, 3])
    fit = least_squares(
        lambda abc: abc[0] - abc[1] * sizes ** -abc[2] - values, start, bounds=bounds
    )
    return (float(fit.x[0]), float(fit.x[1]), float(fit.x[2])) if fit.success else None


def _power_law(curve: tuple[float, float, float], size: float) -> float:
    return float(curve[0] - curve[1] * size ** -curve[2])


def select_for_labeling(probabilities: np.ndarray, features: np.ndarray, count: int) -> list[int]:
    """Select unlabeled images to label next.

    Among the most uncertain images (by the margin of the two most probable classes), the one
    farthest from those already chosen is taken, one after the other.

    Args:
        probabilities: (N, K).
        features: (N, D).
        count: Number of images to select.

    Returns:
        Indices, first choice first.
    """
    ordered = np.sort(probabilities, 1)
    uncertain = np.argsort(ordered[:, -1] - ordered[:, -2], kind="stable")[: 5 * count]
    directions = _directions(features)
    chosen = [int(uncertain[0])]
    nearest = directions[uncertain] @ directions[chosen[0]]
    while len(chosen) < min(count, len(uncertain)):
        nearest[np.isin(uncertain, chosen)] = np.inf
        index = int(uncertain[nearest.argmin()])
        chosen.append(index)
        nearest = np.maximum(nearest, directions[uncertain] @ directions[index])
    return chosen


def _directions(features: np.ndarray) -> np.ndarray:
    """Features scaled to length 1."""
    norms = np.linalg.norm(features, axis=1, keepdims=True).clip(min=1e-12)
    directions: np.ndarray = features / norms
    return directions


def find_redundant(features: np.ndarray, min_cosine: float) -> list[tuple[int, int, float]]:
    """Find pairs of images with similar features.

    Args:
        features: (N, D).
        min_cosine: Cosine similarity from which a pair is redundant.

    Returns:
        Indices of both images, and their cosine, most similar first. Each image is at most once
        the second of a pair.
    """
    directions = _directions(features)
    pairs = []
    for index in range(1, len(features)):
        cosines = directions[:index] @ directions[index]
        best = int(cosines.argmax())
        if cosines[best] >= min_cosine:
            pairs.append((best, index, float(cosines[best])))
    return sorted(pairs, key=lambda pair: -pair[2])
