"""95 % intervals: Wilson's for shares, the bootstrap for everything else."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite, sqrt

import numpy as np

_Z = 1.959963984540054  # the 97.5 % point of the normal distribution


def wilson(successes: float, count: int) -> tuple[float, float]:
    """The interval of a share successes / count (Wilson 1927); (0, 1) for a count of 0."""
    if count == 0:
        return 0.0, 1.0
    share, weight = successes / count, _Z**2 / count
    middle = (share + weight / 2) / (1 + weight)
    half = _Z / (1 + weight) * sqrt(share * (1 - share) / count + weight / (4 * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def bootstrap(
    statistic: Callable[[np.ndarray], float], count: int, seed: int = 0, rounds: int = 400
) -> tuple[float, float] | tuple[None, None]:
    """The percentile interval (Efron 1979) of statistic(indices (count,) int64) over resampled images.

    Rounds whose statistic is undefined are left out; (None, None) when fewer than half are defined.
    """
    draw = np.random.default_rng(seed)
    values = [statistic(draw.integers(0, count, count)) for _ in range(rounds)]
    defined = [value for value in values if isfinite(value)]
    if len(defined) < rounds / 2:
        return None, None
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)
