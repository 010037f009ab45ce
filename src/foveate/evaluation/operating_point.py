"""The threshold of a binary classifier for a stated sensitivity or specificity."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Goal = Literal["sensitivity", "specificity"]

_ROUNDING = 1e-9


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold: images with at least this probability count as positive.

    Attributes:
        threshold: In [0, 1].
        goal: What it was chosen for.
        value: The least sensitivity or specificity that was asked for.
        images: Number of images that it was chosen on.
    """

    threshold: float
    goal: Goal
    value: float
    images: int

    @classmethod
    def choose(
        cls,
        scores: np.ndarray,
        positive: np.ndarray,
        goal: Goal,
        value: float,
    ) -> OperatingPoint | None:
        """Return the threshold that reaches the goal and costs least of the other measure.

        It lies in the middle between two scores, so that rounding does not matter.

        Args:
            scores: (N,) probabilities of the positive class.
            positive: (N,) bool, the true classes.
            goal: What has to be reached.
            value: How much of it, in (0, 1].

        Returns:
            None if no image tells anything about the goal.
        """
        own = np.sort(scores[positive if goal == "sensitivity" else ~positive])
        if not len(own):
            return None
        needed = max(1, math.ceil(value * len(own) - _ROUNDING))
        if goal == "sensitivity":
            above = float(own[-needed])
            below = float(scores[scores < above].max(initial=0.0))
        else:
            below = float(own[needed - 1])
            above = float(scores[scores > below].min(initial=np.nextafter(1.0, 2.0)))
        return cls((below + above) / 2, goal, value, len(scores))

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> OperatingPoint:
        """Read what `dataclasses.asdict` returned."""
        return cls(**row)
