"""Prediction intervals for numbers, fitted on validation images, which training has not seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from foveate.evaluation.coverage import conformal_limit
from foveate.predictions import Number

KEY = "absolute_errors"
"""The entry of calibration.json."""


@dataclass(frozen=True)
class IntervalCalibration:
    """What validation images say about the predictions of numbers.

    Attributes:
        absolute_errors: (N,) ascending.
        units: Number of groups that the images are of; N where they are independent.
    """

    absolute_errors: np.ndarray
    units: int

    @classmethod
    def fit(
        cls, predicted: np.ndarray, targets: np.ndarray, units: int | None = None
    ) -> IntervalCalibration:
        """Fit the calibration to (N,) predicted and true numbers of validation images.

        `units`: the number of groups that they are of; None = N.
        """
        errors = np.sort(np.abs(predicted - targets))
        return cls(errors, len(errors) if units is None else units)

    def radius(self, coverage: float) -> float | None:
        """Return the distance from a prediction that holds the true number.

        It does so with the probability `coverage`, for images like the validation images.

        Args:
            coverage: In (0, 1).

        Returns:
            None where there are too few validation images for this coverage.
        """
        limit = conformal_limit(self.absolute_errors, self.units, coverage)
        return None if math.isinf(limit) else limit

    def annotate(
        self,
        predictions: Sequence[Number],
        features: np.ndarray,
        classes: tuple[str, ...],
        coverage: float,
        risk: float,
    ) -> list[Number]:
        """Return the predictions with intervals of the requested coverage.

        They all have the same width. The other arguments are those of `Calibration.annotate`.
        """
        radius = self.radius(coverage)
        if radius is None:
            return list(predictions)
        return [
            replace(each, low=each.value - radius, high=each.value + radius) for each in predictions
        ]

    def row(self) -> dict[str, Any]:
        """Return what calibration.json keeps, JSON-able."""
        return {KEY: self.absolute_errors.tolist(), "units": self.units}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> IntervalCalibration:
        """Read what `row` returned."""
        return cls(np.array(row[KEY], dtype=float), int(row["units"]))
