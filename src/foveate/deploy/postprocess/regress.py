"""Numbers from `numbers` (B, 1), in the unit of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from foveate.deploy.postprocess import Frame, PostProcessor, PredictOptions, RunGraph
from foveate.evaluation.conformal import IntervalCalibration
from foveate.predictions import Number


class Regress(PostProcessor):
    """Adds intervals to the numbers, if the run was calibrated."""

    def __init__(self, metadata: dict[str, Any], graphs: Mapping[str, RunGraph]) -> None:
        super().__init__(metadata, graphs)
        row = metadata.get("calibration")
        self.calibration = None if row is None else IntervalCalibration.from_row(row)

    def postprocess(
        self, outputs: dict[str, np.ndarray], frames: Sequence[Frame], options: PredictOptions
    ) -> list[Number]:
        numbers = [Number(float(value)) for value in outputs["numbers"][:, 0]]
        if self.calibration is None:
            return numbers
        coverage, risk = options.coverage, options.risk
        return self.calibration.annotate(numbers, outputs["numbers"], (), coverage, risk)
