"""boxes (B, A, 4) on the square and scores (B, A, K) of all places -> objects."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from foveate.deploy.postprocess import Asked, Frame, PlaceReader, _boxes
from foveate.images.preprocessing import joined_boxes
from foveate.predictions import Boxes


class Detect(PlaceReader):
    arithmetic: ClassVar[ModuleType] = _boxes

    def read(
        self, outputs: dict[str, np.ndarray], frames: Sequence[Frame], asked: Asked
    ) -> list[Boxes]:
        parts = zip(outputs["boxes"], outputs["scores"], frames, strict=True)
        return [self._of(*part, asked.threshold) for part in parts]

    def _of(self, boxes: np.ndarray, scores: np.ndarray, frame: Frame, threshold: float) -> Boxes:
        places, values, classes = _boxes.objects_of(boxes, scores, **self.about["objects"])
        corners = _boxes.in_picture(places, frame.view, frame.size, self.side)
        found = Boxes(corners, tuple(self.classes[each] for each in classes.tolist()), values)
        return found.chosen(values >= threshold)

    def join(self, parts: Sequence[tuple[tuple[int, int], Any]], size: tuple[int, int]) -> Boxes:
        return joined_boxes(parts, size, self.about["objects"]["suppress"])
