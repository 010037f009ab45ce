"""The class of every pixel from `logits` (B, K, S, S)."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from foveate.deploy.postprocess import Frame, PredictOptions, SpatialPostProcessor, _regions
from foveate.images.preprocessing import merge_region_tiles
from foveate.predictions import Regions


class Segment(SpatialPostProcessor):
    """Resizes the logits to the image, and takes the class with the highest one."""

    numpy_module: ClassVar[ModuleType] = _regions

    def postprocess(
        self, outputs: dict[str, np.ndarray], frames: Sequence[Frame], options: PredictOptions
    ) -> list[Regions]:
        return [
            Regions(_regions.class_mask(logits, frame.view[2], frame.size)).compressed()
            for logits, frame in zip(outputs["logits"], frames, strict=True)
        ]

    def merge_tiles(
        self, parts: Sequence[tuple[tuple[int, int], Any]], size: tuple[int, int]
    ) -> Regions:
        return merge_region_tiles(parts, size)
