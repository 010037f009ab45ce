"""A linear classifier solved on fixed features: logistic regression with its regularisation cross-validated.

Letters: N images, D width of a feature, R <= min(N, D) directions that the features span, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from threadpoolctl import threadpool_limits

STRENGTHS = tuple(10.0**power for power in (-5, -4, -3.5, -3, -2.5, -2, -1.5, -1, 0))  # C of scikit-learn, strongest penalty first
_ITERATIONS = 1000
_TOLERANCE = 3e-5  # of the gradient, where each direction counts by the root of its curvature
_FLAT = 1e-3  # a curvature below is taken for this
_FOLDS = 5
_NOTHING = 1e-10  # of the largest square: below, a direction is rounding


@dataclass(frozen=True)
class Known:
    """Training images as a frozen backbone describes them. `features`: (N, D) float32. `targets`: (N, K) in {0, 1}. `folds`: (N,)
    int, by which settings are chosen: no group is in two. `multilabel`: whether several classes may hold at once."""

    features: np.ndarray
    targets: np.ndarray
    folds: np.ndarray
    multilabel: bool = False

    @cached_property
    def turned(self) -> Turned:
        return turned(self.features)


@dataclass(frozen=True)
class Solution:
    """`weight` (K, D) and `bias` (K,) act on features minus `middle` (D,), over `scale` (D,). `strength`: the C that was
    chosen. `tried`: C -> log loss."""

    middle: np.ndarray
    scale: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    strength: float
    tried: dict[float, float]


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


def turned(features: np.ndarray) -> Turned:
    """Features (N, D), as `solve` and `out_of_fold` want them; made once where several ask."""
    middle, scale = _standard(features)
    standard = (features - middle) / scale
    return Turned(middle, scale, *_rotated(standard))


def solve(features: np.ndarray | Turned, targets: np.ndarray, folds: np.ndarray, multilabel: bool) -> Solution:
    """features (N, D) float32, targets (N, K) in {0, 1}, folds (N,) int -> the classifier of least cross-validated log loss."""
    known = features if isinstance(features, Turned) else turned(features)
    tried = _cross_validated(known.rows, targets, folds, multilabel)
    strength = min(tried, key=lambda c: (tried[c], c))
    path = [c for c in STRENGTHS if c <= strength]
    coefficients, bias = _fitted(known.rows, targets, path, multilabel)[-1]
    weight = known.back(coefficients)
    return Solution(known.middle, known.scale, weight.astype(np.float32), bias.astype(np.float32), strength, tried)


def out_of_fold(
    features: np.ndarray | Turned, targets: np.ndarray, folds: np.ndarray, strength: float, multilabel: bool
) -> np.ndarray:
    """(N, K) probabilities of each image by a classifier that was solved without the image's fold."""
    rows = (features if isinstance(features, Turned) else turned(features)).rows
    answers = np.zeros(targets.shape)
    for fold in np.unique(folds):
        left = folds != fold
        coefficients, bias = _fitted(rows[left], targets[left], [strength], multilabel)[0]
        answers[~left] = _probabilities(rows[~left] @ coefficients.T + bias, multilabel)
    return answers


def _standard(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(D,) means and (D,) scales: the root of the feature's variance and that of the middle feature. Plain deviations would
    stretch what hardly varies here a thousandfold, and a picture of another kind, or a backbone that moves, with it."""
    spread = features.std(0)
    return features.mean(0), np.sqrt(spread**2 + np.median(spread) ** 2) + 1e-6


def _rotated(standard: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """(N, D) -> coordinates (N, R), the turn, and the features where it is over them. Exact: directions of no length are left out.

    Through the smaller of the two matrices of inner products, because D may be twenty times N.
    """
    count, width = standard.shape
    exact = standard.astype(np.float64)
    squares, axes = np.linalg.eigh(exact @ exact.T if count < width else exact.T @ exact)
    real = squares > _NOTHING * squares[-1]
    axes, lengths = axes[:, real], np.sqrt(squares[real])
    if count < width:
        return (axes * lengths).astype(np.float32), (axes / lengths).T, standard
    return (exact @ axes).astype(np.float32), axes.T, None


def _cross_validated(features: np.ndarray, targets: np.ndarray, folds: np.ndarray, multilabel: bool) -> dict[float, float]:
    """C -> mean log loss over left-out images."""
    kept = [fold for fold in np.unique(folds) if _teachable(targets[folds != fold])][:_FOLDS]
    if not kept:
        return {1e-2: float("nan")}
    losses = np.zeros(len(STRENGTHS))
    for fold in kept:
        left = folds != fold
        for place, (coefficients, bias) in enumerate(_fitted(features[left], targets[left], list(STRENGTHS), multilabel)):
            answers = _probabilities(features[~left] @ coefficients.T + bias, multilabel)
            losses[place] += _log_loss(answers, targets[~left], multilabel) * (~left).sum()
    count = sum(int((folds == fold).sum()) for fold in kept)
    return {c: float(loss / count) for c, loss in zip(STRENGTHS, losses, strict=True)}


def _teachable(targets: np.ndarray) -> bool:
    return bool((targets.sum(0) > 0).sum() > 1)


def _fitted(rows: np.ndarray, targets: np.ndarray, strengths: list[float], multilabel: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """(K, R) coefficients and (K,) bias for each C in turn, each started from the one before."""
    found = targets.sum(0) > 0
    if multilabel:
        asked = found & (targets.sum(0) < len(targets))  # a label that all images share, or none has, is no question
        paths = _path(rows, targets[:, asked], strengths, True)
        return [_placed(path, asked, np.where(found, 20.0, -20.0)) for path in paths]
    if found.sum() == 2:  # two classes are one question
        second = _path(rows, targets[:, found][:, 1:], strengths, True)
        paths = [(np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2) for weight, bias in second]
    else:
        paths = _path(rows, targets[:, found], strengths, False)
    return [_placed(path, found, np.full(len(found), -20.0)) for path in paths]  # a class without images gets a hopeless bias


def _placed(path: tuple[np.ndarray, np.ndarray], where: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows for all K classes, of which `where` were solved."""
    every, shift = np.zeros((len(where), path[0].shape[1])), bias.copy()
    every[where], shift[where] = path
    return every, shift


def _path(rows: np.ndarray, targets: np.ndarray, strengths: list[float], apart: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """Least mean log loss + |weight|^2 / (2 C N) by L-BFGS, for each C; of a softmax, or of columns that hold or not, `apart`.

    The steps are taken where each direction counts by the root of its curvature: lengths of directions differ a hundred
    thousandfold, and the way down is twenty times as long otherwise (docs/log.md).
    """
    from scipy.optimize import minimize

    if not targets.shape[1]:
        return [(np.empty((0, rows.shape[1])), np.empty(0))] * len(strengths)
    squares = np.einsum("nr,nr->r", rows, rows, dtype=np.float64)[:, None] / len(rows)
    weight, bias, found = np.zeros((rows.shape[1], targets.shape[1])), np.zeros(targets.shape[1]), []
    with threadpool_limits(1):  # products this small lose more to waiting threads than they gain
        for strength in strengths:
            penalty = 1 / (strength * len(rows))
            chances = _probabilities(rows @ weight.astype(rows.dtype) + bias, apart)
            curvature = np.maximum((chances * (1 - chances)).mean(0), _FLAT)
            units = np.concatenate([1 / np.sqrt(curvature * squares + penalty), 1 / np.sqrt(curvature)[None]])
            start = (np.concatenate([weight, bias[None]]) / units).ravel()
            how = {"maxiter": _ITERATIONS, "gtol": _TOLERANCE, "maxls": 50}
            end = minimize(_loss, start, (rows, targets, penalty, units, apart), "L-BFGS-B", jac=True, options=how)
            at = end.x.reshape(units.shape) * units
            weight, bias = at[:-1], at[-1]
            found.append((weight.T, bias))
    return found


def _loss(
    place: np.ndarray, rows: np.ndarray, targets: np.ndarray, penalty: float, units: np.ndarray, apart: bool
) -> tuple[float, np.ndarray]:
    """The penalised loss at a place that is measured in `units`, (R + 1, K) with the bias last, and its gradient."""
    at = place.reshape(units.shape) * units
    logits = rows @ at[:-1].astype(rows.dtype) + at[-1]
    errors = (_probabilities(logits, apart) - targets) / len(rows)
    gradient = np.concatenate([rows.T @ errors.astype(rows.dtype) + penalty * at[:-1], errors.sum(0)[None]])
    return _mean_loss(logits, targets, apart) + penalty / 2 * float((at[:-1] ** 2).sum()), (gradient * units).ravel()


def _mean_loss(logits: np.ndarray, targets: np.ndarray, apart: bool) -> float:
    """Mean log loss of an image, from logits: chances of 0 would be infinite."""
    from scipy.special import logsumexp

    each = np.logaddexp(0, logits).sum(1) if apart else logsumexp(logits, axis=1)
    return float((each - (targets * logits).sum(1)).mean())


def _probabilities(logits: np.ndarray, multilabel: bool) -> np.ndarray:
    from scipy.special import expit, softmax

    return np.asarray(expit(logits) if multilabel else softmax(logits, axis=1))


def _log_loss(answers: np.ndarray, targets: np.ndarray, multilabel: bool) -> float:
    answers = np.clip(answers, 1e-7, 1 - 1e-7)
    loss = -(targets * np.log(answers)).sum(1)
    if multilabel:
        loss -= ((1 - targets) * np.log(1 - answers)).sum(1)
    return float(loss.mean())
