"""Postprocessing: from the outputs of an exported file to predictions. Imports no torch.

There is one module for each task that can be exported. Larger computations are in modules of their
own that need NumPy only; such a module is written beside the exported file, for programs without
Foveate.
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

RunGraph = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
"""Inputs by name -> outputs by name"""


@dataclass(frozen=True)
class Frame:
    """What a square shows.

    Attributes:
        view: The rectangle (x0, y0, x1, y1) of an upright image, or of a tile of it, px.
        size: (H, W) of that image or tile.
    """

    view: View
    size: tuple[int, int]


@dataclass(frozen=True)
class PredictOptions:
    """Settings of a prediction, as the attributes of an `ImagePredictor`."""

    coverage: float = COVERAGE
    risk: float = RISK
    threshold: float = 0.0


class PostProcessor(ABC):
    """Turns the outputs of an exported file into predictions.

    Args:
        metadata: The JSON text of the file.
        graphs: The networks of the files that belong to it, by name.

    Attributes:
        numpy_module: The module to write beside the file, if there is one.
    """

    numpy_module: ClassVar[ModuleType | None] = None

    def __init__(self, metadata: dict[str, Any], graphs: Mapping[str, RunGraph]) -> None:
        self.metadata, self.graphs = metadata, graphs
        self.classes = tuple(metadata["classes"])
        self.multilabel = bool(metadata["multilabel"])
        self.side = int(metadata["size"])

    @abstractmethod
    def postprocess(
        self, outputs: dict[str, np.ndarray], frames: Sequence[Frame], options: PredictOptions
    ) -> list[Any]:
        """Return the predictions for B squares.

        Args:
            outputs: Of the main file, by name, B first.
            frames: What each square shows.
            options: Coverage, risk and threshold.
        """


class SpatialPostProcessor(PostProcessor):
    """Postprocessing of a task whose predictions have positions in the image.

    Such a task may see an image in tiles.
    """

    @abstractmethod
    def merge_tiles(
        self, parts: Sequence[tuple[tuple[int, int], Any]], size: tuple[int, int]
    ) -> Any:
        """Merge the predictions for the tiles of an image.

        Args:
            parts: The upper left corner (x, y) of each tile, and its prediction.
            size: (H, W) of the image.
        """


POSTPROCESSORS: Registry[PostProcessor] = Registry(
    "foveate.deploy.postprocess", PostProcessor, "task of an exported file", "postprocessors"
)
