"""What the outputs of an exported file mean: a file for each task that can leave the house. Needs no torch.

The arithmetic of a reader lies in a module of NumPy alone, which is laid beside the exported file: who does without Foveate
needs no more.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from foveate.evaluation.calibration import COVERAGE, RISK
from foveate.images.preprocessing import View
from foveate.registry import Registry

Run = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
"""Inputs by name -> outputs by name"""


@dataclass(frozen=True)
class Frame:
    """What was on a square: `view`, a rectangle of an upright picture, or of a window of it, of this `size`, (H, W)."""

    view: View
    size: tuple[int, int]


@dataclass(frozen=True)
class PredictOptions:
    """`coverage`, `risk`: as of a Predictor. `threshold`: score below which a box is none."""

    coverage: float = COVERAGE
    risk: float = RISK
    threshold: float = 0.0


class PostProcessor(ABC):
    """`about`: what the file says of itself; `parts`: the graphs beside the first one, by name. `arithmetic`: a module of NumPy
    alone that says how outputs become answers, where that is more than reading them."""

    arithmetic: ClassVar[ModuleType | None] = None

    def __init__(self, about: dict[str, Any], parts: Mapping[str, Run]) -> None:
        self.about, self.parts = about, parts
        self.classes, self.multilabel, self.side = (
            tuple(about["classes"]),
            bool(about["multilabel"]),
            int(about["size"]),
        )

    @abstractmethod
    def read(
        self, outputs: dict[str, np.ndarray], frames: Sequence[Frame], asked: PredictOptions
    ) -> list[Any]:
        """An answer for each of B squares; `outputs`: of the first graph, B first."""


class SpatialPostProcessor(PostProcessor):
    """Of a task whose answers lie somewhere in the picture: it may look through windows."""

    @abstractmethod
    def merge_tiles(self, parts: Sequence[tuple[tuple[int, int], Any]], size: tuple[int, int]) -> Any:
        """As of a PlaceTask."""


POSTPROCESSORS: Registry[PostProcessor] = Registry(
    "foveate.deploy.postprocess", PostProcessor, "task of an exported file", "readers"
)
