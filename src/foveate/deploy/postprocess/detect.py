"""boxes (B, A, 4) on the square and scores (B, A, K) of all places -> objects."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from foveate.deploy.postprocess import Frame, PredictOptions, SpatialPostProcessor, _boxes
from foveate.images.preprocessing import merge_box_tiles
from foveate.predictions import Boxes


class Detect(SpatialPostProcessor):
    arithmetic: ClassVar[ModuleType] = _boxes

    def read(
        self, outputs: dict[str, np.ndarray], frames: Sequence[Frame], asked: PredictOptions
    ) -> list[Boxes]:
        parts = zip(outputs["boxes"], outputs["scores"], frames, strict=True)
        return [self._of(*part, asked.threshold) for part in parts]

    def _of(self, boxes: np.ndarray, scores: np.ndarray, frame: Frame, threshold: float) -> Boxes:
        places, values, classes = _boxes.objects_of(boxes, scores, **self.about["objects"])
        corners = _boxes.in_picture(places, frame.view, frame.size, self.side)
        found = Boxes(corners, tuple(self.classes[each] for each in classes.tolist()), values)
        return found.select(values >= threshold)

    def merge_tiles(self, parts: Sequence[tuple[tuple[int, int], Any]], size: tuple[int, int]) -> Boxes:
        return merge_box_tiles(parts, size, self.about["objects"]["suppress"])
