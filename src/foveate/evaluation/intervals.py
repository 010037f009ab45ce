"""95 % confidence intervals: Wilson's for proportions, bootstraps for any other statistic."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

_Z = 1.959963984540054  # 97.5 % quantile of the normal distribution
_PERCENTILES = (2.5, 97.5)


def wilson(successes: float, count: int) -> tuple[float, float]:
    """Return the 95 % score interval of a proportion (Wilson 1927).

    It holds for few images and for proportions near 0 and 1, where the normal approximation fails.

    Args:
        successes: Number of successes, in [0, count].
        count: Number of trials. Without any, the interval is (0, 1).

    Returns:
        The lower and the upper end, both in [0, 1].
    """
    # scipy.stats.binomtest(...).proportion_ci(method="wilson") gives the same to 1e-15 (tested),
    # but needs 1 ms instead of 1 us, and calibration asks once per validation image.
    if count < 1:
        return 0.0, 1.0
    proportion, square = successes / count, _Z * _Z / count
    center = (proportion + square / 2) / (1 + square)
    radius = math.sqrt(square * (proportion * (1 - proportion) + square / 4)) / (1 + square)
    # exactly 0 and 1 at the ends, where rounding would leave 1e-17
    low = 0.0 if successes <= 0 else max(0.0, center - radius)
    high = 1.0 if successes >= count else min(1.0, center + radius)
    return low, high


def bootstrap(
    statistic: Callable[[np.ndarray], float], count: int, seed: int = 0, rounds: int = 400
) -> tuple[float, float]:
    """Return the 95 % percentile interval of a statistic over resamples of images (Efron 1979).

    Args:
        statistic: Function of the (count,) int64 indices in [0, count) of a resample, drawn with
            replacement. Rounds in which it is nan are skipped.
        count: Number of images.
        seed: Seed of the resamples.
        rounds: Number of resamples.

    Returns:
        The lower and the upper end; (nan, nan) when the statistic is nan in all rounds.

    Raises:
        ValueError: `count` or `rounds` is below 1.
    """
    return bootstraps(lambda indices: np.array([statistic(indices)]), count, seed, rounds)[0]


def bootstraps(
    statistics: Callable[[np.ndarray], np.ndarray], count: int, seed: int = 0, rounds: int = 400
) -> list[tuple[float, float]]:
    """Return the intervals of M statistics over the same resamples; otherwise as `bootstrap`.

    Args:
        statistics: As for `bootstrap`, returning (M,) floats.
        count: Number of images.
        seed: Seed of the resamples.
        rounds: Number of resamples.
    """
    # scipy.stats.bootstrap(method="percentile") draws the same resamples and gives the same ends
    # for one statistic, but returns nan where a single round is nan, and takes one statistic at a
    # time.
    if count < 1 or rounds < 1:
        raise ValueError(f"a bootstrap needs images and rounds, got {count} and {rounds}")
    rng = np.random.default_rng(seed)
    values = np.stack([statistics(rng.integers(0, count, count)) for _ in range(rounds)])
    return [_percentile_interval(column[~np.isnan(column)]) for column in values.T]


def two_sample_difference(
    first: Callable[[np.ndarray], float],
    second: Callable[[np.ndarray], float],
    counts: tuple[int, int],
    seed: int = 0,
    rounds: int = 1000,
) -> tuple[float, float]:
    """Return the 95 % percentile interval of `first` minus `second`.

    They are statistics of two independent sets of images, each of which is resampled by itself (the
    two-sample bootstrap, Efron & Tibshirani 1993, section 8.3).

    Args:
        first: Function of the indices of a resample of the first set, as for `bootstrap`.
        second: The same for the second set.
        counts: Number of images in each set.
        seed: Seed of the resamples.
        rounds: Number of resamples.
    """
    rng = np.random.default_rng(seed)
    pairs = [[rng.integers(0, count, count) for count in counts] for _ in range(rounds)]
    values = np.array([first(one) - second(other) for one, other in pairs])
    return _percentile_interval(values[~np.isnan(values)])


def paired_bootstrap(
    scores: np.ndarray, baseline: np.ndarray, seed: int = 0, rounds: int = 2000
) -> tuple[float, float, float]:
    """Return the mean of `scores` minus `baseline` and its 95 % bootstrap interval.

    Pairs are drawn: what makes an image hard for both counts for neither. Images with equal
    differences are interchangeable, so that a round only has to draw how often each difference
    occurs: one multinomial draw, whatever N is.

    Args:
        scores: (N,) scores of images.
        baseline: (N,) scores of the same images in the same order.
        seed: Seed of the resamples.
        rounds: Number of resamples.

    Returns:
        The mean, the lower and the upper end.

    Raises:
        ValueError: The shapes differ, or are not (N,) with N > 0.
    """
    if scores.shape != baseline.shape or scores.ndim != 1 or not len(scores):
        shapes = f"{scores.shape} and {baseline.shape}"
        raise ValueError(f"a paired bootstrap needs scores of the same images, got shapes {shapes}")
    differences = scores.astype(np.float64) - baseline.astype(np.float64)
    values, counts = np.unique(differences, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(len(scores), counts / len(scores), size=rounds)
    return float(differences.mean()), *_percentile_interval(draws @ values / len(scores))


def _percentile_interval(values: np.ndarray) -> tuple[float, float]:
    if not values.size:
        return math.nan, math.nan
    low, high = np.percentile(values, _PERCENTILES)
    return float(low), float(high)
