"""Labels from `scores` (B, K), probabilities before calibration, and `pooled` (B, D) features."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from foveate.deploy.postprocess import Frame, PostProcessor, PredictOptions, RunGraph
from foveate.evaluation.calibration import Calibration, FeatureSpace
from foveate.predictions import Labels

_MULTILABEL_THRESHOLD = 0.5


class Classify(PostProcessor):
    """Calibrates the scores, if the run was calibrated."""

    def __init__(self, metadata: dict[str, Any], graphs: Mapping[str, RunGraph]) -> None:
        super().__init__(metadata, graphs)
        row = metadata.get("calibration")
        self.calibration = (
            None
            if row is None
            else Calibration.from_row(row, decode_feature_space(row["feature_space"]))
        )

    def postprocess(
        self, outputs: dict[str, np.ndarray], frames: Sequence[Frame], options: PredictOptions
    ) -> list[Labels]:
        labels = [Labels(self._names(row), row.astype(np.float32)) for row in outputs["scores"]]
        if self.calibration is None:
            return labels
        return self.calibration.annotate(
            labels, outputs["pooled"], self.classes, options.coverage, options.risk
        )

    def _names(self, scores: np.ndarray) -> tuple[str, ...]:
        if not self.multilabel:
            return (self.classes[int(scores.argmax())],)
        above = scores >= _MULTILABEL_THRESHOLD
        return tuple(name for name, holds in zip(self.classes, above, strict=True) if holds)


def encode_feature_space(space: FeatureSpace) -> dict[str, str]:
    """Return its arrays as base64 text, in half precision, in which a run stores them too."""
    arrays = {"mean": space.mean, "directions": space.directions}
    return {
        name: base64.b64encode(array.astype(np.float16).tobytes()).decode()
        for name, array in arrays.items()
    }


def decode_feature_space(texts: dict[str, str]) -> FeatureSpace:
    """Return what `encode_feature_space` encoded."""
    mean, directions = (
        np.frombuffer(base64.b64decode(texts[name]), np.float16).astype(np.float32)
        for name in ("mean", "directions")
    )
    return FeatureSpace(mean, directions.reshape(-1, len(mean)))
