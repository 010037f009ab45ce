"""95 % confidence intervals over images, or over groups of images that belong together.

Images of one patient or video, and near-copies, are right or wrong together: what varies by chance
are the groups. All intervals here are therefore over *units*: groups where there are any, images
where there are none.

- Shares of independent images have Wilson's score interval.
- Anything else is left out unit by unit (the jackknife; Efron & Stein 1981), which gives a standard
  error, and with it an interval of Student's t on a scale where the number is nearly normal (log
  odds of a share, logarithm of an error). Its degrees of freedom fall where few units carry the
  number; see `degrees_of_freedom` and `freedom_of_classes`.
- Where no interval can be expected to hold, there is none, and the score says why.

How often they hold the true value is simulated in `bench/intervals.py`.

Letters: N images, U units, B blocks of units, K classes, M numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from foveate.predictions import NoInterval
from foveate.types import Score

MIN_UNITS = 5  # below it, nothing but a share of independent images has an interval
_Z = 1.959963984540054  # 97.5 % quantile of the normal distribution
MIN_FREEDOM = 3.0  # of classes: a class of three images beside a frequent one has 2.8, of four 4.0
_BLOCKS = 250  # the standard error of more units is estimated from this many blocks of them
_CONSTANT = 1e-9  # numbers that differ by less, relatively, are the same but for rounding


def wilson(successes: float, count: float, quantile: float = _Z) -> tuple[float, float]:
    """Return the 95 % score interval of a proportion (Wilson 1927).

    It holds for few images and for proportions near 0 and 1, where the normal approximation fails.

    Args:
        successes: Number of successes, in [0, count].
        count: Number of trials, or an effective number. Below one, the interval is (0, 1).
        quantile: In standard errors, for another distribution than the normal one.

    Returns:
        The lower and the upper end, both in [0, 1].
    """
    # scipy.stats.binomtest(...).proportion_ci(method="wilson") gives the same to 1e-15 (tested),
    # but needs 1 ms instead of 1 us, and calibration asks once per validation image.
    if count < 1:
        return 0.0, 1.0
    proportion, square = successes / count, quantile * quantile / count
    center = (proportion + square / 2) / (1 + square)
    radius = math.sqrt(square * (proportion * (1 - proportion) + square / 4)) / (1 + square)
    # exactly 0 and 1 at the ends, where rounding would leave 1e-17
    low = 0.0 if successes <= 0 else max(0.0, center - radius)
    high = 1.0 if successes >= count else min(1.0, center + radius)
    return low, high


# --- units


@dataclass(frozen=True)
class Units:
    """What is drawn independently: images, or groups of images.

    Attributes:
        of_image: (N,) int64, the unit of each image, from 0 to U - 1.
        count: U.
        grouped: Whether a unit has more than one image, in these images or those that they are of.
    """

    of_image: np.ndarray
    count: int
    grouped: bool = False

    @classmethod
    def of(cls, groups: Sequence[str | None]) -> Units:
        """Return the units of images by their groups; an image without one is its own.

        Args:
            groups: (N,) names, or None.
        """
        keys = [(index,) if group is None else group for index, group in enumerate(groups)]
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        of_image = np.array([numbers[key] for key in keys], dtype=np.int64)
        return cls(of_image, len(numbers), len(numbers) < len(keys))

    @classmethod
    def single(cls, count: int) -> Units:
        """Return the units of `count` independent images."""
        return cls(np.arange(count), count)

    @property
    def groups(self) -> int:
        """U where images are grouped, otherwise 0; as `Score.groups`."""
        return self.count if self.grouped else 0

    @property
    def freedom(self) -> float:
        """Degrees of freedom of a sum over images, if units are alike: U - 1 for equal sizes."""
        squares = np.bincount(self.of_image).astype(np.float64) ** 2
        return float(squares.sum() ** 2 / np.square(squares).sum()) - 1

    @property
    def too_few(self) -> NoInterval | None:
        """Why no interval can hold, if there are too few units."""
        if self.count >= MIN_UNITS:
            return None
        return NoInterval.FEW_GROUPS if self.grouped else NoInterval.FEW_IMAGES

    def subset(self, images: np.ndarray) -> Units:
        """Return the units of some images; `images` are indices or (N,) bool."""
        units, of_image = np.unique(self.of_image[images], return_inverse=True)
        return Units(of_image, len(units), self.grouped)

    def blocks(self, most: int = _BLOCKS) -> np.ndarray:
        """Return (N,) int64, the block of each image: its unit, or that of many units at random."""
        if self.count <= most:
            return self.of_image
        shuffled = np.random.default_rng(0).permutation(self.count)
        return np.asarray(shuffled[self.of_image] * most // self.count)

    def with_class(self, members: np.ndarray) -> np.ndarray:
        """Return (K,) the number of units with an image of each class; `members`: (N, K) bool."""
        if not self.grouped:
            return np.asarray(members.sum(0))
        pairs = [np.unique(self.of_image[column]).size for column in members.T]
        return np.array(pairs, dtype=np.int64)


# --- scales


@dataclass(frozen=True)
class Scale:
    """A monotone function g on which a number is more nearly normal, by its derivatives.

    Attributes:
        forward: g.
        backward: Its inverse.
        slope: g'.
        bend: g'' / g'.
        least: Lower end of its domain, where it is infinite.
        most: Upper end of its domain, likewise.
    """

    forward: Callable[[float], float]
    backward: Callable[[float], float]
    slope: Callable[[float], float]
    bend: Callable[[float], float]
    least: float
    most: float


def _odds_to_share(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value > -700 else 0.0


SHARE = Scale(
    lambda x: math.log(x / (1 - x)),
    _odds_to_share,
    lambda x: 1 / (x * (1 - x)),
    lambda x: (2 * x - 1) / (x * (1 - x)),
    least=0.0,
    most=1.0,
)
"""Log odds, of a number in [0, 1]."""

POSITIVE = Scale(
    math.log,
    lambda y: math.exp(min(y, 700.0)),
    lambda x: 1 / x,
    lambda x: -1 / x,
    least=0.0,
    most=math.inf,
)
"""Logarithm, of a number above 0."""

EXPLAINED = Scale(
    lambda x: -math.log(1 - x),
    lambda y: 1 - math.exp(min(-y, 700.0)),
    lambda x: 1 / (1 - x),
    lambda x: 1 / (1 - x),
    least=-math.inf,
    most=1.0,
)
"""Of a number up to 1, such as R2: the logarithm of what is missing."""

CORRELATION = Scale(
    math.atanh,
    math.tanh,
    lambda x: 1 / (1 - x * x),
    lambda x: 2 * x / (1 - x * x),
    least=-1.0,
    most=1.0,
)
"""Fisher's z, of a number in [-1, 1]."""

PLAIN = Scale(
    lambda x: x, lambda y: y, lambda x: 1.0, lambda x: 0.0, least=-math.inf, most=math.inf
)
"""The number itself: differences."""


# --- the jackknife


@dataclass(frozen=True)
class Quantity:
    """A number that is computed from images.

    Attributes:
        name: Of the metric.
        scale: On which it is nearly normal.
        members: (N, K) bool, the images that each of the classes rests on whose mean the number is;
            None where it is no mean over classes.
        wilson: Whether independent images get Wilson's interval for as many trials as the spread is
            worth, which is narrower for areas under curves near 1.
    """

    name: str
    scale: Scale = SHARE
    members: np.ndarray | None = None
    wilson: bool = False


@dataclass(frozen=True)
class Statistics:
    """Numbers that are computed together from any selection of images.

    Attributes:
        quantities: What they are.
        values: Function of (n,) int64 indices of images, perhaps repeated, that returns (M,)
            floats, nan where undefined.
    """

    quantities: tuple[Quantity, ...]
    values: Callable[[np.ndarray], np.ndarray]


def estimate(statistics: Statistics, units: Units, most_blocks: int = _BLOCKS) -> dict[str, Score]:
    """Return each defined number with its interval, by name.

    Args:
        statistics: The numbers.
        units: Of the images.
        most_blocks: How many times the numbers may be computed; less is quicker.
    """
    count = len(units.of_image)
    values = statistics.values(np.arange(count))
    left_out = None
    if units.too_few is None:
        left_out = leave_blocks_out(statistics.values, units.blocks(most_blocks))
    result = {}
    for index, (quantity, value) in enumerate(zip(statistics.quantities, values, strict=True)):
        if not math.isnan(value):
            column = None if left_out is None else left_out[:, index]
            ends = _ends(float(value), column, quantity, units)
            result[quantity.name] = with_interval(float(value), ends, units)
    return result


def leave_blocks_out(values: Callable[[np.ndarray], np.ndarray], blocks: np.ndarray) -> np.ndarray:
    """Return (B, M): the numbers without each of the blocks.

    Args:
        values: As of `Statistics`.
        blocks: (N,) int64, the block of each image; every block has an image.
    """
    everything = np.arange(len(blocks))
    return np.stack([values(everything[blocks != one]) for one in range(int(blocks.max()) + 1)])


def with_interval(value: float, ends: tuple[float, float] | NoInterval, units: Units) -> Score:
    """Return a score with its interval, or with the reason why it has none.

    The interval is widened to hold its value, from which it can differ by rounding.
    """
    count = len(units.of_image)
    if isinstance(ends, NoInterval):
        return Score(value, count=count, groups=units.groups, no_interval=ends)
    low, high = min(ends[0], value), max(ends[1], value)
    return Score(value, low, high, count, units.groups)


def _ends(
    value: float, left_out: np.ndarray | None, quantity: Quantity, units: Units
) -> tuple[float, float] | NoInterval:
    """`left_out`: (B,) the number without each block, or None for too few units."""
    if left_out is None:
        assert units.too_few is not None
        return units.too_few
    present = None
    if quantity.members is not None:
        present = units.with_class(quantity.members)
        if freedom_of_classes(present) < MIN_FREEDOM:
            return NoInterval.RARE_CLASS
    if np.isnan(left_out).any():
        return NoInterval.RARE_CLASS
    if np.ptp(left_out) <= _CONSTANT * max(1.0, abs(value)):
        if quantity.scale is SHARE and min(value, 1 - value) <= _CONSTANT:
            trials = units.count if present is None else effective_size(present)
            return wilson(round(value) * trials, trials)
        return NoInterval.CONSTANT
    if not quantity.scale.least < value < quantity.scale.most:  # by rounding: it varies next to it
        return NoInterval.CONSTANT
    freedom = units.freedom if present is None else min(units.freedom, freedom_of_classes(present))
    if quantity.wilson and not units.grouped:
        influence = left_out.mean() - left_out
        trials = value * (1 - value) / jackknife_variance(influence)
        quantile = t_quantile(min(degrees_of_freedom(influence), freedom))
        return wilson(value * trials, trials, quantile)
    return t_interval(value, left_out, quantity.scale, freedom)


def t_interval(
    value: float, left_out: np.ndarray, scale: Scale = PLAIN, most_freedom: float = math.inf
) -> tuple[float, float]:
    """Return the interval of Student's t with the jackknife's standard error, on a scale.

    Where the number is more skewed than the scale makes up for, the end on that side is moved
    outwards, as far as the first term of the expansion says (Johnson 1978, Hall 1992), at most by
    half.

    Args:
        value: The number on all images, inside the scale's domain.
        left_out: (B,) the number without each block, not all equal.
        scale: On which the interval is symmetric but for that.
        most_freedom: The most degrees of freedom.

    Returns:
        The lower and the upper end.
    """
    influence = left_out.mean() - left_out
    error = math.sqrt(jackknife_variance(influence))
    quantile = t_quantile(min(degrees_of_freedom(influence), most_freedom))
    skewness = float((influence**3).sum() / np.square(influence).sum() ** 1.5)
    square = quantile * quantile
    shift = skewness * (2 * square + 1) / 6 + scale.bend(value) * error * square / 2
    shift = min(max(shift, -quantile / 2), quantile / 2)
    center, unit = scale.forward(value), scale.slope(value) * error
    low = center + (min(shift, 0.0) - quantile) * unit
    return scale.backward(low), scale.backward(center + (max(shift, 0.0) + quantile) * unit)


def jackknife_variance(influence: np.ndarray) -> float:
    """Return the variance of a number; `influence`: (B,) by how much each block raises it."""
    count = len(influence)
    return float((count - 1) / count * np.square(influence).sum())


def t_quantile(freedom: float) -> float:
    """Return the 97.5 % quantile of Student's t; `freedom` is at least 1."""
    from scipy.special import stdtrit

    return _Z if math.isinf(freedom) else float(stdtrit(max(freedom, 1.0), 0.975))


def degrees_of_freedom(influence: np.ndarray) -> float:
    """Return how many degrees of freedom the variance of the sum of independent parts has.

    Their number less one, or 2 B / (kurtosis - 1), which matches the variance of the variance
    (Satterthwaite 1946): where a few parts carry the sum, their number counts.

    Args:
        influence: (B,) parts, B > 3, not all equal. The kurtosis is the unbiased one.
    """
    count, squares = len(influence), np.square(influence - influence.mean())
    kurtosis = float(np.square(squares).mean() / squares.mean() ** 2)
    adjusted = (count - 1) / ((count - 2) * (count - 3)) * ((count + 1) * (kurtosis - 3) + 6)
    return max(1.0, min(count - 1, 2 * count / max(adjusted + 2, 1e-9)))


def freedom_of_classes(present: np.ndarray) -> float:
    """Return the degrees of freedom of a mean over classes of about equal spread.

    Welch's formula, for the classes that are there. One unit counts as half a degree.

    Args:
        present: (K,) the number of units with each class.
    """
    parts = 1 / present[present > 0]
    return float(parts.sum() ** 2 / (parts**2 / (present[present > 0] - 0.5)).sum())


def effective_size(present: np.ndarray) -> float:
    """Return how many trials a mean over classes of equal proportions is worth.

    Args:
        present: (K,) the number of units with each class.
    """
    counts = present[present > 0]
    return float(len(counts) ** 2 / (1 / counts).sum())


# --- differences


def paired_mean_difference(
    scores: np.ndarray, baseline: np.ndarray, units: Units | None = None
) -> tuple[float, float, float]:
    """Return the mean of `scores` minus `baseline` and its 95 % interval, over units.

    Pairs are compared: what makes an image hard for both counts for neither.

    Args:
        scores: (N,) scores of images.
        baseline: (N,) scores of the same images in the same order.
        units: Of the images; None where they are independent.

    Returns:
        The mean, the lower and the upper end. The ends are infinite where there is only one unit,
        and equal to the mean where all differences are equal.

    Raises:
        ValueError: The shapes differ, or are not (N,) with N > 0.
    """
    if scores.shape != baseline.shape or scores.ndim != 1 or not len(scores):
        shapes = f"{scores.shape} and {baseline.shape}"
        raise ValueError(f"a paired comparison needs scores of the same images, got {shapes}")
    differences = scores.astype(np.float64) - baseline.astype(np.float64)
    units = units or Units.single(len(differences))
    mean = float(differences.mean())
    if units.count < 2:
        return mean, -math.inf, math.inf
    sums = np.bincount(units.of_image, differences)
    sizes = np.bincount(units.of_image)
    left_out = (differences.sum() - sums) / (len(differences) - sizes)
    return mean, *difference_interval(mean, left_out)


def difference_interval(value: float, left_out: np.ndarray) -> tuple[float, float]:
    """Return the interval of a difference; `left_out`: (B,) it without each block, B > 1."""
    if np.ptp(left_out) <= _CONSTANT * max(1.0, abs(value)):
        return value, value
    if len(left_out) > 3:
        return t_interval(value, left_out)
    error = math.sqrt((len(left_out) - 1) * float(left_out.var()))
    radius = t_quantile(len(left_out) - 1) * error
    return value - radius, value + radius


def unpaired_difference(first: Score, second: Score) -> Score:
    """Return `first` minus `second`, measured on different images, with its interval.

    Each end takes the distances of both scores to the ends of their own intervals that lie on its
    side (Newcombe 1998, Zou & Donner 2008).

    Args:
        first: A score.
        second: Another one; the returned score has its count.
    """
    value, count, groups = first.value - second.value, second.count, second.groups
    if first.low is None or first.high is None or second.low is None or second.high is None:
        reason = first.no_interval or second.no_interval
        return Score(value, count=count, groups=groups, no_interval=reason)
    below = math.hypot(first.value - first.low, second.high - second.value)
    above = math.hypot(first.high - first.value, second.value - second.low)
    return Score(value, value - below, value + above, count, groups)
