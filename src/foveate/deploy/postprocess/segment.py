"""logits (B, K, S, S) -> the class of every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from foveate.deploy.postprocess import Frame, PredictOptions, SpatialPostProcessor, _regions
from foveate.images.preprocessing import merge_region_tiles
from foveate.predictions import Regions


class Segment(SpatialPostProcessor):
    arithmetic: ClassVar[ModuleType] = _regions

    def read(
        self, outputs: dict[str, np.ndarray], frames: Sequence[Frame], asked: PredictOptions
    ) -> list[Regions]:
        pairs = zip(outputs["logits"], frames, strict=True)
        return [
            Regions(_regions.mask_of(logits, frame.view[2], frame.size)).compressed()
            for logits, frame in pairs
        ]

    def merge_tiles(self, parts: Sequence[tuple[tuple[int, int], Any]], size: tuple[int, int]) -> Regions:
        return merge_region_tiles(parts, size)
