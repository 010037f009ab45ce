"""logits (B, K, S, S) -> the class of every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from foveate.deploy.postprocess import Asked, Frame, PlaceReader, _regions
from foveate.images.preprocessing import joined_regions
from foveate.predictions import Regions


class Segment(PlaceReader):
    arithmetic: ClassVar[ModuleType] = _regions

    def read(
        self, outputs: dict[str, np.ndarray], frames: Sequence[Frame], asked: Asked
    ) -> list[Regions]:
        pairs = zip(outputs["logits"], frames, strict=True)
        return [
            Regions(_regions.mask_of(logits, frame.view[2], frame.size)).packed()
            for logits, frame in pairs
        ]

    def join(self, parts: Sequence[tuple[tuple[int, int], Any]], size: tuple[int, int]) -> Regions:
        return joined_regions(parts, size)
