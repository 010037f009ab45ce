"""Boxes from `boxes` (B, A, 4), px of the square, and `scores` (B, A, K) of all anchors."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from foveate.deploy.postprocess import Frame, PredictOptions, SpatialPostProcessor, _boxes
from foveate.images.preprocessing import merge_box_tiles
from foveate.predictions import Boxes


class Detect(SpatialPostProcessor):
    """Selects boxes by score and non-maximum suppression, and maps them to the image."""

    numpy_module: ClassVar[ModuleType] = _boxes

    def postprocess(
        self, outputs: dict[str, np.ndarray], frames: Sequence[Frame], options: PredictOptions
    ) -> list[Boxes]:
        squares = zip(outputs["boxes"], outputs["scores"], frames, strict=True)
        return [self._select(*square, options.threshold) for square in squares]

    def _select(
        self, boxes: np.ndarray, scores: np.ndarray, frame: Frame, threshold: float
    ) -> Boxes:
        corners, values, classes = _boxes.select_boxes(boxes, scores, **self.metadata["boxes"])
        xyxy = _boxes.to_image_pixels(corners, frame.view, frame.size, self.side)
        names = tuple(self.classes[index] for index in classes.tolist())
        return Boxes(xyxy, names, values).select(values >= threshold)

    def merge_tiles(
        self, parts: Sequence[tuple[tuple[int, int], Any]], size: tuple[int, int]
    ) -> Boxes:
        return merge_box_tiles(parts, size, self.metadata["boxes"]["nms_iou"])
