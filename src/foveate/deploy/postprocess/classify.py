"""scores (B, K), the chance of each class before calibration, and pooled (B, D) -> classes."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from foveate.deploy.postprocess import Frame, PostProcessor, PredictOptions, Run
from foveate.evaluation.calibration import Calibration, FeatureSpace
from foveate.predictions import Labels

_HOLDS = 0.5  # the score from which a class holds, where several may


class Classify(PostProcessor):
    def __init__(self, about: dict[str, Any], parts: Mapping[str, Run]) -> None:
        super().__init__(about, parts)
        known = about.get("calibration")
        self.calibration = (
            None if known is None else Calibration.from_row(known, _familiar(known["familiar"]))
        )

    def read(
        self, outputs: dict[str, np.ndarray], frames: Sequence[Frame], asked: PredictOptions
    ) -> list[Labels]:
        answers = [Labels(self._names(row), row.astype(np.float32)) for row in outputs["scores"]]
        if self.calibration is None:
            return answers
        return self.calibration.annotate(
            answers, outputs["pooled"], self.classes, asked.coverage, asked.risk
        )

    def _names(self, scores: np.ndarray) -> tuple[str, ...]:
        if self.multilabel:
            return tuple(
                name
                for name, score in zip(self.classes, scores.tolist(), strict=True)
                if score >= _HOLDS
            )
        return (self.classes[int(scores.argmax())],)


def packed(familiar: FeatureSpace) -> dict[str, str]:
    """Its arrays as text, in half precision, as a run keeps them."""
    arrays = {"middle": familiar.middle, "directions": familiar.directions}
    return {
        name: base64.b64encode(array.astype(np.float16).tobytes()).decode()
        for name, array in arrays.items()
    }


def _familiar(texts: dict[str, str]) -> FeatureSpace:
    middle, directions = (_unpacked(texts[name]) for name in ("middle", "directions"))
    return FeatureSpace(middle, directions.reshape(-1, len(middle)))


def _unpacked(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), np.float16).astype(np.float32)
