"""A linear classifier solved on fixed features: logistic regression with its regularisation cross-validated.

Letters: N images, D width of a feature, R <= min(N, D) directions that the features span, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from threadpoolctl import threadpool_limits

STRENGTHS = tuple(
    10.0**power for power in (-5, -4, -3.5, -3, -2.5, -2, -1.5, -1, 0)
)  # C of scikit-learn, strongest penalty first
_ITERATIONS = 1000
_TOLERANCE = 3e-5  # of the gradient, where each direction counts by the root of its curvature
_FLAT = 1e-3  # a curvature below is taken for this
_FOLDS = 5
_AT_ONCE = 4096  # images
_NOTHING = 1e-10  # of the largest square: below, a direction is rounding

Plane = tuple[np.ndarray, np.ndarray]  # (K, R) coefficients and (K,) bias


@dataclass(frozen=True)
class LabeledFeatures:
    """Training images as a frozen backbone describes them. `features`: (N, D) float32. `targets`: (N, K) in {0, 1}. `folds`: (N,)
    int, by which settings are chosen: no group is in two. `multilabel`: whether several classes may hold at once."""

    features: np.ndarray
    targets: np.ndarray
    folds: np.ndarray
    multilabel: bool = False

    @cached_property
    def turned(self) -> Turned:
        return turned(self.features)

    @cached_property
    def solution(self) -> Solution:
        return solve(self.turned, self.targets, self.folds, self.multilabel)


@dataclass(frozen=True)
class Solution:
    """`weight` (K, D) and `bias` (K,) act on features minus `middle` (D,), over `scale` (D,). `strength`: the C that was
    chosen. `tried`: C -> log loss. `left_out`: (N, K) chances of each image by a classifier that was solved without its fold; None
    where the classifier is no such one."""

    middle: np.ndarray
    scale: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    strength: float
    tried: dict[float, float]
    left_out: np.ndarray | None = None


@dataclass(frozen=True)
class Turned:
    """Features, standardised and turned into the R directions that they span: a penalty on lengths does not see a rotation, and the
    work is smaller. `rows`: (N, R) float32. `turn`: (R, N) over the `standard` features (N, D), or (R, D) where there are none."""

    middle: np.ndarray
    scale: np.ndarray
    rows: np.ndarray
    turn: np.ndarray
    standard: np.ndarray | None

    def back(self, coefficients: np.ndarray) -> np.ndarray:
        """(K, R) -> (K, D), on standardised features."""
        found = coefficients @ self.turn
        return np.asarray(found if self.standard is None else found @ self.standard)

    def forth(self, weight: np.ndarray) -> np.ndarray:
        """(K, D), on standardised features -> (K, R): what `back` undoes."""
        return np.asarray(
            (weight if self.standard is None else weight @ self.standard.T) @ self.turn.T
        )


def turned(features: np.ndarray) -> Turned:
    """Features (N, D), as `solve` and `out_of_fold` want them; made once where several ask. Exact: directions of no length are left
    out. Through the smaller of the two matrices of inner products, because D may be twenty times N."""
    middle, scale = _standard(features)
    if len(features) < features.shape[1]:
        standard = (features - middle) / scale
        exact = standard.astype(np.float64)
        squares, axes = _directions(exact @ exact.T)
        return Turned(
            middle,
            scale,
            (axes * np.sqrt(squares)).astype(np.float32),
            (axes / np.sqrt(squares)).T,
            standard,
        )

    def parts() -> Iterator[np.ndarray]:
        """Standardised and exact, some images at a time: of all at once they would be three times the features."""
        for start in range(0, len(features), _AT_ONCE):
            yield ((features[start : start + _AT_ONCE] - middle) / scale).astype(np.float64)

    _, axes = _directions(sum(part.T @ part for part in parts()))
    return Turned(
        middle,
        scale,
        np.concatenate([(part @ axes).astype(np.float32) for part in parts()]),
        axes.T,
        None,
    )


def _directions(products: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The squares and the axes of a matrix of inner products that have a length."""
    squares, axes = np.linalg.eigh(products)
    real = squares > _NOTHING * squares[-1]
    return squares[real], axes[:, real]


def solve(
    features: np.ndarray | Turned, targets: np.ndarray, folds: np.ndarray, multilabel: bool
) -> Solution:
    """features (N, D) float32, targets (N, K) in {0, 1}, folds (N,) int -> the classifier of least cross-validated log loss."""
    known = features if isinstance(features, Turned) else turned(features)
    paths = _paths(known.rows, targets, folds, multilabel)
    tried = _cross_validated(known.rows, targets, folds, multilabel, paths)
    strength = min(tried, key=lambda c: (tried[c], c))
    solved = {fold: path[STRENGTHS.index(strength)] for fold, path in paths.items()}
    begun = _mean(list(solved.values())) if solved else None
    coefficients, bias = _fitted(known.rows, targets, [strength], multilabel, begun)[0]
    weight = known.back(coefficients).astype(np.float32)
    left_out = _left_out(known.rows, targets, folds, strength, multilabel, solved, begun)
    return Solution(
        known.middle, known.scale, weight, bias.astype(np.float32), strength, tried, left_out
    )


def out_of_fold(
    features: np.ndarray | Turned,
    targets: np.ndarray,
    folds: np.ndarray,
    strength: float,
    multilabel: bool,
    near: Solution | None = None,
) -> np.ndarray:
    """(N, K) probabilities of each image by a classifier that was solved without the image's fold. `near`: of the same features
    and strength, over all images: where to begin, which is all that it can change."""
    known = features if isinstance(features, Turned) else turned(features)
    begun = None if near is None else (known.forth(near.weight), near.bias)
    return _left_out(known.rows, targets, folds, strength, multilabel, {}, begun)


def _left_out(
    rows: np.ndarray,
    targets: np.ndarray,
    folds: np.ndarray,
    strength: float,
    multilabel: bool,
    solved: dict[int, Plane],
    begun: Plane | None,
) -> np.ndarray:
    """As `out_of_fold`; `solved`: fold -> the classifier without it, where it is known."""
    answers = np.zeros(targets.shape)
    for fold in np.unique(folds).tolist():
        left = folds != fold
        plane = (
            solved.get(fold) or _fitted(rows[left], targets[left], [strength], multilabel, begun)[0]
        )
        answers[~left] = _answers(rows[~left], plane, multilabel)
    return answers


def _answers(rows: np.ndarray, plane: Plane, multilabel: bool) -> np.ndarray:
    """(N, K) chances."""
    return _probabilities(rows @ plane[0].T + plane[1], multilabel)


def _mean(planes: list[Plane]) -> Plane:
    weights, biases = zip(*planes, strict=True)
    return np.mean(weights, axis=0), np.mean(biases, axis=0)


def _standard(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(D,) means and (D,) scales: the root of the feature's variance and that of the middle feature. Plain deviations would
    stretch what hardly varies here a thousandfold, and a picture of another kind, or a backbone that moves, with it."""
    spread = features.std(0)
    return features.mean(0), np.sqrt(spread**2 + np.median(spread) ** 2) + 1e-6


def _paths(
    rows: np.ndarray, targets: np.ndarray, folds: np.ndarray, multilabel: bool
) -> dict[int, list[Plane]]:
    """Fold -> the classifiers of all strengths without it, of as many folds as are asked, and where anything can be learnt."""
    kept = [fold for fold in np.unique(folds).tolist() if _teachable(targets[folds != fold])][
        :_FOLDS
    ]
    return {
        fold: _fitted(rows[folds != fold], targets[folds != fold], list(STRENGTHS), multilabel)
        for fold in kept
    }


def _cross_validated(
    rows: np.ndarray,
    targets: np.ndarray,
    folds: np.ndarray,
    multilabel: bool,
    paths: dict[int, list[Plane]],
) -> dict[float, float]:
    """C -> mean log loss over left-out images."""
    if not paths:
        return {1e-2: float("nan")}
    losses = np.zeros(len(STRENGTHS))
    for fold, path in paths.items():
        asked = folds == fold
        found = [
            _log_loss(_answers(rows[asked], plane, multilabel), targets[asked], multilabel)
            for plane in path
        ]
        losses += np.array(found) * asked.sum()
    count = int(np.isin(folds, list(paths)).sum())
    return {c: float(loss / count) for c, loss in zip(STRENGTHS, losses, strict=True)}


def _teachable(targets: np.ndarray) -> bool:
    return bool((targets.sum(0) > 0).sum() > 1)


def _fitted(
    rows: np.ndarray,
    targets: np.ndarray,
    strengths: list[float],
    multilabel: bool,
    begun: Plane | None = None,
) -> list[Plane]:
    """(K, R) coefficients and (K,) bias for each C in turn, each started from the one before, the first from what was `begun`."""
    found = targets.sum(0) > 0
    if multilabel:
        asked = found & (
            targets.sum(0) < len(targets)
        )  # a label that all images share, or none has, is no question
        paths = _path(rows, targets[:, asked], strengths, True, _part(begun, asked))
        return [_placed(path, asked, np.where(found, 20.0, -20.0)) for path in paths]
    if found.sum() == 2:  # two classes are one question
        second = _path(
            rows, targets[:, found][:, 1:], strengths, True, _difference(_part(begun, found))
        )
        paths = [
            (np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2)
            for weight, bias in second
        ]
    else:
        paths = _path(rows, targets[:, found], strengths, False, _part(begun, found))
    return [
        _placed(path, found, np.full(len(found), -20.0)) for path in paths
    ]  # a class without images gets a hopeless bias


def _part(begun: Plane | None, classes: np.ndarray) -> Plane | None:
    return begun and (begun[0][classes], begun[1][classes])


def _difference(begun: Plane | None) -> Plane | None:
    """Of two classes, what speaks for the second."""
    return begun and (begun[0][1:] - begun[0][:1], begun[1][1:] - begun[1][:1])


def _placed(path: Plane, where: np.ndarray, bias: np.ndarray) -> Plane:
    """Rows for all K classes, of which `where` were solved."""
    every, shift = np.zeros((len(where), path[0].shape[1])), bias.copy()
    every[where], shift[where] = path
    return every, shift


def _path(
    rows: np.ndarray, targets: np.ndarray, strengths: list[float], apart: bool, begun: Plane | None
) -> list[Plane]:
    """Least mean log loss + |weight|^2 / (2 C N) by L-BFGS, for each C; of a softmax, or of columns that hold or not, `apart`.

    The steps are taken where each direction counts by the root of its curvature: lengths of directions differ a hundred
    thousandfold, and the way down is twenty times as long otherwise (docs/log.md).
    """
    from scipy.optimize import minimize

    if not targets.shape[1]:
        return [(np.empty((0, rows.shape[1])), np.empty(0))] * len(strengths)
    squares = np.einsum("nr,nr->r", rows, rows, dtype=np.float64)[:, None] / len(rows)
    weight, bias = (
        (begun[0].T, begun[1])
        if begun
        else (np.zeros((rows.shape[1], targets.shape[1])), np.zeros(targets.shape[1]))
    )
    found: list[Plane] = []
    with threadpool_limits(1):  # products this small lose more to waiting threads than they gain
        for strength in strengths:
            penalty = 1 / (strength * len(rows))
            chances = _probabilities(rows @ weight.astype(rows.dtype) + bias, apart)
            curvature = np.maximum((chances * (1 - chances)).mean(0), _FLAT)
            units = np.concatenate(
                [1 / np.sqrt(curvature * squares + penalty), 1 / np.sqrt(curvature)[None]]
            )
            start = (np.concatenate([weight, bias[None]]) / units).ravel()
            how = {"maxiter": _ITERATIONS, "gtol": _TOLERANCE, "maxls": 50}
            end = minimize(
                _loss,
                start,
                (rows, targets, penalty, units, apart),
                "L-BFGS-B",
                jac=True,
                options=how,
            )
            at = end.x.reshape(units.shape) * units
            weight, bias = at[:-1], at[-1]
            found.append((weight.T, bias))
    return found


def _loss(
    place: np.ndarray,
    rows: np.ndarray,
    targets: np.ndarray,
    penalty: float,
    units: np.ndarray,
    apart: bool,
) -> tuple[float, np.ndarray]:
    """The penalised loss at a place that is measured in `units`, (R + 1, K) with the bias last, and its gradient."""
    at = place.reshape(units.shape) * units
    loss, chances = _judged(rows @ at[:-1].astype(rows.dtype) + at[-1], targets, apart)
    errors = (chances - targets) / len(rows)
    gradient = np.concatenate(
        [rows.T @ errors.astype(rows.dtype) + penalty * at[:-1], errors.sum(0)[None]]
    )
    return loss + penalty / 2 * float((at[:-1] ** 2).sum()), (gradient * units).ravel()


def _judged(logits: np.ndarray, targets: np.ndarray, apart: bool) -> tuple[float, np.ndarray]:
    """Mean log loss of an image, from logits, because chances of 0 would be infinite; and the chances."""
    if apart:
        each, chances = np.logaddexp(0, logits).sum(1), _probabilities(logits, True)
    else:  # what scipy's softmax and logsumexp would both compute, and twice as slowly
        most = logits.max(1, keepdims=True)
        shares = np.exp(logits - most)
        total = shares.sum(1, keepdims=True)
        each, chances = (np.log(total) + most)[:, 0], shares / total
    return float((each - (targets * logits).sum(1)).mean()), chances


def _probabilities(logits: np.ndarray, multilabel: bool) -> np.ndarray:
    from scipy.special import expit, softmax

    return np.asarray(expit(logits) if multilabel else softmax(logits, axis=1))


def _log_loss(answers: np.ndarray, targets: np.ndarray, multilabel: bool) -> float:
    answers = np.clip(answers, 1e-7, 1 - 1e-7)
    loss = -(targets * np.log(answers)).sum(1)
    if multilabel:
        loss -= ((1 - targets) * np.log(1 - answers)).sum(1)
    return float(loss.mean())
