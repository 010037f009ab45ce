"""How far a number can be trusted: 95 % intervals of shares and of anything that can be computed again on a resample."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

_Z = 1.959963984540054  # the 97.5 % quantile of the normal distribution
_ENDS = (2.5, 97.5)  # percent


def wilson(successes: float, count: int) -> tuple[float, float]:
    """The 95 % score interval of a share, `successes` of `count`, both ends in [0, 1] (Wilson 1927).

    Holds for few images and for shares near 0 and 1, where the textbook interval fails. Nothing counted: (0, 1).
    """
    if count < 1:
        return 0.0, 1.0
    share, square = successes / count, _Z * _Z / count
    middle = (share + square / 2) / (1 + square)
    reach = math.sqrt(square * (share * (1 - share) + square / 4)) / (1 + square)
    low = (
        0.0 if successes <= 0 else max(0.0, middle - reach)
    )  # exact where rounding would leave 1e-17
    high = 1.0 if successes >= count else min(1.0, middle + reach)
    return low, high


def bootstrap(
    statistic: Callable[[np.ndarray], float], count: int, seed: int = 0, rounds: int = 400
) -> tuple[float, float]:
    """The 95 % percentile interval of `statistic` over resamples of `count` images (Efron 1979).

    `statistic` is given (count,) int64 places in [0, count), drawn with replacement. Rounds in which it is nan are
    skipped; (nan, nan) when all are.
    """
    return bootstraps(lambda places: np.array([statistic(places)]), count, seed, rounds)[0]


def bootstraps(
    statistics: Callable[[np.ndarray], np.ndarray], count: int, seed: int = 0, rounds: int = 400
) -> list[tuple[float, float]]:
    """As `bootstrap`, for M statistics of the same resamples: `statistics` returns (M,) floats, the answer is M intervals."""
    if count < 1 or rounds < 1:
        raise ValueError(f"a bootstrap needs images and rounds, got {count} and {rounds}")
    draw = np.random.default_rng(seed)
    drawn = np.stack([statistics(draw.integers(0, count, count)) for _ in range(rounds)])
    return [_ends(column[~np.isnan(column)]) for column in drawn.T]


def two_sample_difference(
    one: Callable[[np.ndarray], float],
    other: Callable[[np.ndarray], float],
    counts: tuple[int, int],
    seed: int = 0,
    rounds: int = 1000,
) -> tuple[float, float]:
    """The 95 % percentile interval of `one` minus `other`, statistics of two independent sets of `counts` images, each resampled
    for itself (the two-sample bootstrap, Efron & Tibshirani 1993, section 8.3)."""
    draw = np.random.default_rng(seed)
    pairs = [[draw.integers(0, count, count) for count in counts] for _ in range(rounds)]
    drawn = np.array([one(first) - other(second) for first, second in pairs])
    return _ends(drawn[~np.isnan(drawn)])


def paired_bootstrap(
    ours: np.ndarray, theirs: np.ndarray, seed: int = 0, rounds: int = 2000
) -> tuple[float, float, float]:
    """Mean of `ours` minus `theirs`, (N,) scores of the same images in the same order, and the 95 % ends of its bootstrap.

    Pairs are drawn: what makes an image hard for both counts for neither. Images of equal differences are alike, so that only
    how often each difference is drawn has to be: a multinomial draw a round, whatever N is. Raises ValueError for other shapes.
    """
    if ours.shape != theirs.shape or ours.ndim != 1 or not len(ours):
        raise ValueError(
            f"a paired bootstrap needs scores of the same images, got shapes {ours.shape} and {theirs.shape}"
        )
    differences = ours.astype(np.float64) - theirs.astype(np.float64)
    values, counts = np.unique(differences, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(ours), counts / len(ours), size=rounds)
    return float(differences.mean()), *_ends(drawn @ values / len(ours))


def _ends(values: np.ndarray) -> tuple[float, float]:
    if not values.size:
        return math.nan, math.nan
    low, high = np.percentile(values, _ENDS)
    return float(low), float(high)
