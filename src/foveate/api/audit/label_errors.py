"""What a trained network knows about its data: labels to doubt, images that teach nothing new, what more labels would bring.

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
_LEAST = 4  # images of a class in a share of the data: with fewer, folds lack the class


@dataclass(frozen=True)
class Doubt:
    """A label that the rest of the data speaks against. `place`: of the image; `other`: the class that is said instead; `given`,
    `chance`: the chances of both by a classifier that has not seen the image. `strong`: whether the other class is as likely as it
    is, on average, for images of that class, and likelier than the given one (confident learning, Northcutt et al. 2021)."""

    place: int
    other: int
    given: float
    chance: float
    strong: bool


def doubts(chances: np.ndarray, labels: np.ndarray, share: float = 0.1) -> list[Doubt]:
    """(N, K) out-of-fold chances, (N,) given classes -> the labels to look at: all strong doubts, and as many others as make up the
    `share` of the data, each kind by how far the other class lies above the given one."""
    own, best, likely = _rivals(chances, labels)
    limits = np.full(chances.shape[1], np.inf)
    present = np.unique(labels)
    limits[present] = [chances[labels == each, each].mean() for each in present]
    strong = (likely >= limits[best]) & (likely > own)
    order = np.lexsort((own - likely, ~strong))
    count = max(int(strong.sum()), round(share * len(labels)))
    chosen = order[:count].tolist()
    return [
        Doubt(row, int(best[row]), float(own[row]), float(likely[row]), bool(strong[row]))
        for row in chosen
    ]


def ranked(chances: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N,) places of all images, by how far the likeliest other class lies above the given one: the order to look in."""
    own, _, likely = _rivals(chances, labels)
    found: np.ndarray = np.argsort(own - likely, kind="stable")
    return found


def _rivals(chances: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N,) each: the chance of the given class, the likeliest other one, and its chance."""
    rows, others = np.arange(len(labels)), chances.copy()
    others[rows, labels] = -1.0
    best = others.argmax(1)
    return chances[rows, labels], best, chances[rows, best]


def known(
    features: np.ndarray, labels: np.ndarray, groups: Sequence[str], classes: int, seed: int
) -> tuple[np.ndarray, float]:
    """Features (N, D) -> chances (N, K), each by a classifier on the other folds, no group divided; and its penalty's C."""
    targets = np.eye(classes)[labels]
    found = solve(features, targets, _folds(labels, groups, seed), False)
    assert found.out_of_fold is not None
    return found.out_of_fold, found.strength


def _folds(labels: np.ndarray, groups: Sequence[str], seed: int) -> np.ndarray:
    return group_folds([(str(label),) for label in labels], list(groups), FOLDS, seed)


@dataclass(frozen=True)
class Forecast:
    """`points`: images and accuracy at each share of the data; `score`: the accuracy that `more` further images would bring.
    `curve`: a, b and c of a - b * images ** -c; None where the points do not fall so."""

    points: list[tuple[int, Score]]
    more: int
    score: Score | None
    curve: tuple[float, float, float] | None


def forecast(
    features: np.ndarray,
    labels: np.ndarray,
    groups: Sequence[str],
    classes: int,
    strength: float,
    more: int,
    seed: int,
) -> Forecast:
    """Accuracy against the number of images, by classifiers on shares of the data in cross-validation, and where a power law
    through it leads (Hestness et al. 2017). The interval is that of the repetitions: over draws of images like these."""
    drawn = {
        share: _accuracies(features, labels, groups, classes, strength, share, seed)
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
        _power(sizes, np.array([found[place % len(found)] for found in used.values()]))
        for place in range(FOLDS * REPEATS)
    ]
    curve = _power(sizes, np.array([score.value for _, score in points]))
    ends = np.array([_at(each, sizes[-1] + more) for each in curves if each is not None])
    if curve is None or len(ends) < FOLDS:
        return Forecast(points, more, None, None)
    value = _at(curve, sizes[-1] + more)
    low, high = np.quantile(ends, [0.025, 0.975])
    return Forecast(
        points,
        more,
        Score(value, min(float(low), value), max(float(high), value), len(labels)),
        curve,
    )


def _accuracies(
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
    if fewest * share * (1 - 1 / FOLDS) < _LEAST / 2 or fewest < _LEAST:
        return np.empty(0)
    targets, found = np.eye(classes)[labels], []
    for repeat in range(REPEATS):
        rng = np.random.default_rng([seed, repeat])
        folds = _folds(labels, groups, seed + repeat)
        for fold in range(FOLDS):
            rest = np.flatnonzero(folds != fold)
            kept = np.concatenate(
                [_some(rest[labels[rest] == each], share, rng) for each in np.unique(labels)]
            )
            marks = np.concatenate([np.zeros(len(kept), int), np.ones((folds == fold).sum(), int)])
            places = np.concatenate([kept, np.flatnonzero(folds == fold)])
            chances = out_of_fold(features[places], targets[places], marks, strength, False)[
                marks == 1
            ]
            found.append(float((chances.argmax(1) == labels[places][marks == 1]).mean()))
    return np.array(found)


def _some(places: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    found: np.ndarray = rng.permutation(places)[: max(1, round(share * len(places)))]
    return found


def _score(found: np.ndarray, count: int) -> Score:
    spread = 1.96 * found.std(ddof=1) / np.sqrt(len(found))
    mean = float(found.mean())
    return Score(mean, mean - float(spread), mean + float(spread), count)


def _power(sizes: np.ndarray, values: np.ndarray) -> tuple[float, float, float] | None:
    """a, b, c of a - b * size ** -c with 0 <= a <= 1 and b, c >= 0; None where no such curve is found."""
    start = (min(0.99, float(values.max()) + 0.02), 1.0, 0.5)
    bounds = ([0, 0, 0.05], [1, 50, 3])
    found = least_squares(
        lambda asked: asked[0] - asked[1] * sizes ** -asked[2] - values, start, bounds=bounds
    )
    return (float(found.x[0]), float(found.x[1]), float(found.x[2])) if found.success else None


def _at(curve: tuple[float, float, float], size: float) -> float:
    return float(curve[0] - curve[1] * size ** -curve[2])


def worth_labelling(chances: np.ndarray, features: np.ndarray, count: int) -> list[int]:
    """Places of images without labels to label next: of the least sure (by the margin of the two likeliest classes), one after the
    other the one that lies farthest from those already chosen."""
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


def redundant(features: np.ndarray, alike: float) -> list[tuple[int, int, float]]:
    """Pairs of images, the most alike first, whose features point the same way by a cosine of at least `alike`; each image stands
    once as the second of a pair."""
    directions = _directions(features)
    found = []
    for place in range(1, len(features)):
        cosines = directions[:place] @ directions[place]
        best = int(cosines.argmax())
        if cosines[best] >= alike:
            found.append((best, place, float(cosines[best])))
    return sorted(found, key=lambda pair: -pair[2])
