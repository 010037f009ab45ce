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
SHARES = (0.25, 0.5, 0.75, 1.0)  # of the data, on which a forecast stands
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
            probable as
            on average for images of that class.
    """

    index: int
    suggested: int
    label_probability: float
    suggested_probability: float
    strong: bool


def find_label_issues(
    probabilities: np.ndarray, labels: np.ndarray, share: float = 0.1
) -> list[LabelIssue]:
    """Labels to review.

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
    """Out-of-fold probabilities (N, K) from features (N, D), by group folds, and the chosen C."""
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
    drawn = {
        share: _fold_accuracies(features, labels, groups, classes, strength, share, seed)
        for share in SHARES
    }
    used = {share: found for share, found in drawn.items() if len(found)}
    points = [
        (round(share * (1 - 1 / FOLDS) * len(labels)), _score(found, len(labels)))
        for share, found in used.items()
    ]
    if len(points) < 3:
        return Forecast(points, more, None, None)
    sizes = np.array([count for count, _ in points], dtype=float)
    curves = [
        _fit_power_law(sizes, np.array([found[place % len(found)] for found in used.values()]))
        for place in range(FOLDS * REPEATS)
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
    """Of each fold of each repetition; empty where a class has too few images at this share."""
    fewest = np.bincount(labels).min()
    if fewest * share * (1 - 1 / FOLDS) < _MIN_PER_CLASS / 2 or fewest < _MIN_PER_CLASS:
        return np.empty(0)
    targets, found = np.eye(classes)[labels], []
    for repeat in range(REPEATS):
        rng = np.random.default_rng([seed, repeat])
        folds = _folds(labels, groups, seed + repeat)
        for fold in range(FOLDS):
            rest = np.flatnonzero(folds != fold)
            kept = np.concatenate(
                [_subsample(rest[labels[rest] == each], share, rng) for each in np.unique(labels)]
            )
            marks = np.concatenate([np.zeros(len(kept), int), np.ones((folds == fold).sum(), int)])
            places = np.concatenate([kept, np.flatnonzero(folds == fold)])
            chances = out_of_fold(features[places], targets[places], marks, strength, False)[
                marks == 1
            ]
            found.append(float((chances.argmax(1) == labels[places][marks == 1]).mean()))
    return np.array(found)


def _subsample(places: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    found: np.ndarray = rng.permutation(places)[: max(1, round(share * len(places)))]
    return found


def _score(found: np.ndarray, count: int) -> Score:
    spread = 1.96 * found.std(ddof=1) / np.sqrt(len(found))
    mean = float(found.mean())
    return Score(mean, mean - float(spread), mean + float(spread), count)


def _fit_power_law(sizes: np.ndarray, values: np.ndarray) -> tuple[float, float, float] | None:
    """a, b, c of a - b * size ** -c with 0 <= a <= 1 and b, c >= 0; None where no such curve is
    found.
    """
    start = (min(0.99, float(values.max()) + 0.02), 1.0, 0.5)
    bounds = ([0, 0, 0.05], [1, 50, 3])
    found = least_squares(
        lambda asked: asked[0] - asked[1] * sizes ** -asked[2] - values, start, bounds=bounds
    )
    return (float(found.x[0]), float(found.x[1]), float(found.x[2])) if found.success else None


def _power_law(curve: tuple[float, float, float], size: float) -> float:
    return float(curve[0] - curve[1] * size ** -curve[2])


def select_for_labeling(chances: np.ndarray, features: np.ndarray, count: int) -> list[int]:
    """Places of images without labels to label next: of the least sure (by the margin of the two
    likeliest classes), one after the other the one that lies farthest from those already chosen.
    """
    margins = np.sort(chances, 1)
    unsure = np.argsort(margins[:, -1] - margins[:, -2], kind="stable")[: 5 * count]
    directions = _directions(features)
    chosen = [int(unsure[0])]
    nearest = directions[unsure] @ directions[chosen[0]]
    while len(chosen) < min(count, len(unsure)):
        nearest[np.isin(unsure, chosen)] = np.inf
        place = int(unsure[nearest.argmin()])
        chosen.append(place)
        nearest = np.maximum(nearest, directions[unsure] @ directions[place])
    return chosen


def _directions(features: np.ndarray) -> np.ndarray:
    found: np.ndarray = features / np.linalg.norm(features, axis=1, keepdims=True).clip(min=1e-12)
    return found


def find_redundant(features: np.ndarray, alike: float) -> list[tuple[int, int, float]]:
    """Pairs of images, the most alike first, whose features point the same way by a cosine of at
    least `alike`; each image stands once as the second of a pair.
    """
    directions = _directions(features)
    found = []
    for place in range(1, len(features)):
        cosines = directions[:place] @ directions[place]
        best = int(cosines.argmax())
        if cosines[best] >= alike:
            found.append((best, place, float(cosines[best])))
    return sorted(found, key=lambda pair: -pair[2])
