"""How far the coverage of conformal sets and intervals can be from what was requested."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foveate.messages import Message

SETS = Message("report.sets", "prediction sets")
INTERVALS = Message("report.intervals", "prediction intervals")

_TAIL = 0.025  # on each side of an interval of 95 %
_TOLERANCE = 1e-9  # 20 * 0.9 is 18, not a rounding error above it


def conformal_limit(scores: np.ndarray, units: int, coverage: float) -> float:
    """Return the limit that the score of another image stays within, with probability `coverage`.

    Of N independent images it is the ceil((N + 1) coverage)-th score (split conformal prediction,
    Lei et al. 2018). Of groups of images it is the same quantile as of so many single images, for
    all images of a group may have the same score.

    Args:
        scores: (N,) of the calibration images, ascending.
        units: Number of groups that they are of; N where they are independent.
        coverage: In (0, 1).

    Returns:
        Infinite where there are too few units for this coverage.
    """
    rank = _rank(units, coverage)
    if rank > units:
        return float("inf")
    return float(scores[-(-rank * len(scores) // units) - 1])


def _rank(units: int, coverage: float) -> int:
    return int(np.ceil((units + 1) * coverage - _TOLERANCE))


@dataclass(frozen=True)
class Promise:
    """The coverage that n calibration images can promise, for images like them.

    Over the draws of the calibration images it follows Beta(n + 1 - l, l), l = floor((n + 1) (1 -
    coverage)) (Vovk 2012).

    Attributes:
        coverage: As requested.
        units: n, images or groups of images.
        low: What it is above in 97.5 % of the draws.
        high: What it is below in 97.5 % of the draws.
    """

    coverage: float
    units: int
    low: float
    high: float

    @classmethod
    def of(cls, coverage: float, units: int) -> Promise | None:
        """Return the promise of `units` calibration images; None if they are too few for any."""
        from scipy.special import betaincinv

        rank = _rank(units, coverage)
        if rank > units:
            return None
        low, high = betaincinv(rank, units + 1 - rank, (_TAIL, 1 - _TAIL))
        return cls(coverage, units, float(low), float(high))

    def is_broken(self, covered: float, count: int) -> bool:
        """Whether so few sets that hold the target would be rare (2.5 %) if the promise were kept.

        Args:
            covered: Share of the sets that hold the target.
            count: Number of sets, of independent images or groups of images.
        """
        from scipy.special import betaln, gammaln

        rank = _rank(self.units, self.coverage)
        others = self.units + 1 - rank
        hits = np.arange(round(covered * count) + 1)
        chances = (  # logarithms of the beta-binomial distribution
            gammaln(count + 1)
            - gammaln(hits + 1)
            - gammaln(count - hits + 1)
            + betaln(hits + rank, count - hits + others)
            - betaln(rank, others)
        )
        return bool(np.exp(chances).sum() < _TAIL)


def describe_promise(kind: Message, coverage: float, units: int) -> Message:
    """Say what `units` independent images or groups can promise, or that they are too few.

    Args:
        kind: `SETS` or `INTERVALS`.
        coverage: As requested.
        units: Of the calibration.
    """
    promise = Promise.of(coverage, units)
    if promise is not None:
        return Message(
            "report.promise",
            "{kind} for {coverage} are calibrated on {count:image or group|images or groups}: they "
            "hold the truth for a share of {low} to {high} of images like these (95 % of such "
            "calibrations)",
            kind=kind,
            coverage=f"{coverage:g}",
            count=units,
            low=f"{promise.low:.3f}",
            high=f"{promise.high:.3f}",
        )
    return Message(
        "report.no_promise",
        "{kind} for {coverage} promise nothing: the calibration has too few images for that "
        "({count:image or group|images or groups})",
        kind=kind,
        coverage=f"{coverage:g}",
        count=units,
    )
